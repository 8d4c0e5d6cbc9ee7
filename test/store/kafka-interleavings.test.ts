import { describe, expect, test } from 'vitest'
import type { KafkaRecord } from '../../src/store/kafka/kafka-record.ts'
import { formatKey, ownerHeader } from '../../src/store/kafka/row.ts'
import type { Key, Settlement } from '../../src/store/store.ts'
import { until } from '../support/until.ts'
import {
  deduplicated,
  handedOver,
  isKeyFree,
  keyIn,
  keysIn,
  Log,
  Member,
  only,
  start,
  type Taken,
  toldIn,
  topics,
  waits,
} from './kafka-log.ts'
import { anAttempt, aSettlement, lane } from './world.ts'

/*
 * Writes that arrive late or in part, answers that come after what they answer was read, and partitions that move meanwhile:
 * what a broker and a kill bring about once in a long while.
 */

/** Without a key. */
const waitsAlone: Partial<Settlement> = { state: 'waiting', reason: 'slot' }

const claimed = { state: 'running', reason: '', claimed: true } as const
const exhausted = { state: 'dead', reason: 'exhausted', attempts: [anAttempt()] } as const
const ok = { attempts: [anAttempt()] }

/** The call that must not be repeated, and what came of it. */
async function call(member: Member, { record, standing }: Taken, outcome: Partial<Settlement>): Promise<void> {
  await member.settle(record, { ...claimed, standing })
  await member.settle(record, { ...outcome, standing })
}

test('what is taken up before its hand-over is acknowledged is settled once', async () => {
  const log = new Log()
  const owner = await start(log, [1])
  const sender = await start(log, [0])
  const record = sender.route(1, { rules: 2 })
  sender.writes = 'unacknowledged'
  void sender.settle(record, waits(keyIn(1)))
  await owner.quiet()
  await call(owner, only(await owner.take()), ok)

  sender.acknowledge()
  await sender.quiet()

  // The other rule has not settled it.
  expect({ kept: sender.kept, finished: sender.finished }).toEqual({ kept: [1], finished: [] })
})

test.each([0, 1, 2, 3])(
  'who waits for a key gets it, when a process dies with %i records written of what one came to',
  async (written) => {
    const log = new Log()
    const text = keyIn(1)
    const member = await start(log, [0, 1])
    for (const offset of [1, 2]) await member.settle(member.route(offset), waits(text))
    const first = only(await member.take())
    member.writes = 'held'
    void member.settle(first.record, { ...ok, standing: first.standing })
    await until('it is written', () => member.held.length > 0)

    for (const record of member.held.slice(0, written)) log.append(record)
    member.kill()

    const heir = await start(log, [1])
    expect(await heir.take()).toHaveLength(1)
  },
)

test('who waits for a key gets it after such a death, though rows were handed out while it was taken over', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  for (const offset of [1, 2]) await member.settle(member.route(offset), waits(keyIn(1)))
  await member.settle(member.route(3), waits(keysIn(1, 2)[1] ?? ''))
  const [first] = await member.take()
  if (first === undefined) throw new Error('nothing is due')
  member.writes = 'held'
  void member.settle(first.record, { ...ok, standing: first.standing })
  await until('it is written', () => member.held.length > 0)
  for (const record of member.held.slice(0, 1)) log.append(record)
  member.kill()

  const heir = new Member(log)
  const takeAll = () => heir.thread.ask('take', { lane, now: log.clock.now(), limit: 1_000 })
  const taken: ReturnType<typeof takeAll>[] = []
  heir.whenTold = () => taken.push(takeAll())
  heir.work.assigned([1])
  await heir.owned(1)
  taken.push(takeAll())

  const offsets = (await Promise.all(taken)).flatMap(({ rows }) => rows.map(({ event }) => event.origin[2]))
  expect(offsets.sort()).toEqual([2, 3])
})

test('who waits for a key after such a death is before who is handed over later', async () => {
  const log = new Log()
  const text = keyIn(1)
  const member = await start(log, [0, 1])
  const waiting = [1, 2].map((offset) => member.route(offset))
  for (const record of waiting) await member.settle(record, waits(text))
  const first = only(await member.take())
  member.writes = 'held'
  void member.settle(first.record, { ...ok, standing: first.standing })
  await until('it is written', () => member.held.length > 0)
  for (const record of member.held.slice(0, 1)) log.append(record)
  member.kill()
  const sender = await start(log, [0])
  await sender.settle(sender.route(3), waits(text))

  const heir = await start(log, [1])
  expect(only(await heir.take()).record.id).toBe(waiting[1]?.id)
})

