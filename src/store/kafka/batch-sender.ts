import { setTimeout as pause } from 'node:timers/promises'
import type { Kafka, Producer, ProducerBatch } from 'kafkajs'
import { errorOf } from './client.ts'
import { isHopeless, typeOf } from './errors.ts'

/** A record on its way to a partition that was chosen. */
export interface Outgoing {
  readonly topic: string
  readonly partition: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** In ms; the moment of sending where it is left out. */
  readonly timestamp?: number
  readonly headers?: Readonly<Record<string, Buffer>>
}

/** By partition, as `placeOf` names it. */
export interface Sent {
  /** Of which the answer says that their records are there. */
  readonly written: ReadonlySet<string>
  /** Of which it says why not. */
  readonly refused: ReadonlyMap<string, unknown>
  /** Why not all of them are. */
  readonly error: unknown
}

/** Before what was refused is sent again: a leader may just have moved. */
const pausesMs = [100, 200, 400]
const unknownTopic = 'UNKNOWN_TOPIC_OR_PARTITION'
/** kafkajs itself waits for minutes, through tries of its own. */
const silentAfterMs = 5_000

/**
 * Sends batches by kafkajs. One counts as written only where the answer names each of its partitions: kafkajs resolves a send
 * whose leader moved although some of its records were never sent.
 */
export class BatchSender {
  readonly #kafka: Kafka
  readonly #silent: (ms: number) => void
  #producer: Producer
  /** The producer must be replaced. */
  #isSpoiled = false

  /** `silent` is called where a batch has had no answer for so many ms. */
  constructor(kafka: Kafka, silent: (ms: number) => void) {
    this.#kafka = kafka
    this.#silent = silent
    this.#producer = createProducer(kafka)
  }

  connect(): Promise<void> {
    return this.#producer.connect()
  }

  disconnect(): Promise<void> {
    return this.#producer.disconnect()
  }

  /** Does not reject. What a broker refuses for the moment is sent again at first. */
  async send(records: readonly Outgoing[]): Promise<Sent> {
    const written = new Set<string>()
    const refused = new Map<string, ReturnType<typeof errorOf>>()
    const silent = setTimeout(() => this.#silent(silentAfterMs), silentAfterMs)
    try {
      let left = records
      for (const pauseMs of [...pausesMs, undefined]) {
        const answer = await this.#producer.sendBatch({ acks: -1, timeout: 10_000, ...batchOf(left) })
        refused.clear()
        for (const { topicName, partition, errorCode } of answer) {
          if (errorCode === 0) written.add(`${topicName}/${partition}`)
          else refused.set(`${topicName}/${partition}`, errorOf(errorCode))
        }
        left = left.filter((record) => refused.has(placeOf(record)))
        const errors = [...refused.values()]
        if (errors.some((one) => typeOf(one) === unknownTopic)) this.#isSpoiled = true
        if (left.length === 0 || pauseMs === undefined || errors.some((one) => !one.retriable)) break
        await pause(pauseMs)
      }
      const errors = [...refused.values()]
      const error = errors.find(isHopeless) ?? errors[0]
      return { written, refused, error: error ?? new Error('a broker did not answer for some of the partitions') }
    } catch (error) {
      if (typeOf(error) === unknownTopic) this.#isSpoiled = true
      return { written, refused, error }
    } finally {
      clearTimeout(silent)
    }
  }

  /** A topic that was deleted spoils a producer of kafkajs for all new ones. */
  async replaceIfSpoiled(): Promise<void> {
    if (!this.#isSpoiled) return
    const old = this.#producer
    this.#producer = createProducer(this.#kafka)
    const [connected] = await Promise.allSettled([this.#producer.connect(), old.disconnect()])
    // One that never connected refuses all that it is given.
    this.#isSpoiled = connected.status === 'rejected'
  }
}

export function placeOf({ topic, partition }: Outgoing): string {
  return `${topic}/${partition}`
}

function createProducer(kafka: Kafka): Producer {
  return kafka.producer({
    allowAutoTopicCreation: false,
    metadataMaxAge: 60_000,
    createPartitioner:
      () =>
      ({ message }) =>
        message.partition ?? 0,
    retry: { retries: 3, initialRetryTime: 100, maxRetryTime: 1_000 },
  })
}

type Messages = NonNullable<ProducerBatch['topicMessages']>[number]['messages']

function batchOf(records: readonly Outgoing[]): Pick<ProducerBatch, 'topicMessages'> {
  const topics = new Map<string, Messages>()
  for (const { topic, partition, key, value, timestamp, headers = {} } of records) {
    const messages = topics.get(topic) ?? []
    const message: Messages[number] = { partition, key, value, headers }
    if (timestamp !== undefined) message.timestamp = String(timestamp)
    messages.push(message)
    topics.set(topic, messages)
  }
  return { topicMessages: [...topics].map(([topic, messages]) => ({ topic, messages })) }
}

/** Whether any broker does, however long it takes to find out. */
export async function answers(kafka: Kafka): Promise<boolean> {
  const admin = kafka.admin({ retry: { retries: 3, initialRetryTime: 100, maxRetryTime: 1_000 } })
  try {
    await admin.connect()
    await admin.describeCluster()
    return true
  } catch {
    return false
  } finally {
    // What is asked is known by then.
    await admin.disconnect().catch(() => undefined)
  }
}
