import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import type { RuleStats } from '../api/contract.ts'
import { Distribution, DistributionMetric } from './distribution.ts'

export type EventResult = 'accepted' | 'invalid' | 'error'

/** What is only known elsewhere, and asked for at each scrape. */
export interface MetricSources {
  /** Each rule with its name. */
  rules(): Iterable<readonly [string, RuleStats]>
  storeBytes(): number
  /** By stream, where streams are read each for itself: events that are not finished. */
  lag(): ReadonlyMap<string, number>
  /** Until when, in ms. */
  pausedTargets(): ReadonlyMap<string, number>
}

export interface Metrics {
  /** `count` events of a stream came to this; undefined where the event names no stream. */
  events(stream: string | undefined, result: EventResult, count?: number): void
  /** One call came to this. */
  attempted(rule: string, outcome: string, ms: number): void
  /** A delivery came to this state, `ageMs` after its event's time. */
  settled(rule: string, state: string, reason: string, ageMs: number): void
  /** So many are done (`duplicate`) because a newer delivery of their key was called. */
  covered(rule: string, count: number): void
  /** One durable commit took this long, in ms. */
  committed(ms: number): void
  /** From now on gauges ask here. Until then they have no values. */
  observe(sources: MetricSources): void
  /** In Prometheus' text format. */
  scrape(): Promise<string>
  readonly contentType: string
}

/** Stream names come from outside: beyond so many they share the label value `other`. */
const mostStreams = 200
const otherStreams = 'other'
/** Of those that are paused, by name: a farm may have thousands. */
const mostTargets = 200

const callBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
const ageBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 1_800, 3_600, 21_600, 86_400, 604_800]
const commitBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5]

type EventCounts = Record<EventResult, number>

/**
 * What happens often is counted in plain fields, and put into Prometheus' words only when somebody looks: a counter with
 * labels costs more per event than everything else that intake does with one.
 */
export function createMetrics(): Metrics {
  const registry = new Registry()
  const streams = new Map<string, EventCounts>()
  const other = noEvents()
  const rules = new Map<string, RuleMeter>()
  const commits = new Distribution(commitBuckets)
  let sources: MetricSources | undefined

  collectDefaultMetrics({ register: registry })
  describeEvents(registry, () => [...streams, [otherStreams, other]])
  describeRules(registry, rules)
  describeCommits(registry, commits)
  describeGauges(registry, () => sources)

  return {
    events(stream, result, count = 1) {
      let counts = stream === undefined ? other : streams.get(stream)
      if (counts === undefined) {
        // Only what was accepted earns a label of its own, so that rubbish cannot use them up.
        counts = other
        if (stream !== undefined && result === 'accepted' && streams.size < mostStreams) {
          counts = noEvents()
          streams.set(stream, counts)
        }
      }
      counts[result] += count
    },
    attempted(rule, outcome, ms) {
      meterOf(rules, rule).attempt(outcome, ms)
    },
    settled(rule, state, reason, ageMs) {
      const meter = meterOf(rules, rule)
      meter.delivery(state, reason)
      if (state === 'done') meter.ages.add(ageMs / 1_000)
    },
    covered(rule, count) {
      meterOf(rules, rule).delivery('done', 'duplicate', count)
    },
    committed: (ms) => commits.add(ms / 1_000),
    observe(given) {
      sources = given
    },
    scrape: () => registry.metrics(),
    contentType: registry.contentType,
  }
}

/** What is counted of one rule. */
class RuleMeter {
  readonly deliveries = new Map<string, Map<string, number>>()
  readonly attempts = new Map<string, number>()
  readonly durations = new Distribution(callBuckets)
  readonly ages = new Distribution(ageBuckets)

  delivery(state: string, reason: string, count = 1): void {
    let reasons = this.deliveries.get(state)
    if (reasons === undefined) {
      reasons = new Map()
      this.deliveries.set(state, reasons)
    }
    reasons.set(reason, (reasons.get(reason) ?? 0) + count)
  }

  attempt(outcome: string, ms: number): void {
    this.attempts.set(outcome, (this.attempts.get(outcome) ?? 0) + 1)
    this.durations.add(ms / 1_000)
  }
}

function meterOf(rules: Map<string, RuleMeter>, name: string): RuleMeter {
  let meter = rules.get(name)
  if (meter === undefined) {
    meter = new RuleMeter()
    rules.set(name, meter)
  }
  return meter
}

function noEvents(): EventCounts {
  return { accepted: 0, invalid: 0, error: 0 }
}

function describeEvents(registry: Registry, counts: () => Iterable<readonly [string, EventCounts]>): void {
  new Counter({
    name: 'changeprop_events_total',
    help: 'Events that were posted: accepted, invalid by their schema, or not stored for another reason (error).',
    labelNames: ['stream', 'result'],
    registers: [registry],
    collect() {
      this.reset()
      for (const [stream, results] of counts()) {
        for (const [result, count] of Object.entries(results)) if (count > 0) this.inc({ stream, result }, count)
      }
    },
  })
}

