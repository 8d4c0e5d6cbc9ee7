import { createHash } from 'node:crypto'
import type { Path } from '../base/document.ts'
import { longestTimeoutMs } from '../base/units.ts'
import type { Json, JsonObject } from '../event/event.ts'
import { metaOf } from '../event/event.ts'
import { compileAnswers } from './answers-table.ts'
import { type Clause, compileClause } from './condition.ts'
import { compileSchemaTest } from './event-schema.ts'
import type { Findings } from './findings.ts'
import type { Hosts } from './hosts.ts'
import { canonical } from './json.ts'
import {
  lintCaptures,
  lintClauses,
  lintNames,
  lintReads,
  lintRetries,
  lintSchema,
  lintThrottle,
  lintTopics,
} from './lint.ts'
import { policiesOf } from './policies.ts'
import { compileRequest } from './request.ts'
import { durationAt, retryOf } from './retry.ts'
import type { Match, Reason, RequestTemplate, Rule } from './rule.ts'
import type { ExecText, RuleText } from './schema.ts'
import { compileTopics, type Topics } from './topic.ts'
import { TemplateCompiler } from './value.ts'

/** What the parser knows of the rule's surroundings. */
export interface Surroundings {
  readonly file: string
  readonly hosts: Hosts
  /** How many deliveries run at once where the rule does not say. */
  readonly concurrency: number
  /** False where some keys were unusable: what is odd about the others may be no more than that. */
  readonly isWhole: boolean
}

interface Case {
  readonly clause: Clause
  readonly requests: readonly RequestTemplate[]
}

const defaultTimeoutMs = 420_000

/**
 * Compiles a rule whose keys have the right types. Goes on after a problem, to find the others; undefined where nothing can
 * be done with the rule, which the findings say.
 */
export function parseRule(
  name: string,
  text: Partial<RuleText>,
  written: JsonObject,
  at: Path,
  findings: Findings,
  around: Surroundings,
): Rule | undefined {
  const topics = topicsOf(text, at, findings, around)
  const concurrency = concurrencyOf(text, at, findings, around.concurrency)
  const {
    policies: { samples, ...policies },
    normalised: policyValues,
    templates,
  } = policiesOf(text, at, findings, { own: concurrency, usual: around.concurrency })
  const cases = casesOf(text, at, findings, around, templates)
  lintSchema(text.schema, at, findings)
  const answers = compileAnswers({ answers: text.answers, ignore: text.ignore, retryOn: text.retry_on }, at, findings)
  const retry = retryOf(text, at, findings)
  if (around.isWhole) {
    lintThrottle(text, policies.throttle, at, findings)
    lintRetries(text, retry, policies.expire, at, findings)
  }
  const discardsCanary = text.discard_canary_events ?? true
  if (topics === undefined || cases === undefined) return undefined
  const normalised = { ...written, retry: policyText(retry), discardsCanary, policies: policyValues }
  const judgement = matching(text.schema, discardsCanary, cases, topics, text.cases !== undefined)
  return {
    name,
    revision: createHash('sha256').update(canonical(normalised)).digest('hex').slice(0, 12),
    file: around.file,
    line: findings.line(at),
    topics: topics.written,
    concernsTopic: (topic) => topics.compiled.concerns(topic),
    ...judgement,
    answers,
    retry,
    ...policies,
    sample: sampleOf(samples, judgement.match),
    written,
  }
}

/** Cases of Wikimedia's rules may have shares of their own. */
function sampleOf(samples: readonly Rule['sample'][], match: Rule['match']): Rule['sample'] {
  const [first] = samples
  if (samples.every((sample) => sample === first)) return first
  return (context) => {
    const index = match(context.record.message ?? {})?.case ?? 0
    return samples[index]?.(context) ?? true
  }
}

function policyText(retry: Rule['retry']): Json {
  return retry === 'never' ? retry : { ...retry }
}

function topicsOf(
  text: Partial<RuleText>,
  at: Path,
  findings: Findings,
  { isWhole }: Surroundings,
): { written: readonly string[]; compiled: Topics } | undefined {
  const key = text.topics === undefined ? 'topic' : 'topics'
  if (text.topic !== undefined && text.topics !== undefined) {
    findings.error([...at, 'topics'], 'expected topic or topics, found both', 'put all of them under topics', 'key')
  }
  type Key = 'topic' | 'topics' | 'exclude_topics'
  const entriesOf = (key: Key) => [text[key] ?? []].flat()
  const place = (key: Key) => (index: number) => (Array.isArray(text[key]) ? [...at, key, index] : [...at, key])
  const compile = (key: Key, excluded?: Topics, isAgain = false) =>
    compileTopics(
      entriesOf(key),
      (index, { message, remedy }) => {
        if (!isAgain) findings.error(place(key)(index), message, remedy)
      },
      excluded,
    )
  const excluded = compile('exclude_topics')
  const written = entriesOf(key)
  const compiled = compile(key, excluded)
  if (written.length === 0) return undefined
  if (isWhole) {
    for (const one of [key, 'exclude_topics'] as const) lintNames(entriesOf(one), place(one), findings)
    lintTopics(written, excluded, compile(key, undefined, true), at, findings)
  }
  return { written, compiled }
}

