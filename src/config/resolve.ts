import { resolve } from 'node:path'
import ipaddr from 'ipaddr.js'
import Type from 'typebox'
import { type Document, formatPath, type Path, problemAt } from '../base/document.ts'
import type { Problem } from '../base/problem.ts'
import { isObject } from '../base/schema-words.ts'
import {
  betterRate,
  formatDuration,
  formatSize,
  longestTimeoutMs,
  longestWaitMs,
  parseDuration,
  parseRate,
  parseSize,
} from '../base/units.ts'
import type { Limits } from '../rule/rule.ts'
import type {
  Config,
  EmbeddedStoreConfig,
  KafkaLogin,
  KafkaStoreConfig,
  StoreConfig,
  TargetConfig,
  WikiConfig,
} from './config.ts'
import { checkFolder } from './folder.ts'
import { certificates, checkBrokers, checkKeyPair, checkPartitionKey, privateKey } from './kafka.ts'
import { loginSchema, targetSchema, wikiSchema } from './schema.ts'
import { fitForLogin, readSecret, type SecretCheck } from './secret.ts'
import { ajv, problemOf, type Setting } from './settings.ts'
import { checkUrl, checkWikis, type Objection } from './sites.ts'

/** Where a value came from. */
export type Origin = 'default' | 'file' | 'environment' | 'flag'

/** A setting with the value that won. */
export interface Given {
  readonly setting: Setting
  readonly value: unknown
  /** False where the value as given did not fit its schema, and this is what could be read of it, or the default. */
  readonly isSound: boolean
  readonly origin: Origin
  /** The variable or flag, for problems. */
  readonly source: string
}

/** Turns what was given into what the service reads, and says what a schema could not: secrets, URLs, ranges. */
export async function resolveConfig(
  given: ReadonlyMap<string, Given>,
  document: Document | undefined,
  env: NodeJS.ProcessEnv,
  cwd: string | undefined,
): Promise<{ config: Config; problems: readonly Problem[] }> {
  const values = new Values(given, document, env, locator(cwd))
  const config = await values.config()
  return { config, problems: values.problems }
}

class Values {
  readonly problems: Problem[] = []
  readonly #given: ReadonlyMap<string, Given>
  readonly #document: Document | undefined
  readonly #env: NodeJS.ProcessEnv
  readonly #locate: (path: string) => string

  constructor(
    given: ReadonlyMap<string, Given>,
    document: Document | undefined,
    env: NodeJS.ProcessEnv,
    locate: (path: string) => string,
  ) {
    this.#given = given
    this.#document = document
    this.#env = env
    this.#locate = locate
  }

