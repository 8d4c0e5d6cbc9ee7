import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import { promisify } from 'node:util'
import { Kafka as KafkaClient, type KafkaConfig, logLevel, type SASLOptions } from 'kafkajs'
import { afterAll, beforeAll, beforeEach } from 'vitest'
import { freePorts } from './free-ports.ts'
import { makeKeys, type TlsKeys } from './tls-keys.ts'
import { until } from './until.ts'

/*
 * Real brokers of Apache Kafka, started and ended by tests. `test/setup.sh` fetches what they need.
 *
 * Most files share one broker among their tests, each test with a prefix of its own for topics and groups:
 *
 *   const kafka = sharedKafka()
 *   test('…', async () => {
 *     const prefix = kafka.prefix()
 *     const client = new KafkaClient(kafka.client)
 *
 * Whoever kills brokers has them alone, and says `needsKafka()` in the describe so that the tests are skipped where there is
 * no Kafka (never in CI):
 *
 *   needsKafka()
 *   test('…', async () => {
 *     const kafka = await startKafka({ brokers: 3 })
 *     onTestFinished(() => kafka.close())
 *     await kafka.kill(1)
 *     await kafka.start(1)
 *
 * On an idle machine one broker takes 3 s to start and three take 6; one that was killed is back after 4 s at the earliest,
 * when its session has ended. Never kill all three at once, since with eligible-leader replicas a partition may then stay
 * without a leader.
 */

const run = promisify(execFile)

const folder = process.env.CHANGEPROP_TEST_KAFKA ?? join(homedir(), '.cache/changeprop-kafka-4.3.1')
const classPath = join(folder, 'libs/*')
const startLimitMs = 60_000

/** Why there is nothing to test with; undefined where there is, and in CI, where the tests run and fail instead. */
const absence =
  process.env.CI === undefined && !(existsSync(join(folder, 'complete')) && hasJava())
    ? `no Kafka in ${folder}, or no java: test/setup.sh fetches them`
    : undefined

/** How clients log in. */
export type Mechanism = 'plain' | 'scram-sha-256' | 'scram-sha-512'

export interface KafkaOptions {
  /** Three of them replicate everything three times, with `min.insync.replicas` 2. */
  readonly brokers: 1 | 3
  /** Clients speak TLS; `mutual` also asks them for a certificate. */
  readonly tls?: boolean | 'mutual'
  /** Clients log in. `service` may do all, `stranger` nothing that no ACL allows. */
  readonly sasl?: Mechanism
  /** Compiled for throughput, as in production: for benchmarks. A start then takes twice as long. */
  readonly isOptimised?: boolean
  /** More of `server.properties`, for instance `{ 'message.max.bytes': '4096' }`. */
  readonly properties?: Readonly<Record<string, string>>
}

/** Brokers are numbered from 1. */
export interface Kafka {
  /** `host:port` of each, the same for all its life. */
  readonly brokers: readonly string[]
  /** What kafkajs needs to connect, as the user `service` where there are users. It logs nothing. */
  readonly client: KafkaConfig
  /** What clients need, as text and as files. Only with `tls`. */
  readonly tls: TlsKeys | undefined
  /** Both are known to the brokers where there is `sasl`. */
  readonly users: { readonly service: KafkaUser; readonly stranger: KafkaUser }
  /** Its process, while it runs. */
  pid(broker: number): number | undefined
  /** SIGKILL; resolves when it is gone. */
  kill(broker: number): Promise<void>
  /** Starts what has ended again, on the same data and port; resolves when it is one of the cluster. */
  start(broker: number): Promise<void>
  /** As an operator would: it hands over its leaderships. Resolves when it is gone. */
  stop(broker: number): Promise<void>
  /** Kills them all and removes their data. */
  close(): Promise<void>
}

export interface KafkaUser {
  readonly username: string
  readonly password: string
}

const users = {
  service: { username: 'service', password: 'word-of-the-service' },
  stranger: { username: 'stranger', password: 'word-of-the-stranger' },
}

