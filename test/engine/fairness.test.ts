import { expect, test } from 'vitest'
import type { Send } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { becomes } from '../support/until.ts'
import { openEngine } from './world.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

test('an event of another key starts within a few calls, although one key has filled all room in memory', async () => {
  const concurrency = 4
  const { post, calls, counts, answer, clock, finish } = await openEngine({ total: { concurrency } })
  const waiting = () => Object.values(counts().waiting).reduce((sum, count) => sum + count, 0)
  await post(Array.from({ length: 6_000 }, () => 'noisy'))
  // The router has lost patience then, and waits for no rule any more. No row is made for what is in memory: no sweep comes.
  await becomes(waiting, (count) => count > 250)
  clock.wind(100)
  await becomes(waiting, (count) => count === 6_000 - concurrency)
  await post(['quiet'])
  await becomes(waiting, (count) => count === 6_001 - concurrency)
  answer()
  await becomes(
    () => {
      // A row that is due now is seen when time goes on.
      clock.wind(1)
      return calls.includes('/quiet')
    },
    (isCalled) => isCalled,
  )
  // Those that ran, and at most as many again beside it.
  expect(calls.indexOf('/quiet')).toBeLessThan(2 * concurrency)
  await finish(6_001)
  expect(calls.length).toBe(6_001)
})

test('a key whose calls always fail keeps those of no other key from a target that answers them', async () => {
  const good = 40
  const { post, calls, answer, clock } = await openEngine({}, (path) => (path === '/bad' ? 500 : 200))
  answer()
  await post(Array.from({ length: 25 }, () => 'bad'))
  // The target counts as broken then, and is only probed.
  await becomes(
    () => {
      clock.wind(100)
      return calls.length
    },
    (count) => count > 25,
  )
  await post(Array.from({ length: good }, () => 'good'))
  await becomes(
    () => {
      clock.wind(100)
      return calls.filter((path) => path === '/good').length
    },
    (count) => count === good,
  )
})

test('deliveries that always fail keep no others of their rule from a target that answers those', async () => {
  const [bad, good] = [60, 40]
  const clock = new WoundClock()
  const called = { bad: 0, good: 0 }
  const send: Send = async ({ path }) => {
    called[path === '/bad' ? 'bad' : 'good'] += 1
    const status = path === '/bad' ? 503 : 200
    return { kind: 'answer', status, headers: {}, body: new Uint8Array(), truncated: false }
  }
  const exec = { method: 'post', uri: 'http://a.example/{{message.kind}}' }
  const retry = { limit: 1_000, delay: '1s', factor: 1 }
  const rules = ruleSet([ruleWith({ exec, retry, throttle: { concurrency: 20 } })])
  const engine = new WoundEngine(await (await openEmbeddedWorld()).open(clock), clock, { rules, send })
  let posted = 0
  const post = (kind: string, count: number) =>
    engine.store.append(Array.from({ length: count }, () => newEvent('page', `event-${posted++}`, { kind })))
  const wind = async (ms: number, isEnough = () => false) => {
    for (let wound = 0; wound < ms && !isEnough(); wound += 100) {
      clock.wind(100)
      await engine.still()
    }
  }
  await post('bad', bad)
  // The target counts as broken then, and is only probed.
  await wind(30_000)
  expect(called.bad).toBeLessThan(bad)
  await post('good', good)
  await wind(60_000, () => called.good === good)
  expect(called.good).toBe(good)
})
