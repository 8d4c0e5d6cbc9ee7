import { isDeepStrictEqual } from 'node:util'
import type { Clock } from '../base/clock.ts'
import { eventTime } from '../event/event.ts'
import type { Reply, Send } from '../http/send.ts'
import type { Verdict as ReplyVerdict } from '../mediawiki/answers.ts'
import type { Sessions } from '../mediawiki/session.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import { type RequestOutcome, TemplateError } from '../rule/rule.ts'
import type { DeadReason, Lane, Progress, Store, StoredDelivery, WaitReason } from '../store/store.ts'
import { type AttemptResult, type AttemptTools, attempt, CallError, nextCall, noAnswer } from './attempt.ts'
import { type Call, Delivery } from './delivery.ts'
import { bounded, contextOf, expiry, joined, standingOf, unreadable } from './gates.ts'
import type { LaneQueue } from './lane.ts'
import { laneKey } from './lane-key.ts'
import { noLimits } from './limit.ts'
import type { RuleWork } from './rule-work.ts'
import { decide } from './settle.ts'
import type { Settled, Settler, Verdict } from './settler.ts'
import type { TargetHealth } from './target-health.ts'
import type { Works } from './works.ts'

/** A delivery that was running when the process died so often runs alone, and then not at all. */
const suspectAfter = 3
const poisonAfter = 6
/** So many may wait for a failing delivery of their key. */
const followersAtMost = 1_000
/** How long calls that were cut off may take to end, in ms. */
const cutOffMs = 1_000
/** How long a target is left alone that asked for time without saying how much. */
const defaultPauseMs = 5_000

export interface DispatcherParts {
  readonly store: Store
  readonly works: Works
  readonly settler: Settler
  readonly send: Send
  readonly sessions: Sessions
  readonly clock: Clock
  readonly userAgent: string
  attempted(rule: string, outcome: RequestOutcome, ms: number): void
}

/**
 * Takes deliveries through the gates to their calls: target, then suspicion, then slot. The gates that come to a verdict of
 * their own at routing (topic, schema, match) are asked again for what waited, since the rule may have changed.
 */
export class Dispatcher {
  /** In flight: from the slot to the settlement handed in. */
  readonly running = new Set<Delivery>()
  directory: Directory
  readonly #parts: DispatcherParts
  readonly #abort = new AbortController()
  readonly #tools: AttemptTools
  readonly #suspects: Delivery[] = []
  #isSuspectRunning = false
  #isStopping = false
  #whenIdle: (() => void) | undefined
  #giveUp: (() => void) | undefined

