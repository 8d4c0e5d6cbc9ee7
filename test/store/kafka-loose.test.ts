import { expect, test } from 'vitest'
import { KafkaRecord } from '../../src/store/kafka/kafka-record.ts'
import { LooseDeliveries, Room } from '../../src/store/kafka/loose.ts'
import { pack } from '../../src/store/kafka/packed.ts'
import { formatKey } from '../../src/store/kafka/row.ts'
import type { Key, Settlement } from '../../src/store/store.ts'
import {
  deduplicated,
  handedOver,
  isKeyFree,
  keyIn,
  keysIn,
  Log,
  type Member,
  only,
  start,
  type Taken,
  toldIn,
  topics,
} from './kafka-log.ts'
import { anAttempt, aSettlement, lane, stream } from './world.ts'

/*
 * Deliveries that another process has handed over, and that are alone with their key: they are called without a row. Nobody is
 * to see a difference.
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

/** What the owner has written of its partition. */
function written({ log }: World): { readonly kind: string; readonly ends: boolean }[] {
  return log.work(1).flatMap(({ key, value, headers }) => {
    const [kind] = JSON.parse(String(key))
    return kind === 'owner' || headers.owner === undefined ? [] : [{ kind, ends: value === null }]
  })
}

test.each([
  ['dedup', deduplicated(keyIn(1), minute), ['delivery']],
  ['dedup, for a day', deduplicated(keyIn(1), 86_400_000), ['start', 'delivery']],
  ['order', ordered(keyIn(1)), ['delivery']],
])('of one that is called at once there is no more to write than its end (%s)', async (_policy, key, kinds) => {
  const world = await aWorld()
  const { log, owner } = world
  const id = await handOver(world, 1, key)
  const taken = only(await owner.take())
  expect(taken.record.id).toBe(id)
  await owner.settle(taken.record, called(world, taken))

  expect(written(world)).toEqual(kinds.map((kind) => ({ kind, ends: kind === 'delivery' })))
  expect(toldIn(log)).toBe(1)
  owner.kill()
  expect(await (await start(log, [1])).take()).toEqual([])
})

test.each([
  ['whoever has its key then', false],
  ['whoever has its key then, though it was handed over again meanwhile', true],
])('its call is remembered by %s', async (_who, isAgain) => {
  const world = await aWorld()
  const { log, owner } = world
  const key = deduplicated(keyIn(1), minute)
  await handOver(world, 1, key)
  const arrival = handedOver(log, 1)
  const taken = only(await owner.take())
  await owner.settle(taken.record, called(world, taken))
  if (isAgain) log.append(arrival)
  await owner.quiet()
  owner.kill()
  log.compact(1)

  const heir = await start(log, [1])
  log.clock.wind(1)
  const next = heir.route(1, { source: heir.source(1) })
  expect(await isKeyFree(heir, next, key)).toBe(false)
  expect(await isKeyFree(heir, next, { ...key, windowMs: 0 })).toBe(true)
})

test('its call is remembered though it was handed over again while nobody had its key', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const key = deduplicated(keyIn(1), minute)
  await handOver(world, 1, key)
  const arrival = handedOver(log, 1)
  const taken = only(await owner.take())
  await owner.settle(taken.record, called(world, taken))
  owner.kill()
  log.append(arrival)
  const next = await start(log, [1])
  await next.quiet()
  next.kill()
  log.compact(1)

  const heir = await start(log, [1])
  log.clock.wind(1)
  expect(await isKeyFree(heir, heir.route(1, { source: heir.source(1) }), key)).toBe(false)
})

test.each([
  ['it waits', false],
  ['it is handed out', true],
])('its key is not free while %s', async (_what, isOut) => {
  const world = await aWorld()
  const { log, owner } = world
  const key = deduplicated(keyIn(1))
  await handOver(world, 1, key)
  const taken = isOut ? only(await owner.take()) : undefined
  log.clock.wind(1)
  const other = owner.route(1, { source: owner.source(1) })
  expect(await isKeyFree(owner, other, key)).toBe(false)
  if (taken === undefined) return
  await owner.settle(taken.record, called(world, taken))
  log.clock.wind(1)
  expect(await isKeyFree(owner, owner.route(2, { source: owner.source(1) }), key)).toBe(true)
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
  // Of the one that it waits for there is nothing to write before it has waited for a second.
  else expect(written(world)).toEqual([{ kind: 'delivery', ends: false }])

  expect(await owner.take()).toEqual([])
  await owner.settle(first.record, called(world, first))
  expect(idsOf(await owner.take())).toEqual([second])
})

