import { expect, test } from 'vitest'
import { formatHandedEvent } from '../../src/store/kafka/handed.ts'
import type { KafkaRecord } from '../../src/store/kafka/kafka-record.ts'
import { partitionOf } from '../../src/store/kafka/partition.ts'
import { formatKey, isMark } from '../../src/store/kafka/row.ts'
import type { Key, Settlement } from '../../src/store/store.ts'
import {
  deduplicated,
  handedOver,
  isKeyFree,
  keyIn,
  keysIn,
  Log,
  Member,
  only,
  partitions,
  start,
  type Taken,
  toldIn,
  topics,
} from './kafka-log.ts'
import { anAttempt, lane } from './world.ts'

/*
 * What another process has handed over: events of which nothing has come yet, which are routed as those are that are read
 * from their streams, and rows.
 */

const slot = { state: 'waiting', reason: 'slot' } as const
const minute = 60_000
const ordered = (text: string): Key => ({ text, turn: 'oldest', windowMs: 0 })

interface World {
  readonly log: Log
  /** Has partition 1 of the work. */
  readonly owner: Member
  /** Has partition 0, and hands over. */
  readonly sender: Member
}

async function aWorld(): Promise<World> {
  const log = new Log()
  return { log, owner: await start(log, [1]), sender: await start(log, [0]) }
}

/** Resolves with its id when the owner has taken it up. */
async function handOver({ log, owner, sender }: World, offset: number, key: Key): Promise<string> {
  log.clock.wind(1)
  const record = sender.route(offset)
  await sender.settle(record, { ...slot, standing: { key } })
  await owner.quiet()
  return record.id
}

/** A call was made, as far as that tells. */
function called({ log }: World, { standing }: Taken, outcome: Partial<Settlement> = {}): Partial<Settlement> {
  const progress = { failures: 0, firstAttemptAt: log.clock.now(), finished: 1, refused: 0 }
  return { attempts: [anAttempt()], progress, standing, ...outcome }
}

const idsOf = (taken: readonly Taken[]) => taken.map(({ record }) => record.id)

/** It calls what is handed over from memory, where its key is free; `calls`: by id, what ends each. */
function callsFromMemory(owner: Member): Map<string, () => Promise<unknown>> {
  const calls = new Map<string, () => Promise<unknown>>()
  const { whenHanded } = owner
  owner.whenHanded = (record) => {
    const { standing } = record
    const key = standing?.key
    if (key === undefined || !owner.work.isKeyFree(record, lane.rule, key)) {
      whenHanded(record)
      return
    }
    owner.work.routed(record, 1)
    const progress = { failures: 0, firstAttemptAt: 1, finished: 1, refused: 0 }
    calls.set(record.id, () => owner.settle(record, { attempts: [anAttempt()], progress, standing }))
  }
  return calls
}

/** By which the thread knows the rule is asked once. */
async function aWorldInMemory() {
  const world = await aWorld()
  await isKeyFree(world.owner, world.owner.route(0, { source: world.owner.source(1) }), ordered(''))
  return { ...world, calls: callsFromMemory(world.owner) }
}

test.each([
  ['dedup', deduplicated(keyIn(1), minute)],
  ['order', ordered(keyIn(1))],
])('what finds its key free is called from memory, and leaves no row (%s)', async (_policy, key) => {
  const world = await aWorldInMemory()
  const { log, owner, calls } = world
  const id = await handOver(world, 1, key)
  await calls.get(id)?.()
  await owner.quiet()

  expect(log.work(1).map((record) => JSON.parse(String(record.key))[0])).toEqual(['owner'])
  expect({ told: toldIn(log), position: log.positions.get(1)?.offset }).toEqual({
    told: 2,
    position: log.handed(1).length,
  })
  owner.kill()
  const heir = await start(log, [1])
  expect(await heir.take()).toEqual([])
  if (key.turn === 'newest') expect(await isKeyFree(heir, heir.route(2, { source: heir.source(1) }), key)).toBe(false)
})