test('of what was handed over within a millisecond nothing overtakes, when a process dies that has told of some of it', async () => {
  const log = new Log()
  const owner = await start(log, [1])
  const sender = await start(log, [0])
  const records = [1, 2].map((offset) => sender.route(offset))
  owner.writes = 'held'
  await Promise.all(records.map((record) => sender.settle(record, waits(keyIn(1)))))
  await until('it has told of something', () => owner.held.length > 0)
  for (const record of owner.held.slice(0, 1)) log.append(record)
  owner.kill()

  const heir = await start(log, [1])
  expect(only(await heir.take()).record.id).toBe(records[0]?.id)
})

test('what was handed over is there for the next owner, though one before tells too late that it has none', async () => {
  const log = new Log()
  const owner = await start(log, [1])
  const sender = await start(log, [0])
  owner.stalled.add(1)
  const record = sender.route(1)
  await sender.settle(record, waits(keyIn(1)))
  log.append({ ...handedOver(log, 1), value: null, headers: { [ownerHeader]: Buffer.from('who had it before') } })
  owner.unstall()
  await owner.quiet()
  expect(sender.finished).toEqual([1])
  owner.kill()

  const heir = await start(log, [1])
  expect((await heir.take()).map((taken) => taken.record.id)).toEqual([record.id])
})

test('what was handed over is there for the next owner, though its owner says too late that it has none', async () => {
  const log = new Log()
  const sender = await start(log, [0, 1])
  const record = sender.route(1)
  const owner = await start(log, [])
  await isKeyFree(sender, record, { text: keyIn(1), turn: 'oldest', windowMs: 0 })
  sender.stalled.add(1)
  owner.stalled.add(1)
  owner.work.assigned([1])
  await owner.quiet()
  const hear = async (count: number) => {
    owner.deliverUpTo(1, count)
    await owner.quiet()
  }
  await hear(log.work(1).length)
  await owner.owned(1)
  sender.writes = 'unacknowledged'
  void sender.settle(record, waits(keyIn(1)))
  await sender.quiet()
  sender.work.assigned([0])
  // The row that does not count, and what is handed over for its sake.
  owner.writes = 'held'
  await hear(1)
  await hear(1)
  owner.acknowledge()
  sender.acknowledge()
  expect(sender.finished).toEqual([1])
  owner.kill()

  const heir = await start(log, [1])
  expect((await heir.take()).map((taken) => taken.record.id)).toEqual([record.id])
})

test('an event is not finished before its row was read back, though its owner says meanwhile that there was none', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  const record = member.route(1)
  await isKeyFree(member, record, { text: keyIn(1), turn: 'oldest', windowMs: 0 })
  member.writes = 'held'
  const key = formatKey({ kind: 'delivery', id: record.id, rule: lane.rule })
  const late = { [ownerHeader]: Buffer.from('who had it before') }
  log.append({ topic: topics.work, partition: 1, key, value: null, headers: late })
  await until('it says that it has none', () => member.held.length > 0)
  void member.settle(record, waits(keyIn(1)))
  await until('it has a row', () => member.held.some(({ value }) => value !== null))

  for (const one of member.held.slice(0, 1)) log.append(one)
  await member.quiet()
  expect(member.finished).toEqual([])
})

test('what has ended is not called again by whoever takes over, when it is handed over once more', async () => {
  const log = new Log()
  const text = keyIn(1)
  const member = await start(log, [1])
  const sender = await start(log, [0])
  await sender.settle(sender.route(1), waits(text))
  await member.quiet()
  const again = handedOver(log, 1)
  await call(member, only(await member.take()), ok)
  log.append(again)
  await member.quiet()
  expect(await member.take()).toEqual([])
  member.kill()

  const heir = await start(log, [1])
  log.append(again)
  await heir.quiet()
  expect(await heir.take()).toEqual([])
})

