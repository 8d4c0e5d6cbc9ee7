import { pino } from 'pino'
import { onTestFinished } from 'vitest'
import type { ServerParts } from '../../src/api/app.ts'
import type { Operations, RuleStats, Selection, ServiceStatus } from '../../src/api/contract.ts'
import { openServer, type Server } from '../../src/api/server.ts'
import { createMetrics, type Metrics } from '../../src/observability/metrics.ts'
import type { Rule, RuleSet } from '../../src/rule/rule.ts'
import { createRegistry, type Registry } from '../../src/stream/registry.ts'
import { RecordingStore } from '../support/recording-store.ts'

export interface WorldOptions {
  readonly maxBodyBytes?: number
  readonly allow?: readonly string[]
  readonly token?: string
  readonly host?: string
  readonly registry?: Pick<Registry, 'admit'>
  readonly rules?: readonly Rule[]
  readonly limits?: ServerParts['limits']
}

/** A server on a port of its own, over a store in memory; closed when the test ends. */
export interface World {
  readonly url: string
  readonly server: Server
  readonly store: RecordingStore
  readonly metrics: Metrics
  readonly operations: RecordingOperations
  /** Lines of the log, as JSON. */
  readonly log: string[]
  status: ServiceStatus
  post(
    body: string | Uint8Array<ArrayBuffer>,
    options?: { readonly search?: string; readonly headers?: Record<string, string> },
  ): Promise<Response>
  get(path: string, headers?: Record<string, string>): Promise<Response>
}

export async function openWorld(options: WorldOptions = {}): Promise<World> {
  const store = new RecordingStore()
  const metrics = createMetrics()
  const operations = new RecordingOperations()
  const log: string[] = []
  const rules = ruleSet(options.rules ?? [])
  const parts: ServerParts = {
    config: {
      listen: { host: options.host ?? '127.0.0.1', port: 0 },
      intake: { maxBodyBytes: options.maxBodyBytes ?? 10 * 1024 * 1024, allow: options.allow },
      admin: { token: options.token },
      stopTimeoutMs: 600_000,
    },
    store,
    metrics,
    operations,
    registry: options.registry ?? createRegistry({ from: [], unknown: 'accept' }),
    rules: () => rules,
    status: () => world.status,
    log: pino({ level: 'debug' }, { write: (line: string) => log.push(line) }),
    version: '1.2.3',
    home: 'https://changeprop.example/',
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  }
  const server = await openServer(parts)
  onTestFinished(() => server.close())
  const world: World = {
    url: server.address,
    server,
    store,
    metrics,
    operations,
    log,
    status: { ready: true, reasons: [], warnings: [] },
    post: (body, { search = '', headers = {} } = {}) =>
      fetch(`${server.address}/v1/events${search}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body,
      }),
    get: (path, headers = {}) => fetch(`${server.address}${path}`, { headers }),
  }
  return world
}

export class RecordingOperations implements Operations {
  readonly asked: unknown[] = []
  stats: RuleStats = { waiting: {}, running: 0, done: 0, dead: 0, oldestEligibleAgeMs: 0 }

  /** Rules that are known by their deliveries only. */
  readonly gone = new Map<string, RuleStats>()

  inFlight = new Map<string, { revision: string; since: number }>()

  running() {
    return this.inFlight
  }

  ruleNames(): readonly string[] {
    return ['purge', ...this.gone.keys()]
  }

  ruleStats(name: string): RuleStats {
    return this.gone.get(name) ?? this.stats
  }

  async replay(selection: Selection, ratePerSecond: number): Promise<{ count: number }> {
    this.asked.push({ selection, ratePerSecond })
    return { count: 3 }
  }

  async discard(selection: Selection): Promise<{ count: number }> {
    this.asked.push({ selection })
    return { count: 2 }
  }
}

export function ruleSet(rules: readonly Rule[]): RuleSet {
  return {
    rules,
    get: (name) => rules.find((rule) => rule.name === name),
    forTopic: (topic) => rules.filter((rule) => rule.concernsTopic(topic)),
  }
}

/** A rule of one topic that matches where `match` says so, in its second case. */
export function aRule(changes: Partial<Rule> = {}): Rule {
  return {
    name: 'purge',
    revision: '0123456789ab',
    file: 'rules/purge.yaml',
    line: 1,
    topics: ['page.edited'],
    concernsTopic: (topic) => topic === 'page.edited',
    match: () => ({ case: 1, captures: {}, requests: [] }),
    explain: () => undefined,
    answers: { preset: 'http', read: () => undefined },
    retry: { limit: 8, delayMs: 5_000, factor: 3, maxDelayMs: 3_600_000, maxAgeMs: 604_800_000, jitter: 'full' },
    throttle: { total: unlimited, key: undefined, perKey: unlimited },
    dueAt: () => 0,
    dedup: undefined,
    supersede: undefined,
    order: undefined,
    expire: undefined,
    sample: undefined,
    policyTexts: {
      throttle: { concurrency: 50 },
      ...{ delay: null, dedup: null, supersede: null, order: null, sample: null },
      expire: { age: '1d', root_age: null },
    },
    written: { topic: 'page.edited' },
    ...changes,
  }
}

const unlimited = { concurrency: 50, perSecond: Number.POSITIVE_INFINITY, burst: Number.POSITIVE_INFINITY }

/** The text of an event that is in order. */
export function anEvent(changes: Readonly<Record<string, unknown>> = {}): string {
  return JSON.stringify({
    $schema: '/page/edited/1.0.0',
    meta: {
      stream: 'page.edited',
      id: '0a16dce9-7e5b-4a41-bd86-c0cee60b235c',
      dt: '2026-11-24T02:39:59Z',
      domain: 'wiki.example',
    },
    ...changes,
  })
}