  async config(): Promise<Config> {
    const locate = this.#locate
    return {
      listen: { host: this.#text('listen.host'), port: Number(this.#value('listen.port')) },
      store: await this.#store(),
      rules: this.#texts('rules').map(locate),
      schemas: {
        from: await this.#schemaPlaces(),
        unknown: this.#text('schemas.unknown') === 'refuse' ? 'refuse' : 'accept',
      },
      intake: { maxBodyBytes: this.#bytes('intake.max_body', 1024, 2 ** 30), allow: this.#networks() },
      admin: { token: await this.#adminToken() },
      stopTimeoutMs: this.#ms('stop_timeout', 0, longestTimeoutMs),
      log: { level: levels.find((level) => level === this.#value('log.level')) ?? 'info' },
      wikis: await this.#wikis(),
      targets: await this.#targets(),
    }
  }

  async #store(): Promise<StoreConfig> {
    const embedded = () => ({ path: this.#locate(this.#text('store.embedded.path')), retention: this.#retention() })
    // Neither a default nor --data, which is for either, asks for Kafka.
    const asking = this.#below('store.kafka').find(({ origin }) => origin === 'file' || origin === 'environment')
    if (asking === undefined && !this.#isInFile(['store', 'kafka'])) return { embedded: embedded() }
    if (this.#isInFile(['store', 'embedded'])) {
      const message = 'expected one store, found embedded and kafka'
      this.#mapping(['store', 'kafka'], message, 'leave one of them out, wherever it is set')
      return { embedded: embedded() }
    }
    for (const { origin, source } of this.#below('store.embedded')) {
      if (origin !== 'environment') continue
      const message = `expected nothing about the embedded store beside kafka, found ${source}`
      this.problems.push(problemOf(source, [], message, 'unset it: it has no effect', 'warning'))
    }
    return { kafka: await this.#kafka() }
  }

  async #kafka(): Promise<KafkaStoreConfig> {
    const brokers = this.#items('store.kafka.brokers')
    this.#object('store.kafka.brokers', checkBrokers(brokers, this.#path('store.kafka.brokers')))
    if (this.#isDefault('store.kafka.brokers'))
      this.#mapping(
        ['store', 'kafka'],
        'expected the key brokers, found none',
        'add for instance brokers: [kafka1:9092]',
      )

    const tls = await this.#tls()
    const sasl = await this.#login()
    if (sasl?.mechanism === 'plain' && tls === undefined && this.#isSound('store.kafka.tls')) {
      const message = 'expected tls beside plain, found none: the password goes over the network as it is'
      this.#object('store.kafka.sasl.mechanism', [
        {
          path: this.#path('store.kafka.sasl.mechanism'),
          message,
          remedy: 'add tls, or use scram-sha-512',
          warning: true,
        },
      ])
    }
    const topicPrefix = this.#text('store.kafka.topic_prefix')
    const scratch = this.#value('store.kafka.scratch')
    return {
      brokers: this.#texts('store.kafka.brokers'),
      service: this.#text('store.kafka.service'),
      topicPrefix,
      consumePrefixes: this.#isDefault('store.kafka.consume_prefixes')
        ? [topicPrefix]
        : this.#texts('store.kafka.consume_prefixes'),
      partitions: Number(this.#value('store.kafka.partitions')),
      replication: Number(this.#value('store.kafka.replication')),
      streams: this.#streams(),
      ...(tls === undefined ? {} : { tls }),
      ...(sasl === undefined ? {} : { sasl }),
      ...(typeof scratch === 'string' ? { scratch: this.#locate(scratch) } : {}),
    }
  }

  #streams(): KafkaStoreConfig['streams'] {
    const value = this.#value('store.kafka.streams')
    const streams = validateStreams(value) ? value : {}
    const keyed = Object.entries(streams).flatMap(([name, { partition_key }]) =>
      partition_key === undefined ? [] : [[name, partition_key] as const],
    )
    for (const [name, key] of keyed) {
      const path = [...this.#path('store.kafka.streams'), name, 'partition_key']
      this.#object('store.kafka.streams', checkPartitionKey(key, path))
    }
    return Object.fromEntries(keyed.map(([name, partitionKey]) => [name, { partitionKey }]))
  }

  async #tls(): Promise<KafkaStoreConfig['tls']> {
    const value = this.#value('store.kafka.tls')
    if (value === true) return {}
    if (!isObject(value)) return undefined
    const path = this.#path('store.kafka.tls')
    const ca = await this.#secret(value.ca, [...path, 'ca'], certificates)
    const cert = await this.#secret(value.cert, [...path, 'cert'], certificates)
    const key = await this.#secret(value.key, [...path, 'key'], privateKey)
    // One that is there but cannot be read is told already.
    const isLost = (value.cert !== undefined && cert === undefined) || (value.key !== undefined && key === undefined)
    if (!isLost) this.#object('store.kafka.tls', checkKeyPair(cert, key, path))
    return {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
    }
  }

  async #login(): Promise<KafkaLogin | undefined> {
    const keys = this.#below('store.kafka.sasl')
    if (keys.every(({ origin }) => origin === 'default') && !this.#isInFile(['store', 'kafka', 'sasl']))
      return undefined
    const missing = keys.filter(({ origin }) => origin === 'default').map(({ setting }) => setting.path.at(-1))
    if (missing.length > 0) {
      const message = `expected mechanism, username and password, found no ${missing.join(', no ')}`
      this.#mapping(['store', 'kafka', 'sasl'], message, `add ${missing.join(' and ')}`)
    }
    const mechanism = mechanisms.find((one) => one === this.#value('store.kafka.sasl.mechanism'))
    const username = this.#value('store.kafka.sasl.username')
    const name = 'store.kafka.sasl.password'
    const password = await this.#secret(this.#value(name), this.#path(name), fitForLogin)
    if (mechanism === undefined || typeof username !== 'string' || password === undefined) return undefined
    return { mechanism, username, password }
  }

  #retention(): EmbeddedStoreConfig['retention'] {
    const ageMs = this.#ms('store.embedded.retention.age', 1_000)
    const size = 'store.embedded.retention.size'
    const dead = 'store.embedded.retention.dead'
    const before = this.problems.length
    const sizeBytes = this.#bytes(size, 2 ** 20)
    const deadBytes = this.#bytes(dead, 2 ** 20)
    const areSound = this.problems.length === before && this.#isSound(size) && this.#isSound(dead)
    if (areSound && deadBytes > sizeBytes) {
      const warning = this.#isDefault(dead)
      const name = warning ? size : dead
      const message = `expected retention.dead not to be larger than retention.size, found ${this.#shown(dead)} and ${this.#shown(size)}`
      const remedy = 'make the one smaller or the other larger'
      this.#object(name, [{ path: this.#path(name), message, remedy, warning }])
    }
    return { ageMs, sizeBytes, deadBytes }
  }

  async #wikis(): Promise<readonly WikiConfig[]> {
    const value = this.#value('wikis')
    const entries = validateWikis(value) ? value : []
    this.#object('wikis', checkWikis(entries, ['wikis']))
    const wikis: WikiConfig[] = []
    for (const [index, entry] of entries.entries()) {
      const { database, domain, url, host, login } = entry ?? {}
      const path = ['wikis', index]
      const password = await this.#secret(login?.password, [...path, 'login', 'password'])
      const common = await this.#site(entry ?? {}, path)
      if (url === undefined) continue
      wikis.push({
        ...(database === undefined ? {} : { database }),
        ...(domain === undefined ? {} : { domain }),
        url: withoutSlash(url),
        ...(host === undefined ? {} : { host }),
        ...(login?.user === undefined || password === undefined ? {} : { login: { user: login.user, password } }),
        ...common,
      })
    }
    return wikis
  }

  async #targets(): Promise<Readonly<Record<string, TargetConfig>>> {
    const value = this.#value('targets')
    const entries = validateTargets(value) ? value : {}
    const targets: [string, TargetConfig][] = []
    for (const [name, entry] of Object.entries(entries)) {
      const { url, host } = entry
      const common = await this.#site(entry, ['targets', name])
      if (url === undefined) continue
      this.#object('targets', checkUrl(url, ['targets', name, 'url']))
      targets.push([name, { url: withoutSlash(url), ...(host === undefined ? {} : { host }), ...common }])
    }
    return Object.fromEntries(targets)
  }

  /** What wikis and targets have in common. */
  async #site(
    { authorization, concurrency, rate, max_pause }: SiteText,
    path: Path,
  ): Promise<Pick<TargetConfig, 'authorization' | 'limits' | 'maxPauseMs'>> {
    const secret = await this.#secret(authorization, [...path, 'authorization'])
    const limits = this.#limits(concurrency, rate, [...path, 'rate'])
    return {
      ...(secret === undefined ? {} : { authorization: secret }),
      ...(limits === undefined ? {} : { limits }),
      maxPauseMs: this.#pause(max_pause, [...path, 'max_pause']),
    }
  }

  #limits(concurrency: number | undefined, rate: string | undefined, at: Path): Limits | undefined {
    if (concurrency === undefined && rate === undefined) return undefined
    const better = rate === undefined ? undefined : betterRate(rate)
    if (better !== undefined) {
      const remedy = 'write for instance 50/s; to call nobody, leave the rules out'
      this.#object(String(at[0]), [{ path: at, message: `expected ${better}, found ${rate}`, remedy }])
    }
    const perSecond = (rate === undefined ? undefined : parseRate(rate)) ?? Number.POSITIVE_INFINITY
    return {
      concurrency: concurrency ?? Number.POSITIVE_INFINITY,
      perSecond,
      burst: Math.max(1, Math.floor(perSecond)),
    }
  }

  async #adminToken(): Promise<string | undefined> {
    const path = ['admin', 'token']
    const token = await this.#secret(this.#value('admin.token'), path)
    const message = 'expected a token without spaces (not shown), found one with spaces'
    if (token?.includes(' ')) this.#object('admin.token', [{ path, message, remedy: 'a bearer token is one word' }])
    return token
  }

  async #secret(value: unknown, path: Path, check?: SecretCheck): Promise<string | undefined> {
    if (value === undefined) return undefined
    const result = await readSecret(value, this.#env, this.#locate, check)
    if ('secret' in result) return result.secret
    const whole = [...this.#given.values()].find(({ setting }) => setting.path.every((key, at) => key === path[at]))
    this.#object(whole?.setting.name ?? formatPath(path), [{ path, ...result }])
    return undefined
  }

  #networks(): readonly string[] | undefined {
    if (this.#value('intake.allow') === undefined) return undefined
    const remedy = 'write for instance 10.0.0.0/8, or 192.0.2.7/32 for one address'
    const wrong = this.#items('intake.allow').flatMap((network, index): readonly Objection[] =>
      network === null || ipaddr.isValidCIDR(network)
        ? []
        : [
            {
              path: ['intake', 'allow', index],
              message: `expected a network such as 10.0.0.0/8 or fd00::/8, found ${JSON.stringify(network)}`,
              remedy,
            },
          ],
    )
    this.#object('intake.allow', wrong)
    return this.#texts('intake.allow')
  }

  /** Where unknown schemas are refused, a folder that is not there refuses events without their fault. */
  async #schemaPlaces(): Promise<readonly string[]> {
    const warning = this.#value('schemas.unknown') !== 'refuse'
    for (const [index, from] of this.#items('schemas.from').entries()) {
      if (from === null) continue
      const path = ['schemas', 'from', index]
      const objections = isUrl(from) ? checkUrl(from, path) : await checkFolder(from, path, this.#locate)
      this.#object('schemas.from', isUrl(from) ? objections : objections.map((one) => ({ ...one, warning })))
    }
    return this.#texts('schemas.from').map((from) => (isUrl(from) ? from : this.#locate(from)))
  }

  #pause(value: string | undefined, path: Path): number {
    const ms = parseDuration(value ?? '1h') ?? Number.POSITIVE_INFINITY
    if (ms >= 1_000 && ms <= longestWaitMs) return ms
    const [better, remedy] =
      ms < 1_000
        ? ['at least 1s', 'write a longer duration']
        : [`at most ${formatDuration(longestWaitMs)}`, 'shorten it']
    this.#object(String(path[0]), [{ path, message: `expected ${better}, found ${value}`, remedy }])
    return ms
  }

  // 10,000 years: beyond that, times are no dates any more.
  #ms(name: string, least: number, most = 3_650_000 * 86_400_000): number {
    const ms = parseDuration(this.#text(name))
    if (ms !== undefined && ms >= least && ms <= most) return ms
    this.#object(name, [
      {
        path: this.#path(name),
        message: `expected a duration from ${least / 1000}s to ${formatDuration(most)}, found ${this.#text(name)}`,
        remedy: 'correct the value',
      },
    ])
    return least
  }

