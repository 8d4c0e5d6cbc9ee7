import { type Clock, systemClock } from '../../base/clock.ts'
import { type ErrorCode, messageOf, ServiceError } from '../../base/errors.ts'
import { givenIdOf, type NewEvent, type StreamRecord } from '../../event/event.ts'
import type {
  DeadLetter,
  DeliveryEntry,
  DeliveryFilter,
  Durable,
  EventEntry,
  Key,
  Lane,
  LaneBacklog,
  Page,
  RefusedEvent,
  Routable,
  Running,
  Settlement,
  Store,
  StoredDelivery,
  StoreHealth,
  StoreListener,
  Taken,
} from '../store.ts'
import { deliveryStates, shortLifeMs, shortLivesInRow } from '../store.ts'
import { type Database, isBusy, readerOf } from '../tables/database.ts'
import { parseEventId } from '../tables/event-id.ts'
import type { StoredRecord } from '../tables/format.ts'
import { FreeKeys } from '../tables/free-keys.ts'
import { Numbers } from '../tables/numbers.ts'
import { StoreThread } from '../thread.ts'
import { packRunning } from './group.ts'
import { GroupCommit } from './group-commit.ts'
import { LogReader } from './log-reader.ts'
import { LowWaterMark } from './low-water.ts'
import { type Committed, fileIn, type Inputs, type Outputs, type Retention, type WriterThread } from './protocol.ts'
import { LogRecord } from './record.ts'
import { Health } from './store-health.ts'

export interface EmbeddedStoreOptions {
  /** The data folder; made where it is missing. */
  readonly path: string
  readonly retention: Retention
  readonly clock?: Clock
}

const writer = new URL('./writer', import.meta.url)
const probeEveryMs = 1_000
const retainEveryMs = 5_000
const retainEveryMsWhenTight = 1_000
/** So many lanes are asked of at once, and so often in a row: enough for 4,000 new ones a second. */
const lanesPerStep = 1_000
const forgettingSteps = 20
/** A cursor that moves alone is written so often; after a crash, what lies above is looked at again and nothing comes of it. */
const cursorLingerMs = 1_000

export function createEmbeddedStore(options: EmbeddedStoreOptions): Store {
  return new EmbeddedStore(options)
}

const noneRefused: readonly RefusedEvent[] = []
const noLag: ReadonlyMap<string, number> = new Map()
const noneConfined: ReadonlySet<string> = new Set()

/** What there is once the store is open. */
interface Parts {
  readonly mark: number
  readonly thread: WriterThread
  readonly numbers: Numbers
  readonly cursor: LowWaterMark
  readonly commits: GroupCommit
  readonly openReader: () => Database
  readonly reader: LogReader
  readonly listener: StoreListener
}

/** Everything in one folder, written by one thread of one process. */
class EmbeddedStore implements Store {
  readonly description: string
  readonly rowCost = 1
  readonly settleMs = 0
  readonly #path: string
  readonly #limits: Retention
  readonly #clock: Clock
  readonly #health: Health
  #parts: Parts | undefined
  #freeKeys: FreeKeys | undefined
  /** While there is no room for recovery. */
  #pending: WriterThread | undefined
  #listener: StoreListener | undefined
  #running: () => Iterable<Running> = () => []
  #hadRunning = true
  #ended: ServiceError | undefined
  #cursorTimer: NodeJS.Timeout | undefined
  #cancelRetain: (() => void) | undefined
  #isRetaining = false
  #cancelLived: (() => void) | undefined
  isWary = false
  #cancelProbe: (() => void) | undefined

  constructor({ path, retention, clock = systemClock }: EmbeddedStoreOptions) {
    this.description = `embedded store in ${path}`
    this.#path = path
    this.#limits = retention
    this.#clock = clock
    this.#health = new Health(retention, (health) => this.#listener?.changed(health))
  }

