import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Dispatcher } from '../../src/engine/dispatcher.ts'
import { Router } from '../../src/engine/router.ts'
import type { RuleWork } from '../../src/engine/rule-work.ts'
import { Settler } from '../../src/engine/settler.ts'
import { Works } from '../../src/engine/works.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { Store } from '../../src/store/store.ts'
import { parse, recordOf } from '../rule/world.ts'
import { WoundClock } from '../support/clock.ts'
import { healthy } from '../support/recording-store.ts'

/** So many starts owed have the router wait. */
const debt = 256

/** A router for two rules, each record of which costs its rule all the debt that is borne. */
function setup(streams: readonly string[], rowCost = 1) {
  const clock = new WoundClock()
  const routed: string[] = []
  let pages = [streams.map((stream) => ({ record: { ...recordOf({}), stream }, known: undefined }))]
  const store = {
    health: () => healthy,
    next: async () => {
      const [page = []] = pages
      pages = []
      return page
    },
    isOurs: () => true,
    routed: ({ stream }) => routed.push(stream),
    rowCost,
    settleMs: 0,
  } as Pick<Store, 'health' | 'isOurs' | 'next' | 'routed' | 'rowCost' | 'settleMs'> as Store
  const works = new Works(store, clock, () => {})
  const call = "exec: { uri: 'http://a.example/' }"
  works.use(ruleSet(parse(`quick: { topic: quick, ${call} }\nslow: { topic: slow, ${call} }`).rules))
  const admit = (work: RuleWork) => {
    for (let owed = 0; owed < debt; owed += 2) work.owe(2)
    return false
  }
  const settler = new Settler(store, clock, works, { settled() {}, covered() {} })
  const router = new Router({
    store,
    works,
    dispatcher: { admit } as Partial<Dispatcher> as Dispatcher,
    settler,
    clock,
  })
  const run = router.run()
  return {
    clock,
    run,
    /** What has been routed when the router can go no further. */
    async routed() {
      await turn()
      return routed.join(' ')
    },
    owe(rule: string) {
      works.of(rule).owe(1)
    },
    put(rule: string, { running, unsettled }: { running: number; unsettled: number }) {
      const work = works.of(rule)
      work.total.running = running
      for (let answered = 0; answered < unsettled; answered += 1) work.answered()
    },
    pay(rule: string, starts = debt) {
      const work = works.of(rule)
      for (let started = 0; started < starts; started += 1) work.started()
    },
  }
}

test('a rule that pays its debt is waited for, also shortly after another was waited for in vain', async () => {
  const { clock, run, routed, pay } = setup(['quick', 'slow', 'quick', 'slow', 'slow', 'quick'])
  expect(await routed()).toBe('quick')
  pay('quick')
  expect(await routed()).toBe('quick slow')
  clock.wind(100)
  expect(await routed()).toBe('quick slow quick')
  pay('quick')
  expect(await routed()).toBe('quick slow quick slow slow quick')
  pay('quick')
  await run
})

test('a rule that does not pay any more is waited for in vain once, and then not for most of a second', async () => {
  const { clock, run, routed, pay } = setup(['quick', 'quick', 'quick', 'quick'])
  expect(await routed()).toBe('quick')
  pay('quick')
  expect(await routed()).toBe('quick quick')
  clock.wind(100)
  expect(await routed()).toBe('quick quick quick quick')
  await run
})

test.each([
  ['hardly made a start', 1, 'slow slow'],
  ['made many starts', 2 * debt, 'slow'],
])('a rule that has %s while it came to owe', async (_what, starts, expected) => {
  const { clock, routed, owe, pay } = setup(['slow', 'slow', 'quick'])
  for (let owed = 0; owed <= starts; owed += 1) owe('slow')
  pay('slow', starts)
  clock.wind(150)
  expect(await routed()).toBe(expected)
})

