import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Kafka, KafkaConfig } from 'kafkajs'
import { type Clock, systemClock } from '../../base/clock.ts'
import { ServiceError } from '../../base/errors.ts'
import { Fifo } from '../../base/fifo.ts'
import type { NewEvent, StreamRecord } from '../../event/event.ts'
import {
  type Consequences,
  type DeadLetter,
  type DeliveryEntry,
  type DeliveryFilter,
  type Durable,
  deliveryStates,
  type EventEntry,
  type Lane,
  type LaneBacklog,
  type Page,
  type RefusedEvent,
  type Routable,
  type Settlement,
  type Store,
  type StoredDelivery,
  type StoreHealth,
  type StoreListener,
  type Taken,
} from '../store.ts'
import { StoreThread } from '../thread.ts'
import { createClient, type FetchedMessage, type Tell } from './client.ts'
import { addTo, formatJournal, Journal } from './journal.ts'
import { eventIdOf, KafkaRecord, type Owned, type Source } from './kafka-record.ts'
import { type LettersOf, readLetters } from './letters.ts'
import { Membership, type Position } from './membership.ts'
import { pack, unpack } from './packed.ts'
import { defaultPartitionKey, partitionOf } from './partition.ts'
import { formatMetadata, Progress, parseMetadata } from './position.ts'
import { Reader } from './reader.ts'
import { formatKey, formatRow, ownerHeader, parseKey } from './row.ts'
import type {
  Arrived,
  Change,
  DeadCounts,
  ShardInputs,
  ShardOutputs,
  ShardSettle,
  ShardThread,
} from './shard-protocol.ts'
import { Topics, withAdmin } from './topics.ts'
import { isHopeless, type Outgoing, RefusedError, sentence, sizeOf, tooLargeFor, typeOf, Writer } from './writer.ts'

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
const forgetEveryMs = 5_000
const recordsAhead = 2_000
const bytesAhead = 16_777_216
/** Of one partition of a stream, read and not finished. */
const openAtMost = 10_000
const settlesAtOnce = 500
const positionWaitMs = 10_000
const positionPollMs = 100
const connectPauseMs = 1_000
/** A delivery is told of at most so long before its event's position is committed: in memory it is not kept for longer. */
const toldBeforeCommitMs = 60_000
/** Kafka has moved on; the next commit will do. */
const passing: readonly string[] = [
  'REBALANCE_IN_PROGRESS',
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER_ID',
  'NOT_COORDINATOR_FOR_GROUP',
  'COORDINATOR_NOT_AVAILABLE',
  'COORDINATOR_LOAD_IN_PROGRESS',
]

/** A settlement whose turn to be called durable has not come. */
interface Ticket {
  readonly settlement: Settlement
  readonly durable: Durable | undefined
  consequences: Consequences | undefined
  isKept: boolean
  /** It is in the log, where it was handed over. */
  isWritten: boolean
  /** It makes a row of an event from its stream: the event is finished when the row was read back, or handed over. */
  isFirst: boolean
}

/** A partition of the work while it is ours. */
interface Part extends Owned {
  /** What tells this ownership of it from every other. */
  readonly owner: string
  isReady: boolean
  /** While it is read from its beginning: who owned it last. */
  lastOwner: string | undefined
  /** Keys of which somebody wrote who did not own it any more. */
  usurped: Buffer[]
  readonly settles: { readonly settle: ShardSettle; readonly ticket: Ticket }[]
  isFlushing: boolean
  /** Claims that count once they were read back: by key. */
  readonly claims: Map<string, Ticket[]>
  /**
   * Rows of events from their streams that were not read back yet, by key. One that was written after another process had
   * taken the partition over does not count, whatever the broker said: its event comes again there.
   */
  readonly unconfirmed: Map<string, Settlement>
  /** What this process has handed over to itself, and not read yet, by key. */
  readonly arriving: Map<string, Ticket>
  dead: DeadCounts
}

interface Parts {
  readonly kafka: Kafka
  readonly listener: StoreListener
  readonly thread: ShardThread
  readonly writer: Writer
  /** Streams and work. */
  readonly reader: Reader
  /** What somebody asks for. */
  readonly archive: Reader
  readonly journal: Journal
  readonly membership: Membership
}

/** Rules that are through with an event, or have a row of it, by its origin. */
type Known = ReadonlyMap<string, ReadonlySet<string>>

const elsewhere: Consequences = { amended: { state: 'elsewhere' }, moved: [], due: [] }

export function createKafkaStore(options: KafkaStoreOptions): Store {
  return new KafkaStore(options)
}

/**
 * Everything in topics, shared by as many processes as there are. Each owns some partitions of the work topic, and with them
 * partitions of the streams. README.md tells what is durable before what.
 */
