import type { Clock } from '../base/clock.ts'
import type { Send } from '../http/send.ts'
import type { Sessions } from '../mediawiki/session.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import type { RequestOutcome, RuleSet } from '../rule/rule.ts'
import {
  type DeadLetter,
  type LaneBacklog,
  noProgress,
  type Store,
  type StoredDelivery,
  type WaitReason,
} from '../store/store.ts'
import { Dispatcher } from './dispatcher.ts'
import { Router } from './router.ts'
import type { RuleWork } from './rule-work.ts'
import { type SettleObserver, Settler, type Verdict } from './settler.ts'
import { Works } from './works.ts'

/** What the engine tells as it happens, for metrics. */
export interface EngineObserver extends SettleObserver {
  attempted(rule: string, outcome: RequestOutcome, ms: number): void
}

export interface EngineParts {
  readonly store: Store
  readonly send: Send
  readonly sessions: Sessions
  readonly clock: Clock
  readonly observer: EngineObserver
  readonly userAgent: string
  /** Dead letters may take so many bytes; beyond it the rule that has most of them is parked. */
  readonly deadBytes: number
}

/** What was in memory longer gets a row, so that it holds back neither the store's cursor nor a restart. */
const rowAfterMs = 1_000
/** Most targets that ask for time, or fail, are well again before that. */
const troubledAfterMs = 30_000
const sweepEveryMs = 500

/** Counts of one rule, as they stand. */
export interface RuleCounts {
  readonly waiting: Readonly<Partial<Record<WaitReason, number>>>
  readonly running: number
  /** Ended since the service started. */
  readonly done: number
  readonly dead: number
  /** ms; 0 where nothing is eligible. */
  readonly oldestEligibleAgeMs: number
}

/** Routes records to rules and works on the deliveries that come of it. The life of a delivery is drawn in README.md. */
export class Engine {
  readonly #parts: EngineParts
  readonly #works: Works
  readonly #settler: Settler
  readonly #dispatcher: Dispatcher
  readonly #router: Router
  #cancelSweep: (() => void) | undefined
  #routing: Promise<void> = Promise.resolve()