test('a move that is repeated reopens no dead letter', async () => {
  const log = new Log()
  const [old, another] = [keyIn(0), keyIn(1)]
  const mover = await start(log, [0])
  await mover.settle(mover.route(1), waits(old))
  const owner = await start(log, [1])
  // After a reload it has another key. Its process dies between the hand-over and the removal.
  const moved = only(await mover.take())
  mover.writes = 'unacknowledged'
  void mover.settle(moved.record, waits(another))
  await owner.quiet()
  mover.kill()
  await call(owner, only(await owner.take()), exhausted)

  const heir = await start(log, [0])
  await heir.settle(only(await heir.take()).record, waits(another))
  await owner.quiet()

  expect(await owner.take()).toEqual([])
  expect(await owner.letters(1)).toHaveLength(1)
})

test('what has moved away comes back with another reload, though it was handed over twice before', async () => {
  const log = new Log()
  const [old, another] = [keyIn(1), keyIn(2)]
  const sender = await start(log, [0])
  const owner = await start(log, [1])
  const record = sender.route(1)
  await sender.settle(record, waits(old))
  await owner.quiet()
  log.append(handedOver(log, 1))
  await owner.quiet()
  await owner.settle(only(await owner.take()).record, waits(another))
  owner.kill()
  ;(await start(log, [1])).kill()
  const heir = await start(log, [1])

  const other = await start(log, [2])
  await other.settle(only(await other.take()).record, waits(old))
  await heir.quiet()
  expect((await heir.take()).map((taken) => taken.record.id)).toEqual([record.id])
})

test('a partition may be lost while the first thousand of what was handed over are taken up', async () => {
  const log = new Log()
  const sender = await start(log, [0])
  const handOver = (offset: number) => sender.settle(sender.route(offset), waits(keyIn(1)))
  await Promise.all(Array.from({ length: 1_500 }, (_, offset) => handOver(offset)))
  const member = await start(log, [])
  member.writes = 'unacknowledged'
  member.work.assigned([1])
  member.acknowledge()
  await until('the first thousand are taken up', () => member.unanswered > 0)

  member.work.assigned([])
  member.acknowledge()
  await member.quiet()

  expect(member.broken).toEqual([])
})

test('what is handed over once more, by who has lost its source and got it back, is settled as often', async () => {
  const member = await start(new Log(), [0, 1])
  const handOver = () => member.settle(member.route(1), waits(keyIn(1)))
  member.stalled.add(1)
  void handOver()
  await member.quiet()
  member.work.assigned([1])
  member.work.assigned([0, 1])
  await member.owned(0)
  const again = handOver()
  await member.quiet()

  member.unstall()
  await again
  member.work.assigned([])
  await member.quiet()

  expect(member.kept).toEqual([1, 1])
})

test('what was handed over again of a dead letter is not called, also after compaction', async () => {
  const log = new Log()
  const member = await start(log, [1])
  const sender = await start(log, [0])
  await sender.settle(sender.route(1), waits(keyIn(1)))
  await member.quiet()
  const again = handedOver(log, 1)
  await call(member, only(await member.take()), exhausted)
  member.kill()
  log.append(again)

  const heir = await start(log, [1])
  await heir.quiet()
  expect(await heir.take()).toEqual([])
  heir.kill()
  log.compact(1)
  const next = await start(log, [1])
  expect(await next.take()).toEqual([])
  expect(await next.letters(1)).toHaveLength(1)
})

/** One process owns the partition of a dead letter; another has read the letter, and may reopen or discard it. */
async function openWithLetter() {
  const log = new Log()
  const owner = await start(log, [0, 1])
  await owner.settle(owner.route(1), exhausted)
  const letter = only(await owner.letters(0))
  const other = await start(log, [2])
  return { log, owner, other, letter }
}

const reopened = { state: 'waiting', reason: 'due' } as const

test('a letter that another process replays is replayed once, though its broker got that twice', async () => {
  const { log, owner, other, letter } = await openWithLetter()
  await other.settle(letter, reopened)
  const again = handedOver(log, 0)
  await owner.quiet()
  await call(owner, only(await owner.take()), ok)

  log.append(again)
  await owner.quiet()

  expect(await owner.take()).toEqual([])
})

