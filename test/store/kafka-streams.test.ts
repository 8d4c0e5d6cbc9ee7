import { type Kafka, Partitioners } from 'kafkajs'
import { expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { Appender } from '../../src/store/kafka/appender.ts'
import type { Outgoing } from '../../src/store/kafka/batch-sender.ts'
import { errorOf, type FetchedMessage } from '../../src/store/kafka/client.ts'
import { formatHandedEvent } from '../../src/store/kafka/handed.ts'
import type { Journal } from '../../src/store/kafka/journal.ts'
import { KafkaRecord, type Owned } from '../../src/store/kafka/kafka-record.ts'
import type { Membership, Position } from '../../src/store/kafka/membership.ts'
import { formatMetadata, parseMetadata } from '../../src/store/kafka/position.ts'
import type { Reader, Received } from '../../src/store/kafka/reader.ts'
import type { ShardThread } from '../../src/store/kafka/shard-protocol.ts'
import { Streams } from '../../src/store/kafka/streams.ts'
import { Topics } from '../../src/store/kafka/topics.ts'
import type { Writer } from '../../src/store/kafka/writer.ts'
import { until } from '../support/until.ts'
import { anEvent, lane } from './world.ts'

/*
 * What is read of streams, and from where, without brokers: which topics there are, what they give, and what is committed of
 * them is for the test to say.
 */

const stream = 'page.deleted'
const topics = new Topics({
  ...{ service: 'service', prefix: '', consumePrefixes: [''] },
  ...{ partitions: 4, replication: 1, largestEvent: 1_048_576 },
})

class Brokers {
  /** With the number of their partitions. */
  readonly topics = new Map<string, number>()
  /** By topic and partition. */
  readonly positions = new Map<string, Position>()
  /** When it is the turn of a commit. */
  turn: Promise<void> = Promise.resolve()
  /** Why no commit is taken; undefined where they are. */
  refusal: Error | undefined
  /** Of the first record that came since a topic was missed. */
  newest = 0
  /** Of all partitions. */
  end = 0
}

interface Reading {
  readonly from: number
  readonly received: Received
}

type Known = ReadonlyMap<string, ReadonlySet<string>>

/** One that has these partitions of the work. */
function start(brokers: Brokers, owned: readonly number[], known: Known = new Map()) {
  const parts = new Map<number, Owned>(owned.map((partition) => [partition, { partition, isLost: false }]))
  const readings = new Map<string, Reading>()
  /** Those that are not to be read on for now. */
  const paused = new Set<string>()
  /** Of each time that a partition was begun. */
  const begun: string[] = []
  /** Ids of events that were handed over. */
  const heard = new Set<string>()
  /** Rows that were handed over, and marks; by offset. */
  const takenUp: number[] = []
  let looks = 0
  const nothing = () => undefined
  const admin = {
    ...{ connect: async () => undefined, disconnect: async () => undefined },
    fetchOffsets: async ({ topics }: { readonly topics: readonly string[] }) =>
      topics.map((topic) => ({
        topic,
        partitions: Array.from({ length: brokers.topics.get(topic) ?? 0 }, (_, partition) => {
          const found = brokers.positions.get(`${topic}/${partition}`)
          return { partition, offset: String(found?.offset ?? -1), metadata: found?.metadata ?? null }
        }),
      })),
  }
  const reader: Pick<Reader, 'topics' | 'end' | 'offsetAt' | 'read' | 'stop' | 'pause' | 'resume'> = {
    topics: async () => {
      looks += 1
      return new Map([...brokers.topics].map(([topic, count]) => [topic, { count, leaderless: [] }]))
    },
    end: async () => brokers.end,
    offsetAt: async () => brokers.newest,
    read: (topic, partition, from, received) => {
      begun.push(`${topic}/${partition}`)
      readings.set(`${topic}/${partition}`, { from, received })
    },
    stop: (topic, partition) => void readings.delete(`${topic}/${partition}`),
    pause: (topic, partition) => void paused.add(`${topic}/${partition}`),
    resume: (topic, partition) => void paused.delete(`${topic}/${partition}`),
  }
  const commit = async (positions: () => readonly Position[]) => {
    await brokers.turn
    const said = positions()
    if (brokers.refusal !== undefined) throw brokers.refusal
    for (const one of said) brokers.positions.set(`${one.topic}/${one.partition}`, one)
  }
  const written: Outgoing[] = []
  const tryWrite = async (records: readonly Outgoing[]) => {
    written.push(...records)
    return []
  }
  const kafka = { admin: () => admin } as unknown as Kafka
  const streams = new Streams({
    ...{ topics, clock: systemClock, largestEvent: 1_048_576 },
    kafka,
    thread: { ask: async () => [] } as unknown as ShardThread,
    reader: reader as Reader,
    membership: { commit } as unknown as Membership,
    journal: { ended: async () => known } as unknown as Journal,
    ready: (partition) => parts.get(partition),
    beginning: nothing,
    isNews: ({ id }) => !heard.has(id) && heard.add(id) === heard,
    takeUp: async (rows) => void takenUp.push(...rows.map(({ offset }) => offset)),
    ...{ told: async () => undefined, trouble: nothing, later: nothing, commitNow: nothing },
  })
  const appender = new Appender({
    ...{ kafka, topics, clock: systemClock, streams, partitionKeys: new Map() },
    writer: { isBusy: false, tryWrite } as unknown as Writer,
  })
  onTestFinished(() => streams.close())
  streams.subscribe(() => true)
  streams.start()
  return {
    streams,
    appender,
    written,
    readings,
    paused,
    begun,
    takenUp,
    /** A partition of the work is another process's from now on. */
    lose(partition: number) {
      const part = parts.get(partition)
      if (part === undefined) throw new Error('it is not ours')
      part.isLost = true
      parts.delete(partition)
      streams.drop(part)
    },
    /** Takes so many of what was given out. */
    async take(count: number): Promise<readonly KafkaRecord[]> {
      const taken: KafkaRecord[] = []
      while (taken.length < count)
        for (const { record } of await streams.next(count - taken.length)) taken.push(record as KafkaRecord)
      return taken
    },
    /** Resolves when it has looked at all that there is now, and done what follows from that. */
    async look() {
      const before = looks
      streams.refresh()
      // The next look begins when the one before has ended.
      streams.refresh()
      await until('it has looked twice', () => looks >= before + 2)
      await new Promise(setImmediate)
    },
    /** Records of a partition come, each with its offset. */
    give(name: string, offsets: readonly number[], timestamp = '1700000000000') {
      const messages = offsets.map((offset): FetchedMessage => {
        const { bytes } = anEvent()
        return {
          ...{ offset: String(offset), timestamp, key: null, value: Buffer.from(bytes) },
          ...{ headers: {}, isControlRecord: false },
        }
      })
      const next = (offsets.at(-1) ?? 0) + 1
      readings.get(name)?.received(messages, next, next)
    },
    /** What was given out: offsets. */
    async given(): Promise<readonly number[]> {
      const page = await streams.next(1_000)
      return page.map(({ record }) => (record as KafkaRecord).origin[2])
    },
  }
}

test('a partition whose topic has got more of them is read by one process: the one that has its part of the work now', async () => {
  const before = topics.ownerOf(stream, 0, 3)
  const after = topics.ownerOf(stream, 0, 4)
  expect(before).not.toBe(after)
  const brokers = new Brokers()
  brokers.topics.set(stream, 3)
  const [one, other] = [start(brokers, [before]), start(brokers, [after])]
  await Promise.all([one.look(), other.look()])
  expect([one, other].map(({ readings }) => readings.has(`${stream}/0`))).toEqual([true, false])

  brokers.topics.set(stream, 4)
  await Promise.all([one.look(), other.look()])
  expect([one, other].map(({ readings }) => readings.has(`${stream}/0`))).toEqual([false, true])
})

test('a partition whose topic has got more of them is not begun anew where it stays in one process', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 3)
  const { begun, look } = start(brokers, [0, 1, 2, 3])
  await look()
  brokers.topics.set(stream, 4)
  await look()
  expect(begun.filter((name) => name === `${stream}/0`)).toHaveLength(1)
})

