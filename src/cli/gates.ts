import { iso } from '../api/view.ts'
import { expiry, standingOf } from '../engine/gates.ts'
import { eventTime } from '../event/event.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import { type Rule, type TemplateContext, TemplateError } from '../rule/rule.ts'
import type { DeadReason, DoneReason } from '../store/store.ts'

/** What a gate says of an event, as far as that needs no other delivery. */
export interface GateView {
  /** The key of the rule that says so. */
  readonly gate: 'expire' | 'sample' | 'dedup' | 'order' | 'supersede' | 'delay' | 'throttle'
  /** `depends`: on other deliveries. */
  readonly verdict: 'passes' | 'depends' | 'waiting' | 'done' | 'dead'
  readonly reason?: DoneReason | DeadReason | 'due'
  /** `waiting`: until then. */
  readonly until?: string
  /** What it shares with the deliveries on which it depends; where keys are of a wiki, after that. */
  readonly key?: string
  /** `supersede`: events with a later one make it pointless. */
  readonly time?: string
  readonly note?: string
}

type Answer = Omit<GateView, 'gate'>

/** In the order in which the engine asks, up to the gate that ends it. A rule that says nothing of a gate has none. */
export function askGates(rule: Rule, context: TemplateContext, directory: Directory): readonly GateView[] {
  const { record } = context
  const now = record.accepted
  const { expire, sample, dedup, order, supersede, throttle } = rule
  const gates: GateView[] = []
  const ask = (gate: GateView['gate'], judge: () => Answer | undefined) => {
    if (gates.some(isEnd)) return
    const answer = orDead(judge)
    if (answer !== undefined) gates.push({ gate, ...answer })
  }
  const found = (parts: Partial<Pick<Rule, 'dedup' | 'order' | 'supersede'>>) =>
    standingOf({ dedup: undefined, order: undefined, supersede: undefined, ...parts }, context, directory)

  const expired = { verdict: 'done', reason: 'expired' } as const
  const isExpired = (at: number) => expiry(rule, record, at) !== undefined
  if (expire !== undefined) ask('expire', () => (isExpired(now) ? expired : passes))
  if (sample !== undefined) ask('sample', () => (sample(context) ? passes : { verdict: 'done', reason: 'sampled' }))
  if (dedup !== undefined) ask('dedup', () => keyed(shown(found({ dedup })?.standing?.key?.text)))
  else if (order !== undefined) ask('order', () => keyed(shown(found({ order })?.standing?.key?.text)))
  if (supersede !== undefined) {
    ask('supersede', () => {
      const { standing, note } = found({ supersede }) ?? {}
      const root = standing?.root
      if (root !== undefined) return { ...keyed(shown(root.signature)), time: iso(root.time) }
      return note === '' ? keyed(undefined) : { ...passes, note: 'no time that can be read' }
    })
  }
  let due = now
  ask('delay', () => {
    const said = rule.dueAt(context, () => eventTime(record))
    if (Number.isNaN(said)) return { ...passes, note: 'the instant cannot be read' }
    due = Math.max(now, said)
    if (due > now) return { verdict: 'waiting', reason: 'due', until: iso(due) }
    return said === 0 ? undefined : passes
  })
  ask('expire', () => (due > now && isExpired(due) ? { ...expired, note: 'by then' } : undefined))
  const { key } = throttle
  // Those without a throttle key share the limits of one.
  if (key !== undefined) ask('throttle', () => ({ ...keyed(key(context)), verdict: 'depends' }))
  return gates
}

/** Whether it is never called, for this gate. */
export function isEnd({ verdict }: GateView): boolean {
  return verdict === 'done' || verdict === 'dead'
}

/** In a line. */
export function describeGate({ gate, verdict, reason, until, key, time, note }: GateView): string {
  if (verdict === 'depends')
    return `${gate}: ${key === undefined ? note : `key ${JSON.stringify(key)}`}${time === undefined ? '' : `, time ${time}`}`
  const why = reason === undefined ? '' : ` (${reason})`
  return `${gate}: ${verdict}${why}${until === undefined ? '' : ` until ${until}`}${note === undefined ? '' : `: ${note}`}`
}

const passes: Answer = { verdict: 'passes' }

function keyed(text: string | undefined): Answer {
  if (text === undefined || text === '') return { ...passes, note: 'no key' }
  return { verdict: 'depends', key: text }
}

/** A key of a standing, for people: its wiki, if any, and what the template yields. */
function shown(text: string | undefined): string | undefined {
  return text?.split('\u001f').slice(1).filter(Boolean).join(' ')
}

function orDead(judge: () => Answer | undefined): Answer | undefined {
  try {
    return judge()
  } catch (error) {
    if (error instanceof TemplateError) return { verdict: 'dead', reason: error.reason, note: error.message }
    throw error
  }
}