/** Skips the tests around it where there is no Kafka, and says how to get it. In CI they run, and fail. */
export function needsKafka(): void {
  beforeEach((context) => {
    if (absence !== undefined) context.skip(absence)
  })
}

export interface SharedKafka extends Omit<Kafka, 'close'> {
  /** A new one each time, for topics and groups. */
  prefix(): string
}

/** Brokers for all tests around it. Nothing of it may be asked before the first test, but for `prefix`. */
export function sharedKafka(options: KafkaOptions = { brokers: 1 }): SharedKafka {
  let started: Kafka | undefined
  let prefixes = 0
  const kafka = () => {
    if (started === undefined) throw new Error('the shared Kafka is there for tests and their hooks only')
    return started
  }
  needsKafka()
  beforeAll(async () => {
    if (absence === undefined) started = await startKafka(options)
  })
  afterAll(() => started?.close())
  return {
    get brokers() {
      return kafka().brokers
    },
    get client() {
      return kafka().client
    },
    get tls() {
      return kafka().tls
    },
    users,
    pid: (broker) => kafka().pid(broker),
    kill: (broker) => kafka().kill(broker),
    start: (broker) => kafka().start(broker),
    stop: (broker) => kafka().stop(broker),
    prefix: () => `t${++prefixes}.`,
  }
}

/** Resolves when every broker answers and knows all the others. */
export async function startKafka(options: KafkaOptions): Promise<Kafka> {
  if (!existsSync(join(folder, 'complete'))) throw new Error(`there is no Kafka in ${folder}: test/setup.sh fetches it`)
  const home = await mkdtemp(join(tmpdir(), 'changeprop-kafka-'))
  const keys = options.tls ? await makeKeys(home) : undefined
  const ports = await freePorts(options.brokers * 3)
  const nodes = Array.from({ length: options.brokers }, (_, index): Node => {
    const [client = 0, internal = 0, controller = 0] = ports.slice(index * 3)
    return { id: index + 1, client, internal, controller, home: join(home, String(index + 1)) }
  })
  const cluster = randomBytes(16).toString('base64url')
  const brokers = nodes.map((node) => new Broker(node, options.isOptimised ? [] : quickStart, clientOf))

  /** Asks only those of the given numbers. */
  function clientOf(asked: readonly number[]): KafkaConfig {
    const chosen = nodes.filter(({ id }) => asked.includes(id))
    return {
      brokers: chosen.map(addressOf),
      logLevel: logLevel.NOTHING,
      connectionTimeout: 5_000,
      ...(keys === undefined ? {} : { ssl: sslOf(keys, options.tls === 'mutual') }),
      ...(options.sasl === undefined ? {} : { sasl: saslOf(options.sasl, users.service) }),
    }
  }

  async function close(): Promise<void> {
    await Promise.all(brokers.map((broker) => broker.end('SIGKILL')))
    await rm(home, { recursive: true, force: true })
  }

  const broker = (number: number) => {
    const found = brokers[number - 1]
    if (found === undefined) throw new Error(`there is no broker ${number}; they are 1 to ${brokers.length}`)
    return found
  }

  try {
    await Promise.all(
      brokers.map((each) => each.format(cluster, serverProperties(each.node, nodes, options, keys), options.sasl)),
    )
    const all = nodes.map(({ id }) => id)
    await Promise.all(brokers.map((each) => each.start(all)))
  } catch (error) {
    await close()
    throw error
  }

  return {
    brokers: nodes.map(addressOf),
    client: clientOf(nodes.map(({ id }) => id)),
    tls: keys,
    users,
    pid: (number) => broker(number).pid,
    kill: (number) => broker(number).end('SIGKILL'),
    start: (number) => broker(number).start([number]),
    stop: (number) => broker(number).end('SIGTERM'),
    close,
  }
}

interface Node {
  readonly id: number
  /** Ports on loopback: for clients, among brokers, among controllers. */
  readonly client: number
  readonly internal: number
  readonly controller: number
  readonly home: string
}

