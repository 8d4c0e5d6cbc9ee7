import { hash } from 'node:crypto'
import type { Path } from '../base/document.ts'
import { betterRate, durationPattern, formatDuration, parseRate } from '../base/units.ts'
import type { Json } from '../event/event.ts'
import type { Findings } from './findings.ts'
import { member } from './json.ts'
import { murmur3 } from './murmur.ts'
import { percentEncode } from './percent.ts'
import { impliedKeys, policyTexts } from './policy-texts.ts'
import { durationAt } from './retry.ts'
import {
  type Dedup,
  type Expire,
  type KeyTemplate,
  type Limits,
  type Order,
  type Rule,
  type Supersede,
  type TemplateContext,
  TemplateError,
  type Throttle,
} from './rule.ts'
import type { RuleText, SampleText } from './schema.ts'
import { isSlot, type Part, textOf } from './template.ts'
import { TemplateCompiler } from './value.ts'

export interface Policies
  extends Pick<Rule, 'throttle' | 'dueAt' | 'dedup' | 'supersede' | 'order' | 'expire' | 'policyTexts'> {
  /** By case; a rule without cases is one. Undefined where all events are taken. */
  readonly samples: readonly Rule['sample'][]
}

interface Compiled {
  readonly policies: Policies
  readonly normalised: Json
  /** Of keys and instants. */
  readonly templates: TemplateCompiler
}

const jobPath = '/eventbus/v0/internal/job/execute'
const unlimited = Number.POSITIVE_INFINITY
const latestMs = Date.UTC(9999, 11, 31)

/** Compiles all that a rule says of when, how often and whether at all. `usual`: where no key says how many at once. */
export function policiesOf(
  text: Partial<RuleText>,
  at: Path,
  findings: Findings,
  concurrency: { readonly own: number; readonly usual: number },
): Compiled {
  return new PolicyCompiler(text, at, findings).compile(concurrency)
}

class PolicyCompiler {
  readonly #text: Partial<RuleText>
  readonly #at: Path
  readonly #findings: Findings
  readonly #templates: TemplateCompiler

  constructor(text: Partial<RuleText>, at: Path, findings: Findings) {
    this.#text = text
    this.#at = at
    this.#findings = findings
    this.#templates = new TemplateCompiler(findings)
  }

  compile(concurrency: { readonly own: number; readonly usual: number }): Compiled {
    const isJob = readsJobs(this.#text)
    const order = this.#order()
    const dedup = this.#dedup(isJob && order === undefined)
    const supersede = this.#supersede(isJob)
    const delay = this.#delay()
    const expire = this.#expire(delay.constantMs)
    const throttle = this.#throttle(concurrency)
    this.#compare(dedup?.windowMs ?? 0, expire?.ageMs ?? unlimited)
    return {
      policies: {
        throttle,
        dueAt: delay.dueAt,
        dedup,
        supersede,
        // With dedup on the same key, one call of it runs at a time anyway.
        order: dedup === undefined ? order : undefined,
        expire,
        samples: this.#samples(),
        policyTexts: policyTexts(this.#text, { throttle, dedup, supersede, expire }),
      },
      // What is written is in the revision already; these are the values that nobody wrote.
      normalised: {
        throttle: [throttle.total, throttle.perKey].map(limitsText),
        implied: { dedup: isJob && dedup !== undefined, supersede: isJob && supersede !== undefined },
      },
      templates: this.#templates,
    }
  }

  #throttle(concurrency: { readonly own: number; readonly usual: number }): Throttle {
    const { throttle } = this.#text
    const own = this.#limits(throttle, ['throttle'], concurrency.own)
    if (throttle?.key === undefined) {
      if (throttle?.total !== undefined) {
        this.#error(
          ['throttle', 'total'],
          'expected throttle.key beside total, found none',
          'add key, or put the limits directly under throttle',
          'key',
        )
      }
      return { total: own, key: undefined, perKey: noLimits }
    }
    return {
      total: this.#limits(throttle.total, ['throttle', 'total'], concurrency.usual),
      key: this.#key(throttle.key, ['throttle', 'key']),
      perKey: own,
    }
  }

