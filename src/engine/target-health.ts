import type { Clock } from '../base/clock.ts'

/** So many refused connections in a row, and only one call at a time tries further. */
const refusedToTrip = 5
const firstPauseMs = 100
const longestPauseMs = 5_000

/**
 * Whether a target takes calls at the moment. A target that refuses connections, or that asked for time, is left alone for
 * a while; then a single call probes it, and the others follow when that one is answered. Waiting for it costs nothing:
 * nobody asks a paused target, it calls back.
 */
export class TargetHealth {
  readonly name: string
  readonly #clock: Clock
  readonly #resumed = new Set<() => void>()
  #refusedInARow = 0
  #nextPauseMs = firstPauseMs
  #pausedUntil = 0
  #isTripped = false
  #isProbing = false
  #cancelTimer: (() => void) | undefined

  constructor(name: string, clock: Clock) {
    this.name = name
    this.#clock = clock
  }

  /** Whether a call may start now. */
  get isOpen(): boolean {
    if (!this.#isTripped) return true
    return !this.#isProbing && this.#clock.now() >= this.#pausedUntil
  }

  /** To be told before each call; the first one after a pause is the probe. */
  started(): void {
    if (this.#isTripped) this.#isProbing = true
  }

  /** The target answered, and did not ask for time. */
  answered(): void {
    this.#refusedInARow = 0
    if (!this.#isTripped || this.#clock.now() < this.#pausedUntil) return
    this.#isTripped = false
    this.#isProbing = false
    this.#nextPauseMs = firstPauseMs
    this.#callBack()
  }

  /** Nobody listens there. Says whether that is the target's known state, so that it spends nobody's attempt. */
  refused(): boolean {
    this.#refusedInARow += 1
    const isKnown = this.#isTripped || this.#refusedInARow > refusedToTrip
    if (this.#isProbing || (!this.#isTripped && this.#refusedInARow >= refusedToTrip)) this.#pauseAgain()
    return isKnown
  }

  /** The target asked to be left alone for so long, or is out of service. */
  pause(ms: number): void {
    const until = this.#clock.now() + ms
    this.#isTripped = true
    this.#isProbing = false
    if (until <= this.#pausedUntil) return
    this.#pausedUntil = until
    this.#cancelTimer?.()
    this.#cancelTimer = this.#clock.at(until, () => this.#callBack())
  }

  /** A call ended without an answer, though somebody listens there. */
  fellSilent(): void {
    if (this.#isProbing) this.#pauseAgain()
  }

  /** `resumed` is called each time calls may start again. */
  onResumed(resumed: () => void): void {
    this.#resumed.add(resumed)
  }

  close(): void {
    this.#cancelTimer?.()
  }

  #pauseAgain(): void {
    this.pause(this.#nextPauseMs)
    this.#nextPauseMs = Math.min(this.#nextPauseMs * 2, longestPauseMs)
  }

  #callBack(): void {
    for (const resumed of this.#resumed) resumed()
  }
}
