import { expect, test } from 'vitest'
import type { Reply } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

test('what is about to be discarded with a rule that is gone is called by one that comes back meanwhile', async () => {
  const clock = new WoundClock()
  const world = await openEmbeddedWorld()
  let status = 500
  let calls = 0
  const send = async (): Promise<Reply> => {
    calls += 1
    return { kind: 'answer', status, headers: {}, body: new Uint8Array(), truncated: false }
  }
  const retry = { limit: 9, delay: '1s', factor: 1, jitter: 'none' }
  const rules = ruleSet([ruleWith({ order: { key: '{{message.key}}' }, retry })])
  const engine = new WoundEngine(await world.open(clock), clock, { rules, send })
  await engine.store.append(['A', 'A', 'B'].map((key, n) => newEvent('page', `event-${n}`, { key })))
  await engine.still()
  status = 200

  engine.reload(ruleSet([]))
  const discarded = engine.engine.discardGone('rule')
  engine.reload(rules)
  expect(await discarded).toBe(0)
  await engine.still()
  clock.wind(1_000)
  await engine.still()
  clock.wind(0)
  await engine.still()

  // Two that failed, and then all three.
  expect(calls).toBe(5)
  expect(engine.engine.counts('rule')).toMatchObject({ waiting: {}, done: 3 })
})
