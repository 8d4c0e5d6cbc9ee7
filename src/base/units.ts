const durationUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}
const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
}
const rateUnits: Readonly<Record<string, number>> = { s: 1, min: 60 }

/** The longest that anything may be made to wait, in ms. */
export const longestWaitMs = 366 * 86_400_000
/** Of one request, or of a stop; Node's own timers fire at once beyond 24 days. */
export const longestTimeoutMs = 86_400_000
const slowestPerSecond = 1_000 / longestWaitMs
const fastestPerSecond = 1_000_000

/** For JSON Schemas: what the functions below can read, apart from numbers beyond 2^53. */
export const durationPattern = '^\\d+(\\.\\d+)?(ms|s|m|h|d)$'
export const sizePattern = '^\\d+(\\.\\d+)?(KiB|MiB|GiB)?$'
export const ratePattern = '^\\d+(\\.\\d+)?/(s|min)$'

/** `500ms 2s 5m 1h 7d` in whole milliseconds, or undefined where the text is no duration. */
export function parseDuration(text: string): number | undefined {
  return whole(amount(/^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text), durationUnits))
}

/** `10MiB`, or a plain number of bytes, in whole bytes. */
export function parseSize(text: string): number | undefined {
  return whole(amount(/^(\d+(?:\.\d+)?)(KiB|MiB|GiB|)$/.exec(text), sizeUnits))
}

/** `50/s` or `600/min`, per second; may be a fraction. */
export function parseRate(text: string): number | undefined {
  const found = /^(\d+(?:\.\d+)?)\/(s|min)$/.exec(text)
  const seconds = rateUnits[found?.[2] ?? '']
  if (found === null || seconds === undefined) return undefined
  const perSecond = Number(found[1]) / seconds
  return Number.isFinite(perSecond) ? perSecond : undefined
}

/** What a rate that `ratePattern` lets pass should rather be, in words; undefined where it is one to go by. */
export function betterRate(text: string): string | undefined {
  const perSecond = parseRate(text)
  if (perSecond === undefined || perSecond > fastestPerSecond) return `at most ${formatRate(fastestPerSecond)}`
  if (perSecond === 0) return 'a rate above 0'
  return perSecond < slowestPerSecond ? `at least one call in ${formatDuration(longestWaitMs)}` : undefined
}

/** In the largest unit that loses nothing, so that `parseDuration` gives the same number back. */
export function formatDuration(ms: number): string {
  const [unit, length] = Object.entries(durationUnits).findLast(([, length]) => ms >= length && ms % length === 0) ?? [
    'ms',
    1,
  ]
  return `${ms / length}${unit}`
}

/** As `formatDuration`, for bytes. */
export function formatSize(bytes: number): string {
  const [unit, size] = Object.entries(sizeUnits).findLast(([, size]) => bytes >= size && bytes % size === 0) ?? ['', 1]
  return `${bytes / size}${unit}`
}

/** As `formatDuration`, for what may start per second. */
export function formatRate(perSecond: number): string {
  return Number.isInteger(perSecond) ? `${perSecond}/s` : `${Number((perSecond * 60).toPrecision(12))}/min`
}

function amount(found: RegExpExecArray | null, units: Readonly<Record<string, number>>): number {
  const unit = units[found?.[2] ?? 'none']
  return found === null || unit === undefined ? Number.NaN : Number(found[1]) * unit
}

function whole(value: number): number | undefined {
  const rounded = Math.round(value)
  return Number.isSafeInteger(rounded) ? rounded : undefined
}