/**
 * Takes the place of its shell, and leads a process group in which a watcher reads what never comes: where the process of
 * the tests ends, however it ends, the reading ends too, and the watcher ends the group.
 */
const untilPipeEnds = '{ read -r _ <&3; kill -KILL 0; } & exec java "$@" 3<&-'

/** Compiling well does not pay in a short life. */
const quickStart = ['-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC']

class Broker {
  readonly node: Node
  readonly #javaOptions: readonly string[]
  readonly #clientOf: (asked: readonly number[]) => KafkaConfig
  #child: ChildProcess | undefined

  constructor(node: Node, javaOptions: readonly string[], clientOf: (asked: readonly number[]) => KafkaConfig) {
    this.node = node
    this.#javaOptions = javaOptions
    this.#clientOf = clientOf
  }

  get #propertiesFile(): string {
    return join(this.node.home, 'server.properties')
  }

  get #logFile(): string {
    return join(this.node.home, 'log')
  }

  get pid(): number | undefined {
    return this.#isRunning ? this.#child?.pid : undefined
  }

  get #isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  async format(cluster: string, properties: string, sasl: Mechanism | undefined): Promise<void> {
    await mkdir(this.node.home)
    await writeFile(this.#propertiesFile, properties)
    await run('java', [
      ...[...quickStart, '-cp', classPath],
      ...['kafka.tools.StorageTool', 'format', `--cluster-id=${cluster}`, '--config', this.#propertiesFile],
      ...(sasl === undefined || sasl === 'plain' ? [] : Object.values(users).flatMap((user) => scramOf(sasl, user))),
    ])
  }

  /** Resolves when it answers and knows the brokers of these numbers. */
  async start(wanted: readonly number[]): Promise<void> {
    const { id } = this.node
    if (this.#isRunning) throw new Error(`broker ${id} runs already`)
    const log = await open(this.#logFile, 'a')
    const child = spawn(
      'sh',
      [
        ...['-c', untilPipeEnds, 'sh', ...this.#javaOptions, '-Xmx400m', '-XX:-UsePerfData'],
        ...['-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-Dorg.slf4j.simpleLogger.showDateTime=true'],
        ...['-cp', classPath, 'kafka.Kafka', this.#propertiesFile],
      ],
      { stdio: ['ignore', log.fd, log.fd, 'pipe'], detached: true },
    )
    this.#child = child
    await log.close()
    child.once('exit', () => child.stdio[3]?.destroy())
    try {
      await until(
        `broker ${id} knows the brokers ${wanted}`,
        async () => {
          if (!this.#isRunning) throw new Error(`broker ${id} ended with ${child.exitCode ?? child.signalCode}`)
          const known = await this.#knownBrokers()
          return wanted.every((number) => known.includes(number))
        },
        startLimitMs,
      )
    } catch (cause) {
      const log = await readFile(this.#logFile, 'utf8')
      await this.end('SIGKILL')
      throw new Error(`broker ${id} did not come up; the end of its log:\n${log.slice(-4_000)}`, { cause })
    }
  }

  /** Those that this one knows to be alive; none where it does not answer. */
  async #knownBrokers(): Promise<readonly number[]> {
    // Costs less than a client, and less of the processor on which a broker is starting.
    if (!(await isListening(addressOf(this.node)))) return []
    const admin = new KafkaClient({ ...this.#clientOf([this.node.id]), retry: { retries: 0 } }).admin()
    try {
      await admin.connect()
      const { brokers } = await admin.describeCluster()
      return brokers.map(({ nodeId }) => nodeId)
    } catch (error) {
      if (error instanceof Error && error.name.startsWith('KafkaJS')) return []
      throw error
    } finally {
      await admin.disconnect()
    }
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const child = this.#child
    if (child === undefined || !this.#isRunning) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
  }
}

function serverProperties(
  node: Node,
  nodes: readonly Node[],
  options: KafkaOptions,
  keys: TlsKeys | undefined,
): string {
  const { tls, sasl, brokers } = options
  const clients = sasl === undefined ? (tls ? 'SSL' : 'PLAINTEXT') : tls ? 'SASL_SSL' : 'SASL_PLAINTEXT'
  const properties: Record<string, string | number | boolean> = {
    'process.roles': 'broker,controller',
    'node.id': node.id,
    'controller.quorum.voters': nodes.map(({ id, controller }) => `${id}@127.0.0.1:${controller}`).join(),
    listeners: `CLIENT://127.0.0.1:${node.client},INTERNAL://127.0.0.1:${node.internal},CONTROLLER://127.0.0.1:${node.controller}`,
    'advertised.listeners': `CLIENT://127.0.0.1:${node.client},INTERNAL://127.0.0.1:${node.internal}`,
    'inter.broker.listener.name': 'INTERNAL',
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': `CLIENT:${clients},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT`,
    'log.dirs': join(node.home, 'data'),
    'auto.create.topics.enable': false,
    'default.replication.factor': brokers,
    'min.insync.replicas': brokers === 3 ? 2 : 1,
    'offsets.topic.replication.factor': brokers,
    'offsets.topic.num.partitions': 4,
    'transaction.state.log.replication.factor': brokers,
    'transaction.state.log.min.isr': brokers === 3 ? 2 : 1,
    'group.initial.rebalance.delay.ms': 0,
    'broker.session.timeout.ms': 4_000,
    'broker.heartbeat.interval.ms': 500,
    // 128 MB otherwise, a third of the heap.
    'log.cleaner.dedupe.buffer.size': 4 * 1024 * 1024,
    ...(keys === undefined ? {} : tlsProperties(keys, tls === 'mutual')),
    ...(sasl === undefined ? {} : saslProperties(sasl)),
    ...options.properties,
  }
  return Object.entries(properties)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('')
}

/** What clients say is encrypted and logged in; among themselves the brokers trust loopback. */
function tlsProperties(keys: TlsKeys, isMutual: boolean): Record<string, string> {
  return {
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': keys.serverFile,
    'ssl.truststore.type': 'PEM',
    'ssl.truststore.location': keys.caFile,
    'ssl.client.auth': isMutual ? 'required' : 'none',
  }
}

function saslProperties(mechanism: Mechanism): Record<string, string> {
  const modules = 'org.apache.kafka.common.security'
  const known = Object.values(users).map(({ username, password }) => `user_${username}="${password}"`)
  const jaas =
    mechanism === 'plain'
      ? `${modules}.plain.PlainLoginModule required ${known.join(' ')};`
      : `${modules}.scram.ScramLoginModule required;`
  return {
    'sasl.enabled.mechanisms': mechanism.toUpperCase(),
    [`listener.name.client.${mechanism}.sasl.jaas.config`]: jaas,
    'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    // The brokers themselves are anonymous.
    'super.users': `User:${users.service.username};User:ANONYMOUS`,
  }
}

function sslOf({ ca, cert, key }: TlsKeys, isMutual: boolean): ConnectionOptions {
  return { ca, ...(isMutual ? { cert, key } : {}) }
}

/** The user as kafkajs wants to be told. */
export function saslOf(mechanism: Mechanism, user: KafkaUser): SASLOptions {
  return { mechanism, ...user } as SASLOptions
}

function scramOf(mechanism: Mechanism, { username, password }: KafkaUser): readonly string[] {
  return ['--add-scram', `${mechanism.toUpperCase()}=[name=${username},password=${password}]`]
}

function addressOf({ client }: Node): string {
  return `127.0.0.1:${client}`
}

export function isListening(address: string): Promise<boolean> {
  const [host, port] = address.split(':')
  return new Promise((resolve) => {
    const socket = connect(Number(port), host, () => resolve(true))
    socket.once('error', () => resolve(false)).once('connect', () => socket.destroy())
  })
}

function hasJava(): boolean {
  return spawnSync('java', ['-version']).error === undefined
}
