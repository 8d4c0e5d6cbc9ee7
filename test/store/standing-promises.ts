import { expect, onTestFinished, test } from 'vitest'
import type { NewEvent } from '../../src/event/event.ts'
import { noProgress, type Settlement, type Standing } from '../../src/store/store.ts'
import { WoundClock } from '../support/clock.ts'
import { until } from '../support/until.ts'
import { anEvent, events, idOf, ids, type Known, lane, namelessEvents, type StoreWorld, Work } from './world.ts'

const never = Number.POSITIVE_INFINITY
const minuteMs = 60_000
const hourMs = 3_600_000
const dayMs = 86_400_000
const other = { rule: 'other', key: '' }
const elsewhere = { rule: 'call', key: 'elsewhere' }

function newest(text = 'page', windowMs = 0): Standing {
  return { key: { text, turn: 'newest', windowMs } }
}

function oldest(text = 'page'): Standing {
  return { key: { text, turn: 'oldest', windowMs: 0 } }
}

function rooted(time: number, signature = 'template'): Standing {
  return { root: { signature, time } }
}

const dead = { state: 'dead', reason: 'refused' } as const
const superseded = { state: 'done', reason: 'superseded' } as const

/** What happens to the process between two steps of a test. */
const restarts: readonly (readonly [when: string, restart: (work: Work) => Promise<unknown>])[] = [
  ['', async () => {}],
  [', also after a kill', (work) => work.reopenAfterKill()],
]

