import type { AttemptView, DeliveryView, EventView, RuleView } from '../api/contract.ts'
import { formatDuration } from '../base/units.ts'
import { meaningOf } from '../store/reasons.ts'
import { counted } from './io.ts'
import { describeReason } from './reason.ts'

/*
 * What became of an event, for somebody who was woken up: what happened, when, who said no, and what happens next.
 * Times are UTC, as in the log.
 */

const longestError = 300

/** What is told beside the events themselves. */
export interface Beside {
  /** What holds for all events of the answer. */
  readonly note: string | undefined
  /** What a dead letter keeps of its end, by id. */
  readonly errors: ReadonlyMap<string, string>
}

export function tellEvent(event: EventView, { note, errors }: Beside, now: number): string {
  const names = event.meta_id === null || event.meta_id === event.id ? event.id : `${event.meta_id} (here ${event.id})`
  const lines = [`Event ${names}`, `  of ${event.stream}, accepted ${when(event.accepted, now)}`, '']
  const elsewhere = event.rules.filter(
    (rule) => !rule.matched && rule.reason?.clause === 'topic' && rule.delivery === undefined,
  )
  const told = event.rules.filter((rule) => !elsewhere.includes(rule))
  for (const rule of told) lines.push(...tellRule(rule, event.routed, errors, now), '')
  if (note !== undefined) lines.push(`  ${note}`, '')
  else if (told.length === 0) lines.push('  No rule is about this stream: nothing was called.', '')
  if (elsewhere.length > 0)
    lines.push(
      `  (${counted(elsewhere.length, 'rule')} about other streams: ${elsewhere.map(({ rule }) => rule).join(', ')})`,
      '',
    )
  return `${lines.join('\n')}\n`
}

function tellRule(view: RuleView, isRouted: boolean, errors: Beside['errors'], now: number): readonly string[] {
  const asked = view.computed_now ? ', says the rule as it is now' : ''
  if (view.delivery !== undefined) {
    // What was set aside has met no revision.
    const met = view.revision === '' ? 'no revision yet' : `revision ${view.revision}`
    const which = view.case === null ? '' : `, case ${view.case}`
    return [
      `  ${view.rule} (${met}${which})`,
      ...tellDelivery(view.delivery, now, errors.get(view.delivery.id)).map((line) => `    ${line}`),
    ]
  }
  if (!view.matched)
    return [
      `  ${view.rule}: does not concern it${asked}`,
      ...(view.reason === null ? [] : [`    ${describeReason(view.reason)}`]),
    ]
  return [
    `  ${view.rule}: matches${asked}`,
    isRouted
      ? '    It was routed when the rule was not there, or did not match it: it is not called.'
      : '    Nothing is recorded yet: it is about to be routed, or to be called for the first time.',
  ]
}

/** `error`: what a dead letter keeps of its end. */
export function tellDelivery(delivery: DeliveryView, now: number, error?: string): readonly string[] {
  const { state, reason, attempts, earlier_attempts: earlier, at, covered_by: coveredBy, covers } = delivery
  const meaning = meaningOf(state, reason)
  const told = attempts.map((attempt, index) => tellAttempt(attempt, earlier + index + 1, now))
  const isKept = earlier === 1 ? 'is not kept' : 'are not kept'
  return [
    ...(earlier === 0 ? [] : [`${counted(earlier, 'earlier call')} ${isKept}.`]),
    ...told,
    `${state}${reason === '' ? '' : ` (${reason})`} since ${when(at, now)}${meaning === undefined ? '' : `: ${meaning}`}`,
    ...(error === undefined ? [] : [`It failed with: ${error.slice(0, longestError)}`]),
    ...(coveredBy === null ? [] : [`Covered by the call of ${coveredBy}.`]),
    ...(covers.count === 0 ? [] : [`Its call covers ${counted(covers.count, 'other event')}.`]),
    ...next(delivery, now),
  ]
}

function tellAttempt({ at, status, ms, outcome, request, note }: AttemptView, number: number, now: number): string {
  const answer = status === 0 ? 'no answer' : `answer ${status}`
  const which = request === 0 ? '' : ` (request ${request + 1})`
  return `${when(at, now)}  call ${number}${which}: ${answer} after ${formatDuration(ms)}, ${outcome}${note === '' ? '' : `: ${note}`}`
}

function next({ id, state, reason, next }: DeliveryView, now: number): readonly string[] {
  if (state === 'waiting' && reason === 'key' && next === null) return ['Next: its turn, when that one has ended.']
  if (state === 'waiting' && next === null) return ['Next: nothing by itself; it waits for an operator.']
  if (state === 'waiting') {
    const isDue = next !== null && Date.parse(next) <= now
    return [isDue ? 'Next: a call, as soon as its target and the limits allow.' : `Next: ${when(next ?? '', now)}.`]
  }
  if (state === 'running') return ['Next: the answer to the call that runs right now.']
  if (state === 'dead') {
    return [
      'Next: nothing by itself.',
      `  to see it all:   changeprop dead show ${id}`,
      `  to try it again: changeprop dead replay ${id}`,
    ]
  }
  return []
}

/** `2026-11-24 22:14:14Z (3m ago)` */
export function when(time: string, now: number): string {
  const ms = Date.parse(time)
  if (Number.isNaN(ms)) return time
  const distance = Math.abs(now - ms)
  const far = distance < 1_000 ? 'now' : ms < now ? `${rough(distance)} ago` : `in ${rough(distance)}`
  return `${new Date(ms).toISOString().replace('T', ' ').slice(0, 19)}Z (${far})`
}

/** In the largest unit of which there is at least one, rounded down. */
function rough(ms: number): string {
  const [unit, length] =
    (
      [
        ['d', 86_400_000],
        ['h', 3_600_000],
        ['m', 60_000],
      ] as const
    ).find(([, length]) => ms >= length) ?? (['s', 1_000] as const)
  return `${Math.floor(ms / length)}${unit}`
}
