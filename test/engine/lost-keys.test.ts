import { expect, onTestFinished, test } from 'vitest'
import { metaOf } from '../../src/event/event.ts'
import type { Reply } from '../../src/http/send.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { Settlement, Store, StoredDelivery } from '../../src/store/store.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbedded, temporaryFolder } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

const refused: Reply = { kind: 'none', error: 'refused', message: 'nobody listens', sent: false }
const ok: Reply = { kind: 'answer', status: 200, headers: {}, body: new Uint8Array(), truncated: false }

/** An engine whose events are another process's while `isLost`, and where their keys lie, while `isKeyLost`. `taken`: what becomes of what is handed out. */
async function setup(
  rule: Parameters<typeof ruleWith>[0],
  taken = (delivery: StoredDelivery) => delivery,
  isConfined = false,
) {
  const clock = new WoundClock()
  const opened = await openEmbedded(await temporaryFolder(), clock)
  const state = { isLost: false, isKeyLost: false, isElsewhere: false, isConfined, areClaimsLost: false }
  const handedOver: Settlement[] = []
  const take: Store['take'] = async (...asked) => {
    const { deliveries, ...rest } = await opened.store.take(...asked)
    return { deliveries: deliveries.map(taken), ...rest }
  }
  const isKeyFree: Store['isKeyFree'] = (...asked) => !state.isKeyLost && opened.store.isKeyFree(...asked)
  const settle: Store['settle'] = (settlement, durable) => {
    const consequences = { amended: { state: 'elsewhere' }, moved: [], due: [] } as const
    if (state.isElsewhere) {
      handedOver.push(settlement)
      setImmediate(() => durable?.(settlement, consequences))
      return
    }
    opened.store.settle(settlement, (_, told) => {
      durable?.(settlement, settlement.claimed && state.areClaimsLost ? consequences : told)
    })
  }
  const isElsewhere = () => state.isElsewhere
  const confine = () => new Set(state.isConfined ? ['rule'] : [])
  const changed: Partial<Store> = { isOurs: () => !state.isLost, isKeyFree, isElsewhere, confine, take, settle }
  const store = new Proxy(opened.store, {
    get(of, name) {
      const value: unknown = Reflect.get(changed, name) ?? Reflect.get(of, name, of)
      return typeof value === 'function' ? value.bind(of) : value
    },
  })
  const answers: ((reply?: Reply) => void)[] = []
  const send = () => new Promise<Reply>((resolve) => answers.push((reply = ok) => resolve(reply)))
  const world = new WoundEngine({ ...opened, store }, clock, { rules: ruleSet([ruleWith(rule)]), send })
  onTestFinished(() => {
    for (const answer of answers) answer()
  })
  const post = async (id: string, key = 'k') => {
    await world.store.append([newEvent('page', id, { key })])
    await world.still()
  }
  return { clock, world, state, answers, handedOver, post }
}

test('a call of a lost event that ends does not free its key for who comes while another has it', async () => {
  const { clock, world, state, answers, post } = await setup({ order: { key: '{{message.key}}' } })
  await post('first')
  state.isLost = true
  world.engine.dropLost()
  state.isLost = false
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

test('what waits to run alone, since the process may die of it, is not called when it was lost meanwhile', async () => {
  const suspect = (delivery: StoredDelivery) => ({ ...delivery, uncleanStops: 3 })
  const { clock, world, state, answers, post } = await setup({ delay: '1s' }, suspect)
  await post('first')
  await post('second')
  clock.wind(1_000)
  await world.still()
  expect(answers).toHaveLength(1)

  state.isLost = true
  world.engine.dropLost()
  state.isLost = false
  answers[0]?.()
  await world.still()

  expect(answers).toHaveLength(1)
})

test('what was read, and lost before it was routed, is not called', async () => {
  const { state, answers, post } = await setup({})
  state.isLost = true
  await post('first')
  state.isLost = false
  await post('second')
  expect(answers).toHaveLength(1)
})

test('what is to run from memory goes where its key lies, when that is lost before it runs', async () => {
  const policies = { order: { key: '{{message.key}}' }, concurrency: 1 }
  const { world, state, answers, post } = await setup(policies)
  await post('busy', 'another')
  await post('first')
  expect((await world.store.deliveries({ limit: 10 })).items).toEqual([])

  state.isKeyLost = true
  world.engine.dropLost()
  await world.still()

  const { items } = await world.store.deliveries({ limit: 10 })
  expect(items.map(({ metaId, state }) => [metaId, state])).toEqual([['first', 'waiting']])
  expect(answers).toHaveLength(1)
})

test('others try a target, when the call that was to try it is another process’s before it begins', async () => {
  const { clock, world, state, answers, post } = await setup({ retry: 'never' })
  for (const id of ['1', '2', '3', '4', '5']) await post(id)
  for (const answer of answers) answer(refused)
  await world.still()
  const before = answers.length

  clock.wind(100)
  state.areClaimsLost = true
  await post('lost')
  expect(answers).toHaveLength(before)
  state.areClaimsLost = false
  await post('next')

  expect(answers).toHaveLength(before + 1)
})

test('what is another process’s, when it is to be discarded with a rule that is gone, does not count as waiting here', async () => {
  const { world, state, post } = await setup({ delay: '1s' })
  await post('first')
  world.reload(ruleSet([]))
  state.isLost = true
  expect(await world.engine.discardGone('rule')).toBe(0)
  expect(world.engine.counts('rule').waiting).toEqual({})
})

test.each([
  ['now', {}, 'slot'],
  ['later', { delay: '1s' }, 'due'],
])(
  'what is another process’s to decide about, and due %s, is handed over, and is in nobody’s way here',
  async (_when, keys, reason) => {
    // One at a time: what owes a start would have the router wait for it.
    const { world, state, answers, handedOver, post } = await setup({
      ...{ order: { key: '{{message.key}}' }, throttle: { concurrency: 1 } },
      ...keys,
    })
    state.isElsewhere = true
    const ids = Array.from({ length: 300 }, (_, number) => `event-${number}`)
    for (const id of ids) await post(id, id)
    expect(handedOver.map(({ state, reason }) => `${state} ${reason}`)).toEqual(ids.map(() => `waiting ${reason}`))
    expect({ calls: answers.length, waiting: world.engine.counts('rule').waiting }).toEqual({ calls: 0, waiting: {} })
  },
)

test.each([
  ['in memory', {}],
  ['in a row', { delay: '1s' }],
])(
  'of a rule that another process has all work of by now what waits %s is handed over when its turn comes',
  async (_where, keys) => {
    const { clock, world, state, answers, handedOver, post } = await setup(
      { throttle: { concurrency: 1 }, ...keys },
      undefined,
      true,
    )
    const ids = ['first', 'second', 'third']
    for (const id of ids) await post(id)
    const running = answers.length
    state.isElsewhere = true
    clock.wind(1_000)
    answers[0]?.()
    await world.still()
    expect(answers.length).toBe(running)
    const waiting = handedOver.filter(({ state }) => state === 'waiting')
    expect(waiting.map(({ record }) => metaOf(record.message)?.id)).toEqual(ids.slice(running))
    expect(world.engine.counts('rule').waiting).toEqual({})
  },
)
