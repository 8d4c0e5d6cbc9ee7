import { Ajv, type ValidateFunction } from 'ajv'
import { checkDocument, type Document, type Path } from '../base/document.ts'
import type { Problem } from '../base/problem.ts'
import { suggest } from '../base/suggestion.ts'
import type { Json, JsonObject } from '../event/event.ts'
import { type Dialect, Findings } from './findings.ts'
import type { Hosts } from './hosts.ts'
import { inspectRequests } from './inspect-requests.ts'
import { isList, isMapping, mapping, member } from './json.ts'
import { idleExecKeys, idleKeys, laterKeys } from './later-keys.ts'
import { once } from './once.ts'
import { parseRule, type Surroundings } from './parse-rule.ts'
import type { Rule } from './rule.ts'
import { type RuleText, ruleNamePattern, ruleSchema, serviceRuleSchema } from './schema.ts'
import { findServiceRules } from './service-file.ts'

export interface ParsedRules {
  /** Those without an error. */
  readonly rules: readonly Rule[]
  readonly problems: readonly Problem[]
}

const defaultConcurrency = 50

/** Reads the rules of a document, ours or a whole service configuration of Wikimedia's, and says all that is wrong. Never throws. */
export function parseRules(document: Document, hosts: Hosts): ParsedRules {
  const value = jsonOf(document.value)
  const services = findServiceRules(value)
  if (services === undefined) return parseOwn(document, value, hosts)
  const findings = new Findings(document, 'service')
  if (services.length === 0) {
    findings.error(
      [],
      'expected rules in this service configuration, found none',
      'put them under templates of the module sys/kafka.js',
    )
  }
  const rules = services.flatMap(({ at, rules, optionsAt, options }) => {
    noteOptions(options, optionsAt, findings)
    const concurrency = Number(options.concurrency ?? defaultConcurrency)
    const fallback = Number.isInteger(concurrency) && concurrency > 0 ? concurrency : defaultConcurrency
    return parseAll(rules, at, document, findings, { file: document.file, hosts, concurrency: fallback })
  })
  return { rules, problems: findings.problems }
}

function parseOwn(document: Document, value: Json, hosts: Hosts): ParsedRules {
  const findings = new Findings(document, 'own')
  if (value === null) {
    findings.warn([], 'expected rules, found an empty file', 'add a rule, or remove the file')
    return { rules: [], problems: findings.problems }
  }
  if (!isMapping(value)) {
    findings.error(
      [],
      `expected a mapping from names to rules, found ${isList(value) ? 'a list' : JSON.stringify(value)}`,
      'begin with the name of a rule and a colon',
    )
    return { rules: [], problems: findings.problems }
  }
  const around = { file: document.file, hosts, concurrency: defaultConcurrency }
  return { rules: parseAll(value, [], document, findings, around), problems: findings.problems }
}

function parseAll(
  rules: JsonObject,
  at: Path,
  document: Document,
  findings: Findings,
  around: Omit<Surroundings, 'isWhole'>,
): readonly Rule[] {
  return Object.entries(rules).flatMap(([name, written]) => {
    const before = findings.problems.length
    const rule = parseOne(name, written, [...at, name], document, findings, around)
    const isBroken = findings.problems.slice(before).some(({ severity }) => severity === 'error')
    return rule === undefined || isBroken ? [] : [rule]
  })
}

function parseOne(
  name: string,
  written: Json,
  at: Path,
  document: Document,
  findings: Findings,
  around: Omit<Surroundings, 'isWhole'>,
): Rule | undefined {
  if (!new RegExp(ruleNamePattern).test(name)) {
    findings.error(
      at,
      `expected the name of a rule, found ${JSON.stringify(name)}`,
      'use up to 100 letters, digits, _ - . and :',
      'key',
    )
  }
  if (!isMapping(written)) {
    findings.error(
      at,
      `expected a rule, found ${isList(written) ? 'a list' : JSON.stringify(written)}`,
      'write at least topic and exec',
    )
    return undefined
  }
  noteKeys(written, at, findings)
  checkNumbers(written, at, findings)
  const { isWhole, usable } = check(written, at, document, findings)
  for (const [key, remedy] of [
    ['topic', 'add topic, the name of a stream'],
    ['exec', 'add exec, the request to make'],
  ] as const) {
    const others = key === 'topic' ? ['topic', 'topics'] : ['exec', 'cases']
    if (others.some((other) => member(written, other) !== undefined)) continue
    findings.error(at, `expected the key ${key}, found none`, remedy, 'key')
  }
  const rule = usable === undefined ? undefined : parseRule(name, usable, written, at, findings, { ...around, isWhole })
  if (!isWhole) inspectRequests(written, usable, at, findings, around.hosts)
  return isWhole ? rule : undefined
}

interface Checked {
  readonly isWhole: boolean
  /** The keys that have the right types, so that what is within them can be looked at too. */
  readonly usable: Partial<RuleText> | undefined
}

function check(written: JsonObject, at: Path, document: Document, findings: Findings): Checked {
  const { strict, lenient } = validators[findings.dialect]()
  if (strict(written)) return { isWhole: true, usable: written }
  const badKeys = new Set((strict.errors ?? []).map(({ instancePath }) => instancePath.split('/')[1] ?? ''))
  findings.problems.push(...checkDocument(document, strict, at))
  const known = Object.keys(findings.dialect === 'own' ? ruleSchema.properties : serviceRuleSchema.properties)
  const good = mapping(Object.entries(written).filter(([key]) => known.includes(key) && !badKeys.has(key)))
  return { isWhole: false, usable: lenient()(good) ? good : undefined }
}