  constructor(parts: DispatcherParts, directory: Directory) {
    this.#parts = parts
    this.directory = directory
    const { send, sessions, userAgent, clock } = parts
    const inForce = () => this.directory
    this.#tools = {
      send,
      sessions,
      userAgent,
      signal: this.#abort.signal,
      get directory() {
        return inForce()
      },
      now: clock.now,
      mayGoOn: (call) => this.#mayGoOn(call),
      heard: (lane, call, reply, verdict) => this.#hear(lane, call, reply, verdict),
    }
  }

  /**
   * Takes a new delivery in hand, or gives it a row where it has to wait. Says whether it is in memory without a row: then
   * its first settlement is still to come.
   */
  admit(work: RuleWork, delivery: Delivery): boolean {
    const { store, works, clock, settler } = this.#parts
    const until = this.#judge(work, delivery, { isNew: true })
    if (until === undefined) return false
    if (store.isElsewhere(delivery.record, work.name, delivery.standing)) {
      this.#placeAnew(work, delivery, until)
      return false
    }
    const queue = this.#laneOf(work, delivery)
    if (queue === undefined) return false
    if (until > clock.now()) {
      this.meetHolder(work, delivery)
      settler.settle(work, delivery, { state: 'waiting', reason: 'due', until })
      return false
    }
    const room = queue.hasMore ? works.room : works.roomForFirsts
    const hasRoom = queue.isOpen && !queue.isBehind && work.inMemory < room
    if (hasRoom && this.#holds(work, delivery)) {
      delivery.holdsCursor = true
      queue.push(delivery)
      if (work.inMemory > Math.min(works.room / 2, 2 * work.total.concurrency)) work.owe(1)
      work.giveTurn(queue)
      this.pump(work)
      return true
    }
    this.meetHolder(work, delivery)
    const reason = queue.closedBy ?? work.closedBy
    if (reason === 'slot') work.owe(2)
    settler.settle(work, delivery, { state: 'waiting', reason, until: clock.now() })
    return false
  }

  /** In a row, or with another process: that is handed what is to wait there, and here it costs neither a row nor a call. */
  #placeAnew(work: RuleWork, delivery: Delivery, until: number): void {
    const { clock, settler } = this.#parts
    const now = clock.now()
    this.meetHolder(work, delivery)
    const waits = until > now ? ({ reason: 'due', until } as const) : ({ reason: 'slot', until: now } as const)
    settler.settle(work, delivery, { progress: delivery.progress, state: 'waiting', ...waits })
  }

  /** Starts what may start. */
  pump(work: RuleWork): void {
    const { store } = this.#parts
    while (!this.#isStopping && store.health().writable) {
      if (!work.hasSlot) {
        work.awaitRate(() => this.pump(work))
        // The rate may allow a start again before it was asked what to wait for.
        if (!work.hasSlot) return
      }
      const queue = work.nextInTurn()
      if (queue === undefined) return
      const { isKeyed } = work
      const slots = isKeyed ? work.freeSlots : work.total.concurrency
      const ahead = !isKeyed && !queue.health.isBroken
      if (queue.isOpen) queue.refill(Math.max(1, Math.ceil(slots / (work.lanesInTurn + 1))), ahead)
      const item = queue.shift()
      if (queue.hasMore && (item !== undefined || !queue.hasBacklog)) work.giveTurn(queue)
      if (item === undefined) continue
      work.started()
      const delivery = item instanceof Delivery ? this.#current(work, item) : this.#revive(work, item)
      if (delivery !== undefined) this.#askGates(work, delivery)
    }
  }

  /** Whether it may run from memory. Where it stands to others, it has its key from then on, and they meet it in rows. */
  #holds(work: RuleWork, delivery: Delivery): boolean {
    const { standing, record } = delivery
    if (standing === undefined) return true
    const { key, root } = standing
    if (key === undefined || root !== undefined || !work.isKeyFree(key.text)) return false
    if (!this.#parts.store.isKeyFree(record, work.name, key)) return false
    delivery.heldKey = key.text
    work.held.set(key.text, delivery)
    return true
  }

  /**
   * Gives a row to whoever has the key of `settled` in memory: there the store sees to it that they meet. Says whether there
   * was one. No row of a key may come to be before that, or it would be handed out beside the holder.
   */
  meetHolder(work: RuleWork, settled: Settled): boolean {
    const key = settled.standing?.key?.text
    const holder = key === undefined ? undefined : work.held.get(key)
    if (holder === undefined || holder === settled) return false
    if (this.running.has(holder)) this.recordRunning(work, holder)
    else this.#recall(work, holder)
    return true
  }

  /** Gives a row to whoever queues in memory under a key that others may run under now: there they meet. */
  dropLostKey(work: RuleWork, holder: Delivery): void {
    const key = holder.standing?.key
    if (key === undefined || this.running.has(holder)) return
    if (!this.#parts.store.isKeyFree(holder.record, work.name, key)) this.#recall(work, holder)
  }

  #recall(work: RuleWork, queued: Delivery): void {
    this.#parts.works.lane(work, queued.lane.key).recall(queued)
    this.shelve(work, queued)
  }

  /** Gives a row to a delivery in flight that has none. */
  recordRunning(work: RuleWork, delivery: Delivery): void {
    if (delivery.hasRow) return
    delivery.hasRow = true
    this.#parts.settler.settle(work, delivery, {
      progress: delivery.progress,
      state: 'running',
      reason: '',
      claimed: false,
    })
  }

  /** Gives a row to a delivery in memory. */
  shelve(work: RuleWork, delivery: Delivery): void {
    const { works, clock, settler } = this.#parts
    const reason: WaitReason =
      work.rule === undefined ? 'rule_gone' : (works.lane(work, delivery.lane.key).closedBy ?? work.closedBy)
    settler.settle(work, delivery, {
      progress: delivery.progress,
      state: 'waiting',
      reason,
      until: clock.now(),
    })
  }

  /** What waits to run alone, and is another process's now, is not called here. */
  dropLost(): void {
    const { store } = this.#parts
    for (const suspect of this.#suspects.splice(0)) if (store.isOurs(suspect.record)) this.#suspects.push(suspect)
  }

  /** Starts nothing more; resolves when nothing is in flight, for which it cuts off after `timeoutMs` what still is. */
  async stop(timeoutMs: number): Promise<{ readonly cutOff: number }> {
    this.#isStopping = true
    if (this.running.size === 0) return { cutOff: 0 }
    const { clock } = this.#parts
    let cutOff = 0
    await new Promise<void>((resolve) => {
      // What was cut off is told at once; what still is not waits for a claim that the disk does not take.
      const giveUp = () => {
        cancel()
        this.#giveUp = undefined
        cutOff = this.running.size
        this.#abort.abort()
        cancel = clock.at(clock.now() + cutOffMs, resolve)
      }
      let cancel = clock.at(clock.now() + timeoutMs, giveUp)
      this.#giveUp = giveUp
      this.#whenIdle = () => {
        cancel()
        resolve()
      }
    })
    return { cutOff }
  }

  /** A stop under way waits no longer. */
  hurry(): void {
    this.#giveUp?.()
  }

  /** A delivery that waited in a row meets the rule that is in force now. */
  #revive(work: RuleWork, stored: StoredDelivery): Delivery | undefined {
    const { record, progress, reason, standing } = stored
    const { rule } = work
    work.count(reason, -1)
    if (record.message === undefined) {
      this.#parts.settler.settle(work, stored, { ...unreadable, progress })
      return undefined
    }
    const match = rule !== undefined && this.#isOfTopic(rule, stored) ? rule.match(record.message) : undefined
    if (rule === undefined || match === undefined) {
      this.#parts.settler.settle(work, stored, {
        state: 'done',
        reason: 'no_match',
        progress,
      })
      return undefined
    }
    const delivery = new Delivery(record, rule, match, this.#parts.clock.now())
    delivery.progress = rule.retry === 'never' ? progress : underRevision(rule.revision, stored)
    delivery.hasRow = true
    delivery.uncleanStops = stored.uncleanStops
    delivery.standing = standing
    delivery.followers = stored.followers
    delivery.lane = stored.lane
    // What the router set aside has met no gate yet.
    const until = this.#judge(work, delivery, { isNew: stored.revision === '' })
    if (until === undefined) return undefined
    const { clock, settler } = this.#parts
    const isElsewhere = !isDeepStrictEqual(delivery.standing, standing) || this.#isConfinedElsewhere(work, delivery)
    if (stored.isSuperseded && !isElsewhere) {
      settler.settle(work, delivery, { progress: delivery.progress, state: 'done', reason: 'superseded' })
      return undefined
    }
    if (!this.meetHolder(work, delivery) && until <= clock.now() && !isElsewhere) return delivery
    // Its key is another than it was, by the rule or the configuration, or another has it, or its rule is confined: it finds its
    // place anew.
    const waits =
      until > clock.now() ? ({ reason: 'due', until } as const) : ({ reason: 'slot', until: clock.now() } as const)
    settler.settle(work, delivery, { progress: delivery.progress, state: 'waiting', ...waits })
    return undefined
  }

  /**
   * The gates that need no other delivery: age, sample, and time. Says from when on it may be called, in ms; undefined where
   * that was the end of it.
   */
  #judge(work: RuleWork, delivery: Delivery, { isNew }: { readonly isNew: boolean }): number | undefined {
    const { rule, record, match, progress } = delivery
    const { clock, settler } = this.#parts
    const finish = (reason: 'expired' | 'sampled') => {
      settler.settle(work, delivery, { progress: delivery.progress, state: 'done', reason })
      return undefined
    }
    if (progress.more?.isReplay !== true && expiry(rule, record, clock.now()) !== undefined) return finish('expired')
    const context = contextOf(record, match, this.directory)
    try {
      if (isNew && rule.sample !== undefined && !rule.sample(context)) return finish('sampled')
      const found = standingOf(rule, context, this.directory)
      delivery.standing = found?.standing
      delivery.note = found?.note ?? ''
      const due = rule.dueAt(context, () => eventTime(record))
      if (!Number.isNaN(due)) return due
      delivery.note = joined(delivery.note, 'delay: the instant cannot be read')
      return 0
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error
      this.#bury(work, delivery, error.reason, error.message)
      return undefined
    }
  }

  /** A delivery in memory, under the rule that is in force now. */
  #current(work: RuleWork, delivery: Delivery): Delivery | undefined {
    const { rule } = work
    if (this.#isConfinedElsewhere(work, delivery)) {
      this.#placeAnew(work, delivery, 0)
      return undefined
    }
    if (rule === undefined || rule === delivery.rule) return delivery
    const match = this.#isOfTopic(rule, delivery) ? rule.match(delivery.record.message ?? {}) : undefined
    if (match === undefined) {
      this.#parts.settler.settle(work, delivery, {
        state: 'done',
        reason: 'no_match',
      })
      return undefined
    }
    delivery.rule = rule
    delivery.match = match
    delivery.call = undefined
    const until = this.#judge(work, delivery, { isNew: false })
    if (until === undefined) return undefined
    const { now } = this.#parts.clock
    if (until <= now() && delivery.standing === undefined) return delivery
    if (this.#laneOf(work, delivery) === undefined) return undefined
    this.#placeAnew(work, delivery, until)
    return undefined
  }

  /** Another process has all the work of its rule, and the whole of its limits. */
  #isConfinedElsewhere({ name }: RuleWork, { record, standing }: Delivery): boolean {
    const { store, works } = this.#parts
    return works.isConfined(name) && store.isElsewhere(record, name, standing)
  }

  #isOfTopic(rule: Delivery['rule'], { record }: Pick<Delivery, 'record'>): boolean {
    return this.#parts.works.rules?.forTopic(record.stream).includes(rule) ?? false
  }

  #askGates(work: RuleWork, delivery: Delivery): void {
    const { clock, settler } = this.#parts
    const queue = this.#laneOf(work, delivery)
    if (queue === undefined) return
    // Other limits of its target, found just now, may have let others start that have the rule's last slot.
    const closedBy = queue.closedBy ?? (work.hasSlot ? undefined : work.closedBy)
    if (closedBy !== undefined) {
      settler.settle(work, delivery, {
        progress: delivery.progress,
        state: 'waiting',
        reason: closedBy,
        until: clock.now(),
      })
      return
    }
    const { uncleanStops } = delivery
    if (uncleanStops >= poisonAfter) {
      this.#bury(work, delivery, 'poison', `the process died ${uncleanStops} times while this was running`)
      return
    }
    if (uncleanStops >= suspectAfter) {
      if (this.#isSuspectRunning) {
        this.#suspects.push(delivery)
        return
      }
      this.#isSuspectRunning = true
    }
    this.#begin(work, queue, delivery)
  }

  /** Takes the slot. A call that must not be repeated, or that the process may die of, is on record before it begins. */
  #begin(work: RuleWork, queue: LaneQueue, delivery: Delivery): void {
    work.total.started()
    const isProbe = queue.started()
    this.running.add(delivery)
    const { store, settler } = this.#parts
    const claimed = delivery.rule.retry === 'never'
    if (!claimed && !store.isWary && delivery.uncleanStops === 0) {
      void this.#run(work, queue, delivery)
      return
    }
    delivery.hasRow = true
    settler.settle(work, delivery, { progress: delivery.progress, state: 'running', reason: '', claimed }, (isOurs) => {
      // Meanwhile the target may have asked for time.
      if (isOurs && !this.#isStopping && !queue.health.isPaused) {
        void this.#run(work, queue, delivery)
        return
      }
      queue.targetLimit.ended()
      queue.health.calledOff(isProbe)
      if (isOurs) this.shelve(work, delivery)
      this.#end(work, queue, delivery)
    })
  }

  async #run(work: RuleWork, queue: LaneQueue, delivery: Delivery): Promise<void> {
    const { clock, settler, attempted } = this.#parts
    const call = delivery.call ?? nextCall(delivery, this.directory)
    if (call === undefined) throw new Error(`a delivery of ${work.name} began without a call`)
    delivery.call = undefined
    const result = await attempt(delivery, call, this.#tools)
    for (const { outcome, ms } of result.entries) attempted(work.name, outcome, ms)
    const verdict = tooManyWait(delivery, decide(delivery.rule.retry, noted(delivery, result), clock.now()))
    delivery.progress = verdict.progress ?? delivery.progress
    work.answered()
    settler.settle(work, verdict.state === 'waiting' ? this.#relocated(work, delivery) : delivery, verdict, () => {
      work.settled()
      this.pump(work)
    })
    this.#end(work, queue, delivery)
  }

  #end(work: RuleWork, queue: LaneQueue, delivery: Delivery): void {
    this.running.delete(delivery)
    queue.keyLimit?.ended()
    work.total.ended()
    if (delivery.uncleanStops >= suspectAfter) {
      this.#isSuspectRunning = false
      this.#nextSuspect()
    }
    if (this.running.size === 0) this.#whenIdle?.()
    this.pump(work)
  }

  /** Starts the next suspect that may start; those that may not go back to their lanes. */
  #nextSuspect(): void {
    while (!this.#isSuspectRunning && !this.#isStopping) {
      const next = this.#suspects.shift()
      if (next === undefined) return
      const work = this.#parts.works.of(next.rule.name)
      if (!work.hasSlot || !this.#parts.store.health().writable) {
        this.shelve(work, next)
        continue
      }
      const delivery = this.#current(work, next)
      if (delivery !== undefined) this.#askGates(work, delivery)
    }
  }

  #mayGoOn(call: Call): boolean {
    const { works } = this.#parts
    const health = works.health(call.target.name)
    const limit = works.limit(call.target.name)
    limit.use(call.target.limits ?? noLimits)
    if (!health.isOpen || !limit.isOpen) return false
    health.started()
    limit.started()
    return true
  }

  /**
   * Tells the target's health what the reply says of it, and then that the call has ended: in this order, since the end may
   * start others there.
   */
  #hear(lane: Lane, call: Call, reply: Reply, verdict: ReplyVerdict): ReplyVerdict {
    const { works } = this.#parts
    const health = works.health(call.target.name)
    const isExplained = tellHealth(health, lane, call, reply, verdict)
    works.limit(call.target.name).ended()
    health.ended()
    return isExplained ? { ...verdict, outcome: 'unavailable' } : verdict
  }

  /** The lane of the next call, which may go to another target than the last; undefined where finding it ended the delivery. */
  #laneOf(work: RuleWork, delivery: Delivery): LaneQueue | undefined {
    let queue: LaneQueue | undefined
    try {
      delivery.call ??= nextCall(delivery, this.directory)
      if (delivery.call !== undefined) queue = this.#queueOf(work, delivery, delivery.call)
    } catch (error) {
      if (!(error instanceof CallError) && !(error instanceof TemplateError)) throw error
      this.#bury(work, delivery, error.reason, error.message)
      return undefined
    }
    if (queue === undefined) {
      const { progress } = delivery
      const isRefused = progress.refused !== 0
      const verdict: Verdict = isRefused
        ? { state: 'dead', reason: 'refused', progress }
        : { state: 'done', reason: 'ok', progress }
      this.#parts.settler.settle(work, delivery, verdict)
      return undefined
    }
    delivery.lane = queue.lane
    return queue
  }

  /** Throws TemplateError where the throttle key fails. */
  #queueOf(work: RuleWork, { rule, record, match, progress }: Delivery, { target }: Call): LaneQueue {
    const { key } = rule.throttle
    const throttleKey = key === undefined ? undefined : bounded(key(contextOf(record, match, this.directory)))
    const { works } = this.#parts
    works.limit(target.name).use(target.limits ?? noLimits)
    return works.lane(work, laneKey(target.name, progress.firstAttemptAt !== 0, throttleKey))
  }

  /** With the lane of its next call. What cannot be rendered is found out again at the next start. */
  #relocated(work: RuleWork, delivery: Delivery): Delivery {
    try {
      const next = nextCall(delivery, this.directory)
      if (next !== undefined) delivery.lane = this.#queueOf(work, delivery, next).lane
    } catch (error) {
      if (!(error instanceof CallError) && !(error instanceof TemplateError)) throw error
    }
    return delivery
  }

  #bury(work: RuleWork, delivery: Delivery, reason: DeadReason, error: string): void {
    const answer = { ...noAnswer(), error }
    this.#parts.settler.settle(work, delivery, {
      progress: delivery.progress,
      state: 'dead',
      reason,
      answer,
    })
  }
}

