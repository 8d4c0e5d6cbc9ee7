import type { Clock } from '../base/clock.ts'
import type { Lane } from '../store/store.ts'
import { isOfTried } from './lane-key.ts'

/** So many refused connections in a row, and only one call at a time tries further. */
const refusedToTrip = 5
const firstPauseMs = 100
const longestPauseMs = 5_000
/** The longest pause of one that answers some calls well: it is there, and has others to answer so. */
const longestPauseOfSomeMs = 1_000
/** An answer says so for that time. */
const answersSomeMs = 60_000
/** The breaker opens when at least so many answers within so many seconds are known, and half of them are failures. */
const judgedAnswers = 20
const judgedSeconds = 10
/** A lane that fails so often in a row, while others are answered well, fails by itself. */
const ownFailures = 5
/** The same for a lane of what was tried before, in vain. */
const ownFailuresOfTried = 3
/** A probe that is not answered for so long holds up the next one no more. */
const probeMs = 30_000
/**
 * After a probe was answered so many calls may be in flight, twice as many with each answer, half as many with each failure;
 * from the last on all may, and with less than one it is left alone again.
 */
const firstRamp = 2
const lastRamp = 64
/** Trouble is remembered so long after the last call, where nothing waits for the target: then nobody probes it. */
const troubleKeptMs = 600_000

/**
 * Whether a target takes calls at the moment. One that refuses connections, fails too often, or asked for time is left
 * alone for a while; then a single call probes it. If that is answered, the others follow: all at once where it had asked
 * for time, more and more where it had failed, as long as more are answered than fail. Waiting for it costs nothing: nobody
 * asks a paused target, it calls back.
 */
export class TargetHealth {
  readonly name: string
  readonly #clock: Clock
  readonly #resumed = new Set<() => void>()
  /** The same of those that were tried in vain. */
  readonly #resumedLast = new Set<() => void>()
  readonly #answers = new RecentAnswers()
  readonly #blame = new Blame()
  #inFlight = 0
  #refusedInARow = 0
  #nextPauseMs = firstPauseMs
  #pausedUntil = 0
  #pausedSince = 0
  #isTripped = false
  #isBroken = false
  #ramp = Number.POSITIVE_INFINITY
  #probeSince: number | undefined
  /** A lane fetches what is to probe it. */
  #isReserved = false
  #calledAt = 0
  /** When a call was answered well last, in ms. */
  #answeredAt = Number.NEGATIVE_INFINITY
  #cancelTimer: (() => void) | undefined

  constructor(name: string, clock: Clock) {
    this.name = name
    this.#clock = clock
  }

