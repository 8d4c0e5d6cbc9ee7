import { expect, onTestFinished, test } from 'vitest'
import { openSender } from '../../src/http/undici-send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleOf } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import {
  type Behaviour,
  hang,
  openTarget,
  respond,
  type ScriptedTarget,
  type TargetRequest,
} from '../support/target.ts'
import { until } from '../support/until.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

const json = { 'content-type': 'application/json; charset=utf-8' }
const concurrency = 4
const askedMs = 7_000

/** Purges titles, at most four calls at a time, and gives up at the first failure. */
const rule = `
purge:
  topic: page
  exec: { method: post, uri: '{{wiki.url}}/api.php', body: { action: purge, format: json, formatversion: 2, titles: '{{message.titles}}' } }
  retry: { limit: 0 }
  throttle: { concurrency: ${concurrency} }
`

/** Two wikis, `troubled` and `well`, and an engine whose clock is wound: what a target asks for is told by that clock. */
async function setup(troubledConcurrency = Number.POSITIVE_INFINITY) {
  const clock = new WoundClock()
  const troubled = await target()
  const well = await target()
  well.behave((request) => purged(titlesOf(request)))
  const wikis = [
    { database: 'troubled', url: troubled.url, maxPauseMs: 3_600_000, limits: limitsOf(troubledConcurrency) },
    { database: 'well', url: well.url, maxPauseMs: 3_600_000 },
  ]
  const sites = { wikis, targets: {} }
  const sender = openSender()
  onTestFinished(() => sender.close())
  const opened = await (await openEmbeddedWorld()).open(clock)
  const engine = new WoundEngine(opened, clock, { rules: ruleSet([ruleOf(rule, sites)]), send: sender.send, sites })
  let posted = 0
  const post = (database: string, titles: readonly string[]) =>
    engine.store.append(titles.map((title) => newEvent('page', `event-${posted++}`, { database, titles: title })))
  const allDone = () =>
    until('every delivery is done', async () => {
      // A row that is due now is seen when time goes on.
      clock.wind(1)
      await engine.still()
      const { items } = await engine.store.deliveries({ limit: 1_000 })
      expect(items.filter(({ state }) => state === 'dead')).toEqual([])
      return items.length === posted && items.every(({ reason }) => reason === 'ok')
    })
  return { clock, troubled, well, engine, post, allDone }
}

async function target(): Promise<ScriptedTarget> {
  const opened = await openTarget()
  onTestFinished(() => opened.close())
  return opened
}

const limitsOf = (most: number) => ({
  concurrency: most,
  perSecond: Number.POSITIVE_INFINITY,
  burst: Number.POSITIVE_INFINITY,
})
const numbered = (count: number) => Array.from({ length: count }, (_, n) => `T${n}`)
const titlesOf = ({ body }: TargetRequest) => (new URLSearchParams(body.toString()).get('titles') ?? '').split('|')

function purged(done: readonly string[], refused: readonly string[] = [], headers = {}): Behaviour {
  const purge = [
    ...done.map((title) => ({ ns: 0, title, purged: true })),
    ...refused.map((title) => ({ ns: 0, title })),
  ]
  const warnings = { purge: { warnings: "You've exceeded your rate limit. Please wait some time and try again." } }
  return respond(200, JSON.stringify(refused.length === 0 ? { purge } : { purge, warnings }), { ...json, ...headers })
}

test.each<[string, Behaviour]>([
  ['429', respond(429, '', { 'retry-after': '7' })],
  ['503', respond(503, '', { 'retry-after': '7' })],
  ['maxlag in a 200', respond(200, JSON.stringify({ error: { code: 'maxlag' } }), { ...json, 'retry-after': '7' })],
])(
  'a target that says %s and Retry-After gets no call before that time, twice over; no attempt is spent, and others go on',
  async (_, refusal) => {
    const { clock, troubled, well, engine, post, allDone } = await setup()
    let allowedFrom = 0
    const early: number[] = []
    troubled.behave(async ({ index, ...request }) => {
      if (clock.now() < allowedFrom) early.push(index)
      // All that may be on their way are there, then it is limited; and so it says to the first that tries again.
      if (index > concurrency) return purged(titlesOf({ index, ...request }))
      await troubled.waitFor(concurrency)
      allowedFrom = clock.now() + askedMs
      return refusal
    })
    await post('troubled', numbered(20))
    await troubled.waitFor(concurrency)
    let others = 0
    for (let time = 1; time <= 2; time++) {
      await until('the target is left alone', async () => {
        await engine.still()
        return engine.engine.counts('purge').running === 0
      })
      for (let waited = 0; waited < askedMs; waited += 1_000) {
        await post('well', ['Other'])
        others += 1
        await well.waitFor(others)
        await engine.still()
        clock.wind(1_000)
      }
      await troubled.waitFor(concurrency + 1)
    }
    await allDone()
    expect(early).toEqual([])
    expect(troubled.requests.length).toBe(concurrency + 1 + 20)
  },
)

test('of titles that a limit refused to half, only those are sent again, not before the time that was asked for', async () => {
  const { clock, troubled, engine, post, allDone } = await setup()
  const times: number[] = []
  troubled.behave(({ index }) => {
    times.push(clock.now())
    return index === 0 ? purged(['A', 'C'], ['B', 'D'], { 'retry-after': '7' }) : purged(['B', 'D'])
  })
  await post('troubled', ['A|B|C|D'])
  await until('the rest waits', async () => {
    await engine.still()
    return engine.engine.counts('purge').waiting.target === 1
  })
  for (let waited = 0; waited < askedMs; waited += 500) {
    await engine.still()
    clock.wind(500)
  }
  await allDone()
  expect(troubled.requests.map(titlesOf)).toEqual([
    ['A', 'B', 'C', 'D'],
    ['B', 'D'],
  ])
  expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(askedMs)
})

test('a wiki that never answers holds as many calls as it may bear, and the calls of another go on beside them', async () => {
  const { troubled, well, engine, post } = await setup(2)
  troubled.behave(hang())
  await post('troubled', numbered(20))
  await troubled.waitFor(2)
  await post('well', numbered(50))
  await well.waitFor(50)
  await until('the others are done', async () => {
    await engine.still()
    return engine.engine.counts('purge').done === 50
  })
  expect(engine.engine.counts('purge')).toMatchObject({ running: 2, waiting: { target: 18 } })
  expect(troubled.requests.length).toBe(2)
})
