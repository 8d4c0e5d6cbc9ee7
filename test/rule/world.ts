import { parseDocument } from '../../src/base/document.ts'
import { formatProblem, type Problem } from '../../src/base/problem.ts'
import type { JsonObject, StreamRecord } from '../../src/event/event.ts'
import type { OutboundRequest } from '../../src/http/send.ts'
import type { Hosts } from '../../src/rule/hosts.ts'
import { parseRules } from '../../src/rule/parse.ts'
import type { Rule, TemplateContext, WikiRoot } from '../../src/rule/rule.ts'

export const noHosts: Hosts = { wikis: [], targets: {} }

export function parse(text: string, hosts: Hosts = noHosts): { rules: readonly Rule[]; problems: readonly Problem[] } {
  const { document, problems } = parseDocument('rules.yaml', text)
  if (document === undefined) return { rules: [], problems }
  const parsed = parseRules(document, hosts)
  return { rules: parsed.rules, problems: [...problems, ...parsed.problems] }
}

/** The one rule of a text in which there must be no error. */
export function ruleOf(text: string, hosts: Hosts = noHosts): Rule {
  const { rules, problems } = parse(text, hosts)
  const [rule] = rules
  const errors = problems.filter(({ severity }) => severity === 'error')
  if (rule === undefined || errors.length > 0) throw new Error(problems.map(formatProblem).join('\n'))
  return rule
}

/** A small rule with these keys; null takes away one that it would have. */
export function ruleWith(keys: JsonObject, hosts: Hosts = noHosts): Rule {
  return ruleOf(textWith(keys), hosts)
}

/** Problems of such a rule, in words. */
export function problemsWith(keys: JsonObject, hosts: Hosts = noHosts): readonly string[] {
  return parse(textWith(keys), hosts).problems.map(formatProblem)
}

/** JSON is YAML too. */
function textWith(keys: JsonObject): string {
  const all = Object.entries({ topic: 'page', exec: { uri: 'http://a.example/' }, ...keys })
  return JSON.stringify({ rule: Object.fromEntries(all.filter(([, value]) => value !== null)) })
}

export function recordOf(message: JsonObject, bytes = Buffer.from(JSON.stringify(message))): StreamRecord {
  return { id: 'ours', stream: 'page', accepted: 0, bytes, message }
}

export interface Surroundings {
  readonly wiki?: WikiRoot
  readonly targets?: Readonly<Record<string, string>>
}

export function contextOf(rule: Rule, record: StreamRecord, around: Surroundings = {}): TemplateContext {
  const captures = record.message === undefined ? undefined : rule.match(record.message)?.captures
  return {
    record,
    captures: captures ?? {},
    wiki: () => around.wiki,
    target: (name) => around.targets?.[name],
  }
}

/** What the rule would send for an event that it matches. */
export function requestsOf(rule: Rule, record: StreamRecord, around: Surroundings = {}): readonly OutboundRequest[] {
  const match = record.message === undefined ? undefined : rule.match(record.message)
  if (match === undefined) throw new Error(`${rule.name} does not match`)
  return match.requests.map((request) => request.render(contextOf(rule, record, around)))
}

/** The only request of a rule with this `exec`. */
export function requestOf(
  exec: JsonObject,
  message: JsonObject,
  options: { keys?: JsonObject; hosts?: Hosts } & Surroundings = {},
): OutboundRequest {
  const rule = ruleWith({ exec: { uri: 'http://a.example/', ...exec }, ...options.keys }, options.hosts)
  const [request] = requestsOf(rule, recordOf(message), options)
  if (request === undefined) throw new Error('the rule has no request')
  return request
}

export function bodyText(request: OutboundRequest): string | null {
  return request.body === null || typeof request.body === 'string' ? request.body : Buffer.from(request.body).toString()
}