test('what runs from memory when its owner dies is called by the next one', async () => {
  const world = await aWorldInMemory()
  const { log, owner, calls } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  expect([...calls.keys()]).toEqual([id])
  owner.kill()
  expect(idsOf(await (await start(log, [1])).take())).toEqual([id])
})

test.each([
  ['runs from memory', false],
  ['has ended', true],
])('what is handed over again while it %s is not called again', async (_what, hasEnded) => {
  const world = await aWorldInMemory()
  const { log, owner, calls } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  const end = calls.get(id)
  calls.clear()
  if (hasEnded) await end?.()
  log.append(handedOver(log, 1))
  await owner.quiet()
  if (!hasEnded) await end?.()
  await owner.quiet()
  expect({ calls: [...calls], rows: await owner.take() }).toEqual({ calls: [], rows: [] })
  expect(log.positions.get(1)?.offset).toBe(log.handed(1).length)
})

test('what was given out by a reader that was left is given out by the next', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const given: KafkaRecord[] = []
  owner.whenHanded = (record) => void given.push(record)
  await handOver(world, 1, ordered(keyIn(1)))
  log.readers.delete(1)
  owner.readHanded()
  await owner.quiet()
  expect(given.map(({ id }) => id)).toEqual([given[0]?.id, given[0]?.id])
})

test('what comes behind one that has failed elsewhere waits for it', async () => {
  const world = await aWorldInMemory()
  const { log, owner, sender, calls } = world
  const standing = { key: ordered(keyIn(1)) }
  owner.stalled.add(1)
  const progress = { failures: 1, firstAttemptAt: 1, finished: 0, refused: 0 }
  const failed = { attempts: [anAttempt()], progress, state: 'waiting', reason: 'retry' } as const
  const first = sender.route(1)
  await sender.settle(first, { ...failed, until: log.clock.now() + 1_000, standing })
  log.clock.wind(1)
  const second = sender.route(2)
  await sender.settle(second, { ...slot, standing })
  owner.unstall()
  await owner.quiet()
  expect({ calls: [...calls.keys()], rows: await owner.take() }).toEqual({ calls: [], rows: [] })
  log.clock.wind(1_000)
  expect(only(await owner.take()).record.id).toBe(first.id)
})

test('what is at home elsewhere, by the rules of who takes it up, goes there as a row', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  const there = { key: ordered(keyIn(0)) }
  owner.whenHanded = (record) => {
    owner.work.routed(record, 1)
    void owner.settle(record, { ...slot, standing: there })
  }
  const id = await handOver(world, 1, ordered(keyIn(1)))
  await sender.quiet()
  expect(only(log.handed(0).filter((message) => !isMark(message))).key).toEqual(
    formatKey({ kind: 'delivery', id, rule: lane.rule }),
  )
  expect(idsOf(await sender.take())).toEqual([id])
})

test('what is set aside goes as a row, so that it stays aside', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  const parked = { state: 'waiting', reason: 'parked', until: Number.POSITIVE_INFINITY } as const
  await sender.settle(sender.route(1), { ...parked, standing: { key: ordered(keyIn(1)) } })
  await owner.quiet()
  expect(handedOver(log, 1).key).not.toBeNull()
  expect(owner.waiting).toEqual({ parked: 1 })
})

test('what is no record of ours among what was handed over is passed over', async () => {
  const world = await aWorld()
  const { log, owner } = world
  for (const value of [null, Buffer.from('no'), Buffer.from('\u0004\0\0\0null')])
    for (const key of [null, Buffer.from('no')]) log.append({ topic: topics.handed, partition: 1, key, value })
  const id = await handOver(world, 1, ordered(keyIn(1)))
  expect(idsOf(await owner.take())).toEqual([id])
  expect(owner.broken).toEqual([])
})

test.each([
  ['by another process', false],
  ['by this one', true],
])('who comes meanwhile under its key, %s, waits for it', async (_how, isOwn) => {
  const world = await aWorld()
  const { log, owner } = world
  const key = ordered(keyIn(1))
  await handOver(world, 1, key)
  const first = only(await owner.take())
  log.clock.wind(1)
  const own = owner.route(1, { source: owner.source(1) })
  const second = isOwn ? own.id : await handOver(world, 2, key)
  if (isOwn) await owner.settle(own, { ...slot, standing: { key } })

  expect(await owner.take()).toEqual([])
  await owner.settle(first.record, called(world, first))
  expect(idsOf(await owner.take())).toEqual([second])
})

