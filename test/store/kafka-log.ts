import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { ServiceError } from '../../src/base/errors.ts'
import { Fifo } from '../../src/base/fifo.ts'
import type { Outgoing } from '../../src/store/kafka/batch-sender.ts'
import type { FetchedMessage } from '../../src/store/kafka/client.ts'
import { type HandedRow, parseHandedEvent } from '../../src/store/kafka/handed.ts'
import { eventIdOf, KafkaRecord, type Owned, type Source } from '../../src/store/kafka/kafka-record.ts'
import { KeysTopic } from '../../src/store/kafka/keys-topic.ts'
import { partitionOf } from '../../src/store/kafka/partition.ts'
import { Progress as Position } from '../../src/store/kafka/position.ts'
import type { Reader, Received } from '../../src/store/kafka/reader.ts'
import { isMark } from '../../src/store/kafka/row.ts'
import type { ShardInputs, ShardOutputs, ShardThread } from '../../src/store/kafka/shard-protocol.ts'
import { Topics } from '../../src/store/kafka/topics.ts'
import { WorkTopic } from '../../src/store/kafka/work-topic.ts'
import type { Writer } from '../../src/store/kafka/writer.ts'
import type { Consequences, Key, Progress, Settlement, Standing } from '../../src/store/store.ts'
import { StoreThread } from '../../src/store/thread.ts'
import { WoundClock } from '../support/clock.ts'
import { until } from '../support/until.ts'
import { anEvent, aSettlement, lane, stream } from './world.ts'

/*
 * The work topic without brokers: its records lie in memory, and when a write arrives, when it is acknowledged and when it is
 * read is for the test to say. What runs on it is the real `WorkTopic` with its real thread.
 */

export const partitions = 4

export const topics = new Topics({
  ...{ service: 'test', prefix: '', consumePrefixes: [''] },
  ...{ partitions, replication: 1, largestEvent: 1_048_576 },
})

/** Keys whose deliveries lie in that partition of the work. */
export function keysIn(partition: number, count: number): string[] {
  const keys: string[] = []
  for (let number = 0; keys.length < count; number += 1) {
    const text = `k${number}`
    if (partitionOf(text, partitions) === partition) keys.push(text)
  }
  return keys
}

/** One of them. */
export function keyIn(partition: number): string {
  return keysIn(partition, 1).join()
}

/** What all brokers have, in memory. */
export class Log {
  readonly clock = new WoundClock()
  /** How many records were ever written. */
  length = 0
  /** By partition, how far those came that read what was handed over to it, as it was committed. */
  readonly positions = new Map<number, { readonly offset: number; readonly runs: string }>()
  /** By partition, who reads that. */
  readonly readers = new Map<number, Source>()
  readonly #places = new Map<string, FetchedMessage[]>()
  readonly #listeners = new Set<() => void>()

