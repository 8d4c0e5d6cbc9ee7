import { expect, test } from 'vitest'
import type { JsonObject } from '../../src/event/event.ts'
import type { Send } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { Store } from '../../src/store/store.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

/** An engine with one rule, whose calls go to `/kind` of one target. A call of what is good is answered well, any other fails. */
async function setup(throttle: JsonObject) {
  const clock = new WoundClock()
  const called = { bad: 0, good: 0 }
  const send: Send = async ({ path }) => {
    called[path === '/good' ? 'good' : 'bad'] += 1
    const status = path === '/good' ? 200 : 503
    return { kind: 'answer', status, headers: {}, body: new Uint8Array(), truncated: false }
  }
  const exec = { method: 'post', uri: 'http://a.example/{{message.kind}}' }
  const rules = ruleSet([ruleWith({ exec, retry: { limit: 1_000, delay: '1s', factor: 1 }, throttle })])
  const opened = await (await openEmbeddedWorld()).open(clock)
  const store = counted(opened.store)
  const engine = new WoundEngine({ ...opened, store: store.counted }, clock, { rules, send })
  let posted = 0
  return {
    called,
    rowsWritten: store.rowsWritten,
    counts: () => engine.engine.counts('rule'),
    post: (kind: string, count: number, key = (_: number) => '') =>
      engine.store.append(
        Array.from({ length: count }, (_, n) => newEvent('page', `event-${posted++}`, { kind, key: key(n) })),
      ),
    async wind(ms: number, isEnough = () => false) {
      for (let wound = 0; wound < ms && !isEnough(); wound += 100) {
        clock.wind(100)
        await engine.still()
      }
    },
  }
}

function counted(store: Store) {
  let written = 0
  const settle: Store['settle'] = (settlement, durable) => {
    written += 1
    store.settle(settlement, durable)
  }
  const counting = new Proxy(store, {
    get(_, name) {
      const value: unknown = name === 'settle' ? settle : Reflect.get(store, name, store)
      return typeof value === 'function' ? value.bind(store) : value
    },
  })
  return { counted: counting, rowsWritten: () => written }
}

test('however many keys wait for a target that fails, a probe of it writes few of their rows anew', async () => {
  const concurrency = 50
  const { called, rowsWritten, post, wind } = await setup({ key: '{{message.key}}', total: { concurrency } })
  await post('bad', 2_000, (n) => `key ${n % 50}`)
  await wind(30_000)
  const before = { calls: called.bad, rows: rowsWritten() }
  await wind(30_000)
  const probes = called.bad - before.calls
  expect(probes).toBeGreaterThan(3)
  expect(rowsWritten() - before.rows).toBeLessThanOrEqual(20 * probes)
})

test('a rule with one call at a time finds those that are answered, too, among many that always fail', async () => {
  const { called, post, wind } = await setup({ concurrency: 1 })
  await post('bad', 100)
  await wind(30_000)
  await post('good', 100)
  await wind(300_000, () => called.good >= 90)
  expect(called.good).toBeGreaterThanOrEqual(90)
})

test('what waits for a target that fails is seen to have waited since it could have been called', async () => {
  const { counts, post, wind } = await setup({ concurrency: 20 })
  await post('bad', 100)
  await wind(180_000)
  expect(counts().oldestEligibleAgeMs).toBeGreaterThan(170_000)
})
