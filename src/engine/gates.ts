import { hash } from 'node:crypto'
import { eventTime, type JsonObject, metaOf, type StreamRecord } from '../event/event.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import type { Match, Rule, TemplateContext } from '../rule/rule.ts'
import type { DoneReason, Standing } from '../store/store.ts'
import { noAnswer } from './attempt.ts'
import type { Verdict } from './settler.ts'

/** Of what no rule can be asked. */
export const unreadable: Verdict = {
  state: 'dead',
  reason: 'unreadable',
  answer: { ...noAnswer(), error: 'the record is not a JSON object of at most `intake.max_body`' },
}

/** What templates of a rule can see of a record. */
export function contextOf(record: StreamRecord, match: Match, directory: Directory): TemplateContext {
  return {
    record,
    captures: match.captures,
    wiki: () => (record.message === undefined ? undefined : directory.wikiOf(record.message)),
    target: (name) => directory.targetUrl(name),
  }
}

/** Whether it is too old; asked at routing and at each wake-up. */
export function expiry({ expire }: Rule, record: StreamRecord, now: number): DoneReason | undefined {
  if (expire === undefined) return undefined
  if (now - eventTime(record) > expire.ageMs) return 'expired'
  if (expire.rootAgeMs === Number.POSITIVE_INFINITY) return undefined
  const root = record.message?.root_event
  const dt = typeof root === 'object' && root !== null && 'dt' in root ? root.dt : undefined
  // An instant that cannot be read never expires.
  return typeof dt === 'string' && now - Date.parse(dt) > expire.rootAgeMs ? 'expired' : undefined
}

/** Longer keys are cut to a digest: an index of them has to stay small. */
const longestKey = 200

/** What is found of a rule that says how its deliveries stand to one another. */
export interface FoundStanding {
  /** Undefined where this one stands to none. */
  readonly standing: Standing | undefined
  /** What the journal has to say of that. */
  readonly note: string
}

/** How a delivery stands to others of its rule; undefined where the rule says nothing of it. Throws TemplateError. */
export function standingOf(
  { dedup, order, supersede }: Pick<Rule, 'dedup' | 'order' | 'supersede'>,
  context: TemplateContext,
  directory: Directory,
): FoundStanding | undefined {
  if (dedup === undefined && order === undefined && supersede === undefined) return undefined
  const { message = {} } = context.record
  let wiki: string | undefined
  const within = (acrossWikis: boolean, id: string, text: string) => {
    if (acrossWikis) return bounded(`${id}\u001f${text}`)
    wiki ??= wikiName(message, directory)
    return bounded(`${id}\u001f${wiki}\u001f${text}`)
  }
  const standing: { -readonly [Part in keyof Standing]: Standing[Part] } = {}
  let note = (dedup ?? order) === undefined ? '' : 'no key'
  const text = (dedup ?? order)?.key(context) ?? ''
  if (text !== '') {
    note = ''
    if (dedup !== undefined)
      standing.key = { text: within(dedup.acrossWikis, dedup.id, text), turn: 'newest', windowMs: dedup.windowMs }
    else if (order !== undefined) standing.key = { text: within(false, order.id, text), turn: 'oldest', windowMs: 0 }
  }
  if (supersede !== undefined) {
    const signature = supersede.signature(context)
    const time = signature === '' ? Number.NaN : supersede.time(context)
    if (!Number.isNaN(time))
      standing.root = { signature: within(supersede.acrossWikis, supersede.id, signature), time: Math.floor(time) }
    else if (signature !== '') note = joined(note, 'supersede: no time that can be read')
  }
  return { standing: standing.key === undefined && standing.root === undefined ? undefined : standing, note }
}

/** The configured wiki that the event names, else the first name that it gives. */
function wikiName(message: JsonObject, directory: Directory): string {
  const root = directory.wikiOf(message)
  const known = root && directory.nameOf(root)
  if (known !== undefined) return known
  const names = [message.database, message.wiki_id, message.wiki, metaOf(message)?.domain]
  const name = names.find((value) => typeof value === 'string')
  return typeof name === 'string' ? name : ''
}

/** Of what there is to say of one delivery. */
export function joined(...notes: readonly string[]): string {
  return notes.filter(Boolean).join('; ')
}

/**
 * As a part of keys in tables. They give back neither NUL nor half a character as it was: a delivery would be found to have
 * another key each time its turn comes.
 */
export function bounded(text: string): string {
  const kept = keepable(text)
  return kept.length <= longestKey ? kept : `${keepable(kept.slice(0, 32))}\u001f${hash('sha256', kept, 'base64url')}`
}

function keepable(text: string): string {
  return text.replace(/[\0\p{Surrogate}]/gu, (unit) => JSON.stringify(unit).slice(1, -1))
}
