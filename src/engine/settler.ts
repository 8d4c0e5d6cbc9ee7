import type { Clock } from '../base/clock.ts'
import type { StreamRecord } from '../event/event.ts'
import {
  type AttemptEntry,
  type DeadReason,
  type DeliveryState,
  type DoneReason,
  type Lane,
  type LastAnswer,
  noProgress,
  type Progress,
  type Settlement,
  type Store,
  type WaitReason,
} from '../store/store.ts'
import type { RuleWork } from './rule-work.ts'
import type { Works } from './works.ts'

/** Settlements handed in and not yet durable; beyond it nothing is routed. */
const settlingAtMost = 4_000

const noEntries: readonly AttemptEntry[] = []

/** What is being settled: the delivery, as far as the store knows it. */
export interface Settled {
  readonly lane: Lane
  readonly record: StreamRecord
  holdsCursor?: boolean
  /** Of the rule that decided; by default the one in force. */
  readonly revision?: string
}

/** What has been decided about it. `until`: not before this time, in ms. `progress`: none where it never began. */
export type Verdict = {
  readonly progress?: Progress
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
  readonly #observe: (rule: string, state: DeliveryState, reason: string, ageMs: number) => void
  /** Called when there is room for more settlements again. */
  whenRoom: (() => void) | undefined
  #settling = 0

  constructor(
    store: Store,
    clock: Clock,
    works: Works,
    observe: (rule: string, state: DeliveryState, reason: string, ageMs: number) => void,
  ) {
    this.#store = store
    this.#clock = clock
    this.#works = works
    this.#observe = observe
  }

  get isCrowded(): boolean {
    return this.#settling > settlingAtMost
  }

  /** `durable` is called once the decision is on disk. */
  settle(work: RuleWork, settled: Settled, verdict: Verdict, durable?: () => void): void {
    const { lane, record } = settled
    const releasesCursor = settled.holdsCursor === true
    if (releasesCursor) settled.holdsCursor = false
    const at = this.#clock.now()
    const { state, reason } = verdict
    const until = verdict.state === 'waiting' ? verdict.until : 0
    this.#settling += 1
    if (state === 'done') work.done += 1
    this.#observe(work.name, state, reason, at - record.accepted)
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
    }
    if (verdict.state !== 'waiting') {
      this.#store.settle(settlement, () => this.#durable(durable))
      return
    }
    work.count(verdict.reason, 1)
    const queue = this.#works.lane(work, lane.key)
    this.#store.settle(settlement, () => {
      queue.rowAt(until)
      this.#durable(durable)
    })
  }

  #durable(then: (() => void) | undefined): void {
    this.#settling -= 1
    if (this.#settling === settlingAtMost) this.whenRoom?.()
    then?.()
  }
}
