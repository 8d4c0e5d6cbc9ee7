import type { Json, JsonObject, StreamRecord } from '../event/event.ts'
import type { OutboundRequest } from '../http/send.ts'

/** How an answer is read where a rule or target says no more. */
export type AnswersPreset = 'http' | 'mediawiki-api' | 'mediawiki-job'

/** What a request came to. */
export type RequestOutcome = 'ok' | 'ignored' | 'throttled' | 'unavailable' | 'failed' | 'refused'

/** Why a rule does not concern an event: the first clause that said no. The same in `try`, `why` and HTTP. */
export interface Reason {
  readonly clause: 'topic' | 'schema' | 'match' | 'match_not' | 'canary'
  /** Dotted path into the event; empty for the whole. */
  readonly path: string
  readonly wanted: Json
  /** Absent where the event has nothing there. */
  readonly found?: Json
}

/** A rule concerns an event. */
export interface Match {
  /** Which of the rule's cases, from 0; null where the rule has none. */
  readonly case: number | null
  /** What regexes captured, as the template root `match`; `{}` if nothing. */
  readonly captures: JsonObject
  readonly requests: readonly RequestTemplate[]
}

/** What a wiki is to a template: the root `wiki`. */
export interface WikiRoot {
  readonly url: string
  readonly host?: string
  readonly database?: string
  readonly domain?: string
  /** A CSRF token of the wiki's session, where the template reads one and there is a session. */
  readonly token?: string
}

/** All that a template can see. */
export interface TemplateContext {
  readonly record: StreamRecord
  readonly captures: JsonObject
  /** The event's wiki, or undefined where none is configured. Asked only by templates that use it. */
  readonly wiki: () => WikiRoot | undefined
  /** Base URL of a configured target, by name. */
  readonly target: (name: string) => string | undefined
}

/** A template could not be rendered; the delivery is dead with `reason`. */
export class TemplateError extends Error {
  readonly reason: 'template_failed' | 'unknown_wiki' | 'key_failed'
  /** The expression at fault, e.g. `message.page_title`. */
  readonly expression: string

  constructor(reason: TemplateError['reason'], expression: string, message: string) {
    super(message)
    this.name = 'TemplateError'
    this.reason = reason
    this.expression = expression
  }
}

/** One request of `exec`, compiled. */
export interface RequestTemplate {
  readonly method: string
  /** Scheme, host and port where they stand literally in the rule: such a host is allowed by that. */
  readonly literalOrigin: string | undefined
  /** Whether it says `wiki.token`, so that the wiki is to be asked for one before it is rendered to be sent. */
  readonly usesToken: boolean
  /** Scheme, host and port of the request that `render` would make, at less cost. Throws TemplateError. */
  origin(context: TemplateContext): string
  /** Throws TemplateError. Headers are the rule's own plus what the body needs; a body that is the whole message is its bytes. */
  render(context: TemplateContext): OutboundRequest
}

export interface RetryPolicy {
  /** Retries after the first attempt. */
  readonly limit: number
  readonly delayMs: number
  readonly factor: number
  readonly maxDelayMs: number
  /** From the first attempt; judged only after an attempt. */
  readonly maxAgeMs: number
  /** Full: a wait is anything from 0 to the delay. None: exactly the delay. */
  readonly jitter: 'full' | 'none'
}

/** How a rule reads answers: its own table first, then the preset, then that of the target. */
export interface AnswerPolicy {
  /** Undefined: as the wiki or target says. */
  readonly preset: AnswersPreset | undefined
  /** The first row of the rule's own table that fits, or undefined. */
  read(answer: {
    status: number
    headers: Readonly<Record<string, string>>
    body: Uint8Array
  }): RequestOutcome | undefined
}

/** What an event yields as a key; empty where it has nothing there. Throws TemplateError (`key_failed`). */
export type KeyTemplate = (context: TemplateContext) => string

/** Infinity where there is no limit. */
export interface Limits {
  /** Calls in flight. */
  readonly concurrency: number
  readonly perSecond: number
  /** So many may start at once after a while without any; at least 1. */
  readonly burst: number
}

