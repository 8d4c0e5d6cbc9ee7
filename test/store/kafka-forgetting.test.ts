import { expect, test } from 'vitest'
import { parseKey } from '../../src/store/kafka/row.ts'
import type { Standing } from '../../src/store/store.ts'
import { keysIn, Log, start } from './kafka-log.ts'
import { anAttempt } from './world.ts'

const hourMs = 3_600_000

/** Keys of which the work topic says when they were called last. */
function rememberedKeys(log: Log): number {
  log.compact(0)
  return log.work(0).filter(({ key, value }) => value !== null && key !== null && parseKey(key)?.kind === 'start')
    .length
}

test('all that need not be remembered of keys is forgotten together, however many there are', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const keys = keysIn(0, 600)
  const standing = (text: string): Standing => ({ key: { text, turn: 'newest', windowMs: 0 } })
  const arrive = (text: string, offset: number) =>
    member.settle(member.route(offset), { state: 'waiting', reason: 'slot', standing: standing(text) })
  await Promise.all(keys.map(arrive))
  const called = { attempts: [anAttempt()], progress: { failures: 0, firstAttemptAt: 1, finished: 1, refused: 0 } }
  const taken = await member.take()
  await Promise.all(taken.map((one) => member.settle(one.record, { ...called, standing: one.standing })))
  expect(rememberedKeys(log)).toBe(keys.length)

  log.clock.wind(10 * hourMs)
  await member.work.forget()

  expect(rememberedKeys(log)).toBe(0)
})