test('what was read of a stream that no rule wanted for a while is not routed twice', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const { streams, readings, look, give, given } = start(brokers, [0, 1, 2, 3])
  const name = `${stream}/0`
  await look()
  give(name, [0, 1, 2])
  streams.subscribe(() => false)
  await look()
  expect(readings.has(name)).toBe(false)
  streams.subscribe(() => true)
  await look()
  give(name, [0, 1, 2])
  expect(await given()).toEqual([0, 1, 2])
})

test('where a partition goes on before where it was, its position goes with it', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const metadata = formatMetadata({ at: Date.now(), runs: '', lives: 0, latest: 0 })
  brokers.positions.set(name, { topic: stream, partition: 0, offset: 1_000, metadata })
  const { streams, readings, look, give } = start(brokers, [0, 1, 2, 3])
  await look()
  give(name, [1_000, 1_001])
  const finish = async () => {
    for (const { record } of await streams.next(10)) streams.finish(record as KafkaRecord)
  }
  await finish()
  // It was made anew before it was missed.
  readings.get(name)?.received([], 5, 5)
  give(name, [5, 6])
  await finish()
  await streams.commit()
  expect(brokers.positions.get(name)?.offset).toBe(7)
})

test.each([
  ['another that is there later is read from its beginning', 0, 0],
  ['it goes on there, if only nobody told of it for a moment', 3, 3],
])('where a topic was missed, and its position is there, %s', async (_, newest, from) => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const { streams, readings, look, give, given } = start(brokers, [0, 1, 2, 3])
  await look()
  give(name, [0, 1, 2])
  for (const { record } of await streams.next(10)) streams.finish(record as KafkaRecord)
  await streams.commit()
  expect(brokers.positions.get(name)?.offset).toBe(3)
  brokers.topics.delete(stream)
  await look()
  expect(readings.has(name)).toBe(false)

  brokers.topics.set(stream, 1)
  brokers.newest = newest
  await look()
  expect(readings.get(name)?.from).toBe(from)
  expect(brokers.positions.get(name)?.offset).toBe(from)
  give(name, [from, from + 1])
  expect(await given()).toEqual([from, from + 1])
})