  async open(listener: StoreListener): Promise<readonly LaneBacklog[]> {
    if (this.#listener !== undefined) throw new Error('a store is opened once')
    const thread: WriterThread = new StoreThread<Inputs, Outputs>(writer, (error) => this.#break(error))
    try {
      const backlog = await this.#recover(thread, listener)
      this.#listener = listener
      return backlog
    } catch (error) {
      if (!isFullDisk(error)) {
        await thread.end(new ServiceError('STORE_CLOSED', 'the store could not be opened'))
        throw error
      }
      this.#listener = listener
      this.#pending = thread
      this.#health.disk(`there is no room to recover what is in ${this.#path}: ${messageOf(error)}`)
      this.#recoverLater(thread, listener)
      return []
    }
  }

  /** Lanes are told of as they come. */
  #recoverLater(thread: WriterThread, listener: StoreListener): void {
    this.#cancelProbe = this.#clock.at(this.#clock.now() + probeEveryMs, () => {
      this.#recover(thread, listener).then(
        (backlog) => {
          this.#pending = undefined
          for (const lane of backlog) listener.rows(lane)
          this.#health.disk(undefined)
        },
        (error: unknown) => {
          if (isFullDisk(error)) this.#recoverLater(thread, listener)
          else this.#break(error)
        },
      )
    })
  }

  async #recover(thread: WriterThread, listener: StoreListener): Promise<readonly LaneBacklog[]> {
    const opened = await thread.ask('open', { path: this.#path, now: this.#clock.now(), retention: this.#limits })
    const { mark, last, lives, names } = opened
    this.isWary = lives > shortLivesInRow
    this.#cancelLived = this.#clock.at(this.#clock.now() + shortLifeMs, () => this.#lived(thread))
    const openReader = await readerOf(fileIn(this.#path))
    if (this.#ended !== undefined) throw this.#ended
    const numbers = new Numbers(names)
    const cursor = new LowWaterMark(opened.cursor)
    const reader = new LogReader({ thread, numbers, mark, cursor, last })
    const commits = new GroupCommit({
      thread,
      numbers,
      next: last + 1,
      released: (pos) => cursor.settled(pos),
      cursor: () => cursor.cursor,
      running: () => this.#packRunning(numbers, mark),
      stored: (first, appends) => reader.stored(first, appends),
      committed: (told) => this.#committed(told),
      full: (message) => this.#filledUp(message),
      broken: (error) => this.#break(error),
    })
    this.#parts = { mark, thread, numbers, cursor, commits, openReader, reader, listener }
    this.#health.counted(opened.dead, (rule) => numbers.rule(rule))
    this.#health.measured(opened.sizes)
    this.#retainLater()
    return opened.backlog
  }

  async close(): Promise<void> {
    const parts = this.#parts
    if (this.#ended !== undefined) return
    const closed = new ServiceError('STORE_CLOSED', 'the service is stopping; nothing was stored')
    const wasWritable = this.#health.current.writable
    this.#end(closed)
    await this.#pending?.end(closed)
    if (parts === undefined) return
    const { thread, reader, commits, cursor } = parts
    reader.close()
    this.#freeKeys?.close()
    try {
      // On a full disk this is the last try; what cannot be written is as if the process had died now.
      if (wasWritable || (await commits.probe())) {
        await commits.drained()
        // The cursor has passed events whose rows are not there, where the disk filled up with them.
        if (commits.isIdle) await thread.ask('close', { cursor: cursor.cursor })
      }
    } catch (error) {
      if (!isFullDisk(error)) throw error
    } finally {
      commits.stop(closed)
      await thread.end(closed)
    }
  }

  health(): StoreHealth {
    return this.#health.current
  }

  async append(events: readonly NewEvent[]): Promise<readonly RefusedEvent[]> {
    const { commits, reader } = this.#opened
    const refusal = this.#refusal(commits)
    if (refusal !== undefined) throw refusal
    if (events.length === 0) return noneRefused
    let bytes = 0
    for (const event of events) bytes += event.bytes.length
    const accepted = this.#clock.now()
    return new Promise((resolve, refused) => {
      const stored = () => reader.whenNear(() => resolve(noneRefused))
      commits.append({ events, accepted, bytes, stored, refused })
    })
  }

  /** All streams are in one log, and read. */
  subscribe(): void {}

  /** There is but one process. */
  confine(): ReadonlySet<string> {
    return noneConfined
  }

  isElsewhere(): boolean {
    return false
  }

  isKeyFree(record: StreamRecord, rule: string, key: Key): boolean {
    const { mark, numbers, openReader } = this.#opened
    if (this.#isOver) return false
    const number = numbers.find('rule', rule)
    if (number === undefined) return true
    try {
      this.#freeKeys ??= new FreeKeys(openReader())
      return this.#freeKeys.isFree(number, key, {
        pos: positionOf(record, mark),
        metaId: () => givenIdOf(record),
        now: this.#clock.now(),
      })
    } catch (error) {
      if (!isBusy(error)) this.#break(error)
      return false
    }
  }

  isOurs(): true {
    return true
  }

  next(limit: number): Promise<readonly Routable[]> {
    return this.#opened.reader.next(limit)
  }

  routed(record: StreamRecord, inMemory: number): void {
    if (!(record instanceof LogRecord)) throw new Error('what was routed is not a record that this store gave out')
    const { cursor, commits } = this.#opened
    cursor.routed(record.pos, inMemory)
    this.#cursorTimer ??= setTimeout(() => {
      this.#cursorTimer = undefined
      if (cursor.cursor !== commits.cursorWritten) commits.startSoon()
    }, cursorLingerMs)
  }

  settle(settlement: Settlement, durable?: Durable): void {
    // Once the store has ended this is as if the process had died before the decision: the delivery comes again.
    if (this.#parts === undefined || this.#isOver) return
    const { commits, mark } = this.#parts
    commits.settle({ settlement, pos: positionOf(settlement.record, mark), durable })
  }

  async take(lane: Lane, now: number, limit: number): Promise<Taken> {
    const { thread, numbers } = this.#opened
    const { rows, nextUntil } = await thread
      .ask('take', { lane: numbers.ofLane(lane), now, limit })
      .catch((error: unknown) => {
        // Rows that cannot be read would wait for ever, and nobody would know.
        this.#break(error)
        throw error
      })
    const deliveries = rows.map((row): StoredDelivery => {
      const { event, ...rest } = row
      return { lane, record: this.#record(event), ...rest }
    })
    return { deliveries, nextUntil }
  }

  running(list: () => Iterable<Running>): void {
    this.#running = list
  }

  async find(id: string): Promise<readonly EventEntry[]> {
    const { thread, cursor } = this.#opened
    // As it was before we looked: what has moved on since may have left a row that was not there yet.
    const passed = cursor.cursor
    const found = await thread.ask('find', { id })
    return found.map(({ event, metaId, deliveries }) => {
      return { record: this.#record(event), metaId, routed: event.pos < passed, deliveries }
    })
  }

  deliveries({ rule, state, limit, cursor }: DeliveryFilter): Promise<Page<DeliveryEntry>> {
    const number = state === undefined ? undefined : deliveryStates.indexOf(state)
    return this.#opened.thread.ask('deliveries', { rule, state: number, limit, cursor })
  }

  async deadLetters(filter: {
    rule?: string
    ids?: readonly string[]
    limit: number
    cursor?: string
  }): Promise<Page<DeadLetter>> {
    const { rule, ids, limit, cursor } = filter
    const page = await this.#opened.thread.ask('deadLetters', { rule, ids, limit, cursor })
    const items = page.items.map(({ entry, event, ...rest }): DeadLetter => {
      return { ...entry, ...rest, record: this.#record(event) }
    })
    return { items, cursor: page.cursor }
  }

  /** One log for all streams has no place of its own for any. */
  lag(): ReadonlyMap<string, number> {
    return noLag
  }

  deadCounts(): ReadonlyMap<string, { readonly count: number; readonly bytes: number }> {
    return this.#health.deadCounts
  }

  get #opened(): Parts {
    if (this.#parts !== undefined) return this.#parts
    if (this.#pending === undefined) throw new Error('the store is not open')
    throw this.#ended ?? refused('STORE_FULL', this.#health.current.trouble ?? 'the store is full')
  }

  /** The last of what was handed in has been written, or never will be. */
  get #isOver(): boolean {
    return this.#ended !== undefined
  }

  #refusal(commits: GroupCommit): ServiceError | undefined {
    if (this.#ended !== undefined) return this.#ended
    if (commits.isBusy)
      return refused('STORE_BUSY', 'more is being posted than the disk can keep up with; nothing was stored')
    const { accepting, trouble } = this.#health.current
    return accepting ? undefined : refused('STORE_FULL', trouble ?? 'the store is full')
  }

  #record({ pos, stream, accepted, payload }: StoredRecord): LogRecord {
    return new LogRecord(this.#opened.mark, pos, stream, accepted, payload)
  }

  #packRunning(numbers: Numbers, mark: number): Float64Array<ArrayBuffer> | undefined {
    const pairs = packRunning(this.#running(), (record) => positionOf(record, mark), numbers)
    const isNews = pairs.length > 0 || this.#hadRunning
    this.#hadRunning = pairs.length > 0
    return isNews ? pairs : undefined
  }

  #committed({ ms, sizes, dead }: Committed): void {
    const { numbers, listener } = this.#opened
    listener.committed(ms)
    if (dead !== undefined) this.#health.counted(dead, (rule) => numbers.rule(rule))
    if (sizes === undefined) return
    this.#health.measured(sizes)
    if (this.#health.isTight) this.#retain()
  }

  #filledUp(message: string): void {
    if (this.#isOver) return
    this.#health.disk(message)
    this.#probeLater()
  }

  #probeLater(): void {
    this.#cancelProbe = this.#clock.at(this.#clock.now() + probeEveryMs, () => {
      this.#opened.commits.probe().then(
        (isWritable) => {
          if (isWritable) this.#health.disk(undefined)
          else this.#probeLater()
        },
        (error: unknown) => this.#break(error),
      )
    })
  }

  #lived(thread: WriterThread): void {
    this.isWary = false
    thread.ask('lived', {}).catch((error: unknown) => {
      // On a full disk this life counts as a short one, which costs the next but speed.
      if (!isFullDisk(error)) this.#break(error)
    })
  }

  #retainLater(): void {
    const ms = this.#health.isTight ? retainEveryMsWhenTight : retainEveryMs
    this.#cancelRetain = this.#clock.at(this.#clock.now() + ms, () => {
      this.#retain()
      this.#retainLater()
    })
  }

  #retain(): void {
    if (this.#isRetaining || this.#isOver || !this.#health.current.writable) return
    this.#isRetaining = true
    this.#retainSteps().then(
      () => {
        this.#isRetaining = false
      },
      (error: unknown) => {
        this.#isRetaining = false
        // A full disk has no room for the log of a removal either; what is written next says so.
        if (!isFullDisk(error)) this.#break(error)
      },
    )
  }

  async #retainSteps(): Promise<void> {
    for (let more = true; more && !this.#isOver; ) {
      const retained = await this.#opened.thread.ask('retain', { now: this.#clock.now() })
      more = retained.more
      this.#health.measured(retained.sizes)
    }
    await this.#forgetLanes()
    if (!this.#isOver) this.#health.retained()
  }

  async #forgetLanes(): Promise<void> {
    const { thread, numbers } = this.#opened
    for (let step = 0; step < forgettingSteps && !this.#isOver; step += 1) {
      const lanes = numbers.surplusLanes(lanesPerStep)
      if (lanes.length === 0) return
      const { forgotten } = await thread.ask('forget', { lanes })
      numbers.forgot(lanes, forgotten)
      // Most of them live: the others will, too.
      if (forgotten.length * 2 < lanes.length) return
    }
  }

  #break(error: unknown): void {
    if (this.#isOver) return
    const broken =
      error instanceof ServiceError ? error : new ServiceError('STORE_BROKEN', String(error), { cause: error })
    this.#end(broken)
    this.#parts?.commits.stop(broken)
    this.#parts?.reader.close()
    this.#freeKeys?.close()
    void (this.#parts?.thread ?? this.#pending)?.end(broken)
    this.#listener?.broken(broken)
  }

  #end(error: ServiceError): void {
    this.#ended = error
    this.#health.ended(error.message)
    clearTimeout(this.#cursorTimer)
    this.#cancelRetain?.()
    this.#cancelLived?.()
    this.#cancelProbe?.()
  }
}

function refused(code: ErrorCode, message: string): ServiceError {
  return new ServiceError(code, message)
}

function positionOf(record: StreamRecord, mark: number): number {
  if (record instanceof LogRecord) return record.pos
  const parsed = parseEventId(mark, record.id)
  if (parsed === undefined) throw new Error(`the record ${record.id} is not of this store`)
  return parsed.pos
}

function isFullDisk(error: unknown): boolean {
  return error instanceof ServiceError && error.code === 'STORE_FULL'
}