test('its key is free again when the call of a newer one has covered it', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const key = deduplicated(keyIn(1))
  await handOver(world, 1, key)
  log.clock.wind(1)
  const newer = owner.route(1, { source: owner.source(1) })
  const progress = { failures: 0, firstAttemptAt: log.clock.now(), finished: 1, refused: 0 }
  await owner.settle(newer, { attempts: [anAttempt()], progress, standing: { key } })
  log.clock.wind(1)
  expect(await isKeyFree(owner, owner.route(2, { source: owner.source(1) }), key)).toBe(true)
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

test('who comes together with one that is not due yet, and is before it, waits for that', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  const standing = { key: ordered(keyIn(1)) }
  owner.stalled.add(1)
  const later = { state: 'waiting', reason: 'due', until: log.clock.now() + 1_000 } as const
  await sender.settle(sender.route(1), { ...later, standing })
  log.clock.wind(1)
  await sender.settle(sender.route(2), { ...slot, standing })
  owner.unstall()
  await owner.quiet()
  expect(await owner.take()).toEqual([])
})

test('no more than 16 MiB of events are kept without a row', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  owner.stalled.add(1)
  const bytes = new Uint8Array(1_048_576)
  for (const [offset, text] of keysIn(1, 18).entries())
    await sender.settle(sender.route(offset, { bytes }), { ...slot, standing: { key: ordered(text) } })
  const records = log
    .work(1)
    .flatMap(({ key, value, headers }) => (key === null || headers.owner ? [] : [{ key, value }]))
  const arrive = (some: typeof records) => {
    return owner.thread.ask('arrive', { partition: 1, records: pack(some), now: log.clock.now() })
  }
  expect((await arrive(records.slice(0, 17))).loose).toHaveLength(16)

  await owner.thread.ask('deliveries', { rule: undefined, states: [0], limit: 1, cursor: undefined })
  expect((await arrive(records.slice(17))).loose).toHaveLength(1)
})

