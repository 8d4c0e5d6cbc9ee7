/** The three forms of a date in HTTP. Date.parse alone would find a date in almost any text. */
const httpDate = /^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? .*\d\d:\d\d:\d\d.*$/i

/** How long `Retry-After` asks to wait from `now`, in ms; 0 where its date is past; undefined where it is absent or unreadable. */
export function retryAfterMs(headers: Readonly<Record<string, string>>, now: number): number | undefined {
  const value = headers['retry-after']?.trim()
  if (value === undefined) return undefined
  // Two headers of this name come joined by a comma; the first one holds.
  const seconds = /^(\d+)(?:\s*,|$)/.exec(value)?.[1]
  if (seconds !== undefined) return Number(seconds) * 1000
  if (!httpDate.test(value)) return undefined
  const date = Date.parse(value.endsWith('GMT') ? value : `${value} GMT`)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}
