import type { Kafka } from 'kafkajs'
import { messageOf } from '../../base/errors.ts'
import {
  type Broker,
  type Cluster,
  committedMessages,
  type FetchedMessage,
  type FetchedPartition,
  noLeader,
  openCluster,
} from './client.ts'
import { noPartition, typeOf } from './errors.ts'

/**
 * Records of one partition, in order, or none where it went on without; `end`: the offset of what is written next;
 * `next`: where it goes on. Their bytes are views of the whole answer: what is kept has to be copied. Where it throws, it is given
 * them again later.
 */
export type Received = (messages: readonly FetchedMessage[], end: number, next: number) => void

export interface ReaderParts {
  readonly kafka: Kafka
  /** Why nothing can be read at the moment; undefined when all is well again. */
  trouble(why: string | undefined): void
  /** Records were removed before we read them: the partition goes on at another place. */
  skipped(topic: string, partition: number, from: number, to: number): void
}

/** Also how long a partition that is resumed or added while a broker is asked may have to wait. */
const maxWaitMs = 100
const bytesPerPartition = 524_288
const bytesPerFetch = 4_194_304
const shortestPauseMs = 100
const longestPauseMs = 2_000
/** A partition that cannot be read stands still for so long, while others go on; each time twice as long. */
const shortestRestMs = 500
const longestRestMs = 30_000
/**
 * A partition that has more but gives nothing so often found no room in the answers, or its next batch was larger than its
 * part of them: it is asked for alone, where its next batch is given whatever its size.
 */
const emptyAnswers = 3
const readCommitted = 1
const partitionTypes = ['TOPIC_AUTHORIZATION_FAILED', 'CORRUPT_MESSAGE', 'UNSUPPORTED_COMPRESSION_TYPE']
/** Of kafkajs. What decompresses has its own. */
const decodingErrors = [
  'KafkaJSNotImplemented',
  'KafkaJSUnsupportedMagicByteInMessageSet',
  'KafkaJSInvalidVarIntError',
  'KafkaJSInvalidLongError',
]
/** Of a topic that kafkajs asks about: it tells of no other then. */
const goneTypes = ['UNKNOWN_TOPIC_OR_PARTITION', 'TOPIC_AUTHORIZATION_FAILED', 'INVALID_TOPIC_EXCEPTION']

interface Reading {
  readonly topic: string
  readonly partition: number
  readonly received: Received
  /** Of the next record. */
  offset: number
  isPaused: boolean
  empty: number
  /** Told why it cannot be read, it ends; others are tried again. */
  readonly failed: ((error: unknown) => void) | undefined
  /** Why it could not be read when it was asked for last. */
  why: string | undefined
  restMs: number
  rest: NodeJS.Timeout | undefined
}

export interface Partitions {
  readonly count: number
  /** Nothing can be read of them, or written to them. */
  readonly leaderless: readonly number[]
}

type OffsetQuestion = { readonly fromBeginning: boolean } | { readonly fromTimestamp: number }

/** What is to be read, by the broker that leads it. */
type Leaders = ReadonlyMap<string, readonly Reading[]>

/**
 * Reads partitions from where it is told, as long as it is told, without a group: who reads what is decided elsewhere. One
 * question at a time to each broker, about all that it leads.
 */
export class Reader {
  readonly #parts: ReaderParts
  readonly #cluster: Cluster
  readonly #readings = new Map<string, Reading>()
  /** Brokers that are being asked. */
  readonly #asking = new Set<string>()
  #isClosed = false
  #pauseMs = shortestPauseMs
  #retry: NodeJS.Timeout | undefined
  #connected: Promise<void> | undefined
  #turn: Promise<void> = Promise.resolve()

  constructor(parts: ReaderParts) {
    this.#parts = parts
    this.#cluster = openCluster(parts.kafka)
  }

  read(topic: string, partition: number, from: number, received: Received): void {
    this.#begin(topic, partition, from, received, undefined)
  }

