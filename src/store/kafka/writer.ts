import { setTimeout as pause } from 'node:timers/promises'
import type { Kafka } from 'kafkajs'
import { ServiceError } from '../../base/errors.ts'
import { answers, BatchSender, type Outgoing, placeOf, type Sent } from './batch-sender.ts'
import { atMost } from './client.ts'
import { explain, isHopeless, isStarved, isTooLarge, RefusedError } from './errors.ts'

/** A record that was not written, and will not be. */
export interface Unwritten {
  readonly record: Outgoing
  readonly error: RefusedError | ServiceError
}

interface Item {
  readonly records: readonly Outgoing[]
  /** So many of them are on their way, or were. */
  begun: number
  /** So many of them are not written yet. */
  left: number
  /** Written already, where others of them are not. */
  readonly written: Set<Outgoing>
  readonly unwritten: Unwritten[]
  /** Given up then, unlike what must not be lost; in ms. */
  readonly deadline: number
  /** Nobody waits for it any more: what is still on its way may be written, but is not sent again. */
  isAnswered: boolean
  readonly done: (unwritten: readonly Unwritten[]) => void
}

/** Records of one item that go in one batch. */
interface Slice {
  readonly item: Item
  readonly records: readonly Outgoing[]
}

export interface WriterParts {
  readonly kafka: Kafka
  /** Why nothing can be written at the moment, in a sentence; undefined when all is well again. */
  trouble(why: string | undefined): void
  /** What a topic takes in one partition's part of a batch, in bytes. */
  largestBatch(topic: string): number
  /** It takes less than that. */
  tooLarge(topic: string): void
  /** One batch was acknowledged after so many ms. */
  committed(ms: number): void
}

const lingerMs = 2
const recordsAtOnce = 5_000
const bytesAtOnce = 8_388_608
const bytesPerPartition = 786_432
const overheadPerRecord = 128
const itemsWaitingAtMost = 50_000
const bytesWaitingAtMost = 67_108_864
const refuseAfterMs = 10_000
/** So long all waits for a partition that has too few replicas in sync. */
const starvedForMs = 5_000
const farewellMs = 1_000
const shortestPauseMs = 100
const longestPauseMs = 5_000

/**
 * Writes records in the order in which they were handed in, one batch on its way at a time: what comes meanwhile is the next
 * one. What counts as written is told by `BatchSender`.
 */
export class Writer {
  readonly #parts: WriterParts
  readonly #sender: BatchSender
  #items: Item[] = []
  /** Those that are given up at their deadline, the earliest first; on their way or not. */
  readonly #hurried = new Set<Item>()
  #records = 0
  #bytes = 0
  /** When a partition was first refused for too few replicas in sync, and not taken since; by place, in ms. */
  readonly #starvedSince = new Map<string, number>()
  #isOnItsWay = false
  #isStopped = false
  #trouble: string | undefined
  #timer: NodeJS.Timeout | undefined
  #deadlines: NodeJS.Timeout | undefined
  #isAsking = false
  #whenIdle: (() => void) | undefined

  constructor(parts: WriterParts) {
    this.#parts = parts
    this.#sender = new BatchSender(parts.kafka, (ms) => this.#tell(`${silence(ms)}: nothing is written until it does`))
  }

  get isBusy(): boolean {
    return this.#records > itemsWaitingAtMost || this.#bytes > bytesWaitingAtMost
  }

  get trouble(): string | undefined {
    return this.#trouble
  }

  /** Rejects where no broker answers; what is written then is tried all the same. */
  async connect(): Promise<void> {
    await this.#sender.connect()
  }

  /** `done` is called once all of them are written. They are never given up. */
  write(records: readonly Outgoing[], done: () => void): void {
    this.#enqueue(records, Number.POSITIVE_INFINITY, done)
  }

