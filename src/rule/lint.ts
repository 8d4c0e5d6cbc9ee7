import type { Path } from '../base/document.ts'
import { formatDuration } from '../base/units.ts'
import type { Json } from '../event/event.ts'
import { checkCommonFields } from '../stream/common-fields.ts'
import { namesVersions } from './event-schema.ts'
import type { Expression } from './expression.ts'
import type { Findings } from './findings.ts'
import { isList, member } from './json.ts'
import { capturePaths, implies } from './match.ts'
import { readsAsRegex } from './regex.ts'
import type { Expire, RetryPolicy, Throttle } from './rule.ts'
import type { RuleText } from './schema.ts'
import type { Topics } from './topic.ts'

/*
 * What is allowed, but can hardly be meant. Each finding is certain: a warning that cries wolf is soon not read.
 */

type Clauses = Partial<Pick<RuleText, 'match' | 'match_not' | 'exec'>>

/** Names that no event can have, mostly regexes that do not read as such. */
export function lintNames(topics: readonly string[], place: (index: number) => Path, findings: Findings): void {
  topics.forEach((topic, index) => {
    if (readsAsRegex(topic) || isStreamName(topic)) return
    findings.warn(
      place(index),
      `expected the name of a stream, or a /regex/, found ${JSON.stringify(topic)}: no stream has such a name`,
      'use up to 200 letters, digits, _ - and .; a regex begins and ends with /, maybe with some of the flags gimuy behind it',
    )
  })
}

/** The intake's own judgement. */
function isStreamName(name: string): boolean {
  return checkCommonFields({ $schema: '/any/1.0.0', meta: { stream: name } }).kind === 'admitted'
}

export function lintTopics(
  written: readonly string[],
  excluded: Topics,
  included: Topics,
  at: Path,
  findings: Findings,
): void {
  for (const name of excluded.names) {
    if (included.concerns(name) || !isStreamName(name)) continue
    findings.warn([...at, 'exclude_topics'], `expected a stream that the rule concerns, found ${name}`, 'remove it')
  }
  const names = written.filter((topic) => !readsAsRegex(topic))
  if (names.length === written.length && names.every((name) => excluded.concerns(name))) {
    findings.warn(
      [...at, 'exclude_topics'],
      'expected the rule to concern a stream, found all of them excluded',
      'exclude fewer',
    )
  }
}

export function lintSchema(wanted: string | undefined, at: Path, findings: Findings): void {
  if (wanted === undefined) return
  const place = [...at, 'schema']
  const found = JSON.stringify(wanted)
  const remedy = 'write for instance /mediawiki/page/change/^1.0.0'
  if (!wanted.startsWith('/')) {
    findings.warn(place, `expected a path that begins with a slash, found ${found}: the rule can never match`, remedy)
  } else if (!namesVersions(wanted)) {
    const message = `expected a version, or a semver range, at the end of the path, found ${found}: no version of the schema fits`
    findings.warn(place, message, remedy)
  }
}

export function lintClauses(
  rule: Partial<RuleText>,
  cases: readonly { readonly at: Path; readonly text: Clauses }[],
  at: Path,
  findings: Findings,
): void {
  if (rule.cases !== undefined) {
    for (const key of ['match', 'match_not', 'exec'] as const) {
      if (rule[key] === undefined) continue
      findings.objectTo(
        [...at, key],
        `expected ${key} within the cases only, found it beside them`,
        'move it into the cases',
        'key',
      )
    }
  }
  const discardsCanary = rule.discard_canary_events ?? true
  let open = -1
  cases.forEach(({ at, text }, index) => {
    if (open >= 0) {
      findings.warn(
        at,
        `expected a case that can be reached, found one after case ${open}, which always fits`,
        'remove it',
      )
    }
    const wanted = itemsOf(text.match)
    const unwanted = itemsOf(text.match_not)
    if (open < 0 && unwanted.length === 0 && (text.match === undefined || wanted.some((item) => implies({}, item))))
      open = index
    const hit = unwanted.findIndex((item) => (wanted.length === 0 ? [{}] : wanted).every((own) => implies(own, item)))
    if (hit >= 0) {
      const path = isList(text.match_not) ? [...at, 'match_not', hit] : [...at, 'match_not']
      findings.warn(
        path,
        'expected events that fit match to be left, found all of them excluded: the rule can never match',
        'make it narrower',
      )
    }
    const onlyCanary = wanted.length > 0 && wanted.every((item) => member(member(item, 'meta'), 'domain') === 'canary')
    if (discardsCanary && onlyCanary) {
      findings.warn(
        [...at, 'match'],
        'expected events other than canary ones, which are passed over: the rule can never match',
        'add discard_canary_events: false',
      )
    }
  })
}