test('what must not be repeated is not, though of its end the work topic alone was told', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const record = member.route(1)
  await member.settle(record, claimed)
  member.writes = 'held'
  void member.settle(record, ok)
  await until('it is written', () => member.held.length > 0)
  log.append(only(member.held.filter(({ topic }) => topic === topics.work)))
  member.kill()

  const heir = await start(log, [0])
  const kept = await heir.settle(heir.route(1), claimed)

  expect(kept?.amended?.state).toBe('elsewhere')
})

test('a letter that another process has discarded is not reopened without its event', async () => {
  const { owner, other, letter } = await openWithLetter()
  const own = only(await owner.letters(0))
  await other.settle(letter, { reason: 'discarded' })
  await owner.quiet()

  const kept = await owner.settle(own, reopened)

  expect(kept?.amended?.state).toBe('elsewhere')
  expect(await owner.take()).toEqual([])
})

test('a delivery whose call ends while it is given a row leaves none', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const record = member.route(1)

  const kept = await Promise.all([member.settle(record, { state: 'running', reason: '' }), member.settle(record, ok)])
  member.kill()

  expect(kept).toEqual([undefined, undefined])
  expect(await (await start(log, [0])).take()).toEqual([])
})

test('what is handed over is told of, before and after somebody takes it up', async () => {
  const log = new Log()
  const sender = await start(log, [0])
  const records = keysIn(1, 300).map((text, index) => [sender.route(index), text] as const)
  await Promise.all(records.map(([record, text]) => sender.settle(record, waits(text))))
  expect(toldIn(log)).toBe(300)
  const written = log.read(topics.journal, 0).length
  expect(written).toBeLessThan(10)

  const owner = await start(log, [1])
  await owner.quiet()
  for (const { record, standing } of await owner.take()) await owner.settle(record, { ...ok, standing })
  expect(toldIn(log)).toBe(900)
})

test.each([
  ['for a minute, in its own partition', 60_000, 0, ['owner']],
  ['for a minute, in another that the process owns', 60_000, 1, ['owner']],
  ['for a day', 86_400_000, 1, ['owner', 'start']],
])(
  'what runs from memory under a key is remembered of it %s, and leaves no row',
  async (_how, windowMs, home, left) => {
    const log = new Log()
    const member = await start(log, [0, 1])
    const key = deduplicated(keyIn(home), windowMs)
    const record = member.route(1)
    expect(await isKeyFree(member, record, key)).toBe(true)
    const progress = { failures: 0, firstAttemptAt: log.clock.now(), finished: 1, refused: 0 }
    await member.settle(record, { ...ok, progress, standing: { key } })
    await member.quiet()
    log.clock.wind(1)
    const next = member.route(2)
    expect(await isKeyFree(member, next, key)).toBe(false)
    expect(await isKeyFree(member, next, { ...key, windowMs: 0 })).toBe(true)
    const kinds = log.work(home).map((written) => JSON.parse(String(written.key))[0])
    expect({ finished: member.finished, kinds }).toEqual({ finished: [1], kinds: left })
    member.kill()

    const heir = await start(log, [0, 1])
    expect(await isKeyFree(heir, heir.route(3), key)).toBe(false)
  },
)

test.each([
  ['waits', waits(''), false],
  ['runs', { state: 'running', reason: '' }, false],
  ['has ended', ok, true],
  ['is a dead letter', exhausted, true],
] as const)('whether a key is free when a row of it %s', async (_what, outcome, isFree) => {
  const member = await start(new Log(), [0, 1])
  const key = deduplicated(keyIn(1))
  await member.settle(member.route(1), { ...waits(''), standing: { key } })
  await member.settle(only(await member.take()).record, { ...outcome, standing: { key } })
  member.log.clock.wind(1)
  expect(await isKeyFree(member, member.route(2), key)).toBe(isFree)
})

test('a dead letter that is read again from its stream is not called, wherever its row is', async () => {
  const member = await start(new Log(), [0, 1])
  const key = deduplicated(keyIn(1))
  const accepted = member.log.clock.now()
  await member.settle(member.route(1, { accepted }), { ...exhausted, attempts: [], standing: { key } })
  await member.quiet()
  expect(await isKeyFree(member, member.route(1, { accepted }), key)).toBe(false)
})

