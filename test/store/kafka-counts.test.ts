import { expect, test } from 'vitest'
import type { KafkaRecord } from '../../src/store/kafka/kafka-record.ts'
import type { Key, Settlement } from '../../src/store/store.ts'
import { deduplicated, isKeyFree, keyIn, Log, type Member, only, start } from './kafka-log.ts'
import { anAttempt } from './world.ts'

/*
 * How many wait, by what for, as the engine counts them: what is in its hands it has counted off, whatever comes of that in the
 * tables.
 */

const minute = 60_000
const slot = { state: 'waiting', reason: 'slot' } as const
const running = { state: 'running', reason: '' } as const

/** A call was made. */
function called(log: Log, key: Key, outcome: Partial<Settlement> = {}): Partial<Settlement> {
  const progress = { failures: 0, firstAttemptAt: log.clock.now(), finished: 1, refused: 0 }
  return { attempts: [anAttempt()], progress, standing: { key }, ...outcome }
}

/** Two of one key, of which the one that was handed over is in hand, and the other one runs from memory. */
async function aPair(key: Key, handedOver: 'older' | 'newer') {
  const log = new Log()
  const owner = await start(log, [1])
  const sender = await start(log, [0])
  const read = (offset: number) => owner.route(offset, { source: owner.source(1) })
  const before = log.clock.now()
  log.clock.wind(1)
  const inMemory = read(1)
  expect(await isKeyFree(owner, inMemory, key)).toBe(true)
  if (handedOver === 'newer') log.clock.wind(1)
  const accepted = handedOver === 'newer' ? log.clock.now() : before
  await sender.settle(sender.route(1, { accepted }), { ...slot, standing: { key } })
  await owner.quiet()
  const inHand = only(await owner.take()).record
  expect(owner.waiting).toEqual({})
  return { log, owner, sender, inMemory, inHand }
}

/** With a row, as what runs for long has one, or without. */
async function end(member: Member, record: KafkaRecord, key: Key, outcome: Partial<Settlement>, hasRow: boolean) {
  if (hasRow) await member.settle(record, { ...running, standing: { key } })
  return member.settle(record, { ...outcome, ...(hasRow ? { releasesCursor: false } : {}) })
}

const ways = [
  ['from memory', false],
  ['with a row', true],
] as const

test.each(ways)('what is covered while it is in hand, by a call %s, is not counted off twice', async (_how, hasRow) => {
  const key = deduplicated(keyIn(1))
  const { log, owner, inMemory, inHand } = await aPair(key, 'older')
  await end(owner, inMemory, key, called(log, key), hasRow)
  expect(owner.waiting).toEqual({})
  await owner.settle(inHand, called(log, key))
  expect(owner.waiting).toEqual({})
})

test.each(ways)(
  'what a window postpones while it is in hand, after a call %s, does not count',
  async (_how, hasRow) => {
    const key = deduplicated(keyIn(1), minute)
    const { log, owner, inMemory, inHand } = await aPair(key, 'newer')
    await end(owner, inMemory, key, called(log, key), hasRow)
    expect(owner.waiting).toEqual({})
    await owner.settle(inHand, called(log, key))
    expect(owner.waiting).toEqual({})
  },
)

test('what a retry postpones while it is in hand does not count', async () => {
  const key = deduplicated(keyIn(1))
  const { log, owner, inMemory, inHand } = await aPair(key, 'newer')
  const retry = { state: 'waiting', reason: 'retry', until: log.clock.now() + minute } as const
  await end(owner, inMemory, key, called(log, key, retry), true)
  expect(owner.waiting).toEqual({ retry: 1 })
  await owner.settle(inHand, called(log, key))
  expect(owner.waiting).toEqual({})
})

test('what was postponed while it was in hand, and is covered then, is not counted off', async () => {
  const key = deduplicated(keyIn(1), minute)
  const { log, owner, sender, inMemory, inHand } = await aPair(key, 'newer')
  await owner.settle(inMemory, called(log, key))
  log.clock.wind(1)
  await sender.settle(sender.route(2), { ...running, standing: { key } })
  await owner.quiet()
  const newest = owner.route(2, { source: owner.source(1) })
  await owner.settle(newest, called(log, key))
  await owner.settle(inHand, called(log, key))
  log.clock.wind(2 * minute)
  for (const { record } of await owner.take()) await owner.settle(record, called(log, key))
  expect(owner.waiting).toEqual({})
})

test('what runs here with a row is covered by what is called elsewhere under its key', async () => {
  const log = new Log()
  const key = deduplicated(keyIn(1))
  const before = await start(log, [0, 1])
  const older = { accepted: log.clock.now() }
  log.clock.wind(1)
  const newer = before.route(1)
  expect(await isKeyFree(before, newer, key)).toBe(true)
  before.work.assigned([0])
  const owner = await start(log, [1])
  const record = owner.route(1, { ...older, source: owner.source(1) })
  expect(await isKeyFree(owner, record, key)).toBe(true)
  await owner.settle(record, { ...running, standing: { key } })

  await before.settle(newer, called(log, key))
  await owner.quiet()
  expect(owner.broken).toEqual([])
  await owner.settle(record, called(log, key, { releasesCursor: false }))
  expect(owner.waiting).toEqual({})
  log.clock.wind(1)
  const next = owner.route(2, { source: owner.source(1) })
  expect(await isKeyFree(owner, next, key)).toBe(true)
})

test.each(ways)(
  'what is covered by a call %s, and settled at once, is as what is settled later',
  async (_how, hasRow) => {
    const key = deduplicated(keyIn(1))
    const { log, owner, inMemory, inHand } = await aPair(key, 'older')
    if (hasRow) await owner.settle(inMemory, { ...running, standing: { key } })
    const [, kept] = await Promise.all([
      owner.settle(inMemory, called(log, key, { releasesCursor: !hasRow })),
      owner.settle(inHand, called(log, key)),
    ])
    expect(kept?.amended).toEqual(hasRow ? { state: 'done', reason: 'duplicate' } : { state: 'elsewhere' })
    expect(owner.waiting).toEqual({})

    log.clock.wind(1)
    const again = owner.route(2, { source: owner.source(1), bytes: inMemory.bytes })
    expect(await isKeyFree(owner, again, key)).toBe(false)
    const next = owner.route(3, { source: owner.source(1) })
    expect(await isKeyFree(owner, next, key)).toBe(true)
  },
)