  #bytes(name: string, least: number, most = 2 ** 50): number {
    const value = this.#value(name)
    const bytes = typeof value === 'number' ? value : parseSize(String(value))
    if (bytes !== undefined && bytes >= least && bytes <= most) return bytes
    this.#object(name, [
      {
        path: this.#path(name),
        message: `expected a size from ${formatSize(least)} to ${formatSize(most)}, found ${value}`,
        remedy: 'correct the value',
      },
    ])
    return least
  }

  /** Reports what is wrong with a setting, at its place in the file or as of its variable or flag. */
  #object(name: string, objections: readonly Objection[]): void {
    const given = this.#given.get(name)
    for (const { path, message, remedy, warning } of objections) {
      const severity = warning ? 'warning' : 'error'
      const inFile = given?.origin === 'file' && this.#document !== undefined
      this.problems.push(
        inFile && this.#document
          ? problemAt(this.#document, path, message, remedy, { severity })
          : problemOf(given?.source ?? name, path, message, remedy, severity),
      )
    }
  }

  /** Reports what is wrong with a mapping as a whole: at its key in the file, or as of a variable within it. */
  #mapping(path: readonly string[], message: string, remedy: string): void {
    const source = this.#below(formatPath(path)).find(({ origin }) => origin === 'environment')?.source
    this.problems.push(
      this.#document && this.#isInFile(path)
        ? problemAt(this.#document, path, message, remedy, { part: 'key' })
        : problemOf(source ?? formatPath(path), path, message, remedy),
    )
  }

  /** The settings within a mapping. */
  #below(name: string): readonly Given[] {
    return [...this.#given.values()].filter(({ setting }) => setting.name.startsWith(`${name}.`))
  }

  #isInFile(path: readonly string[]): boolean {
    const parent = path
      .slice(0, -1)
      .reduce<unknown>((value, key) => (isObject(value) ? value[key] : undefined), this.#document?.value)
    return isObject(parent) && Object.hasOwn(parent, path.at(-1) ?? '')
  }

  #path(name: string): Path {
    return this.#given.get(name)?.setting.path ?? []
  }

  #isSound(name: string): boolean {
    return this.#given.get(name)?.isSound === true
  }

  #isDefault(name: string): boolean {
    return this.#given.get(name)?.origin === 'default'
  }

  #shown(name: string): string {
    return `${this.#text(name)}${this.#isDefault(name) ? ' (the default)' : ''}`
  }

  #value(name: string): unknown {
    return this.#given.get(name)?.value
  }

  #text(name: string): string {
    return String(this.#value(name))
  }

  /** Of a list of texts, with null for what is none. */
  #items(name: string): readonly (string | null)[] {
    const value = this.#value(name)
    return Array.isArray(value) ? value.map((item: unknown) => (typeof item === 'string' ? item : null)) : []
  }

  #texts(name: string): readonly string[] {
    return this.#items(name).filter((item) => item !== null)
  }
}