interface Validators {
  readonly strict: ValidateFunction<RuleText>
  /** Compiled only for a rule that has problems. */
  readonly lenient: () => ValidateFunction<Partial<RuleText>>
}

/** Compiled when first needed: most processes never see a file of Wikimedia's. */
const validators: Readonly<Record<Dialect, () => Validators>> = {
  own: once(() => {
    const { properties } = ruleSchema
    // The parser speaks of these itself, better than "unknown key" would.
    const silent = Object.fromEntries([...Object.keys(laterKeys), ...Object.keys(idleKeys)].map((key) => [key, {}]))
    return compile({ ...ruleSchema, properties: { ...properties, ...silent } })
  }),
  service: once(() => {
    return compile(serviceRuleSchema)
  }),
}

function compile(schema: object): Validators {
  const ajv = new Ajv({ allErrors: true, strict: false })
  return {
    strict: ajv.compile<RuleText>(schema),
    lenient: once(() => ajv.compile<Partial<RuleText>>({ ...schema, required: [] })),
  }
}

/** Keys that do nothing, yet or ever. */
function noteKeys(rule: JsonObject, at: Path, findings: Findings): void {
  for (const key of Object.keys(rule)) {
    const lost = Object.hasOwn(laterKeys, key) ? laterKeys[key] : undefined
    const idle = Object.hasOwn(idleKeys, key) ? idleKeys[key] : undefined
    if (lost !== undefined) noteLater(key, lost, [...at, key], findings)
    else if (idle !== undefined) {
      findings.warn([...at, key], `expected a key with an effect, found ${key}: ${idle}`, 'leave it out', 'key')
    } else if (findings.dialect === 'service' && !Object.hasOwn(serviceRuleSchema.properties, key)) {
      noteUnknown(key, Object.keys(serviceRuleSchema.properties), [...at, key], findings)
    }
  }
  if (findings.dialect !== 'service') return
  const cases = isList(rule.cases) ? rule.cases : []
  noteExec(rule.exec, [...at, 'exec'], findings)
  cases.forEach((one, index) => {
    noteExec(member(one, 'exec'), [...at, 'cases', index, 'exec'], findings)
  })
}

function noteLater(key: string, lost: string, at: Path, findings: Findings): void {
  findings.objectTo(
    at,
    `expected a key that this version supports, found ${key}, which is not supported by this version yet: ${lost}`,
    'leave it out for now',
    'key',
  )
}

function noteUnknown(key: string, known: readonly string[], at: Path, findings: Findings): void {
  const meant = suggest(key, known)
  findings.warn(
    at,
    `expected a known key, found ${key}, which has no effect`,
    meant === undefined ? 'leave it out' : `did you mean ${meant}?`,
    'key',
  )
}

function noteExec(exec: Json | undefined, at: Path, findings: Findings): void {
  const known = ['method', 'uri', 'headers', 'query', 'body', 'timeout']
  for (const [index, request] of (isList(exec) ? exec : [exec]).entries()) {
    if (!isMapping(request)) continue
    for (const key of Object.keys(request)) {
      const place = isList(exec) ? [...at, index, key] : [...at, key]
      const idle = Object.hasOwn(idleExecKeys, key) ? idleExecKeys[key] : undefined
      if (idle !== undefined) {
        findings.warn(place, `expected a key with an effect, found ${key}: ${idle}`, 'leave it out', 'key')
      } else if (!known.includes(key)) noteUnknown(key, known, place, findings)
    }
  }
}

function noteOptions(options: JsonObject, at: Path, findings: Findings): void {
  if (isMapping(options.blacklist) && options.disable_blacklist !== true) {
    findings.warn(
      [...at, 'blacklist'],
      'expected no blacklist, found one: its pages are not left out',
      'exclude them by match_not',
      'key',
    )
  }
  const unread = Object.keys(options).filter(
    (key) => !['templates', 'concurrency', 'blacklist', 'disable_blacklist'].includes(key),
  )
  if (unread.length > 0) {
    findings.warn(
      at,
      `expected rules, found options that are not read: ${unread.join(', ')}`,
      'set what is needed in the configuration of changeprop',
      'key',
    )
  }
}

/** YAML can say .inf and .nan; JSON, in which events and bodies are written, cannot. */
function checkNumbers(value: Json, at: Path, findings: Findings): void {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    findings.error(at, `expected a number that JSON can say, found ${value}`, 'correct the value')
  } else if (isList(value)) value.forEach((item, index) => void checkNumbers(item, [...at, index], findings))
  else if (isMapping(value))
    for (const [key, inner] of Object.entries(value)) checkNumbers(inner, [...at, key], findings)
}

/** What `parseDocument` gives is JSON but for such numbers; this tells the compiler so. */
function jsonOf(value: unknown): Json {
  return isJson(value) ? value : null
}

function isJson(value: unknown): value is Json {
  if (Array.isArray(value)) return value.every(isJson)
  if (typeof value === 'object' && value !== null) return Object.values(value).every(isJson)
  return value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
}
