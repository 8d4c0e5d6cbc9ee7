import type { ReasonView } from '../api/contract.ts'
import { viewReason } from '../api/view.ts'
import { hasErrors, inReadingOrder } from '../base/problem.ts'
import { isSecretName, withoutSecretFields, withoutSecretMembers, withoutSecretQuery } from '../base/secret-name.ts'
import { contextOf } from '../engine/gates.ts'
import type { JsonObject, StreamRecord } from '../event/event.ts'
import { createDirectory } from '../mediawiki/directory.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import { loadRules } from '../rule/load.ts'
import { type RequestTemplate, type Rule, type TemplateContext, TemplateError } from '../rule/rule.ts'
import { meaningOf } from '../store/reasons.ts'
import { readConfiguration } from './configuration.ts'
import { readEvents } from './event-file.ts'
import { askGates, describeGate, type GateView, isEnd } from './gates.ts'
import { type Format, type Io, writeJson, writeProblems } from './io.ts'
import { isJson } from './json-flaw.ts'
import { describeReason } from './reason.ts'

export interface TryOptions {
  readonly event: string
  readonly rules?: readonly string[] | undefined
  readonly config?: string | undefined
  readonly format: Format
}

/** A request as it would be sent, or why it could not be. */
export type TriedRequest =
  | {
      readonly method: string
      readonly uri: string
      readonly headers: Readonly<Record<string, string>>
      readonly body?: string
    }
  | { readonly error: TemplateError['reason'] | 'host_not_allowed'; readonly message: string }

export interface Trial {
  /** Which event, from 0; only where several were given. */
  readonly event?: number
  readonly rule: string
  readonly matched: boolean
  readonly case: number | null
  readonly reason: ReasonView | null
  readonly captures: JsonObject
  /** What is asked of an event that matches; the last may say that it is never called. */
  readonly gates: readonly GateView[]
  readonly requests: readonly TriedRequest[]
}

const formType = 'application/x-www-form-urlencoded'

export async function tryRules(options: TryOptions, io: Io): Promise<number> {
  const { config, problems } = await readConfiguration(options.config, { rules: options.rules }, io)
  writeProblems(io, problems)
  if (config === undefined) return 1
  const loaded = await loadRules(config.rules, config)
  writeProblems(io, inReadingOrder(loaded.problems))
  if (loaded.rules === undefined) return 1
  const { rules } = loaded.rules

  const { records, several, problems: flaws } = await readEvents(options.event, io)
  writeProblems(io, flaws)
  if (hasErrors(flaws)) return 1
  const directory = createDirectory(config)
  const trials = records.flatMap((record, event) =>
    rules.map((rule) => ({ ...(several ? { event } : {}), ...tryRule(rule, record, directory) })),
  )
  if (options.format === 'json') writeJson(io, trials)
  else io.stdout.write(trials.map(describeTrial).join(''))
  return 0
}

function tryRule(rule: Rule, record: StreamRecord, directory: Directory): Trial {
  const message = record.message ?? {}
  const objection = rule.explain(record.stream, message)
  const match = objection === undefined ? rule.match(message) : undefined
  if (match === undefined) {
    const reason = objection === undefined ? null : viewReason(objection)
    return { rule: rule.name, matched: false, case: null, reason, captures: {}, gates: [], requests: [] }
  }
  const { captures } = match
  const context = contextOf(record, match, directory)
  const gates = askGates(rule, context, directory)
  const requests = match.requests.map((template) => tryRequest(template, context, directory))
  return { rule: rule.name, matched: true, case: match.case, reason: null, captures, gates, requests }
}

function tryRequest(template: RequestTemplate, context: TemplateContext, directory: Directory): TriedRequest {
  try {
    const { method, origin, path, headers, body } = template.render(context)
    const target = directory.resolve(origin, path, context.wiki(), template.literalOrigin === origin)
    const uri = `${origin}${withoutSecretQuery(path)}`
    if (target === undefined) {
      return { error: 'host_not_allowed', message: `no wiki or target of the configuration covers ${uri}` }
    }
    return {
      method: method.toUpperCase(),
      uri,
      headers: masked({ ...headers, ...target.headers }),
      ...(body === null ? {} : { body: shownBody(body, headers['content-type']) }),
    }
  } catch (error) {
    if (error instanceof TemplateError) return { error: error.reason, message: error.message }
    throw error
  }
}

function masked(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.toLowerCase(), isSecretName(name) ? '***' : value]),
  )
}

function shownBody(body: Uint8Array | string, contentType = formType): string {
  const text = typeof body === 'string' ? body : Buffer.from(body).toString('utf8')
  if (isJson(text)) return withoutSecretMembers(text)
  return contentType.toLowerCase().startsWith(formType) ? withoutSecretFields(text) : text
}

function describeTrial(trial: Trial): string {
  const label = `${trial.event === undefined ? '' : `event ${trial.event}: `}${trial.rule}`
  if (!trial.matched) return `${label}: no${trial.reason === null ? '' : `, ${describeReason(trial.reason)}`}\n`
  const lines = [`${label}: yes${trial.case === null ? '' : `, case ${trial.case}`}${describeEnd(trial)}`]
  if (Object.keys(trial.captures).length > 0) lines.push(`  captures ${JSON.stringify(trial.captures)}`)
  lines.push(...trial.gates.map((gate) => `  ${describeGate(gate)}`))
  for (const request of trial.requests) {
    if ('error' in request) lines.push(`  cannot be sent (${request.error}): ${request.message}`)
    else {
      lines.push(
        `  ${request.method} ${request.uri}`,
        ...Object.entries(request.headers).map(([name, value]) => `    ${name}: ${value}`),
      )
      if (request.body !== undefined) lines.push('', ...request.body.split('\n').map((line) => `    ${line}`), '')
    }
  }
  return `${lines.join('\n')}\n`
}

/** Of what is never called, for a gate or because its first request cannot be made. */
function describeEnd({ gates, requests: [first] }: Trial): string {
  const unsent = first !== undefined && 'error' in first ? { verdict: 'dead', reason: first.error } : undefined
  const { verdict, reason } = gates.find(isEnd) ?? unsent ?? {}
  if (verdict === undefined || reason === undefined) return ''
  return `, but never called, ${verdict} (${reason}): ${meaningOf(verdict, reason)}`
}