test.each([
  ['a stream', stream, 0],
  ['what is handed over', topics.handed, 1],
])(
  'while nobody told of the topic of %s for a moment, what was read of it is neither given out twice nor lost',
  async (_what, topic, partition) => {
    const brokers = new Brokers()
    brokers.topics.set(topic, topic === stream ? 1 : 4)
    const name = `${topic}/${partition}`
    const { streams, readings, look, take } = start(brokers, [0, 1, 2, 3])
    const give = (offsets: readonly number[]) => {
      const messages = offsets.map((offset) => handedOver(offset, offset))
      readings.get(name)?.received(messages, offsets.length, (offsets.at(-1) ?? 0) + 1)
    }
    await look()
    await streams.commit()
    give([0, 1, 2])
    const given = [...(await take(2))]
    brokers.topics.delete(topic)
    await look()
    expect(readings.has(name)).toBe(false)

    brokers.topics.set(topic, topic === stream ? 1 : 4)
    brokers.newest = 3
    await look()
    expect(readings.get(name)?.from).toBe(3)
    give([3])
    given.push(...(await take(2)))
    expect(given.map(({ origin }) => origin[2])).toEqual([0, 1, 2, 3])
    for (const record of given) streams.finish(record)
    await streams.commit()
    expect(brokers.positions.get(name)?.offset).toBe(4)
  },
)

test('a topic that another process has begun anew while it was missed is read from there', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const { readings, look, give, take } = start(brokers, [0, 1, 2, 3])
  await look()
  give(name, [0, 1, 2])
  await take(3)
  brokers.topics.delete(stream)
  await look()
  brokers.topics.set(stream, 1)
  brokers.newest = 3
  const metadata = formatMetadata({ at: Date.now() + 1, runs: '', lives: 0, latest: 0 })
  brokers.positions.set(name, { topic: stream, partition: 0, offset: 0, metadata })
  await look()
  expect(readings.get(name)?.from).toBe(0)
})

test.each([
  ['its group is moving on', 27],
  ['its group has moved on', 22],
  ['its group does not know us any more', 25],
  ['another broker coordinates its group', 16],
  ['nobody coordinates its group', 15],
  ['its group is being loaded', 14],
  ['its topic is gone', 3],
])('what is not committed since %s is no failure, and is committed once it may be', async (_what, code) => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const { streams, look, give, take } = start(brokers, [0, 1, 2, 3])
  await look()
  give(name, [0, 1, 2])
  for (const record of await take(3)) streams.finish(record)
  brokers.refusal = new Error('kafkajs has tried it for long enough', { cause: errorOf(code) })
  await streams.commit()
  expect(brokers.positions.get(name)?.offset).toBe(0)

  brokers.refusal = undefined
  await streams.commit()
  expect(brokers.positions.get(name)?.offset).toBe(3)
})

test('what Kafka does not allow to be committed is told, and is committed once it may be', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const { streams, look, give, take } = start(brokers, [0, 1, 2, 3])
  await look()
  give(name, [0])
  for (const record of await take(1)) streams.finish(record)
  brokers.refusal = errorOf(30)
  await expect(streams.commit()).rejects.toThrow('Not authorized to access group')

  brokers.refusal = undefined
  await streams.commit()
  expect(brokers.positions.get(name)?.offset).toBe(1)
})

