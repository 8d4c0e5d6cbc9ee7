import type { Clock } from '../base/clock.ts'
import { Fifo } from '../base/fifo.ts'
import type { Limits } from '../rule/rule.ts'

/** What part of the work is this process's: of each limit it has so much, and at least one call. From 0 to 1. */
export interface Share {
  part: number
}

/** How many calls may be in flight, and how many may start in a time. A token of the rate is used up by each start. */
export class Limit {
  running = 0
  /** Lanes that ask it. */
  lanes = 0
  #limits: Limits
  /** They may be others by now. */
  #areDoubtful = false
  readonly #clock: Clock
  readonly #share: Share
  readonly #waiting = new Fifo<() => void>()
  #tokens: number
  #filledAt: number
  #cancelTimer: (() => void) | undefined

  constructor(limits: Limits, clock: Clock, share: Share) {
    this.#limits = limits
    this.#clock = clock
    this.#share = share
    this.#tokens = this.#burst
    this.#filledAt = clock.now()
  }

  /** Other limits from now on; what runs, runs on. */
  use(limits: Limits): void {
    if (limits === this.#limits && !this.#areDoubtful) return
    this.#limits = limits
    this.#areDoubtful = false
    this.shared()
  }

  /** It may have other limits by now: it is open until `use` says which, and what was called counts by those of before. */
  doubt(): void {
    this.#areDoubtful = true
    this.shared()
  }

  /** It is another part of the limits from now on. Who waits for a rate waits for another time by that. */
  shared(): void {
    this.#tokens = Math.min(this.#tokens, this.#burst)
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    this.#wake()
  }

  /** Calls that may be in flight. */
  get concurrency(): number {
    return this.#partOf(this.#limits.concurrency)
  }

  get isOpen(): boolean {
    return this.closedBy === undefined
  }

  /** What keeps a call from starting now. */
  get closedBy(): 'slot' | 'rate' | undefined {
    if (this.#areDoubtful) return undefined
    if (this.running >= this.concurrency) return 'slot'
    return this.#limits.perSecond === Number.POSITIVE_INFINITY || this.#filled() >= 1 ? undefined : 'rate'
  }

  /** Whether another one in its place would say the same: nothing counts against it. */
  get isIdle(): boolean {
    if (this.lanes > 0 || this.running > 0 || this.#waiting.length > 0) return false
    return this.#limits.perSecond === Number.POSITIVE_INFINITY || this.#filled() >= this.#burst
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

  get #burst(): number {
    return this.#partOf(this.#limits.burst)
  }

  /** Without any part nothing starts; the time to the next start is to stay a number. */
  get #perSecond(): number {
    return this.#limits.perSecond * Math.max(smallestPart, this.#share.part)
  }

  /** Whole calls, so that the parts of all processes together keep within the limit where it is not below their number. */
  #partOf(limit: number): number {
    return limit === Number.POSITIVE_INFINITY ? limit : Math.max(1, Math.floor(limit * this.#share.part))
  }

  #filled(): number {
    const now = this.#clock.now()
    // A clock that is set back takes no token.
    const seconds = Math.max(0, now - this.#filledAt) / 1_000
    this.#tokens = Math.min(this.#burst, this.#tokens + seconds * this.#perSecond)
    this.#filledAt = now
    return this.#tokens
  }

  /** Each that is woken may take what there is, so that the next waits on in its turn. */
  #wake(): void {
    for (let turns = this.#waiting.length; turns > 0 && this.isOpen; turns -= 1) this.#waiting.shift()?.()
    this.#arm()
  }

  /** A rate opens by itself, and may have done so since somebody found it closed. */
  #arm(): void {
    if (this.#cancelTimer !== undefined || this.#waiting.length === 0) return
    const { closedBy } = this
    if (closedBy === 'slot') return
    const ms = closedBy === undefined ? 0 : Math.ceil(((1 - this.#tokens) / this.#perSecond) * 1_000)
    this.#cancelTimer = this.#clock.at(this.#clock.now() + Math.max(1, ms), () => {
      this.#cancelTimer = undefined
      this.#wake()
    })
  }
}

const smallestPart = 0.001

export const noLimits: Limits = {
  concurrency: Number.POSITIVE_INFINITY,
  perSecond: Number.POSITIVE_INFINITY,
  burst: Number.POSITIVE_INFINITY,
}
