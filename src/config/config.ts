import type { Limits } from '../rule/rule.ts'

/** The configuration, fully resolved: defaults applied, secrets read, durations in ms, sizes in bytes. */
export interface Config {
  readonly listen: { readonly host: string; readonly port: number }
  readonly store: { readonly embedded: EmbeddedStoreConfig }
  /** Files or folders. */
  readonly rules: readonly string[]
  readonly schemas: { readonly from: readonly string[]; readonly unknown: 'accept' | 'refuse' }
  /** `allow`: networks in CIDR notation; undefined allows everybody. */
  readonly intake: { readonly maxBodyBytes: number; readonly allow: readonly string[] | undefined }
  readonly admin: { readonly token: string | undefined }
  readonly stopTimeoutMs: number
  readonly log: { readonly level: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' }
  readonly wikis: readonly WikiConfig[]
  readonly targets: Readonly<Record<string, TargetConfig>>
}

export interface EmbeddedStoreConfig {
  /** The data folder. */
  readonly path: string
  readonly retention: { readonly ageMs: number; readonly sizeBytes: number; readonly deadBytes: number }
}

/** One wiki, or a farm of them where `domain` or `database` is a /regex/ whose captures the `url` uses. */
export interface WikiConfig {
  readonly database?: string
  readonly domain?: string
  readonly url: string
  /** `host` header of calls to it. */
  readonly host?: string
  readonly login?: LoginConfig
  /** Value of the `authorization` header: a secret. */
  readonly authorization?: string
  /** Each wiki of a farm has them for itself. */
  readonly limits?: Limits
  readonly maxPauseMs: number
}

export interface LoginConfig {
  readonly user: string
  /** A secret. */
  readonly password: string
}

export interface TargetConfig {
  readonly url: string
  readonly host?: string
  /** Value of the `authorization` header: a secret. */
  readonly authorization?: string
  readonly limits?: Limits
  readonly maxPauseMs: number
}
