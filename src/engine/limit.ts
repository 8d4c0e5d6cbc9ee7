import type { Clock } from '../base/clock.ts'
import { Fifo } from '../base/fifo.ts'
import type { Limits } from '../rule/rule.ts'

/** How many calls may be in flight, and how many may start in a time. A token of the rate is used up by each start. */
export class Limit {
  running = 0
  /** Lanes that ask it. */
  lanes = 0
  #limits: Limits
  readonly #clock: Clock
  readonly #waiting = new Fifo<() => void>()
  #tokens: number
  #filledAt: number
  #cancelTimer: (() => void) | undefined

  constructor(limits: Limits, clock: Clock) {
    this.#limits = limits
    this.#clock = clock
    this.#tokens = limits.burst
    this.#filledAt = clock.now()
  }

  /** Other limits from now on; what runs, runs on. */
  use(limits: Limits): void {
    if (limits === this.#limits) return
    this.#limits = limits
    this.#tokens = Math.min(this.#tokens, limits.burst)
    this.#wake()
  }

  get isOpen(): boolean {
    return this.closedBy === undefined
  }

  /** What keeps a call from starting now. */
  get closedBy(): 'slot' | 'rate' | undefined {
    if (this.running >= this.#limits.concurrency) return 'slot'
    return this.#limits.perSecond === Number.POSITIVE_INFINITY || this.#filled() >= 1 ? undefined : 'rate'
  }

  /** Whether another one in its place would say the same: nothing counts against it. */
  get isIdle(): boolean {
    if (this.lanes > 0 || this.running > 0 || this.#waiting.length > 0) return false
    return this.#limits.perSecond === Number.POSITIVE_INFINITY || this.#filled() >= this.#limits.burst
  }

  started(): void {
    this.running += 1
    if (this.#limits.perSecond !== Number.POSITIVE_INFINITY) this.#tokens = this.#filled() - 1
  }

  ended(): void {
    this.running -= 1
    if (this.#waiting.length > 0) this.#wake()
  }

  /** Calls `wake` once, in turn with others, as soon as a call may start. It is to ask again. */
  whenOpen(wake: () => void): void {
    this.#waiting.push(wake)
    this.#arm()
  }

  close(): void {
    this.#cancelTimer?.()
  }

  #filled(): number {
    const now = this.#clock.now()
    const { perSecond, burst } = this.#limits
    this.#tokens = Math.min(burst, this.#tokens + ((now - this.#filledAt) / 1_000) * perSecond)
    this.#filledAt = now
    return this.#tokens
  }

  /** Each that is woken may take what there is, so that the next waits on in its turn. */
  #wake(): void {
    for (let turns = this.#waiting.length; turns > 0 && this.isOpen; turns -= 1) this.#waiting.shift()?.()
    this.#arm()
  }

  #arm(): void {
    if (this.#cancelTimer !== undefined || this.#waiting.length === 0 || this.closedBy !== 'rate') return
    const ms = Math.ceil(((1 - this.#tokens) / this.#limits.perSecond) * 1_000)
    this.#cancelTimer = this.#clock.at(this.#clock.now() + Math.max(1, ms), () => {
      this.#cancelTimer = undefined
      this.#wake()
    })
  }
}

export const noLimits: Limits = {
  concurrency: Number.POSITIVE_INFINITY,
  perSecond: Number.POSITIVE_INFINITY,
  burst: Number.POSITIVE_INFINITY,
}
