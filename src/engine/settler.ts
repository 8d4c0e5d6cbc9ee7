import type { Clock } from '../base/clock.ts'
import type { StreamRecord } from '../event/event.ts'
import {
  type AttemptEntry,
  type Consequences,
  type DeadReason,
  type DeliveryState,
  type DoneReason,
  type Lane,
  type LastAnswer,
  noProgress,
  type Progress,
  type Settlement,
  type Standing,
  type Store,
  type WaitReason,
} from '../store/store.ts'
import type { RuleWork } from './rule-work.ts'
import type { Works } from './works.ts'

/** Settlements handed in and not yet durable; beyond it nothing is routed. */
const settlingAtMost = 4_000

const noEntries: readonly AttemptEntry[] = []

export interface SettleObserver {
  settled(rule: string, state: DeliveryState, reason: string, ageMs: number): void
  /** So many are done (`duplicate`), because a newer delivery of their key was called. */
  covered(rule: string, count: number): void
}

/** What is being settled: the delivery, as far as the store knows it. */
export interface Settled {
  readonly lane: Lane
  readonly record: StreamRecord
  holdsCursor?: boolean
  heldKey?: string | undefined
  /** Of the rule that decided; by default the one in force. */
  readonly revision?: string
  readonly standing?: Standing | undefined
}

/** What has been decided about it. `until`: not before this time, in ms. `progress`: none where it never began. */
export type Verdict = {
  readonly progress?: Progress | undefined
  /** Calls made since the last settlement. */
  readonly attempts?: readonly AttemptEntry[]
  readonly answer?: LastAnswer | undefined
} & (
  | {
      readonly state: 'waiting'
      readonly reason: WaitReason
      readonly until: number
    }
  | {
      readonly state: 'running'
      readonly reason: ''
      readonly claimed: boolean
    }
  | { readonly state: 'done'; readonly reason: DoneReason }
  | { readonly state: 'dead'; readonly reason: DeadReason }
)

/** Hands every decision to the store, and keeps the counts that follow from it. */
export class Settler {
  readonly #store: Store
  readonly #clock: Clock
  readonly #works: Works
  readonly #observer: SettleObserver
  /** Called when there is room for more settlements again. */
  whenRoom: (() => void) | undefined
  #settling = 0

  constructor(store: Store, clock: Clock, works: Works, observer: SettleObserver) {
    this.#store = store
    this.#clock = clock
    this.#works = works
    this.#observer = observer
  }

  get isCrowded(): boolean {
    return this.#settling > settlingAtMost
  }

  /** `durable` is called once the decision is kept; `isOurs` is false where the delivery is another process's now. */
  settle(work: RuleWork, settled: Settled, verdict: Verdict, durable?: (isOurs: boolean) => void): void {
    const { lane, record } = settled
    const releasesCursor = settled.holdsCursor === true
    if (releasesCursor) settled.holdsCursor = false
    if (settled.heldKey !== undefined) {
      // Of a part of the work that was another process's in between, somebody else may have the key by now.
      if (work.held.get(settled.heldKey) === settled) work.held.delete(settled.heldKey)
      settled.heldKey = undefined
    }
    const key = settled.standing?.key?.text
    if (key !== undefined) work.settling(key, 1)
    const at = this.#clock.now()
    const { state, reason } = verdict
    const until = verdict.state === 'waiting' ? verdict.until : 0
    this.#settling += 1
    if (state === 'done') work.done += 1
    this.#observer.settled(work.name, state, reason, at - record.accepted)
    const settlement: Settlement = {
      lane,
      record,
      state,
      reason,
      revision: settled.revision ?? work.rule?.revision ?? '',
      at,
      until,
      progress: verdict.progress ?? noProgress,
      claimed: verdict.state === 'running' && verdict.claimed,
      attempts: verdict.attempts ?? noEntries,
      answer: verdict.answer,
      releasesCursor,
      standing: settled.standing,
    }
    if (verdict.state !== 'waiting') {
      this.#store.settle(settlement, (_, consequences) => {
        if (key !== undefined) work.settling(key, -1)
        if (consequences !== undefined) this.#follow(work, consequences)
        this.#durable(durable, consequences)
      })
      return
    }
    const { reason: awaited } = verdict
    work.count(awaited, 1)
    // The lane is looked up when the row is there: until then nothing keeps it from being forgotten.
    const rowAt = (time: number) => this.#works.lane(work, lane.key).rowAt(time)
    this.#store.settle(settlement, (_, consequences) => {
      if (key !== undefined) work.settling(key, -1)
      const amended = consequences?.amended
      if (amended === undefined) rowAt(until)
      else {
        work.count(awaited, -1)
        if (amended.state === 'waiting') {
          work.count(amended.reason, 1)
          rowAt(amended.until)
        } else if (amended.state === 'done') {
          work.done += 1
          this.#observer.settled(work.name, 'done', amended.reason, this.#clock.now() - record.accepted)
        }
      }
      if (consequences !== undefined) this.#follow(work, consequences)
      this.#durable(durable, consequences)
    })
  }

  /** What the store made of others of the rule. */
  #follow(work: RuleWork, { moved, due }: Consequences): void {
    for (const { from, to, count } of moved) {
      work.count(from, -count)
      if (to !== 'duplicate') work.count(to, count)
      else {
        work.done += count
        this.#observer.covered(work.name, count)
      }
    }
    for (const { lane, until } of due) this.#works.lane(work, lane.key).rowAt(until)
  }

  #durable(then: ((isOurs: boolean) => void) | undefined, consequences: Consequences | undefined): void {
    this.#settling -= 1
    if (this.#settling === settlingAtMost) this.whenRoom?.()
    then?.(consequences?.amended?.state !== 'elsewhere')
  }
}
