import { expect, onTestFinished, test } from 'vitest'
import type { TargetConfig } from '../../src/config/config.ts'
import { Limit } from '../../src/engine/limit.ts'
import type { Reply, Send } from '../../src/http/send.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

const ok: Reply = { kind: 'answer', status: 200, headers: {}, body: new Uint8Array(), truncated: false }

test.each([
  ['is raised', { perSecond: 0.001, part: 1 }],
  ['is ours to a greater part', { perSecond: 1, part: 0.001 }],
])('who waits for a rate that %s meanwhile is called when that allows it', (_what, { perSecond, part }) => {
  const clock = new WoundClock()
  const share = { part }
  const limits = { concurrency: 1, burst: 1 }
  const limit = new Limit({ ...limits, perSecond }, clock, share)
  limit.started()
  limit.ended()
  let isCalled = false
  limit.whenOpen(() => {
    isCalled = true
  })
  share.part = 1
  limit.use({ ...limits, perSecond: 1 })
  clock.wind(1_000)
  expect(isCalled).toBe(true)
})

/** Goes on by one ms between two looks at it, as any clock does that is not wound. */
class TickingClock extends WoundClock {
  /** The look that sees it. */
  ticksAt = Number.POSITIVE_INFINITY
  #ticked = 0

  override now(): number {
    this.ticksAt -= 1
    if (this.ticksAt === 0) this.#ticked = 1
    return super.now() + this.#ticked
  }

  /** Rings what is due by then. */
  ticked(): void {
    this.ticksAt = Number.POSITIVE_INFINITY
    const ms = this.#ticked
    this.#ticked = 0
    this.wind(ms)
  }
}

const rate = { rate: '1/s', burst: 1 }
const a: TargetConfig = {
  ...{ url: 'http://a.example', maxPauseMs: 1_000 },
  limits: { concurrency: 10, perSecond: 1, burst: 1 },
}

/** The target, with such a rate. */
function sitesWith(perSecond: number, burst = 1) {
  return { wikis: [], targets: { a: { ...a, limits: { concurrency: 10, perSecond, burst } } } }
}

test('who is to wait for a limit is called, though its rate opened it meanwhile', () => {
  const clock = new WoundClock()
  const limit = new Limit({ concurrency: 1, perSecond: 1, burst: 1 }, clock, { part: 1 })
  limit.started()
  limit.ended()
  expect(limit.isOpen).toBe(false)
  clock.wind(1_000)
  let isCalled = false
  limit.whenOpen(() => {
    isCalled = true
  })
  clock.wind(1)
  expect(isCalled).toBe(true)
})

test.each([
  ['rule', { throttle: rate }, {}],
  ['throttle key', { throttle: { key: '{{message.key}}', ...rate } }, {}],
  ['target', {}, { a }],
])(
  'what comes while the rate of its %s allows no call is called, whenever the clock goes on',
  async (_whose, policy, targets) => {
    const clock = new TickingClock()
    const world = await openEmbeddedWorld()
    let calls = 0
    const send = async () => {
      calls += 1
      return ok
    }
    const rules = ruleSet([ruleWith({ ...policy, delay: '100ms' })])
    const engine = new WoundEngine(await world.open(clock), clock, { rules, send, sites: { wikis: [], targets } })
    const wind = async (ms: number) => {
      clock.wind(ms)
      await engine.still()
    }
    const post = async (id: string) => {
      await engine.store.append([newEvent('page', id, { key: 'k' })])
      await engine.still()
    }
    for (let look = 1; look <= 50; look += 1) {
      await post(`first of ${look}`)
      await wind(100)
      await wind(899)
      await post(`second of ${look}`)
      await wind(99)
      clock.ticksAt = look
      await wind(1)
      clock.ticked()
      await wind(10_000)
      expect({ look, calls }).toEqual({ look, calls: 2 * look })
    }
  },
)