  append({ topic, partition, key, value, headers = {} }: Outgoing): void {
    const records = this.#at(topic, partition)
    const offset = String(Number(records.at(-1)?.offset ?? -1) + 1)
    const timestamp = String(this.clock.now())
    records.push({ offset, timestamp, key, value, headers, isControlRecord: false })
    this.length += 1
    for (const heard of this.#listeners) heard()
  }

  work(partition: number): readonly FetchedMessage[] {
    return this.read(topics.work, partition)
  }

  handed(partition: number): readonly FetchedMessage[] {
    return this.read(topics.handed, partition)
  }

  /** Who has lost the partition is not a member any more that could. */
  commit(source: Source): void {
    const { partition, progress } = source
    if (this.readers.get(partition) !== source) return
    this.positions.set(partition, { offset: progress.offset, runs: progress.runs })
  }

  read(topic: string, partition: number, from = 0): readonly FetchedMessage[] {
    return this.#at(topic, partition).filter(({ offset }) => Number(offset) >= from)
  }

  end(topic: string, partition: number): number {
    return Number(this.#at(topic, partition).at(-1)?.offset ?? -1) + 1
  }

  /** Of each key the last record is left. */
  compact(partition: number): void {
    const newest = new Map(this.work(partition).map((record) => [String(record.key), record]))
    const left = [...newest.values()].sort((a, b) => Number(a.offset) - Number(b.offset))
    this.#places.set(`${topics.work}/${partition}`, left)
  }

  /** Calls back at each record that is written from now on. */
  listen(heard: () => void): void {
    this.#listeners.add(heard)
  }

  #at(topic: string, partition: number): FetchedMessage[] {
    const name = `${topic}/${partition}`
    const records = this.#places.get(name) ?? []
    this.#places.set(name, records)
    return records
  }
}

/** Another process, for which these partitions of the work are read to their end. */
export async function start(log: Log, owned: readonly number[]): Promise<Member> {
  const member = new Member(log)
  member.work.assigned(owned)
  for (const partition of owned) await member.owned(partition)
  await member.quiet()
  return member
}

/** What was written, and is not acknowledged; `records`: those of it that have not even arrived. */
interface Unanswered {
  records: readonly Outgoing[]
  readonly done: () => void
}

interface Routed {
  readonly rules: number
  readonly source: Source
  readonly accepted: number
  readonly bytes: Uint8Array
}

/** A delivery that was handed out. */
export interface Taken {
  readonly record: KafkaRecord
  readonly standing: Standing | undefined
  readonly progress: Progress
  readonly uncleanStops: number
}

interface Reading {
  readonly topic: string
  readonly partition: number
  readonly received: Received
  offset: number
}

/** The part of a process that keeps the work. It ends with its test. */
export class Member {
  readonly work: WorkTopic
  readonly writer: Writer
  readonly reader: Reader
  readonly thread: ShardThread
  readonly broken: unknown[] = []
  /** Called when it was told that something is due, or will be. */
  whenTold = () => {}
  /** Called when a partition of it is another's. */
  whenLost = () => {}
  /** Called with what was handed over, in the place of the router. */
  whenHanded: (record: KafkaRecord) => void = (record) => {
    this.work.routed(record, 1)
    void this.settle(record, { state: 'waiting', reason: 'slot', standing: record.standing })
  }
  /** Whether positions among what was handed over are committed as soon as they change; else when the test says so. */
  commits = true
  /** Offsets of events that need not be read any more. */
  readonly finished: number[] = []
  /** How often each settlement was told to be durable, in the order in which they were handed in. */
  readonly kept: number[] = []
  /** Deliveries that wait, by what for; as the engine counts them. */
  readonly #waiting = new Map<string, number>()
  /** What happens to its writes from now on: they are acknowledged, arrive without being acknowledged, or do not arrive. */
  writes: 'acknowledged' | 'unacknowledged' | 'held' = 'acknowledged'
  /** Partitions of the work of which it gets nothing to read. */
  readonly stalled = new Set<number>()
  readonly log: Log
  /** Where its tables lie. */
  readonly folder: string
  #isAlive = true
  #unanswered: Unanswered[] = []
  readonly #readings = new Map<string, Reading>()
  readonly #paused = new Set<string>()
  #isDelivering = false
  /** What was handed over and is read, in order. */
  readonly #handed = new Fifo<KafkaRecord | HandedRow>()
  #isTakingUp = false
  /** When it is to look for what is due, as far as it was told; in ms. */
  #nextUntil = Number.POSITIVE_INFINITY