  /** Whether a call may start now. */
  get isOpen(): boolean {
    if (!this.#isTripped) return this.#inFlight < this.#ramp
    if (this.#isReserved) return false
    const now = this.#clock.now()
    return now >= this.#pausedUntil && (this.#probeSince === undefined || now >= this.#probeSince + probeMs)
  }

  /** Whether another one in its place would say the same: nothing waits or runs, and what it has seen is of no account. */
  get isIdle(): boolean {
    if (this.#inFlight > 0 || this.#resumed.size > 0 || this.#resumedLast.size > 0) return false
    const isWell = !this.#isTripped && !this.#isBroken && this.#refusedInARow === 0
    const keptMs = isWell ? judgedSeconds * 1_000 : troubleKeptMs
    return this.#clock.now() >= Math.max(this.#calledAt, this.#pausedUntil) + keptMs
  }

  /** It failed: a probe is to be answered, and more and more calls after that. */
  get isBroken(): boolean {
    return this.#isBroken
  }

  /** Until when it is left alone, in ms; undefined where it is not. It stays so while a probe runs. */
  get pausedUntil(): number | undefined {
    return this.#isTripped ? this.#pausedUntil : undefined
  }

  /** Since when, in ms; probes that came to nothing do not count. Undefined where it is not left alone. */
  get pausedSince(): number | undefined {
    return this.#isTripped ? this.#pausedSince : undefined
  }

  /** Whether not even a probe may start. */
  get isPaused(): boolean {
    return this.#isTripped && this.#clock.now() < this.#pausedUntil
  }

  /**
   * To be told before each call; the first one after a pause is the probe. Says whether it is. `resumed`: of who starts it,
   * in trouble the last to be called back from now on: one that fails must not be the only one to probe.
   */
  started(resumed?: () => void): boolean {
    if (resumed !== undefined && (this.#isTripped || this.#isBroken)) {
      for (const order of [this.#resumed, this.#resumedLast]) if (order.delete(resumed)) order.add(resumed)
    }
    this.#inFlight += 1
    this.#calledAt = this.#clock.now()
    if (!this.#isTripped) return false
    this.#probeSince = this.#calledAt
    this.#callBackAt(this.#probeSince + probeMs)
    return true
  }

  /**
   * Before rows are fetched: where but one of them could start, others need not fetch theirs meanwhile. The answer is to be
   * called when those are in hand and have had their chance.
   */
  reserve(): { readonly fetched: () => void; readonly passed: () => void } | undefined {
    if (!this.#isTripped) return undefined
    this.#isReserved = true
    return {
      fetched: () => {
        this.#isReserved = false
      },
      passed: () => {
        if (this.#isTripped && this.isOpen) this.#callBack()
      },
    }
  }

  /** To be told when a call has ended, after what it came to: others may start then. */
  ended(): void {
    this.#inFlight -= 1
    this.#calledAt = this.#clock.now()
    if (!this.#isTripped && this.#inFlight === this.#ramp - 1) this.#callBack()
  }

  /** Instead of that: the call did not begin after all. `isProbe`: as `started` said. */
  calledOff(isProbe: boolean): void {
    const isAwaited = isProbe && this.#isTripped && !this.isPaused
    if (isAwaited) this.#probeSince = undefined
    this.ended()
    if (isAwaited) this.#callBack()
  }

  /** The target answered, and did not ask for time. */
  answered(lane: Lane): void {
    this.#refusedInARow = 0
    const now = this.#clock.now()
    this.#blame.answered(lane)
    this.#answers.add(now, false)
    this.#answeredAt = now
    if (!this.#isTripped) {
      if (this.#ramp !== Number.POSITIVE_INFINITY) this.#widen()
      return
    }
    if (now < this.#pausedUntil) return
    this.#isTripped = false
    this.#probeSince = undefined
    if (this.#isBroken) {
      this.#ramp = firstRamp
      // Those that were under way when it failed say nothing of how it is now.
      this.#answers.clear()
    } else {
      this.#nextPauseMs = firstPauseMs
    }
    this.#callBack()
  }

  /** Nobody listens there. Says whether that is the target's known state, so that it spends nobody's attempt. */
  refused(): boolean {
    this.#refusedInARow += 1
    return this.#failed(this.#refusedInARow >= refusedToTrip) || this.#refusedInARow > refusedToTrip
  }

  /** It answered that it failed, or not at all. Says whether that is its known state. */
  failed(lane: Lane): boolean {
    this.#refusedInARow = 0
    const isOwn = this.#blame.failed(lane)
    return isOwn && !this.#isTripped ? false : this.#failed(false)
  }

  /** The target asked to be left alone for so long, or is out of service. */
  pause(ms: number): void {
    const until = this.#clock.now() + ms
    if (!this.#isTripped) this.#pausedSince = this.#clock.now()
    this.#isTripped = true
    this.#probeSince = undefined
    if (until <= this.#pausedUntil) return
    this.#pausedUntil = until
    this.#callBackAt(until)
  }

  /**
   * `resumed` is called each time calls may start again; the answer takes it back. `isLast`: after those of which nothing was
   * tried in vain, since what failed before tells less of how the target is now.
   */
  onResumed(resumed: () => void, isLast = false): () => void {
    const order = isLast ? this.#resumedLast : this.#resumed
    order.add(resumed)
    return () => order.delete(resumed)
  }

  close(): void {
    this.#cancelTimer?.()
  }

  #failed(isTooMuch: boolean): boolean {
    const wasTripped = this.#isTripped
    const isHalf = this.#answers.add(this.#clock.now(), true)
    // Of no account where all may be in flight.
    this.#ramp /= 2
    if (this.#probeSince !== undefined || (!wasTripped && (isTooMuch || isHalf || this.#ramp < 1))) {
      this.#isBroken = true
      this.#ramp = Number.POSITIVE_INFINITY
      const answersSome = this.#clock.now() < this.#answeredAt + answersSomeMs
      const longest = answersSome ? longestPauseOfSomeMs : longestPauseMs
      this.pause(Math.min(this.#nextPauseMs, longest))
      this.#nextPauseMs = Math.min(this.#nextPauseMs * 2, longest)
    }
    return wasTripped
  }

  #widen(): void {
    this.#ramp *= 2
    if (this.#ramp > lastRamp) {
      this.#ramp = Number.POSITIVE_INFINITY
      this.#isBroken = false
      this.#nextPauseMs = firstPauseMs
    }
    this.#callBack()
  }

  #callBackAt(time: number): void {
    this.#cancelTimer?.()
    this.#cancelTimer = this.#clock.at(time, () => this.#callBack())
  }

  #callBack(): void {
    // Those that are called back may change their order.
    for (const resumed of [...this.#resumed, ...this.#resumedLast]) resumed()
  }
}

/** Which lanes fail although the target answers others well: a job that always fails says nothing of its wiki. */
class Blame {
  /** How often in a row, and how many other answers were good when that began. */
  readonly #failures = new WeakMap<Lane, { inARow: number; readonly goodBefore: number }>()
  readonly #good = new WeakMap<Lane, number>()
  #allGood = 0

  answered(lane: Lane): void {
    this.#failures.delete(lane)
    this.#allGood += 1
    this.#good.set(lane, (this.#good.get(lane) ?? 0) + 1)
  }

  /** Says whether it is the lane's own fault. */
  failed(lane: Lane): boolean {
    const goodOfOthers = this.#allGood - (this.#good.get(lane) ?? 0)
    const failures = this.#failures.get(lane) ?? { inARow: 0, goodBefore: goodOfOthers }
    failures.inARow += 1
    this.#failures.set(lane, failures)
    const enough = isOfTried(lane.key) ? ownFailuresOfTried : ownFailures
    return failures.inARow >= enough && goodOfOthers > failures.goodBefore
  }
}

/** Answers of the last seconds. */
class RecentAnswers {
  readonly #good = new Array<number>(judgedSeconds).fill(0)
  readonly #bad = new Array<number>(judgedSeconds).fill(0)
  #second = 0

  /** Says whether there are enough to judge by, and half of them are failures. */
  add(now: number, isFailure: boolean): boolean {
    const second = Math.floor(now / 1_000)
    for (let old = Math.max(this.#second + 1, second - judgedSeconds + 1); old <= second; old += 1) this.#forget(old)
    this.#second = second
    const counts = isFailure ? this.#bad : this.#good
    counts[second % judgedSeconds] = (counts[second % judgedSeconds] ?? 0) + 1
    if (!isFailure) return false
    const bad = sum(this.#bad)
    const all = bad + sum(this.#good)
    return all >= judgedAnswers && bad * 2 >= all
  }

  clear(): void {
    this.#good.fill(0)
    this.#bad.fill(0)
  }

  #forget(second: number): void {
    this.#good[second % judgedSeconds] = 0
    this.#bad[second % judgedSeconds] = 0
  }
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0)
}
