import type { Kafka, Producer, ProducerBatch } from 'kafkajs'
import { ServiceError } from '../../base/errors.ts'

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

interface Item {
  readonly records: readonly Outgoing[]
  readonly bytes: number
  /** Given up after a while, unlike what must not be lost. */
  readonly refuse: ((error: ServiceError) => void) | undefined
  readonly deadline: number
  readonly done: () => void
}

export interface WriterParts {
  readonly kafka: Kafka
  /** Why nothing can be written at the moment, in a sentence; undefined when all is well again. */
  trouble(why: string | undefined): void
  /** One batch was acknowledged after so many ms. */
  committed(ms: number): void
}

const lingerMs = 2
const recordsAtOnce = 5_000
const bytesAtOnce = 8_388_608
/** The broker judges a partition's part of a batch as one message, 1 MiB by default. */
const bytesPerPartition = 786_432
const overheadPerRecord = 64
const itemsWaitingAtMost = 50_000
const bytesWaitingAtMost = 67_108_864
const refuseAfterMs = 10_000
const shortestPauseMs = 100
const longestPauseMs = 5_000

/** Errors that the next try would meet again, whatever becomes of the brokers. */
export const hopeless: readonly string[] = [
  'MESSAGE_TOO_LARGE',
  'RECORD_LIST_TOO_LARGE',
  'TOPIC_AUTHORIZATION_FAILED',
  'INVALID_TOPIC_EXCEPTION',
  'INVALID_RECORD',
  'INVALID_TIMESTAMP',
]

/**
 * Writes records in the order in which they were handed in, one batch on its way at a time: what comes meanwhile is the next
 * one. A batch counts as written only where the answer names each of its partitions: kafkajs resolves a send whose leader
 * moved although some of its records were never sent.
 */
export class Writer {
  readonly #parts: WriterParts
  #producer: Producer
  readonly #items: Item[] = []
  #records = 0
  #bytes = 0
  #isOnItsWay = false
  #isStopped = false
  #trouble: string | undefined
  #timer: NodeJS.Timeout | undefined
  #whenIdle: (() => void) | undefined

  constructor(parts: WriterParts) {
    this.#parts = parts
    this.#producer = createProducer(parts.kafka)
  }

  get isBusy(): boolean {
    return this.#records > itemsWaitingAtMost || this.#bytes > bytesWaitingAtMost
  }

  get trouble(): string | undefined {
    return this.#trouble
  }

  /** Rejects where no broker answers; what is written then is tried all the same. */
  async connect(): Promise<void> {
    await this.#producer.connect()
  }

  /** `done` is called once all of them are written. They are never given up. */
  write(records: readonly Outgoing[], done: () => void): void {
    this.#enqueue(records, undefined, done)
  }

  /** As `write`, but refused where the brokers do not take them for some time. Refused ones may have been written. */
  tryWrite(records: readonly Outgoing[], done: () => void, refuse: (error: ServiceError) => void): void {
    this.#enqueue(records, refuse, done)
  }

