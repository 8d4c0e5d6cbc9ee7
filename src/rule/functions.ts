import { randomBytes } from 'node:crypto'
import type { Json } from '../event/event.ts'
import { isList, isMapping, mapping, member } from './json.ts'
import { percentDecode } from './percent.ts'

/** A function of templates. Throws Error where its arguments make no sense; whoever calls it knows the expression. */
export interface TemplateFunction {
  readonly min: number
  readonly max: number
  /** For the reference. */
  readonly signature: string
  readonly means: string
  apply(args: readonly (Json | undefined)[]): Json | undefined
}

export const templateFunctions: ReadonlyMap<string, TemplateFunction> = new Map<string, TemplateFunction>([
  [
    'date',
    {
      min: 1,
      max: 2,
      signature: "date(x), date(x, 'iso'), date(x, 'timeuuid')",
      means:
        'a time (ISO text, or milliseconds since 1970) as `Tue, 20 Feb 1990 19:31:13 +0000`, as ISO text, or as a UUID of version 1',
      apply: ([value, format]) => formatTime(timeOf(value), format),
    },
  ],
  [
    'decode',
    {
      min: 1,
      max: 1,
      signature: 'decode(x)',
      means: 'percent-decodes a text',
      apply: ([value]) => (typeof value === 'string' ? percentDecode(value) : value),
    },
  ],
  [
    'default',
    {
      min: 2,
      max: 2,
      signature: 'default(a, b)',
      means: '`b` where `a` is absent, null, false, 0 or empty text',
      apply: ([value, fallback]) => value || fallback,
    },
  ],
  [
    'merge',
    {
      min: 2,
      max: 2,
      signature: 'merge(a, b)',
      means: 'a mapping with the keys of both; where both have one, that of `a`',
      apply: ([a, b]) =>
        isMapping(a) && isMapping(b) ? mapping([...Object.entries(b), ...Object.entries(a)]) : (a ?? b),
    },
  ],
  [
    'strip',
    {
      min: 2,
      max: 2,
      signature: "strip(x, 'key'), strip(x, ['a', 'b'])",
      means: 'a mapping without these keys',
      apply: ([value, keys]) => {
        if (!isMapping(value)) return value
        const unwanted = keysOf(keys)
        return mapping(Object.entries(value).filter(([key]) => !unwanted.includes(key)))
      },
    },
  ],
  [
    'filter',
    {
      min: 2,
      max: 2,
      signature: "filter(x, ['a', 'b'])",
      means: 'a mapping with only these keys',
      apply: ([value, keys]) =>
        isMapping(value)
          ? mapping(
              keysOf(keys).flatMap((key) => {
                const found = member(value, key)
                return found === undefined ? [] : [[key, found] as const]
              }),
            )
          : value,
    },
  ],
  [
    'timeuuid',
    {
      min: 0,
      max: 0,
      signature: 'timeuuid()',
      means: 'a new UUID of version 1; another one at each attempt',
      apply: () => timeUuid(Date.now()),
    },
  ],
])

function keysOf(keys: Json | undefined): readonly string[] {
  return (isList(keys) ? keys : [keys]).filter((key) => typeof key === 'string')
}

function timeOf(value: Json | undefined): Date {
  const isDigits = typeof value === 'string' && /^\d+$/.test(value)
  const time = new Date(typeof value === 'number' || isDigits ? Number(value) : String(value))
  if (value === undefined || value === null || Number.isNaN(time.getTime())) {
    throw new Error(`expected a time, found ${value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 60)}`)
  }
  return time
}

function formatTime(time: Date, format: Json | undefined): string {
  if (format === undefined) return time.toUTCString().replace('GMT', '+0000')
  if (format === 'iso') return time.toISOString()
  if (format === 'timeuuid') return timeUuid(time.getTime())
  throw new Error(`expected 'iso' or 'timeuuid' as format, found ${JSON.stringify(format)}`)
}

/** Between the start of UUID's calendar (1582) and that of Unix, in ms. */
const uuidEpochMs = 12_219_292_800_000n

function timeUuid(ms: number): string {
  const ticks = (BigInt(Math.trunc(ms)) + uuidEpochMs) * 10_000n
  const hex = (ticks & 0xfff_ffff_ffff_ffffn).toString(16).padStart(15, '0')
  const random = randomBytes(8)
  // The variant bits, and the bit that says the node is not a real network card.
  random.writeUInt8((random.readUInt8(0) & 0x3f) | 0x80, 0)
  random.writeUInt8(random.readUInt8(2) | 1, 2)
  const node = random.toString('hex')
  return `${hex.slice(7)}-${hex.slice(3, 7)}-1${hex.slice(0, 3)}-${node.slice(0, 4)}-${node.slice(4)}`
}
