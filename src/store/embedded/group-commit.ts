import { ServiceError } from '../../base/errors.ts'
import { eventWidth } from '../tables/format.ts'
import type { Numbers } from '../tables/numbers.ts'
import { type PendingAppend, type PendingSettle, packEvents, packSettles } from './group.ts'
import type { Committed, WriterThread } from './protocol.ts'

/** A settlement alone waits so long for company: it costs a sync of the disk. */
const settleLingerMs = 3
/** So many are not kept waiting. */
const settlesAtOnce = 32
/** So many do not wait for the turn's end: the writer is at them while the rest of what came in is read. */
const appendsAtOnce = 32
const settlesPerGroup = 2_000
const eventsPerGroup = 2_000
const bytesPerGroup = 8_388_608
const eventsWaitingAtMost = 50_000
const bytesWaitingAtMost = 67_108_864

export interface GroupCommitParts {
  readonly thread: WriterThread
  readonly numbers: Numbers
  /** Position of the next event. */
  readonly next: number
  /** A settlement that the cursor waited for goes into the group that is being made up. */
  released(pos: number): void
  /** As they stand when the group is made up. `running`: undefined where it need not be written. */
  cursor(): number
  running(): Float64Array<ArrayBuffer> | undefined
  /** Events are durable, from this position on. */
  stored(first: number, appends: readonly PendingAppend[]): void
  committed(told: Committed): void
  /** The disk is full: nothing is written until `probe` says otherwise. */
  full(message: string): void
  /** The store cannot go on. */
  broken(error: ServiceError): void
}

/**
 * Gathers appends and settlements into groups, one on its way at a time: what comes meanwhile is the next. An append starts
 * a group at the end of the event loop's turn, or when there are many.
 */
export class GroupCommit {
  readonly #parts: GroupCommitParts
  #next: number
  #appends: PendingAppend[] = []
  #settles: PendingSettle[] = []
  /** Not written because the disk is full; they are first when there is room again. */
  #held: readonly PendingSettle[] | undefined
  #eventsWaiting = 0
  #bytesWaiting = 0
  #cursorWritten: number
  #isOnItsWay = false
  #isStopped = false
  #immediate: NodeJS.Immediate | undefined
  #timer: NodeJS.Timeout | undefined
  #whenIdle: (() => void) | undefined

  constructor(parts: GroupCommitParts) {
    this.#parts = parts
    this.#next = parts.next
    this.#cursorWritten = parts.cursor()
  }

  /** Whether more is waiting to be written than may. */
  get isBusy(): boolean {
    return this.#eventsWaiting > eventsWaitingAtMost || this.#bytesWaiting > bytesWaitingAtMost
  }

  get cursorWritten(): number {
    return this.#cursorWritten
  }

  get isIdle(): boolean {
    return !this.#isOnItsWay && this.#appends.length === 0 && this.#settles.length === 0
  }

  append(pending: PendingAppend): void {
    this.#appends.push(pending)
    this.#eventsWaiting += pending.events.length
    this.#bytesWaiting += pending.bytes
    if (this.#appends.length >= appendsAtOnce) this.#start()
    else this.startSoon()
  }

  settle(pending: PendingSettle): void {
    this.#settles.push(pending)
    if (pending.settlement.claimed || this.#settles.length >= settlesAtOnce) this.startSoon()
    else this.#timer ??= setTimeout(() => this.#start(), settleLingerMs)
  }

  startSoon(): void {
    if (this.#immediate !== undefined || this.#isOnItsWay) return
    this.#immediate = setImmediate(() => this.#start())
  }

  /** Whether there is room again. What was held back is durable then, or before. */
  async probe(): Promise<boolean> {
    const { thread, committed } = this.#parts
    try {
      const told = await thread.ask('probe', {})
      const held = this.#held ?? []
      this.#held = undefined
      tellDurable(held, told)
      committed(told)
      if (!told.hasRoom) return false
    } catch (error) {
      if (error instanceof ServiceError && error.code === 'STORE_FULL') return false
      throw error
    }
    this.#isOnItsWay = false
    this.startSoon()
    return true
  }

  /** Resolves when nothing waits to be written any more, or the disk is full. */
  async drained(): Promise<void> {
    if (this.isIdle) return
    this.startSoon()
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve
    })
  }

  /** Refuses what waits to be appended. */
  refuseAppends(error: ServiceError): void {
    const appends = this.#appends
    this.#appends = []
    this.#refuse(appends, error)
  }

  /** For good. */
  stop(error: ServiceError): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
    this.refuseAppends(error)
    this.#settles = []
    this.#whenIdle?.()
  }