export interface Throttle {
  /** For the whole rule. Its concurrency is finite. */
  readonly total: Limits
  /** Each key has limits of its own, and keys take turns. */
  readonly key: KeyTemplate | undefined
  readonly perKey: Limits
}

/** Tells keys of one policy and template from those of another that yields the same: they never were one key. A few characters. */
type TemplateId = string

export interface Dedup {
  readonly id: TemplateId
  readonly key: KeyTemplate
  /** Fresh starts of one key are so far apart; 0 for none. */
  readonly windowMs: number
  readonly acrossWikis: boolean
}

export interface Supersede {
  /** Of signature and time. */
  readonly id: TemplateId
  readonly signature: KeyTemplate
  /** In ms; NaN where the event has none, or none that can be read. */
  time(context: TemplateContext): number
  readonly acrossWikis: boolean
}

export interface Order {
  readonly id: TemplateId
  readonly key: KeyTemplate
}

/** Ages in ms, from the event's time and that of its root event; Infinity for never. */
export interface Expire {
  readonly ageMs: number
  readonly rootAgeMs: number
}

interface LimitTexts {
  readonly concurrency: number
  /** These two are left out where any number may start. */
  readonly rate?: string
  readonly burst?: number
}

interface SampleTexts {
  readonly rate: number
  readonly key: string
}

/**
 * What a rule says of when, how often and whether at all, defaults and what is implied included, in the words of rule files;
 * null where it has no such policy.
 */
export interface PolicyTexts {
  /** With a key: of each, beside those of all together. */
  readonly throttle: LimitTexts & { readonly key?: string; readonly total?: LimitTexts }
  /** Null: until the event's own `delay_until`. */
  readonly delay: string | null
  readonly dedup: { readonly key: string; readonly window: string | null; readonly across_wikis: boolean } | null
  readonly supersede: { readonly signature: string; readonly time: string; readonly across_wikis: boolean } | null
  readonly order: { readonly key: string } | null
  readonly expire: { readonly age: string | null; readonly root_age: string | null } | null
  /** A list, by case, where the cases have shares of their own. */
  readonly sample: SampleTexts | readonly (SampleTexts | null)[] | null
}

/** A rule, fully resolved: all that the engine may ask of one. Spellings and defaults end in the parser. */
export interface Rule {
  readonly name: string
  /** Changes whenever what the rule says changes; 12 hex digits. */
  readonly revision: string
  readonly file: string
  readonly line: number
  /** Stream names, and patterns as written, for people; `concernsTopic` decides. */
  readonly topics: readonly string[]
  /** Asked once per topic and rule set, never per event. */
  concernsTopic(topic: string): boolean
  /** Asked of each event of its topics. Pure; never throws. */
  match(message: JsonObject): Match | undefined
  /** The first clause that says no, or undefined where the rule matches. For people, not for the hot path. */
  explain(topic: string, message: JsonObject): Reason | undefined
  readonly answers: AnswerPolicy
  /** `never`: not repeated, not even after a crash. */
  readonly retry: RetryPolicy | 'never'
  readonly throttle: Throttle
  /**
   * Not to be called before this time, in ms; 0 for at once. NaN: the event names an instant that cannot be read, which is
   * as good as none. `eventTime`, in ms, is asked for only where it counts.
   */
  dueAt(context: TemplateContext, eventTime: () => number): number
  readonly dedup: Dedup | undefined
  readonly supersede: Supersede | undefined
  readonly order: Order | undefined
  readonly expire: Expire | undefined
  /** Whether the event is in the rule's share of all; asked once, at routing. */
  readonly sample: ((context: TemplateContext) => boolean) | undefined
  /** For people (`GET /v1/rules`). */
  readonly policyTexts: PolicyTexts
  /** The rule as written, for people (`GET /v1/rules/NAME`). */
  readonly written: JsonObject
}

/** The rules in force at one time, all of them or none. */
export interface RuleSet {
  readonly rules: readonly Rule[]
  get(name: string): Rule | undefined
  /** The rules that concern a topic, in order of file and place. Computed once per topic. */
  forTopic(topic: string): readonly Rule[]
}
