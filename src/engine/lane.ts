import type { Clock } from '../base/clock.ts'
import { Fifo } from '../base/fifo.ts'
import type { Lane, Store, StoredDelivery, Taken } from '../store/store.ts'
import type { Delivery } from './delivery.ts'
import { isOfTried } from './lane-key.ts'
import type { Limit } from './limit.ts'
import type { RuleWork } from './rule-work.ts'
import type { TargetHealth } from './target-health.ts'

/** Rows are fetched ahead for so many starts of each that may run: enough to keep slots busy for the time of a commit. */
const pagePerWanted = 4
const largestPage = 500
/** Of so many rows the first probes a target; the others are put back behind all, so that it is not always the same that do. */
const probedAmong = 20
/** What is new queues in memory behind rows that are due for no longer. */
const behindMs = 100

/**
 * What has one place among those that take turns: of a rule, target and throttle key the lane of what was tried in vain, and
 * that of what was not. A key whose calls fail is not to have more turns than others.
 */
export class Place {
  readonly inTurn = new Fifo<LaneQueue>()
  #closed: LaneQueue[] = []

  /** The lane is given its turn when that limit opens, or an earlier one for which the other lane waits. */
  awaitOpening(limit: Limit, queue: LaneQueue): void {
    this.#closed.push(queue)
    if (this.#closed.length > 1) return
    limit.whenOpen(() => {
      const reopened = this.#closed
      this.#closed = []
      for (const one of reopened) one.reopened()
      queue.wake()
    })
  }
}

/**
 * Deliveries of one rule that go to one target, apart from each other what was tried there in vain and what was not: first
 * what came back from rows, then what runs straight from memory. What waits in rows takes no memory here; all we keep of it
 * is when to look.
 */
export class LaneQueue {
  readonly lane: Lane
  readonly health: TargetHealth
  /** Of its target, shared by all rules. */
  readonly targetLimit: Limit
  /** Of its throttle key. */
  readonly keyLimit: Limit | undefined
  readonly place: Place
  /** Whether it is to have one of the turns of its place. */
  isInTurn = false
  /** There may be something to start. */
  readonly wake: () => void
  readonly #work: RuleWork
  readonly #store: Store
  readonly #clock: Clock
  readonly #leaveHealth: () => void
  readonly #memory = new Fifo<Delivery>()
  readonly #stored = new Fifo<StoredDelivery>()
  #nextUntil = Number.POSITIVE_INFINITY
  #isTaking = false
  #isAwaitingLimit = false
  /** A row came while a page was on its way. */
  #soonerUntil = Number.POSITIVE_INFINITY
  #cancelTimer: (() => void) | undefined
  #timerAt = Number.POSITIVE_INFINITY
  /** While its target is broken, when the first of its rows came due. They are due anew each time they are put back. */
  #dueSince = Number.POSITIVE_INFINITY

  constructor(
    lane: Lane,
    health: TargetHealth,
    targetLimit: Limit,
    keyLimit: Limit | undefined,
    place: Place,
    work: RuleWork,
    store: Store,
    clock: Clock,
    wake: () => void,
  ) {
    this.lane = lane
    this.health = health
    this.targetLimit = targetLimit
    this.keyLimit = keyLimit
    this.place = place
    this.#work = work
    this.#store = store
    this.#clock = clock
    this.wake = wake
    this.#leaveHealth = health.onResumed(wake, isOfTried(lane.key))
    targetLimit.lanes += 1
    if (keyLimit !== undefined) keyLimit.lanes += 1
  }

  /** Whether another one in its place would do the same: nothing is in it, and nobody is to wake it. */
  get isIdle(): boolean {
    const isAwaited = this.isInTurn || this.#isAwaitingLimit || this.#isTaking
    const isEmpty = this.#memory.length === 0 && this.#stored.length === 0
    return isEmpty && !isAwaited && this.#nextUntil === Number.POSITIVE_INFINITY
  }