  #begin(topic: string, partition: number, from: number, received: Received, failed: Reading['failed']): void {
    this.stop(topic, partition)
    this.#readings.set(nameOf(topic, partition), {
      ...{ topic, partition, received, failed, offset: from, isPaused: false, empty: 0 },
      ...{ why: undefined, restMs: shortestRestMs, rest: undefined },
    })
    this.#start()
  }

  /** Reads until `received` has what it wants; rejects where the partition cannot be read, or it throws. */
  #readUntil(
    topic: string,
    partition: number,
    from: number,
    received: (...given: Parameters<Received>) => boolean,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const until: Received = (...given) => {
        if (!received(...given)) return
        this.stop(topic, partition)
        resolve()
      }
      this.#begin(topic, partition, from, until, reject)
    })
  }

  /**
   * Resolves when all that is there now has been read; rejects where the partition cannot be read, or `received` throws. For
   * a partition that is not read otherwise; one after another.
   */
  readToEnd(topic: string, partition: number, from: number, received: Received): Promise<void> {
    const read = () => this.#readToEnd(topic, partition, from, received)
    this.#turn = this.#turn.then(read, read)
    return this.#turn
  }

  async #readToEnd(topic: string, partition: number, from: number, received: Received): Promise<void> {
    const end = await this.end(topic, partition)
    if (from >= end) return
    await this.#readUntil(topic, partition, from, (messages, endNow, next) => {
      const wanted = messages.filter(({ offset }) => Number(offset) < end)
      if (wanted.length > 0) received(wanted, end, Math.min(next, end))
      // What lay at the end may be gone meanwhile.
      return next >= Math.min(end, endNow)
    })
  }

  /** The value of one record, if it is still there, and its timestamp in ms: of a topic made anew it is another. */
  async one(
    topic: string,
    partition: number,
    offset: number,
    found: (value: Buffer, time: number) => void,
  ): Promise<void> {
    const read = async () => {
      const end = await this.end(topic, partition).catch((error: unknown) => {
        if (typeOf(error) !== 'UNKNOWN_TOPIC_OR_PARTITION') throw error
        return 0
      })
      if (offset >= end) return
      await this.#readUntil(topic, partition, offset, ([first]) => {
        if (first !== undefined && first.value !== null && Number(first.offset) === offset)
          found(first.value, Number(first.timestamp))
        return true
      })
    }
    this.#turn = this.#turn.then(read, read)
    await this.#turn
  }

  /** Of the next record to be written. Rejects where no broker tells of such a partition: that is not to look like an empty one. */
  async end(topic: string, partition: number): Promise<number> {
    return Number(await this.#offsetOf(topic, partition, { fromBeginning: false }))
  }

  /** Of the first record that was written then or later, in ms; of the next one where there is none. */
  async offsetAt(topic: string, partition: number, time: number): Promise<number> {
    const offset = Number(await this.#offsetOf(topic, partition, { fromTimestamp: time }))
    return offset < 0 ? this.end(topic, partition) : offset
  }

  /** What is known of a topic may be of before it had so many partitions. */
  async #offsetOf(topic: string, partition: number, of: OffsetQuestion): Promise<string> {
    const ask = () =>
      this.#withoutGone(async () => {
        await this.#connect([topic])
        const [found] = await this.#cluster.fetchTopicsOffset([{ topic, partitions: [{ partition }], ...of }])
        return found?.partitions[0]?.offset
      })
    const offset = await ask()
    if (offset !== undefined) return offset
    await this.#withoutGone(() => this.#cluster.refreshMetadata())
    const foundNow = await ask()
    if (foundNow === undefined) throw noPartition(topic, partition)
    return foundNow
  }

  /** All topics there are. */
  async topics(): Promise<ReadonlyMap<string, Partitions>> {
    await this.#connect([])
    const found = await this.#cluster.metadata({ topics: [] })
    if (found === null) throw new Error('no broker tells what topics there are')
    return new Map(
      found.topicMetadata.map(({ topic, partitionMetadata }) => {
        const leaderless = partitionMetadata.flatMap((one) => (one.leader === noLeader ? [one.partitionId] : []))
        return [topic, { count: partitionMetadata.length, leaderless }]
      }),
    )
  }

  stop(topic: string, partition: number): void {
    const name = nameOf(topic, partition)
    const reading = this.#readings.get(name)
    if (reading === undefined) return
    clearTimeout(reading.rest)
    this.#readings.delete(name)
    if (reading.why !== undefined) this.#tell()
  }

  pause(topic: string, partition: number): void {
    const reading = this.#readings.get(nameOf(topic, partition))
    if (reading !== undefined) reading.isPaused = true
  }

  resume(topic: string, partition: number): void {
    const reading = this.#readings.get(nameOf(topic, partition))
    if (reading === undefined || !reading.isPaused) return
    reading.isPaused = false
    this.#start()
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#retry)
    for (const { rest } of this.#readings.values()) clearTimeout(rest)
    this.#readings.clear()
    await this.#cluster.disconnect()
  }

  /** Sees to it that each broker that leads something we read is asked. */
  #start(): void {
    if (this.#isClosed || this.#retry !== undefined) return
    this.#leaders().then(
      (leaders) => this.#askAll(leaders),
      (error: unknown) => this.#failed(error),
    )
  }

  #askAll(leaders: Leaders): void {
    // Whoever failed is asked again after a pause, with all others.
    if (this.#retry !== undefined) return
    for (const nodeId of leaders.keys()) {
      if (this.#asking.has(nodeId)) continue
      this.#asking.add(nodeId)
      void this.#ask(nodeId)
    }
  }

  async #ask(nodeId: string): Promise<void> {
    try {
      while (!this.#isClosed) {
        const leaders = await this.#leaders()
        // What it led until now may be led by one that nobody asks yet.
        this.#askAll(leaders)
        const asked = leaders.get(nodeId)
        if (asked === undefined) break
        const broker = await this.#cluster.findBroker({ nodeId })
        const alone = asked.find(({ empty, why }) => empty >= emptyAnswers || why !== undefined)
        await this.#fetch(broker, alone === undefined ? asked : [alone], bytesPerPartition, maxWaitMs)
        this.#pauseMs = shortestPauseMs
        this.#tell()
      }
      this.#asking.delete(nodeId)
    } catch (error) {
      this.#asking.delete(nodeId)
      this.#failed(error)
    }
  }

  /** `bytes` and `waitMs`: for each partition, and for something new. */
  async #fetch(broker: Broker, readings: readonly Reading[], bytes: number, waitMs: number): Promise<void> {
    try {
      await this.#fetchAll(broker, readings, bytes, waitMs)
    } catch (error) {
      if (typeOf(error) === 'OFFSET_OUT_OF_RANGE') {
        await this.#backInRange(readings)
        return
      }
      if (!isOfPartition(error)) throw error
      const [first] = readings
      // The answer does not say of which partition.
      if (readings.length > 1) {
        for (const reading of readings) if (this.#isWanted(reading)) await this.#fetch(broker, [reading], bytes, 0)
      } else if (first !== undefined) {
        if (bytes > 1) await this.#fetchByBatch(broker, first)
        else this.#standStill(first, error)
      }
    }
  }

  /** What comes before that which cannot be decoded: an answer always has one batch, however few bytes it may have. */
  async #fetchByBatch(broker: Broker, reading: Reading): Promise<void> {
    let before: number
    do {
      before = reading.offset
      await this.#fetch(broker, [reading], 1, 0)
    } while (reading.offset > before && this.#isWanted(reading))
  }

  #isWanted(reading: Reading): boolean {
    const { topic, partition, isPaused, rest } = reading
    return !isPaused && rest === undefined && this.#readings.get(nameOf(topic, partition)) === reading
  }

  async #fetchAll(broker: Broker, readings: readonly Reading[], bytes: number, waitMs: number): Promise<void> {
    const asked = readings.map((reading) => ({ reading, offset: reading.offset }))
    const { responses } = await broker.fetch({
      isolationLevel: readCommitted,
      maxWaitTime: waitMs,
      minBytes: 1,
      maxBytes: bytesPerFetch,
      topics: byTopic(readings, bytes),
    })
    for (const { topicName, partitions } of responses) {
      for (const fetched of partitions) {
        const reading = this.#readings.get(nameOf(topicName, fetched.partition))
        const before = asked.find((one) => one.reading === reading)
        // It was taken from us, or begun anew, while the answer was on its way.
        if (reading === undefined || before === undefined || reading.offset !== before.offset) continue
        const last = fetched.messages.at(-1)
        if (last === undefined) {
          this.#sawNothing(reading, fetched, readings.length === 1)
          continue
        }
        reading.empty = 0
        const from = reading.offset
        const messages = committedMessages(topicName, String(from), fetched)
        const first = messages.findIndex(({ offset }) => Number(offset) >= from)
        const given = first < 0 ? [] : messages.slice(first)
        this.#give(reading, Number(last.offset) + 1, given, Number(fetched.highWatermark))
      }
    }
  }

  /** What belongs to an open transaction is behind the stable offset: it may still come. */
  #sawNothing(reading: Reading, { lastStableOffset }: FetchedPartition, isAlone: boolean): void {
    reading.why = undefined
    reading.restMs = shortestRestMs
    if (reading.offset >= Number(lastStableOffset)) return
    // Where the broker is slow to bring it, others have their turn meanwhile.
    reading.empty = isAlone ? 0 : reading.empty + 1
  }

  #give(reading: Reading, next: number, messages: readonly FetchedMessage[], end: number): void {
    const { offset } = reading
    reading.offset = next
    try {
      reading.received(messages, end, next)
      reading.why = undefined
      reading.restMs = shortestRestMs
    } catch (error) {
      reading.offset = offset
      this.#standStill(reading, error)
    }
  }

  /** Others go on meanwhile. It is asked for again later, and alone. */
  #standStill(reading: Reading, error: unknown): void {
    const { topic, partition, offset, restMs, failed } = reading
    if (this.#readings.get(nameOf(topic, partition)) !== reading) return
    if (failed !== undefined) {
      this.stop(topic, partition)
      failed(error)
      return
    }
    reading.why = `${topic}/${partition} at offset ${offset}: ${messageOf(error)}`
    reading.restMs = Math.min(longestRestMs, restMs * 2)
    reading.rest = setTimeout(() => {
      reading.rest = undefined
      this.#start()
    }, restMs)
  }

  /** Unless nothing can be read at all, which was told. */
  #tell(): void {
    if (this.#retry !== undefined) return
    const why = [...this.#readings.values()].find(({ why }) => why !== undefined)?.why
    this.#parts.trouble(why === undefined ? undefined : `Kafka cannot be read: ${why}`)
  }

  /** The answer does not say of which partition: each is compared with what there is. */
  async #backInRange(readings: readonly Reading[]): Promise<void> {
    const of = (fromBeginning: boolean) =>
      this.#cluster.fetchTopicsOffset(byTopic(readings, 0).map((topic) => ({ ...topic, fromBeginning })))
    const bounds = new Map<string, { first: number; end: number }>()
    for (const { topic, partitions } of await of(true)) {
      for (const { partition, offset } of partitions) {
        bounds.set(nameOf(topic, partition), { first: Number(offset), end: Number.POSITIVE_INFINITY })
      }
    }
    for (const { topic, partitions } of await of(false)) {
      for (const { partition, offset } of partitions) {
        const bound = bounds.get(nameOf(topic, partition))
        if (bound !== undefined) bound.end = Number(offset)
      }
    }
    for (const reading of readings) {
      const { topic, partition, offset } = reading
      const bound = bounds.get(nameOf(topic, partition))
      if (bound === undefined || (offset >= bound.first && offset <= bound.end)) continue
      // It was taken from us, or begun anew, while we asked.
      if (this.#readings.get(nameOf(topic, partition)) !== reading) continue
      const next = offset < bound.first ? bound.first : bound.end
      this.#parts.skipped(topic, partition, offset, next)
      this.#give(reading, next, [], bound.end)
    }
  }

  #leaders(): Promise<Leaders> {
    return this.#withoutGone(() => this.#leadersNow())
  }

  async #leadersNow(): Promise<Leaders> {
    const topics = new Map<string, Reading[]>()
    for (const reading of this.#readings.values()) {
      if (reading.isPaused || reading.rest !== undefined) continue
      const readings = topics.get(reading.topic) ?? []
      readings.push(reading)
      topics.set(reading.topic, readings)
    }
    const leaders = new Map<string, Reading[]>()
    if (topics.size === 0) return leaders
    await this.#connect([...topics.keys()])
    for (const [topic, readings] of topics) {
      const byLeader = this.#cluster.findLeaderForPartitions(
        topic,
        readings.map(({ partition }) => partition),
      )
      for (const [nodeId, partitions] of Object.entries(byLeader)) {
        if (Number(nodeId) === noLeader) continue
        const led = leaders.get(nodeId) ?? []
        led.push(...readings.filter(({ partition }) => partitions.includes(partition)))
        leaders.set(nodeId, led)
      }
      const known = Object.values(byLeader).flat()
      for (const reading of readings) {
        const isLeaderless = byLeader[noLeader]?.includes(reading.partition) === true
        if (known.includes(reading.partition) && !isLeaderless) continue
        // It is asked about anew when it is added anew.
        this.#cluster.targetTopics.delete(topic)
        this.#standStill(reading, new Error(isLeaderless ? 'it has no leader' : 'the topic has no such partition'))
      }
    }
    return leaders
  }

  /** Where a topic is gone, `act` is tried once more without it. */
  async #withoutGone<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act()
    } catch (error) {
      if (!goneTypes.includes(typeOf(error))) throw error
      await this.#leaveOutGone()
      return act()
    }
  }

  async #leaveOutGone(): Promise<void> {
    const topics = await this.topics()
    for (const topic of [...this.#cluster.targetTopics]) {
      if (!topics.has(topic)) this.#cluster.targetTopics.delete(topic)
    }
    for (const reading of [...this.#readings.values()]) {
      if (topics.has(reading.topic) || reading.rest !== undefined) continue
      this.#standStill(reading, new Error('the topic is not there, or may not be read'))
    }
  }

  async #connect(topics: readonly string[]): Promise<void> {
    this.#connected ??= this.#cluster.connect()
    await this.#connected.catch((error: unknown) => {
      this.#connected = undefined
      throw error
    })
    if (topics.length > 0) await this.#cluster.addMultipleTargetTopics(topics)
  }

  #failed(error: unknown): void {
    if (this.#isClosed || this.#retry !== undefined) return
    this.#parts.trouble(`Kafka cannot be read: ${messageOf(error)}`)
    this.#retry = setTimeout(() => {
      const again = () => {
        this.#retry = undefined
        this.#start()
      }
      if (!this.#cluster.isConnected()) this.#connected = undefined
      this.#connected ??= this.#cluster.connect()
      this.#connected
        .then(() => this.#withoutGone(() => this.#cluster.refreshMetadata()))
        .then(again, () => {
          this.#connected = undefined
          again()
        })
    }, this.#pauseMs)
    this.#pauseMs = Math.min(longestPauseMs, this.#pauseMs * 2)
  }
}

/** It is not for us, or cannot be decoded: that of another may be. Anything else is about the broker, or who leads what. */
function isOfPartition(error: unknown): boolean {
  const name = error instanceof Error ? error.name : ''
  return partitionTypes.includes(typeOf(error)) || decodingErrors.includes(name) || !name.startsWith('KafkaJS')
}

function byTopic(readings: readonly Reading[], maxBytes: number): Parameters<Broker['fetch']>[0]['topics'] {
  const topics = new Map<string, { partition: number; fetchOffset: string; maxBytes: number }[]>()
  for (const { topic, partition, offset } of readings) {
    const partitions = topics.get(topic) ?? []
    partitions.push({ partition, fetchOffset: String(offset), maxBytes })
    topics.set(topic, partitions)
  }
  return [...topics].map(([topic, partitions]) => ({ topic, partitions }))
}

function nameOf(topic: string, partition: number): string {
  return `${topic}/${partition}`
}