test('of two under one key the newer is called, and covers the older, though that was handed out', async () => {
  const world = await aWorld()
  const { owner } = world
  const key = deduplicated(keyIn(1))
  await handOver(world, 1, key)
  const first = only(await owner.take())
  const second = await handOver(world, 2, key)
  await owner.settle(first.record, { ...slot, standing: { key } })
  const newer = only(await owner.take())
  expect(newer.record.id).toBe(second)
  const consequences = await owner.settle(newer.record, called(world, newer))
  expect(consequences?.moved).toEqual([{ from: 'slot', to: 'duplicate', count: 1 }])
})

test('who comes under a key is not called beside one that was covered while it was handed out', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const key = deduplicated(keyIn(1))
  await handOver(world, 1, key)
  const first = only(await owner.take())
  log.clock.wind(1)
  await owner.settle(owner.route(1, { source: owner.source(1) }), called(world, { ...first, standing: { key } }))
  const last = await handOver(world, 2, key)
  expect(await owner.take()).toEqual([])

  await owner.settle(first.record, called(world, first))
  expect(idsOf(await owner.take())).toEqual([last])
  expect(owner.waiting).toEqual({})
})

test('what fails is called again, by whoever has it then', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const key = ordered(keyIn(1))
  const id = await handOver(world, 1, key)
  const taken = only(await owner.take())
  const retry = { state: 'waiting', reason: 'retry', until: log.clock.now() + 1_000 } as const
  const progress = { failures: 1, firstAttemptAt: log.clock.now(), finished: 0, refused: 0 }
  await owner.settle(taken.record, called(world, taken, { ...retry, progress }))
  expect(await owner.take()).toEqual([])
  owner.kill()

  const heir = await start(log, [1])
  log.clock.wind(1_000)
  const again = only(await heir.take())
  expect({ id: again.record.id, progress: again.progress }).toEqual({ id, progress })
})

test.each([
  ['waits', false],
  ['is called', true],
])('what %s when its owner dies is called by the next one', async (_what, isOut) => {
  const world = await aWorld()
  const { log, owner } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  if (isOut) await owner.take()
  owner.kill()
  expect(idsOf(await (await start(log, [1])).take())).toEqual([id])
})

test('what was claimed when its owner died is not called again', async () => {
  const world = await aWorld()
  const { log, owner } = world
  await handOver(world, 1, ordered(keyIn(1)))
  const { record, standing } = only(await owner.take())
  await owner.settle(record, { state: 'running', reason: '', claimed: true, standing })
  owner.kill()
  const heir = await start(log, [1])
  expect(await heir.take()).toEqual([])
  expect((await heir.letters(1)).map(({ id }) => id)).toEqual([record.id])
})

test('what is handed over twice is called once', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  const arrival = handedOver(log, 1)
  for (const _ of [1, 2]) log.append(arrival)
  await owner.quiet()
  const taken = only(await owner.take())
  expect(taken.record.id).toBe(id)
  log.append(arrival)
  await owner.quiet()
  await owner.settle(taken.record, called(world, taken))
  expect(await owner.take()).toEqual([])
})

test.each([
  ['in the same part of the work', 1],
  ['in another part of the work', 3],
])(
  'what is handed over twice is called once, though a reload gave it another key in between, %s',
  async (_where, other) => {
    const log = new Log()
    const owner = await start(log, [1, 3])
    const accepted = log.clock.now()
    const taken: Taken[] = []
    for (const text of [keyIn(1), keysIn(other, 2)[1] ?? '']) {
      const sender = await start(log, [0])
      await sender.settle(sender.route(1, { accepted }), { ...slot, standing: { key: ordered(text) } })
      sender.kill()
      await owner.quiet()
      taken.push(...(await owner.take()))
    }
    expect(taken).toHaveLength(1)
  },
)

