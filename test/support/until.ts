import { setTimeout as pause } from 'node:timers/promises'

/**
 * Asks again and again until the answer is anything but `undefined` or `false`, and gives it back. Fails after `limitMs` with the
 * reason of the last refusal, so that what never happens is told by name. An asker that throws ends it at once.
 */
export async function until<Value>(
  what: string,
  ask: () => Promise<Value | undefined | false> | Value | undefined | false,
  limitMs = 30_000,
): Promise<Value> {
  const end = Date.now() + limitMs
  for (;;) {
    const value = await ask()
    if (value !== undefined && value !== false) return value
    if (Date.now() > end) throw new Error(`did not happen within ${limitMs} ms: ${what}`)
    await pause(20)
  }
}
