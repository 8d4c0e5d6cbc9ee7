import type { Kafka } from 'kafkajs'
import type { Clock } from '../../base/clock.ts'
import { messageOf, ServiceError } from '../../base/errors.ts'
import type { NewEvent } from '../../event/event.ts'
import type { RefusedEvent } from '../store.ts'
import type { Outgoing } from './batch-sender.ts'
import { isHopeless, leaderlessFor, RefusedError, reservedFor, tooLargeFor } from './errors.ts'
import { defaultPartitionKey, partitionOf } from './partition.ts'
import type { Streams } from './streams.ts'
import type { Topics } from './topics.ts'
import { sizeOf, type Writer } from './writer.ts'

export interface AppenderParts {
  readonly kafka: Kafka
  readonly topics: Topics
  readonly clock: Clock
  readonly writer: Writer
  readonly streams: Streams
  /** By stream: what of an event keeps its order; undefined for nothing. The default is its wiki and page. */
  readonly partitionKeys: ReadonlyMap<string, (event: NewEvent) => string | undefined>
}

const placeWaitMs = 10_000
const placePollMs = 100

/** Writes what is posted to the topics of its streams, and makes those that are not there. */
export class Appender {
  readonly #parts: AppenderParts
  /** By stream: its topic is being seen to. */
  readonly #placing = new Map<string, Promise<void>>()
  /** Of events without a key: each post goes to the next partition. */
  #round = 0

  constructor(parts: AppenderParts) {
    this.#parts = parts
  }

  async append(events: readonly NewEvent[]): Promise<readonly RefusedEvent[]> {
    const { topics, clock, writer, streams } = this.#parts
    const asked = [...new Set(events.map(({ stream }) => stream))]
    const barred = new Map((await Promise.all(asked.map((stream) => this.#barred(stream)))).flat())
    const timestamp = clock.now()
    this.#round += 1
    const refused: RefusedEvent[] = []
    const sent = new Map<Outgoing, NewEvent>()
    for (const event of events) {
      const record = this.#recordOf(event, timestamp)
      const { topic, partition } = record
      const size = sizeOf(record)
      let error = barred.get(event.stream)
      if (streams.partitionsOf(topic)?.leaderless.includes(partition)) error ??= leaderlessFor(topic)
      if (size > topics.largestBatch(topic) && (await this.#isTooLarge(size, topic))) error ??= tooLargeFor(topic)
      if (error === undefined) sent.set(record, event)
      else refused.push(refusal(event, error))
    }
    if (writer.isBusy) {
      throw new ServiceError('STORE_BUSY', 'more is being posted than Kafka keeps up with; nothing was stored')
    }
    for (const { record, error } of await writer.tryWrite([...sent.keys()])) {
      const event = sent.get(record)
      if (event === undefined || !(error instanceof RefusedError)) throw error
      refused.push(refusal(event, error))
    }
    return refused
  }

  #recordOf(event: NewEvent, timestamp: number): Outgoing {
    const { topics, streams, partitionKeys } = this.#parts
    const { stream, message, bytes } = event
    const topic = topics.ofStream(stream)
    const { count } = streams.partitionsOf(topic) ?? { count: 1 }
    const keyOf = partitionKeys.get(stream)
    const key = keyOf === undefined ? defaultPartitionKey(message) : keyOf(event)
    return {
      topic,
      partition: key === undefined ? this.#round % count : partitionOf(key, count),
      key: key === undefined ? null : Buffer.from(key),
      value: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
      timestamp,
    }
  }

  /** Why nothing can be written to a stream, if that is so. */
  async #barred(stream: string): Promise<readonly (readonly [string, RefusedError])[]> {
    const topic = this.#parts.topics.ofStream(stream)
    if (this.#parts.topics.isReserved(topic)) return [[stream, reservedFor(topic)]]
    try {
      await this.#placed(stream)
      return []
    } catch (error) {
      if (error instanceof RefusedError) return [[stream, error]]
      throw error
    }
  }

  /** As the topic was last seen; before an event is refused it is looked at again. */
  async #isTooLarge(size: number, topic: string): Promise<boolean> {
    try {
      return size > (await this.#parts.topics.lookUpLargestBatch(this.#parts.kafka, topic))
    } catch (error) {
      throw new ServiceError('STORE_UNAVAILABLE', `Kafka does not answer: ${messageOf(error)}`, { cause: error })
    }
  }

  /** There is a topic for it, and if somebody wants it, it is settled from where it is read: nothing is before that. */
  #placed(stream: string): Promise<void> | undefined {
    if (this.#parts.streams.isPlaced(stream)) return undefined
    const found = this.#placing.get(stream)
    if (found !== undefined) return found
    const placing = this.#place(stream).finally(() => this.#placing.delete(stream))
    this.#placing.set(stream, placing)
    return placing
  }

  async #place(stream: string): Promise<void> {
    const { kafka, topics, streams } = this.#parts
    const topic = topics.ofStream(stream)
    const deadline = Date.now() + placeWaitMs
    let why: unknown = new Error('no process has taken over its partitions yet')
    while (Date.now() < deadline && !streams.isClosed) {
      try {
        if (streams.partitionsOf(topic) === undefined) await topics.createStream(kafka, topic)
        await streams.look(stream)
        if (streams.isPlaced(stream)) return
      } catch (error) {
        why = error
        if (isHopeless(error)) throw new RefusedError(error, topic)
      }
      await new Promise((resolve) => setTimeout(resolve, placePollMs))
    }
    throw new RefusedError(new Error(`the topic ${topic} is not ready: ${messageOf(why)}`, { cause: why }), topic)
  }
}

function refusal(event: NewEvent, { message, isOurs }: RefusedError): RefusedEvent {
  return { event, why: message, ours: isOurs }
}
