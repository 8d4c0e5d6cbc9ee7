import fc from 'fast-check'
import { expect, test } from 'vitest'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { seed } from '../support/seed.ts'
import { History, type How, type Operation, replies } from './history.ts'
import { CallWatch, expectPromisesKept } from './history-promises.ts'
import { type Fields, problems, revisions, ruleNames } from './history-rules.ts'

/** Longer than whatever a delivery may wait for, by the clock that is wound. */
const patienceMs = 120_000
const runs = Number(process.env.ROUNDS ?? 1) * 20

/** What takes so long waits for ever; so a history that hangs is told, and shrinks too. */
const neverMs = 60_000
/** One dead letter fills the smaller. */
const plenty = 2 ** 30
const little = 100

/** `hurried`: the next step does not wait until all that follows from this one has happened. */
type Step = { readonly hurried: boolean } & (
  | {
      readonly kind: 'post'
      readonly stream: string
      readonly fields: Omit<Fields, 'n'>
      readonly count: number
    }
  | { readonly kind: 'answer'; readonly pick: number; readonly how: How }
  | { readonly kind: 'wind'; readonly ms: number }
  | { readonly kind: 'end'; readonly how: 'kill' | 'stop' }
  | { readonly kind: 'operate'; readonly how: Operation; readonly pick: number | 'all' }
  | { readonly kind: 'reload'; readonly rule: string; readonly revision: number | 'gone' }
)

interface Plan {
  readonly rule: string
  readonly deadBytes: number
  readonly steps: readonly Step[]
}

/** Most of a history is about one rule: there much meets. */
const history = fc.record({
  rule: fc.constantFrom(...ruleNames),
  deadBytes: fc.constantFrom(plenty, plenty, little),
  steps: fc.array(aStep(), { minLength: 1, maxLength: 60, size: 'max' }),
})

function aStep(): fc.Arbitrary<Step> {
  const hurried = fc.constantFrom(false, false, false, true)
  const post = fc.record({
    ...{ hurried, kind: fc.constant('post' as const) },
    stream: fc.constantFrom('', '', '', '', '', 'all', ...ruleNames),
    fields: fc.record({
      key: fc.constantFrom('x', 'x', 'x', 'x', 'x', 'y', 'y', ['x'], undefined),
      other: fc.constantFrom('x', 'y'),
      time: fc.integer({ min: 1, max: 3 }),
    }),
    count: fc.integer({ min: 1, max: 3 }),
  })
  const answer = fc.record({
    ...{ hurried, kind: fc.constant('answer' as const), pick: fc.nat({ max: 9 }) },
    how: fc.constantFrom('ok' as const, 'ok' as const, 'refused' as const, ...(Object.keys(replies) as How[])),
  })
  const wind = fc.record({
    ...{ hurried, kind: fc.constant('wind' as const) },
    ms: fc.constantFrom(1_000, 2_000, 5_000, 7_000, 25_000),
  })
  const end = fc.record({
    ...{ hurried, kind: fc.constant('end' as const) },
    how: fc.constantFrom('kill' as const, 'kill' as const, 'stop' as const),
  })
  const operate = fc.record({
    ...{ hurried, kind: fc.constant('operate' as const) },
    how: fc.constantFrom('replay' as const, 'replay' as const, 'replay' as const, 'discard' as const),
    pick: fc.constantFrom('all' as const, 'all' as const, 0, 1, 2),
  })
  const reload = fc.record({
    ...{ hurried, kind: fc.constant('reload' as const) },
    rule: fc.constantFrom('', '', '', '', ...ruleNames),
    revision: fc.constantFrom(0, 0, 1, 2, 3, 'gone' as const),
  })
  return fc
    .oneof(
      { weight: 5, arbitrary: post },
      { weight: 8, arbitrary: answer },
      { weight: 3, arbitrary: wind },
      { weight: 1, arbitrary: end },
      { weight: 1, arbitrary: operate },
      { weight: 1, arbitrary: reload },
    )
    .map((step) => ({ ...step, [fc.toStringMethod]: () => told(step) }))
}

function told(step: Step): string {
  const more = step.hurried ? ', and at once' : ''
  switch (step.kind) {
    case 'post':
      return `post ${step.count} of ${toldFields(step.fields)}${step.stream === '' ? '' : ` to ${step.stream}`}${more}`
    case 'answer':
      return `answer call ${step.pick}: ${step.how}${more}`
    case 'wind':
      return `wind ${step.ms} ms${more}`
    case 'end':
      return `${step.how} and start again${more}`
    case 'operate':
      return `${step.how} ${step.pick === 'all' ? 'all letters' : `letter ${step.pick}`}${more}`
    case 'reload':
      return `reload ${step.rule === '' ? 'the rule' : step.rule}: ${step.revision}${more}`
  }
}

function toldFields({ key, other, time }: Omit<Fields, 'n'>): string {
  return `${key === undefined ? 'no key' : JSON.stringify(key)} and ${other}, root ${time}`
}

const at = { hurried: false }
const fields = { key: 'x', other: 'p', time: 1 }
const post = (count: number, stream = ''): Step & { readonly kind: 'post' } => ({
  ...at,
  kind: 'post',
  stream,
  fields,
  count,
})
const reply = (how: How): Step => ({ ...at, kind: 'answer', pick: 0, how })
const replay: Step = { ...at, kind: 'operate', how: 'replay', pick: 'all' }
const wind = (ms: number): Step => ({ ...at, kind: 'wind', ms })

