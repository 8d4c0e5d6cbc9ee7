import { expect, onTestFinished, test } from 'vitest'
import type { StreamRecord } from '../../src/event/event.ts'
import type { Reply } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbedded, temporaryFolder } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

const ok: Reply = { kind: 'answer', status: 200, headers: {}, body: new Uint8Array(), truncated: false }

test('a call of a lost event that ends does not free its key for who comes while another has it', async () => {
  const clock = new WoundClock()
  const opened = await openEmbedded(await temporaryFolder(), clock)
  let isLost = false
  const isOurs = (_: StreamRecord) => !isLost
  const store = new Proxy(opened.store, {
    get(of, name) {
      const value: unknown = name === 'isOurs' ? isOurs : Reflect.get(of, name, of)
      return typeof value === 'function' ? value.bind(of) : value
    },
  })
  const answers: (() => void)[] = []
  const send = () => new Promise<Reply>((resolve) => answers.push(() => resolve(ok)))
  const rules = ruleSet([ruleWith({ order: { key: '{{message.key}}' } })])
  const world = new WoundEngine({ ...opened, store }, clock, { rules, send })
  onTestFinished(() => {
    for (const answer of answers) answer()
  })
  const post = async (id: string) => {
    await world.store.append([newEvent('page', id, { key: 'k' })])
    await world.still()
  }

  await post('first')
  isLost = true
  world.engine.dropLost()
  isLost = false
  await post('second')
  expect(answers).toHaveLength(2)
  answers[0]?.()
  await world.still()
  await post('third')
  expect(answers).toHaveLength(2)
  answers[1]?.()
  await world.still()
  clock.wind(0)
  await world.still()
  expect(answers).toHaveLength(3)
})