test('what is kept of one is its event alone, not all that came with it', () => {
  const room = new Room()
  const loose = new LooseDeliveries(room)
  const bytes = new Uint8Array(1_048_576).subarray(0, 10)
  const event = { id: 'a', stream, accepted: 0, origin: [stream, 0, 0] } as const
  const settle = { ...aSettlement(new KafkaRecord(event, bytes, { partition: 1, isLost: false }), {}), event, bytes }
  loose.add({ name: 'a', lane: 0, key: ordered('k'), settle, bytes, since: 0, isOut: false })
  const kept = loose.get('a')
  expect([kept?.bytes, kept?.settle.bytes].map((one) => one?.buffer.byteLength)).toEqual([10, 10])
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

test('neither do rows wait for the last of those that have none, nor these for the last of the rows, in any lane', async () => {
  const { log, owner, sender } = await aWorld()
  const lanes = [lane, { ...lane, key: 'another' }]
  const keys = keysIn(1, 8).map(ordered)
  const handOverTo = async (of: typeof lane, offset: number) => {
    log.clock.wind(1)
    await sender.settle(sender.route(offset), { ...slot, lane: of, standing: { key: keys[offset] as Key } })
    await owner.quiet()
  }
  const take = (of: typeof lane, limit: number) => owner.thread.ask('take', { lane: of, now: log.clock.now(), limit })
  const backs: string[] = []
  for (const [index, of] of lanes.entries()) {
    for (const offset of [2 * index, 2 * index + 1]) await handOverTo(of, offset)
    const parts = owner.work.parts()
    for (const { event, bytes, standing } of (await take(of, 9)).rows) {
      const record = new KafkaRecord(event, bytes, parts.get(1) ?? { partition: 1, isLost: true })
      await owner.settle(record, { ...slot, lane: of, standing })
      backs.push(event.id)
    }
    for (const offset of [2 * index + 4, 2 * index + 5]) await handOverTo(of, offset)
  }

  const rows = new Map(lanes.map(({ key }) => [key, 0]))
  for (const of of [...lanes, ...lanes])
    for (const { event } of (await take(of, 1)).rows)
      if (backs.includes(event.id)) rows.set(of.key, (rows.get(of.key) ?? 0) + 1)
  expect([...rows.values()]).toEqual([1, 1])
})

test('nor do they where pages of one come from two partitions in turn', async () => {
  const log = new Log()
  const owner = await start(log, [1, 3])
  const world = { log, owner, sender: await start(log, [0]) }
  const [first, second, third, fourth] = keysIn(1, 4).map(ordered) as [Key, Key, Key, Key]
  for (const [offset, key] of [first, second].entries()) await handOver(world, offset, key)
  const back = await owner.take()
  for (const { record, standing } of back) await owner.settle(record, { ...slot, standing })
  const others = keysIn(3, 4).map(ordered)
  for (const [index, key] of [third, fourth, ...others].entries()) await handOver(world, index + 2, key)

  const takeOne = () => owner.thread.ask('take', { lane, now: log.clock.now(), limit: 1 })
  const taken: { readonly partition: number; readonly id: string }[] = []
  for (let count = 0; count < 4; count += 1)
    for (const { partition, event } of (await takeOne()).rows) taken.push({ partition, id: event.id })
  const ofFirst = taken.filter(({ partition }) => partition === 1).map(({ id }) => idsOf(back).includes(id))
  expect(ofFirst.sort()).toEqual([false, true])
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

test('what is handed over twice is called once, though a reload gave it another key in between', async () => {
  const log = new Log()
  const owner = await start(log, [1])
  const accepted = log.clock.now()
  const taken: Taken[] = []
  for (const text of keysIn(1, 2)) {
    const sender = await start(log, [0])
    await sender.settle(sender.route(1, { accepted }), { ...slot, standing: { key: ordered(text) } })
    sender.kill()
    await owner.quiet()
    taken.push(...(await owner.take()))
  }
  expect(taken).toHaveLength(1)
})

test('its call is remembered though one who had its key before tells too late of its end', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const key = deduplicated(keyIn(1), minute)
  await handOver(world, 1, key)
  const taken = only(await owner.take())
  await owner.settle(taken.record, called(world, taken))
  const { key: of, value, headers } = only(log.work(1).filter((one) => one.headers.end !== undefined))
  const late = { ...headers, owner: Buffer.from('before') }
  log.append({ topic: topics.work, partition: 1, key: of, value, headers: late })
  await owner.quiet()
  owner.kill()
  log.compact(1)

  const heir = await start(log, [1])
  log.clock.wind(1)
  expect(await isKeyFree(heir, heir.route(1, { source: heir.source(1) }), key)).toBe(false)
})

test('it is there for the next owner, though one before tells too late of its row', async () => {
  const world = await aWorld()
  const { log, owner } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  const key = formatKey({ kind: 'delivery', id, rule: lane.rule })
  log.append({
    topic: topics.work,
    partition: 1,
    key,
    value: null,
    headers: { owner: Buffer.from('before'), end: Buffer.alloc(0) },
  })
  await owner.quiet()
  owner.kill()
  log.compact(1)
  expect(idsOf(await (await start(log, [1])).take())).toEqual([id])
})

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

test('whoever has its stream next is told that it is here', async () => {
  const world = await aWorld()
  const { owner } = world
  const id = await handOver(world, 7, ordered(keyIn(1)))
  const rowsOf = (from: number) => owner.thread.ask('rowsOf', { partition: 1, topic: stream, part: 0, from })
  expect(await rowsOf(7)).toEqual([{ id, rule: lane.rule }])
  expect(await rowsOf(8)).toEqual([])
})

test('a list of deliveries has it, and it is called all the same', async () => {
  const world = await aWorld()
  const { owner } = world
  const id = await handOver(world, 1, ordered(keyIn(1)))
  const list = () => owner.thread.ask('deliveries', { rule: undefined, states: [0, 1], limit: 10, cursor: undefined })
  expect((await list()).items.map(({ eventId, state }) => ({ eventId, state }))).toEqual([
    { eventId: id, state: 'waiting' },
  ])
  const taken = only(await owner.take())
  expect(taken.record.id).toBe(id)
  await owner.settle(taken.record, called(world, taken))
  expect((await list()).items).toEqual([])
})

test('it counts as what it is, though it came just when the window of its key ended', async () => {
  const world = await aWorld()
  const { log, owner, sender } = world
  const key = deduplicated(keyIn(1), minute)
  await handOver(world, 1, key)
  const before = only(await owner.take())
  await owner.settle(before.record, called(world, before))
  owner.stalled.add(1)
  log.clock.wind(minute - 1)
  await sender.settle(sender.route(2), { ...slot, standing: { key } })
  log.clock.wind(1)
  const records = log
    .work(1)
    .slice(-1)
    .flatMap(({ key: name, value }) => (name === null ? [] : [{ key: name, value }]))
  const { rows } = await owner.thread.ask('arrive', { partition: 1, records: pack(records), now: log.clock.now() })
  await owner.thread.ask('deliveries', { rule: undefined, states: [0], limit: 1, cursor: undefined })
  const { rows: taken } = await owner.thread.ask('take', { lane, now: log.clock.now(), limit: 1 })
  expect(rows.map(({ waiting }) => waiting)).toEqual(taken.map(({ reason }) => ({ [reason]: 1 })))
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