test('what waits for the rate of its target is called when a reload raises that', async () => {
  const clock = new WoundClock()
  const world = await openEmbeddedWorld()
  let calls = 0
  const send = async () => {
    calls += 1
    return ok
  }
  const rules = ruleSet([ruleWith({})])
  const engine = new WoundEngine(await world.open(clock), clock, { rules, send, sites: sitesWith(0.001) })
  await engine.store.append(['first', 'second', 'third'].map((id) => newEvent('page', id, {})))
  await engine.still()
  clock.wind(100_000)
  await engine.still()
  expect(calls).toBe(1)

  engine.engine.reload(rules, createDirectory(sitesWith(1)))
  for (let seconds = 0; seconds < 3; seconds += 1) {
    clock.wind(1_000)
    await engine.still()
  }
  expect(calls).toBe(3)
})

test('what waits for a rate that a reload does away with is called at a target that came with it', async () => {
  const clock = new WoundClock()
  const world = await openEmbeddedWorld()
  const origins: string[] = []
  const send: Send = async ({ origin }) => {
    origins.push(origin)
    return ok
  }
  const before = ruleSet([ruleWith({ throttle: { rate: '1/min', burst: 1 } })])
  const engine = new WoundEngine(await world.open(clock), clock, { rules: before, send })
  await engine.store.append(['first', 'second'].map((id) => newEvent('page', id, {})))
  await engine.still()

  const b = { ...a, url: 'http://b.example' }
  const sites = { wikis: [], targets: { b } }
  engine.engine.reload(ruleSet([ruleWith({ exec: { uri: '{{targets.b.url}}/' } }, sites)]), createDirectory(sites))
  await engine.still()
  clock.wind(0)
  await engine.still()
  expect(engine.engine.counts('rule').dead).toBe(0)
  expect(origins).toEqual(['http://a.example', 'http://b.example'])
})

test('a rate that allows a call allows it also when the clock is set back', () => {
  const clock = new WoundClock()
  const limit = new Limit({ concurrency: 1, perSecond: 1, burst: 2 }, clock, { part: 1 })
  limit.started()
  limit.ended()
  clock.wind(-3_600_000)
  expect(limit.isOpen).toBe(true)
})

test('what was called before a reload counts against the rate of its target after it', async () => {
  const clock = new WoundClock()
  const world = await openEmbeddedWorld()
  let calls = 0
  const send = async () => {
    calls += 1
    return ok
  }
  const rules = ruleSet([ruleWith({})])
  const engine = new WoundEngine(await world.open(clock), clock, { rules, send, sites: sitesWith(0.001) })
  const post = async (id: string) => {
    await engine.store.append([newEvent('page', id, {})])
    await engine.still()
  }
  await post('first')
  engine.engine.reload(rules, createDirectory(sitesWith(0.001)))
  // So long that what is idle is forgotten.
  clock.wind(2_000)
  await engine.still()
  await post('second')
  clock.wind(2_000)
  await engine.still()
  expect(calls).toBe(1)
})

test('a reload that raises the rate of a target starts no more calls of a rule than it has slots', async () => {
  const clock = new WoundClock()
  const world = await openEmbeddedWorld()
  const answers: (() => void)[] = []
  const send = () => new Promise<Reply>((resolve) => answers.push(() => resolve(ok)))
  const rules = () => ruleSet([ruleWith({ throttle: { key: '{{message.key}}', total: { concurrency: 1 } } })])
  const engine = new WoundEngine(await world.open(clock), clock, { rules: rules(), send, sites: sitesWith(0.001, 2) })
  onTestFinished(() => {
    for (const answer of answers) answer()
  })
  await engine.store.append(['1', '2', '3', '4'].map((key) => newEvent('page', key, { key })))
  await engine.still()
  for (const called of [1, 2]) {
    expect(answers).toHaveLength(called)
    answers[called - 1]?.()
    await engine.still()
  }
  clock.wind(100)
  expect(answers).toHaveLength(2)

  engine.engine.reload(rules(), createDirectory(sitesWith(100, 10)))
  await engine.still()
  expect(answers).toHaveLength(3)
})