  constructor(log: Log) {
    this.log = log
    log.listen(() => this.deliver())
    const folder = mkdtempSync(join(tmpdir(), 'changeprop-work-'))
    const thread = new StoreThread<ShardInputs, ShardOutputs>(
      new URL('../../src/store/kafka/shards', import.meta.url),
      (error) => this.broken.push(error),
    )
    this.thread = thread
    this.folder = folder
    onTestFinished(() => this.end())
    const nothing = () => undefined
    const { clock } = log
    this.writer = this.#writer()
    const reader = this.#reader()
    this.reader = reader
    const keys = new KeysTopic({ topic: topics.keys, thread, reader })
    this.work = new WorkTopic({
      ...{ topics, partitions, folder, clock, thread, writer: this.writer, reader, keys },
      listener: {
        ...{ committed: nothing, changed: nothing, shared: nothing },
        lost: () => this.whenLost(),
        rows: ({ nextUntil, waiting }) => {
          for (const [reason, count] of Object.entries(waiting)) this.#count(reason, count)
          this.#dueAt(nextUntil)
          this.whenTold()
        },
        broken: (error) => this.broken.push(error),
      },
      ...{ deadChanged: nothing, trouble: nothing },
      restored: () => this.readHanded(),
      lost: ({ partition }) => reader.stop(topics.handed, partition),
      finished: (record) => {
        this.#finish(record)
        if (record.rule === undefined) this.finished.push(record.offset)
      },
      later: (ms, work) => void clock.at(clock.now() + ms, () => this.#isAlive && work()),
      broken: (error) => {
        if (this.#isAlive) this.broken.push(error)
        return undefined
      },
    })
  }

  #finish({ source, offset }: Pick<KafkaRecord, 'source' | 'offset'>): void {
    source?.progress.end(offset)
    if (this.commits && source?.topic === topics.handed) this.log.commit(source)
  }

  /** What is handed over to partitions that are its own by now, from where the last reader had come to. */
  readHanded(): void {
    for (const partition of this.work.parts().keys()) {
      const owned = this.work.ready(partition)
      if (owned === undefined || this.log.readers.get(partition)?.owned === owned) continue
      const { offset, runs } = this.log.positions.get(partition) ?? { offset: 0, runs: '' }
      const progress = new Position(offset, runs)
      const source: Source = { ...this.source(partition), topic: topics.handed, progress }
      this.log.readers.set(partition, source)
      this.work.begin(owned)
      this.reader.read(topics.handed, partition, offset, (messages) => {
        for (const message of messages) this.#receive(source, message)
        void this.#takeUp()
      })
    }
  }

  #receive(source: Source, message: FetchedMessage): void {
    const offset = Number(message.offset)
    if (source.progress.isFinished(offset)) {
      source.progress.pass(offset)
      return
    }
    source.progress.begin(offset)
    const handed = message.key === null ? parseHandedEvent(message) : undefined
    if (handed === undefined) this.#handed.push({ source, offset, message })
    else {
      const { event, bytes } = handed
      this.#handed.push(new KafkaRecord(event, bytes, source.owned, source, { ...handed, offset }))
    }
  }