function describeRules(registry: Registry, rules: ReadonlyMap<string, RuleMeter>): void {
  new Counter({
    name: 'changeprop_deliveries_total',
    help: 'Deliveries that came to a state, and why.',
    labelNames: ['rule', 'state', 'reason'],
    registers: [registry],
    collect() {
      this.reset()
      for (const [rule, meter] of rules) {
        for (const [state, reasons] of meter.deliveries) {
          for (const [reason, count] of reasons) this.inc({ rule, state, reason }, count)
        }
      }
    },
  })
  new Counter({
    name: 'changeprop_attempts_total',
    help: 'Calls that were made, by what they came to.',
    labelNames: ['rule', 'outcome'],
    registers: [registry],
    collect() {
      this.reset()
      for (const [rule, meter] of rules) {
        for (const [outcome, count] of meter.attempts) this.inc({ rule, outcome }, count)
      }
    },
  })
  const perRule = (of: (meter: RuleMeter) => Distribution) => () =>
    [...rules].map(([rule, meter]) => [{ rule }, of(meter)] as const)
  new DistributionMetric({
    name: 'changeprop_attempt_duration_seconds',
    help: 'Time that one call took.',
    limits: callBuckets,
    labelNames: ['rule'],
    registry,
    read: perRule((meter) => meter.durations),
  })
  new DistributionMetric({
    name: 'changeprop_event_age_at_done_seconds',
    help: "Time from an event's own time to the end of a delivery of it.",
    limits: ageBuckets,
    labelNames: ['rule'],
    registry,
    read: perRule((meter) => meter.ages),
  })
}

function describeCommits(registry: Registry, commits: Distribution): void {
  new DistributionMetric({
    name: 'changeprop_store_commit_seconds',
    help: 'Time that one durable commit took.',
    limits: commitBuckets,
    labelNames: [],
    registry,
    read: () => [[{}, commits]],
  })
}

function describeGauges(registry: Registry, sources: () => MetricSources | undefined): void {
  const ofEachRule = (collect: (gauge: Gauge, rule: string, stats: RuleStats) => void) =>
    function (this: Gauge) {
      this.reset()
      for (const [rule, stats] of sources()?.rules() ?? []) collect(this, rule, stats)
    }
  new Gauge({
    name: 'changeprop_waiting',
    help: 'Deliveries that wait, and for what.',
    labelNames: ['rule', 'reason'],
    registers: [registry],
    collect: ofEachRule((gauge, rule, stats) => {
      for (const [reason, count] of Object.entries(stats.waiting)) gauge.set({ rule, reason }, count)
    }),
  })
  new Gauge({
    name: 'changeprop_running',
    help: 'Deliveries in flight.',
    labelNames: ['rule'],
    registers: [registry],
    collect: ofEachRule((gauge, rule, stats) => gauge.set({ rule }, stats.running)),
  })
  new Gauge({
    name: 'changeprop_oldest_eligible_age_seconds',
    help: 'How long the oldest delivery that could run has been able to; 0 when there is none.',
    labelNames: ['rule'],
    registers: [registry],
    collect: ofEachRule((gauge, rule, stats) => gauge.set({ rule }, stats.oldestEligibleAgeMs / 1_000)),
  })
  new Gauge({
    name: 'changeprop_target_paused_until_seconds',
    help: 'Targets that asked for time, are read-only, refuse connections or fail too often: until when they are left alone, as Unix time.',
    labelNames: ['target'],
    registers: [registry],
    collect() {
      this.reset()
      const paused = [...(sources()?.pausedTargets() ?? [])].sort(([, a], [, b]) => b - a)
      for (const [target, until] of paused.slice(0, mostTargets)) this.set({ target }, until / 1_000)
    },
  })
  new Gauge({
    name: 'changeprop_stream_lag',
    help: 'On Kafka: events of a stream that are not finished, in the partitions that this process has.',
    labelNames: ['stream'],
    registers: [registry],
    collect() {
      this.reset()
      const lags = [...(sources()?.lag() ?? [])].sort(([, a], [, b]) => b - a)
      for (const [stream, count] of lags.slice(0, mostStreams)) this.set({ stream }, count)
      const others = lags.slice(mostStreams).reduce((sum, [, count]) => sum + count, 0)
      if (lags.length > mostStreams) this.set({ stream: otherStreams }, others)
    },
  })
  new Gauge({
    name: 'changeprop_store_bytes',
    help: 'Size of what is kept.',
    registers: [registry],
    collect() {
      const asked = sources()
      if (asked === undefined) this.remove()
      else this.set(asked.storeBytes())
    },
  })
}
