import type { LoginConfig } from '../config/config.ts'
import type { JsonObject } from '../event/event.ts'
import type { AnswersPreset, Limits, WikiRoot } from '../rule/rule.ts'

/** Where calls go: a configured wiki or target, or a host that stands literally in a rule. */
export interface Target {
  /** For people, metrics and keys: the wiki's or target's name, else the origin. */
  readonly name: string
  /** Header values to add, e.g. `host`, `authorization`. They go nowhere else, and never into logs. */
  readonly headers: Readonly<Record<string, string>>
  readonly maxPauseMs: number
  /** Of all calls to it together, whatever their rules; undefined for none. */
  readonly limits: Limits | undefined
  readonly answers: AnswersPreset | undefined
  /** Undefined for what is no wiki. All targets of one wiki share it. */
  readonly api: WikiApi | undefined
}

/** Where a wiki makes sessions, and who we are there. */
export interface WikiApi {
  readonly origin: string
  /** Of api.php. */
  readonly path: string
  readonly login: LoginConfig | undefined
}

/** Which wikis and targets there are (design.md §4, "Wiki of an event" and "Hosts"). */
export interface Directory {
  /** The event's wiki as a template root, or undefined where none is configured. */
  wikiOf(message: JsonObject): WikiRoot | undefined
  /** What it is called, whatever its URL is. */
  nameOf(wiki: WikiRoot): string | undefined
  /** Base URL of a configured target. */
  targetUrl(name: string): string | undefined
  /**
   * Who answers at this URL for an event of that wiki; `literal` says that the origin stands in the rule.
   * Undefined: no configuration allows it (`host_not_allowed`).
   */
  resolve(origin: string, path: string, wiki: WikiRoot | undefined, literal: boolean): Target | undefined
}
