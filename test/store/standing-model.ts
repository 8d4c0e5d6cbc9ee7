import fc from 'fast-check'
import { expect, onTestFinished, test } from 'vitest'
import type { Lane, Settlement, Standing, StoredDelivery } from '../../src/store/store.ts'
import { WoundClock } from '../support/clock.ts'
import { seed } from '../support/seed.ts'
import { anEvent, idOf, type Known, type StoreWorld, Work } from './world.ts'

const runs = Number(process.env.ROUNDS ?? 1) * 20
const windowMs = 10_000
/** Keys of the first are by their newest, of the second with a window, of the third in order. */
const rules = ['newest', 'window', 'oldest'] as const

type Step =
  | {
      readonly kind: 'arrive'
      readonly rule: (typeof rules)[number]
      readonly lane: string
      readonly key: string | undefined
      readonly dueInMs: number
      readonly rootTime: number | undefined
      readonly metaId: string | undefined
    }
  | { readonly kind: 'take'; readonly rule: (typeof rules)[number]; readonly lane: string; readonly limit: number }
  | { readonly kind: 'settle'; readonly pick: number; readonly how: keyof typeof ways; readonly key: string }
  | { readonly kind: 'reopen'; readonly pick: number; readonly how: 'replay' | 'discard' }
  | { readonly kind: 'wind'; readonly ms: number }
  | { readonly kind: 'restart'; readonly how: 'close' | 'kill' }

/** What a delivery in hand can come to. `isCall`: a call was made. */
const ways = {
  ok: { isCall: true, part: () => ({ state: 'done', reason: 'ok' }) },
  refused: { isCall: true, part: () => ({ state: 'dead', reason: 'refused' }) },
  retry: { isCall: true, part: (now: number) => ({ state: 'waiting', reason: 'retry', until: now + 3_000 }) },
  throttled: { isCall: true, part: (now: number) => ({ state: 'waiting', reason: 'target', until: now }) },
  target: { isCall: false, part: (now: number) => ({ state: 'waiting', reason: 'target', until: now + 2_000 }) },
  rekeyed: { isCall: false, part: (now: number) => ({ state: 'waiting', reason: 'slot', until: now }) },
  expired: { isCall: false, part: () => ({ state: 'done', reason: 'expired' }) },
  unmade: { isCall: false, part: () => ({ state: 'dead', reason: 'template_failed' }) },
  parked: { isCall: false, part: () => ({ state: 'waiting', reason: 'parked', until: Number.POSITIVE_INFINITY }) },
  running: { isCall: false, part: () => ({ state: 'running', reason: '' }) },
  claimed: { isCall: false, part: () => ({ state: 'running', reason: '', claimed: true }) },
} satisfies Record<string, { isCall: boolean; part: (now: number) => Partial<Settlement> }>

const key = fc.constantFrom('x', 'x', 'x', 'y')
const inLane = fc.constantFrom('', '', 'elsewhere')
const how = fc.constantFrom<keyof typeof ways>(
  'ok',
  'refused',
  'retry',
  'claimed',
  ...(Object.keys(ways) as (keyof typeof ways)[]),
)

function steps(rule: fc.Arbitrary<(typeof rules)[number]>): fc.Arbitrary<Step[]> {
  const arrive = fc.record({
    kind: fc.constant('arrive' as const),
    rule,
    lane: inLane,
    key: fc.option(key, { nil: undefined, freq: 8 }),
    dueInMs: fc.constantFrom(0, 0, 4_000),
    rootTime: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
    metaId: fc.constantFrom(undefined, 'twin'),
  })
  const take = fc.record({
    kind: fc.constant('take' as const),
    rule,
    lane: inLane,
    limit: fc.integer({ min: 1, max: 3 }),
  })
  const settle = fc.record({ kind: fc.constant('settle' as const), pick: fc.nat(), how, key })
  const reopen = fc.record({
    kind: fc.constant('reopen' as const),
    pick: fc.nat(),
    how: fc.constantFrom('replay' as const, 'replay' as const, 'discard' as const),
  })
  const wind = fc.record({ kind: fc.constant('wind' as const), ms: fc.integer({ min: 1, max: 6_000 }) })
  const restart = fc.record({
    kind: fc.constant('restart' as const),
    how: fc.constantFrom('close' as const, 'kill' as const),
  })
  const step = fc.oneof(
    { weight: 6, arbitrary: arrive },
    { weight: 7, arbitrary: take },
    { weight: 6, arbitrary: settle },
    { weight: 2, arbitrary: reopen },
    { weight: 3, arbitrary: wind },
    { weight: 1, arbitrary: restart },
  )
  // Long as a rule, and still short once it is shrunk.
  const part = fc.array(step, { maxLength: 20, size: 'max' })
  return fc.tuple(part, part, part, part).map((parts) => parts.flat())
}