  #limits(
    text: { concurrency?: number; rate?: string; burst?: number } | undefined,
    at: Path,
    concurrency: number,
  ): Limits {
    const { rate, burst } = text ?? {}
    if (rate === undefined) {
      if (burst !== undefined) {
        this.#error([...at, 'burst'], 'expected rate beside burst, found none', 'add rate, or leave burst out', 'key')
      }
      return { ...noLimits, concurrency: text?.concurrency ?? concurrency }
    }
    const better = betterRate(rate)
    if (better !== undefined) {
      this.#error([...at, 'rate'], `expected ${better}, found ${rate}`, 'write for instance 50/s')
    }
    const perSecond = parseRate(rate) ?? unlimited
    return {
      concurrency: text?.concurrency ?? concurrency,
      perSecond,
      burst: burst ?? Math.max(1, Math.floor(perSecond)),
    }
  }

  #dedup(isImplied: boolean): Dedup | undefined {
    const { dedup } = this.#text
    if (dedup === false || (dedup === undefined && !isImplied)) return undefined
    const parts = dedup === undefined ? this.#implied(impliedKeys.dedup) : this.#parts(dedup.key, ['dedup', 'key'])
    const named = { id: idOf('dedup', parts), key: compileKey(parts) }
    if (dedup === undefined) return { ...named, windowMs: 0, acrossWikis: false }
    return {
      ...named,
      windowMs: dedup.window === undefined ? 0 : this.#duration(dedup.window, ['dedup', 'window']),
      acrossWikis: dedup.across_wikis ?? false,
    }
  }

  #supersede(isImplied: boolean): Supersede | undefined {
    const { supersede } = this.#text
    if (supersede === false || (supersede === undefined && !isImplied)) return undefined
    if (supersede === undefined) {
      const { signature, time } = impliedKeys
      return supersedeBy(this.#implied(signature), this.#implied(time), false)
    }
    const signature = this.#parts(supersede.signature, ['supersede', 'signature'])
    const time = this.#parts(supersede.time, ['supersede', 'time'])
    return supersedeBy(signature, time, supersede.across_wikis ?? false)
  }

  #order(): Order | undefined {
    const { order } = this.#text
    if (order === undefined) return undefined
    const parts = this.#parts(order.key, ['order', 'key'])
    return { id: idOf('order', parts), key: compileKey(parts) }
  }

  #delay(): { readonly constantMs: number; readonly dueAt: Rule['dueAt'] } {
    const { delay } = this.#text
    if (delay === undefined) return { constantMs: 0, dueAt: delayUntil }
    if (delay.includes('{')) {
      const instant = this.#key(delay, ['delay'])
      const dueAt = (context: TemplateContext) => {
        const said = instant(context)
        return said === '' ? 0 : instantOf(said)
      }
      return { constantMs: 0, dueAt }
    }
    if (!new RegExp(durationPattern).test(delay)) {
      this.#error(
        ['delay'],
        `expected a duration such as 2s, or a template that names an instant, found ${JSON.stringify(delay)}`,
        'write for instance 2s, or {{message.delay_until}}',
      )
      return { constantMs: 0, dueAt: delayUntil }
    }
    const constantMs = this.#duration(delay, ['delay'])
    return { constantMs, dueAt: (_, eventTime) => eventTime() + constantMs }
  }

  #expire(delayMs: number): Expire | undefined {
    const { expire, claim_ttl: claimTtl, root_claim_ttl: rootClaimTtl } = this.#text
    if (expire === undefined && claimTtl === undefined && rootClaimTtl === undefined) return undefined
    if (expire !== undefined && (claimTtl ?? rootClaimTtl) !== undefined) {
      this.#error(['expire'], 'expected expire or Wikimedia’s claim_ttl, found both', 'keep one of them', 'key')
    }
    const { age, root_age: rootAge } =
      typeof expire === 'string' ? { age: expire, root_age: undefined } : (expire ?? {})
    const place = (key: string) => (typeof expire === 'string' ? ['expire'] : ['expire', key])
    const agePlace = claimTtl === undefined ? place('age') : ['claim_ttl']
    const ageMs = age === undefined ? seconds(claimTtl) : this.#duration(age, place('age'))
    const rootAgeMs = rootAge === undefined ? seconds(rootClaimTtl) : this.#duration(rootAge, place('root_age'))
    if (ageMs <= delayMs) {
      this.#error(
        agePlace,
        `expected expire to be longer than delay, found ${formatDuration(ageMs)} and ${formatDuration(delayMs)}`,
        'nothing would ever be called; lengthen expire or shorten delay',
      )
    }
    if (rootAgeMs < 1_000) {
      this.#error(
        rootAge === undefined ? ['root_claim_ttl'] : place('root_age'),
        `expected at least 1s, found ${rootAge ?? formatDuration(rootAgeMs)}`,
        'hardly anything with a root_event would be called; lengthen it',
      )
    }
    return { ageMs, rootAgeMs }
  }

  #samples(): readonly Rule['sample'][] {
    const { sample, cases = [{}] } = this.#text
    const whole = this.#sample(sample, ['sample'])
    return cases.map((one, index) => ('sample' in one ? this.#sample(one.sample, ['cases', index, 'sample']) : whole))
  }

  #sample(text: SampleText | undefined, at: Path): Rule['sample'] {
    if (text === undefined) return undefined
    const { rate, key: own, hash_template: theirs } = text
    if (own !== undefined && theirs !== undefined) {
      this.#error([...at, 'hash_template'], 'expected key or hash_template, found both', 'keep one of them', 'key')
    }
    if (theirs !== undefined && rate < 0.01) {
      this.#error([...at, 'rate'], `expected a rate from 0.01 to 1, found ${rate}`, 'write key for a smaller share')
    }
    const written = own ?? theirs
    if (written === undefined) {
      this.#error(at, 'expected sample.key, found none', 'add key, for instance {{message.meta.uri}}', 'key')
      return undefined
    }
    const key = this.#key(written, [...at, own === undefined ? 'hash_template' : 'key'])
    const most = Math.round(0xffffffff * rate)
    return (context) => {
      const said = key(context)
      return said === '' || murmur3(said) <= most
    }
  }

  /** Policies that contradict one another. */
  #compare(windowMs: number, ageMs: number): void {
    const { order, dedup } = this.#text
    if (windowMs > 0 && windowMs >= ageMs) {
      this.#error(
        ['dedup', 'window'],
        `expected dedup.window to be shorter than expire, found ${formatDuration(windowMs)} and ${formatDuration(ageMs)}`,
        'the last event of a key may expire uncalled; shorten window or lengthen expire',
      )
    }
    if (order === undefined || dedup === undefined || dedup === false) return
    if (dedup.window !== undefined) {
      this.#error(
        ['dedup', 'window'],
        'expected no window together with order, found one',
        'leave out window or order: a window would hold up all that follows',
        'key',
      )
    }
    if (dedup.key.trim() !== order.key.trim() || dedup.across_wikis === true) {
      this.#error(
        ['order'],
        'expected order and dedup to have the same key, found two',
        'leave out one of them, or give both the same key',
        'key',
      )
    }
  }

  #duration(text: string, at: Path): number {
    return durationAt(text, [...this.#at, ...at], this.#findings)
  }

  #error(at: Path, message: string, remedy: string, part?: 'key' | 'value'): void {
    this.#findings.error([...this.#at, ...at], message, remedy, part)
  }

  #key(text: string, at: Path): KeyTemplate {
    return compileKey(this.#parts(text, at))
  }

  #parts(text: string, at: Path): readonly Part[] {
    const place = [...this.#at, ...at]
    const parts = this.#templates.parts(text, place) ?? []
    if (parts.length === 0) return parts
    if (!parts.some((part) => isSlot(part) && part.expression.reads.length > 0)) {
      this.#findings.error(
        place,
        `expected a template that reads the event, found ${JSON.stringify(text)}, which does not`,
        'write for instance {{message.meta.uri}}',
      )
    }
    for (const part of parts) {
      if (!isSlot(part)) continue
      const { isMessage, reads } = part.expression
      if (isMessage || reads.some(([root, field]) => root === 'targets' || (root === 'wiki' && field === 'token'))) {
        this.#findings.error(
          place,
          `expected a property of the event or its wiki, found ${part.expression.text}`,
          'write for instance {{message.meta.uri}}',
        )
      }
    }
    return parts
  }

  #implied(text: string): readonly Part[] {
    return this.#templates.parts(text, this.#at) ?? []
  }
}