  /** Whether a call of this lane may start now. */
  get isOpen(): boolean {
    return this.closedBy === undefined
  }

  /** Which gate keeps its calls from starting. */
  get closedBy(): 'target' | 'rate' | 'slot' | undefined {
    if (!this.health.isOpen || !this.targetLimit.isOpen) return 'target'
    return this.keyLimit?.closedBy
  }

  /**
   * Rows are in hand that are better put back, behind the others: their target is left alone, for nobody knows how long, and
   * they would be outdated by then, or are what it fails at.
   */
  get isHeldUp(): boolean {
    const { isBroken, isOpen, pausedUntil } = this.health
    return this.#stored.length > 0 && (isBroken || this.#work.isKeyed) && pausedUntil !== undefined && !isOpen
  }

  /** It is woken when a limit that closes it opens; its target's health wakes it anyway. */
  awaitOpening(): void {
    if (this.#isAwaitingLimit || !this.health.isOpen) return
    const limit = this.targetLimit.isOpen ? this.keyLimit : this.targetLimit
    if (limit === undefined || limit.isOpen) return
    this.#isAwaitingLimit = true
    this.place.awaitOpening(limit, this)
  }

  /** To be told when that may have happened; it is to be woken then. */
  reopened(): void {
    this.#isAwaitingLimit = false
    this.#work.giveTurn(this)
  }

  /** Rows have been due for so long that what is new has to become one, too: memory is for what starts soon. */
  get isBehind(): boolean {
    return this.#nextUntil <= this.#clock.now() - behindMs
  }

  /** Whether rows of this lane are due that were not started yet. */
  get hasBacklog(): boolean {
    return this.#stored.length > 0 || this.#isTaking || this.#nextUntil <= this.#clock.now()
  }

  /** Whether something could be shifted, now or when rows that are due have been fetched. */
  get hasMore(): boolean {
    return this.#memory.length > 0 || this.hasBacklog
  }

  /** When the oldest that could run became eligible, in ms; Infinity where nothing is. */
  get oldestEligible(): number {
    const inRows = this.#nextUntil <= this.#clock.now() ? this.#nextUntil : Number.POSITIVE_INFINITY
    const beforeThat = this.health.isBroken && this.hasBacklog ? this.#dueSince : Number.POSITIVE_INFINITY
    return Math.min(inRows, beforeThat, this.#peekMemory()?.since ?? Number.POSITIVE_INFINITY)
  }

  /** To be told before each call. Says whether it is its target's probe. */
  started(): boolean {
    this.keyLimit?.started()
    this.targetLimit.started()
    return this.health.started(this.wake)
  }

  push(delivery: Delivery): void {
    this.#memory.push(delivery)
    this.#work.inMemory += 1
  }

  /** It is not to run from memory. */
  recall(delivery: Delivery): void {
    delivery.isRecalled = true
    this.#work.inMemory -= 1
  }

  shift(): Delivery | StoredDelivery | undefined {
    return this.#stored.shift() ?? this.#shiftMemory()
  }

  /** What has been in memory since before `time`, to be put into rows. */
  shiftOlderThan(time: number): Delivery | undefined {
    const oldest = this.#peekMemory()
    return oldest !== undefined && oldest.since < time ? this.#shiftMemory() : undefined
  }

  /** Drops what is in hand, and not running, of records that are another process's now. */
  dropLost(): void {
    for (let left = this.#stored.length; left > 0; left -= 1) {
      const delivery = this.#stored.shift()
      if (delivery === undefined) return
      if (this.#store.isOurs(delivery.record)) this.#stored.push(delivery)
      else this.#work.count(delivery.reason, -1)
    }
    const inMemory: Delivery[] = []
    for (let one = this.#shiftMemory(); one !== undefined; one = this.#shiftMemory()) inMemory.push(one)
    for (const delivery of inMemory) if (this.#store.isOurs(delivery.record)) this.push(delivery)
  }

  /** A row of this lane will be due then. */
  rowAt(until: number): void {
    if (this.#isTaking) this.#soonerUntil = Math.min(this.#soonerUntil, until)
    if (until >= this.#nextUntil) return
    this.#nextUntil = until
    this.#arm()
  }

  /**
   * Sees to it that so many deliveries are in hand, if so many are due; wakes when they are. `ahead`: and more, so that
   * slots are busy meanwhile.
   */
  refill(wanted: number, ahead: boolean): void {
    const isProbe = this.health.pausedUntil !== undefined
    if (this.#isTaking || this.#stored.length >= (isProbe ? 1 : wanted)) return
    if (this.#nextUntil > this.#clock.now()) {
      if (this.#stored.length === 0) this.#dueSince = Number.POSITIVE_INFINITY
      // It may have been due before, and have been woken then: clocks are set back.
      this.#arm()
      return
    }
    this.#isTaking = true
    const { health } = this
    const probe = health.reserve()
    const limit = Math.min(largestPage, probe !== undefined ? probedAmong : ahead ? wanted * pagePerWanted : wanted)
    this.#dueSince = health.isBroken ? Math.min(this.#dueSince, this.#nextUntil) : Number.POSITIVE_INFINITY
    void this.#store.take(this.lane, this.#clock.now(), limit).then(
      (taken) => {
        probe?.fetched()
        for (const delivery of this.#ours(taken)) this.#stored.push(delivery)
        this.#isTaking = false
        this.#nextUntil = Math.min(taken.nextUntil, this.#soonerUntil)
        this.#soonerUntil = Number.POSITIVE_INFINITY
        this.#arm()
        this.wake()
        probe?.passed()
      },
      () => {
        probe?.fetched()
        // The store is closed or broken, and has told its listener so: no row can be had any more.
        this.#isTaking = false
        this.#nextUntil = Number.POSITIVE_INFINITY
      },
    )
  }

  /** Some of its rows, due or not, to be ended; none when there are no more. Of a rule that is gone: nothing starts meanwhile. */
  async takeAll(): Promise<readonly StoredDelivery[]> {
    const inHand: StoredDelivery[] = []
    for (let one = this.#stored.shift(); one !== undefined; one = this.#stored.shift()) inHand.push(one)
    if (inHand.length > 0) return inHand
    return this.#ours(await this.#store.take(this.lane, Number.MAX_SAFE_INTEGER, largestPage))
  }

  /** They are not to be ended after all. Nobody knows any more when they would have been due: they are now. */
  putBack(deliveries: readonly StoredDelivery[]): void {
    for (const delivery of deliveries) this.#stored.push(delivery)
    this.wake()
  }

  close(): void {
    this.#cancelTimer?.()
    this.#leaveHealth()
    this.targetLimit.lanes -= 1
    if (this.keyLimit !== undefined) this.keyLimit.lanes -= 1
  }

  /** The others were counted here, and are another process's since they were handed out. */
  #ours({ deliveries }: Taken): readonly StoredDelivery[] {
    return deliveries.filter(({ record, reason }) => {
      const isOurs = this.#store.isOurs(record)
      if (!isOurs) this.#work.count(reason, -1)
      return isOurs
    })
  }

  #peekMemory(): Delivery | undefined {
    while (this.#memory.peek()?.isRecalled === true) this.#memory.shift()
    return this.#memory.peek()
  }

  #shiftMemory(): Delivery | undefined {
    if (this.#peekMemory() === undefined) return undefined
    this.#work.inMemory -= 1
    return this.#memory.shift()
  }

  #arm(): void {
    if (this.#nextUntil === this.#timerAt) return
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    this.#timerAt = this.#nextUntil
    if (this.#nextUntil === Number.POSITIVE_INFINITY) return
    this.#cancelTimer = this.#clock.at(this.#nextUntil, () => {
      this.#timerAt = Number.POSITIVE_INFINITY
      this.wake()
    })
  }
}
