import type { AnswersPreset, PolicyTexts, Reason, RequestOutcome, RetryPolicy } from '../rule/rule.ts'
import type { DeliveryState, LastAnswer, WaitReason } from '../store/store.ts'

/*
 * What the HTTP interface says, in types: shared by the server, the commands that ask it, and whoever draws pages from it.
 * Times are ISO 8601 in UTC; durations are ms where a name says no other unit.
 */

/** How a rule stands. */
export interface RuleStats {
  readonly waiting: Readonly<Partial<Record<WaitReason, number>>>
  readonly running: number
  readonly done: number
  readonly dead: number
  /** ms; 0 when nothing is eligible */
  readonly oldestEligibleAgeMs: number
}

/** Which dead letters are meant. */
export type Selection = { readonly ids: readonly string[] } | { readonly rule: string } | { readonly all: true }

/** What an operator can ask of the running engine. */
export interface Operations {
  /** Rules in force, and those that are gone but may have deliveries left. */
  ruleNames(): readonly string[]
  ruleStats(rule: string): RuleStats
  /** Deliveries in flight, by id: under which revision, and since when, in ms. */
  running(): ReadonlyMap<string, { readonly revision: string; readonly since: number }>
  /** Reopens deliveries, no faster than `ratePerSecond`. Resolves with how many will be, not when they are. */
  replay(selection: Selection, ratePerSecond: number): Promise<{ count: number }>
  discard(selection: Selection): Promise<{ count: number }>
}

/** How the service itself stands. */
export interface ServiceStatus {
  readonly ready: boolean
  /** Why not ready, in sentences. */
  readonly reasons: readonly string[]
  readonly warnings: readonly string[]
}

/** One call that was made. */
export interface AttemptView {
  readonly at: string
  /** HTTP status; 0 where there was none. */
  readonly status: number
  readonly ms: number
  readonly outcome: RequestOutcome
  /** Index into the rule's `exec`. */
  readonly request: number
  /** One sentence; empty where the status says it all. */
  readonly note: string
}

export interface DeliveryView {
  readonly id: string
  readonly state: DeliveryState
  readonly reason: string
  /** When it came to that state. */
  readonly at: string
  /** Oldest first; the newest 50 at most. */
  readonly attempts: readonly AttemptView[]
  /** How many calls were made before those; nothing else is kept of them. */
  readonly earlier_attempts: number
  /** `waiting`: until when; null otherwise, and where no time can be told, as while the rules are invalid. */
  readonly next: string | null
  /** `duplicate`: the delivery whose call covers this one: a newer one, or an older one of the same `meta.id`. */
  readonly covered_by: string | null
  /** Duplicates that its call covered: how many, and the ids of the first 100. */
  readonly covers: { readonly count: number; readonly ids: readonly string[] }
}

/** A delivery on its own, so that it also says of which event under which rule. */
export interface ListedDelivery extends DeliveryView {
  readonly rule: string
  readonly revision: string
  readonly event_id: string
  readonly meta_id: string | null
  readonly stream: string
  readonly accepted: string
}

/** `found` is null where the event has nothing there. */
export type ReasonView = Required<Reason>

/** What one rule made of an event. */
export interface RuleView {
  readonly rule: string
  readonly revision: string
  readonly matched: boolean
  readonly case: number | null
  /** The first clause that said no; null where the rule matched. */
  readonly reason: ReasonView | null
  /** True where the rule as it is now was asked for this answer; false where the delivery on record says so. */
  readonly computed_now: boolean
  readonly delivery?: DeliveryView
}

export interface EventView {
  readonly id: string
  readonly meta_id: string | null
  readonly stream: string
  readonly accepted: string
  /** The event's text as received; only with `?bytes=true`. */
  readonly bytes?: string
  /** Nothing more will come of it than is told here. False also where that is not known. */
  readonly routed: boolean
  readonly rules: readonly RuleView[]
}

export interface EventsAnswer {
  /** Newest first, at most 100. */
  readonly events: readonly EventView[]
  /** What holds for all of them, in a sentence: that the rules are invalid, and nothing is dispatched. */
  readonly note?: string
}

/** How deliveries of a rule stand. */
interface RuleCounts {
  readonly waiting: Readonly<Partial<Record<WaitReason, number>>>
  readonly running: number
  readonly done: number
  readonly dead: number
  readonly oldest_eligible_age_ms: number
}

export interface RuleSummary extends RuleCounts {
  readonly name: string
  readonly gone: false
  readonly revision: string
  readonly file: string
  readonly line: number
  readonly topics: readonly string[]
  readonly policies: PolicyTexts & {
    readonly retry: RetryPolicyView | 'never'
    /** Null: as the wiki or target says. */
    readonly answers: AnswersPreset | null
  }
}

/** No rule of this name is in force, but there are deliveries of one. */
export interface GoneRuleSummary extends RuleCounts {
  readonly name: string
  readonly gone: true
}

export interface RetryPolicyView {
  readonly limit: number
  readonly delay_ms: number
  readonly factor: number
  readonly max_delay_ms: number
  readonly max_age_ms: number
  readonly jitter: RetryPolicy['jitter']
}

export interface RulesAnswer {
  readonly rules: readonly (RuleSummary | GoneRuleSummary)[]
  /** In a sentence: that the rules are invalid, so that none is in force. */
  readonly note?: string
}

export interface DeliveriesAnswer {
  readonly deliveries: readonly ListedDelivery[]
  /** Hand back as `cursor` to go on; null at the end. */
  readonly cursor: string | null
}

export interface DeadLetterView extends ListedDelivery {
  /** The event's text as received. */
  readonly event: string
  readonly answer: LastAnswer | null
}

export interface DeadAnswer {
  readonly dead: readonly DeadLetterView[]
  readonly cursor: string | null
}

/** How many dead letters were taken up or thrown away. */
export interface CountAnswer {
  readonly count: number
}

/** RFC 9457. */
export interface ProblemAnswer {
  readonly type: 'about:blank'
  readonly title: string
  readonly status: number
  /** One of src/base/errors.ts; absent where we are broken. */
  readonly code?: string
  readonly detail: string
}

/** The body of an intake answer that was not all good; nothing else may stand in it (it can crash EventBus). */
export interface IntakeAnswer {
  readonly invalid: readonly IntakeFailure[]
  readonly error: readonly IntakeFailure[]
}

export interface IntakeFailure {
  readonly status: 'invalid' | 'error'
  /** As it was posted. */
  readonly event: unknown
  readonly context: { readonly errors: readonly unknown[]; readonly errorsText: string } | { readonly message: string }
}