const noLimits: Limits = { concurrency: unlimited, perSecond: unlimited, burst: unlimited }

/** Whether the rule itself says that its answers are those of MediaWiki's jobs. */
function readsJobs({ answers, exec, cases }: Partial<RuleText>): boolean {
  if (answers !== undefined) return answers === 'mediawiki-job'
  const requests = cases === undefined ? [exec ?? []].flat() : cases.flatMap((one) => [one.exec ?? []].flat())
  const [only] = requests
  return requests.length === 1 && only !== undefined && only.uri.endsWith(jobPath)
}

function supersedeBy(signature: readonly Part[], time: readonly Part[], acrossWikis: boolean): Supersede {
  const said = compileKey(time)
  return {
    id: idOf('supersede', signature, time),
    signature: compileKey(signature),
    time: (context) => instantOf(said(context)),
    acrossWikis,
  }
}

/** However the templates are spaced. What keeps to an order shares no key with what is deduplicated. */
function idOf(policy: 'dedup' | 'order' | 'supersede', ...templates: readonly (readonly Part[])[]): string {
  const texts = templates.map((parts) =>
    parts.map((part) => (isSlot(part) ? [part.operator, part.expression.text] : part)),
  )
  return hash('sha256', JSON.stringify([policy, texts]), 'base64url').slice(0, 8)
}