test('a key is not free in a partition that is not there, or not yet', async () => {
  const member = await start(new Log(), [0])
  const record = member.route(1)
  expect(await isKeyFree(member, record, deduplicated(keyIn(1)))).toBe(false)
  member.stalled.add(1)
  member.work.assigned([0, 1])
  expect(await isKeyFree(member, record, deduplicated(keyIn(1)))).toBe(false)
})

test('what was handed over before its partition was there is not overtaken by what has the same key', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const [text = '', another = ''] = keysIn(1, 2)
  const records = [1, 2, 3].map((offset) => member.route(offset))
  const [first, second, third] = records as [KafkaRecord, KafkaRecord, KafkaRecord]
  member.stalled.add(1)
  member.work.assigned([0, 1])
  await member.quiet()
  member.deliverUpTo(1, 1)
  await member.owned(1)
  expect(await isKeyFree(member, first, { ...deduplicated(text), turn: 'oldest' })).toBe(false)
  await member.settle(first, waits(text))
  member.deliverUpTo(1, 1, topics.handed)
  expect(await isKeyFree(member, second, { ...deduplicated(text), turn: 'oldest' })).toBe(false)
  expect(await isKeyFree(member, third, { ...deduplicated(another), turn: 'oldest' })).toBe(true)
  await member.settle(second, waits(text))

  member.unstall()
  await member.quiet()

  expect((await member.take()).map(({ record }) => record.id)).toEqual([first.id])
})

test('what ran from memory when the partition of its key was lost is not called by whoever has it then', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  const record = member.route(1)
  const standing = { key: deduplicated(keyIn(1)) }
  await isKeyFree(member, record, standing.key)
  member.work.assigned([0])
  const heir = await start(log, [1])
  await member.settle(record, { ...ok, standing })
  await heir.quiet()

  expect({ finished: member.finished, taken: await heir.take() }).toEqual({ finished: [1], taken: [] })
})

test.each([
  ['waits', waits('')],
  ['runs', { state: 'running', reason: '' }],
  ['is claimed', claimed],
] as const)(
  'a row that %s when its partition is lost unread goes to whoever has it then',
  async (_what, settlement) => {
    const log = new Log()
    const member = await start(log, [0, 1])
    const record = member.route(1)
    const heir = await start(log, [])
    const standing = { key: deduplicated(keyIn(1)) }
    await isKeyFree(member, record, standing.key)
    member.writes = 'held'
    const settled = member.settle(record, { ...settlement, standing })
    await until('it is written', () => member.held.length > 0)
    heir.work.assigned([1])
    await heir.owned(1)
    member.work.assigned([0])
    member.writes = 'acknowledged'
    member.acknowledge()
    await settled
    await Promise.all([member.quiet(), heir.quiet()])

    const taken = (await heir.take()).map((one) => one.record.id)
    expect({ finished: member.finished, taken }).toEqual({ finished: [1], taken: [record.id] })
  },
)

test('a call frees its key, though its stream went to another process meanwhile', async () => {
  const member = await start(new Log(), [0, 1])
  const standing = { key: deduplicated(keyIn(1)) }
  const record = member.route(1)
  await isKeyFree(member, record, standing.key)
  await member.settle(record, { state: 'running', reason: '', standing })
  const own = member.source(1)
  member.work.assigned([1])
  await member.settle(record, { ...ok, standing, releasesCursor: false })

  member.log.clock.wind(1)
  expect(await isKeyFree(member, member.route(2, { source: own }), standing.key)).toBe(true)
})

test('what was settled is handed to the writer at an end, though that has not written what came before', async () => {
  const member = await start(new Log(), [0])
  member.writes = 'held'
  for (const offset of [1, 2, 3]) {
    void member.settle(member.route(offset), waitsAlone)
    await until('it is settled', () => member.unanswered >= Math.min(offset, 2))
  }

  await member.work.flushed()

  expect(member.held.filter(({ topic }) => topic === topics.work)).toHaveLength(3)
})