class KafkaStore implements Store {
  readonly description: string
  readonly #options: KafkaStoreOptions
  readonly #clock: Clock
  readonly #topics: Topics
  #parts: Parts | undefined
  #folder: string | undefined
  #isClosed = false
  readonly #owned = new Map<number, Part>()
  readonly #sources = new Map<string, Source>()
  /** All topics there are, with the number of their partitions. */
  #known: ReadonlyMap<string, number> = new Map()
  #isWanted: (stream: string) => boolean = () => false
  /** All topics that were there when it was last said what is wanted. */
  #seen: Set<string> | undefined
  /** Topics whose positions are known to be committed. */
  readonly #positioned = new Set<string>()
  /** Topics that are being seen to. */
  readonly #placing = new Map<string, Promise<void>>()
  readonly #committed = new Map<string, string>()
  readonly #routable = new Fifo<KafkaRecord>()
  #routableBytes = 0
  #arePaused = false
  #whenRoutable: (() => void) | undefined
  readonly #tickets = new Fifo<Ticket>()
  readonly #troubles = new Map<string, string>()
  #health: StoreHealth
  readonly #timers = new Set<NodeJS.Timeout>()
  #refreshing: Promise<void> = Promise.resolve()
  #dead: ReadonlyMap<string, { readonly count: number; readonly bytes: number }> = new Map()
  #round = 0

  constructor(options: KafkaStoreOptions) {
    const { client, service } = options
    this.description = `Kafka at ${Array.isArray(client.brokers) ? client.brokers.join(', ') : 'its brokers'}, as ${service}`
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#topics = new Topics(options)
    this.#troubles.set('start', 'Kafka is not reached yet')
    this.#troubles.set('group', 'not a member of the consumer group yet')
    this.#health = this.#assess()
  }