  async #takeUp(): Promise<void> {
    if (this.#isTakingUp) return
    this.#isTakingUp = true
    for (let one = this.#handed.peek(); one !== undefined; one = this.#handed.peek()) {
      if (!this.#isAlive) return
      if (one.source?.owned.isLost === false) {
        if (!(one instanceof KafkaRecord)) await this.work.handOver.takeUp([one], (row) => this.#finish(row))
        else if (this.work.handOver.isNews(one)) this.whenHanded(one)
        else this.#finish(one)
      }
      this.#handed.shift()
    }
    this.#isTakingUp = false
  }

  #writer(): Writer {
    const write: Writer['write'] = (records, done) => {
      if (!this.#isAlive) return
      this.#unanswered.push({ records, done })
      if (this.writes === 'held') return
      this.#arrive()
      if (this.writes === 'acknowledged') setImmediate(() => this.acknowledge())
    }
    const written = () => new Promise<void>((resolve) => write([], resolve))
    return { write, written } as Pick<Writer, 'write' | 'written'> as Writer
  }

  #reader(): Reader {
    const nameOf = (topic: string, partition: number) => `${topic}/${partition}`
    const reader: Pick<Reader, 'read' | 'readToEnd' | 'offsetAt' | 'stop' | 'pause' | 'resume'> = {
      readToEnd: async (topic, partition, offset, received) => {
        const messages = this.log.read(topic, partition, offset)
        if (messages.length > 0) received(messages, this.log.end(topic, partition), this.log.end(topic, partition))
      },
      offsetAt: async (topic, partition, time) => {
        const found = this.log.read(topic, partition).find(({ timestamp }) => Number(timestamp) >= time)
        return found === undefined ? this.log.end(topic, partition) : Number(found.offset)
      },
      read: (topic, partition, offset, received) => {
        this.#paused.delete(nameOf(topic, partition))
        this.#readings.set(nameOf(topic, partition), { topic, partition, received, offset })
        this.deliver()
      },
      stop: (topic, partition) => void this.#readings.delete(nameOf(topic, partition)),
      pause: (topic, partition) => void this.#paused.add(nameOf(topic, partition)),
      resume: (topic, partition) => {
        this.#paused.delete(nameOf(topic, partition))
        this.deliver()
      },
    }
    return reader as Reader
  }

  /** What is held, in order. */
  get held(): readonly Outgoing[] {
    return this.#unanswered.flatMap(({ records }) => records)
  }

  /** How many writes it waits for. */
  get unanswered(): number {
    return this.#unanswered.length
  }

  /** What was written so far has arrived and is acknowledged; what comes later fares as `writes` says. */
  acknowledge(): void {
    if (!this.#isAlive) return
    this.#arrive()
    for (const { done } of this.#unanswered.splice(0)) done()
  }

  #arrive(): void {
    for (const one of this.#unanswered) {
      for (const record of one.records) this.log.append(record)
      one.records = []
    }
  }

  /** Soon reads what there is. */
  deliver(): void {
    if (this.#isDelivering || !this.#isAlive) return
    this.#isDelivering = true
    setImmediate(() => {
      this.#isDelivering = false
      for (const reading of [...this.#readings.values()]) {
        const { topic, partition, offset, received } = reading
        const messages = this.log.read(topic, partition, offset)
        if (!this.#isBehind(reading) || messages.length === 0) continue
        reading.offset = this.log.end(topic, partition)
        received(messages, reading.offset, reading.offset)
      }
    })
  }

  /** There is something to read, and nothing in the way. */
  #isBehind(reading: Reading): boolean {
    const { topic, partition, offset } = reading
    const name = `${topic}/${partition}`
    if (this.#readings.get(name) !== reading || this.#paused.has(name) || this.stalled.has(partition)) return false
    return offset < this.log.end(topic, partition)
  }

  /** It gets to read so many more records of one partition of the work, and is stalled again. */
  deliverUpTo(partition: number, count: number, topic = topics.work): void {
    const reading = [...this.#readings.values()].find((one) => one.topic === topic && one.partition === partition)
    if (reading === undefined) throw new Error(`partition ${partition} is not read`)
    const messages = this.log.read(topic, partition, reading.offset).slice(0, count)
    reading.offset += messages.length
    reading.received(messages, this.log.end(topic, partition), reading.offset)
  }

  /** It gets to read all its partitions again. */
  unstall(): void {
    this.stalled.clear()
    this.deliver()
  }

  /** Resolves when it has read what it gets to read, and nothing more follows from that, or from what was handed in. */
  async quiet(): Promise<void> {
    for (let before = -1; before !== this.log.length; ) {
      before = this.log.length
      await this.work.flushed()
      await new Promise(setImmediate)
      await until('it has read what there is', () => ![...this.#readings.values()].some((one) => this.#isBehind(one)))
      await until('it has taken up what there is', () => !this.#isTakingUp)
      await this.#answered()
      await new Promise(setImmediate)
    }
  }

  /** Answers come in the order of the questions, of which this is the last. */
  async #answered(): Promise<void> {
    await this.thread.ask('take', { lane: { rule: 'none', key: '' }, now: 0, limit: 0 })
  }

  /** From now on it does nothing, and nothing comes of what it has not written. */
  kill(): void {
    this.#isAlive = false
    this.#unanswered = []
    this.#readings.clear()
  }

  /** As kill; and leaves nothing behind. */
  async end(): Promise<void> {
    this.kill()
    await this.thread.end(new ServiceError('STORE_CLOSED', 'the test is over'))
    await rm(this.folder, { recursive: true, force: true })
  }

  /** A partition of the work, when it has all that counts. */
  owned(partition: number): Promise<Owned> {
    return until(`partition ${partition} is taken over`, () => this.work.ready(partition))
  }

  /** The partition of the stream that goes with that partition of the work, from there on. */
  source(partition: number, offset = 0, runs = ''): Source {
    const owned = this.work.ready(partition)
    if (owned === undefined) throw new Error(`partition ${partition} is not owned`)
    const progress = new Position(offset, runs)
    return { topic: stream, stream, partition, owned, progress, lives: 0, end: undefined }
  }

  /** An event is read, which is for so many rules. */
  route(
    offset: number,
    {
      rules = 1,
      source = this.source(0),
      accepted = this.log.clock.now(),
      bytes = anEvent().bytes,
    }: Partial<Routed> = {},
  ): KafkaRecord {
    const origin = [stream, source.partition, offset] as const
    const event = { id: eventIdOf(accepted, origin), stream, accepted, origin }
    const record = new KafkaRecord(event, bytes, source.owned, source)
    source.progress.begin(offset)
    this.work.routed(record, rules)
    return record
  }

  /** Resolves when it is durable, with what came of it. */
  settle(record: KafkaRecord, part: Partial<Settlement> = {}): Promise<Consequences | undefined> {
    const index = this.kept.push(0) - 1
    const settlement = aSettlement(record, {
      ...{ at: this.log.clock.now(), until: this.log.clock.now() },
      ...{ releasesCursor: record.source !== undefined, ...part },
    })
    const isWaiting = settlement.state === 'waiting'
    if (isWaiting) this.#count(settlement.reason, 1)
    return new Promise((resolve) => {
      this.work.settle(settlement, (_, consequences) => {
        this.kept[index] = (this.kept[index] ?? 0) + 1
        const { amended, moved = [], due = [] } = consequences ?? {}
        if (isWaiting && amended !== undefined) {
          this.#count(settlement.reason, -1)
          if (amended.state === 'waiting') this.#count(amended.reason, 1)
        }
        for (const { from, to, count } of moved) {
          this.#count(from, -count)
          if (to !== 'duplicate') this.#count(to, count)
        }
        if (amended?.state === 'waiting') this.#dueAt(amended.until)
        else if (amended === undefined && settlement.state === 'waiting') this.#dueAt(settlement.until)
        for (const { until } of due) this.#dueAt(until)
        resolve(consequences)
      })
    })
  }

  #count(reason: string, by: number): void {
    this.#waiting.set(reason, (this.#waiting.get(reason) ?? 0) + by)
  }

  /** How many wait, by what for. */
  get waiting(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#waiting].filter(([, count]) => count !== 0))
  }

  #dueAt(until: number): void {
    this.#nextUntil = Math.min(this.#nextUntil, until)
  }

  /** What is due now, of all partitions that it owns. As the engine does, it looks only where it was told that something is. */
  async take(): Promise<readonly Taken[]> {
    await this.#answered()
    const now = this.log.clock.now()
    if (this.#nextUntil > now) return []
    this.#nextUntil = Number.POSITIVE_INFINITY
    const parts = this.work.parts()
    const { rows, nextUntil } = await this.thread.ask('take', { lane, now, limit: 1_000 })
    this.#dueAt(nextUntil)
    for (const { reason } of rows) this.#count(reason, -1)
    return rows.map(({ event, bytes, partition, standing, progress, uncleanStops }) => {
      const record = new KafkaRecord(event, bytes, parts.get(partition) ?? { partition, isLost: true })
      return { record, standing, progress, uncleanStops }
    })
  }

  /** Dead letters of a partition that it owns, as they are given out. */
  async letters(partition: number): Promise<readonly KafkaRecord[]> {
    const page = { rule: undefined, ids: undefined, limit: 1_000, after: -1 }
    const { letters } = await this.thread.ask('letters', { partition, ...page })
    return letters.map(({ event, bytes }) => new KafkaRecord(event, bytes, { partition, isLost: false }))
  }
}

/** Waits for its turn among those of its key. */
export function waits(text: string): Partial<Settlement> {
  return { state: 'waiting', reason: 'slot', standing: ordered(text) }
}

export function ordered(text: string): Standing {
  return { key: { text, turn: 'oldest', windowMs: 0 } }
}

export function only<One>(found: readonly One[]): One {
  const [one, ...others] = found
  if (one === undefined || others.length > 0) throw new Error(`${found.length} instead of one`)
  return one
}

/** Of how many deliveries the journal tells. */
export function toldIn(log: Log): number {
  const records = Array.from({ length: partitions }, (_, partition) => log.read(topics.journal, partition)).flat()
  return records.flatMap(({ value }) => String(value).split('\n')).length
}

/** Asked once, and again when the thread has told by which number it knows the rule. */
export async function isKeyFree(member: Member, record: KafkaRecord, key: Key): Promise<boolean> {
  member.work.isKeyFree(record, lane.rule, key)
  await member.quiet()
  return member.work.isKeyFree(record, lane.rule, key)
}

export const deduplicated = (text: string, windowMs = 0): Key => ({ text, turn: 'newest', windowMs })

/** What was handed over to a partition, so that it can arrive once more. */
export function handedOver(log: Log, partition: number): Outgoing {
  const { key, value } = only(log.handed(partition).filter((message) => !isMark(message)))
  return { topic: topics.handed, partition, key, value }
}