test('a reload that gives it another key moves it there', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  const { record } = only(await owner.take())
  await owner.settle(record, { ...slot, standing: { key: ordered(keyIn(0)) } })
  await sender.quiet()
  expect(idsOf(await sender.take())).toEqual([id])
  owner.kill()
  expect(await (await start(log, [1])).take()).toEqual([])
})

test('what waits under no key, in a row or not yet, goes to where its rule is at home once that is confined', async () => {
  const log = new Log()
  const home = partitionOf(lane.rule, partitions)
  const elsewhere = (home + 1) % partitions
  const [owner, sender] = [await start(log, [home]), await start(log, [elsewhere])]
  const source = sender.source(elsewhere)
  const [before, after] = [sender.route(1, { source }), sender.route(2, { source })]
  await sender.settle(before, slot)
  const row = only(await sender.take()).record
  for (const { work } of [owner, sender]) {
    expect([...work.confine(new Map([[lane.rule, partitions]]))]).toEqual([])
    expect(work.isElsewhere(before, lane.rule, undefined)).toBe(false)
    expect([...work.confine(new Map([[lane.rule, partitions - 1]]))]).toEqual([lane.rule])
  }
  expect([owner, sender].map(({ work }) => work.isElsewhere(before, lane.rule, undefined))).toEqual([false, true])

  for (const record of [row, after]) await sender.settle(record, slot)
  await owner.quiet()
  expect(idsOf(await owner.take())).toEqual([before.id, after.id])
  sender.kill()
  expect(await (await start(log, [elsewhere])).take()).toEqual([])
})

test('who reads its event again, under another key by now, does not call it beside that', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  const accepted = log.clock.now()
  await sender.settle(sender.route(1, { accepted }), { ...slot, standing: { key: ordered(keyIn(1)) } })
  await owner.quiet()
  const taken = only(await owner.take())
  sender.kill()
  owner.work.assigned([0, 1])
  await owner.owned(0)
  const [, other = ''] = keysIn(1, 2)
  const again = owner.route(1, { accepted })
  expect(await isKeyFree(owner, again, ordered(other))).toBe(false)
  expect((await owner.settle(again, { ...slot, standing: { key: ordered(other) } }))?.amended).toEqual({
    state: 'elsewhere',
  })
  await owner.settle(taken.record, called(world, taken))
})

test.each([
  ['waits does not count here any more', false, [{ lane, nextUntil: Number.POSITIVE_INFINITY, waiting: { slot: -1 } }]],
  ['is handed out is not counted twice', true, []],
])('when its partition is lost, what %s', async (_what, isOut, left) => {
  const world = await aWorld()
  const { owner } = world
  await handOver(world, 1, ordered(keyIn(1)))
  if (isOut) await owner.take()
  expect(await owner.thread.ask('drop', { partition: 1 })).toEqual(left)
})

test('who takes over a source does not overtake what was handed over from there to the part of the work that goes with it', async () => {
  const log = new Log()
  const standing = { key: ordered(keyIn(1)) }
  const before = await start(log, [0, 1])
  before.stalled.add(1)
  before.work.begin(await before.owned(0))
  const ids: string[] = []
  const read = async (member: Member, partition: number, offset: number) => {
    log.clock.wind(1)
    const record = member.route(offset, { source: member.source(partition) })
    ids.push(record.id)
    await member.settle(record, { ...slot, standing })
  }
  await read(before, 0, 1)
  await read(before, 1, 1)
  before.kill()

  const heir = new Member(log)
  heir.readHanded = () => {}
  heir.work.assigned([1])
  heir.work.begin(await heir.owned(1))
  const second = read(heir, 1, 2)
  await heir.quiet()
  Member.prototype.readHanded.call(heir)
  await second
  await heir.quiet()
  const called: string[] = []
  for (const _ of ids) {
    const taken = only(await heir.take())
    called.push(taken.record.id)
    await heir.settle(taken.record, { attempts: [anAttempt()], standing })
  }
  expect(called).toEqual(ids)
})

