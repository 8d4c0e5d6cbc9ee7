import type { Clock } from '../base/clock.ts'
import { Fifo } from '../base/fifo.ts'
import type { Rule } from '../rule/rule.ts'
import type { Store, WaitReason } from '../store/store.ts'
import type { Delivery } from './delivery.ts'
import type { LaneQueue, Place } from './lane.ts'
import { Limit, noLimits, type Share } from './limit.ts'

/**
 * The router never waits for a slow rule: what finds no room becomes a row. But a row costs at least as much as a call to a
 * quick target, so for a rule that makes this many starts within the router's patience, waiting is quicker, and holds up the
 * other rules no more than that speed does.
 */
const quickStarts = 256
/** So much of that will do where it is the store, or we, that keep it from more: rows would only make us busier. */
const heldUpShare = 0.25
/** Of its slots: where fewer are used anew within the router's patience, it stands still. */
const stuckShare = 0.1
/** Of what it may queue in memory: the router is to wait before that is full. */
const owedShare = 0.25

/**
 * The work of one rule: its lanes, which take turns, and its slots. It outlives the rule: rows of a rule that is gone wait
 * here until one of that name returns.
 */
export class RuleWork {
  readonly name: string
  /** The revision in force; undefined while the rule is gone, and while there is no valid set of rules. */
  rule: Rule | undefined
  /** Calls in flight hold a slot each. */
  readonly total: Limit
  /** When those were answered that are not yet durable, in ms, the longest unsettled first. */
  readonly #answered = new Fifo<number>()
  /** By key of dedup or order: settlements that are not durable yet. */
  readonly #settling = new Map<string, number>()
  /** Queued in memory, without a row. */
  inMemory = 0
  /** Ended since the service started. */
  done = 0
  /**
   * Rows by reason; what is in hand, but not running, counts still. Below 0 where a row was taken before it was told: the
   * word of it is on its way.
   */
  readonly waiting = new Map<WaitReason, number>()
  readonly lanes = new Map<string, LaneQueue>()
  /** By throttle key. */
  readonly limits = new Map<string, Limit>()
  /** By key of dedup or order: who runs, or is to run, from memory. What comes under the same key meets it in rows. */
  readonly held = new Map<string, Delivery>()
  /** The router did not wait for it in vain the last time. */
  isPaying = false
  /** Called when the router need not wait any longer. */
  whenPaid: (() => void) | undefined
  /** Starts since it came to owe. */
  paid = 0
  readonly #turn = new Fifo<Place>()
  /** Starts that are owed for what was routed while there was hardly room. */
  #debt = 0
  /** In ms: when there was no debt last. */
  #owingSince = 0
  readonly #clock: Clock
  readonly #share: Share
  readonly #rowCost: number
  readonly #settleMs: number
  #isAwaitingRate = false

