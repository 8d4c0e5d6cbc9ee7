import type { Kafka } from 'kafkajs'
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import { Fifo } from '../../base/fifo.ts'
import { type Routable, shortLifeMs, shortLivesInRow } from '../store.ts'
import type { FetchedMessage } from './client.ts'
import { typeOf } from './errors.ts'
import { type HandedRow, parseHandedEvent } from './handed.ts'
import { addTo, type Journal } from './journal.ts'
import { eventIdOf, KafkaRecord, type Owned, type Source } from './kafka-record.ts'
import type { Membership, Position } from './membership.ts'
import { formatMetadata, Progress, parseMetadata } from './position.ts'
import type { Partitions, Reader } from './reader.ts'
import type { Origin } from './row.ts'
import type { ShardThread } from './shard-protocol.ts'
import { type Topics, withAdmin } from './topics.ts'

export interface StreamsParts {
  readonly kafka: Kafka
  readonly topics: Topics
  readonly clock: Clock
  readonly thread: ShardThread
  readonly reader: Reader
  readonly membership: Membership
  readonly journal: Journal
  /** Of an event, in bytes. */
  readonly largestEvent: number
  /** That partition of the work, if it is ours and restored. */
  ready(partition: number): Owned | undefined
  /** What falls to that partition of the work is about to be read. */
  beginning(owned: Owned): void
  /** What was handed over was not handed over before; from then on it was. */
  isNews(record: KafkaRecord): boolean
  /** Rows that were handed over to one partition, and marks, in order. Resolves when what comes behind them may be routed. */
  takeUp(rows: readonly HandedRow[]): Promise<void>
  /** Resolves when what has ended so far is in the journal. */
  told(): Promise<void>
  trouble(why: string | undefined): void
  later(ms: number, work: () => void): void
  /** Commits at once, beside its turn. */
  commitNow(): void
}

const recordsAhead = 2_000
/** Of what was handed over with what has come of it. */
const takenUpAtOnce = 1_000
const bytesAhead = 16_777_216
/** Of one partition of a stream, read and not finished. */
const openAtMost = 10_000
/** Kafka forgets what was committed once and not again, for `offsets.retention.minutes`, since the group reads elsewhere. */
const recommitAfterMs = 600_000
/** A delivery is told of at most so long before its event's position is committed: in memory it is not kept for longer. */
const toldBeforeCommitMs = 60_000
/** Kafka has moved on; the next commit will do. */
const passing: readonly string[] = [
  'REBALANCE_IN_PROGRESS',
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER_ID',
  'NOT_COORDINATOR_FOR_GROUP',
  'GROUP_COORDINATOR_NOT_AVAILABLE',
  'GROUP_LOAD_IN_PROGRESS',
  // The topic is gone, and will be missed.
  'UNKNOWN_TOPIC_OR_PARTITION',
]

/** Rules that are through with an event, or have a row of it, by its id: a topic made anew has the same offsets. */
type Known = ReadonlyMap<string, ReadonlySet<string>>

/** The topics of streams: what some rule wants is read from those partitions that fall to our part of the work. */
export class Streams {
  readonly #parts: StreamsParts
  readonly #sources = new Map<string, Source>()
  /** All topics there are. */
  #known: ReadonlyMap<string, Partitions> = new Map()
  #isWanted: (stream: string) => boolean = () => false
  /** What was wanted before that was said anew; undefined once topics were looked at since. */
  #wasWanted: ((stream: string) => boolean) | undefined
  /** Topics that were there before anybody wanted them: of them what is new is read, of others all. */
  readonly #old = new Set<string>()
  /** Topics, and of how many partitions positions are known to be committed. */
  readonly #positioned = new Map<string, number>()
  /** Topics that were read and then were gone, and when they were missed, in ms. */
  readonly #missed = new Map<string, number>()
  /** Of those: what was read of them is in hand, and goes on where it turns out that nobody told of the topic for a moment. */
  readonly #interrupted = new Map<string, Source>()
  /** Read no further, though their topics are there: what was not given out of them comes again, here or elsewhere. */
  readonly #left = new WeakSet<Source>()
  /** What was said of each, and when, in ms. */
  readonly #committed = new Map<string, { readonly said: string; readonly at: number }>()
  readonly #routable = new Fifo<KafkaRecord | HandedRow>()
  #routableBytes = 0
  #arePaused = false
  #whenRoutable: (() => void) | undefined
  #refreshing: Promise<void> = Promise.resolve()
  /** In ms. */
  #waryUntil = 0
  #isStarted = false
  #isClosed = false

