import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Kafka, KafkaConfig } from 'kafkajs'
import { type Clock, systemClock } from '../../base/clock.ts'
import { messageOf, ServiceError } from '../../base/errors.ts'
import { metaIdOf, type NewEvent, type StreamRecord } from '../../event/event.ts'
import {
  type DeadLetter,
  type DeliveryEntry,
  type DeliveryFilter,
  type Durable,
  deliveryStates,
  type EventEntry,
  type Key,
  type Lane,
  type LaneBacklog,
  type Page,
  type RefusedEvent,
  type Routable,
  type Settlement,
  type Standing,
  type Store,
  type StoredDelivery,
  type StoreHealth,
  type StoreListener,
  type Taken,
  type Within,
} from '../store.ts'
import { StoreThread } from '../thread.ts'
import { Appender } from './appender.ts'
import { atMost, createClient, type Tell } from './client.ts'
import { typeOf } from './errors.ts'
import { Journal } from './journal.ts'
import { eventIdOf, KafkaRecord } from './kafka-record.ts'
import { KeysTopic } from './keys-topic.ts'
import { type LettersOf, readLetters } from './letters.ts'
import { Membership } from './membership.ts'
import { Reader } from './reader.ts'
import { RootsTopic } from './roots-topic.ts'
import { searchStream } from './search.ts'
import type { ShardInputs, ShardOutputs, ShardThread } from './shard-protocol.ts'
import { Streams } from './streams.ts'
import { Topics } from './topics.ts'
import { WorkTopic } from './work-topic.ts'
import { Writer } from './writer.ts'

export interface KafkaStoreOptions {
  /** How to reach the brokers. */
  readonly client: KafkaConfig
  readonly service: string
  readonly prefix: string
  readonly consumePrefixes: readonly string[]
  readonly partitions: number
  readonly replication: number
  /** In bytes. */
  readonly largestEvent: number
  /** A folder for what can be made again from the brokers; a temporary one where it is undefined. */
  readonly scratch?: string | undefined
  /** By stream: what of an event keeps its order; undefined for nothing. The default is its wiki and page. */
  readonly partitionKeys?: ReadonlyMap<string, (event: NewEvent) => string | undefined>
  readonly tell: Tell
  readonly clock?: Clock
}

const shardsThread = new URL('./shards', import.meta.url)
const commitEveryMs = 50
const topicsEveryMs = 2_000
const lagEveryMs = 5_000
const forgetEveryMs = 5_000
const connectPauseMs = 1_000
const leaveMs = 5_000
const silentLeaveMs = 1_000

/** What there is once the store is open. */
interface Parts {
  readonly kafka: Kafka
  readonly listener: StoreListener
  readonly thread: ShardThread
  readonly writer: Writer
  /** Each has connections of its own: where streams are read no further, what is asked of the others may wait for long. */
  readonly streamReader: Reader
  readonly workReader: Reader
  readonly journalReader: Reader
  /** What somebody asks for. */
  readonly archive: Reader
  readonly journal: Journal
  readonly membership: Membership
  readonly streams: Streams
  readonly appender: Appender
  readonly work: WorkTopic
  readonly roots: RootsTopic
  readonly folder: string
}

export function createKafkaStore(options: KafkaStoreOptions): Store {
  return new KafkaStore(options)
}

/**
 * Everything in topics, shared by as many processes as there are. Each owns some partitions of the work topic, and with them
 * partitions of the streams. README.md tells what is durable before what.
 */
class KafkaStore implements Store {
  readonly description: string
  /** It is written, read back and removed. */
  readonly rowCost = 3
  /** Between two commits of positions. */
  readonly settleMs = commitEveryMs
  readonly #options: KafkaStoreOptions
  readonly #clock: Clock
  readonly #topics: Topics
  #parts: Parts | undefined
  #isClosed = false
  readonly #troubles = new Map<string, string>()
  #health: StoreHealth
  readonly #timers = new Set<NodeJS.Timeout>()

  constructor(options: KafkaStoreOptions) {
    const { client, service } = options
    this.description = `Kafka at ${Array.isArray(client.brokers) ? client.brokers.join(', ') : 'its brokers'}, as ${service}`
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#topics = new Topics(options)
    this.#troubles.set('start', 'Kafka is not ready yet')
    this.#troubles.set('group', 'not a member of the consumer group yet')
    this.#health = this.#assess()
  }

