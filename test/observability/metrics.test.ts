import { expect, test } from 'vitest'
import type { RuleStats } from '../../src/api/contract.ts'
import { createMetrics, type Metrics } from '../../src/observability/metrics.ts'

/** The values of our own metrics, by name and labels. */
async function values(metrics: Metrics): Promise<Map<string, number>> {
  const lines = (await metrics.scrape()).split('\n').filter((line) => line.startsWith('changeprop_'))
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  )
}

test('events are counted by stream and result', async () => {
  const metrics = createMetrics()
  metrics.events('a', 'accepted', 3)
  metrics.events('a', 'accepted')
  metrics.events('a', 'invalid')
  metrics.events(undefined, 'error')
  const found = await values(metrics)
  expect(found.get('changeprop_events_total{stream="a",result="accepted"}')).toBe(4)
  expect(found.get('changeprop_events_total{stream="a",result="invalid"}')).toBe(1)
  expect(found.get('changeprop_events_total{stream="other",result="error"}')).toBe(1)
})

test('at most 200 streams have a label of their own, and none that never had a good event', async () => {
  const metrics = createMetrics()
  for (let n = 0; n < 1_000; n++) metrics.events(`rubbish${n}`, 'invalid')
  for (let n = 0; n < 300; n++) metrics.events(`stream${n}`, 'accepted')
  const found = await values(metrics)
  expect([...found.keys()].filter((key) => key.startsWith('changeprop_events_total'))).toHaveLength(202)
  expect(found.get('changeprop_events_total{stream="other",result="accepted"}')).toBe(100)
  expect(found.get('changeprop_events_total{stream="other",result="invalid"}')).toBe(1_000)
})

test('deliveries, attempts, ages and commits are told in Prometheus’ words', async () => {
  const metrics = createMetrics()
  metrics.attempted('purge', 'failed', 20)
  metrics.attempted('purge', 'ok', 70_000)
  metrics.settled('purge', 'waiting', 'retry', 1_000)
  metrics.settled('purge', 'done', 'ok', 4_000)
  metrics.committed(2.5)
  const found = await values(metrics)
  expect(found.get('changeprop_attempts_total{rule="purge",outcome="failed"}')).toBe(1)
  expect(found.get('changeprop_deliveries_total{rule="purge",state="done",reason="ok"}')).toBe(1)
  expect(found.get('changeprop_deliveries_total{rule="purge",state="waiting",reason="retry"}')).toBe(1)
  expect(found.get('changeprop_attempt_duration_seconds_bucket{rule="purge",le="0.01"}')).toBe(0)
  expect(found.get('changeprop_attempt_duration_seconds_bucket{rule="purge",le="0.025"}')).toBe(1)
  expect(found.get('changeprop_attempt_duration_seconds_bucket{rule="purge",le="+Inf"}')).toBe(2)
  expect(found.get('changeprop_attempt_duration_seconds_sum{rule="purge"}')).toBeCloseTo(70.02)
  expect(found.get('changeprop_event_age_at_done_seconds_count{rule="purge"}')).toBe(1)
  expect(found.get('changeprop_store_commit_seconds_bucket{le="0.001"}')).toBe(0)
  expect(found.get('changeprop_store_commit_seconds_bucket{le="0.0025"}')).toBe(1)
})

test('counters keep counting from scrape to scrape', async () => {
  const metrics = createMetrics()
  metrics.events('a', 'accepted')
  await metrics.scrape()
  metrics.events('a', 'accepted')
  expect((await values(metrics)).get('changeprop_events_total{stream="a",result="accepted"}')).toBe(2)
})

test('gauges show what their sources say at the time, and no rule that is gone', async () => {
  const metrics = createMetrics()
  expect([...(await values(metrics)).keys()].some((key) => /running|waiting|store_bytes/.test(key))).toBe(false)
  const stats: RuleStats = { waiting: { retry: 3 }, running: 1, done: 9, dead: 0, oldestEligibleAgeMs: 1_500 }
  let rules: [string, RuleStats][] = [
    ['a', stats],
    ['b', stats],
  ]
  const lag = new Map(Array.from({ length: 203 }, (_, index) => [`s${index}`, 300 - index]))
  const pausedTargets = () => new Map([['enwiki', 1_700_000_000_500]])
  metrics.observe({ rules: () => rules, storeBytes: () => 77, lag: () => lag, pausedTargets })
  await metrics.scrape()
  rules = [['a', { ...stats, running: 2 }]]
  const found = await values(metrics)
  expect(found.get('changeprop_waiting{rule="a",reason="retry"}')).toBe(3)
  expect(found.get('changeprop_running{rule="a"}')).toBe(2)
  expect(found.has('changeprop_running{rule="b"}')).toBe(false)
  expect(found.get('changeprop_oldest_eligible_age_seconds{rule="a"}')).toBe(1.5)
  expect(found.get('changeprop_store_bytes')).toBe(77)
  expect(found.get('changeprop_target_paused_until_seconds{target="enwiki"}')).toBe(1_700_000_000.5)
  expect(found.get('changeprop_stream_lag{stream="s0"}')).toBe(300)
  expect(found.get('changeprop_stream_lag{stream="other"}')).toBe(100 + 99 + 98)
})

test('Node’s own metrics are there', async () => {
  expect(await createMetrics().scrape()).toContain('nodejs_heap_size_used_bytes')
})