test('what another process handed over is not overtaken by what this one reads after it in the same source', async () => {
  const log = new Log()
  const member = await start(log, [1])
  const before = await start(log, [0])
  const text = keyIn(1)
  member.stalled.add(1)
  const first = before.route(1)
  await before.settle(first, waits(text))
  expect(before.finished).toEqual([1])
  before.kill()
  member.work.assigned([0, 1])
  await member.owned(0)

  const second = member.route(2)
  expect(await isKeyFree(member, second, { ...deduplicated(text), turn: 'oldest' })).toBe(false)
  void member.settle(second, waits(text))
  member.unstall()
  await member.quiet()

  expect((await member.take()).map(({ record }) => record.id)).toEqual([first.id])
})

test('what ended in memory is not called again, though who had its source before hands it over late', async () => {
  const log = new Log()
  const member = await start(log, [1])
  const before = await start(log, [0])
  const key: Key = { text: keyIn(1), turn: 'oldest', windowMs: 0 }
  const accepted = log.clock.now()
  before.writes = 'held'
  void before.settle(before.route(1, { accepted }), waits(key.text))
  await until('it is on its way', () => before.held.length > 0)
  member.work.assigned([0, 1])
  await member.owned(0)
  const record = member.route(1, { accepted })
  expect(await isKeyFree(member, record, key)).toBe(true)
  await member.settle(record, { ...ok, standing: { key } })

  before.acknowledge()
  await member.quiet()

  expect((await member.take()).map((taken) => taken.record.id)).toEqual([])
})

test('what ended when the partition of its key was just lost is remembered by whoever has it then', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  const key = deduplicated(keyIn(1), 60_000)
  const record = member.route(1)
  expect(await isKeyFree(member, record, key)).toBe(true)
  const progress = { failures: 0, firstAttemptAt: log.clock.now(), finished: 1, refused: 0 }
  const settled = member.settle(record, { ...ok, progress, standing: { key } })
  member.work.assigned([0])
  await settled

  const heir = await start(log, [1])
  log.clock.wind(1)
  expect({ finished: member.finished, told: toldIn(log) }).toEqual({ finished: [1], told: 1 })
  const next = heir.route(2, { source: heir.source(1) })
  expect(await isKeyFree(heir, next, { ...key, windowMs: 0 })).toBe(true)
  expect(await isKeyFree(heir, next, key)).toBe(false)
})

test('what ended is remembered by whoever has its key then, though the word of that came after that had read what there was', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  const key = deduplicated(keyIn(1), 60_000)
  const record = member.route(1)
  expect(await isKeyFree(member, record, key)).toBe(true)
  const progress = { failures: 0, firstAttemptAt: log.clock.now(), finished: 1, refused: 0 }
  member.writes = 'held'
  const settled = member.settle(record, { ...ok, progress, standing: { key } })
  await until('it is written', () => member.held.length > 0)
  member.work.assigned([0])
  const heir = await start(log, [1])
  member.writes = 'acknowledged'
  member.acknowledge()
  await settled
  await heir.quiet()

  log.clock.wind(1)
  expect({ finished: member.finished, kept: member.kept }).toEqual({ finished: [1], kept: [1] })
  const next = heir.route(2, { source: heir.source(1) })
  expect(await isKeyFree(heir, next, { ...key, windowMs: 0 })).toBe(true)
  expect(await isKeyFree(heir, next, key)).toBe(false)
})

test.each([
  ['here', 1],
  ['where the partition of its key was just lost', 2],
])('a key is handed out again, though who had it was covered by what ran from memory %s', async (_where, place) => {
  const log = new Log()
  const member = await start(log, [1])
  const sender = await start(log, [0])
  const standing = { key: deduplicated(keyIn(1)) }
  const older = sender.route(1)
  log.clock.wind(1)
  const other = place === 1 ? member : await start(log, [place])
  const record = other.route(1, { source: other.source(place) })
  await sender.settle(older, { ...waits(''), standing })
  await member.quiet()
  const taken = only(await member.take())
  if (place === 1) {
    await isKeyFree(member, record, standing.key)
  }
  await other.settle(record, { ...ok, standing })
  await member.quiet()
  expect((await member.settle(taken.record, { ...ok, standing }))?.amended).toEqual({ state: 'elsewhere' })

  log.clock.wind(1)
  const newer = sender.route(2)
  await sender.settle(newer, { ...waits(''), standing })
  await member.quiet()
  expect((await member.take()).map((one) => one.record.id)).toEqual([newer.id])
})