type SiteText = Pick<Partial<Type.Static<typeof targetSchema>>, 'authorization' | 'concurrency' | 'rate' | 'max_pause'>

const levels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const
const mechanisms = ['plain', 'scram-sha-256', 'scram-sha-512'] as const
const partialWiki = Type.Partial(Type.Object({ ...wikiSchema.properties, login: Type.Partial(loginSchema) }))
const wikisSchema = Type.Array(Type.Union([partialWiki, Type.Null()]))
const targetsSchema = Type.Record(Type.String(), Type.Partial(targetSchema))
const validateWikis = ajv.compile<Type.Static<typeof wikisSchema>>(wikisSchema)
const validateStreams = ajv.compile<Readonly<Record<string, { readonly partition_key?: string }>>>(
  Type.Record(Type.String(), Type.Object({ partition_key: Type.Optional(Type.String()) })),
)
const validateTargets = ajv.compile<Type.Static<typeof targetsSchema>>(targetsSchema)

/** Relative paths are relative to `cwd`, or else as they are: to the working directory. */
export function locator(cwd: string | undefined): (path: string) => string {
  return (path) => (cwd === undefined ? path : resolve(cwd, path))
}

function isUrl(text: string): boolean {
  return /^https?:\/\//i.test(text)
}

/** `{{wiki.url}}/api.php` should have one slash, whichever way the URL was written. */
function withoutSlash(url: string): string {
  return url.replace(/\/+$/, '')
}
