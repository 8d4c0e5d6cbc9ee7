import type { Reason, Rule, RuleSet } from '../rule/rule.ts'
import type { DeadLetter, DeliveryEntry, EventEntry } from '../store/store.ts'
import type {
  DeadLetterView,
  DeliveryView,
  EventView,
  GoneRuleSummary,
  ListedDelivery,
  Operations,
  ReasonView,
  RuleSummary,
  RuleView,
} from './contract.ts'
import { asText } from './intake-answer.ts'

/** Which rules there will be nobody knows then, so none can be called gone. */
export function noteOn(rules: RuleSet | undefined): { readonly note?: string } {
  if (rules !== undefined) return {}
  return { note: 'There are problems in the rules: nothing is dispatched until they are mended and loaded.' }
}

type Running = ReturnType<Operations['running']>

/** A row says what was decided last; what is in flight is told as such. */
export function asItRuns(delivery: DeliveryEntry, running: Running): DeliveryEntry {
  const since = delivery.state === 'waiting' ? running.get(delivery.id)?.since : undefined
  return since === undefined ? delivery : { ...delivery, state: 'running', reason: '', at: since, next: null }
}

/**
 * What became of an event: what each rule of its stream says of it now, beside the deliveries on record. Without valid
 * rules those are all that is known, and wait for no time that could be told.
 */
export function viewEvent(
  entry: EventEntry,
  rules: RuleSet | undefined,
  running: Running,
  withBytes: boolean,
): EventView {
  const { record, metaId, routed } = entry
  const deliveries = entry.deliveries.map((delivery) => asItRuns(delivery, running))
  // What is not kept any more no rule can be asked about.
  const current = record.bytes.length === 0 ? [] : (rules?.forTopic(record.stream) ?? [])
  const names = new Set(current.map(({ name }) => name))
  const others = deliveries.filter(({ rule }) => !names.has(rule))
  const asItStands = (delivery: DeliveryEntry): DeliveryEntry => {
    if (delivery.state !== 'waiting' || rules?.get(delivery.rule) !== undefined) return delivery
    // Whatever it waited for, where the rules are known it now waits for one of that name.
    return rules === undefined ? { ...delivery, next: null } : { ...delivery, reason: 'rule_gone', next: null }
  }
  return {
    id: record.id,
    meta_id: metaId ?? null,
    stream: record.stream,
    accepted: iso(record.accepted),
    ...(withBytes ? { bytes: asText(record.bytes) } : {}),
    routed,
    rules: [
      ...current.map((rule) => {
        const recorded = deliveries.find((candidate) => candidate.rule === rule.name)
        return viewOfRule(rule, entry, recorded ?? unrecorded(rule.name, entry, running))
      }),
      ...others.map((delivery): RuleView => onRecord(asItStands(delivery), null)),
    ],
  }
}

/** What runs straight from memory leaves no record before it ends. */
function unrecorded(rule: string, { record, metaId }: EventEntry, running: Running): DeliveryEntry | undefined {
  const id = `${record.id}/${rule}`
  const inFlight = running.get(id)
  if (inFlight === undefined) return undefined
  const { revision, since } = inFlight
  return {
    ...{ id, rule, revision, state: 'running', reason: '', at: since, next: null, attempts: [], earlierAttempts: 0 },
    ...{ eventId: record.id, metaId, stream: record.stream, accepted: record.accepted },
    ...{ coveredBy: undefined, covers: { count: 0, ids: [] } },
  }
}

function viewOfRule(rule: Rule, { record }: EventEntry, delivery: DeliveryEntry | undefined): RuleView {
  const match = record.message === undefined ? undefined : rule.match(record.message)
  // A delivery says that its rule matched, but not which case did: only the very same rule can say that again.
  if (delivery !== undefined)
    return onRecord(delivery, delivery.revision === rule.revision ? (match?.case ?? null) : null)
  const reason =
    record.message === undefined
      ? ({ clause: 'match', path: '', wanted: 'a JSON object' } as const)
      : rule.explain(record.stream, record.message)
  return {
    rule: rule.name,
    revision: rule.revision,
    matched: match !== undefined,
    case: match?.case ?? null,
    reason: match === undefined && reason !== undefined ? viewReason(reason) : null,
    computed_now: true,
  }
}

export function viewReason(reason: Reason): ReasonView {
  return { ...reason, found: reason.found ?? null }
}

function onRecord(delivery: DeliveryEntry, matchedCase: number | null): RuleView {
  const { rule, revision } = delivery
  return {
    rule,
    revision,
    matched: true,
    case: matchedCase,
    reason: null,
    computed_now: false,
    delivery: viewDelivery(delivery),
  }
}

export function viewDelivery(entry: DeliveryEntry): DeliveryView {
  const { id, state, reason, at, attempts, earlierAttempts, next, coveredBy, covers } = entry
  return {
    id,
    state,
    reason,
    at: iso(at),
    attempts: attempts.map((attempt) => ({
      at: iso(attempt.at),
      status: attempt.status,
      ms: attempt.ms,
      outcome: attempt.outcome,
      request: attempt.request,
      note: attempt.note,
    })),
    earlier_attempts: earlierAttempts,
    next: next === null ? null : iso(next),
    covered_by: coveredBy ?? null,
    covers,
  }
}

export function listDelivery(entry: DeliveryEntry): ListedDelivery {
  return {
    ...viewDelivery(entry),
    rule: entry.rule,
    revision: entry.revision,
    event_id: entry.eventId,
    meta_id: entry.metaId ?? null,
    stream: entry.stream,
    accepted: iso(entry.accepted),
  }
}

export function viewDeadLetter(letter: DeadLetter): DeadLetterView {
  const { record, answer } = letter
  return {
    ...listDelivery(letter),
    event: asText(record.bytes),
    answer: answer ?? null,
  }
}

export function summarizeRule(rule: Rule, operations: Operations): RuleSummary {
  return {
    name: rule.name,
    gone: false,
    revision: rule.revision,
    file: rule.file,
    line: rule.line,
    topics: rule.topics,
    policies: {
      retry: viewRetry(rule.retry),
      ...rule.policyTexts,
      answers: rule.answers.preset ?? null,
    },
    ...countsOf(rule.name, operations),
  }
}

/** Rules that are not in force any more, as long as they have deliveries that an operator may want to see. */
export function summarizeGone(rules: RuleSet | undefined, operations: Operations): readonly GoneRuleSummary[] {
  return operations
    .ruleNames()
    .filter((name) => rules?.get(name) === undefined)
    .map((name) => ({ name, gone: true as const, ...countsOf(name, operations) }))
    .filter(({ waiting, running, dead }) => running + dead > 0 || Object.values(waiting).some((count) => count > 0))
}

function countsOf(name: string, operations: Operations) {
  const { waiting, running, done, dead, oldestEligibleAgeMs } = operations.ruleStats(name)
  return { waiting, running, done, dead, oldest_eligible_age_ms: oldestEligibleAgeMs }
}

function viewRetry(retry: Rule['retry']): RuleSummary['policies']['retry'] {
  if (retry === 'never') return retry
  return {
    limit: retry.limit,
    delay_ms: retry.delayMs,
    factor: retry.factor,
    max_delay_ms: retry.maxDelayMs,
    max_age_ms: retry.maxAgeMs,
    jitter: retry.jitter,
  }
}

/** Times beyond what a date can say are told as its end. */
export function iso(ms: number): string {
  return new Date(Math.min(ms, 8.64e15)).toISOString()
}