test('whoever has a partition next is given what was not finished, and nothing else, in whatever order that was', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const before = start(brokers, [0, 1, 2, 3])
  await before.look()
  before.give(name, [0, 1, 2, 3])
  const records = await before.take(4)
  for (const offset of [3, 1]) before.streams.finish(records[offset] as KafkaRecord)
  await before.streams.commit()

  const after = start(brokers, [0, 1, 2, 3])
  await after.look()
  expect(after.readings.get(name)?.from).toBe(0)
  after.give(name, [0, 1, 2, 3, 4])
  expect(await after.given()).toEqual([0, 2, 4])
})

test.each([
  ['nothing is committed any more', false],
  ['what waited to be committed is not', true],
])('of a partition that is lost %s: it would set back whoever has it', async (_what, waits) => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const part = topics.ownerOf(stream, 0, 1)
  const before = start(brokers, [part])
  await before.look()
  before.give(name, [0, 1, 2])
  const [first] = await before.take(3)
  if (first === undefined) throw new Error('three were given')

  let isTurn = () => {}
  if (waits) {
    before.streams.finish(first)
    brokers.turn = new Promise((resolve) => {
      isTurn = resolve
    })
  }
  const committed = before.streams.commit()
  brokers.turn = Promise.resolve()
  before.lose(part)
  const after = start(brokers, [part])
  await after.look()
  after.give(name, [0, 1, 2])
  for (const record of await after.take(3)) after.streams.finish(record)
  await after.streams.commit()
  isTurn()
  await committed
  if (!waits) before.streams.finish(first)
  await before.streams.commit()

  expect(brokers.positions.get(name)?.offset).toBe(3)
})

test('no more is read ahead than 2,000, and no more of a partition than 10,000 that are not finished', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const { streams, paused, look, give, take } = start(brokers, [0, 1, 2, 3])
  const from = (first: number, count: number) => Array.from({ length: count }, (_, n) => first + n)
  await look()
  give(name, from(0, 1_999))
  expect(paused.has(name)).toBe(false)
  give(name, from(1_999, 1))
  expect(paused.has(name)).toBe(true)
  const records = [...(await take(2_000))]
  expect(paused.has(name)).toBe(false)

  give(name, from(2_000, 8_000))
  records.push(...(await take(8_000)))
  expect(paused.has(name)).toBe(true)
  for (const record of records.slice(0, 6_000)) streams.finish(record)
  expect(paused.has(name)).toBe(false)
})

test.each(['-1', '0'])(
  'an event whose producer gave it the time %s counts as accepted when it is read',
  async (time) => {
    const brokers = new Brokers()
    brokers.topics.set(stream, 4)
    const { streams, give, look } = start(brokers, [0])
    await look()
    const before = Date.now()
    give(`${stream}/0`, [0], time)
    const [first] = await streams.next(1)
    expect(first?.record.accepted).toBeGreaterThanOrEqual(before)
  },
)

test('events that come while no more is read are behind, too', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 4)
  const { streams, give, look } = start(brokers, [0])
  await look()
  const many = Array.from({ length: 10_000 }, (_, offset) => offset)
  give(`${stream}/0`, many)
  expect(streams.lag().get(stream)).toBe(10_000)
  brokers.end = 20_000
  await streams.measure()
  expect(streams.lag().get(stream)).toBe(20_000)
})

test('what holds no event, at the end of a partition, is not behind, nor read again', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 1)
  const name = `${stream}/0`
  const { streams, readings, look, give, take } = start(brokers, [0, 1, 2, 3])
  await look()
  give(name, [0])
  // The marker of a transaction.
  readings.get(name)?.received([], 2, 2)
  expect(streams.lag().get(stream)).toBe(2)
  for (const record of await take(1)) streams.finish(record)
  expect(streams.lag().get(stream)).toBe(0)
  // All that came was removed meanwhile.
  readings.get(name)?.received([], 100, 100)
  expect(streams.lag().get(stream)).toBe(0)
  await streams.commit()
  expect(brokers.positions.get(name)?.offset).toBe(100)
})