  /** Resolves when all is written, or cannot be. */
  async close(): Promise<void> {
    if (this.#items.length > 0 && this.#trouble === undefined) {
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve
      })
    }
    await this.cut()
  }

  /** As if the process had died. */
  async cut(): Promise<void> {
    this.#isStopped = true
    clearTimeout(this.#timer)
    for (const { refuse } of this.#items) refuse?.(closed())
    this.#items.length = 0
    await this.#producer.disconnect()
  }

  #enqueue(records: readonly Outgoing[], refuse: Item['refuse'], done: () => void): void {
    if (this.#isStopped) {
      refuse?.(closed())
      return
    }
    let bytes = 0
    for (const record of records) bytes += sizeOf(record)
    this.#items.push({ records, bytes, refuse, deadline: Date.now() + refuseAfterMs, done })
    this.#records += records.length
    this.#bytes += bytes
    if (this.#isOnItsWay) return
    if (this.#records >= 256) this.#startSoon()
    else this.#timer ??= setTimeout(() => this.#start(), lingerMs)
  }

  #startSoon(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#start(), 0)
  }

  #start(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#isOnItsWay || this.#isStopped) return
    if (this.#items.length === 0) {
      this.#whenIdle?.()
      return
    }
    this.#isOnItsWay = true
    void this.#writeNext().finally(() => {
      this.#isOnItsWay = false
      this.#start()
    })
  }

  /** Takes as many items as fit one batch, and stays with them until they are written or refused. */
  async #writeNext(): Promise<void> {
    const items = this.#items.splice(0, this.#countOfNext())
    try {
      await this.#insist(items)
    } finally {
      for (const item of items) {
        this.#records -= item.records.length
        this.#bytes -= item.bytes
      }
    }
  }

  #countOfNext(): number {
    let records = 0
    let bytes = 0
    const perPartition = new Map<string, number>()
    for (const [index, item] of this.#items.entries()) {
      records += item.records.length
      bytes += item.bytes
      let isPartitionFull = false
      for (const record of item.records) {
        const name = `${record.topic}/${record.partition}`
        const sum = (perPartition.get(name) ?? 0) + sizeOf(record)
        perPartition.set(name, sum)
        isPartitionFull ||= sum > bytesPerPartition
      }
      if (index > 0 && (records > recordsAtOnce || bytes > bytesAtOnce || isPartitionFull)) return index
    }
    return this.#items.length
  }

  async #insist(items: readonly Item[]): Promise<void> {
    let left: readonly Outgoing[] = items.flatMap(({ records }) => records)
    for (let pauseMs = shortestPauseMs; !this.#isStopped; pauseMs = Math.min(longestPauseMs, pauseMs * 2)) {
      const began = performance.now()
      const told = await this.#send(left)
      left = told.left
      if (left.length === 0) {
        this.#parts.committed(performance.now() - began)
        this.#tell(undefined)
        for (const { done } of items) done()
        return
      }
      if (told.error !== undefined && hopeless.includes(typeOf(told.error))) {
        const [only] = items
        if (items.length > 1) {
          // One of them is at fault: the others must not suffer for it.
          for (const item of items) await this.#insist([item])
          return
        }
        if (only?.refuse !== undefined) {
          only.refuse(new ServiceError('STORE_REFUSED', explain(told.error, only.records), { cause: told.error }))
          return
        }
      }
      this.#tell(`Kafka does not take what is written: ${sentence(told.error)}`)
      if (items.every(({ refuse, deadline }) => refuse !== undefined && Date.now() > deadline)) {
        for (const { refuse } of items) refuse?.(unavailable(told.error))
        return
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
      if (told.error !== undefined && typeOf(told.error) === 'UNKNOWN_TOPIC_OR_PARTITION') await this.#reconnect()
    }
    for (const { refuse } of items) refuse?.(closed())
  }

  /** What the answer does not say to be written. */
  async #send(records: readonly Outgoing[]): Promise<{ readonly left: readonly Outgoing[]; readonly error?: unknown }> {
    try {
      const answer = await this.#producer.sendBatch({ acks: -1, timeout: 10_000, ...batchOf(records) })
      const written = new Set<string>()
      let error: unknown
      for (const { topicName, partition, errorCode } of answer) {
        if (errorCode === 0) written.add(`${topicName}/${partition}`)
        else error = new Error(`a broker answered ${errorCode} for ${topicName}/${partition}`)
      }
      const left = records.filter(({ topic, partition }) => !written.has(`${topic}/${partition}`))
      return { left, error: error ?? new Error('a broker did not answer for some of the partitions') }
    } catch (error) {
      return { left: records, error }
    }
  }

  /** A topic that was deleted spoils a producer of kafkajs for all new ones. */
  async #reconnect(): Promise<void> {
    const old = this.#producer
    this.#producer = createProducer(this.#parts.kafka)
    await Promise.allSettled([old.disconnect(), this.#producer.connect()])
  }

  #tell(trouble: string | undefined): void {
    if (trouble === this.#trouble) return
    this.#trouble = trouble
    this.#parts.trouble(trouble)
    if (trouble !== undefined) this.#whenIdle?.()
  }
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
  for (const { topic, partition, key, value, timestamp, headers } of records) {
    const messages = topics.get(topic) ?? []
    messages.push({
      partition,
      key,
      value,
      ...(timestamp === undefined ? {} : { timestamp: String(timestamp) }),
      ...(headers === undefined ? {} : { headers }),
    })
    topics.set(topic, messages)
  }
  return { topicMessages: [...topics].map(([topic, messages]) => ({ topic, messages })) }
}

function sizeOf({ key, value }: Outgoing): number {
  return (key?.length ?? 0) + (value?.length ?? 0) + overheadPerRecord
}

/** Kafka's name of the error; empty where it has none. */
export function typeOf(error: unknown): string {
  if (typeof error !== 'object' || error === null) return ''
  if ('type' in error && typeof error.type === 'string') return error.type
  return 'cause' in error ? typeOf(error.cause) : ''
}

export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function explain(error: unknown, records: readonly Outgoing[]): string {
  const topics = [...new Set(records.map(({ topic }) => topic))].join(', ')
  switch (typeOf(error)) {
    case 'MESSAGE_TOO_LARGE':
    case 'RECORD_LIST_TOO_LARGE':
      return `an event is larger than max.message.bytes of ${topics} allows; raise it there, or lower intake.max_body`
    case 'TOPIC_AUTHORIZATION_FAILED':
      return `Kafka does not allow this user to write to ${topics}; grant it WRITE and DESCRIBE there`
    default:
      return `Kafka refuses what is written to ${topics}: ${sentence(error)}`
  }
}

function unavailable(error: unknown): ServiceError {
  return new ServiceError('STORE_UNAVAILABLE', `Kafka does not answer: ${sentence(error)}`, { cause: error })
}

function closed(): ServiceError {
  return new ServiceError('STORE_CLOSED', 'the service is stopping; nothing was stored')
}
