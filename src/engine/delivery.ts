import type { StreamRecord } from '../event/event.ts'
import type { OutboundRequest } from '../http/send.ts'
import type { Target } from '../mediawiki/wiki.ts'
import type { Match, Rule } from '../rule/rule.ts'
import { type Lane, noProgress, type Progress, type Standing } from '../store/store.ts'

/** The next call of a delivery, ready to be made. */
export interface Call {
  /** Index into `exec`. */
  readonly index: number
  readonly request: OutboundRequest
  readonly target: Target
  /** The same request with a token, for the very same target; undefined where it says no `wiki.token`. */
  readonly withToken: ((token: string) => OutboundRequest) | undefined
}

/** One event under one rule, in hand: queued in memory or running. */
export class Delivery {
  readonly record: StreamRecord
  /** The revision that matched; when another is in force at the start, that one is asked. */
  rule: Rule
  match: Match
  progress: Progress = noProgress
  /** Whether a row keeps it; what has none is routed again after a crash. */
  hasRow = false
  /** Whether the store's cursor waits for its first settlement. */
  holdsCursor = false
  /** The key that it holds in memory, until its first settlement. */
  heldKey: string | undefined
  /** It was given a row while it queued in memory, and is to be passed over there. */
  isRecalled = false
  uncleanStops = 0
  standing: Standing | undefined
  /** How many wait for it to end, because they share its key. */
  followers = 0
  /** What the journal is to say beside its first call. */
  note = ''
  /** Since when it is in hand, in ms. */
  readonly since: number
  /** Rendered ahead to learn its target; used once. */
  call: Call | undefined
  /** Where it queues: known once its next call is. */
  lane: Lane

  constructor(record: StreamRecord, rule: Rule, match: Match, since: number) {
    this.record = record
    this.rule = rule
    this.match = match
    this.since = since
    this.lane = { rule: rule.name, key: '' }
  }

  get revision(): string {
    return this.rule.revision
  }
}
