import { expect, test } from 'vitest'
import { Delivery } from '../../src/engine/delivery.ts'
import { Settler } from '../../src/engine/settler.ts'
import { Works } from '../../src/engine/works.ts'
import type { OutboundRequest, Reply } from '../../src/http/send.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { Store } from '../../src/store/store.ts'
import { recordOf, ruleWith } from '../rule/world.ts'
import { openEmbeddedWorld } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

type Fields = Readonly<Record<string, string>>

const newest = { dedup: { key: '{{message.key}}' } }
const ordered = { order: { key: '{{message.key}}' } }

/** Whoever stops an engine has it cut off what is under way. */
const cutOff: Reply = { kind: 'none', error: 'aborted', message: 'the service is stopping', sent: true }

/** An engine with one rule. Events are numbered from 0; each call is answered by the test, with the status that it says. */
async function setup(policies: object) {
  const clock = new WoundClock()
  const place = await openEmbeddedWorld()
  /** By number of their event, in the order in which they began. */
  const calls: number[] = []
  const inFlight = new Map<number, (reply: Reply) => void>()
  let lives = 0
  let posted = 0
  const rules = (more: object) => {
    const exec = { method: 'post', uri: 'http://a.example/', body: '{{globals.message}}' }
    const retry = { limit: 2, delay: '2s', factor: 1, jitter: 'none' }
    return ruleSet([ruleWith({ exec, retry, ...more })])
  }
  const open = async () => {
    const life = lives
    const send = ({ body }: OutboundRequest, signal?: AbortSignal) =>
      new Promise<Reply>((resolve) => {
        signal?.addEventListener('abort', () => resolve(cutOff))
        // What a process that was killed would still have done, it has not done.
        if (life !== lives) return
        const { n } = JSON.parse(Buffer.from(body ?? '').toString()) as { n: number }
        expect(inFlight.has(n)).toBe(false)
        calls.push(n)
        inFlight.set(n, resolve)
      })
    return new WoundEngine(await place.open(clock), clock, { rules: rules(policies), send })
  }
  let engine = await open()
  /** Settles what is in flight with that status; what follows has not happened yet. */
  const reply = (n: number, status: number) => {
    const resolve = inFlight.get(n)
    if (resolve === undefined) throw new Error(`${n} is not in flight`)
    inFlight.delete(n)
    resolve({ kind: 'answer', status, headers: {}, body: new Uint8Array(), truncated: false })
  }
  const append = (...events: readonly Fields[]) =>
    engine.store.append(
      events.map((fields) => {
        const n = posted
        posted += 1
        return newEvent('page', `event-${n}`, { n, ...fields })
      }),
    )
  /** Nothing moves any more but by an answer, or later. */
  const still = async () => {
    await engine.still()
    clock.wind(0)
    await engine.still()
  }
  return {
    clock,
    calls,
    inFlight: () => [...inFlight.keys()],
    reply,
    append,
    still,
    /** One event of each key, and all that follows from them. */
    async post(...keys: readonly string[]) {
      await append(...keys.map((key) => ({ key })))
      await still()
    },
    async answer(n: number, status = 200) {
      reply(n, status)
      await still()
    },
    async wind(ms: number) {
      clock.wind(ms)
      await still()
    },
    reload(more: object) {
      engine.reload(rules(more))
      return still()
    },
    /** Nothing is routed any more; calls in flight go on. */
    holdRouter: () => engine.engine.reload(undefined, createDirectory({ wikis: [], targets: {} })),
    /** All dead letters; they wait until the clock is wound. */
    async replay(atMs: number) {
      const { items } = await engine.store.deadLetters({ limit: 10 })
      for (const letter of items) await engine.engine.replay(letter, clock.now() + atMs)
    },
    counts: () => engine.engine.counts('rule'),
    /** What is on record of each event, by its number. */
    async rows(): Promise<Readonly<Record<number, string>>> {
      const { items } = await engine.store.deliveries({ limit: 100 })
      return Object.fromEntries(
        items.map(({ metaId, state, reason }) => [metaId?.replace('event-', ''), `${state} ${reason}`.trim()]),
      )
    },
    async kill() {
      await place.kill()
      lives += 1
      inFlight.clear()
      await engine.stop()
      engine = await open()
      await engine.expectStored(`event-${posted - 1}`)
    },
  }
}

test('a delivery is in memory behind rows that have just come due, and in a row behind those that nobody comes to', async () => {
  const { calls, post, answer, wind, rows, replay } = await setup({ throttle: { concurrency: 1 } })
  await post('A')
  await answer(0, 404)
  await replay(2_000)
  await post('B')
  await wind(2_000)
  await post('C')
  await wind(100)
  await post('D')
  expect(await rows()).toMatchObject({ 0: 'waiting due', 3: 'waiting slot' })
  expect(await rows()).not.toHaveProperty('2')

  for (const n of [1, 2, 0]) await answer(n)
  expect(calls).toEqual([0, 1, 2, 0, 3])
})

