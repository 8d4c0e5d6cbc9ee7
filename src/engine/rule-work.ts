import type { Rule } from '../rule/rule.ts'
import type { WaitReason } from '../store/store.ts'
import { Fifo } from './fifo.ts'
import type { LaneQueue } from './lane.ts'

/**
 * The router never waits for a slow rule: what finds no room becomes a row. A row costs about as much as a call to a quick
 * target, though, so for a rule that starts more deliveries per second than this, waiting for room is quicker, and holds up
 * the other rules no more than this speed does.
 */
const fastPerSecond = 5_000

/**
 * The work of one rule: its lanes, which take turns, and its slots. It outlives the rule: rows of a rule that is gone wait
 * here until one of that name returns.
 */
export class RuleWork {
  readonly name: string
  /** The revision in force; undefined while the rule is gone, and while there is no valid set of rules. */
  rule: Rule | undefined
  /** Calls in flight: each holds a slot. */
  running = 0
  /** Answered, but not yet durable. */
  unsettled = 0
  /** Queued in memory, without a row. */
  inMemory = 0
  /** Ended since the service started. */
  done = 0
  /** Rows by reason; what is in hand, but not running, counts still. */
  readonly waiting = new Map<WaitReason, number>()
  readonly lanes = new Map<string, LaneQueue>()
  /** Called when something was started. */
  whenStarted: (() => void) | undefined
  readonly #turn = new Fifo<LaneQueue>()
  #startedNow = 0
  #startedBefore = 0
  #second = 0

  constructor(name: string) {
    this.name = name
  }

  /** A slot is free at the answer; at most `concurrency` answered deliveries may await their settle. */
  get hasSlot(): boolean {
    const { rule } = this
    return rule !== undefined && this.running < rule.concurrency && this.unsettled < rule.concurrency
  }

  isFast(now: number): boolean {
    this.#tick(now)
    return Math.max(this.#startedNow, this.#startedBefore) >= fastPerSecond
  }

  /** This lane may have something to start. */
  giveTurn(queue: LaneQueue): void {
    if (queue.isInTurn) return
    queue.isInTurn = true
    this.#turn.push(queue)
  }

  /** The lane whose turn it is, among those whose target takes calls. To be given its turn again if it has more. */
  nextInTurn(): LaneQueue | undefined {
    for (let queue = this.#turn.shift(); queue !== undefined; queue = this.#turn.shift()) {
      queue.isInTurn = false
      if (queue.health.isOpen) return queue
    }
    return undefined
  }

  started(now: number): void {
    this.#tick(now)
    this.#startedNow += 1
    this.whenStarted?.()
  }

  count(reason: WaitReason, by: 1 | -1): void {
    const sum = (this.waiting.get(reason) ?? 0) + by
    if (sum > 0) this.waiting.set(reason, sum)
    else this.waiting.delete(reason)
  }

  #tick(now: number): void {
    const second = Math.floor(now / 1000)
    if (second === this.#second) return
    this.#startedBefore = second === this.#second + 1 ? this.#startedNow : 0
    this.#startedNow = 0
    this.#second = second
  }
}