/** A key that lost a part would join strangers: where one part is absent, there is no key. */
function compileKey(parts: readonly Part[]): KeyTemplate {
  return (context) => {
    try {
      return keyOf(parts, context)
    } catch (error) {
      if (!(error instanceof TemplateError) || error.reason === 'unknown_wiki') throw error
      throw new TemplateError('key_failed', error.expression, error.message)
    }
  }
}

function keyOf(parts: readonly Part[], context: TemplateContext): string {
  let key = ''
  for (const part of parts) {
    if (!isSlot(part)) {
      key += part
      continue
    }
    const { operator, expression } = part
    const value = expression.evaluate(context)
    if (value === undefined || value === null || value === '') return ''
    const text = textOf(value, expression)
    if (operator === '{{' || operator === '{+') key += text
    else key += operator === '{/' ? `/${percentEncode(text)}` : percentEncode(text)
  }
  return key
}

/** Where a rule says nothing of delays, the event may. */
function delayUntil({ record }: TemplateContext): number {
  const said = member(record.message, 'delay_until')
  if (said === undefined || said === null || said === '') return 0
  return typeof said === 'string' || typeof said === 'number' ? instantOf(String(said)) : Number.NaN
}

/** ISO, or unix seconds, in ms. NaN where it is neither, or later than the year 9999, as are milliseconds taken for seconds. */
function instantOf(text: string): number {
  if (/^\d+(?:\.\d+)?$/.test(text)) {
    const ms = Math.ceil(Number(text) * 1_000)
    return ms <= latestMs ? ms : Number.NaN
  }
  return /^\d{4}-\d\d-\d\d(?:T|$)/.test(text) ? Date.parse(text) : Number.NaN
}

function seconds(text: number | undefined): number {
  return text === undefined ? unlimited : text * 1_000
}

function limitsText({ concurrency, perSecond, burst }: Limits): Json {
  return [concurrency, perSecond, burst].map(String)
}