test('who came by another process is not handed out beside a call that runs from memory under its key', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  const sender = await start(log, [2])
  const standing = { key: deduplicated(keyIn(1)) }
  const running = member.route(1)
  expect(await isKeyFree(member, running, standing.key)).toBe(true)
  log.clock.wind(1)
  await sender.settle(sender.route(1, { source: sender.source(2) }), { ...waits(''), standing })
  await member.quiet()

  const came = only(await member.take())
  void member.settle(running, { state: 'running', reason: '', standing })
  await member.settle(came.record, { ...waits(''), standing })
  expect(await member.take()).toEqual([])

  await member.settle(running, { ...ok, standing, releasesCursor: false })
  expect((await member.take()).map(({ record }) => record.id)).toEqual([came.record.id])
})

test('what a kill cut off, and may not be repeated, covers what is older, also after another kill', async () => {
  const log = new Log()
  const standing = { key: deduplicated(keyIn(0)) }
  const member = await start(log, [0])
  const accepted = log.clock.now()
  log.clock.wind(1_000)
  await member.settle(member.route(2), { ...claimed, standing })
  member.kill()
  ;(await start(log, [0])).kill()

  const heir = await start(log, [0])
  const kept = await heir.settle(heir.route(1, { accepted }), { ...waits(''), standing })

  expect(kept?.amended).toEqual({ state: 'done', reason: 'duplicate' })
})

test('that a partition is lost is known before what was settled there comes back, and may start others', async () => {
  const member = await start(new Log(), [0, 1])
  const keptThen: (readonly number[])[] = []
  member.whenLost = () => keptThen.push([...member.kept])
  member.writes = 'held'
  void member.settle(member.route(1), waits(keyIn(0)))

  member.work.assigned([1])

  expect(keptThen).toEqual([[0]])
  expect(member.kept).toEqual([1])
})

test('that several partitions are lost is known before what was settled in one of them comes back', async () => {
  const member = await start(new Log(), [0, 1, 2])
  const another = member.route(1, { source: member.source(2) })
  const areLost: boolean[] = []
  const settlement = aSettlement(member.route(1), { ...waits(keyIn(0)), releasesCursor: true })
  member.work.settle(settlement, () => areLost.push(another.owned.isLost))

  member.work.assigned([1])

  expect(areLost).toEqual([true])
})

describe('when the partition of a key is lost, and rows there came too late', () => {
  async function losing() {
    const log = new Log()
    const member = await start(log, [0, 1])
    const key: Key = { text: keyIn(1), turn: 'oldest', windowMs: 0 }
    const [first, second] = [member.route(1), member.route(2)]
    await isKeyFree(member, first, key)
    member.stalled.add(1)
    const heir = await start(log, [1])
    const lose = async () => {
      member.unstall()
      await member.quiet()
      await heir.quiet()
      return (await heir.take()).map(({ record }) => record.id)
    }
    return { member, key, first, second, lose }
  }

  test('what queued in memory comes there behind what was before it', async () => {
    const { member, key, first, second, lose } = await losing()
    await member.settle(first, waits(key.text))
    member.whenLost = () => void member.settle(second, waits(key.text))
    expect(await lose()).toEqual([first.id])
  })

  test('what has ended is not called again', async () => {
    const { member, key, first, second, lose } = await losing()
    await member.settle(first, { state: 'running', reason: '', standing: { key } })
    await member.settle(second, waits(key.text))
    await member.settle(first, { ...ok, standing: { key }, releasesCursor: false })
    expect(await lose()).toEqual([second.id])
    expect(member.finished).toEqual([1, 2])
  })
})

test('what comes in the millisecond of one that was covered while it was handed out is handed out once', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  const sender = await start(log, [2])
  const [text = '', another = ''] = keysIn(1, 2)
  const standing = { key: deduplicated(text) }
  const older = { accepted: log.clock.now(), source: sender.source(2) }
  log.clock.wind(1)
  const newer = member.route(1)
  expect(await isKeyFree(member, newer, standing.key)).toBe(true)
  await sender.settle(sender.route(1, older), { ...waits(''), standing })
  await member.quiet()
  const covered = only(await member.take())
  await member.settle(newer, { ...ok, standing })

  const next = sender.route(2, older)
  await sender.settle(next, { ...waits(''), standing: { key: deduplicated(another) } })
  await member.quiet()
  expect((await member.take()).map(({ record }) => record.id)).toEqual([next.id])
  await member.settle(covered.record, { ...ok, standing })
  expect(await member.take()).toEqual([])
})