test.each([
  ['dedup', newest],
  ['order', ordered],
])('with %s, a delivery whose key is free is called without a row', async (_, policy) => {
  const { calls, post, answer, rows } = await setup(policy)
  await post('A', 'B')
  expect(calls).toEqual([0, 1])
  expect(await rows()).toEqual({})
  await answer(0)
  expect(await rows()).toEqual({ 0: 'done ok' })
  // A call that is remembered makes the next one no duplicate.
  await post('A')
  expect(calls).toEqual([0, 1, 2])
  expect(await rows()).toEqual({ 0: 'done ok' })
})

test('what only queues is covered by what comes under its key, and never called', async () => {
  const { calls, post, answer, rows, counts } = await setup({ ...newest, throttle: { concurrency: 1 } })
  await post('busy', 'A')
  expect(await rows()).toEqual({})
  await post('A', 'A')
  expect(await rows()).toEqual({ 1: 'waiting slot', 2: 'waiting slot', 3: 'waiting slot' })
  expect(counts().waiting).toEqual({ slot: 3 })
  await answer(0)
  expect(calls).toEqual([0, 3])
  await answer(3)
  expect(await rows()).toEqual({ 0: 'done ok', 1: 'done duplicate', 2: 'done duplicate', 3: 'done ok' })
  expect(counts()).toMatchObject({ waiting: {}, running: 0, done: 4 })
})

test('what comes while a call of its key is in flight waits for its end, and the newest is called then', async () => {
  const { calls, post, answer, rows, counts } = await setup(newest)
  await post('A')
  await post('A')
  await post('A', 'B')
  expect(calls).toEqual([0, 3])
  expect(await rows()).toEqual({ 0: 'running', 1: 'waiting slot', 2: 'waiting slot' })
  await answer(0)
  expect(calls).toEqual([0, 3, 2])
  await answer(2)
  await answer(3)
  expect(counts()).toMatchObject({ waiting: {}, running: 0, done: 4 })
})

test('deliveries of an ordered key are called in their order, whether the first queues, runs or fails', async () => {
  const { calls, post, answer, wind, counts } = await setup({ ...ordered, throttle: { concurrency: 1 } })
  await post('busy', 'A')
  await post('A', 'A')
  await answer(0)
  expect(calls).toEqual([0, 1])
  await post('A')
  await answer(1, 500)
  expect(calls).toEqual([0, 1])
  await wind(2_000)
  for (const n of [1, 2, 3, 4]) await answer(n)
  expect(calls).toEqual([0, 1, 1, 2, 3, 4])
  expect(counts()).toMatchObject({ waiting: {}, running: 0, done: 5 })
})

test('a delivery that failed without a row has its key until it is tried again', async () => {
  const { calls, post, answer, wind, rows } = await setup(ordered)
  await post('A')
  await answer(0, 500)
  await post('A')
  expect(calls).toEqual([0])
  expect(await rows()).toEqual({ 0: 'waiting retry', 1: 'waiting key' })
  await wind(2_000)
  await answer(0)
  expect(calls).toEqual([0, 0, 1])
})

test('a window holds for calls that had no row', async () => {
  const { calls, post, answer, wind, rows } = await setup({ dedup: { key: '{{message.key}}', window: '10s' } })
  await post('A')
  await answer(0)
  await post('A', 'B')
  expect(calls).toEqual([0, 2])
  expect(await rows()).toMatchObject({ 1: 'waiting key' })
  await wind(9_999)
  expect(calls).toEqual([0, 2])
  await wind(1)
  expect(calls).toEqual([0, 2, 1])
})

test('after reloads that change the key and change it back, what runs still has its own', async () => {
  const key = (field: string) => ({ dedup: { key: `{{message.${field}}}` } })
  const { calls, append, still, answer, reload } = await setup(key('a'))
  await append({ a: 'x', b: '1' })
  await still()
  await reload(key('b'))
  await append({ a: 'x', b: '2' })
  await still()
  expect(calls).toEqual([0, 1])
  await reload(key('a'))
  await append({ a: 'x', b: '3' })
  await still()
  expect(calls).toEqual([0, 1])
  await answer(0)
  expect(calls).toEqual([0, 1, 2])
})

test('after a reload that gives one key to what queues in memory, only the newest is called', async () => {
  const key = (field: string) => ({ dedup: { key: `{{message.${field}}}` }, throttle: { concurrency: 1 } })
  const { calls, append, still, answer, reload, rows } = await setup(key('a'))
  for (const a of ['busy', 'x', 'y', 'z']) await append({ a, b: a === 'busy' ? a : 'same' })
  await still()
  expect(await rows()).toEqual({})
  await reload(key('b'))
  await append({ a: 'x', b: 'same' })
  await still()
  await answer(0)
  expect(calls).toEqual([0, 4])
  await answer(4)
  expect(await rows()).toMatchObject({ 1: 'done duplicate', 2: 'done duplicate', 3: 'done duplicate', 4: 'done ok' })
})

