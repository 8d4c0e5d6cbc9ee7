import type { Clock } from '../base/clock.ts'
import type { RuleSet } from '../rule/rule.ts'
import type { Store } from '../store/store.ts'
import { LaneQueue, Place } from './lane.ts'
import { otherOf, targetOf, throttleKeyOf } from './lane-key.ts'
import { Limit, noLimits, type Share } from './limit.ts'
import { RuleWork } from './rule-work.ts'
import { TargetHealth } from './target-health.ts'

/** Deliveries queued in memory, all rules together; shared evenly. */
const roomInMemory = 4_000
const smallestRoom = 16
/** So much of it again is for those that find nothing before them in their lane, so that a noisy one does not hold them up. */
const firstsShare = 0.25
/** Lanes, limits and healths that one sweep looks at: more than come in the time between two. */
const lookedAtPerSweep = 20_000

interface Forgettable {
  readonly isIdle: boolean
  close(): void
}

/**
 * Where the work of each rule, lane and target is kept; all of it derived from the store, none of it durable. Producers can
 * invent lanes and targets without end (a throttle key, a wiki of a farm): each is made when it is needed, and forgotten
 * when nothing depends on it, so nobody may hold on to one beyond that.
 */
export class Works {
  /** The rules in force; undefined while none are valid: then nothing is routed and nothing starts. */
  rules: RuleSet | undefined
  /** What each rule may queue in memory. */
  room = roomInMemory
  /** The same for what is the first in its lane. */
  roomForFirsts = roomInMemory * (1 + firstsShare)
  readonly #store: Store
  readonly #clock: Clock
  readonly #pump: (work: RuleWork) => void
  readonly #works = new Map<string, RuleWork>()
  readonly #healths = new Map<string, TargetHealth>()
  readonly #limits = new Map<string, Limit>()
  readonly #share: Share = { part: 1 }
  #confined: ReadonlySet<string> = new Set()
  readonly #rounds = this.#goRound()

  constructor(store: Store, clock: Clock, pump: (work: RuleWork) => void) {
    this.#store = store
    this.#clock = clock
    this.#pump = pump
  }

  [Symbol.iterator](): Iterator<RuleWork> {
    return this.#works.values()
  }

  /** `confined`: those of which this process has all the work, or none; left out, they are as they were. */
  use(rules: RuleSet | undefined, confined = this.#confined): void {
    this.rules = rules
    this.#confined = confined
    for (const work of this.#works.values()) {
      work.use(rules?.get(work.name))
      work.shared(this.#partOf(work.name))
    }
    for (const rule of rules?.rules ?? []) this.of(rule.name).use(rule)
    this.room = Math.max(smallestRoom, Math.floor(roomInMemory / Math.max(1, rules?.rules.length ?? 1)))
    this.roomForFirsts = this.room * (1 + firstsShare)
  }

  /** Such a part of the work is this process's, and so much of each limit. */
  share(part: number): void {
    this.#share.part = part
    for (const limit of this.#limits.values()) limit.shared()
    for (const work of this.#works.values()) {
      work.shared(this.#partOf(work.name))
      this.#pump(work)
    }
  }

  isConfined(rule: string): boolean {
    return this.#confined.has(rule)
  }

  #partOf(rule: string): number {
    return this.isConfined(rule) ? 1 : this.#share.part
  }

  find(rule: string): RuleWork | undefined {
    return this.#works.get(rule)
  }

  of(rule: string): RuleWork {
    let work = this.#works.get(rule)
    if (work === undefined) {
      work = new RuleWork(rule, this.#clock, this.#partOf(rule), this.#store)
      this.#works.set(rule, work)
    }
    return work
  }

  lane(work: RuleWork, key: string): LaneQueue {
    const known = work.lanes.get(key)
    if (known !== undefined) return known
    const target = targetOf(key)
    const throttleKey = throttleKeyOf(key)
    const queue: LaneQueue = new LaneQueue(
      { rule: work.name, key },
      this.health(target),
      this.limit(target),
      throttleKey === undefined ? undefined : work.limitOf(throttleKey),
      work.lanes.get(otherOf(key))?.place ?? new Place(),
      work,
      this.#store,
      this.#clock,
      () => {
        work.giveTurn(queue)
        this.#pump(work)
      },
    )
    work.lanes.set(key, queue)
    return queue
  }

  health(target: string): TargetHealth {
    let health = this.#healths.get(target)
    if (health === undefined) {
      health = new TargetHealth(target, this.#clock)
      this.#healths.set(target, health)
    }
    return health
  }

  /** Targets that are left alone, and until when, in ms. */
  pausedTargets(): ReadonlyMap<string, number> {
    const paused = new Map<string, number>()
    for (const { name, pausedUntil } of this.#healths.values()) {
      if (pausedUntil !== undefined) paused.set(name, pausedUntil)
    }
    return paused
  }

  /** Targets that have been left alone since then, in ms. */
  pausedSince(): ReadonlyMap<string, number> {
    const paused = new Map<string, number>()
    for (const { name, pausedSince } of this.#healths.values()) {
      if (pausedSince !== undefined) paused.set(name, pausedSince)
    }
    return paused
  }

  /** Of a target, all rules together. */
  limit(target: string): Limit {
    let limit = this.#limits.get(target)
    if (limit === undefined) {
      limit = new Limit(noLimits, this.#clock, this.#share)
      this.#limits.set(target, limit)
    }
    return limit
  }

  /** Targets may have other limits than before: which, the next call to each finds before it begins. */
  openTargets(): void {
    for (const limit of this.#limits.values()) limit.doubt()
  }

  /** Drops what is idle among the next so many, in turn. */
  forgetIdle(): void {
    for (let looked = 0; looked < lookedAtPerSweep; looked += 1) if (this.#rounds.next().value === 'over') return
  }

  close(): void {
    for (const work of this.#works.values()) work.close()
    for (const limit of this.#limits.values()) limit.close()
    for (const health of this.#healths.values()) health.close()
  }

  *#goRound(): Generator<'on' | 'over', never> {
    for (;;) {
      for (const work of this.#works.values()) {
        yield* forgettingIdle(work.lanes)
        yield* forgettingIdle(work.limits)
      }
      yield* forgettingIdle(this.#limits)
      yield* forgettingIdle(this.#healths)
      yield 'over'
    }
  }
}

/** Stops after each. What comes and goes meanwhile is no matter to a Map's iterator. */
function* forgettingIdle(kept: Map<string, Forgettable>): Generator<'on', void> {
  for (const [key, one] of kept) {
    if (one.isIdle) {
      one.close()
      kept.delete(key)
    }
    yield 'on'
  }
}