  #start(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    clearImmediate(this.#immediate)
    this.#immediate = undefined
    if (this.#isOnItsWay || this.#isStopped) return
    const { thread, numbers, released } = this.#parts
    const settled = this.#takeSettles()
    const appends = this.#takeAppends()
    const { events, payloads } = packEvents(appends, numbers)
    const { settles, extras } = packSettles(settled, numbers)
    for (const { settlement, pos } of settled) if (settlement.releasesCursor) released(pos)
    // It has passed events whose rows are among those that are left for the next group.
    const cursor = this.#settles.length > 0 ? this.#cursorWritten : this.#parts.cursor()
    if (appends.length === 0 && settled.length === 0 && cursor === this.#cursorWritten) {
      this.#whenIdle?.()
      return
    }
    const running = this.#parts.running()
    const sent: Sent = { appends, settled, first: this.#next, count: events.length / eventWidth, cursor }
    this.#isOnItsWay = true
    thread
      .ask(
        'commit',
        { first: sent.first, events, payloads, settles, extras, names: numbers.takeFresh(), cursor, running },
        [payloads, events.buffer, settles.buffer, ...(running === undefined ? [] : [running.buffer])],
      )
      .then(
        (told) => this.#succeeded(told, sent),
        (error: unknown) => this.#failed(error, sent),
      )
  }

  #succeeded(told: Committed, { appends, settled, first, count, cursor }: Sent): void {
    this.#isOnItsWay = false
    this.#next = first + count
    this.#cursorWritten = cursor
    // In one step with the durable position: a reader that sees the position finds the records.
    this.#parts.stored(first, appends)
    // The next group goes first: the writer is at it while this thread does what follows from the last one.
    if (this.#appends.length > 0 || this.#settles.length > 0) this.#start()
    for (const append of appends) {
      this.#eventsWaiting -= append.events.length
      this.#bytesWaiting -= append.bytes
      append.stored()
    }
    tellDurable(settled, told)
    this.#parts.committed(told)
    if (this.isIdle) this.#whenIdle?.()
  }

  #failed(error: unknown, { appends, settled }: Sent): void {
    const known =
      error instanceof ServiceError ? error : new ServiceError('STORE_BROKEN', String(error), { cause: error })
    if (known.code !== 'STORE_FULL') {
      this.#refuse(appends, known)
      this.stop(known)
      this.#parts.broken(known)
      return
    }
    this.#held = settled
    this.#parts.full(known.message)
    const refusal = new ServiceError(
      'STORE_FULL',
      `the disk is full, or refuses writes: ${known.message}; nothing was stored`,
    )
    this.#refuse(appends, refusal)
    this.refuseAppends(refusal)
    this.#whenIdle?.()
  }

  #takeSettles(): readonly PendingSettle[] {
    if (this.#settles.length > settlesPerGroup) return this.#settles.splice(0, settlesPerGroup)
    const all = this.#settles
    this.#settles = []
    return all
  }

  #takeAppends(): readonly PendingAppend[] {
    let count = 0
    let events = 0
    let bytes = 0
    for (const append of this.#appends) {
      events += append.events.length
      bytes += append.bytes
      if (count > 0 && (events > eventsPerGroup || bytes > bytesPerGroup)) return this.#appends.splice(0, count)
      count += 1
    }
    // A new list even for none: what comes while the group is on its way must not be taken for part of it.
    const all = this.#appends
    this.#appends = []
    return all
  }

  #refuse(appends: readonly PendingAppend[], error: Error): void {
    for (const append of appends) {
      this.#eventsWaiting -= append.events.length
      this.#bytesWaiting -= append.bytes
      append.refused(error)
    }
  }
}

/** A group on its way. */
interface Sent {
  readonly appends: readonly PendingAppend[]
  readonly settled: readonly PendingSettle[]
  readonly first: number
  readonly count: number
  readonly cursor: number
}

function tellDurable(settled: readonly PendingSettle[], { consequences }: Committed): void {
  const byIndex = consequences.length === 0 ? undefined : new Map(consequences.map((one) => [one.index, one]))
  for (const [index, { durable, settlement }] of settled.entries()) durable?.(settlement, byIndex?.get(index))
}