describe('what ran when its partition went to another process', () => {
  async function runs(member: Member): Promise<number> {
    const { record, standing, uncleanStops } = only(await member.take())
    await member.settle(record, { state: 'running', reason: '', standing })
    return uncleanStops
  }

  /** How often its owner died while it ran: as the next owner has it, and the one after that, since the next dies. */
  async function stops(
    leave: (member: Member) => unknown,
    hear: (member: Member) => unknown = () => undefined,
  ): Promise<readonly number[]> {
    const log = new Log()
    const member = await start(log, [0, 1])
    await member.settle(member.route(1), waits(keyIn(1)))
    await member.quiet()
    await runs(member)
    await leave(member)
    const heir = await start(log, [1])
    await hear(member)
    await heir.quiet()
    const uncleanStops = await runs(heir)
    heir.kill()
    const last = await start(log, [1])
    return [uncleanStops, only(await last.take()).uncleanStops]
  }

  test('is suspected where that has died', async () => {
    expect(await stops((member) => member.kill())).toEqual([1, 2])
  })

  test('is not suspected where that lives, and was told before the other claimed it', async () => {
    const lose = async (member: Member) => {
      member.work.assigned([0])
      await member.quiet()
    }
    expect(await stops(lose)).toEqual([0, 1])
  })

  test('is not suspected where that lives, though another had it in between, too short to begin anything', async () => {
    const lose = async (member: Member) => {
      member.work.assigned([0])
      await member.quiet()
      const between = new Member(member.log)
      between.work.assigned([1])
      between.work.assigned([])
    }
    expect(await stops(lose)).toEqual([0, 1])
  })

  test('is suspected, and not what comes in its place when it was covered', async () => {
    const log = new Log()
    const member = await start(log, [1])
    const sender = await start(log, [2])
    const [text = '', another = ''] = keysIn(1, 2)
    const early = { accepted: log.clock.now(), source: sender.source(2) }
    await sender.settle(sender.route(1, early), { ...waits(''), standing: { key: deduplicated(text) } })
    await member.quiet()
    await runs(member)
    member.kill()
    const heir = await start(log, [1])
    log.clock.wind(1)
    const newer = heir.route(1, { source: heir.source(1) })
    await heir.settle(newer, { ...ok, standing: { key: deduplicated(text) } })

    const next = sender.route(2, early)
    await sender.settle(next, { ...waits(''), standing: { key: deduplicated(another) } })
    await heir.quiet()
    const taken = only(await heir.take())
    expect(taken).toMatchObject({ record: { id: next.id }, uncleanStops: 0 })
  })

  test('is suspected no more where that lives, and hears of it late', async () => {
    const stall = (member: Member) => member.stalled.add(1)
    const hear = async (member: Member) => {
      member.unstall()
      await member.quiet()
    }
    expect(await stops(stall, hear)).toEqual([0, 1])
  })
})

test('what came of a claim for others of its key is told when that was read back', async () => {
  const log = new Log()
  const owner = await start(log, [0])
  const standing = { key: deduplicated(keyIn(0)) }
  await owner.settle(owner.route(1), { ...waitsAlone, standing })
  const kept = await owner.settle(owner.route(2), { ...claimed, ...ok, standing })
  expect(kept?.moved).toEqual([{ from: 'slot', to: 'duplicate', count: 1 }])
})

test('what came of a claim for others of its key is told though the partition was lost before that was read back', async () => {
  const log = new Log()
  const owner = await start(log, [0])
  const standing = { key: deduplicated(keyIn(0)) }
  await owner.settle(owner.route(1), { ...waitsAlone, standing })
  owner.stalled.add(0)
  const kept = owner.settle(owner.route(2), { ...claimed, ...ok, standing })
  await owner.work.flushed()
  await until('it is written', () => log.work(0).some(({ headers }) => headers.write !== undefined))
  owner.work.assigned([])
  expect(await kept).toMatchObject({
    amended: { state: 'elsewhere' },
    moved: [{ from: 'slot', to: 'duplicate', count: 1 }],
  })
})