test.each([
  ['quick', debt + 1, 'slow quick'],
  ['slow', 1, 'slow quick quick'],
])('shortly after a wait in vain, a rule that is seen to be %s', async (_what, starts, expected) => {
  const { clock, routed, owe, pay } = setup(['slow', 'quick', 'quick'])
  for (let owed = 0; owed < 2 * debt; owed += 1) owe('quick')
  pay('quick', starts)
  expect(await routed()).toBe('slow')
  clock.wind(100)
  expect(await routed()).toBe(expected)
})

test('a rule that stands still because nothing of it is kept yet is waited for until that moves', async () => {
  const { clock, routed, owe, pay, put } = setup(['slow', 'slow'])
  for (let owed = 0; owed < debt; owed += 1) owe('slow')
  put('slow', { running: 0, unsettled: 50 })
  expect(await routed()).toBe('slow')
  for (let waits = 0; waits < 20; waits += 1) {
    pay('slow', 5)
    clock.wind(100)
    expect(await routed()).toBe('slow')
  }
  pay('slow', 6)
  clock.wind(100)
  expect(await routed()).toBe('slow slow')
})

test.each<[string, { running: number; unsettled: number; rowCost?: number }, number]>([
  ['all its slots are taken', { running: 50, unsettled: 0 }, debt],
  ['the store holds it up', { running: 50, unsettled: 50 }, debt / 4],
  ['it has slots to spare', { running: 25, unsettled: 0 }, debt / 4],
  ['all its slots are taken and a row costs twice as much', { running: 50, unsettled: 0, rowCost: 2 }, debt / 2],
])('while %s, a rule is quick that makes so many starts', async (_what, state, starts) => {
  for (const [made, expected] of [
    [starts, 'slow'],
    [starts - 1, 'slow slow'],
  ] as const) {
    const { clock, routed, owe, pay, put } = setup(['slow', 'slow'], state.rowCost)
    for (let owed = 0; owed < debt; owed += 1) owe('slow')
    put('slow', state)
    expect(await routed()).toBe('slow')
    pay('slow', made)
    clock.wind(100)
    expect(await routed()).toBe(expected)
  }
})

const call = "exec: { uri: 'http://a.example/' }"

test.each<[string, string, string | undefined, object]>([
  ['that is there is taken in hand for it alone', 'one', undefined, { admitted: ['one'], settled: [] }],
  ['that does not match it any more is done', 'never', undefined, { admitted: [], settled: ['never done no_match '] }],
  ['that is not there waits for it', 'gone', undefined, { admitted: [], settled: ['gone waiting rule_gone k'] }],
  ['that is done already is nothing', 'one', 'one', { admitted: [], settled: [] }],
  ['that is done, and gone, is nothing', 'gone', 'gone', { admitted: [], settled: [] }],
])('what was handed over for a rule %s', async (_what, rule, done, expected) => {
  const clock = new WoundClock()
  const record = { ...recordOf({}), stream: 'topic' }
  const standing = { key: { text: 'k', turn: 'oldest', windowMs: 0 } } as const
  const pages = [
    [{ record, handedOver: { rule, standing }, known: done === undefined ? undefined : new Set([done]) }],
    [],
  ]
  const settled: string[] = []
  const admitted: string[] = []
  const store = {
    health: () => healthy,
    next: async () => pages.shift() ?? [],
    isOurs: () => true,
    routed() {},
    rowCost: 1,
    settleMs: 0,
    settle: ({ lane, state, reason, standing }) =>
      settled.push([lane.rule, state, reason, standing?.key?.text].join(' ')),
  } as Pick<Store, 'health' | 'isOurs' | 'next' | 'routed' | 'rowCost' | 'settleMs' | 'settle'> as Store
  const works = new Works(store, clock, () => {})
  const rules = `one: { topic: topic, ${call} }\ntwo: { topic: topic, ${call} }\nnever: { topic: topic, match: { a: 1 }, ${call} }`
  works.use(ruleSet(parse(rules).rules))
  const settler = new Settler(store, clock, works, { settled() {}, covered() {} })
  const admit = (work: RuleWork) => admitted.push(work.name) > 0
  const dispatcher = { admit } as Partial<Dispatcher> as Dispatcher
  await new Router({ store, works, dispatcher, settler, clock }).run()
  expect({ admitted, settled }).toEqual(expected)
})