  /** `part`: so much of its work is this process's, from 0 to 1. */
  constructor(name: string, clock: Clock, part: number, { rowCost, settleMs }: Pick<Store, 'rowCost' | 'settleMs'>) {
    this.name = name
    this.#clock = clock
    this.#share = { part }
    this.#rowCost = rowCost
    this.#settleMs = settleMs
    this.total = new Limit(noLimits, clock, this.#share)
  }

  /** Another revision is in force, or none. */
  use(rule: Rule | undefined): void {
    this.rule = rule
    if (rule === undefined) return
    this.total.use(rule.throttle.total)
    for (const limit of this.limits.values()) limit.use(rule.throttle.perKey)
  }

  /** Another part of its work is this process's. */
  shared(part: number): void {
    this.#share.part = part
    this.total.shared()
    for (const limit of this.limits.values()) limit.shared()
  }

  /** Of one throttle key. */
  limitOf(key: string): Limit {
    let limit = this.limits.get(key)
    if (limit === undefined) {
      limit = new Limit(this.rule?.throttle.perKey ?? noLimits, this.#clock, this.#share)
      this.limits.set(key, limit)
    }
    return limit
  }

  /** Answered, but not yet durable. */
  get unsettled(): number {
    return this.#answered.length
  }

  answered(): void {
    this.#answered.push(this.#clock.now())
  }

  /** What was answered is durable. Settlements become so in about the order in which they were made. */
  settled(): void {
    this.#answered.shift()
  }

  /**
   * A slot is free at the answer; at most `concurrency` answered deliveries may await their settle, or those of the last
   * `settleMs` where the store takes so long.
   */
  get hasSlot(): boolean {
    return this.rule !== undefined && this.total.isOpen && !this.#isHeldUp
  }

  get #isHeldUp(): boolean {
    if (this.unsettled < this.total.concurrency) return false
    return (this.#answered.peek() ?? 0) <= this.#clock.now() - this.#settleMs
  }

  /** What keeps its calls from starting, all lanes alike. */
  get closedBy(): 'slot' | 'rate' {
    return this.#isAwaitingRate ? 'rate' : (this.total.closedBy ?? 'slot')
  }

  /** Whether neither memory has a delivery of the key, nor one is on its way to the store. */
  isKeyFree(key: string): boolean {
    return !this.held.has(key) && !this.#settling.has(key)
  }

  /** A settlement under that key is on its way to the store, or has arrived. */
  settling(key: string, by: 1 | -1): void {
    const sum = (this.#settling.get(key) ?? 0) + by
    if (sum === 0) this.#settling.delete(key)
    else this.#settling.set(key, sum)
  }

  /** How many calls may start now. */
  get freeSlots(): number {
    return this.rule === undefined ? 0 : Math.max(0, this.total.concurrency - this.total.running)
  }

  /** `wake` is called when the rate allows a start again, if it is that which keeps lanes from their turn. */
  awaitRate(wake: () => void): void {
    if (this.#isAwaitingRate || this.#turn.length === 0 || this.total.closedBy !== 'rate') return
    this.#isAwaitingRate = true
    this.total.whenOpen(() => {
      this.#isAwaitingRate = false
      wake()
    })
  }

  close(): void {
    for (const queue of this.lanes.values()) queue.close()
    for (const limit of this.limits.values()) limit.close()
    this.total.close()
  }

  /** Whether the router had better wait until `whenPaid`. `room`: so many may be queued in memory. */
  isOwing(room: number): boolean {
    return this.#debt >= Math.min(quickStarts, room * owedShare)
  }

  /** A delivery was routed that found hardly any room in memory, or none: a row is owed twice, so that rows get fewer. */
  owe(starts: 1 | 2): void {
    if (this.#debt === 0) {
      this.#owingSince = this.#clock.now()
      this.paid = 0
    }
    this.#debt = Math.min(this.#debt + starts, 2 * quickStarts)
  }

  /** Whether it is quick, with so many starts within so many ms, or will be once the store is. */
  isQuick(starts: number, ms: number, patienceMs: number): boolean {
    const { concurrency, running } = this.total
    // Hardly anything starts before the store has kept what was answered: rows would be more for it to write before that.
    if (this.unsettled >= concurrency && starts <= concurrency * stuckShare) return true
    const isHeldUp = 2 * this.unsettled >= concurrency || 2 * running <= concurrency
    const wanted = (quickStarts / this.#rowCost) * this.#share.part * (isHeldUp ? heldUpShare : 1)
    return starts * patienceMs >= wanted * ms
  }

  /** What its starts so far make of it; nothing is known yet of who came to owe within that time. */
  pace(patienceMs: number): 'quick' | 'slow' | undefined {
    const sinceMs = this.#clock.now() - this.#owingSince
    if (sinceMs < patienceMs) return undefined
    return this.isQuick(this.paid, sinceMs, patienceMs) ? 'quick' : 'slow'
  }

  /** It is, or was, not worth waiting for. */
  cancelDebt(): void {
    this.#debt = 0
    this.isPaying = false
  }

  get lanesInTurn(): number {
    return this.#turn.length
  }

  /** This lane may have something to start. */
  giveTurn(queue: LaneQueue): void {
    if (queue.isInTurn) return
    queue.isInTurn = true
    queue.place.inTurn.push(queue)
    if (queue.place.inTurn.length === 1) this.#turn.push(queue.place)
  }

  /** Whether what is in hand for long may be outdated: of a key, the newest is to start, and nothing that is superseded. */
  get isKeyed(): boolean {
    return this.rule?.dedup !== undefined || this.rule?.supersede !== undefined
  }

  /**
   * The lane whose turn it is, among those that may start a call, or have to put back what they have in hand.
   * To be given its turn again if it has more.
   */
  nextInTurn(): LaneQueue | undefined {
    for (let place = this.#turn.shift(); place !== undefined; place = this.#turn.shift()) {
      const queue = this.#nextOf(place)
      if (place.inTurn.length > 0) this.#turn.push(place)
      if (queue !== undefined) return queue
    }
    return undefined
  }

  #nextOf({ inTurn }: Place): LaneQueue | undefined {
    for (let queue = inTurn.shift(); queue !== undefined; queue = inTurn.shift()) {
      queue.isInTurn = false
      if (queue.isOpen || queue.isHeldUp) return queue
      queue.awaitOpening()
      // A rate may have opened it before it was asked what to wait for.
      if (queue.isOpen) return queue
    }
    return undefined
  }

  started(): void {
    if (this.#debt === 0) return
    this.#debt -= 1
    this.paid += 1
    if (this.#debt === 0) this.whenPaid?.()
  }

  count(reason: WaitReason, by: number): void {
    const sum = (this.waiting.get(reason) ?? 0) + by
    if (sum !== 0) this.waiting.set(reason, sum)
    else this.waiting.delete(reason)
  }
}
