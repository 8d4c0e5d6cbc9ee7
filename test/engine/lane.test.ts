import { expect, test } from 'vitest'
import type { Reply } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

test('what was due already is called when it is due again, after the clock was set back', async () => {
  const clock = new WoundClock()
  const world = await openEmbeddedWorld()
  const answers: (() => void)[] = []
  const send = () =>
    new Promise<Reply>((resolve) => {
      answers.push(() =>
        resolve({ kind: 'answer', status: 200, headers: {}, body: new Uint8Array(), truncated: false }),
      )
    })
  const rules = ruleSet([ruleWith({ delay: '2s', concurrency: 1 })])
  const engine = new WoundEngine(await world.open(clock), clock, { rules, send })
  const wind = async (ms: number) => {
    clock.wind(ms)
    await engine.still()
  }
  await engine.store.append([newEvent('page', 'first', {})])
  await engine.still()
  await wind(1_000)
  await engine.store.append([newEvent('page', 'second', {})])
  await engine.still()
  await wind(1_000)
  await wind(1_000)
  expect(answers).toHaveLength(1)

  await wind(-500)
  answers[0]?.()
  await engine.still()
  expect(answers).toHaveLength(1)
  await wind(500)
  expect(answers).toHaveLength(2)
  answers[1]?.()
})
