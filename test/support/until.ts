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

/** Asks again and again until the answer is as wanted, and gives it back. */
export async function becomes<Value>(
  ask: () => Promise<Value> | Value,
  wanted: (value: Value) => boolean,
): Promise<Value> {
  let last: Value | undefined
  const { value } = await until('the answer is as wanted', async () => {
    last = await ask()
    return wanted(last) && { value: last }
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}; the last answer was ${JSON.stringify(last)}`)
  })
  return value
}
