import { Fifo } from '../base/fifo.ts'
import type { Rule } from '../rule/rule.ts'
import type { WaitReason } from '../store/store.ts'
import type { LaneQueue } from './lane.ts'

/**
 * The router never waits for a slow rule: what finds no room becomes a row. But a row costs about as much as a call to a
 * quick target, so for a rule that makes up for this many starts within the router's patience, waiting is quicker, and holds
 * up the other rules no more than that speed does.
 */
const debtAtMost = 256

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
  /** Called when the router need not wait any longer. */
  whenPaid: (() => void) | undefined
  readonly #turn = new Fifo<LaneQueue>()
  /** Starts that are owed for what was routed while there was hardly room. */
  #debt = 0

  constructor(name: string) {
    this.name = name
  }

  /** A slot is free at the answer; at most `concurrency` answered deliveries may await their settle. */
  get hasSlot(): boolean {
    const concurrency = this.rule?.throttle.total.concurrency ?? 0
    return this.running < concurrency && this.unsettled < concurrency
  }

  /** Whether the router had better wait until `whenPaid`. */
  get isOwing(): boolean {
    return this.#debt >= debtAtMost
  }

  /** A delivery was routed that found hardly any room in memory, or none: a row is owed twice, so that rows get fewer. */
  owe(starts: 1 | 2): void {
    this.#debt += starts
  }

  /** The router has waited in vain. */
  cancelDebt(): void {
    this.#debt = 0
  }

  get lanesInTurn(): number {
    return this.#turn.length
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

  started(): void {
    if (this.#debt === 0) return
    this.#debt -= 1
    if (this.#debt === 0) this.whenPaid?.()
  }

  count(reason: WaitReason, by: 1 | -1): void {
    const sum = (this.waiting.get(reason) ?? 0) + by
    if (sum > 0) this.waiting.set(reason, sum)
    else this.waiting.delete(reason)
  }
}
