import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { parse } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { seed } from '../support/seed.ts'
import { History, type How, replies } from './history.ts'
import { CallWatch, expectPromisesKept, ruleNames, rules } from './history-promises.ts'

/** Longer than whatever a delivery may wait for, by the clock that is wound. */
const patienceMs = 120_000
const runs = Number(process.env.ROUNDS ?? 1) * 20

/** What takes so long waits for ever; so a history that hangs is told, and shrinks too. */
const neverMs = 60_000
const { rules: parsed, problems } = parse(rules)
const inForce = ruleSet(parsed)

/** `hurried`: the next step does not wait until all that follows from this one has happened. */
type Step = { readonly hurried: boolean } & (
  | {
      readonly kind: 'post'
      readonly stream: string
      readonly key: string
      readonly time: number
      readonly count: number
    }
  | { readonly kind: 'answer'; readonly pick: number; readonly how: How }
  | { readonly kind: 'wind'; readonly ms: number }
  | { readonly kind: 'end'; readonly how: 'kill' | 'stop' }
)

/** Most of a history is about one rule: there much meets. */
const history = fc.record({
  rule: fc.constantFrom(...ruleNames),
  steps: fc.array(aStep(), { minLength: 1, maxLength: 60, size: 'max' }),
})

function aStep(): fc.Arbitrary<Step> {
  const hurried = fc.constantFrom(false, false, false, true)
  const post = fc.record({
    ...{ hurried, kind: fc.constant('post' as const) },
    stream: fc.constantFrom('', '', '', '', 'all', ...ruleNames),
    key: fc.constantFrom('x', 'x', 'x', 'y'),
    time: fc.integer({ min: 1, max: 3 }),
    count: fc.integer({ min: 1, max: 3 }),
  })
  const answer = fc.record({
    ...{ hurried, kind: fc.constant('answer' as const), pick: fc.nat({ max: 9 }) },
    how: fc.constantFrom('ok' as const, 'ok' as const, ...(Object.keys(replies) as How[])),
  })
  const wind = fc.record({
    ...{ hurried, kind: fc.constant('wind' as const) },
    ms: fc.constantFrom(1_000, 2_000, 5_000, 7_000, 25_000),
  })
  const end = fc.record({
    ...{ hurried, kind: fc.constant('end' as const) },
    how: fc.constantFrom('kill' as const, 'kill' as const, 'stop' as const),
  })
  return fc
    .oneof(
      { weight: 5, arbitrary: post },
      { weight: 8, arbitrary: answer },
      { weight: 3, arbitrary: wind },
      { weight: 1, arbitrary: end },
    )
    .map((step) => ({ ...step, [fc.toStringMethod]: () => told(step) }))
}

function told(step: Step): string {
  const more = step.hurried ? ', and at once' : ''
  switch (step.kind) {
    case 'post':
      return `post ${step.count} of ${step.key}${step.stream === '' ? '' : ` to ${step.stream}`}, root ${step.time}${more}`
    case 'answer':
      return `answer call ${step.pick}: ${step.how}${more}`
    case 'wind':
      return `wind ${step.ms} ms${more}`
    case 'end':
      return `${step.how} and start again${more}`
  }
}

const at = { hurried: false }
const post = (count: number, stream = ''): Step => ({ ...at, kind: 'post', stream, key: 'x', time: 1, count })
const reply = (how: How): Step => ({ ...at, kind: 'answer', pick: 0, how })
const wind = (ms: number): Step => ({ ...at, kind: 'wind', ms })

/** Histories that failed once. */
const known: [{ rule: string; steps: Step[] }][] = [
  // The third call is claimed, and not begun, when its target asks for time.
  [{ rule: 'once', steps: [post(3), { ...reply('ok'), hurried: true }, reply('busy')] }],
  // The last one waits in memory for its target, and no row tells of it.
  [{ rule: 'once', steps: [post(3), reply('busy'), reply('busy')] }],
  // A target that was let in two calls at a time asks for time, and the end of that call lets in another.
  [
    {
      rule: 'plain',
      steps: [
        ...[post(1), reply('busy'), post(2), post(1, 'once'), wind(25_000), reply('failed'), wind(1_000)],
        ...[reply('ok'), reply('busy'), wind(1_000)],
      ],
    },
  ],
]

async function run(rule: string, steps: readonly Step[]): Promise<void> {
  const watch = new CallWatch()
  const history = new History(await openEmbeddedWorld(), inForce, watch)
  const { clock } = history
  await history.open()
  const posts: Promise<void>[] = []

  async function take(step: Step): Promise<void> {
    switch (step.kind) {
      case 'post':
        posts.push(history.post(step.stream === '' ? rule : step.stream, step.key, step.time, step.count))
        return
      case 'answer': {
        const call = history.inFlight[step.pick % history.inFlight.length]
        if (call !== undefined) await history.answer(call, step.how)
        return
      }
      case 'wind':
        return clock.wind(step.ms)
      case 'end':
        return history.end(step.how)
    }
  }

  for (const step of steps) {
    await take(step)
    if (!step.hurried) await history.still()
    expect(watch.faults).toEqual([])
  }
  // All targets are well now, and time passes: whatever waits has to come to its end.
  for (let waited = 0; waited <= patienceMs; waited += 1_000) {
    await history.still()
    for (; history.inFlight.length > 0; await history.still()) {
      await Promise.all(history.inFlight.map((call) => history.answer(call, 'ok')))
    }
    if (history.isIdle) break
    clock.wind(1_000)
  }
  await Promise.all(posts)
  expect(watch.faults).toEqual([])
  expectPromisesKept(history, await history.deliveries())
  await history.close()
}

test(
  'whatever happens, each event meets each of its rules, and the last of each key is seen by a call',
  async () => {
    expect(problems).toEqual([])
    await fc.assert(
      fc.asyncProperty(history, ({ rule, steps }) => run(rule, steps)),
      { ...seed, numRuns: runs, examples: known, timeout: neverMs },
    )
  },
  runs * 20_000,
)
