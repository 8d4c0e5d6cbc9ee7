import { expect, test } from 'vitest'
import { parseKey } from '../../src/store/kafka/row.ts'
import { fileOf } from '../../src/store/kafka/shard-protocol.ts'
import type { Standing } from '../../src/store/store.ts'
import { int, openDatabase, single } from '../../src/store/tables/database.ts'
import { keysIn, Log, type Member, start } from './kafka-log.ts'
import { anAttempt } from './world.ts'

const hourMs = 3_600_000

/** Events that are kept for the sake of the keys that were called by them. */
async function keptEvents(member: Member): Promise<number> {
  const tables = await openDatabase(fileOf(member.folder, 0))
  const count = int(single(tables, 'SELECT count(*) FROM starters'))
  tables.close()
  return count
}

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

test('by whose event a key was called is forgotten with it, however many there are, but never of so many at once that others wait for it', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const keys = keysIn(0, 6_000)
  const call = (text: string, offset: number) =>
    member.settle(member.route(offset), {
      attempts: [anAttempt()],
      standing: { key: { text, turn: 'newest', windowMs: 0 } },
    })
  await Promise.all(keys.map(call))
  await Promise.all(keys.slice(0, 1_000).map((text, index) => call(text, keys.length + index)))
  expect(await keptEvents(member)).toBe(7_000)

  for (const _ of [1, 2]) await member.work.forget()
  expect(await keptEvents(member)).toBe(6_000)

  log.clock.wind(10 * hourMs)
  for (const _ of [1, 2]) await member.work.forget()
  expect(await keptEvents(member)).toBe(1_000)
  await member.work.forget()
  expect(await keptEvents(member)).toBe(0)
}, 60_000)