  /** Resolves at once: brokers may be away. Lanes come by `rows` when this process has taken over its part. */
  async open(listener: StoreListener): Promise<readonly LaneBacklog[]> {
    if (this.#parts !== undefined) throw new Error('a store is opened once')
    const { client, tell, scratch, partitions } = this.#options
    this.#folder =
      scratch === undefined ? await mkdtemp(join(tmpdir(), 'changeprop-work-')) : join(scratch, randomUUID())
    const kafka = createClient(client, tell)
    const thread: ShardThread = new StoreThread<ShardInputs, ShardOutputs>(shardsThread, (error) => this.#break(error))
    const writer = new Writer({
      kafka,
      trouble: (why) => this.#trouble('writer', why),
      largestBatch: (topic) => this.#topics.largestBatch(topic),
      tooLarge: (topic) => {
        this.#topics.lookUpLargestBatch(kafka, topic).catch((error: unknown) => {
          tell('warn', `max.message.bytes of ${topic} cannot be read: ${sentence(error)}`)
        })
      },
      committed: (ms) => listener.committed(ms),
    })
    const reader = new Reader({
      kafka,
      trouble: (why) => this.#trouble('reader', why),
      skipped: (topic, partition, from, to) =>
        tell('error', `${topic}/${partition}: records from ${from} on are not there any more; it goes on at ${to}`),
    })
    const archive = new Reader({ kafka, trouble: () => undefined, skipped: () => undefined })
    const membership = new Membership({
      kafka,
      group: this.#topics.group,
      topic: this.#topics.work,
      assigned: (owned) => this.#assigned(owned),
      trouble: (why) => this.#trouble('group', why),
    })
    const journal = new Journal(kafka, archive, this.#topics.journal, partitions)
    this.#parts = { kafka, listener, thread, writer, reader, archive, journal, membership }
    this.#connect()
    return []
  }

  async close(): Promise<void> {
    const parts = this.#parts
    if (parts === undefined || this.#isClosed) return
    this.#isClosed = true
    this.#end()
    const { writer, membership } = parts
    await Promise.all([...this.#owned.values()].map((part) => this.#flushed(part)))
    await writer.close()
    await this.#commit().catch((error: unknown) => this.#options.tell('warn', `the last commit: ${sentence(error)}`))
    await membership.leave()
    await this.#letGo(parts)
  }

  health(): StoreHealth {
    return this.#health
  }

  async append(events: readonly NewEvent[]): Promise<readonly RefusedEvent[]> {
    if (this.#isClosed) throw closed()
    const { writer } = this.#ready
    const { accepting, trouble } = this.#health
    if (!accepting) throw new ServiceError('STORE_UNAVAILABLE', trouble ?? 'Kafka does not answer')
    if (events.length === 0) return []
    const streams = new Set(events.map(({ stream }) => stream))
    const barred = new Map((await Promise.all([...streams].map((stream) => this.#barred(stream)))).flat())
    const timestamp = this.#clock.now()
    this.#round += 1
    const refused: RefusedEvent[] = []
    const sent = new Map<Outgoing, NewEvent>()
    for (const event of events) {
      const record = this.#recordOf(event, timestamp)
      const { topic } = record
      const size = sizeOf(record)
      let error = barred.get(event.stream)
      if (size > this.#topics.largestBatch(topic) && (await this.#isTooLarge(size, topic))) error ??= tooLargeFor(topic)
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

  isOurs(record: StreamRecord): boolean {
    return record instanceof KafkaRecord && !record.owned.isLost
  }

  subscribe(wants: (stream: string) => boolean): void {
    this.#isWanted = wants
    this.#seen = undefined
    this.#refresh()
  }

  async next(limit: number): Promise<readonly Routable[]> {
    while (this.#routable.length === 0 && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#whenRoutable = resolve
      })
    }
    const page: Routable[] = []
    while (page.length < limit && !this.#isClosed) {
      const record = this.#routable.shift()
      if (record === undefined) break
      this.#routableBytes -= record.bytes.length
      if (!record.owned.isLost) page.push({ record, known: record.known })
    }
    if (this.#arePaused && this.#routable.length < recordsAhead / 2 && this.#routableBytes < bytesAhead / 2)
      this.#resume()
    return page.length > 0 || this.#isClosed ? page : this.next(limit)
  }

  routed(record: StreamRecord, inMemory: number): void {
    if (!(record instanceof KafkaRecord)) throw new Error('what was routed is not a record that this store gave out')
    record.isRouted = true
    record.holds += inMemory - 1
    this.#finishIfDone(record)
  }

  settle(settlement: Settlement, durable?: Durable): void {
    // Once the store has ended this is as if the process had died before the decision: the delivery comes again.
    if (this.#parts === undefined || this.#isClosed) return
    const { record, releasesCursor } = settlement
    if (!(record instanceof KafkaRecord)) throw new Error('what was settled is not a record that this store gave out')
    const ticket: Ticket = {
      settlement,
      durable,
      consequences: undefined,
      isKept: false,
      isWritten: false,
      isFirst: false,
    }
    this.#tickets.push(ticket)
    if (!releasesCursor) record.holds += 1
    if (record.owned.isLost) {
      setImmediate(() => this.#keep(ticket, elsewhere))
      return
    }
    const part = this.#partOf(settlement, record)
    if (record.rows?.get(settlement.lane.rule)?.isLost === true) setImmediate(() => this.#keep(ticket, elsewhere))
    else if (part !== undefined && !part.isLost) this.#settleRow(part, settlement, record, ticket)
    else if (part !== undefined) setImmediate(() => this.#keep(ticket, elsewhere))
    else if (record.source !== undefined && settlement.state === 'done' && settlement.standing === undefined)
      this.#tell(settlement, record, ticket)
    else this.#handOver(settlement, record, ticket)
  }

  async take(lane: Lane, now: number, limit: number): Promise<Taken> {
    const { rows, nextUntil } = await this.#ready.thread.ask('take', { lane, now, limit })
    const deliveries: StoredDelivery[] = []
    for (const row of rows) {
      const { partition, event, bytes, ...rest } = row
      const part = this.#owned.get(partition)
      deliveries.push({ lane, record: new KafkaRecord(event, bytes, part ?? { partition, isLost: true }), ...rest })
    }
    return { deliveries, nextUntil }
  }

  /** Rows that run are told as such; nothing else is. */
  running(): void {}

  async find(id: string): Promise<readonly EventEntry[]> {
    const { journal, archive } = this.#ready
    const found = await journal.find(id)
    return Promise.all(
      found.map(async ({ event, metaId, deliveries }) => {
        const [topic, partition, offset] = event.origin
        let bytes: Uint8Array = new Uint8Array(0)
        await archive.one(topic, partition, offset, (value) => {
          bytes = Uint8Array.from(value)
        })
        return { record: new KafkaRecord(event, bytes, { partition, isLost: true }), metaId, routed: true, deliveries }
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
    const part = this.#owned.get(partition)
    const { thread, archive } = this.#ready
    if (part?.isReady !== true) return readLetters(archive, this.#topics.work, partition, of)
    const { letters, after } = await thread.ask('letters', { partition, ...of })
    return {
      letters: letters.map(({ partition: _, event, bytes, ...rest }): DeadLetter => {
        return { ...rest, record: new KafkaRecord(event, bytes, part) }
      }),
      after,
    }
  }

  lag(): ReadonlyMap<string, number> {
    const lags = new Map<string, number>()
    for (const { stream, progress, end } of this.#sources.values()) {
      lags.set(stream, (lags.get(stream) ?? 0) + Math.max(0, (end ?? progress.offset) - progress.offset))
    }
    return lags
  }

  deadCounts(): ReadonlyMap<string, { readonly count: number; readonly bytes: number }> {
    return this.#dead
  }

  get #ready(): Parts {
    if (this.#parts === undefined) throw new Error('the store is not open')
    return this.#parts
  }

  // Settlements

  /**
   * Whose row it is, or is to be; undefined where it needs none, or goes by the log: another process has it, or others of its
   * key may be on their way there, which it must not overtake.
   */
  #partOf({ lane, state, standing }: Settlement, record: KafkaRecord): Part | undefined {
    if (record.source === undefined) return this.#owned.get(record.owned.partition)
    const given = record.rows?.get(lane.rule)
    if (given?.isLost === false) return this.#owned.get(given.partition)
    if (standing !== undefined || state === 'done') return undefined
    return this.#owned.get(record.owned.partition)
  }

  #placeOf(rule: string, standing: Settlement['standing'], record: KafkaRecord): number {
    const text = standing?.key?.text ?? standing?.root?.signature
    return text === undefined ? record.owned.partition : partitionOf(`${rule}\u001f${text}`, this.#options.partitions)
  }

  #settleRow(part: Part, settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const { lane } = settlement
    const isNew = record.source !== undefined && record.rows?.has(lane.rule) !== true
    if (isNew) {
      record.rows ??= new Map()
      record.rows.set(lane.rule, part)
      ticket.isFirst = true
      part.unconfirmed.set(keyOf(settlement), settlement)
    }
    part.settles.push({ settle: shardSettle(settlement, record, isNew), ticket })
    if (!part.isFlushing) {
      part.isFlushing = true
      setImmediate(() => void this.#flush(part))
    }
  }

  async #flush(part: Part): Promise<void> {
    const { thread } = this.#ready
    while (part.settles.length > 0 && !part.isLost) {
      const batch = part.settles.splice(0, settlesAtOnce)
      const change = await thread
        .ask('settle', { partition: part.partition, settles: batch.map(({ settle }) => settle) })
        .catch((error: unknown) => this.#break(error))
      if (change === undefined) return
      const byIndex = new Map(change.consequences.map((one) => [one.index, one]))
      const awaitsReadBack = (ticket: Ticket, index: number) =>
        ticket.settlement.claimed && byIndex.get(index)?.amended?.state !== 'elsewhere'
      for (const [index, { ticket }] of batch.entries()) {
        if (awaitsReadBack(ticket, index)) this.#awaitReadBack(part, ticket)
        // It has a row already, and nothing is written.
        if (ticket.isFirst && byIndex.get(index)?.amended?.state === 'elsewhere')
          this.#confirm(part, keyOf(ticket.settlement))
      }
      this.#write(part, change, () => {
        for (const [index, { ticket }] of batch.entries()) {
          if (!awaitsReadBack(ticket, index)) this.#keep(ticket, part.isLost ? elsewhere : byIndex.get(index))
        }
      })
    }
    part.isFlushing = false
    if (part.isLost) for (const { ticket } of part.settles.splice(0)) this.#keep(ticket, elsewhere)
  }

  async #flushed(part: Part): Promise<void> {
    while (part.isFlushing) await new Promise(setImmediate)
  }

  /** Nobody may have taken the partition over before a claim was written: then that one may have made the call. */
  #awaitReadBack(part: Part, ticket: Ticket): void {
    const key = keyOf(ticket.settlement)
    if (part.isLost) this.#keep(ticket, elsewhere)
    else part.claims.set(key, [...(part.claims.get(key) ?? []), ticket])
  }

  #write(part: Part, change: Pick<Change, 'records' | 'told' | 'dead'>, done: () => void): void {
    const { work, journal } = this.#topics
    const headers = { [ownerHeader]: Buffer.from(part.owner) }
    const records: Outgoing[] = unpack(change.records).map(({ key, value }) => {
      return { topic: work, partition: part.partition, key, value, headers }
    })
    records.push(...formatJournal(journal, this.#options.partitions, change.told))
    if (change.dead !== undefined) {
      part.dead = change.dead
      this.#countDead()
    }
    if (records.length === 0) done()
    else this.#ready.writer.write(records, done)
  }

  /** Done without ever having had a row. */
  #tell(settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const { lane, revision, state, reason, at, attempts } = settlement
    const { id, stream, accepted, origin } = record
    const meta = record.message?.meta
    const given = typeof meta === 'object' && meta !== null && 'id' in meta ? meta.id : undefined
    const told = {
      event: { id, stream, accepted, origin },
      metaId: typeof given === 'string' && given !== id ? given : undefined,
      rule: lane.rule,
      revision,
      state,
      reason,
      at,
      until: null,
      attempts,
      coveredBy: undefined,
    }
    this.#ready.writer.write(formatJournal(this.#topics.journal, this.#options.partitions, [told]), () =>
      this.#keep(ticket, undefined),
    )
  }

  /** To the process that owns its key, be it this one; or, where it is a letter, its row. */
  #handOver(settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const { lane, standing, until, answer } = settlement
    const { id, stream, accepted, origin } = record
    const { state, reason, at, revision, progress, claimed, attempts } = settlement
    const row = { state, reason, at, revision, progress, claimed, attempts, standing, answer }
    const value = formatRow(
      {
        ...row,
        id,
        rule: lane.rule,
        lane: lane.key,
        stream,
        accepted,
        origin,
        until: until === Number.POSITIVE_INFINITY ? null : until,
        ...(record.source === undefined ? { reopens: true } : {}),
      },
      record.bytes,
    )
    const partition = record.source === undefined ? record.owned.partition : this.#placeOf(lane.rule, standing, record)
    const key = keyOf(settlement)
    const part = this.#owned.get(partition)
    const isOwn = part?.isReady === true && record.source !== undefined
    if (isOwn) {
      part.arriving.set(key, ticket)
      record.rows ??= new Map()
      record.rows.set(lane.rule, part)
    }
    const outgoing = { topic: this.#topics.work, partition, key: Buffer.from(key), value }
    this.#ready.writer.write([outgoing], () => {
      ticket.isWritten = true
      // What becomes of it is known when it was read.
      if (!isOwn || part.isLost) this.#keep(ticket, elsewhere)
    })
  }

  /** Decisions are called durable in the order in which they were handed in. */
  #keep(ticket: Ticket, consequences: Consequences | undefined): void {
    ticket.consequences = consequences
    ticket.isKept = true
    for (let first = this.#tickets.peek(); first?.isKept === true; first = this.#tickets.peek()) {
      this.#tickets.shift()
      const { settlement, durable, isFirst } = first
      if (!isFirst) this.#release(settlement.record)
      durable?.(settlement, first.consequences)
    }
  }

  #release(record: StreamRecord): void {
    if (!(record instanceof KafkaRecord) || record.source === undefined) return
    record.holds -= 1
    this.#finishIfDone(record)
  }

  #confirm(part: Part, key: string): void {
    const settlement = part.unconfirmed.get(key)
    if (settlement !== undefined && part.unconfirmed.delete(key)) this.#release(settlement.record)
  }

  #finishIfDone(record: KafkaRecord): void {
    const { source, holds, isRouted, origin } = record
    if (source === undefined || holds !== 0 || !isRouted || record.isFinished || record.owned.isLost) return
    record.isFinished = true
    source.progress.end(origin[2])
    if (source.progress.open < openAtMost / 2) this.#ready.reader.resume(source.topic, source.partition)
  }

  // Partitions of the work

  #assigned(partitions: readonly number[]): void {
    if (this.#isClosed) return
    for (const partition of [...this.#owned.keys()]) if (!partitions.includes(partition)) this.#lose(partition)
    for (const partition of partitions) if (!this.#owned.has(partition)) this.#takeOver(partition)
    this.#ready.listener.shared(this.#owned.size / this.#options.partitions)
  }

  #takeOver(partition: number): void {
    const { thread, writer, reader } = this.#ready
    const part: Part = {
      partition,
      owner: randomUUID(),
      isLost: false,
      isReady: false,
      lastOwner: undefined,
      usurped: [],
      settles: [],
      isFlushing: false,
      claims: new Map(),
      unconfirmed: new Map(),
      arriving: new Map(),
      dead: [],
    }
    this.#owned.set(partition, part)
    this.#trouble(`part ${partition}`, `partition ${partition} of the work is being taken over`)
    thread.ask('open', { partition, folder: this.#folder ?? '' }).catch((error: unknown) => this.#break(error))
    const { work } = this.#topics
    // Whatever another owner writes after this does not count.
    const claim = {
      topic: work,
      partition,
      key: formatKey({ kind: 'owner' }),
      value: Buffer.from(part.owner),
      headers: { [ownerHeader]: Buffer.from(part.owner) },
    }
    writer.write([claim], () => {
      if (part.isLost || this.#isClosed) return
      reader.read(work, partition, 0, (messages) => {
        if (!part.isLost) this.#heard(part, messages)
      })
    })
  }

  #heard(part: Part, messages: readonly FetchedMessage[]): void {
    if (part.isReady) {
      this.#hear(part, messages)
      return
    }
    const own = messages.findIndex((message) => ownerOf(message) === part.owner && isClaim(message))
    this.#restore(part, own < 0 ? messages : messages.slice(0, own))
    if (own < 0) return
    part.isReady = true
    this.#ready.thread
      .ask('restored', { partition: part.partition, now: this.#clock.now() })
      .then((restored) => {
        if (part.isLost) return
        this.#write(part, restored, () => undefined)
        for (const lane of restored.backlog) this.#ready.listener.rows(lane)
        this.#reassert(part)
        this.#trouble(`part ${part.partition}`, undefined)
        this.#refresh()
      })
      .catch((error: unknown) => this.#break(error))
    this.#hear(part, messages.slice(own + 1))
  }

  #restore(part: Part, messages: readonly FetchedMessage[]): void {
    const records: { key: Buffer; value: Buffer | null }[] = []
    for (const message of messages) {
      const { key, value } = message
      const owner = ownerOf(message)
      if (key === null) continue
      if (isClaim(message)) part.lastOwner = owner
      // Who wrote after another had taken over did not own it any more.
      else if (owner !== undefined && part.lastOwner !== undefined && owner !== part.lastOwner)
        part.usurped.push(Buffer.from(key))
      else records.push({ key, value })
    }
    if (records.length === 0) return
    this.#ready.thread
      .ask('restore', { partition: part.partition, records: pack(records) })
      .catch((error: unknown) => this.#break(error))
  }

  #hear(part: Part, messages: readonly FetchedMessage[]): void {
    const arrivals: { key: Buffer; value: Buffer | null }[] = []
    for (const message of messages) {
      const { key, value } = message
      if (key === null) continue
      const owner = ownerOf(message)
      if (owner === part.owner) {
        if (part.claims.size > 0 || part.unconfirmed.size > 0) this.#readBack(part, key.toString())
      } else if (isClaim(message)) {
        this.#lose(part.partition)
        return
      } else if (owner !== undefined) part.usurped.push(Buffer.from(key))
      else if (parseKey(key) !== undefined) arrivals.push({ key, value })
    }
    this.#reassert(part)
    if (arrivals.length === 0) return
    this.#ready.thread
      .ask('arrive', { partition: part.partition, records: pack(arrivals) })
      .then((arrived) => {
        if (!part.isLost) this.#arrived(part, arrivals, arrived)
      })
      .catch((error: unknown) => this.#break(error))
  }

  #arrived(part: Part, arrivals: readonly { readonly key: Buffer }[], arrived: Arrived): void {
    this.#write(part, arrived, () => undefined)
    const byIndex = new Map(arrived.consequences.map((one) => [one.index, one]))
    const own = new Set<number>()
    for (const [index, { key }] of arrivals.entries()) {
      const name = key.toString()
      const ticket = part.arriving.get(name)
      if (ticket === undefined || !part.arriving.delete(name)) continue
      own.add(index)
      this.#keep(ticket, byIndex.get(index))
    }
    for (const { index, change } of arrived.rows) if (!own.has(index)) this.#ready.listener.rows(change)
  }

  #readBack(part: Part, key: string): void {
    this.#confirm(part, key)
    const tickets = part.claims.get(key)
    if (tickets === undefined) return
    part.claims.delete(key)
    for (const ticket of tickets) this.#keep(ticket, undefined)
  }

  /** Compaction may leave only the last record of a key: it has to be ours. */
  #reassert(part: Part): void {
    if (part.usurped.length === 0 || !part.isReady) return
    const keys = pack(part.usurped.splice(0).map((key) => ({ key, value: null })))
    this.#ready.thread
      .ask('reassert', { partition: part.partition, keys })
      .then((records) => {
        if (!part.isLost) this.#write(part, { records, told: [], dead: undefined }, () => undefined)
      })
      .catch((error: unknown) => this.#break(error))
  }

  #lose(partition: number): void {
    const part = this.#owned.get(partition)
    if (part === undefined) return
    const { thread, reader, listener } = this.#ready
    part.isLost = true
    this.#owned.delete(partition)
    this.#trouble(`part ${partition}`, undefined)
    reader.stop(this.#topics.work, partition)
    for (const [name, source] of this.#sources) {
      if (source.owned !== part) continue
      this.#sources.delete(name)
      this.#committed.delete(name)
      reader.stop(source.topic, source.partition)
    }
    if (!part.isFlushing) for (const { ticket } of part.settles.splice(0)) this.#keep(ticket, elsewhere)
    for (const tickets of part.claims.values()) for (const ticket of tickets) this.#keep(ticket, elsewhere)
    part.claims.clear()
    part.unconfirmed.clear()
    for (const ticket of part.arriving.values()) if (ticket.isWritten) this.#keep(ticket, elsewhere)
    part.arriving.clear()
    this.#countDead()
    thread.ask('drop', { partition }).then(
      (left) => {
        for (const lane of left) listener.rows(lane)
      },
      (error: unknown) => this.#break(error),
    )
    listener.lost()
  }

  #countDead(): void {
    const counts = new Map<string, { count: number; bytes: number }>()
    for (const { dead } of this.#owned.values()) {
      for (const { rule, count, bytes } of dead) {
        if (count === 0) continue
        const sum = counts.get(rule) ?? { count: 0, bytes: 0 }
        counts.set(rule, { count: sum.count + count, bytes: sum.bytes + bytes })
      }
    }
    this.#dead = counts
    this.#assessAnew()
  }

  // Streams

  /** Looks for topics that are wanted, and reads those partitions whose part of the work is ours. One look at a time. */
  #refresh(): void {
    this.#refreshing = this.#refreshing.then(() =>
      this.#refreshNow().then(
        () => this.#trouble('streams', undefined),
        (error: unknown) => {
          if (!this.#isClosed) this.#trouble('streams', `topics cannot be listed: ${sentence(error)}`)
        },
      ),
    )
  }

  async #refreshNow(): Promise<void> {
    if (this.#isClosed || this.#troubles.has('start')) return
    const { kafka, reader, membership, journal, thread } = this.#ready
    this.#known = await reader.topics()
    const wanted = new Map<string, number>()
    for (const [topic, count] of this.#known) {
      const stream = this.#topics.streamOf(topic)
      if (stream !== undefined && this.#isWanted(stream)) wanted.set(topic, count)
    }
    this.#seen ??= new Set(this.#known.keys())
    for (const [name, source] of this.#sources) {
      if (wanted.has(source.topic)) continue
      this.#sources.delete(name)
      reader.stop(source.topic, source.partition)
    }
    const begin: { topic: string; partition: number; part: Part }[] = []
    for (const [topic, count] of wanted) {
      for (let partition = 0; partition < count; partition += 1) {
        const part = this.#owned.get(this.#topics.ownerOf(topic, partition, count))
        if (part?.isReady === true && !this.#sources.has(`${topic}/${partition}`))
          begin.push({ topic, partition, part })
      }
    }
    if (begin.length === 0) return
    const committed = await this.#positions(kafka, [...new Set(begin.map(({ topic }) => topic))])
    const times = begin.flatMap(({ topic, partition }) => {
      return parseMetadata(committed.get(`${topic}/${partition}`)?.metadata ?? '')?.at ?? []
    })
    const known = times.length === 0 ? new Map() : await journal.ended(Math.min(...times) - toldBeforeCommitMs)
    const fresh: Position[] = []
    for (const { topic, partition, part } of begin) {
      let position = committed.get(`${topic}/${partition}`)
      if (position === undefined) {
        // A topic that came after us is read whole; from one that was there, what is new.
        const offset = this.#seen.has(topic) ? await reader.end(topic, partition) : 0
        position = { topic, partition, offset, metadata: formatMetadata({ at: Date.now(), runs: '' }) }
        fresh.push(position)
      }
      const rows = await thread.ask('rowsOf', {
        partition: part.partition,
        topic,
        part: partition,
        from: position.offset,
      })
      for (const { offset, rule } of rows) addTo(known, [topic, partition, offset].join('/'), rule)
      if (!part.isLost) this.#begin(part, position, known)
    }
    if (fresh.length > 0) await membership.commit(fresh)
  }

  async #positions(kafka: Kafka, topics: string[]): Promise<ReadonlyMap<string, Position>> {
    const groups = await withAdmin(kafka, (admin) => admin.fetchOffsets({ groupId: this.#topics.group, topics }))
    const positions = new Map<string, Position>()
    for (const { topic, partitions } of groups) {
      for (const { partition, offset, metadata } of partitions) {
        if (Number(offset) < 0) continue
        positions.set(`${topic}/${partition}`, { topic, partition, offset: Number(offset), metadata: metadata ?? '' })
      }
    }
    return positions
  }

  #begin(part: Part, { topic, partition, offset, metadata }: Position, known: Known): void {
    const stream = this.#topics.streamOf(topic) ?? topic
    const progress = new Progress(offset, parseMetadata(metadata)?.runs ?? '')
    const source: Source = { topic, stream, partition, owned: part, progress, end: undefined }
    this.#sources.set(`${topic}/${partition}`, source)
    // Clocks of different machines differ a little: within a partition, what comes later was accepted no earlier.
    let latest = 0
    this.#ready.reader.read(topic, partition, offset, (messages, end) => {
      if (part.isLost) return
      source.end = end
      for (const message of messages) latest = this.#receive(source, message, latest, known)
      this.#whenRoutable?.()
      if (source.progress.open >= openAtMost || source.progress.isCrowded) this.#ready.reader.pause(topic, partition)
      if (this.#routable.length >= recordsAhead || this.#routableBytes >= bytesAhead) this.#pause()
    })
    if (this.#arePaused) this.#ready.reader.pause(topic, partition)
  }

  #receive(source: Source, { offset, timestamp, value }: FetchedMessage, latest: number, known: Known): number {
    const { topic, stream, partition, progress, owned } = source
    const at = Number(offset)
    if (progress.isFinished(at)) {
      progress.pass(at)
      return latest
    }
    const time = Number(timestamp)
    const accepted = Math.max(latest, Math.min(time, this.#clock.now()))
    const origin = [topic, partition, at] as const
    // A view would keep the whole answer of the broker in memory. Of what others wrote too large, the rest would find no
    // room in a row: so cut it is no JSON, and ends as unreadable.
    const bytes = Uint8Array.from(value?.subarray(0, this.#options.largestEvent) ?? [])
    progress.begin(at)
    const record = new KafkaRecord({ id: eventIdOf(time, origin), stream, accepted, origin }, bytes, owned, source)
    record.known = known.get(origin.join('/'))
    this.#routable.push(record)
    this.#routableBytes += bytes.length
    return accepted
  }

  #pause(): void {
    this.#arePaused = true
    for (const { topic, partition } of this.#sources.values()) this.#ready.reader.pause(topic, partition)
  }

  #resume(): void {
    this.#arePaused = false
    for (const { topic, partition, progress } of this.#sources.values()) {
      if (progress.open < openAtMost && !progress.isCrowded) this.#ready.reader.resume(topic, partition)
    }
  }

  #recordOf(event: NewEvent, timestamp: number): Outgoing {
    const { stream, message, bytes } = event
    const topic = this.#topics.ofStream(stream)
    const count = this.#known.get(topic) ?? 1
    const keyOf = this.#options.partitionKeys?.get(stream)
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
      return size > (await this.#topics.lookUpLargestBatch(this.#ready.kafka, topic))
    } catch (error) {
      throw new ServiceError('STORE_UNAVAILABLE', `Kafka does not answer: ${sentence(error)}`, { cause: error })
    }
  }

  /** There is a topic for it, and if somebody wants it, it is settled from where it is read: nothing is before that. */
  #placed(stream: string): Promise<void> | undefined {
    const topic = this.#topics.ofStream(stream)
    if (this.#known.has(topic) && (this.#positioned.has(topic) || !this.#isWanted(stream))) return undefined
    const found = this.#placing.get(topic)
    if (found !== undefined) return found
    const placing = this.#place(topic, stream).finally(() => this.#placing.delete(topic))
    this.#placing.set(topic, placing)
    return placing
  }

  async #place(topic: string, stream: string): Promise<void> {
    const { kafka } = this.#ready
    const deadline = Date.now() + positionWaitMs
    let why: unknown = new Error('no process has taken over its partitions yet')
    while (Date.now() < deadline && !this.#isClosed) {
      try {
        if (!this.#known.has(topic)) await this.#topics.createStream(kafka, topic)
        this.#refresh()
        await this.#refreshing
        const count = this.#known.get(topic)
        if (count !== undefined && !this.#isWanted(stream)) return
        if (count !== undefined && (await this.#positions(kafka, [topic])).size >= count) {
          this.#positioned.add(topic)
          return
        }
      } catch (error) {
        why = error
        if (isHopeless(error)) throw new RefusedError(error, topic)
      }
      await new Promise((resolve) => setTimeout(resolve, positionPollMs))
    }
    throw new ServiceError('STORE_UNAVAILABLE', `the topic ${topic} is not ready: ${sentence(why)}`, { cause: why })
  }

  async #commit(): Promise<void> {
    const positions: Position[] = []
    for (const [name, { topic, partition, progress }] of this.#sources) {
      const { offset, runs } = progress
      const said = `${offset} ${runs}`
      if (this.#committed.get(name) === said) continue
      this.#committed.set(name, said)
      positions.push({ topic, partition, offset, metadata: formatMetadata({ at: Date.now(), runs }) })
    }
    if (positions.length === 0) return
    try {
      await this.#ready.membership.commit(positions)
    } catch (error) {
      for (const { topic, partition } of positions) this.#committed.delete(`${topic}/${partition}`)
      if (!passing.includes(typeOf(error))) throw error
    }
  }

  // Life

  /** Connects, however long that takes, sees to the topics, and joins the group. */
  #connect(): void {
    const { kafka, writer, membership } = this.#ready
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
        membership.join()
        this.#every(commitEveryMs, () => this.#commit())
        this.#every(topicsEveryMs, async () => this.#refresh())
        this.#every(forgetEveryMs, () => this.#forget())
      },
      (error: unknown) => {
        if (this.#isClosed) return
        if (error instanceof ServiceError) {
          this.#break(error)
          return
        }
        this.#trouble('start', `Kafka is not reached: ${sentence(error)}`)
        this.#later(connectPauseMs, () => this.#connect())
      },
    )
  }

  async #forget(): Promise<void> {
    for (const part of this.#owned.values()) {
      if (!part.isReady || part.isLost) continue
      const records = await this.#ready.thread.ask('forget', { partition: part.partition, now: this.#clock.now() })
      if (!part.isLost && records.lengths.length > 0) {
        this.#write(part, { records, told: [], dead: undefined }, () => undefined)
      }
    }
  }

  /** Again and again, one at a time. What fails is told, and tried again at its next turn. */
  #every(ms: number, work: () => Promise<void>): void {
    this.#later(ms, () => {
      work()
        .catch((error: unknown) => {
          if (!this.#isClosed) this.#options.tell('warn', sentence(error))
        })
        .finally(() => this.#every(ms, work))
    })
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
    for (const { bytes } of this.#dead.values()) deadBytes += bytes
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
      error instanceof ServiceError ? error : new ServiceError('STORE_BROKEN', sentence(error), { cause: error })
    this.#trouble('closed', broken.message)
    this.#ready.listener.broken(broken)
  }

  #end(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
    this.#trouble('closed', 'the service is stopping; nothing was stored')
    this.#whenRoutable?.()
  }

  async #letGo({ reader, archive, thread, membership }: Parts): Promise<void> {
    await Promise.allSettled([reader.close(), archive.close(), membership.leave()])
    await thread.end(closed())
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true })
  }
}

/** Of the row that it makes or changes. */
function keyOf({ record, lane }: Settlement): string {
  return formatKey({ kind: 'delivery', id: record.id, rule: lane.rule }).toString()
}

function shardSettle(settlement: Settlement, record: KafkaRecord, isNew: boolean): ShardSettle {
  const { record: _, releasesCursor: __, ...rest } = settlement
  const { id, stream, accepted, origin } = record
  return { ...rest, event: { id, stream, accepted, origin }, bytes: isNew ? record.bytes : undefined }
}

function ownerOf({ headers }: FetchedMessage): string | undefined {
  const owner = headers[ownerHeader]
  return Buffer.isBuffer(owner) ? owner.toString() : undefined
}

function refusal(event: NewEvent, { message, isOurs }: RefusedError): RefusedEvent {
  return { event, why: message, ours: isOurs }
}

const claimKey = formatKey({ kind: 'owner' })

function isClaim({ key }: FetchedMessage): boolean {
  return key?.equals(claimKey) === true
}

function closed(): ServiceError {
  return new ServiceError('STORE_CLOSED', 'the service is stopping; nothing was stored')
}