function casesOf(
  text: Partial<RuleText>,
  at: Path,
  findings: Findings,
  { hosts, isWhole }: Surroundings,
  ofPolicies: TemplateCompiler,
): readonly Case[] | undefined {
  const list: readonly { at: Path; text: Partial<Pick<RuleText, 'match' | 'match_not' | 'exec'>> }[] =
    text.cases === undefined
      ? [{ at, text }]
      : text.cases.map((one, index) => ({ at: [...at, 'cases', index], text: one }))
  if (isWhole) {
    lintClauses(text, list, at, findings)
    lintReads(
      list.map(({ text }) => text.match),
      ofPolicies.expressions,
      findings,
    )
  }
  const cases = list.map(({ at, text }) => {
    const report = (inner: Path, { message, remedy }: { message: string; remedy: string }) =>
      findings.error([...at, ...inner], message, remedy)
    const clause = compileClause(text.match, text.match_not, report)
    const templates = new TemplateCompiler(findings)
    const requests = text.exec === undefined ? undefined : requestsOf(text.exec, [...at, 'exec'], hosts, templates)
    if (isWhole && text.exec !== undefined) {
      lintReads([text.match], templates.expressions, findings)
      if (!templates.hasFailed && !ofPolicies.hasFailed)
        lintCaptures(text.match, [...templates.expressions, ...ofPolicies.expressions], at, findings)
    }
    return requests === undefined ? undefined : { clause, requests }
  })
  const whole = cases.filter((one) => one !== undefined)
  return whole.length === cases.length ? whole : undefined
}

function requestsOf(
  exec: ExecText,
  at: Path,
  hosts: Hosts,
  templates: TemplateCompiler,
): readonly RequestTemplate[] | undefined {
  const isList = Array.isArray(exec)
  const list = isList ? exec : [exec]
  const requests = list.map((request, index) => {
    const place = isList ? [...at, index] : at
    const { method, uri, headers, query, body, timeout } = request
    const timeoutMs =
      typeof timeout === 'string'
        ? durationAt(timeout, [...place, 'timeout'], templates.findings)
        : // Zero means the default in Wikimedia's files.
          timeout || defaultTimeoutMs
    if (timeoutMs === 0 || (timeoutMs ?? 0) > longestTimeoutMs)
      templates.findings.error(
        [...place, 'timeout'],
        `expected a timeout above 0 and at most 1d, found ${JSON.stringify(timeout)}`,
        'write for instance 30s',
      )
    return compileRequest({ method, uri, headers, query, body, timeoutMs }, place, hosts, templates)
  })
  const whole = requests.filter((request) => request !== undefined)
  return whole.length === requests.length ? whole : undefined
}

function concurrencyOf(text: Partial<RuleText>, at: Path, findings: Findings, fallback: number): number {
  const own = text.throttle?.concurrency
  if (own !== undefined && text.concurrency !== undefined) {
    findings.error(
      [...at, 'concurrency'],
      'expected concurrency or throttle.concurrency, found both',
      'keep one of them',
      'key',
    )
  }
  return own ?? (text.concurrency === undefined ? fallback : Number(text.concurrency))
}

/** `match` is asked of each event: no garbage where it says no, and the same answer each time where nothing was captured. */
function matching(
  schema: string | undefined,
  discardsCanary: boolean,
  cases: readonly Case[],
  topics: { readonly written: readonly string[]; readonly compiled: Topics },
  hasCases: boolean,
): Pick<Rule, 'match' | 'explain'> {
  const fitsSchema = schema === undefined ? undefined : compileSchemaTest(schema)
  const judges = cases.map(({ clause, requests }, index) => ({
    clause,
    test: clause.test,
    answer: answering(clause, requests, hasCases ? index : null),
  }))
  const isCanary = (message: JsonObject) => discardsCanary && metaOf(message)?.domain === 'canary'
  // Asked last: rules of one topic mostly want the same schema, and few events are canaries.
  const answers = (message: JsonObject) => {
    if (isCanary(message)) return false
    const found = message.$schema
    return fitsSchema === undefined || (typeof found === 'string' && fitsSchema(found))
  }
  return {
    match(message) {
      for (const judge of judges) if (judge.test(message)) return answers(message) ? judge.answer(message) : undefined
      return undefined
    },
    explain(topic, message): Reason | undefined {
      if (!topics.compiled.concerns(topic)) {
        const [only] = topics.written
        const wanted = topics.written.length === 1 && only !== undefined ? only : topics.written
        return { clause: 'topic', path: 'meta.stream', wanted, found: topic }
      }
      const found = message.$schema
      if (fitsSchema !== undefined && schema !== undefined && (typeof found !== 'string' || !fitsSchema(found))) {
        const reason = { clause: 'schema' as const, path: '$schema', wanted: schema }
        return found === undefined ? reason : { ...reason, found }
      }
      if (isCanary(message)) {
        return { clause: 'canary', path: 'meta.domain', wanted: 'anything but canary', found: 'canary' }
      }
      const reasons = judges.map(({ clause }) => clause.explain(message))
      return reasons.includes(undefined) ? undefined : reasons[0]
    },
  }
}

function answering(
  clause: Clause,
  requests: readonly RequestTemplate[],
  index: number | null,
): (message: JsonObject) => Match {
  let last: Match | undefined
  return (message) => {
    const captures = clause.captures(message)
    if (last?.captures === captures) return last
    last = { case: index, captures, requests }
    return last
  }
}