  constructor(parts: EngineParts, directory: Directory) {
    this.#parts = parts
    const { store, clock, observer, send, sessions, userAgent } = parts
    const works = new Works(store, clock, (work) => this.#dispatcher.pump(work))
    const settler = new Settler(store, clock, works, observer)
    this.#works = works
    this.#settler = settler
    this.#dispatcher = new Dispatcher(
      {
        store,
        works,
        settler,
        send,
        sessions,
        clock,
        userAgent,
        attempted: observer.attempted,
      },
      directory,
    )
    this.#router = new Router({
      store,
      works,
      dispatcher: this.#dispatcher,
      settler,
      clock,
    })
  }

  /** `backlog`: the lanes that the store found when it was opened. `broken`: told where we are broken. */
  start(rules: RuleSet | undefined, backlog: readonly LaneBacklog[], broken: (error: unknown) => void): void {
    this.#use(rules)
    for (const lane of backlog) this.rows(lane)
    this.#parts.store.running(() => this.#dispatcher.running)
    this.#sweepLater()
    this.#routing = this.#router.run().catch(broken)
  }

  /** Rows of a lane came or went by other hands than ours. */
  rows({ lane, nextUntil, waiting }: LaneBacklog): void {
    const work = this.#works.of(lane.rule)
    for (const [reason, count] of Object.entries(waiting) as [WaitReason, number][]) work.count(reason, count)
    this.#works.lane(work, lane.key).rowAt(nextUntil)
  }

  /** Drops what is another process's now, be it an event or its key; calls of it that are in flight end as they may. */
  dropLost(): void {
    const { store } = this.#parts
    this.#dispatcher.dropLost()
    for (const work of this.#works) {
      for (const queue of work.lanes.values()) queue.dropLost()
      for (const [key, delivery] of work.held) {
        if (store.isOurs(delivery.record)) this.#dispatcher.dropLostKey(work, delivery)
        else {
          work.held.delete(key)
          // Its call may end when another has the key.
          delivery.heldKey = undefined
        }
      }
    }
  }

  /** Such a part of the work, from 0 to 1, is ours, and so much of each limit. */
  share(part: number): void {
    this.#works.share(part)
  }

  /** Puts another set of rules in force, whole. What is in hand is asked again when it starts. */
  reload(rules: RuleSet | undefined, directory: Directory): void {
    // First, since other limits may start calls at once.
    this.#dispatcher.directory = directory
    this.#use(rules)
    this.#works.openTargets()
    // What has no row when the process dies is routed again, and then not to a rule that is gone.
    if (rules !== undefined) this.#giveRows((work) => work.rule === undefined, Number.POSITIVE_INFINITY)
    this.resume()
  }

  /** Looks for work everywhere: the rules are others, or the disk has room again. */
  resume(): void {
    this.#router.resume()
    for (const work of this.#works) {
      for (const queue of work.lanes.values()) work.giveTurn(queue)
      this.#dispatcher.pump(work)
    }
  }

  /** Starts no further call and waits for those in flight, at most `timeoutMs`. The store can be closed then. */
  async stop(timeoutMs: number): Promise<{ readonly cutOff: number }> {
    this.#cancelSweep?.()
    this.#router.stop()
    const stopped = await this.#dispatcher.stop(timeoutMs)
    this.#works.close()
    return stopped
  }

  /** A stop under way cuts off now what it would wait for. */
  hurry(): void {
    this.#dispatcher.hurry()
  }

  /** Resolves when nothing is read from the store any more; after it was closed. */
  async stopped(): Promise<void> {
    await this.#routing
  }

  ruleNames(): string[] {
    return [...this.#works].map((work) => work.name)
  }

  /** Deliveries in flight, by id: under which revision, and since when they are in hand, in ms. */
  running(): ReadonlyMap<string, { readonly revision: string; readonly since: number }> {
    return new Map(
      [...this.#dispatcher.running].map(({ record, rule, revision, since }) => {
        return [`${record.id}/${rule.name}`, { revision, since }]
      }),
    )
  }

  /** Until when, in ms. */
  pausedTargets(): ReadonlyMap<string, number> {
    return this.#works.pausedTargets()
  }

  /** Targets that have taken no calls for longer than is usual, and for how many ms. */
  troubledTargets(): readonly (readonly [target: string, ms: number])[] {
    const now = this.#parts.clock.now()
    return [...this.#works.pausedSince()]
      .map(([target, since]) => [target, now - since] as const)
      .filter(([, ms]) => ms >= troubledAfterMs)
  }

  counts(name: string): RuleCounts {
    const dead = this.#parts.store.deadCounts().get(name)?.count ?? 0
    const work = this.#works.find(name)
    if (work === undefined) return { waiting: {}, running: 0, done: 0, dead, oldestEligibleAgeMs: 0 }
    const { done, inMemory } = work
    const { running } = work.total
    let waiting: Partial<Record<WaitReason, number>> = Object.fromEntries(
      [...work.waiting].filter(([, count]) => count > 0),
    )
    if (inMemory > 0) waiting[work.closedBy] = (waiting[work.closedBy] ?? 0) + inMemory
    if (work.rule === undefined && this.#works.rules !== undefined) {
      const sum = Object.values(waiting).reduce((total, count) => total + count, 0)
      waiting = sum > 0 ? { rule_gone: sum } : {}
    }
    let oldest = Number.POSITIVE_INFINITY
    for (const queue of work.lanes.values()) oldest = Math.min(oldest, queue.oldestEligible)
    const oldestEligibleAgeMs = oldest === Number.POSITIVE_INFINITY ? 0 : Math.max(0, this.#parts.clock.now() - oldest)
    return { waiting, running, done, dead, oldestEligibleAgeMs }
  }

  /**
   * Gives a dead letter or a parked delivery another life: id and history are kept, attempts and age begin anew. Calls that
   * succeeded are not made again.
   */
  replay(letter: DeadLetter, at: number): Promise<void> {
    const { finished, more } = letter.progress
    const progress = { ...noProgress, finished, more: { ...more, doubts: {}, isReplay: true } }
    // No revision of the rule has seen what the router set aside.
    const revision = letter.state === 'waiting' ? '' : letter.revision
    // Another revision may give it another key, or none: that is found when its turn comes.
    const isCurrent = this.#works.find(letter.rule)?.rule?.revision === revision
    const reopened = { ...letter, revision, standing: isCurrent ? letter.standing : undefined }
    this.#dispatcher.meetHolder(this.#works.of(letter.rule), reopened)
    return this.#settleLetter(reopened, { state: 'waiting', reason: 'due', until: at, progress })
  }

  /** Ends a dead letter or a parked delivery for good. */
  discard(letter: DeadLetter): Promise<void> {
    return this.#settleLetter(letter, { state: 'done', reason: 'discarded', progress: letter.progress })
  }

  /** Ends what waits for a rule that is gone, as far as it is ours. Resolves with how many it was, when that is durable. */
  async discardGone(rule: string): Promise<number> {
    const work = this.#works.find(rule)
    if (work === undefined || work.rule !== undefined || this.#works.rules === undefined) return 0
    let count = 0
    for (const queue of [...work.lanes.values()]) {
      for (let page = await queue.takeAll(); page.length > 0; page = await queue.takeAll()) {
        if (work.rule !== undefined) {
          // One of that name came back: it is to meet it.
          queue.putBack(page)
          return count
        }
        await Promise.all(page.map((delivery) => this.#discardWaiting(work, delivery)))
        count += page.length
      }
    }
    return count
  }

  #discardWaiting(work: RuleWork, delivery: StoredDelivery): Promise<void> {
    const { reason, progress } = delivery
    work.count(reason, -1)
    return new Promise((resolve) => {
      this.#settler.settle(work, delivery, { state: 'done', reason: 'discarded', progress }, () => resolve())
    })
  }

  #settleLetter(letter: DeadLetter, verdict: Verdict): Promise<void> {
    const work = this.#works.of(letter.lane.rule)
    if (letter.state === 'waiting') work.count('parked', -1)
    return new Promise((resolve) => {
      this.#settler.settle(work, letter, verdict, (isOurs) => {
        // It was counted where it is kept.
        if (!isOurs && letter.state === 'waiting') work.count('parked', 1)
        resolve()
      })
    })
  }

  /** While there are no valid rules, what comes is for those that will be. */
  #use(rules: RuleSet | undefined): void {
    const { store } = this.#parts
    if (rules === undefined) this.#works.use(undefined)
    else {
      const limits = new Map(rules.rules.map(({ name, throttle }) => [name, throttle.total.concurrency]))
      this.#works.use(rules, store.confine(limits))
    }
    store.subscribe((stream) => rules === undefined || rules.forTopic(stream).length > 0)
  }

  #sweepLater(): void {
    const { clock } = this.#parts
    this.#cancelSweep = clock.at(clock.now() + sweepEveryMs, () => {
      this.#sweep()
      this.#sweepLater()
    })
  }

  /** Gives rows to what has been in memory for long, finds the rule that must be parked, and forgets what is idle. */
  #sweep(): void {
    const { clock, store, deadBytes } = this.#parts
    if (!store.health().writable) return
    this.#giveRows(() => true, clock.now() - rowAfterMs)
    this.#works.forgetIdle()
    this.#router.parkedRule = store.health().deadBytes < deadBytes ? undefined : ruleWithMost(store.deadCounts())
  }

  /** To what is in memory since before that time, in ms. */
  #giveRows(isMeant: (work: RuleWork) => boolean, before: number): void {
    for (const work of this.#works) {
      if (work.inMemory === 0 || !isMeant(work)) continue
      for (const queue of work.lanes.values()) {
        for (let old = queue.shiftOlderThan(before); old !== undefined; old = queue.shiftOlderThan(before)) {
          this.#dispatcher.shelve(work, old)
        }
      }
    }
    for (const delivery of this.#dispatcher.running) {
      if (delivery.since >= before) continue
      const work = this.#works.of(delivery.rule.name)
      if (isMeant(work)) this.#dispatcher.recordRunning(work, delivery)
    }
  }
}

function ruleWithMost(counts: ReturnType<Store['deadCounts']>): string | undefined {
  let most: string | undefined
  let bytes = 0
  for (const [rule, count] of counts) {
    if (count.bytes <= bytes) continue
    most = rule
    bytes = count.bytes
  }
  return most
}
