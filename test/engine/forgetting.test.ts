import { expect, test } from 'vitest'
import { laneKey } from '../../src/engine/lane-key.ts'
import { Settler } from '../../src/engine/settler.ts'
import { Works } from '../../src/engine/works.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { Store } from '../../src/store/store.ts'
import { recordOf, ruleWith } from '../rule/world.ts'
import { WoundClock } from '../support/clock.ts'
import { becomes } from '../support/until.ts'
import { openEngine } from './world.ts'

const many = 50_000

function setup(perKey: Readonly<Record<string, unknown>> = {}) {
  const clock = new WoundClock()
  // Rows that are asked for never come.
  const store = { take: () => new Promise<never>(() => {}) } as Pick<Store, 'take'> as Store
  const pumped: string[] = []
  const works: Works = new Works(store, clock, ({ name }) => pumped.push(name))
  works.use(ruleSet([ruleWith({ throttle: { key: '{{message.key}}', ...perKey } })]))
  const work = works.of('rule')
  const lane = (target: string, key?: string) => works.lane(work, laneKey(target, false, key))
  /** As often as it takes to look at everything. */
  const sweep = () => {
    for (let times = 0; times < 20; times += 1) works.forgetIdle()
  }
  return { clock, works, work, lane, sweep, pumped }
}

test('lanes, limits and healths of keys and targets that came and went are forgotten', () => {
  const { clock, works, work, lane, sweep } = setup({ rate: '10/s' })
  const seen = []
  for (let n = 0; n < many; n += 1) {
    const { health, targetLimit, keyLimit } = lane(`target ${n}`, `key ${n}`)
    for (const started of [health, targetLimit, keyLimit]) started?.started()
    for (const ended of [health, targetLimit, keyLimit]) ended?.ended()
    health.answered({ rule: 'rule', key: '' })
    seen.push(health, targetLimit, keyLimit)
  }
  clock.wind(10_000)
  sweep()
  expect({ lanes: work.lanes.size, limits: work.limits.size }).toEqual({ lanes: 0, limits: 0 })
  const known = new Set<unknown>(seen)
  const left = [...Array(many).keys()].filter(
    (n) => known.has(works.health(`target ${n}`)) || known.has(works.limit(`target ${n}`)),
  )
  expect(left).toEqual([])
})

test('one sweep looks at a part of what there is, and the next goes on from there', () => {
  const { works, work, lane } = setup()
  for (let n = 0; n < many; n += 1) lane('target', `key ${n}`)
  const sizes = [1, 2, 3].map(() => {
    works.forgetIdle()
    return work.lanes.size
  })
  expect(sizes[0]).toBeGreaterThan(many / 2)
  expect(sizes[2]).toBe(0)
})

test('a limit is kept as long as a call counts against it', () => {
  const { lane, sweep } = setup({ concurrency: 1 })
  const { keyLimit: limit } = lane('target', 'key')
  limit?.started()
  sweep()
  expect(lane('target', 'key').keyLimit).toBe(limit)
  expect(lane('target', 'key').closedBy).toBe('slot')
  limit?.ended()
  sweep()
  expect(lane('target', 'key').keyLimit).not.toBe(limit)
})

test('a limit is kept until its rate would let as many start as a new one', () => {
  const { clock, lane, sweep } = setup({ rate: '2/min', burst: 2 })
  const { keyLimit: limit } = lane('target', 'key')
  limit?.started()
  limit?.ended()
  clock.wind(29_990)
  sweep()
  expect(lane('target', 'key').keyLimit).toBe(limit)
  clock.wind(20)
  sweep()
  expect(lane('target', 'key').keyLimit).not.toBe(limit)
})

test('lanes of one key share its limit, although one of them was forgotten in between', () => {
  const { lane, sweep } = setup({ concurrency: 1 })
  lane('first', 'key')
  const second = lane('second', 'key')
  second.rowAt(Number.MAX_SAFE_INTEGER)
  sweep()
  expect(lane('first', 'key').keyLimit).toBe(second.keyLimit)
})

test('a lane with a row is kept, and looks when the row is due', () => {
  const { clock, lane, sweep, pumped } = setup()
  const queue = lane('target')
  queue.rowAt(clock.now() + 1_000)
  sweep()
  expect(lane('target')).toBe(queue)
  clock.wind(1_000)
  expect(pumped).toEqual(['rule'])
  sweep()
  expect(lane('target')).toBe(queue)
})

test('a lane that was forgotten is not woken any more, and its successor is', () => {
  const { clock, lane, sweep, pumped } = setup()
  const before = lane('target')
  before.health.pause(1_000)
  sweep()
  const after = lane('target')
  expect(after).not.toBe(before)
  expect(after.closedBy).toBe('target')
  clock.wind(1_000)
  expect(pumped).toEqual(['rule'])
  expect({ before: before.isInTurn, after: after.isInTurn }).toEqual({ before: false, after: true })
})

test('a row that becomes durable after its lane was forgotten wakes the lane that took its place', () => {
  const { clock, works, work, sweep, pumped } = setup()
  const kept: (() => void)[] = []
  const store = {
    settle: (settlement, durable) => kept.push(() => durable?.(settlement, undefined)),
  } as Pick<Store, 'settle'> as Store
  const settler = new Settler(store, clock, works, { settled() {}, covered() {} })
  const waits = { state: 'waiting', reason: 'due', until: clock.now() + 60_000 } as const
  settler.settle(work, { lane: { rule: 'rule', key: 'target' }, record: recordOf({}) }, waits)
  sweep()
  for (const durable of kept) durable()
  sweep()
  clock.wind(60_000)
  expect(pumped).toEqual(['rule'])
  expect([...work.lanes.values()].map(({ isInTurn }) => isInTurn)).toEqual([true])
})

test('trouble of a target is remembered for ten minutes after its pause', () => {
  const { clock, works, sweep } = setup()
  const health = works.health('target')
  health.pause(1_000)
  clock.wind(600_999)
  sweep()
  expect(works.health('target')).toBe(health)
  clock.wind(1)
  sweep()
  expect(works.health('target')).not.toBe(health)
})

test('answers of a target count for the breaker as long as they would if it were not swept', () => {
  const { clock, works, sweep } = setup()
  const health = works.health('target')
  health.started()
  health.ended()
  health.answered({ rule: 'rule', key: '' })
  clock.wind(9_999)
  sweep()
  expect(works.health('target')).toBe(health)
})

test('thousands of keys come and go and come again: each event is called once', async () => {
  const { post, finish, calls } = await openEngine({ concurrency: 1, total: { concurrency: 200 } })
  const keys = Array.from({ length: 3_000 }, (_, n) => `${n}`)
  await post(keys)
  await finish(3_000)
  await post([...keys, ...keys.slice(0, 1_000)])
  await finish(7_000)
  expect(calls.length).toBe(7_000)
  expect(new Set(calls).size).toBe(3_000)
})

test('a key has no more calls in flight after sweeps than before', async () => {
  const { post, finish, calls, most, clock, counts } = await openEngine({ concurrency: 1 })
  await post(['key'])
  await becomes(
    () => calls.length,
    (count) => count === 1,
  )
  // Its row is made by the first sweep; then nothing but its limit tells of the call.
  for (let sweeps = 0; sweeps < 10; sweeps += 1) clock.wind(500)
  await post(['key', 'key'])
  await becomes(
    () => Object.values(counts().waiting).reduce((sum, count) => sum + count, 0),
    (count) => count === 2,
  )
  await finish(3)
  expect(most()).toBe(1)
})
