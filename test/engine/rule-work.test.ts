import { expect, test } from 'vitest'
import { RuleWork } from '../../src/engine/rule-work.ts'
import { ruleWith } from '../rule/world.ts'
import { WoundClock } from '../support/clock.ts'

/** A rule with two slots, all of whose calls were answered, the first so long ago, and are not durable. */
function answered(count: number, { settleMs, sinceMs }: { settleMs: number; sinceMs: number }): RuleWork {
  const clock = new WoundClock()
  const work = new RuleWork('rule', clock, 1, { rowCost: 1, settleMs })
  work.use(ruleWith({ exec: { uri: 'http://a.example/' }, concurrency: 2 }))
  work.answered()
  clock.wind(sinceMs)
  for (let others = 1; others < count; others += 1) work.answered()
  return work
}

test.each([
  ['as many answers as it has slots are not durable', 2, { settleMs: 0, sinceMs: 0 }, false],
  ['one less is', 1, { settleMs: 0, sinceMs: 1_000 }, true],
  ['many are not, of a store that takes so long', 500, { settleMs: 50, sinceMs: 49 }, true],
  ['the first of them is not for longer', 500, { settleMs: 50, sinceMs: 50 }, false],
])('whether a rule may start another call when %s', (_when, count, times, hasSlot) => {
  expect(answered(count, times).hasSlot).toBe(hasSlot)
})

test('a rule goes on when what was answered is durable', () => {
  const work = answered(2, { settleMs: 0, sinceMs: 0 })
  work.settled()
  expect(work.hasSlot).toBe(true)
})