  /** Resolves at once: brokers may be away. Lanes come by `rows` when this process has taken over its part. */
  async open(listener: StoreListener): Promise<readonly LaneBacklog[]> {
    if (this.#parts !== undefined) throw new Error('a store is opened once')
    const { client, tell, scratch, partitions, largestEvent, partitionKeys = new Map() } = this.#options
    const folder =
      scratch === undefined ? await mkdtemp(join(tmpdir(), 'changeprop-work-')) : join(scratch, randomUUID())
    const topics = this.#topics
    const clock = this.#clock
    const kafka = createClient(client, tell)
    const thread: ShardThread = new StoreThread<ShardInputs, ShardOutputs>(shardsThread, (error) => this.#break(error))
    const writer = new Writer({
      kafka,
      trouble: (why) => this.#trouble('writer', why),
      largestBatch: (topic) => topics.largestBatch(topic),
      tooLarge: (topic) => {
        topics.lookUpLargestBatch(kafka, topic).catch((error: unknown) => {
          tell('warn', `max.message.bytes of ${topic} cannot be read: ${messageOf(error)}`)
        })
      },
      committed: (ms) => listener.committed(ms),
    })
    const readerFor = (what: string) =>
      new Reader({
        kafka,
        trouble: (why) => this.#trouble(`reader of ${what}`, why),
        skipped: (topic, partition, from, to) =>
          tell('error', `${topic}/${partition}: records from ${from} on are not there any more; it goes on at ${to}`),
      })
    const streamReader = readerFor('streams')
    const workReader = readerFor('work')
    const journalReader = readerFor('the journal')
    const archive = new Reader({ kafka, trouble: () => undefined, skipped: () => undefined })
    const membership = new Membership({
      kafka,
      group: topics.group,
      topic: topics.work,
      assigned: (owned) => {
        if (this.#isClosed) return
        work.assigned(owned)
        listener.shared(owned.length / partitions)
      },
      trouble: (why) => this.#trouble('group', why),
    })
    const journal = new Journal(kafka, archive, topics.journal, partitions)
    const keys = new KeysTopic({ topic: topics.keys, thread, reader: workReader })
    const work = new WorkTopic({
      ...{ topics, partitions, folder, clock, thread, writer, reader: workReader, keys, listener },
      restored: () => streams.refresh(),
      lost: (owned) => streams.drop(owned),
      finished: (record) => streams.finish(record),
      deadChanged: () => this.#assessAnew(),
      trouble: (partition, why) => this.#trouble(`part ${partition}`, why),
      later: (ms, work) => this.#later(ms, work),
      broken: (error) => this.#break(error),
    })
    const roots = new RootsTopic({
      ...{ topic: topics.roots, partitions, folder, thread, reader: workReader },
      broken: (error) => this.#break(error),
    })
    const streams = new Streams({
      ...{
        kafka,
        topics,
        clock,
        thread,
        reader: streamReader,
        membership,
        // What somebody looks up may take long, and no source is to wait for that.
        journal: new Journal(kafka, journalReader, topics.journal, partitions),
        largestEvent,
      },
      ready: (partition) => work.ready(partition),
      beginning: (owned) => work.begin(owned),
      isNews: (record) => work.handOver.isNews(record),
      takeUp: (rows) => work.handOver.takeUp(rows, (row) => streams.finish(row)),
      told: () => writer.written(),
      trouble: (why) => {
        if (!this.#isClosed) this.#trouble('streams', why)
      },
      later: (ms, work) => this.#later(ms, work),
      commitNow: () => {
        streams.commit().catch((error: unknown) => this.#tellFailure(error))
      },
    })
    const appender = new Appender({ kafka, topics, clock, writer, streams, partitionKeys })
    this.#parts = {
      ...{
        kafka,
        listener,
        thread,
        writer,
        streamReader,
        workReader,
        journalReader,
        archive,
        journal,
        membership,
        streams,
        appender,
        work,
        roots,
        folder,
      },
    }
    this.#connect()
    return []
  }

  async close(): Promise<void> {
    const parts = this.#parts
    if (parts === undefined || this.#isClosed) return
    this.#isClosed = true
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
    this.#trouble('closed', 'the service is stopping; nothing was stored')
    const { writer, thread, membership, streams, work, folder } = parts
    streams.close()
    await work.flushed()
    await writer.close()
    const takeLeave = async () => {
      await streams
        .commit()
        .catch((error: unknown) => this.#options.tell('warn', `the last commit: ${messageOf(error)}`))
      await membership.leave()
      const readers = [parts.streamReader, parts.workReader, parts.journalReader, parts.archive]
      await Promise.allSettled(readers.map((reader) => reader.close()))
    }
    // Without an answer kafkajs would go on asking for most of a minute; who has not left is missed after his session.
    await atMost(writer.trouble === undefined ? leaveMs : silentLeaveMs, takeLeave())
    work.close()
    await thread.end(closed())
    await rm(folder, { recursive: true, force: true })
  }

  get isWary(): boolean {
    return this.#parts?.streams.isWary === true
  }

  health(): StoreHealth {
    return this.#health
  }

  async append(events: readonly NewEvent[]): Promise<readonly RefusedEvent[]> {
    if (this.#isClosed) throw closed()
    const { accepting, trouble } = this.#health
    if (!accepting) throw new ServiceError('STORE_NOT_READY', trouble ?? 'Kafka does not answer')
    return events.length === 0 ? [] : this.#ready.appender.append(events)
  }

  isKeyFree(record: StreamRecord, rule: string, key: Key): boolean {
    return !this.#isClosed && this.#ready.work.isKeyFree(record, rule, key)
  }

  confine(limits: ReadonlyMap<string, number>): ReadonlySet<string> {
    return this.#ready.work.confine(limits)
  }

  isElsewhere(record: StreamRecord, rule: string, standing: Standing | undefined): boolean {
    return this.#ready.work.isElsewhere(record, rule, standing)
  }

  isOurs(record: StreamRecord): boolean {
    return record instanceof KafkaRecord && !record.owned.isLost
  }

  subscribe(wants: (stream: string) => boolean): void {
    this.#ready.streams.subscribe(wants)
  }

  next(limit: number): Promise<readonly Routable[]> {
    return this.#ready.streams.next(limit)
  }

  routed(record: StreamRecord, inMemory: number): void {
    this.#ready.work.routed(record, inMemory)
  }

  settle(settlement: Settlement, durable?: Durable): void {
    // Once the store has ended this is as if the process had died before the decision: the delivery comes again.
    if (!this.#isClosed) this.#ready.work.settle(settlement, durable)
  }

  async take(lane: Lane, now: number, limit: number): Promise<Taken> {
    const { thread, work } = this.#ready
    // Of what is ours when the thread is asked: it answers in turn.
    const parts = work.parts()
    const { rows, nextUntil } = await thread.ask('take', { lane, now, limit }).catch((error: unknown) => {
      // Rows that cannot be read would wait for ever, and nobody would know.
      this.#break(error)
      throw error
    })
    const deliveries: StoredDelivery[] = []
    for (const row of rows) {
      const { partition, event, bytes, ...rest } = row
      const part = parts.get(partition)
      deliveries.push({ lane, record: new KafkaRecord(event, bytes, part ?? { partition, isLost: true }), ...rest })
    }
    return { deliveries, nextUntil }
  }

  /** Rows that run are told as such; nothing else is. */
  running(): void {}

  find(id: string, within?: Within): Promise<readonly EventEntry[]> {
    return answered(this.#find(id, within))
  }

  async #find(id: string, within?: Within): Promise<readonly EventEntry[]> {
    const { kafka, journal, archive, streams } = this.#ready
    const found = await journal.find(id)
    if (found.length === 0 && within !== undefined) {
      const records = await searchStream({ kafka, reader: archive, topics: this.#topics }, id, within)
      return records.map((record) => ({
        record,
        metaId: metaIdOf(record.bytes),
        routed: streams.isFinished(record.origin),
        deliveries: [],
      }))
    }
    return Promise.all(
      found.map(async ({ event, metaId, deliveries }) => {
        const [topic, partition, offset] = event.origin
        let bytes: Uint8Array = new Uint8Array(0)
        await archive.one(topic, partition, offset, (value, time) => {
          if (eventIdOf(time, event.origin) === event.id) bytes = Uint8Array.from(value)
        })
        return {
          record: new KafkaRecord(event, bytes, { partition, isLost: true }),
          metaId,
          routed: streams.isFinished(event.origin),
          deliveries,
        }
      }),
    )
  }

  deliveries({ rule, state, limit, cursor }: DeliveryFilter): Promise<Page<DeliveryEntry>> {
    const states = state === undefined ? [0, 1, 3, 4] : state === 'waiting' ? [0, 4] : [deliveryStates.indexOf(state)]
    return this.#ready.thread.ask('deliveries', { rule, states, limit, cursor })
  }

  async deadLetters(filter: {
    rule?: string
    ids?: readonly string[]
    limit: number
    cursor?: string
  }): Promise<Page<DeadLetter>> {
    const { rule, ids, limit, cursor } = filter
    const [from = 0, place = -1] = cursor?.split('.').map(Number) ?? []
    const items: DeadLetter[] = []
    for (let partition = from; partition < this.#options.partitions; partition += 1) {
      const of = { rule, ids, limit: limit - items.length, after: partition === from ? place : -1 }
      const page = await this.#lettersOf(partition, of)
      items.push(...page.letters)
      if (page.after !== undefined) return { items, cursor: `${partition}.${page.after}` }
    }
    return { items, cursor: undefined }
  }

  async #lettersOf(
    partition: number,
    of: LettersOf,
  ): Promise<{ readonly letters: readonly DeadLetter[]; readonly after: number | undefined }> {
    const { thread, archive, work } = this.#ready
    const part = work.ready(partition)
    if (part === undefined) return answered(readLetters(archive, this.#topics.work, partition, of))
    const { letters, after } = await thread.ask('letters', { partition, ...of })
    return {
      letters: letters.map(({ partition: _, event, bytes, ...rest }): DeadLetter => {
        // Should the partition be lost before it is settled, it is handed over.
        return { ...rest, record: new KafkaRecord(event, bytes, { partition, isLost: false }) }
      }),
      after,
    }
  }

  lag(): ReadonlyMap<string, number> {
    return this.#parts?.streams.lag() ?? new Map()
  }

  deadCounts(): ReadonlyMap<string, { readonly count: number; readonly bytes: number }> {
    return this.#parts?.work.dead ?? new Map()
  }

  get #ready(): Parts {
    if (this.#parts === undefined) throw new Error('the store is not open')
    return this.#parts
  }

  /** Connects, however long that takes, sees to the topics, and joins the group. */
  #connect(): void {
    const { kafka, writer, membership, streams, work, roots } = this.#ready
    const connect = async () => {
      await writer.connect()
      await this.#topics.create(kafka)
      const { missing, wrong } = await this.#topics.check(kafka)
      if (wrong.length > 0) throw new ServiceError('CONFIG_INVALID', wrong.join('; '))
      if (missing.length > 0) throw new Error(missing.join('; '))
    }
    connect().then(
      () => {
        if (this.#isClosed) return
        this.#trouble('start', undefined)
        roots.start()
        membership.join()
        streams.start()
        this.#every(commitEveryMs, () => streams.commit())
        this.#every(topicsEveryMs, async () => streams.refresh())
        this.#every(lagEveryMs, () => streams.measure())
        this.#every(forgetEveryMs, () => work.forget())
      },
      (error: unknown) => {
        if (this.#isClosed) return
        if (error instanceof ServiceError) {
          this.#break(error)
          return
        }
        const why = `Kafka is not ready: ${messageOf(error)}`
        if (why !== this.#troubles.get('start')) this.#options.tell('error', why)
        this.#trouble('start', why)
        this.#later(connectPauseMs, () => this.#connect())
      },
    )
  }

  /** Again and again, one at a time. What fails is told, and tried again at its next turn. */
  #every(ms: number, work: () => Promise<void>): void {
    this.#later(ms, () => {
      work()
        .catch((error: unknown) => this.#tellFailure(error))
        .finally(() => this.#every(ms, work))
    })
  }

  #tellFailure(error: unknown): void {
    if (!this.#isClosed) this.#options.tell('warn', messageOf(error))
  }

  #later(ms: number, work: () => void): void {
    if (this.#isClosed) return
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      work()
    }, ms)
    this.#timers.add(timer)
  }

  #trouble(where: string, why: string | undefined): void {
    if (why === this.#troubles.get(where)) return
    if (why === undefined) this.#troubles.delete(where)
    else this.#troubles.set(where, why)
    this.#assessAnew()
  }

  #assessAnew(): void {
    const before = this.#health
    this.#health = this.#assess()
    const { accepting, writable } = this.#health
    if (accepting !== before.accepting || writable !== before.writable) this.#parts?.listener.changed(this.#health)
  }

  /** Events can be taken, and calls settled, as long as something can be written. */
  #assess(): StoreHealth {
    const blocking = this.#troubles.get('closed') ?? this.#troubles.get('start') ?? this.#troubles.get('writer')
    let deadBytes = 0
    for (const { bytes } of this.#parts?.work.dead.values() ?? []) deadBytes += bytes
    return {
      accepting: blocking === undefined,
      writable: blocking === undefined,
      trouble: blocking,
      warnings: [...this.#troubles.values()].filter((why) => why !== blocking),
      bytes: 0,
      deadBytes,
    }
  }

  #break(error: unknown): undefined {
    if (this.#isClosed) return
    const broken =
      error instanceof ServiceError ? error : new ServiceError('STORE_BROKEN', messageOf(error), { cause: error })
    this.#trouble('closed', broken.message)
    this.#ready.listener.broken(broken)
  }
}

function closed(): ServiceError {
  return new ServiceError('STORE_CLOSED', 'the service is stopping; nothing was stored')
}

/** That Kafka does not answer is no fault of ours. */
function answered<Value>(asked: Promise<Value>): Promise<Value> {
  return asked.catch((error: unknown) => {
    const isOfKafka = error instanceof Error && (error.name.startsWith('KafkaJS') || typeOf(error) !== '')
    if (!isOfKafka) throw error
    throw new ServiceError('STORE_UNAVAILABLE', `Kafka does not answer: ${messageOf(error)}`, { cause: error })
  })
}