  /**
   * As `write`, but given up where the brokers do not take them for some time, or refuse some of them. Resolves with those;
   * where it was not the record's fault it may have been written.
   */
  tryWrite(records: readonly Outgoing[]): Promise<readonly Unwritten[]> {
    return new Promise((resolve) => this.#enqueue(records, Date.now() + refuseAfterMs, resolve))
  }

  /** Resolves when all that was handed in before is written, or given up. */
  async written(): Promise<void> {
    await this.tryWrite([])
  }

  /** Resolves when all is written, or cannot be: soon after Kafka has ceased to answer. */
  async close(): Promise<void> {
    if ((this.#items.length > 0 || this.#isOnItsWay) && this.#trouble === undefined) {
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve
      })
    }
    this.#isStopped = true
    clearTimeout(this.#timer)
    for (const item of this.#items.splice(0)) if (item.begun === 0) this.#answer(item, closed())
    await atMost(farewellMs, this.#sender.disconnect())
    clearTimeout(this.#deadlines)
    for (const item of [...this.#hurried]) this.#answer(item, unavailable(this.#trouble ?? silence(farewellMs)))
  }

  #enqueue(records: readonly Outgoing[], deadline: number, done: Item['done']): void {
    const item: Item = {
      records,
      begun: 0,
      left: records.length,
      written: new Set(),
      unwritten: [],
      deadline,
      isAnswered: false,
      done,
    }
    if (this.#isStopped) {
      this.#answer(item, closed())
      return
    }
    this.#items.push(item)
    this.#records += records.length
    for (const record of records) this.#bytes += sizeOf(record)
    // What has no records waits for those before it, and is not to be told too early that they are through.
    if (mayFail(item) && records.length > 0) {
      this.#hurried.add(item)
      this.#deadlines ??= setTimeout(() => this.#giveUpLate(), deadline - Date.now())
    }
    if (this.#isOnItsWay) return
    if (this.#records >= 256) this.#startSoon()
    else this.#timer ??= setTimeout(() => this.#start(), lingerMs)
  }

  /** Does not wait for kafkajs: what it still has under way may take minutes. */
  #giveUpLate(): void {
    const now = Date.now()
    for (const item of this.#hurried) {
      if (item.deadline > now) {
        this.#deadlines = setTimeout(() => this.#giveUpLate(), item.deadline - now)
        break
      }
      this.#forget(item.records.slice(item.begun))
      this.#answer(item, unavailable(this.#trouble ?? silence(refuseAfterMs)))
    }
    if (this.#hurried.size === 0) this.#deadlines = undefined
    this.#items = this.#items.filter(({ isAnswered }) => !isAnswered)
  }

  /** Once only. `error`: why what is not written yet never will be, as far as is known; what must not be lost has no answer then. */
  #answer(item: Item, error?: Unwritten['error']): void {
    if (item.isAnswered) return
    this.#hurried.delete(item)
    const { records, written, unwritten } = item
    if (!mayFail(item) && (unwritten.length > 0 || error !== undefined)) return
    item.isAnswered = true
    if (error === undefined) {
      item.done(unwritten)
      return
    }
    const known = new Set([...written, ...unwritten.map(({ record }) => record)])
    const left = records.filter((record) => !known.has(record))
    item.done([...unwritten, ...left.map((record) => ({ record, error }))])
  }

  #forget(records: readonly Outgoing[]): void {
    this.#records -= records.length
    for (const record of records) this.#bytes -= sizeOf(record)
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
      if (this.#trouble !== undefined) void this.#askUntilAnswered()
      return
    }
    this.#isOnItsWay = true
    void this.#writeNext().finally(() => {
      this.#isOnItsWay = false
      this.#start()
    })
  }

  /** Takes what fits one batch, and stays with it until it is written or given up. */
  async #writeNext(): Promise<void> {
    const slices = this.#takeNext()
    if (slices.some(({ records }) => records.length > 0)) await this.#insist(slices)
    for (const { item, records } of slices) {
      this.#forget(records)
      item.left -= records.length
      if (item.left === 0) this.#answer(item)
      else for (const record of records) item.written.add(record)
    }
  }

  /**
   * The broker judges a partition's part of a batch as one message. What was handed in together is not split if a batch of its
   * own has room for it: then all of it that is of one partition is written, or none.
   */
  #takeNext(): readonly Slice[] {
    const slices: Slice[] = []
    const perPartition = new Map<string, number>()
    let count = 0
    let bytes = 0
    for (let item = this.#items[0]; item !== undefined; item = this.#items[0]) {
      const { records, begun } = item
      for (let record = records[item.begun]; record !== undefined; record = records[item.begun]) {
        const name = placeOf(record)
        const size = sizeOf(record)
        const sum = (perPartition.get(name) ?? 0) + size
        perPartition.set(name, sum)
        count += 1
        bytes += size
        const isFull =
          count > recordsAtOnce ||
          bytes > bytesAtOnce ||
          sum > Math.min(bytesPerPartition, this.#parts.largestBatch(record.topic))
        if (isFull && count > 1) {
          if (begun === 0 && slices.length > 0) {
            item.begun = 0
            return slices
          }
          if (item.begun > begun) slices.push({ item, records: records.slice(begun, item.begun) })
          return slices
        }
        item.begun += 1
      }
      slices.push({ item, records: begun === 0 ? records : records.slice(begun) })
      this.#items.shift()
    }
    return slices
  }

  async #insist(slices: readonly Slice[]): Promise<void> {
    let left = slices
    for (let pauseMs = shortestPauseMs; !this.#isStopped; pauseMs = Math.min(longestPauseMs, pauseMs * 2)) {
      left = left.filter(({ item }) => !item.isAnswered)
      if (left.length === 0) return
      const began = performance.now()
      const sent = await this.#sender.send(left.flatMap(({ records }) => records))
      const { rest, isForMoment } = this.#restOf(left, sent)
      if (rest.length === 0) {
        this.#parts.committed(performance.now() - began)
        this.#tell(undefined)
        return
      }
      for (const { item, records } of partsOf(left, (record) => sent.written.has(placeOf(record))))
        for (const record of records) item.written.add(record)
      left = rest
      if (await this.#hasIsolated(left, sent.error)) return
      if (!isForMoment) this.#tell(`Kafka does not take what is written: ${explain(sent.error, topicOf(left))}`)
      await pause(pauseMs)
      if (!this.#isStopped) await this.#sender.replaceIfSpoiled()
    }
    giveUp(left, unavailable(this.#trouble ?? silence(farewellMs)))
  }

  /** What was not written, and is to be sent again. `isForMoment`: that may be over soon, and is nobody's trouble yet. */
  #restOf(
    slices: readonly Slice[],
    { written, refused, error }: Sent,
  ): { rest: readonly Slice[]; isForMoment: boolean } {
    if (this.#starvedSince.size > 0) for (const place of written) this.#starvedSince.delete(place)
    const rest = partsOf(slices, (record) => !written.has(placeOf(record)))
    // What comes behind it is not to wait for its partition.
    const barred = new Set<Outgoing>()
    let isForMoment = isStarved(error)
    for (const { item, records } of rest) {
      for (const record of records) {
        const why = refused.get(placeOf(record))
        if (!isStarved(why) || !this.#isStarvedForLong(placeOf(record))) continue
        isForMoment = false
        if (!mayFail(item)) continue
        item.unwritten.push({ record, error: new RefusedError(why, record.topic) })
        barred.add(record)
      }
    }
    return { rest: partsOf(rest, (record) => !barred.has(record)), isForMoment }
  }

  /** Too few replicas may be in sync for a moment where a broker starts anew. */
  #isStarvedForLong(place: string): boolean {
    const since = this.#starvedSince.get(place) ?? Date.now()
    this.#starvedSince.set(place, since)
    return Date.now() - since >= starvedForMs
  }

  /**
   * Where one of them is at fault for good, the others must not suffer for it: each is sent by itself, and what may fail is given
   * up. Whether that has seen to all of them.
   */
  async #hasIsolated(slices: readonly Slice[], error: unknown): Promise<boolean> {
    const topic = topicOf(slices)
    if (isTooLarge(error)) this.#parts.tooLarge(topic)
    if (!isHopeless(error)) return false
    const [only] = slices
    const parts = only !== undefined && slices.length === 1 ? halvesOf(only) : slices
    if (parts.length > 1) {
      for (const part of parts) await this.#insist([part])
      return true
    }
    if (only === undefined || !mayFail(only.item)) return false
    giveUp(slices, new RefusedError(error, topic))
    return true
  }

  /** What could show that Kafka answers again was given up, and nothing more comes as long as it seems not to. */
  async #askUntilAnswered(): Promise<void> {
    if (this.#isAsking) return
    this.#isAsking = true
    while (this.#trouble !== undefined && !this.#isOnItsWay && !this.#isStopped) {
      const isAnswered = await answers(this.#parts.kafka)
      if (this.#isOnItsWay || this.#isStopped) break
      if (isAnswered) this.#tell(undefined)
      else await pause(longestPauseMs, undefined, { ref: false })
    }
    this.#isAsking = false
  }

  #tell(trouble: string | undefined): void {
    if (trouble === this.#trouble) return
    this.#trouble = trouble
    this.#parts.trouble(trouble)
    if (trouble !== undefined) this.#whenIdle?.()
  }
}

/** In bytes, and more than Kafka makes of it. */
export function sizeOf({ key, value }: Outgoing): number {
  return (key?.length ?? 0) + (value?.length ?? 0) + overheadPerRecord
}

/** Without what does not pass; none is empty. */
function partsOf(slices: readonly Slice[], passes: (record: Outgoing) => boolean): readonly Slice[] {
  return slices
    .map(({ item, records }) => ({ item, records: records.filter(passes) }))
    .filter(({ records }) => records.length > 0)
}

function topicOf([first]: readonly Slice[]): string {
  return first?.records[0]?.topic ?? ''
}

function halvesOf({ item, records }: Slice): readonly Slice[] {
  const half = Math.ceil(records.length / 2)
  return [records.slice(0, half), records.slice(half)].flatMap((part) =>
    part.length === 0 ? [] : [{ item, records: part }],
  )
}

/** What must not be lost may not. */
function mayFail({ deadline }: Item): boolean {
  return Number.isFinite(deadline)
}

function giveUp(slices: readonly Slice[], error: Unwritten['error']): void {
  for (const { item, records } of slices) item.unwritten.push(...records.map((record) => ({ record, error })))
}

function silence(ms: number): string {
  return `Kafka has not answered for ${ms / 1_000} s`
}

function unavailable(why: string): ServiceError {
  return new ServiceError('STORE_UNAVAILABLE', `${why}; whether this was written is not known`)
}

function closed(): ServiceError {
  return new ServiceError('STORE_CLOSED', 'the service is stopping; nothing was stored')
}