/** Most of a history is about one rule: there much meets. */
const history = fc
  .constantFrom(...rules)
  .chain((most) => steps(fc.constantFrom(most, most, most, most, most, ...rules)))

interface Modelled {
  readonly index: number
  readonly lane: Lane
  readonly known: Known
  readonly metaId: string
  standing: Standing | undefined
  state: 'waiting' | 'in hand' | 'done' | 'dead' | 'parked'
  isDiscarded: boolean
  /** Running, and not to be repeated. */
  isClaimed: boolean
  coveredBy: Modelled | undefined
  /** It was reopened: the window does not hold for it. */
  isExempt: boolean
  taken: StoredDelivery | undefined
}

/** What the contract says of keys and roots, without a store. */
class Model {
  readonly all: Modelled[] = []
  readonly #heads = new Map<string, Modelled>()
  readonly #starts = new Map<string, Modelled>()
  readonly #freshStarts = new Map<string, number>()
  readonly #successes = new Map<string, Modelled>()

  /** Settled as waiting: says whether it is a duplicate at once. */
  waits(delivery: Modelled, isFirst: boolean): boolean {
    const key = keyOf(delivery)
    delivery.state = 'waiting'
    if (key === undefined) return false
    if (delivery.lane.rule === 'oldest') {
      if (!this.#heads.has(key)) this.#heads.set(key, delivery)
      return false
    }
    const start = this.#starts.get(key)
    const success = this.#successes.get(key)
    if (start !== undefined && start.index > delivery.index) delivery.coveredBy = start
    else if (isFirst && success?.metaId === delivery.metaId) delivery.coveredBy = success
    else return false
    delivery.state = 'done'
    return true
  }

  called(delivery: Modelled, isOk: boolean): void {
    const key = keyOf(delivery)
    if (key === undefined || delivery.lane.rule === 'oldest') return
    for (const one of this.all) {
      if (one.state !== 'waiting' || one.index >= delivery.index || keyOf(one) !== key) continue
      one.state = 'done'
      one.coveredBy = delivery
    }
    this.#starts.set(key, delivery)
    if (isOk) this.#successes.set(key, delivery)
  }

  /** It gives up its place in the order of its key; says who has it now. */
  leaves(delivery: Modelled, key: string | undefined): Modelled | undefined {
    if (key === undefined || this.#heads.get(key) !== delivery) return undefined
    const next = this.all.find((one) => one !== delivery && one.state === 'waiting' && keyOf(one) === key)
    if (next === undefined) this.#heads.delete(key)
    else this.#heads.set(key, next)
    return next
  }

  handedOut(delivery: Modelled, taken: StoredDelivery, next: ReadonlyMap<string, number>, now: number): void {
    const key = keyOf(delivery)
    expect(delivery.state).toBe('waiting')
    expect(taken.standing).toEqual(delivery.standing)
    expect(taken.isSuperseded).toBe(this.#isSuperseded(delivery))
    delivery.state = 'in hand'
    delivery.taken = taken
    if (key === undefined) return
    const ofKey = this.all.filter((one) => one !== delivery && keyOf(one) === key)
    expect(ofKey.filter(({ state }) => state === 'in hand')).toEqual([])
    if (delivery.lane.rule === 'oldest') {
      expect(delivery).toBe(this.#heads.get(key))
      expect(taken.followers).toBe(ofKey.filter(({ state }) => state === 'waiting').length)
      return
    }
    const isDue = ({ known }: Modelled) => (next.get(idOf(known)) ?? Number.POSITIVE_INFINITY) <= now
    expect(ofKey.filter((one) => one.state === 'waiting' && one.index > delivery.index && isDue(one))).toEqual([])
    if (delivery.lane.rule !== 'window' || taken.progress.firstAttemptAt !== 0 || delivery.isExempt) return
    expect(now).toBeGreaterThanOrEqual((this.#freshStarts.get(key) ?? Number.NEGATIVE_INFINITY) + windowMs)
  }

  startedFresh(delivery: Modelled, now: number): void {
    const key = keyOf(delivery)
    if (key !== undefined) this.#freshStarts.set(key, now)
  }

  #isSuperseded({ lane, standing }: Modelled): boolean {
    const { root } = standing ?? {}
    if (root === undefined) return false
    return this.all.some(
      (one) =>
        one.lane.rule === lane.rule &&
        (one.standing?.root?.time ?? 0) > root.time &&
        one.state !== 'dead' &&
        !one.isDiscarded,
    )
  }
}

function keyOf({ lane, standing }: Modelled): string | undefined {
  return standing?.key === undefined ? undefined : `${lane.rule} ${standing.key.text}`
}

function keyOfRule(rule: string, text: string): Standing {
  return {
    key: { text, turn: rule === 'oldest' ? 'oldest' : 'newest', windowMs: rule === 'window' ? windowMs : 0 },
  }
}

/** The same steps in a store and in the model. */
class Run {
  readonly #work: Work
  readonly #model = new Model()
  readonly #byId = new Map<string, Modelled>()
  /** Handed in, and not known to be durable: whether each is a duplicate at once, and whether it is to be. */
  #pending: Promise<readonly [boolean, boolean]>[] = []

  constructor(work: Work) {
    this.#work = work
  }

  async do(step: Step): Promise<void> {
    switch (step.kind) {
      case 'arrive':
        return this.#arrive(step)
      case 'settle': {
        const delivery = this.#pick(step.pick, 'in hand')
        if (delivery !== undefined) this.#settle(delivery, step.how, step.key)
        return
      }
      case 'reopen': {
        const delivery = this.#pick(step.pick, 'dead', 'parked')
        if (delivery !== undefined) this.#reopen(delivery, step.how)
        return
      }
      case 'take':
        await this.#settled()
        return this.#handedOut(() => this.#work.take({ rule: step.rule, key: step.lane }, step.limit))
      case 'wind':
        this.#work.clock.wind(step.ms)
        return
      case 'restart':
        await this.#settled()
        return this.#restart(step.how)
    }
  }

  async #restart(how: 'close' | 'kill'): Promise<void> {
    let hasLostCalls = false
    for (const one of this.#inHand()) {
      one.state = one.isClaimed ? 'dead' : 'waiting'
      if (!one.isClaimed) continue
      if (this.#model.leaves(one, keyOf(one)) !== undefined) this.#work.released(one.lane.rule)
      // It may have been carried out.
      this.#model.called(one, false)
      hasLostCalls ||= one.lane.rule !== 'oldest'
    }
    const found = await (how === 'kill' ? this.#work.reopenAfterKill() : this.#work.reopen())
    // What such a call covers and postpones, nobody was told of but by this.
    if (hasLostCalls) this.#work.adopt(found)
    else expect(found).toEqual(this.#work.waiting)
  }

  /** Makes all calls that are left, led only by what the store tells; then nothing waits any more. */
  async drain(): Promise<void> {
    await this.#settled()
    for (const one of this.#inHand()) this.#settle(one, 'ok')
    await this.#settled()
    while (this.#work.nextUntil !== Number.POSITIVE_INFINITY) {
      this.#work.clock.wind(Math.max(0, this.#work.nextUntil - this.#work.clock.now()))
      await this.#handedOut(() => this.#work.takeDue(2))
      for (const one of this.#inHand()) this.#settle(one, 'ok')
      await this.#settled()
    }
    for (const { known, state, coveredBy } of this.#model.all) {
      const entry = await this.#work.entry(known)
      expect([idOf(known), entry.reason === 'parked' ? 'parked' : entry.state, entry.coveredBy]).toEqual([
        idOf(known),
        state,
        coveredBy === undefined ? undefined : idOf(coveredBy.known),
      ])
    }
    expect(this.#model.all.filter(({ state }) => state === 'waiting')).toEqual([])
    expect(await this.#work.reopen()).toEqual(this.#work.waiting)
  }

  async #arrive({ rule, lane, key, dueInMs, rootTime, metaId }: Extract<Step, { kind: 'arrive' }>): Promise<void> {
    const standing = {
      ...(key === undefined ? {} : keyOfRule(rule, key)),
      ...(rootTime === undefined ? {} : { root: { signature: 'template', time: rootTime } }),
    }
    const { all } = this.#model
    const index = all.length
    const [record] = await this.#work.accept([anEvent({ meta: { id: metaId ?? `unique-${index}` } })])
    if (record === undefined) throw new Error('one was accepted')
    const delivery: Modelled = {
      index,
      lane: { rule, key: lane },
      known: { lane: { rule, key: lane }, record },
      metaId: metaId ?? `unique-${index}`,
      standing: key === undefined && rootTime === undefined ? undefined : standing,
      state: 'waiting',
      isDiscarded: false,
      isClaimed: false,
      coveredBy: undefined,
      isExempt: false,
      taken: undefined,
    }
    all.push(delivery)
    this.#byId.set(idOf(delivery.known), delivery)
    const reason = dueInMs === 0 ? 'slot' : 'due'
    this.#handIn(delivery, { state: 'waiting', reason, until: this.#work.clock.now() + dueInMs }, true)
  }

  #settle(delivery: Modelled, how: keyof typeof ways, key = ''): void {
    const now = this.#work.clock.now()
    const { isCall, part } = ways[how]
    const settlement: Partial<Settlement> = part(now)
    delivery.isClaimed = how === 'claimed'
    if (how === 'running' || how === 'claimed') {
      this.#pending.push(this.#told(delivery, settlement, false))
      return
    }
    const before = keyOf(delivery)
    if (how === 'rekeyed') {
      delivery.standing = { ...delivery.standing, ...keyOfRule(delivery.lane.rule, key) }
    }
    const progress = delivery.taken?.progress
    if (isCall && progress?.firstAttemptAt === 0) this.#model.startedFresh(delivery, now)
    if (settlement.state === 'waiting' && how !== 'parked') {
      if (keyOf(delivery) !== before) this.#model.leaves(delivery, before)
      this.#handIn(delivery, settlement, keyOf(delivery) !== before, isCall)
    } else {
      delivery.state = how === 'parked' ? 'parked' : settlement.state === 'dead' ? 'dead' : 'done'
      this.#model.leaves(delivery, before)
      this.#pending.push(this.#told(delivery, settlement, false, isCall))
    }
    if (isCall) this.#model.called(delivery, how === 'ok')
  }

  #reopen(delivery: Modelled, how: 'replay' | 'discard'): void {
    delivery.taken = undefined
    if (how === 'replay') {
      delivery.isExempt = true
      this.#handIn(delivery, { state: 'waiting', reason: 'due', until: this.#work.clock.now() }, false)
      return
    }
    delivery.state = 'done'
    delivery.isDiscarded = true
    this.#pending.push(this.#told(delivery, { state: 'done', reason: 'discarded' }, false))
  }

  /** That it waits. */
  #handIn(delivery: Modelled, part: Partial<Settlement>, isFirst: boolean, isCall = false): void {
    this.#pending.push(this.#told(delivery, part, this.#model.waits(delivery, isFirst), isCall))
  }

  async #told(
    delivery: Modelled,
    part: Partial<Settlement>,
    isDuplicate: boolean,
    isCall = false,
  ): Promise<readonly [boolean, boolean]> {
    const { standing, known, taken } = delivery
    const settled = { ...known, standing, ...(taken === undefined ? {} : { progress: taken.progress }) }
    const consequences = await (isCall ? this.#work.called(settled, part) : this.#work.settle(settled, part))
    return [consequences?.amended?.state === 'done', isDuplicate]
  }

  async #handedOut(take: () => Promise<readonly StoredDelivery[]>): Promise<void> {
    const { items } = await this.#work.store.deliveries({ state: 'waiting', limit: 10_000 })
    const next = new Map(items.map((entry) => [entry.id, entry.next ?? Number.POSITIVE_INFINITY]))
    for (const taken of await take()) {
      const delivery = this.#byId.get(idOf(taken))
      if (delivery === undefined) throw new Error('it was never handed in')
      this.#model.handedOut(delivery, taken, next, this.#work.clock.now())
    }
  }

  #pick(pick: number, ...states: Modelled['state'][]): Modelled | undefined {
    const candidates = this.#model.all.filter(({ state }) => states.includes(state))
    return candidates[pick % candidates.length]
  }

  #inHand(): readonly Modelled[] {
    return this.#model.all.filter(({ state }) => state === 'in hand')
  }

  async #settled(): Promise<void> {
    const pending = this.#pending
    this.#pending = []
    for (const [isDuplicate, wanted] of await Promise.all(pending)) expect(isDuplicate).toBe(wanted)
  }
}

const arrives = { kind: 'arrive', rule: 'window', lane: '', key: undefined, dueInMs: 0 } as const
const none = { rootTime: undefined, metaId: undefined }

/** Histories that failed once. */
const known: [Step[]][] = [
  // What arrives last may not get the place of the one that is gone, and whose call covers the first.
  [
    [
      { ...arrives, ...none, lane: 'elsewhere' },
      { ...arrives, ...none, key: 'y' },
      { kind: 'take', rule: 'window', lane: '', limit: 1 },
      { kind: 'settle', pick: 0, how: 'ok', key: 'x' },
      { kind: 'take', rule: 'window', lane: 'elsewhere', limit: 1 },
      { ...arrives, ...none },
      { kind: 'settle', pick: 0, how: 'rekeyed', key: 'y' },
    ],
  ],
]

/**
 * Whatever happens, in whatever order: what a store does with keys and roots is what the model says. `share`: of the histories
 * that are tried, where opening a world takes its time.
 */
export function modelOfStandings(name: string, openWorld: () => Promise<StoreWorld>, share = 1): void {
  test(
    `${name}: whatever happens, keeps keys and root events as the model does, and loses nothing that waits`,
    async () => {
      let work: Work | undefined
      onTestFinished(() => work?.store.close())
      await fc.assert(
        fc.asyncProperty(history, async (steps) => {
          await work?.store.close()
          work = new Work(await openWorld(), new WoundClock())
          await work.open()
          const run = new Run(work)
          for (const step of steps) await run.do(step)
          await run.drain()
        }),
        { ...seed, numRuns: Math.ceil(runs * share), examples: known },
      )
    },
    runs * 20_000,
  )
}
