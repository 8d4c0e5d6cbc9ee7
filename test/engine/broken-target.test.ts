import { expect, test } from 'vitest'
import type { JsonObject } from '../../src/event/event.ts'
import type { Send } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { Store } from '../../src/store/store.ts'
import { createRandom } from '../e2e/random.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

/**
 * An engine with one rule, whose calls go to `/kind` of one target. A call of what is good is answered well, of what is fair two
 * of five, by chance; any other fails.
 */
async function setup(throttle: JsonObject, { callMs = 0, delay = '1s', concurrency = Number.POSITIVE_INFINITY } = {}) {
  const clock = new WoundClock()
  const called = { bad: 0, fair: 0, good: 0 }
  const random = createRandom(1)
  const send: Send = async ({ path }, signal) => {
    if (callMs > 0)
      await new Promise<void>((resolve) => {
        clock.at(clock.now() + callMs, resolve)
        signal?.addEventListener('abort', () => resolve())
      })
    const kind = path === '/good' ? 'good' : path === '/fair' ? 'fair' : 'bad'
    called[kind] += 1
    const status = kind === 'good' || (kind === 'fair' && random.chance(0.4)) ? 200 : 503
    return { kind: 'answer', status, headers: {}, body: new Uint8Array(), truncated: false }
  }
  const limits = { concurrency, perSecond: Number.POSITIVE_INFINITY, burst: Number.POSITIVE_INFINITY }
  const sites = { wikis: [], targets: { a: { url: 'http://a.example', maxPauseMs: 5_000, limits } } }
  const exec = { method: 'post', uri: 'http://a.example/{{message.kind}}' }
  const rules = (more: JsonObject = {}) =>
    ruleSet([ruleWith({ exec, retry: { limit: 1_000, delay, factor: 1 }, throttle, ...more }, sites)])
  const opened = await (await openEmbeddedWorld()).open(clock)
  const store = counted(opened.store)
  const engine = new WoundEngine({ ...opened, store: store.counted }, clock, { rules: rules(), send, sites })
  let posted = 0
  return {
    called,
    rowsWritten: store.rowsWritten,
    reload: (more: JsonObject) => engine.reload(rules(more)),
    counts: () => engine.engine.counts('rule'),
    post: (kind: string, count: number, key = (_: number) => '') =>
      engine.store.append(
        Array.from({ length: count }, (_, n) => newEvent('page', `event-${posted++}`, { kind, key: key(n) })),
      ),
    async wind(ms: number, isEnough = () => false, stepMs = 100) {
      for (let wound = 0; wound < ms && !isEnough(); wound += stepMs) {
        clock.wind(stepMs)
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

test.each([
  ['slots of its rule', { total: { concurrency: 1 } }, Number.POSITIVE_INFINITY],
  ['slots of its target', { total: { concurrency: 50 } }, 1],
])(
  'a key whose calls always fail has no more turns at the %s than one whose calls are answered',
  async (_, policy, concurrency) => {
    const options = { callMs: 10, delay: '10ms', concurrency }
    const { called, post, wind } = await setup({ key: '{{message.kind}}', ...policy }, options)
    await post('bad', 100)
    await post('good', 100)
    await wind(2_000, () => called.good === 90, 10)
    expect(called.good).toBe(90)
    expect(called.bad).toBeLessThan(1.3 * called.good)
  },
)

test('where those that were to probe a target are not called after all, others do', async () => {
  const { called, counts, post, reload, wind } = await setup({ key: '{{message.kind}}' })
  await post('bad', 100)
  await wind(20_000)
  await post('good', 1)
  reload({ match: { kind: 'good' } })
  await wind(6_000)
  expect(called.good).toBe(1)
  expect(counts()).toMatchObject({ waiting: {}, done: 101 })
})

test('a target that fails three calls of five by chance is mostly left alone, though what is tried again fails as often', async () => {
  const { called, post, wind } = await setup({ concurrency: 20 })
  await post('fair', 3_000)
  await wind(60_000)
  expect(called.fair).toBeGreaterThan(20)
  expect(called.fair).toBeLessThan(1_000)
})