/** What any back end keeps of keys, order and root events. Run by each one's own test file. */
export function promisesOfStandings(name: string, openWorld: () => Promise<StoreWorld>): void {
  const of = (what: string) => `${name}: ${what}`

  async function setup() {
    const work = new Work(await openWorld(), new WoundClock())
    await work.open()
    onTestFinished(() => work.store.close())
    const { clock } = work
    const accept = async (standing: Standing | undefined, accepted: readonly NewEvent[], of = lane): Promise<Known[]> =>
      (await work.accept(accepted)).map((record) => ({ lane: of, record, standing }))
    /** Accepts one more, and has it wait. */
    const arrive = async (standing: Standing | undefined, part: Partial<Settlement> = {}, event = anEvent()) => {
      const [known] = await accept(standing, [event], part.lane)
      if (known === undefined) throw new Error('one was accepted')
      const consequences = await work.arrive(known, part)
      return { ...known, consequences }
    }
    /** A call that ended so at once. */
    const call = async (standing: Standing, part: Partial<Settlement> = {}, event = anEvent()) => {
      const known = await arrive(standing, {}, event)
      const taken = await work.takeOne()
      expect(taken.record.id).toBe(known.record.id)
      return { ...known, consequences: await work.called(taken, part) }
    }
    /** Whether it may run from memory. */
    const isKeyFree = async ({ record, standing, lane: { rule } }: Known) => {
      if (standing?.key === undefined) throw new Error('it has a key')
      // The first time that may not be known at once: what is asked after it is answered after it.
      work.store.isKeyFree(record, rule, standing.key)
      await work.store.deliveries({ limit: 1 })
      return work.store.isKeyFree(record, rule, standing.key)
    }
    /** Of one more. */
    const isNextFree = async (standing: Standing, event = anEvent()) => {
      clock.wind(1)
      const [known] = await accept(standing, [event])
      return known !== undefined && isKeyFree(known)
    }
    const states = (list: readonly Known[]) =>
      Promise.all(
        list.map(async (known) => {
          const { state, reason } = await work.entry(known)
          return `${state} ${reason}`
        }),
      )
    return { work, clock, accept, arrive, call, isKeyFree, isNextFree, states }
  }

  const outcomes = [
    ['ok', () => ({})],
    ['dead', () => dead],
    ['retry', (now: number) => ({ state: 'waiting', reason: 'retry', until: now + minuteMs })],
  ] as const

  for (const [when, restart] of restarts) {
    for (const [outcome, part] of outcomes) {
      test(
        of(`hands out the newest of a key alone; its call, which ends ${outcome}, covers the older${when}`),
        async () => {
          const { work, clock, accept, states } = await setup()
          const known = await accept(newest(), events(5))
          await Promise.all(known.map((one) => work.arrive(one)))
          const older = known.slice(0, 4)

          await restart(work)
          const taken = await work.takeOne()
          const more = await work.take()
          const consequences = await work.called(taken, part(clock.now()))

          expect(taken.record.id).toBe(known[4]?.record.id)
          expect(more).toEqual([])
          expect(consequences).toMatchObject({
            amended: undefined,
            moved: [{ from: 'slot', to: 'duplicate', count: 4 }],
            due: outcome === 'retry' ? [{ lane, until: clock.now() + minuteMs }] : [],
          })
          await restart(work)
          expect(await states(older)).toEqual(older.map(() => 'done duplicate'))
          for (const one of older) expect((await work.entry(one)).coveredBy).toBe(idOf(taken))
          const survivor = await work.entry(taken)
          expect(survivor.covers).toEqual({ count: 4, ids: older.map(idOf) })
          expect(survivor.coveredBy).toBeUndefined()
          expect(await work.take()).toEqual([])
          expect(await work.reopen()).toEqual(work.waiting)
          clock.wind(minuteMs)
          expect(ids(await work.take())).toEqual(outcome === 'retry' ? [taken.record.id] : [])
        },
      )
    }

    test(of(`covers what is older and not yet due, and tells of it by reason${when}`), async () => {
      const { work, clock, arrive, states } = await setup()
      const older = [
        await arrive(newest(), { reason: 'due', until: clock.now() + minuteMs }),
        await arrive(newest(), { reason: 'target', until: clock.now() + minuteMs }),
        await arrive(newest(), { reason: 'target', until: clock.now() }),
        await arrive(newest(), { reason: 'rule_gone', until: never }),
      ]
      const survivor = await arrive(newest())

      await restart(work)
      const consequences = await work.called(await work.takeOne())

      expect([...(consequences?.moved ?? [])].sort((a, b) => a.from.localeCompare(b.from))).toEqual([
        { from: 'due', to: 'duplicate', count: 1 },
        { from: 'rule_gone', to: 'duplicate', count: 1 },
        { from: 'target', to: 'duplicate', count: 2 },
      ])
      expect(await states(older)).toEqual(older.map(() => 'done duplicate'))
      expect((await work.entry(survivor)).covers.count).toBe(4)
      expect(work.waiting).toEqual({})
      expect(await work.reopen()).toEqual({})
    })

    test(of(`knows the newest of those that were accepted in one millisecond${when}`), async () => {
      const { work, clock, arrive } = await setup()
      await arrive(newest())
      const { record } = await arrive(newest())
      await work.arrive(await work.takeOne(), { reason: 'due', until: clock.now() + minuteMs })

      await restart(work)
      clock.wind(minuteMs)

      expect((await work.takeOne()).record.id).toBe(record.id)
    })

    test(of(`hands out an older one that is due while the newest is not, and covers no newer${when}`), async () => {
      const { work, clock, arrive, states } = await setup()
      const due = clock.now() + minuteMs
      const first = await arrive(newest())
      const second = await arrive(newest(), { reason: 'due', until: due })

      await restart(work)
      const taken = await work.takeOne()
      const consequences = await work.called(taken)

      expect(taken.record.id).toBe(first.record.id)
      expect(consequences).toEqual({ amended: undefined, moved: [], due: [{ lane, until: due }] })
      expect(await states([second])).toEqual(['waiting due'])
      expect(await work.take()).toEqual([])
      clock.wind(minuteMs)
      expect(ids(await work.take())).toEqual([second.record.id])
    })

    test(of(`hands out what came meanwhile when the key is free, in whatever lane it is${when}`), async () => {
      const { work, arrive, states } = await setup()
      const now = work.clock.now()
      const first = await arrive(newest())
      const taken = await work.takeOne()
      const second = await arrive(newest())
      const third = await arrive(newest(), { lane: elsewhere })
      expect([...(await work.take()), ...(await work.take(elsewhere))]).toEqual([])

      const consequences = await work.called(taken)
      expect(consequences?.moved).toEqual([])
      expect(consequences?.due).toHaveLength(2)
      expect(consequences?.due).toEqual(
        expect.arrayContaining([
          { lane, until: now },
          { lane: elsewhere, until: now },
        ]),
      )
      await restart(work)

      expect(await work.take()).toEqual([])
      const next = await work.takeOne(elsewhere)
      expect(next.record.id).toBe(third.record.id)
      await work.called(next)
      expect(await states([first, second, third])).toEqual(['done ok', 'done duplicate', 'done ok'])
      expect((await work.entry(second)).coveredBy).toBe(idOf(third))
      expect(await work.reopen()).toEqual({})
    })

    test(of(`leaves alone what has another key or none, and the same key under another rule${when}`), async () => {
      const { work, arrive, states } = await setup()
      const strangers = [
        await arrive(newest('another page')),
        await arrive(undefined),
        await arrive(newest(), { lane: other }),
        await arrive(newest('another page')),
        await arrive(undefined),
      ]
      const survivor = await arrive(newest())

      await restart(work)
      const taken = await work.take()
      expect(new Set(ids(taken))).toEqual(
        new Set([1, 3, 4].map((index) => strangers[index]?.record.id).concat(survivor.record.id)),
      )
      for (const one of taken) if (one.record.id === survivor.record.id) await work.called(one)

      expect(await states(strangers)).toEqual(strangers.map(() => 'waiting slot'))
      expect(ids(await work.take(other))).toEqual([strangers[2]?.record.id])
      expect(await work.reopen()).toEqual(work.waiting)
    })
  }

  test.each([
    ['is done without a call', { state: 'done', reason: 'expired' }],
    ['is dead without a call', { state: 'dead', reason: 'template_failed' }],
    ['waits for its target', { state: 'waiting', reason: 'target', until: 1_700_000_000_000 + minuteMs }],
    ['is parked', { state: 'waiting', reason: 'parked', until: never }],
  ] as const)(of('frees a key, and covers nobody, when the newest %s'), async (_what, part) => {
    const { work, clock, arrive, states } = await setup()
    const first = await arrive(newest())
    const second = await arrive(newest())

    const consequences = await work.settle(await work.takeOne(), part)

    expect(consequences?.moved).toEqual([])
    expect(consequences?.due).toEqual([{ lane, until: clock.now() }])
    expect(await states([first, second])).toEqual(['waiting slot', `${part.state} ${part.reason}`])
    expect(ids(await work.take())).toEqual([first.record.id])
    expect(await work.reopen()).toEqual(work.waiting)
  })

  test.each([
    ['claimed', true],
    ['not claimed', false],
  ])(of('keeps a key from others while a delivery of it is running, %s'), async (_what, claimed) => {
    const { work, arrive, states } = await setup()
    const first = await arrive(newest())
    const taken = await work.takeOne()
    const second = await arrive(newest())

    const consequences = await work.settle(taken, { state: 'running', reason: '', claimed })

    expect(consequences).toBeUndefined()
    expect(await work.take()).toEqual([])
    const third = await arrive(newest())
    expect(await work.take()).toEqual([])
    await work.called(taken)
    await work.called(await work.takeOne())
    expect(await states([first, second, third])).toEqual(['done ok', 'done duplicate', 'done ok'])
  })

  test(
    of('hands out the newest anew after a kill cut its call off, and only a newer one where it may not be repeated'),
    async () => {
      const { work, arrive, states } = await setup()
      const first = await arrive(newest())
      const second = await arrive(newest())
      await work.settle(await work.takeOne(), { state: 'running', reason: '' })

      expect(await work.reopenAfterKill()).toEqual(work.waiting)
      const again = await work.takeOne()
      expect(again.record.id).toBe(second.record.id)
      await work.settle(again, { state: 'running', reason: '', claimed: true })

      expect(await work.reopenAfterKill()).toEqual({})
      expect(await states([first, second])).toEqual(['done duplicate', 'dead interrupted'])
      const third = await arrive(newest())
      expect((await work.takeOne()).record.id).toBe(third.record.id)
    },
  )

  for (const [when, restart] of restarts) {
    test(of(`makes a dead letter that is replayed a duplicate of what was called after it${when}`), async () => {
      const { work, clock, call, states } = await setup()
      const letter = await call(newest(), dead)
      const later = await call(newest())

      await restart(work)
      const consequences = await work.settle(letter, { state: 'waiting', reason: 'due', until: clock.now() })

      expect(consequences).toEqual({ amended: { state: 'done', reason: 'duplicate' }, moved: [], due: [] })
      expect(await states([letter])).toEqual(['done duplicate'])
      expect((await work.entry(letter)).coveredBy).toBe(idOf(later))
      expect((await work.entry(later)).covers).toEqual({ count: 1, ids: [idOf(letter)] })
      expect(await work.take()).toEqual([])
      expect((await work.store.deadLetters({ limit: 10 })).items).toEqual([])
      expect(work.store.deadCounts().size).toBe(0)
      expect(await work.reopen()).toEqual(work.waiting)
    })

    test(of(`hands out a dead letter that is replayed and was the last of its key to be called${when}`), async () => {
      const { work, clock, call } = await setup()
      await call(newest())
      const letter = await call(newest(), dead)

      await restart(work)
      const replay = { state: 'waiting', reason: 'due', until: clock.now() } as const
      expect(await work.settle(letter, replay)).toBeUndefined()

      expect((await work.takeOne()).record.id).toBe(letter.record.id)
    })

    test(of(`makes an event with the meta.id of its key's last success a duplicate, for an hour${when}`), async () => {
      const { work, clock, call, arrive } = await setup()
      const twin = () => anEvent({ meta: { id: 'twin' } })
      const first = await call(newest(), {}, twin())

      await restart(work)
      clock.wind(hourMs - 1)
      const second = await arrive(newest(), {}, twin())
      clock.wind(1)
      const third = await arrive(newest(), {}, twin())

      expect(second.consequences).toEqual({ amended: { state: 'done', reason: 'duplicate' }, moved: [], due: [] })
      expect((await work.entry(second)).coveredBy).toBe(idOf(first))
      expect(third.consequences).toBeUndefined()
      expect((await work.takeOne()).record.id).toBe(third.record.id)
      expect(await work.reopen()).toEqual(work.waiting)
    })
  }

  test(of('remembers the meta.id of a success for the window where that is longer'), async () => {
    const { work, clock, call, arrive } = await setup()
    const twin = () => anEvent({ meta: { id: 'twin' } })
    await call(newest('page', 3 * hourMs), {}, twin())

    clock.wind(3 * hourMs - 1)
    const second = await arrive(newest('page', 3 * hourMs), {}, twin())
    clock.wind(1)
    const third = await arrive(newest('page', 3 * hourMs), {}, twin())

    expect(second.consequences?.amended).toEqual({ state: 'done', reason: 'duplicate' })
    expect(third.consequences).toBeUndefined()
    expect(work.waiting).toEqual({ 'call slot': 1 })
  })

  interface Twins {
    readonly outcome?: Partial<Settlement>
    readonly key?: string
    readonly lane?: typeof lane
    readonly isFollowed?: boolean
    readonly events?: () => readonly NewEvent[]
  }

  const unrelated: readonly (readonly [why: string, twins: Twins])[] = [
    ['the call failed', { outcome: dead }],
    ['the success was of another key', { key: 'another page' }],
    ['the success was of another rule', { lane: other }],
    ['another event has succeeded since', { isFollowed: true }],
    ['it has no meta.id', { events: () => namelessEvents(2) }],
    ['its meta.id is another', { events: () => events(2) }],
  ]

  test.each(unrelated)(of('does not make an event a duplicate at once where %s'), async (_why, twins) => {
    const { work, call, arrive } = await setup()
    const [first, second] = twins.events?.() ?? [1, 2].map(() => anEvent({ meta: { id: 'twin' } }))
    await call(newest(), twins.outcome, first)
    if (twins.isFollowed) await call(newest())

    const again = await arrive(newest(twins.key), { lane: twins.lane ?? lane }, second)

    expect(again.consequences).toBeUndefined()
    expect((await work.takeOne(again.lane)).record.id).toBe(again.record.id)
  })

  test(of('covers by a call from memory what is older and came to a row meanwhile'), async () => {
    const { work, accept, arrive, states } = await setup()
    const key = newest()
    const [older, known] = await accept(key, events(2))
    if (older === undefined || known === undefined) throw new Error('two were accepted')
    await work.arrive(older)
    await work.called(known)
    expect(await states([older, known])).toEqual(['done duplicate', 'done ok'])
    expect(await work.take()).toEqual([])
    await arrive(key)
    expect(await work.take()).toHaveLength(1)
  })

  for (const [when, restart] of restarts) {
    for (const [turn, key] of [
      ['newest', newest()],
      ['oldest', oldest()],
    ] as const) {
      test(of(`says that a key is free while nothing of it (${turn}) waits or runs${when}`), async () => {
        const { work, clock, arrive, isNextFree } = await setup()
        expect(await isNextFree(key)).toBe(true)

        await arrive(key)
        await arrive(newest('another page'))
        await restart(work)
        expect(await isNextFree(key)).toBe(false)

        const [first, another] = await work.take()
        for (const taken of [first, another])
          if (taken !== undefined) await work.settle(taken, { state: 'running', reason: '' })
        expect(await isNextFree(key)).toBe(false)

        for (const taken of [first, another]) if (taken !== undefined) await work.called(taken)
        clock.wind(1)
        expect(await isNextFree(key)).toBe(true)
        expect(await work.take()).toEqual([])
      })
    }

    test(of(`remembers a call of what ran from memory under its key${when}`), async () => {
      const { work, clock, accept, arrive, isKeyFree, isNextFree } = await setup()
      const key = newest('page', minuteMs)
      const begun = clock.now()
      const [known] = await accept(key, events(1))
      if (known === undefined) throw new Error('one was accepted')
      expect(await isKeyFree(known)).toBe(true)
      await work.called(known)
      await restart(work)

      expect(await isNextFree(key)).toBe(false)
      expect((await arrive(key)).consequences?.amended).toMatchObject({ reason: 'key', until: begun + minuteMs })
      expect(await isNextFree(newest('another page', minuteMs))).toBe(true)
      clock.wind(minuteMs)
      await work.called(await work.takeOne())
      clock.wind(minuteMs)
      expect(await isNextFree(key)).toBe(true)
    })

    test(of(`knows by its meta.id what ran from memory under its key, for an hour${when}`), async () => {
      const { work, clock, accept, arrive, isNextFree, states } = await setup()
      const key = newest()
      const [event = anEvent()] = events(1)
      const [known] = await accept(key, [event])
      if (known === undefined) throw new Error('one was accepted')
      await work.called(known)
      await restart(work)

      expect(await isNextFree(key, event)).toBe(false)
      expect(await isNextFree(key)).toBe(true)
      const again = await arrive(key, {}, event)
      expect(await states([again])).toEqual(['done duplicate'])
      expect((await work.entry(again)).coveredBy).toBe(idOf(known))
      clock.wind(hourMs)
      expect(await isNextFree(key, event)).toBe(true)
    })

    test(of(`keeps fresh starts of a key a window apart${when}`), async () => {
      const { work, clock, call, arrive } = await setup()
      const key = newest('page', minuteMs)
      const begun = clock.now()
      await call(key)

      clock.wind(1_000)
      await restart(work)
      const second = await arrive(key)
      const later = await arrive(key, { reason: 'due', until: begun + 2 * minuteMs })
      const stranger = await arrive(newest('another page', minuteMs))

      const amended = { state: 'waiting', reason: 'key', until: begun + minuteMs }
      expect(second.consequences).toEqual({ amended, moved: [], due: [] })
      expect(later.consequences).toBeUndefined()
      expect(await work.reopen()).toEqual(work.waiting)
      expect((await work.takeOne()).record.id).toBe(stranger.record.id)
      clock.wind(begun + minuteMs - 1 - clock.now())
      expect(await work.take()).toEqual([])
      clock.wind(1)
      const started = await work.takeOne()
      expect(started.record.id).toBe(second.record.id)
      await work.called(started)
      const third = await arrive(key)
      expect(third.consequences?.amended).toMatchObject({ until: begun + 2 * minuteMs })
    })

    test(of(`has what came during a call wait for the window, and tells of it${when}`), async () => {
      const { work, clock, arrive } = await setup()
      const key = newest('page', minuteMs)
      const begun = clock.now()
      await arrive(key)
      const taken = await work.takeOne()
      const [second, third] = [await arrive(key), await arrive(key, { reason: 'target' })]
      clock.wind(5_000)

      const progress = { ...taken.progress, firstAttemptAt: begun }
      const consequences = await work.called({ ...taken, progress })

      expect([...(consequences?.moved ?? [])].sort((a, b) => a.from.localeCompare(b.from))).toEqual([
        { from: 'slot', to: 'key', count: 1 },
        { from: 'target', to: 'key', count: 1 },
      ])
      expect(consequences?.due).toEqual([{ lane, until: begun + minuteMs }])
      await restart(work)
      expect(work.waiting).toEqual({ 'call key': 2 })
      expect(await work.take()).toEqual([])
      clock.wind(begun + minuteMs - clock.now())
      const started = await work.takeOne()
      expect(started.record.id).toBe(third.record.id)
      await work.called(started)
      expect((await work.entry(second)).coveredBy).toBe(idOf(third))
    })

    test(of(`exempts retries from the window, which runs from the first attempt${when}`), async () => {
      const { work, clock, call, arrive } = await setup()
      const key = newest('page', minuteMs)
      const begun = clock.now()
      const first = await call(key, { state: 'waiting', reason: 'retry', until: begun + 5_000 })

      clock.wind(5_000)
      await restart(work)
      const retry = await work.takeOne()
      expect(retry.record.id).toBe(first.record.id)
      await work.called(retry)

      const second = await arrive(key)
      expect(second.consequences?.amended).toEqual({ state: 'waiting', reason: 'key', until: begun + minuteMs })
    })

    test(of(`gives a new one the time of a retry of its key, and covers that${when}`), async () => {
      const { work, clock, call, arrive, states } = await setup()
      const retryAt = clock.now() + minuteMs
      const first = await call(newest(), { state: 'waiting', reason: 'retry', until: retryAt })

      await restart(work)
      const second = await arrive(newest())
      const later = await arrive(newest(), { reason: 'due', until: retryAt + 1 })
      const stranger = await arrive(newest('another page'))

      const amended = { state: 'waiting', reason: 'retry', until: retryAt }
      expect(second.consequences).toEqual({ amended, moved: [], due: [] })
      expect(later.consequences).toBeUndefined()
      expect((await work.takeOne()).record.id).toBe(stranger.record.id)
      clock.wind(minuteMs)
      const taken = await work.takeOne()
      expect(taken).toMatchObject({ record: { id: second.record.id }, progress: { failures: 0 }, reason: 'retry' })
      await work.called(taken)
      expect(await states([first, second, later])).toEqual(['done duplicate', 'done ok', 'waiting due'])
      expect(await work.reopen()).toEqual(work.waiting)
    })
  }

  test(of('has what came during a call wait for its retry'), async () => {
    const { work, clock, arrive } = await setup()
    await arrive(newest())
    const taken = await work.takeOne()
    const second = await arrive(newest())
    const later = await arrive(newest(), { reason: 'due', until: clock.now() + 2 * minuteMs })

    const retryAt = clock.now() + minuteMs
    const consequences = await work.called(taken, { state: 'waiting', reason: 'retry', until: retryAt })

    expect(consequences?.moved).toEqual([{ from: 'slot', to: 'retry', count: 1 }])
    expect(consequences?.due).toEqual([{ lane, until: retryAt }])
    expect(await work.take()).toEqual([])
    clock.wind(minuteMs)
    const next = await work.takeOne()
    expect(next.record.id).toBe(second.record.id)
    await work.called(next)
    expect((await work.entry(taken)).coveredBy).toBe(idOf(second))
    expect((await work.entry(later)).state).toBe('waiting')
    expect(await work.reopen()).toEqual(work.waiting)
  })

  for (const [when, restart] of restarts) {
    test(of(`hands out what is ordered by a key one after another, as it was accepted${when}`), async () => {
      const { work, clock, accept } = await setup()
      const known = await accept(oldest(), events(4))
      const arrived = await Promise.all(known.map((one) => work.arrive(one)))

      expect(arrived.map((consequences) => consequences?.amended)).toEqual([
        undefined,
        ...[1, 2, 3].map(() => ({ state: 'waiting', reason: 'key', until: never })),
      ])
      const handed: string[] = []
      for (const [index, part] of [{}, dead, superseded, {}].entries()) {
        await restart(work)
        const taken = await work.takeOne()
        handed.push(taken.record.id)
        expect(taken.followers).toBe(3 - index)
        expect(await work.take()).toEqual([])
        const consequences = await work.called(taken, part)
        expect(consequences).toEqual({
          amended: undefined,
          moved: index === 3 ? [] : [{ from: 'key', to: 'slot', count: 1 }],
          due: index === 3 ? [] : [{ lane, until: clock.now() }],
        })
        clock.wind(1)
      }
      expect(handed).toEqual(ids(known))
      expect(await work.reopen()).toEqual({})
    })

    test(of(`lets the next by when what was before it ends that was in nobody's hands${when}`), async () => {
      const { work, clock, arrive } = await setup()
      const soon = clock.now() + minuteMs
      const first = await arrive(oldest(), { reason: 'due', until: soon })
      const second = await arrive(oldest())
      const another = await arrive(oldest('another page'))
      await restart(work)
      clock.wind(1)
      expect((await work.takeOne()).record.id).toBe(another.record.id)

      const at = clock.now() - 1
      const ended = await work.settle(first, { at })

      expect(ended).toEqual({
        amended: undefined,
        moved: [{ from: 'key', to: 'slot', count: 1 }],
        due: [{ lane, until: at }],
      })
      expect((await work.takeOne()).record.id).toBe(second.record.id)
    })

    test(of(`does not let followers by while what is before them waits${when}`), async () => {
      const { work, clock, arrive } = await setup()
      const first = await arrive(oldest())
      const second = await arrive(oldest(), { lane: elsewhere })

      const retryAt = clock.now() + minuteMs
      const failed = await work.called(await work.takeOne(), { state: 'waiting', reason: 'retry', until: retryAt })
      expect(failed).toEqual({ amended: undefined, moved: [], due: [{ lane, until: retryAt }] })
      await restart(work)
      expect([...(await work.take()), ...(await work.take(elsewhere))]).toEqual([])
      clock.wind(minuteMs)
      const paused = await work.settle(await work.takeOne(), { state: 'waiting', reason: 'target', until: clock.now() })
      expect(paused?.moved).toEqual([])
      await restart(work)
      expect(await work.take(elsewhere)).toEqual([])
      const taken = await work.takeOne()
      expect(taken.record.id).toBe(first.record.id)
      const ended = await work.called(taken)

      expect(ended?.due).toEqual([{ lane: elsewhere, until: clock.now() }])
      await restart(work)
      expect((await work.takeOne(elsewhere)).record.id).toBe(second.record.id)
      expect(await work.reopen()).toEqual(work.waiting)
    })

    test(
      of(`has a dead letter that is replayed wait for its turn, before what was accepted after it${when}`),
      async () => {
        const { work, clock, call, arrive } = await setup()
        const letter = await call(oldest(), dead)
        const head = await arrive(oldest())
        const follower = await arrive(oldest())

        await restart(work)
        const replayed = await work.settle(letter, { state: 'waiting', reason: 'due', until: clock.now() })
        expect(replayed?.amended).toEqual({ state: 'waiting', reason: 'key', until: never })
        await restart(work)

        for (const known of [head, letter, follower]) {
          const taken = await work.takeOne()
          expect(taken.record.id).toBe(known.record.id)
          await work.called(taken)
        }
        expect(await work.reopen()).toEqual({})
      },
    )

    test(of(`lets the next by when what was before it has no such key any more${when}`), async () => {
      const { work, arrive } = await setup()
      const first = await arrive(oldest())
      const second = await arrive(oldest())
      const taken = await work.takeOne()

      const wait = { state: 'waiting', reason: 'slot', until: work.clock.now(), revision: 'another' } as const
      const consequences = await work.settle(taken, { ...wait, standing: undefined })

      expect(consequences?.moved).toEqual([{ from: 'key', to: 'slot', count: 1 }])
      await restart(work)
      const both = await work.take()
      expect(new Set(ids(both))).toEqual(new Set(ids([first, second])))
      expect(both.map(({ standing }) => standing)).toEqual(
        expect.arrayContaining([undefined, { key: { text: 'page', turn: 'oldest', windowMs: 0 } }]),
      )
      expect(await work.reopen()).toEqual(work.waiting)
    })
  }

  test(of('has what changes its key wait for those of the other key'), async () => {
    const { work, arrive } = await setup()
    const first = await arrive(oldest())
    const second = await arrive(oldest())
    const head = await arrive(oldest('another page'))
    const taken = (await work.take()).find(({ record }) => record.id === first.record.id)
    if (taken === undefined) throw new Error('it was due')

    const wait = { state: 'waiting', reason: 'slot', until: work.clock.now() } as const
    const consequences = await work.settle(taken, { ...wait, standing: oldest('another page') })

    expect(consequences).toMatchObject({
      amended: { state: 'waiting', reason: 'key', until: never },
      moved: [{ from: 'key', to: 'slot', count: 1 }],
    })
    expect((await work.takeOne()).record.id).toBe(second.record.id)
    await work.called(head)
    expect((await work.takeOne()).record.id).toBe(first.record.id)
    expect(await work.reopen()).toEqual(work.waiting)
  })

  test(of('orders each key and each rule by itself'), async () => {
    const { work, arrive } = await setup()
    const heads = [await arrive(oldest()), await arrive(oldest('another page'))]
    const elsewhere = await arrive(oldest(), { lane: other })
    const unordered = [await arrive(undefined), await arrive(undefined)]
    await arrive(oldest())

    expect(ids(await work.take())).toEqual(ids([...heads, ...unordered]))
    expect(ids(await work.take(other))).toEqual(ids([elsewhere]))
    expect(await work.reopen()).toEqual(work.waiting)
  })

  test(of('counts those that wait for one of their key, up to 1,001'), async () => {
    const { work, accept } = await setup()
    const known = await accept(oldest(), events(1_005))
    await Promise.all(known.map((one) => work.arrive(one)))

    const counts: number[] = []
    for (let index = 0; index < 5; index += 1) {
      const taken = await work.takeOne()
      counts.push(taken.followers)
      await work.called(taken)
    }

    expect(counts).toEqual([1_001, 1_001, 1_001, 1_001, 1_000])
    expect(await work.reopen()).toEqual(work.waiting)
  })

  test(
    of('keeps the order after a kill, and lets the next by where the call that was cut off is not repeated'),
    async () => {
      const { work, accept, states } = await setup()
      const known = await accept(oldest(), events(3))
      await Promise.all(known.map((one) => work.arrive(one)))
      await work.settle(await work.takeOne(), { state: 'running', reason: '' })

      await work.reopenAfterKill()
      const again = await work.takeOne()
      expect(again.record.id).toBe(known[0]?.record.id)
      await work.settle(again, { state: 'running', reason: '', claimed: true })
      await work.reopenAfterKill()

      expect(await states(known.slice(0, 1))).toEqual(['dead interrupted'])
      expect(ids(await work.take())).toEqual([known[1]?.record.id])
    },
  )

  for (const [when, restart] of restarts) {
    test(of(`tells that a later root event was accepted${when}`), async () => {
      const { work, arrive, accept } = await setup()
      const known = [
        await arrive(rooted(2_000)),
        await arrive(rooted(3_000)),
        await arrive(rooted(1_000)),
        await arrive(rooted(3_000)),
        await arrive(rooted(1_000, 'another template')),
        await arrive(undefined),
        await arrive({ ...newest(), ...rooted(2_999) }),
      ]
      const [stranger] = await accept(rooted(4_000), events(1), other)
      if (stranger === undefined) throw new Error('one was accepted')
      await work.arrive(stranger)

      await restart(work)
      const taken = await work.take()

      const told = known.map(
        ({ record: { id } }) => taken.find(({ record }) => record.id === id)?.isSuperseded ?? 'not handed out',
      )
      expect(told).toEqual([true, false, true, false, false, false, true])
    })

    test(of(`does not count a later root event while it is dead, nor once it is discarded${when}`), async () => {
      const { work, clock, arrive } = await setup()
      let earlier: Known = await arrive(rooted(1_000))
      const later = await arrive(rooted(2_000))
      /** Takes both, and settles the later one so. */
      const isSupersededAfter = async (part: Partial<Settlement>) => {
        const taken = await work.take()
        for (const one of taken) if (one.record.id === earlier.record.id) await work.arrive(one)
        await work.settle(later, part)
        await restart(work)
        const again = (await work.take()).find(({ record }) => record.id === earlier.record.id)
        if (again === undefined) throw new Error('it was due')
        earlier = again
        await work.arrive(again)
        return again.isSuperseded
      }

      expect(await isSupersededAfter(dead)).toBe(false)
      expect(await isSupersededAfter({ state: 'waiting', reason: 'due', until: clock.now() })).toBe(true)
      expect(await isSupersededAfter({ state: 'running', reason: '' })).toBe(true)
      expect(await isSupersededAfter(dead)).toBe(false)
      expect(await isSupersededAfter({ state: 'done', reason: 'discarded' })).toBe(false)
      await arrive(rooted(1_500))
      expect(await isSupersededAfter({ state: 'done', reason: 'discarded' })).toBe(true)
    })

    test(of(`counts a later root event once${when}`), async () => {
      const { work, clock, arrive } = await setup()
      const earlier = await arrive(rooted(1_000))
      const later = await arrive(rooted(2_000))
      clock.wind(1)
      // When this is durable, all that follows from those is.
      await arrive(undefined, { lane: other })

      await restart(work)
      const taken = await work.take()
      for (const one of taken) {
        const isLater = one.record.id === later.record.id
        await (isLater ? work.called(one, dead) : work.arrive(one))
      }

      const again = await work.takeOne()
      expect([again.record.id, again.isSuperseded]).toEqual([earlier.record.id, false])
    })

    test.each([
      ['ok', {}],
      ['superseded', superseded],
      ['expired', { state: 'done', reason: 'expired' }],
    ] as const)(of(`counts a later root event that is done (%s)${when}`), async (_what, part) => {
      const { work, arrive } = await setup()
      await arrive(rooted(2_000))
      await work.settle(await work.takeOne(), part)

      await restart(work)
      await arrive(rooted(1_000))

      expect((await work.takeOne()).isSuperseded).toBe(true)
    })
  }

  test(of('counts one of several root events with one time as long as any is neither dead nor discarded'), async () => {
    const { work, arrive } = await setup()
    const earlier = await arrive(rooted(1_000))
    const twins = [await arrive(rooted(2_000)), await arrive(rooted(2_000))]
    const told: (boolean | undefined)[] = []

    for (const twin of twins) {
      const taken = await work.take()
      told.push(taken.find(({ record }) => record.id === earlier.record.id)?.isSuperseded)
      for (const one of taken) await (one.record.id === twin.record.id ? work.called(one, dead) : work.arrive(one))
    }
    told.push((await work.takeOne()).isSuperseded)

    expect(told).toEqual([true, true, false])
  })

  test(of('covers what is older when a kill cut off a call of the newest that may not be repeated'), async () => {
    const { work, arrive, states } = await setup()
    const older = await arrive(newest())
    const claimed = await arrive(newest())
    await work.settle(await work.takeOne(), { state: 'running', reason: '', claimed: true })
    await work.reopenAfterKill()

    expect(await work.take()).toEqual([])
    expect(await states([older, claimed])).toEqual(['done duplicate', 'dead interrupted'])
    expect((await work.entry(older)).coveredBy).toBe(idOf(claimed))
    await arrive(newest())
    expect(ids(await work.take()).length).toBe(1)
  })

  test(of('keeps what got another key a window apart from the last start of that key, but for retries'), async () => {
    const { work, clock, arrive, call, states } = await setup()
    await call(newest('new', hourMs))
    const moved = await arrive(newest('old'))
    const keyless = await arrive(undefined)
    const retried = await arrive(newest('other'))
    await work.take()
    const standing = newest('new', hourMs)
    for (const one of [moved, keyless]) await work.arrive({ ...one, standing })
    const progress = { ...noProgress, failures: 1, firstAttemptAt: clock.now() - minuteMs }
    await work.arrive({ ...retried, standing, progress })

    expect(await states([moved, keyless, retried])).toEqual(['waiting key', 'waiting key', 'waiting slot'])
  })

  test(of('counts a root event that got another signature or time under that alone'), async () => {
    const { work, arrive } = await setup()
    const earlier = [await arrive(rooted(1_000)), await arrive(rooted(1_000, 'another template'))]
    let later: Known = await arrive(rooted(2_000))
    /** As its rule says now. */
    const toldOnce = async (standing: Standing, part: Partial<Settlement> = {}) => {
      const taken = await work.take()
      for (const one of taken) if (one.record.id !== later.record.id) await work.arrive(one)
      later = { ...later, standing }
      await work.arrive(later, part)
      const again = await work.take()
      for (const one of again) await work.arrive(one)
      return earlier.map(({ record }) => again.find((one) => one.record.id === record.id)?.isSuperseded)
    }

    expect(await toldOnce(rooted(2_000))).toEqual([true, false])
    expect(await toldOnce(rooted(2_000, 'another template'))).toEqual([false, true])
    expect(await toldOnce(rooted(500, 'another template'))).toEqual([false, false])
    expect(await toldOnce(rooted(2_000))).toEqual([true, false])
    expect(await toldOnce(rooted(2_000, 'another template'), dead)).toEqual([false, false])
  })

  test(of('does not count a later root event whose call a kill cut off and that may not be repeated'), async () => {
    const { work, clock, arrive } = await setup()
    await arrive(rooted(2_000))
    const later = await work.takeOne()
    await work.settle(later, { state: 'running', reason: '', claimed: true })
    await work.reopenAfterKill()

    await arrive(rooted(1_000))
    const first = await work.takeOne()
    await work.arrive(first)
    await work.settle(later, { state: 'waiting', reason: 'due', until: clock.now() })
    const replayed = (await work.take()).find(({ record }) => record.id === first.record.id)
    if (replayed === undefined) throw new Error('it was due')
    await work.arrive(replayed)
    await work.called(later, dead)

    expect([first.isSuperseded, replayed.isSuperseded]).toEqual([false, true])
    expect((await work.takeOne()).isSuperseded).toBe(false)
  })

  test(of('remembers root events for 7 days'), async () => {
    const { work, clock, arrive } = await setup()
    await arrive(rooted(2_000))
    await work.called(await work.takeOne())

    clock.wind(7 * dayMs - minuteMs)
    await arrive(rooted(1_000))
    let [taken] = await work.take()
    expect(taken?.isSuperseded).toBe(true)

    await until('the later one is forgotten', async () => {
      clock.wind(minuteMs)
      if (taken !== undefined) await work.arrive(taken)
      ;[taken] = await work.take()
      return taken?.isSuperseded === false
    })
    expect(clock.now()).toBeGreaterThan(1_700_000_000_000 + 7 * dayMs)
  })
}
