import { isDeepStrictEqual } from 'node:util'
import { formatDuration, formatRate, formatSize } from '../base/units.ts'
import type { Config, EmbeddedStoreConfig, KafkaStoreConfig, TargetConfig } from './config.ts'
import type { Origin } from './resolve.ts'
import { settings } from './settings.ts'

/** What stands where a secret would. */
const mask = '***'

/** A value as it may be shown, and where it came from. */
export interface ShownSetting {
  readonly value: unknown
  readonly origin: Origin
}

/** The configuration in force, by name of the setting and as it would be written; secrets are masked, the other store left out. */
export function showConfig(
  config: Config,
  origins: ReadonlyMap<string, Origin>,
): Readonly<Record<string, ShownSetting>> {
  const values = valuesOf(config, masked)
  const other = config.store.embedded === undefined ? 'store.embedded.' : 'store.kafka.'
  const inForce = settings.filter(({ name }) => !name.startsWith(other))
  return Object.fromEntries(
    inForce.map(({ name }) => [name, { value: values[name], origin: origins.get(name) ?? 'default' }]),
  )
}

const takenUpByReload: ReadonlySet<string> = new Set(['rules', 'wikis', 'targets'])

/** Names of the settings that differ and are read only when the service starts. */
export function needRestart(was: Config, is: Config): readonly string[] {
  const [before, after] = [valuesOf(was, asItIs), valuesOf(is, asItIs)]
  return settings
    .map(({ name }) => name)
    .filter((name) => !takenUpByReload.has(name) && !isDeepStrictEqual(before[name], after[name]))
}

type Hide = (secret: string | undefined) => string | undefined

const asItIs: Hide = (secret) => secret

function valuesOf(config: Config, hide: Hide): Readonly<Record<string, unknown>> {
  const { listen, store, rules, schemas, intake, admin, log } = config
  return {
    'listen.host': listen.host,
    'listen.port': listen.port,
    ...(store.embedded === undefined ? showKafka(store.kafka, hide) : showEmbedded(store.embedded)),
    rules,
    'schemas.from': schemas.from,
    'schemas.unknown': schemas.unknown,
    'intake.max_body': formatSize(intake.maxBodyBytes),
    'intake.allow': intake.allow,
    'admin.token': hide(admin.token),
    stop_timeout: formatDuration(config.stopTimeoutMs),
    'log.level': log.level,
    wikis: config.wikis.map(({ login, ...wiki }) => ({
      ...showSite(wiki),
      ...(login === undefined ? {} : { login: { user: login.user, password: mask } }),
    })),
    targets: Object.fromEntries(Object.entries(config.targets).map(([name, target]) => [name, showSite(target)])),
  }
}

function showEmbedded({ path, retention }: EmbeddedStoreConfig): Readonly<Record<string, unknown>> {
  return {
    'store.embedded.path': path,
    'store.embedded.retention.age': formatDuration(retention.ageMs),
    'store.embedded.retention.size': formatSize(retention.sizeBytes),
    'store.embedded.retention.dead': formatSize(retention.deadBytes),
  }
}

function showKafka(kafka: KafkaStoreConfig, hide: Hide): Readonly<Record<string, unknown>> {
  const { tls, sasl, streams } = kafka
  const parts = Object.entries(tls ?? {})
  return {
    'store.kafka.brokers': kafka.brokers,
    'store.kafka.service': kafka.service,
    'store.kafka.topic_prefix': kafka.topicPrefix,
    'store.kafka.consume_prefixes': kafka.consumePrefixes,
    'store.kafka.partitions': kafka.partitions,
    'store.kafka.replication': kafka.replication,
    'store.kafka.streams': Object.fromEntries(
      Object.entries(streams).map(([name, { partitionKey }]) => [name, { partition_key: partitionKey }]),
    ),
    'store.kafka.tls':
      parts.length === 0 ? tls !== undefined : Object.fromEntries(parts.map(([part, pem]) => [part, hide(pem)])),
    'store.kafka.sasl.mechanism': sasl?.mechanism,
    'store.kafka.sasl.username': sasl?.username,
    'store.kafka.sasl.password': hide(sasl?.password),
    'store.kafka.scratch': kafka.scratch,
  }
}

function showSite({ authorization, limits, maxPauseMs, ...site }: TargetConfig): object {
  const { concurrency, perSecond } = limits ?? noLimits
  return {
    ...site,
    ...(authorization === undefined ? {} : { authorization: mask }),
    ...(concurrency === Number.POSITIVE_INFINITY ? {} : { concurrency }),
    ...(perSecond === Number.POSITIVE_INFINITY ? {} : { rate: formatRate(perSecond) }),
    max_pause: formatDuration(maxPauseMs),
  }
}

const noLimits = { concurrency: Number.POSITIVE_INFINITY, perSecond: Number.POSITIVE_INFINITY }

/** The same as YAML that could be a configuration file (but for secrets), each value with its origin as a comment. */
export function printConfig(config: Config, origins: ReadonlyMap<string, Origin>): string {
  const shown = showConfig(config, origins)
  const lines: string[] = []
  let open: readonly string[] = []
  for (const { path, name } of settings) {
    const setting = shown[name]
    if (setting === undefined) continue
    if (setting.value === undefined) {
      lines.push(`# ${name} is not set`)
      continue
    }
    const parents = path.slice(0, -1)
    const shared = parents.findIndex((key, depth) => open[depth] !== key)
    const from = shared < 0 ? parents.length : shared
    for (const [depth, key] of parents.entries()) if (depth >= from) lines.push(`${indent(depth)}${key}:`)
    open = parents
    const key = `${indent(parents.length)}${path.at(-1)}:`
    const { value, origin } = setting
    if (isLong(value)) lines.push(`${key} # ${origin}`, ...blockOf(value, parents.length + 1))
    else lines.push(`${key} ${JSON.stringify(value)} # ${origin}`)
  }
  return `${lines.join('\n')}\n`
}

function masked(secret: string | undefined): string | undefined {
  return secret === undefined ? undefined : mask
}

function isLong(value: unknown): value is object {
  return typeof value === 'object' && value !== null && JSON.stringify(value).length > 60
}

/** One line per entry; JSON is YAML. */
function blockOf(value: object, depth: number): readonly string[] {
  if (Array.isArray(value)) return value.map((item) => `${indent(depth)}- ${JSON.stringify(item)}`)
  return Object.entries(value).map(([key, item]) => `${indent(depth)}${key}: ${JSON.stringify(item)}`)
}

function indent(depth: number): string {
  return '  '.repeat(depth)
}