/** Whether the target's state explains the reply: then it spends no attempt. */
function tellHealth(
  health: TargetHealth,
  lane: Lane,
  { target }: Call,
  reply: Reply,
  { outcome, pauseMs }: ReplyVerdict,
): boolean {
  if (reply.kind === 'none') {
    // What we cut off says nothing of the target.
    if (reply.error === 'aborted') return false
    return reply.error === 'refused' || reply.error === 'unreachable' ? health.refused() : health.failed(lane)
  }
  if (outcome === 'failed' && reply.status >= 500) return health.failed(lane)
  if (outcome === 'throttled' || outcome === 'unavailable') {
    health.pause(Math.min(pauseMs ?? defaultPauseMs, target.maxPauseMs))
  } else {
    health.answered(lane)
  }
  return false
}

/** With what is to be said of it in the journal, beside its first call. */
function noted(delivery: Delivery, result: AttemptResult): AttemptResult {
  const [first, ...others] = result.entries
  if (delivery.note === '' || first === undefined) return result
  return { ...result, entries: [{ ...first, note: joined(delivery.note, first.note) }, ...others] }
}

/** One that fails again and again, and so many wait for it: it makes way. */
function tooManyWait({ followers }: Delivery, verdict: Verdict): Verdict {
  if (verdict.state !== 'waiting' || verdict.reason !== 'retry' || followers <= followersAtMost) return verdict
  const { progress, attempts = [], answer } = verdict
  const why = `more than ${followersAtMost.toLocaleString('en')} deliveries of its key wait for it`
  const told = attempts.slice(-1).map((last) => ({ ...last, note: joined(last.note, why) }))
  return { progress, attempts: [...attempts.slice(0, -1), ...told], answer, state: 'dead', reason: 'exhausted' }
}

/**
 * What is finished, and what is left of the rest, is known by its place in `exec`, and another revision may have other
 * requests there: then all are made again, whole. Not so where no call may be repeated.
 */
function underRevision(revision: string, { revision: before, progress }: StoredDelivery): Progress {
  if (before === revision || before === '') return progress
  const anew = { ...progress, finished: 0, refused: 0 }
  return progress.more === undefined ? anew : { ...anew, more: { ...progress.more, titles: {}, doubts: {} } }
}