test('what was handed over and is a dead letter is not called when the next owner reads it again', async () => {
  const world = await aWorld()
  const { log, owner } = world
  owner.commits = false
  await handOver(world, 1, ordered(keyIn(1)))
  const taken = only(await owner.take())
  await owner.settle(taken.record, called(world, taken, { state: 'dead', reason: 'exhausted' }))
  owner.kill()

  const heir = await start(log, [3])
  const calls = callsFromMemory(heir)
  await isKeyFree(heir, heir.route(0, { source: heir.source(3) }), ordered(''))
  heir.work.assigned([1, 3])
  await heir.owned(1)
  await heir.quiet()
  expect([...calls.keys()]).toEqual([])
  expect((await heir.letters(1)).map(({ id }) => id)).toEqual([taken.record.id])
})

test('who reads an event again in the part of the work to which it was handed over does not call it once more', async () => {
  const { log, owner, calls } = await aWorldInMemory()
  const accepted = log.clock.now()
  const key = ordered(keyIn(1))
  const record = owner.route(1, { source: owner.source(1), accepted })
  log.append(formatHandedEvent(topics.handed, 1, { lane, standing: { key } }, record))
  await owner.quiet()
  await calls.get(record.id)?.()
  expect(await isKeyFree(owner, owner.route(1, { source: owner.source(1), accepted }), key)).toBe(false)
})

test('what has ended in memory, read here, is not called again where another hands it over', async () => {
  const log = new Log()
  const owner = await start(log, [0, 1])
  const calls = callsFromMemory(owner)
  const standing = { key: ordered(keyIn(1)) }
  const accepted = log.clock.now()
  const record = owner.route(1, { accepted })
  expect(await isKeyFree(owner, record, standing.key)).toBe(true)
  await owner.settle(record, { attempts: [anAttempt()], standing })
  owner.work.assigned([1])
  const heir = await start(log, [0])
  await heir.settle(heir.route(1, { accepted }), { ...slot, standing })
  await owner.quiet()
  expect({ calls: [...calls.keys()], rows: await owner.take() }).toEqual({ calls: [], rows: [] })
})

test('what runs from memory, read here, when another hands it over is not called beside that', async () => {
  const log = new Log()
  const owner = await start(log, [0, 1])
  const standing = { key: ordered(keyIn(1)) }
  const record = owner.route(1)
  expect(await isKeyFree(owner, record, standing.key)).toBe(true)
  owner.whenHanded = (copy) => {
    void owner.settle(record, { state: 'running', reason: '', standing })
    owner.work.routed(copy, 1)
    void owner.settle(copy, { ...slot, standing })
  }
  log.append(formatHandedEvent(topics.handed, 1, { lane, standing }, record))
  await owner.quiet()
  expect(await owner.take()).toEqual([])
  await owner.settle(record, { attempts: [anAttempt()], standing, releasesCursor: false })
  expect(await owner.take()).toEqual([])
})

test('what is read here and handed over at once waits once, and is counted once', async () => {
  const log = new Log()
  const owner = await start(log, [0, 1])
  const standing = { key: ordered(keyIn(1)) }
  await owner.settle(owner.route(1), { ...slot, standing })
  const first = only(await owner.take())
  log.clock.wind(1)
  const second = owner.route(2)
  owner.stalled.add(1)
  log.append(formatHandedEvent(topics.handed, 1, { lane, standing }, second))
  void owner.settle(second, { ...slot, standing })
  owner.deliverUpTo(1, 10, topics.handed)
  owner.unstall()
  await owner.quiet()
  expect(owner.waiting).toEqual({ key: 1 })
  await owner.settle(first.record, { attempts: [anAttempt()], standing })
  expect(only(await owner.take()).record.id).toBe(second.id)
  expect(owner.waiting).toEqual({})
})

test('an event of which a copy is handed over before its row is read back is finished all the same', async () => {
  const log = new Log()
  const both = await start(log, [0, 1])
  both.stalled.add(1)
  const record = both.route(1)
  const standing = { key: ordered(keyIn(1)) }
  await both.settle(record, { ...slot, standing })
  log.append(formatHandedEvent(topics.handed, 1, { lane, standing }, record))
  both.deliverUpTo(1, 10, topics.handed)
  await both.quiet()
  both.unstall()
  await both.quiet()
  expect(both.finished).toEqual([1])
})