test('events of one page lie where other producers put what has its key, and are owned by the number of that partition', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 4)
  const { appender, written, look } = start(brokers, [0, 1, 2, 3])
  await look()
  const pages = Array.from({ length: 20 }, (_, page) => page)
  await appender.append([...pages, ...pages].map((page_id) => anEvent({ database: 'aawiki', page_id }, stream)))
  // As the Java client has it.
  const place = Partitioners.DefaultPartitioner()
  const partitionMetadata = [0, 1, 2, 3].map((partitionId) => ({
    ...{ partitionId, leader: 1, partitionErrorCode: 0, replicas: [1], isr: [1], offlineReplicas: [] },
  }))
  const expected = [...pages, ...pages].map((page) => {
    const key = `aawiki\u001f${page}`
    return { key, partition: place({ topic: stream, partitionMetadata, message: { key, value: '' } }) }
  })

  expect(written.map(({ key, partition }) => ({ key: String(key), partition }))).toEqual(expected)
  expect(new Set(written.map(({ partition }) => partition)).size).toBe(4)
  expect([0, 1, 2, 3].map((partition) => topics.ownerOf(stream, partition, 4))).toEqual([0, 1, 2, 3])
})

test('a stream whose topic is not ready in time bars its own events, and no others of the same post', async () => {
  const brokers = new Brokers()
  brokers.topics.set(stream, 4)
  const { appender, written, look } = start(brokers, [0, 1, 2, 3])
  await look()
  const bars = 'page.new'
  const refused = await appender.append([stream, bars].map((stream) => ({ ...anEvent(), stream })))
  expect(refused.map(({ event, ours, why }) => [event.stream, ours, why])).toEqual([
    [bars, true, expect.stringContaining(`the topic ${bars} is not ready`)],
  ])
  expect(written.map(({ topic }) => topic)).toEqual([stream])
}, 30_000)

const standing = { key: { text: 'key', turn: 'oldest', windowMs: 0 } } as const

/** Of an event that was read at that offset of its stream, or of a row. */
function handedOver(offset: number, what: number | 'row'): FetchedMessage {
  const about = { offset: String(offset), timestamp: '1700000000000', headers: {}, isControlRecord: false }
  if (what === 'row') return { ...about, key: Buffer.from('row'), value: Buffer.from('') }
  const { bytes } = anEvent()
  const event = { id: `event ${what}`, stream, accepted: 1_700_000_000_000, origin: [stream, 0, what] as const }
  const record = new KafkaRecord(event, bytes, { partition: 0, isLost: false })
  return { ...about, key: null, value: formatHandedEvent(topics.handed, 1, { lane, standing }, record).value }
}

/** Takes page after page; events by their offsets in their stream. */
async function takeHanded(known: Known, what: readonly (number | 'row')[]) {
  const brokers = new Brokers()
  brokers.topics.set(topics.handed, 4)
  const { streams, look, readings, takenUp } = start(brokers, [1], known)
  await look()
  const messages = what.map((one, offset) => handedOver(offset, one))
  readings.get(`${topics.handed}/1`)?.received(messages, messages.length, messages.length)
  const pages: { readonly given: readonly number[]; readonly takenUp: readonly number[] }[] = []
  const isAll = () => pages.flatMap(({ given }) => given).length === new Set(what.filter(Number.isInteger)).size
  while (!isAll()) {
    const page = await streams.next(10)
    for (const { handedOver } of page) expect(handedOver).toEqual({ rule: lane.rule, standing })
    pages.push({ given: page.map(({ record }) => (record as KafkaRecord).origin[2]), takenUp: [...takenUp] })
    for (const { record } of page) streams.finish(record as KafkaRecord)
  }
  await streams.commit()
  return { pages, position: brokers.positions.get(`${topics.handed}/1`) }
}

test('what was handed over is given out for its rule, and rows are taken up when all before them was', async () => {
  const { pages, position } = await takeHanded(new Map(), [7, 3, 'row', 'row', 5])
  expect(pages).toEqual([
    { given: [7, 3], takenUp: [] },
    { given: [5], takenUp: [2, 3] },
  ])
  // Rows are finished by whoever takes them up.
  expect(position).toMatchObject({ offset: 2, metadata: expect.stringContaining(';2+1;') })
})

test('what was handed over twice is given out once', async () => {
  const { pages, position } = await takeHanded(new Map(), [7, 7, 3, 7])
  expect(pages.map(({ given }) => given)).toEqual([[7], [3]])
  expect(position?.offset).toBe(3)
})

test.each([
  ['was handed over yet, the journal is not read from its beginning', 0, false],
  ['is known of how far what was handed over had come, it is', 3, true],
])('where nothing %s', async (_what, end, isAll) => {
  const brokers = new Brokers()
  brokers.topics.set(topics.handed, 4)
  brokers.end = end
  const { look } = start(brokers, [1])
  await look()
  const { metadata = '' } = brokers.positions.get(`${topics.handed}/1`) ?? {}
  expect(parseMetadata(metadata)?.at === 0).toBe(isAll)
})