interface Used {
  readonly at: Path
  readonly expression: Expression
}

/** Templates that use what none of these patterns captures. */
export function lintReads(matches: readonly (Json | undefined)[], used: readonly Used[], findings: Findings): void {
  const captured = matches.flatMap(itemsOf).flatMap((item) => capturePaths(item))
  for (const { at, text, path } of readsOf(used)) {
    const isCaptured = captured.some(({ path: own, names, isNumbered }) => {
      if (own.slice(0, path.length).join('\0') !== path.slice(0, own.length).join('\0')) return false
      const [below, ...more] = path.slice(own.length)
      return (
        below === undefined || (more.length === 0 && (names.includes(below) || (isNumbered && /^\d+$/.test(below))))
      )
    })
    if (isCaptured) continue
    findings.objectTo(
      at,
      `expected something that match captures, found ${text}`,
      'correct the path, or name a group in match',
    )
  }
}

/** Named groups that no template uses. */
export function lintCaptures(match: Json | undefined, used: readonly Used[], at: Path, findings: Findings): void {
  const reads = readsOf(used)
  for (const { path, names } of itemsOf(match).flatMap((item) => capturePaths(item))) {
    for (const name of names) {
      const whole = [...path, name].join('\0')
      if (reads.some((read) => whole.startsWith(read.path.join('\0')))) continue
      findings.warn(
        [...at, 'match'],
        `expected a template that uses the group ${name} of ${path.join('.')}, found none`,
        'write (?:…) where nothing is captured',
      )
    }
  }
}

/** What each key may have, and all keys together may not. */
export function lintThrottle(text: Partial<RuleText>, { total, perKey }: Throttle, at: Path, findings: Findings): void {
  const { throttle } = text
  if (throttle?.key === undefined) return
  const warn = (place: Path, own: string | number, whole: string | number) =>
    findings.warn(
      [...at, ...place],
      `expected ${place.join('.')} not to be above that of total, found ${own} and ${whole}`,
      'total bounds all keys together: lower the one or raise the other',
    )
  const concurrency = throttle.concurrency ?? text.concurrency
  if (concurrency !== undefined && perKey.concurrency > total.concurrency) {
    const place = throttle.concurrency === undefined ? ['concurrency'] : ['throttle', 'concurrency']
    const whole = throttle.total?.concurrency ?? `${total.concurrency} (the default)`
    warn(place, concurrency, whole)
  }
  if (throttle.rate !== undefined && throttle.total?.rate !== undefined && perKey.perSecond > total.perSecond)
    warn(['throttle', 'rate'], throttle.rate, throttle.total.rate)
}

/** Retries that come too late to be made. */
export function lintRetries(
  { retry: text, expire: age }: Partial<RuleText>,
  retry: RetryPolicy | 'never',
  expire: Expire | undefined,
  at: Path,
  findings: Findings,
): void {
  if (retry === 'never' || retry.limit === 0) return
  const { limit, maxAgeMs, maxDelayMs } = retry
  const delayMs = Math.min(retry.delayMs, maxDelayMs)
  const delay = formatDuration(delayMs)
  if (typeof text === 'object' && limit > 1 && maxAgeMs > 0 && maxAgeMs < delayMs) {
    findings.warn(
      [...at, 'retry', text.max_age === undefined ? 'delay' : 'max_age'],
      `expected retry.max_age not to be shorter than retry.delay, found ${formatDuration(maxAgeMs)} and ${delay}`,
      'the first retry may be the last; lengthen max_age or shorten delay',
    )
  }
  if (expire !== undefined && expire.ageMs < delayMs) {
    const place = age === undefined ? ['claim_ttl'] : typeof age === 'string' ? ['expire'] : ['expire', 'age']
    findings.warn(
      [...at, ...place],
      `expected expire not to be shorter than retry.delay, found ${formatDuration(expire.ageMs)} and ${delay}`,
      'what fails may expire before its first retry; lengthen expire or shorten retry.delay',
    )
  }
}

function readsOf(used: readonly Used[]): readonly { at: Path; text: string; path: readonly string[] }[] {
  return used.flatMap(({ at, expression }) =>
    expression.reads
      .filter(([root]) => root === 'match')
      .map((read) => ({ at, text: expression.text, path: read.slice(1).map(String) })),
  )
}

function itemsOf(pattern: Json | undefined): readonly Json[] {
  if (pattern === undefined) return []
  return isList(pattern) ? pattern : [pattern]
}