/** Histories that failed once. */
const known = [
  // The third call is claimed, and not begun, when its target asks for time.
  plan('once', [post(3), { ...reply('ok'), hurried: true }, reply('busy')]),
  // The last one waits in memory for its target, and no row tells of it.
  plan('once', [post(3), reply('busy'), reply('busy')]),
  // A target that was let in two calls at a time asks for time, and the end of that call lets in another.
  plan('plain', [
    ...[post(1), reply('busy'), post(2), post(1, 'once'), wind(25_000), reply('failed'), wind(1_000)],
    ...[reply('ok'), reply('busy'), wind(1_000)],
  ]),
  // What is set aside has no key yet when it is replayed.
  plan('newest', [post(2), replay, { ...reply('ok'), hurried: true }], little),
  // Nor was it asked whether it is in the share.
  plan('share', [post(6)], little),
  // Its key cannot be made, not even when it is replayed.
  plan('settled', [{ ...post(1), fields: { ...fields, key: ['x'] } }, replay]),
  // A row is on its way to be called when its target turns out to want a probe first; then a newer event comes.
  plan('plain', [post(1, 'all'), reply('busy'), wind(7_000), post(1, 'all'), reply('ok')]),
  // What fails while its target asks for time is tried again, though its rule allows no retry.
  plan('plain', [
    ...[{ ...at, kind: 'reload', rule: 'turns', revision: 1 } as const, post(1, 'all'), reply('busy'), reply('failed')],
    ...[
      { ...at, kind: 'answer', pick: 4, how: 'failed' } as const,
      wind(7_000),
      { ...at, kind: 'answer', pick: 1, how: 'ok' } as const,
      replay,
    ],
  ]),
  // What the old key's template yielded is another key, though the value is the same.
  plan('newest', [
    { ...at, kind: 'reload', rule: 'newest', revision: 3 },
    { ...post(1), fields: { ...fields, other: 'y' } },
    { ...post(1, 'all'), fields: { ...fields, key: 'y', other: 'y' } },
    reply('ok'),
  ]),
  // What keeps to an order waits for none that is deduplicated, though their keys' templates are one.
  plan('swapped', [post(1), { ...at, kind: 'reload', rule: '', revision: 3 }, post(2), reply('ok')]),
  // A retry gets another key, of which a newer event waits: the first call of both is what its window counts from.
  plan('plain', [
    ...[{ ...at, kind: 'reload', rule: 'window', revision: 3 } as const, post(1, 'window'), post(1, 'window')],
    reply('limited'),
  ]),
  // What is in memory, or runs, outlives its rule.
  plan('plain', [post(4), { ...at, kind: 'reload', rule: '', revision: 'gone' }, { ...at, kind: 'end', how: 'kill' }]),
]

function plan(rule: string, steps: readonly Step[], deadBytes = plenty): [Plan] {
  return [{ rule, steps, deadBytes }]
}

async function run({ rule, deadBytes, steps }: Plan): Promise<void> {
  const watch = new CallWatch()
  const history = new History(await openEmbeddedWorld(), watch, deadBytes)
  const { clock } = history
  await history.open()
  const posts: Promise<void>[] = []

  async function take(step: Step): Promise<void> {
    switch (step.kind) {
      case 'post':
        posts.push(history.post(step.stream === '' ? rule : step.stream, step.fields, step.count))
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
      case 'operate':
        await history.operate(step.how, step.pick)
        return
      case 'reload': {
        const name = step.rule === '' ? rule : step.rule
        history.reload(name, step.revision === 'gone' ? undefined : revisions.get(name)?.[step.revision])
      }
    }
  }

  /** So many dead letters that what comes next is set aside. */
  async function fill(): Promise<void> {
    await history.post(rule, { key: 'x', other: 'p', time: 1 }, 4)
    for (let waited = 0; waited < 8; waited += 1) {
      await history.still()
      for (const call of [...history.inFlight]) await history.answer(call, 'refused')
      await history.still()
      clock.wind(1_000)
    }
  }

  /** All targets are well, and time passes: whatever waits has to come to its end. */
  async function finish(isReplayed: boolean): Promise<void> {
    for (let waited = 0; waited <= patienceMs; waited += 1_000) {
      await history.still()
      for (; history.inFlight.length > 0; await history.still()) {
        await Promise.all(history.inFlight.map((call) => history.answer(call, 'ok')))
      }
      if (history.isIdle) break
      clock.wind(1_000)
    }
    expect(watch.faults).toEqual([])
    expectPromisesKept(history, await history.deliveries(), isReplayed)
  }

  if (deadBytes === little) await fill()
  for (const step of steps) {
    await take(step)
    if (!step.hurried) await history.still()
    expect(watch.faults).toEqual([])
  }
  for (const [name, [first]] of revisions) history.reload(name, first)
  await history.still()
  await Promise.all(posts)
  await finish(false)
  if (await history.operate('replay', 'all')) await finish(true)
  await history.close()
}

test(
  'whatever happens, each event meets each of its rules, and the last of each key is seen by a call',
  async () => {
    expect(problems).toEqual([])
    await fc.assert(fc.asyncProperty(history, run), { ...seed, numRuns: runs, examples: known, timeout: neverMs })
  },
  runs * 20_000,
)