test('a retry that gets the key of what is in flight without a row waits for it', async () => {
  const key = (field: string) => ({ dedup: { key: `{{message.${field}}}` } })
  const { calls, append, still, answer, reload, wind, rows } = await setup(key('a'))
  await append({ a: 'x', b: 'same' })
  await still()
  await answer(0, 500)
  await wind(1_500)
  await reload(key('b'))
  await append({ a: 'y', b: 'same' })
  await still()
  await wind(500)
  expect(calls).toEqual([0, 1])
  await answer(1)
  expect(calls).toEqual([0, 1])
  expect(await rows()).toEqual({ 0: 'done duplicate', 1: 'done ok' })
})

test('what comes due is not called while one of its key is in flight that had no row when it came', async () => {
  const { clock, calls, append, still, wind, answer } = await setup({ ...ordered, delay: '{{message.not_before}}' })
  const dueIn = (ms: number) => ({ key: 'A', not_before: new Date(clock.now() + ms).toISOString() })
  await append(dueIn(0))
  await still()
  await append(dueIn(1_500))
  await still()
  // The sweep that gives a row to what is long in flight comes at the same time.
  await wind(1_500)
  expect(calls).toEqual([0])
  await answer(0)
  expect(calls).toEqual([0, 1])
})

test('a dead letter that is replayed is not called while one of its key is in flight without a row', async () => {
  const { calls, post, answer, replay, wind, inFlight } = await setup(ordered)
  await post('A')
  await answer(0, 404)
  await post('busy', 'A')
  await replay(1_500)
  // The sweep that gives a row to what is long in flight comes at the same time.
  await wind(1_500)
  expect(inFlight()).toEqual([1, 2])
  await answer(2)
  expect(calls).toEqual([0, 1, 2, 0])
})

test('a dead letter that is replayed is covered by a newer call of its key that ends when it is due', async () => {
  const { clock, calls, post, answer, reply, replay, still, rows, counts } = await setup(newest)
  await post('A')
  await answer(0, 404)
  await post('A')
  await replay(200)
  clock.wind(200)
  reply(1, 200)
  await still()
  expect(calls).toEqual([0, 1])
  expect(await rows()).toEqual({ 0: 'done duplicate', 1: 'done ok' })
  expect(counts().waiting).toEqual({})
})

test('what was in flight without a row when the process died keeps its place in the order', async () => {
  const { calls, post, append, holdRouter, wind, answer, kill } = await setup(ordered)
  await post('A')
  holdRouter()
  await append({ key: 'A' })
  await kill()
  await wind(0)
  await answer(0)
  expect(calls).toEqual([0, 0, 1])
})

test('what the process dies of is found out, also where it had a key and no row', async () => {
  const { calls, post, append, holdRouter, still, kill, rows } = await setup(ordered)
  await post('A')
  holdRouter()
  await append({ key: 'A' })
  for (let kills = 1; kills <= 6; kills += 1) {
    await kill()
    await still()
  }
  // The next of its key goes on.
  await still()
  expect(calls).toEqual([0, 0, 0, 0, 0, 0, 1])
  expect(await rows()).toMatchObject({ 0: 'dead poison' })
})

test("what was another process's in between, and has its key again, keeps it when its lost call ends", () => {
  const clock = new WoundClock()
  const store = { settle() {} } as Pick<Store, 'settle'> as Store
  const works = new Works(store, clock, () => {})
  const rule = ruleWith(newest)
  works.use(ruleSet([rule]))
  const work = works.of('rule')
  const holder = () => {
    const record = recordOf({ key: 'A' })
    const match = rule.match({ key: 'A' })
    if (match === undefined) throw new Error('the rule matches nothing')
    const delivery = new Delivery(record, rule, match, 0)
    delivery.heldKey = 'A'
    return delivery
  }
  const lost = holder()
  const again = holder()
  work.held.set('A', again)
  new Settler(store, clock, works, { settled() {}, covered() {} }).settle(work, lost, { state: 'done', reason: 'ok' })
  expect(work.held.get('A')).toBe(again)
})

test.each([
  ['half a character', 'a\ud800'],
  ['a NUL', 'a\u0000b'],
  ['so many characters of two halves that it is cut', '😀'.repeat(150)],
  ['so many of them behind another', `a${'😀'.repeat(150)}`],
])('what failed under a key with %s is called again, before what has the same', async (_what, key) => {
  const { calls, post, answer, wind } = await setup(ordered)
  await post(key)
  await answer(0, 500)
  await post(key)
  await wind(2_000)
  expect(calls).toEqual([0, 0])
  await answer(0)
  expect(calls).toEqual([0, 0, 1])
})
