import type { Limits } from '../rule/rule.ts'

/** The configuration, fully resolved: defaults applied, secrets read, durations in ms, sizes in bytes. */
export interface Config {
  readonly listen: { readonly host: string; readonly port: number }
  readonly store: StoreConfig
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

/** One of the two. */
export type StoreConfig =
  | { readonly embedded: EmbeddedStoreConfig; readonly kafka?: undefined }
  | { readonly kafka: KafkaStoreConfig; readonly embedded?: undefined }

export interface EmbeddedStoreConfig {
  /** The data folder. */
  readonly path: string
  readonly retention: { readonly ageMs: number; readonly sizeBytes: number; readonly deadBytes: number }
}

export interface KafkaStoreConfig {
  /** `host:port` each. */
  readonly brokers: readonly string[]
  /** Begins the names of our own topics, and of our groups. */
  readonly service: string
  /** May be empty. */
  readonly topicPrefix: string
  /** At least one; where one begins another, the longest that fits a topic is the topic's. */
  readonly consumePrefixes: readonly string[]
  readonly partitions: number
  readonly replication: number
  /** By name of the stream, without a prefix. */
  readonly streams: Readonly<Record<string, { readonly partitionKey: string }>>
  /** PEM texts; without `ca` the authorities that Node knows. `cert` and `key` come together. */
  readonly tls?: { readonly ca?: string; readonly cert?: string; readonly key?: string }
  readonly sasl?: KafkaLogin
  /** A folder for what is derived; undefined asks for a temporary one. */
  readonly scratch?: string
}

export interface KafkaLogin {
  readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'
  readonly username: string
  /** A secret. */
  readonly password: string
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
