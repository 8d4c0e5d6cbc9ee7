import type { Clock } from '../base/clock.ts'
import type { Reply, Send } from '../http/send.ts'
import type { Verdict as ReplyVerdict } from '../mediawiki/answers.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import type { RequestOutcome } from '../rule/rule.ts'
import type { Progress, Store, StoredDelivery, WaitReason } from '../store/store.ts'
import { type AttemptTools, attempt, CallError, nextCall, noAnswer } from './attempt.ts'
import { type Call, Delivery } from './delivery.ts'
import type { LaneQueue } from './lane.ts'
import type { RuleWork } from './rule-work.ts'
import { decide } from './settle.ts'
import type { Settler, Verdict } from './settler.ts'
import type { Works } from './works.ts'

/** A delivery that was running when the process died so often runs alone, and then not at all. */
const suspectAfter = 3
const poisonAfter = 6
/** How long calls that were cut off may take to end, in ms. */
const cutOffMs = 1_000
/** How long a target is left alone that asked for time without saying how much. */
const defaultPauseMs = 5_000

export interface DispatcherParts {
  readonly store: Store
  readonly works: Works
  readonly settler: Settler
  readonly send: Send
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
    const { send, userAgent, clock } = parts
    const inForce = () => this.directory
    this.#tools = {
      send,
      userAgent,
      signal: this.#abort.signal,
      get directory() {
        return inForce()
      },
      now: clock.now,
      mayGoOn: (call) => this.#mayGoOn(call),
      heard: (call, reply, verdict) => this.#hear(call, reply, verdict),
    }
  }

  /**
   * Takes a new delivery in hand, or gives it a row where it has to wait. Says whether it is in memory without a row: then
   * its first settlement is still to come.
   */
  admit(work: RuleWork, delivery: Delivery): boolean {
    const { works, clock, settler } = this.#parts
    const queue = this.#laneOf(work, delivery)
    if (queue === undefined) return false
    if (queue.health.isOpen && !queue.hasBacklog && work.inMemory < works.room) {
      delivery.holdsCursor = true
      queue.push(delivery)
      if (work.inMemory > Math.min(works.room / 2, 2 * delivery.rule.throttle.total.concurrency)) work.owe(1)
      work.giveTurn(queue)
      if (work.hasSlot) this.pump(work)
      return true
    }
    const reason = queue.health.isOpen ? 'slot' : 'target'
    if (reason === 'slot') work.owe(2)
    settler.settle(work, delivery, { state: 'waiting', reason, until: clock.now() })
    return false
  }

  /** Starts what may start. */
  pump(work: RuleWork): void {
    const { store } = this.#parts
    while (work.hasSlot && !this.#isStopping && store.health().writable) {
      const queue = work.nextInTurn()
      if (queue === undefined) return
      queue.refill(Math.ceil((work.rule?.throttle.total.concurrency ?? 1) / (work.lanesInTurn + 1)))
      const item = queue.shift()
      if (queue.hasMore && (item !== undefined || !queue.hasBacklog)) work.giveTurn(queue)
      if (item === undefined) continue
      work.started()
      const delivery = item instanceof Delivery ? this.#current(work, item) : this.#revive(work, item)
      if (delivery !== undefined) this.#askGates(work, delivery)
    }
  }

  /** Gives a row to a delivery in memory. */
  shelve(work: RuleWork, delivery: Delivery): void {
    const { works, clock, settler } = this.#parts
    const reason: WaitReason =
      work.rule === undefined ? 'rule_gone' : works.health(delivery.lane.key).isOpen ? 'slot' : 'target'
    settler.settle(work, delivery, {
      ...sofar(delivery),
      state: 'waiting',
      reason,
      until: clock.now(),
    })
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
    const { record, progress, reason } = stored
    const { rule } = work
    work.count(reason, -1)
    const match = rule !== undefined && this.#isOfTopic(rule, stored) ? rule.match(record.message ?? {}) : undefined
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
    return delivery
  }

  /** A delivery in memory, under the rule that is in force now. */
  #current(work: RuleWork, delivery: Delivery): Delivery | undefined {
    const { rule } = work
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
    return delivery
  }

  #isOfTopic(rule: Delivery['rule'], { record }: Pick<Delivery, 'record'>): boolean {
    return this.#parts.works.rules?.forTopic(record.stream).includes(rule) ?? false
  }

  #askGates(work: RuleWork, delivery: Delivery): void {
    const { clock, settler } = this.#parts
    const queue = this.#laneOf(work, delivery)
    if (queue === undefined) return
    if (!queue.health.isOpen) {
      settler.settle(work, delivery, {
        ...sofar(delivery),
        state: 'waiting',
        reason: 'target',
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

  /** Takes the slot. A call that must not be repeated first makes its claim durable. */
  #begin(work: RuleWork, queue: LaneQueue, delivery: Delivery): void {
    work.running += 1
    this.running.add(delivery)
    queue.health.started()
    if (delivery.rule.retry !== 'never') {
      void this.#run(work, delivery)
      return
    }
    delivery.hasRow = true
    const claim: Verdict = {
      ...sofar(delivery),
      state: 'running',
      reason: '',
      claimed: true,
    }
    this.#parts.settler.settle(work, delivery, claim, () => {
      if (!this.#isStopping) {
        void this.#run(work, delivery)
        return
      }
      this.shelve(work, delivery)
      this.#end(work, delivery)
    })
  }

  async #run(work: RuleWork, delivery: Delivery): Promise<void> {
    const { clock, settler, attempted } = this.#parts
    const call = delivery.call ?? nextCall(delivery, this.directory)
    if (call === undefined) throw new Error(`a delivery of ${work.name} began without a call`)
    delivery.call = undefined
    const result = await attempt(delivery, call, this.#tools)
    for (const { outcome, ms } of result.entries) attempted(work.name, outcome, ms)
    const verdict = decide(delivery.rule.retry, result, clock.now())
    delivery.progress = verdict.progress ?? delivery.progress
    work.unsettled += 1
    settler.settle(work, verdict.state === 'waiting' ? this.#relocated(work, delivery) : delivery, verdict, () => {
      work.unsettled -= 1
      this.pump(work)
    })
    this.#end(work, delivery)
  }

  #end(work: RuleWork, delivery: Delivery): void {
    this.running.delete(delivery)
    work.running -= 1
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
    const health = this.#parts.works.health(call.target.name)
    if (!health.isOpen) return false
    health.started()
    return true
  }

  /** What a reply says of its target, and whether the target's state explains it: then it spends no attempt. */
  #hear(call: Call, reply: Reply, verdict: ReplyVerdict): ReplyVerdict {
    const health = this.#parts.works.health(call.target.name)
    if (reply.kind === 'none') {
      if (reply.error !== 'refused' && reply.error !== 'unreachable') health.fellSilent()
      else if (health.refused()) return { outcome: 'unavailable', note: verdict.note }
    } else if (verdict.outcome === 'throttled' || verdict.outcome === 'unavailable') {
      health.pause(Math.min(verdict.pauseMs ?? defaultPauseMs, call.target.maxPauseMs))
    } else {
      health.answered()
    }
    return verdict
  }

  /** The lane of the next call, which may go to another target than the last; undefined where finding it ended the delivery. */
  #laneOf(work: RuleWork, delivery: Delivery): LaneQueue | undefined {
    try {
      delivery.call ??= nextCall(delivery, this.directory)
    } catch (error) {
      if (!(error instanceof CallError)) throw error
      this.#bury(work, delivery, error.reason, error.message)
      return undefined
    }
    if (delivery.call === undefined) {
      const { progress } = delivery
      const isRefused = progress.refused !== 0
      const verdict: Verdict = isRefused
        ? { state: 'dead', reason: 'refused', progress }
        : { state: 'done', reason: 'ok', progress }
      this.#parts.settler.settle(work, delivery, verdict)
      return undefined
    }
    const queue = this.#parts.works.lane(work, delivery.call.target.name)
    delivery.lane = queue.lane
    return queue
  }

  /** With its lane, where the next call goes elsewhere. What cannot be rendered is found out again at the next start. */
  #relocated(work: RuleWork, delivery: Delivery): Delivery {
    if (delivery.match.requests.length === 1) return delivery
    try {
      const next = nextCall(delivery, this.directory)
      if (next !== undefined) delivery.lane = this.#parts.works.lane(work, next.target.name).lane
    } catch (error) {
      if (!(error instanceof CallError)) throw error
    }
    return delivery
  }

  #bury(work: RuleWork, delivery: Delivery, reason: CallError['reason'], error: string): void {
    const answer = { ...noAnswer(), error }
    this.#parts.settler.settle(work, delivery, {
      ...sofar(delivery),
      state: 'dead',
      reason,
      answer,
    })
  }
}

function sofar({ progress }: Delivery): Pick<Verdict, 'progress'> {
  return { progress }
}

/**
 * What is finished is known by its place in `exec`, and another revision may have other requests there: then all are made
 * again. Not so where no call may be repeated.
 */
function underRevision(revision: string, { revision: before, progress }: StoredDelivery): Progress {
  return before === revision || before === '' ? progress : { ...progress, finished: 0, refused: 0 }
}