  constructor(parts: StreamsParts) {
    this.#parts = parts
  }

  /** The brokers are there. */
  start(): void {
    this.#isStarted = true
    this.refresh()
  }

  /** Reads and gives out nothing more. What is finished can still be committed. */
  close(): void {
    this.#isClosed = true
    this.#whenRoutable?.()
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Its partitions, as they were last looked at. */
  partitionsOf(topic: string): Partitions | undefined {
    return this.#known.get(topic)
  }

  /** Whether what is written to it will be read by whoever wants it. As far as is known: `look` may find out more. */
  isPlaced(stream: string): boolean {
    const topic = this.#parts.topics.ofStream(stream)
    const count = this.#known.get(topic)?.count
    return count !== undefined && (this.#positioned.get(topic) === count || !this.#isWanted(stream))
  }

  /** Looks at topics, and from where that of the stream is read. */
  async look(stream: string): Promise<void> {
    this.refresh()
    await this.#refreshing
    const topic = this.#parts.topics.ofStream(stream)
    const count = this.#known.get(topic)?.count
    if (count === undefined || !this.#isWanted(stream)) return
    const positions = await this.#positions(this.#parts.kafka, [topic])
    if (positions.size >= count) this.#positioned.set(topic, count)
  }

  subscribe(wants: (stream: string) => boolean): void {
    this.#wasWanted ??= this.#isWanted
    this.#isWanted = wants
    this.refresh()
  }

  async next(limit: number): Promise<readonly Routable[]> {
    // Calls and settlements have their turn between two pages.
    await new Promise(setImmediate)
    while (this.#routable.length === 0 && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#whenRoutable = resolve
      })
    }
    const page: Routable[] = []
    while (page.length < limit && !this.#isClosed) {
      const one = this.#routable.peek()
      if (one === undefined) break
      const isEvent = one instanceof KafkaRecord
      const isForRouter = isEvent && (one.rule === undefined || this.#parts.isNews(one))
      // What comes before it is routed first.
      if (!isForRouter && page.length > 0) break
      this.#shift()
      if (one.source === undefined || one.source.owned.isLost || this.#left.has(one.source)) continue
      if (!isEvent) await this.#takeUp(one)
      else if (isForRouter) page.push(routableOf(one))
      else this.finish(one)
    }
    if (this.#arePaused && this.#routable.length < recordsAhead / 2 && this.#routableBytes < bytesAhead / 2)
      this.#resume()
    return page.length > 0 || this.#isClosed ? page : this.next(limit)
  }

  #shift(): KafkaRecord | HandedRow | undefined {
    const one = this.#routable.shift()
    if (one !== undefined) this.#routableBytes -= bytesOf(one)
    return one
  }

  /** With those that come right behind it, of the same partition. */
  async #takeUp(first: HandedRow): Promise<void> {
    const rows = [first]
    for (let next = this.#routable.peek(); rows.length < takenUpAtOnce; next = this.#routable.peek()) {
      if (next === undefined || next instanceof KafkaRecord || next.source !== first.source) break
      rows.push(next)
      this.#shift()
    }
    await this.#parts.takeUp(rows)
  }

  /** As the store's. */
  get isWary(): boolean {
    return this.#parts.clock.now() < this.#waryUntil
  }

  lag(): ReadonlyMap<string, number> {
    const lags = new Map<string, number>()
    for (const { stream, progress, end } of this.#sources.values()) {
      lags.set(stream, (lags.get(stream) ?? 0) + Math.max(0, (end ?? progress.offset) - progress.offset))
    }
    return lags
  }

  /** Of what may be read no further, no answer tells how much has come. */
  async measure(): Promise<void> {
    for (const source of this.#sources.values()) {
      const { topic, partition, progress } = source
      const isRead = !this.#arePaused && progress.open < openAtMost / 2 && !progress.isCrowded
      if (isRead || this.#known.get(topic)?.leaderless.includes(partition)) continue
      source.end = await this.#parts.reader.end(topic, partition)
    }
  }

  /** All that came of it is on record. False also where it is another's. */
  isFinished([topic, partition, offset]: Origin): boolean {
    const source = this.#sources.get(`${topic}/${partition}`)
    return source !== undefined && (offset < source.progress.offset || source.progress.isFinished(offset))
  }

  /** Looks for topics that are wanted, and reads those partitions whose part of the work is ours. One look at a time. */
  refresh(): void {
    this.#refreshing = this.#refreshing.then(() =>
      this.#refreshNow().then(
        () => this.#parts.trouble(undefined),
        (error: unknown) => {
          if (!this.#isClosed) this.#parts.trouble(`topics cannot be listed: ${messageOf(error)}`)
        },
      ),
    )
  }

  async #refreshNow(): Promise<void> {
    if (this.#isClosed || !this.#isStarted) return
    const { kafka, reader, membership } = this.#parts
    this.#known = await reader.topics()
    const wanted = new Map<string, Partitions>()
    const handed = this.#known.get(this.#parts.topics.handed)
    if (handed !== undefined) wanted.set(this.#parts.topics.handed, handed)
    for (const [topic, partitions] of this.#known) {
      const stream = this.#parts.topics.streamOf(topic)
      if (stream === undefined) continue
      if (this.#isWanted(stream)) wanted.set(topic, partitions)
      if (this.#wasWanted?.(stream) === false) this.#old.add(topic)
    }
    this.#wasWanted = undefined
    // Made anew, it has nothing that was there before.
    for (const topics of [this.#old, this.#positioned])
      for (const topic of topics.keys()) if (!this.#known.has(topic)) topics.delete(topic)
    for (const [name, source] of this.#sources) {
      const { topic, partition } = source
      const count = wanted.get(topic)?.count
      // Where a topic has got more partitions, this one may fall to another part of the work.
      if (count !== undefined && this.#readyPart(topic, partition, count) !== undefined) continue
      if (this.#known.has(topic)) this.#left.add(source)
      else {
        this.#missed.set(topic, Date.now())
        this.#interrupted.set(name, source)
      }
      this.#sources.delete(name)
      // With a topic that is deleted Kafka forgets what was committed of it.
      this.#committed.delete(name)
      reader.stop(topic, partition)
    }
    const begin: { topic: string; partition: number; part: Owned }[] = []
    for (const [topic, { count, leaderless }] of wanted) {
      for (let partition = 0; partition < count; partition += 1) {
        const part = this.#readyPart(topic, partition, count)
        if (part === undefined || this.#sources.has(`${topic}/${partition}`)) continue
        if (!leaderless.includes(partition)) begin.push({ topic, partition, part })
      }
    }
    if (begin.length === 0) return
    const topics = [...new Set(begin.map(({ topic }) => topic))]
    const countOf = (topic: string) => wanted.get(topic)?.count ?? 0
    const isLed = (topic: string) => wanted.get(topic)?.leaderless.length === 0
    // Before positions are asked for: another process may settle them meanwhile, and take events from there on.
    const ends = new Map<string, number>()
    for (const topic of topics.filter((one) => this.#old.has(one) && isLed(one)))
      for (let partition = 0; partition < countOf(topic); partition += 1)
        ends.set(`${topic}/${partition}`, await reader.end(topic, partition))
    const positions = await this.#positions(kafka, topics)
    for (const { topic, partition, part } of begin) {
      const name = `${topic}/${partition}`
      const isAnother = await this.#isAnother(positions.get(name))
      if (isAnother === true) positions.delete(name)
      if (isAnother !== false || this.#interrupted.get(name)?.owned !== part) this.#interrupted.delete(name)
    }
    // Those of all partitions: whoever has the others may be away, and come back when the topic is no longer new.
    const fresh: Position[] = []
    for (const topic of topics) {
      const isOld = this.#old.has(topic) && ![...positions.values()].some((one) => one.topic === topic)
      // Where it ends is not known yet.
      if (isOld && !isLed(topic)) continue
      for (let partition = 0; partition < countOf(topic); partition += 1) {
        const name = `${topic}/${partition}`
        if (positions.has(name)) continue
        const offset = isOld ? (ends.get(name) ?? 0) : 0
        // Where Kafka has forgotten how far what was handed over had come, the journal knows what has ended of it.
        const isForgotten = topic === this.#parts.topics.handed && (await reader.end(topic, partition)) > 0
        const at = isForgotten ? 0 : Date.now()
        const metadata = formatMetadata({ at, runs: '', lives: 0, latest: 0 })
        fresh.push({ topic, partition, offset, metadata })
      }
    }
    if (fresh.length > 0) await membership.commit(() => fresh)
    for (const position of fresh) positions.set(`${position.topic}/${position.partition}`, position)
    const from = begin.flatMap(({ topic, partition, part }) => {
      const position = positions.get(`${topic}/${partition}`)
      return position === undefined ? [] : [{ part, position }]
    })
    const known = await this.#through(from)
    for (const part of new Set(from.map(({ part }) => part))) if (!part.isLost) this.#parts.beginning(part)
    for (const { part, position } of from) if (!part.isLost) this.#begin(part, position, known)
    for (const topic of topics) this.#missed.delete(topic)
    // One life more, before its first call may end it.
    this.#parts.commitNow()
  }

  /** Who reads a partition of a topic with so many of them, if that part of the work is ours. */
  #readyPart(topic: string, partition: number, count: number): Owned | undefined {
    return this.#parts.ready(this.#parts.topics.ownerOf(topic, partition, count))
  }

  /**
   * What was committed in the moment of a topic's deletion may outlive it, and says nothing of another of its name. One that has
   * older records was not told of for a moment, and is the same. Undefined where it was not missed, or somebody has committed
   * since.
   */
  async #isAnother(position: Position | undefined): Promise<boolean | undefined> {
    if (position === undefined) return undefined
    const { topic, partition, metadata } = position
    const missed = this.#missed.get(topic)
    const committed = parseMetadata(metadata)?.at
    if (missed === undefined || committed === undefined || committed > missed) return undefined
    return (await this.#parts.reader.offsetAt(topic, partition, missed)) === 0
  }

  /**
   * What was begun before of what will be read. Rows that were taken over are worked on meanwhile: what ended before they are
   * listed has been handed to the writer then, and is in the journal once that is through.
   */
  async #through(begin: readonly { readonly part: Owned; readonly position: Position }[]): Promise<Known> {
    const { thread, journal } = this.#parts
    const rows: { readonly id: string; readonly rule: string }[] = []
    for (const { part, position } of begin) {
      const { topic, partition, offset } = position
      const found = await thread.ask('rowsOf', { partition: part.partition, topic, part: partition, from: offset })
      rows.push(...found)
    }
    await this.#parts.told()
    const times = begin.flatMap(({ position }) => parseMetadata(position.metadata)?.at ?? [])
    const known =
      times.length === 0 ? new Map() : await journal.ended(Math.max(0, Math.min(...times) - toldBeforeCommitMs))
    for (const { id, rule } of rows) addTo(known, id, rule)
    return known
  }

  async #positions(kafka: Kafka, topics: string[]): Promise<Map<string, Position>> {
    const groups = await withAdmin(kafka, (admin) => admin.fetchOffsets({ groupId: this.#parts.topics.group, topics }))
    const positions = new Map<string, Position>()
    for (const { topic, partitions } of groups) {
      for (const { partition, offset, metadata } of partitions) {
        if (Number(offset) < 0) continue
        positions.set(`${topic}/${partition}`, { topic, partition, offset: Number(offset), metadata: metadata ?? '' })
      }
    }
    return positions
  }

  #begin(part: Owned, { topic, partition, offset, metadata }: Position, known: Known): void {
    const stream = this.#parts.topics.streamOf(topic) ?? topic
    const { runs = '', lives: before = 0, latest = 0 } = parseMetadata(metadata) ?? {}
    const lives = before + 1
    const progress = new Progress(offset, runs, latest)
    const name = `${topic}/${partition}`
    const interrupted = this.#interrupted.get(name)
    this.#interrupted.delete(name)
    let source: Source = interrupted ?? { topic, stream, partition, owned: part, progress, lives, end: undefined }
    this.#sources.set(name, source)
    if (source.lives > shortLivesInRow) this.#waryUntil = this.#parts.clock.now() + shortLifeMs
    this.#parts.later(shortLifeMs, () => {
      source.lives = 0
    })
    this.#parts.reader.read(topic, partition, source.progress.next, (messages, end, next) => {
      if (part.isLost) return
      if (Number(messages[0]?.offset ?? source.progress.next) < source.progress.next)
        source = this.#beginAnew(source, messages)
      source.end = end
      for (const message of messages) this.#receive(source, message, known)
      source.progress.goOn(next)
      this.#whenRoutable?.()
      if (source.progress.open >= openAtMost || source.progress.isCrowded) this.#parts.reader.pause(topic, partition)
      if (this.#routable.length >= recordsAhead || this.#routableBytes >= bytesAhead) this.#pause()
    })
    if (this.#arePaused) this.#parts.reader.pause(topic, partition)
  }

  /**
   * A partition goes on before where it was: its topic was made anew, or has lost its end. A position beyond what there is would
   * make the next owner pass over what comes.
   */
  #beginAnew(source: Source, [first]: readonly FetchedMessage[]): Source {
    const { topic, partition, progress } = source
    const anew = { ...source, progress: new Progress(Number(first?.offset ?? 0), '', progress.latest) }
    this.#sources.set(`${topic}/${partition}`, anew)
    return anew
  }

  #receive(source: Source, message: FetchedMessage, known: Known): void {
    const { topic, stream, partition, progress, owned } = source
    const { offset, timestamp, value } = message
    const at = Number(offset)
    const time = Number(timestamp)
    const now = this.#parts.clock.now()
    // Some producers tell no time: such events would have expired long ago.
    const accepted = progress.acceptedAt(time > 0 ? Math.min(time, now) : now)
    if (progress.isFinished(at)) {
      progress.pass(at, accepted)
      return
    }
    if (topic === this.#parts.topics.handed) {
      this.#receiveHanded(source, message, at, accepted, known)
      return
    }
    const origin = [topic, partition, at] as const
    // A view would keep the whole answer of the broker in memory. Of what others wrote too large, the rest would find no
    // room in a row: so cut it is no JSON, and ends as unreadable.
    const bytes = Buffer.from(value?.subarray(0, this.#parts.largestEvent) ?? [])
    progress.begin(at, accepted)
    const record = new KafkaRecord({ id: eventIdOf(time, origin), stream, accepted, origin }, bytes, owned, source)
    record.known = known.get(record.id)
    this.#push(record)
  }

  #receiveHanded(source: Source, message: FetchedMessage, offset: number, accepted: number, known: Known): void {
    const { progress, owned } = source
    const handed = message.key === null ? parseHandedEvent(message) : undefined
    if (handed === undefined && message.key === null) {
      progress.pass(offset, accepted)
      return
    }
    progress.begin(offset, accepted)
    if (handed === undefined) {
      this.#push({ source, offset, message })
      return
    }
    const { event, bytes, rule, standing } = handed
    const record = new KafkaRecord(event, bytes, owned, source, { offset, rule, standing })
    record.known = known.get(record.id)
    this.#push(record)
  }

  #push(one: KafkaRecord | HandedRow): void {
    this.#routable.push(one)
    this.#routableBytes += bytesOf(one)
  }

  #pause(): void {
    this.#arePaused = true
    for (const { topic, partition } of this.#sources.values()) this.#parts.reader.pause(topic, partition)
  }

  #resume(): void {
    this.#arePaused = false
    for (const { topic, partition, progress } of this.#sources.values()) {
      if (progress.open < openAtMost && !progress.isCrowded) this.#parts.reader.resume(topic, partition)
    }
  }

  async commit(): Promise<void> {
    let positions: readonly Position[] = []
    try {
      await this.#parts.membership.commit(() => {
        positions = this.#moved()
        return positions
      })
    } catch (error) {
      for (const { topic, partition } of positions) this.#committed.delete(`${topic}/${partition}`)
      if (!passing.includes(typeOf(error))) throw error
    }
  }

  /** Positions that are others than they were committed, or were committed long ago. */
  #moved(): readonly Position[] {
    const positions: Position[] = []
    for (const [name, source] of this.#sources) {
      const { topic, partition, progress } = source
      const { offset, runs, latest } = progress
      // Whoever takes his leave does not die.
      const lives = this.#isClosed ? 0 : source.lives
      const said = `${offset} ${runs} ${lives}`
      const at = this.#parts.clock.now()
      const before = this.#committed.get(name)
      if (before?.said === said && at - before.at < recommitAfterMs) continue
      this.#committed.set(name, { said, at })
      positions.push({ topic, partition, offset, metadata: formatMetadata({ at: Date.now(), runs, lives, latest }) })
    }
    return positions
  }

  /** All that it caused is settled, or has rows. */
  finish({ source, offset }: Pick<KafkaRecord, 'source' | 'offset'>): void {
    if (source === undefined) return
    const { topic, partition, progress } = source
    progress.end(offset)
    if (!this.#arePaused && progress.open < openAtMost / 2 && !progress.isCrowded)
      this.#parts.reader.resume(topic, partition)
  }

  /** Reads no more of what falls to a part of the work that is another process's now. */
  drop(owned: Owned): void {
    for (const [name, source] of this.#sources) {
      if (source.owned !== owned) continue
      this.#sources.delete(name)
      this.#committed.delete(name)
      this.#parts.reader.stop(source.topic, source.partition)
    }
  }
}

function routableOf(record: KafkaRecord): Routable {
  const { known, rule, standing } = record
  return { record, known, handedOver: rule === undefined ? undefined : { rule, standing } }
}

function bytesOf(one: KafkaRecord | HandedRow): number {
  return one instanceof KafkaRecord ? one.bytes.length : (one.message.value?.length ?? 0)
}
