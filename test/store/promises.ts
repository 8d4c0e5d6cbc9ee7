import { expect, onTestFinished, test } from 'vitest'
import { ServiceError } from '../../src/base/errors.ts'
import type { StreamRecord } from '../../src/event/event.ts'
import type { LastAnswer, Settlement, Store } from '../../src/store/store.ts'
import { WoundClock } from '../support/clock.ts'
import { until } from '../support/until.ts'
import {
  anAttempt,
  anEvent,
  appendAndRoute,
  aSettlement,
  events,
  ids,
  lane,
  namelessEvents,
  type OpenStore,
  route,
  type StoreWorld,
  settle,
  settleFirst,
  stream,
  take,
} from './world.ts'

const noWait = Number.POSITIVE_INFINITY
const answer: LastAnswer = {
  status: 404,
  headers: { server: 'test' },
  body: 'no such page',
  truncated: false,
  request: 'POST http://wiki.test/',
}

/** Where a back end keeps less, or keeps it otherwise. */
export interface Differences {
  /** Events of different streams have no order. */
  readonly orderOfStreams?: false
  /** What is routed and settled may be given out again for a moment, with the rules that are through with it as `known`. */
  readonly givesSettledAgain?: true
  /** A delivery that runs from memory leaves no trace if the process dies: it is not counted as a suspect. */
  readonly countsRunningInMemory?: false
  /** What is done is told by `find` only, and nothing of what was never settled. */
  readonly listsDone?: false
}

/** What any back end keeps. Run by each one's own test file. */
export function promisesOfAStore(
  name: string,
  openWorld: () => Promise<StoreWorld>,
  differences: Differences = {},
): void {
  async function setup(clock = new WoundClock()) {
    const world = await openWorld()
    const open = async (): Promise<OpenStore> => {
      const opened = await world.open(clock)
      onTestFinished(() => opened.store.close())
      return opened
    }
    /** What a start after SIGKILL at this moment finds. */
    const reopenAfterKill = async (): Promise<OpenStore> => {
      await world.kill()
      return open()
    }
    const { store, told } = await open()
    return { world, clock, store, told, open, reopenAfterKill }
  }

  const of = (what: string) => `${name}: ${what}`
  const isSettledAgain = (known: ReadonlySet<string> | undefined) =>
    differences.givesSettledAgain === true && known?.has(lane.rule) === true

  test(of('gives events back in the order in which they were accepted, byte for byte'), async () => {
    const { store } = await setup()
    for (const index of ['', '.0', '.1', '.2']) await store.append([anEvent({}, `${stream}${index}`)])
    await take(store, 4)
    const appended = Array.from({ length: 30 }, (_, index) => [
      anEvent({ text: `\u2028 ${index}` }),
      anEvent({}, `${stream}.${index % 3}`),
    ])

    await Promise.all(appended.map((pair) => store.append(pair)))

    const taken = (await take(store, 60)).map(({ record }) => [record.stream, Buffer.from(record.bytes).toString()])
    const given = appended.flat().map((event) => [event.stream, Buffer.from(event.bytes).toString()])
    const inOrder = (pairs: typeof taken) =>
      differences.orderOfStreams === false
        ? pairs.toSorted(([a = ''], [b = '']) => (a < b ? -1 : a > b ? 1 : 0))
        : pairs
    expect(inOrder(taken)).toEqual(inOrder(given))
  })

  test(of('waits in `next` until there is something, and gives each record once'), async () => {
    const { store } = await setup()
    const early = store.next(10)

    await store.append(events(1))
    const first = await early
    const second = store.next(10)
    await store.append(events(1))

    expect(new Set([...ids(first), ...ids(await second)]).size).toBe(2)
  })

  test(of('fills meta.id and meta.dt in from the envelope, and leaves the bytes alone'), async () => {
    const { store, clock } = await setup()
    await store.append(namelessEvents(1))

    const [taken] = await take(store, 1)

    const meta = taken?.record.message?.meta
    expect(meta).toEqual({ id: taken?.record.id, dt: new Date(clock.now()).toISOString() })
    expect(Buffer.from(taken?.record.bytes ?? []).toString()).toContain('"meta":{}')
  })

  test(of('finds after a kill every event that was acknowledged'), async () => {
    const { store, reopenAfterKill } = await setup()
    await Promise.all(Array.from({ length: 50 }, () => store.append(events(3))))
    const before = await take(store, 150)

    const again = await reopenAfterKill()

    expect(ids(await take(again.store, 150))).toEqual(ids(before))
  })

  test(
    of('acknowledges an event only with the commit that holds it, also while another commit is on its way'),
    async () => {
      const { store } = await setup()
      const records = await appendAndRoute(store, 200)
      const promised: Promise<unknown>[] = []

      // Each claim starts a commit of its own; an event comes one, two, … turns later, while that one is on its way.
      for (const [index, record] of records.entries()) {
        promised.push(settleFirst(store, record, { state: 'running', reason: '', claimed: true }))
        for (let turn = 0; turn <= index % 4; turn += 1) await new Promise(setImmediate)
        promised.push(store.append(events(1)))
        if (index % 3 === 0) await Promise.all(promised)
      }
      await Promise.all(promised)

      const taken = ids(await take(store, 200))
      expect(new Set(taken).size).toBe(200)
      await store.append(events(1))
      expect(await store.next(10)).toHaveLength(1)
    },
  )

  test(of('gives out again what has no row, and not what has one'), async () => {
    const { store, reopenAfterKill } = await setup()
    // Of each, another delivery is in memory: so none is finished, and all come again.
    const [first, second, third] = await appendAndRoute(store, 3, 2)
    if (first === undefined || second === undefined || third === undefined) throw new Error('three were appended')
    await settleFirst(store, second)
    await settleFirst(store, third, { lane: { rule: 'other', key: '' } })

    const again = await reopenAfterKill()

    const taken = await take(again.store, 3)
    expect(taken.map(({ record, known }) => [record.id, known === undefined ? [] : [...known]])).toEqual([
      [first.id, []],
      [second.id, ['call']],
      [third.id, ['other']],
    ])
  })

  test(of('does not give out again what is routed and settled'), async () => {
    const { store, reopenAfterKill } = await setup()
    const records = await appendAndRoute(store, 5)
    await Promise.all(records.map((record) => settleFirst(store, record)))
    await store.append(events(1))

    const again = await reopenAfterKill()

    const given = (await again.store.next(100)).filter(({ known }) => !isSettledAgain(known))
    for (const { id } of records) expect(ids(given)).not.toContain(id)
  })

  test(of('passes a record only when as many settlements as were counted have released it'), async () => {
    const { store, reopenAfterKill } = await setup()
    const [record] = await appendAndRoute(store, 1, 2)
    if (record === undefined) throw new Error('one was appended')
    await settleFirst(store, record)
    await settle(store, record, { lane: { rule: 'row', key: '' }, state: 'waiting', reason: 'slot' })

    const again = await reopenAfterKill()

    const [taken] = await take(again.store, 1)
    expect(taken?.record.id).toBe(record.id)
    expect([...(taken?.known ?? [])].sort()).toEqual(['call', 'row'])
  })

  test(of('counts a settlement that comes before its record is routed'), async () => {
    const { store, reopenAfterKill } = await setup()
    await store.append(events(1))
    const [routable] = await take(store, 1)
    if (routable === undefined) throw new Error('one was appended')
    const { record } = routable
    const claimed = settleFirst(store, record, { state: 'running', reason: '', claimed: true })
    store.routed(record, 1)
    await claimed
    await settle(store, record)
    await store.append(events(1))

    const again = await reopenAfterKill()

    const given = (await again.store.next(10)).filter(({ known }) => !isSettledAgain(known))
    expect(ids(given)).not.toContain(record.id)
  })

  test(of('keeps what waits, with its progress, and hands it out when it is due'), async () => {
    const { store, reopenAfterKill, clock } = await setup()
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    const progress = { failures: 3, firstAttemptAt: clock.now() - 5, finished: 5, refused: 2 }
    const until = clock.now() + 60_000
    await settleFirst(store, record, { state: 'waiting', reason: 'retry', until, progress })

    const again = await reopenAfterKill()

    expect(again.backlog).toEqual([{ lane, nextUntil: until, waiting: { retry: 1 } }])
    expect(await again.store.take(lane, until - 1, 10)).toEqual({ deliveries: [], nextUntil: until })
    const { deliveries, nextUntil } = await again.store.take(lane, until, 10)
    expect(nextUntil).toBe(noWait)
    expect(deliveries.map((one) => [one.record.id, one.progress, one.reason, one.uncleanStops])).toEqual([
      [record.id, progress, 'retry', 0],
    ])
  })

  test(of('hands out what waits earliest first, each once, until its next settlement is durable'), async () => {
    const { store, clock } = await setup()
    const records = await appendAndRoute(store, 4)
    const now = clock.now()
    await Promise.all(
      records.map((record, index) =>
        settleFirst(store, record, { state: 'waiting', reason: 'retry', until: now - 10 * index }),
      ),
    )

    const first = await store.take(lane, now, 2)
    const second = await store.take(lane, now, 10)
    expect(ids(first.deliveries)).toEqual([records[3]?.id, records[2]?.id])
    expect(first.nextUntil).toBe(now - 10)
    expect(ids(second.deliveries)).toEqual([records[1]?.id, records[0]?.id])

    // It comes back below what was read already, and again only that one.
    const [back] = first.deliveries
    if (back === undefined) throw new Error('two were taken')
    await settle(store, back.record, { state: 'waiting', reason: 'slot', until: now - 1_000 })
    const third = await store.take(lane, now, 10)
    expect(ids(third.deliveries)).toEqual([back.record.id])
    expect((await store.take(lane, now, 10)).deliveries).toEqual([])
    // The same with a time that others share, in whatever order they come back.
    const shared = [...second.deliveries, ...third.deliveries].map(({ record }) => record)
    for (const record of shared) {
      await settle(store, record, { state: 'waiting', reason: 'slot', until: now })
      expect(ids((await store.take(lane, now, 10)).deliveries)).toEqual([record.id])
    }
  })

  test(of('keeps lanes apart'), async () => {
    const { store, clock } = await setup()
    const [first, second] = await appendAndRoute(store, 2)
    if (first === undefined || second === undefined) throw new Error('two were appended')
    const wait = { state: 'waiting', reason: 'target', until: clock.now() } as const
    await settleFirst(store, first, { ...wait, lane: { rule: 'call', key: 'a' } })
    await settleFirst(store, second, { ...wait, lane: { rule: 'call', key: 'b' } })

    expect(ids((await store.take({ rule: 'call', key: 'b' }, clock.now(), 10)).deliveries)).toEqual([second.id])
    expect(ids((await store.take({ rule: 'call', key: 'a' }, clock.now(), 10)).deliveries)).toEqual([first.id])
  })

  test(of('never hands out by itself what waits until somebody says so'), async () => {
    const { store, clock, reopenAfterKill } = await setup()
    const [gone, parked] = await appendAndRoute(store, 2)
    if (gone === undefined || parked === undefined) throw new Error('two were appended')
    await settleFirst(store, gone, { state: 'waiting', reason: 'rule_gone', until: noWait })
    await settleFirst(store, parked, { state: 'waiting', reason: 'parked', until: noWait })

    const again = await reopenAfterKill()

    expect(again.backlog).toEqual([{ lane, nextUntil: noWait, waiting: { rule_gone: 1, parked: 1 } }])
    const taken = await again.store.take(lane, clock.now() + 1e12, 10)
    expect(taken).toEqual({ deliveries: [], nextUntil: noWait })
  })

  test(of('makes a claimed delivery that a kill cut off a dead letter, and lets any other go on'), async () => {
    const { store, clock, reopenAfterKill } = await setup()
    const [claimed, running] = await appendAndRoute(store, 2)
    if (claimed === undefined || running === undefined) throw new Error('two were appended')
    await settleFirst(store, claimed, { state: 'running', reason: '', claimed: true })
    await settleFirst(store, running, { state: 'running', reason: '' })

    const again = await reopenAfterKill()

    const { items } = await again.store.deadLetters({ limit: 10 })
    expect(items.map(({ id, reason }) => [id, reason])).toEqual([[`${claimed.id}/call`, 'interrupted']])
    expect(items[0]?.answer?.error).toMatch(/not repeated/)
    expect(again.store.deadCounts().get('call')?.count).toBe(1)
    const { deliveries } = await again.store.take(lane, clock.now(), 10)
    expect(deliveries.map(({ record, reason }) => [record.id, reason])).toEqual([[running.id, 'slot']])
  })

  test(
    of('has a claim survive a kill from the moment it is told durable, whatever was written of it just before'),
    async () => {
      const { store, world, clock, open } = await setup()
      const large = Array.from({ length: 30 }, () => anEvent({ filling: 'x'.repeat(100_000) }))
      await store.append(large)
      const records = await route(store, large.length)
      await Promise.all(records.map((record) => settleFirst(store, record, { state: 'running', reason: '' })))
      await world.kill()
      // What a kill cut off is written anew at the start, and here it is claimed at once.
      const again = await open()
      const { deliveries } = await again.store.take(lane, clock.now(), 30)
      expect(deliveries).toHaveLength(30)

      const durable: string[] = []
      const appended = Promise.allSettled([again.store.append([...large, ...large])])
      await new Promise<void>((resolve) => {
        for (const { record } of deliveries) {
          again.store.settle(aSettlement(record, { state: 'running', reason: '', claimed: true }), () => {
            durable.push(record.id)
            resolve()
          })
        }
      })
      const told = [...durable]
      await world.kill()
      await again.store.close()
      await appended
      const { items } = await (await open()).store.deadLetters({ limit: 100 })

      const interrupted = items.filter(({ reason }) => reason === 'interrupted').map(({ eventId }) => eventId)
      expect(interrupted).toEqual(expect.arrayContaining(told))
    },
  )

  for (const where of differences.countsRunningInMemory === false ? ['with a row'] : ['with a row', 'in memory']) {
    test(
      of(`counts how often the process died while a delivery was running ${where}, until an attempt ends`),
      async () => {
        const { store, clock, reopenAfterKill } = await setup()
        const [record] = await appendAndRoute(store, 1)
        if (record === undefined) throw new Error('one was appended')
        const run = async (of: Store, running: StreamRecord) => {
          of.running(() => [{ lane, record: running }])
          if (where === 'with a row')
            await settle(of, running, { state: 'running', reason: '', releasesCursor: of === store })
          await of.append(events(1))
        }
        await run(store, record)

        const second = await reopenAfterKill()
        const taken = await second.store.take(lane, clock.now(), 10)
        expect(taken.deliveries.map((one) => [one.record.id, one.uncleanStops])).toEqual([[record.id, 1]])
        for (const one of taken.deliveries) await run(second.store, one.record)

        const third = await reopenAfterKill()
        const [twice] = (await third.store.take(lane, clock.now(), 10)).deliveries
        expect(twice?.uncleanStops).toBe(2)
        if (twice === undefined) throw new Error('it was taken')
        await settle(third.store, twice.record, {
          state: 'waiting',
          reason: 'retry',
          until: clock.now(),
          attempts: [anAttempt({ outcome: 'failed', status: 500 })],
        })

        const fourth = await reopenAfterKill()
        expect((await fourth.store.take(lane, clock.now(), 10)).deliveries.map((one) => one.uncleanStops)).toEqual([0])
      },
    )
  }

  test(of('does not count a stop that was orderly'), async () => {
    const { store, clock, open } = await setup()
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    store.running(() => [{ lane, record }])
    await settleFirst(store, record, { state: 'waiting', reason: 'slot', until: clock.now() })
    await store.close()

    const again = await open()

    expect((await again.store.take(lane, clock.now(), 10)).deliveries.map((one) => one.uncleanStops)).toEqual([0])
  })

  test(of('keeps a dead letter with its attempts and last answer, until it is settled otherwise'), async () => {
    const { store, clock, reopenAfterKill } = await setup()
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    const attempts = [
      anAttempt({ outcome: 'failed', status: 503, note: 'busy' }),
      anAttempt({ outcome: 'refused', status: 404 }),
    ]
    await settleFirst(store, record, { state: 'dead', reason: 'refused', attempts, answer })

    const again = await reopenAfterKill()
    const [letter] = (await again.store.deadLetters({ rule: 'call', limit: 10 })).items
    expect(letter).toMatchObject({ id: `${record.id}/call`, state: 'dead', reason: 'refused', lane, attempts, answer })
    expect(letter?.record.message).toEqual(record.message)
    expect(again.store.deadCounts().get('call')).toMatchObject({ count: 1 })
    expect(again.store.health().deadBytes).toBeGreaterThan(record.bytes.length)
    if (letter === undefined) throw new Error('there is a letter')

    await settle(again.store, letter.record, { state: 'waiting', reason: 'due', until: clock.now() })

    expect((await again.store.deadLetters({ limit: 10 })).items).toEqual([])
    expect(again.store.deadCounts().size).toBe(0)
    expect(again.store.health().deadBytes).toBe(0)
    const [replayed] = (await again.store.take(lane, clock.now(), 10)).deliveries
    expect(replayed?.record.id).toBe(record.id)
    await settle(again.store, replayed?.record ?? record, { attempts: [anAttempt()] })
    const [event] = await again.store.find(record.id)
    expect(event?.deliveries).toMatchObject([
      { id: `${record.id}/call`, state: 'done', attempts: [...attempts, anAttempt()] },
    ])
  })

  test(of('gives dead letters page by page, oldest first, or by their ids, with the parked ones'), async () => {
    const { store } = await setup()
    const records = await appendAndRoute(store, 7)
    await Promise.all(
      records.map((record, index) =>
        index === 3
          ? settleFirst(store, record, { state: 'waiting', reason: 'parked', until: noWait })
          : settleFirst(store, record, {
              lane: { rule: index % 2 === 0 ? 'even' : 'call', key: '' },
              state: 'dead',
              reason: 'exhausted',
              answer,
            }),
      ),
    )

    const found: string[] = []
    let cursor: string | undefined
    do {
      const page = await store.deadLetters({ limit: 2, ...(cursor === undefined ? {} : { cursor }) })
      found.push(...page.items.map((letter) => letter.record.id))
      cursor = page.cursor
    } while (cursor !== undefined)

    expect(found).toEqual(records.map((record) => record.id))
    const wanted = [`${records[4]?.id}/even`, `${records[4]?.id}/call`, `${records[1]?.id}/call`, 'nonsense']
    const byId = await store.deadLetters({ ids: wanted, limit: 10 })
    expect(byId.items.map((letter) => letter.id)).toEqual([`${records[1]?.id}/call`, `${records[4]?.id}/even`])
    expect(byId.cursor).toBeUndefined()
    expect([...store.deadCounts()].map(([rule, { count }]) => [rule, count]).sort()).toEqual([
      ['call', 2],
      ['even', 4],
    ])
    const newest = records.at(-1)
    if (newest === undefined) throw new Error('seven were appended')
    await settle(store, newest, { lane: { rule: 'even', key: '' }, reason: 'discarded' })
    expect(store.deadCounts().get('even')?.count).toBe(3)
  })

  test(of('finds an event by our id and by the producer’s, however often that was used, newest first'), async () => {
    const { store, reopenAfterKill } = await setup()
    const twins = [anEvent({ meta: { id: 'twin' } }), anEvent(), anEvent({ meta: { id: 'twin' } })]
    await store.append(twins)
    const taken = await take(store, 3)
    if (differences.listsDone !== false) {
      expect((await store.find('twin')).map(({ routed }) => routed)).toEqual([false, false])
    }
    for (const { record } of taken) store.routed(record, 1)
    const [first, , last] = taken
    if (first === undefined || last === undefined) throw new Error('three were appended')
    await settleFirst(store, last.record, { attempts: [anAttempt()] })
    await settleFirst(store, first.record)

    for (const open of [async () => ({ store }), reopenAfterKill]) {
      const { store: asked } = await open()
      const found = await asked.find('twin')
      expect(ids(found)).toEqual([last.record.id, first.record.id])
      expect(found.map(({ metaId }) => metaId)).toEqual(['twin', 'twin'])
      expect(found[0]?.deliveries).toMatchObject([
        {
          id: `${last.record.id}/call`,
          state: 'done',
          reason: 'ok',
          attempts: [anAttempt()],
          revision: '0123456789ab',
        },
      ])
      expect(ids(await asked.find(first.record.id))).toEqual([first.record.id])
      expect(await asked.find('nobody')).toEqual([])
      expect(
        await asked.find(first.record.id.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'))),
      ).not.toContainEqual(expect.objectContaining({ metaId: first.record.id }))
    }
  })

  test(of('lists deliveries newest first, by rule and by state, page by page'), async () => {
    const { store, clock } = await setup()
    const records = await appendAndRoute(store, 6)
    const until = clock.now() + 1_000
    await Promise.all(
      records.map((record, index) =>
        settleFirst(
          store,
          record,
          index % 2 === 0 ? {} : { lane: { rule: 'odd', key: '' }, state: 'waiting', reason: 'retry', until },
        ),
      ),
    )
    const list = async (filter: { rule?: string; state?: 'waiting' | 'done' }) => {
      const first = await store.deliveries({ ...filter, limit: 2 })
      const rest =
        first.cursor === undefined ? [] : (await store.deliveries({ ...filter, limit: 10, cursor: first.cursor })).items
      return [...first.items, ...rest].map(({ eventId, state, next }) => [
        records.findIndex(({ id }) => id === eventId),
        state,
        next,
      ])
    }

    const done = (index: number) => (differences.listsDone === false ? [] : [[index, 'done', null]])
    const waiting = (index: number) => [index, 'waiting', until]
    expect(await list({})).toEqual([waiting(5), ...done(4), waiting(3), ...done(2), waiting(1), ...done(0)])
    expect(await list({ rule: 'odd' })).toEqual([waiting(5), waiting(3), waiting(1)])
    expect(await list({ state: 'done' })).toEqual([...done(4), ...done(2), ...done(0)])
    expect(await list({ rule: 'call', state: 'done' })).toEqual([...done(4), ...done(2), ...done(0)])
    expect(await list({ state: 'waiting' })).toEqual([waiting(5), waiting(3), waiting(1)])
    expect(await list({ rule: 'call', state: 'waiting' })).toEqual([])
  })

  test(of('remembers the newest 50 attempts, and how many there were before, also after a kill'), async () => {
    const { store, reopenAfterKill } = await setup()
    const kept = (first: number) => Array.from({ length: 50 }, (_, index) => first + index)
    const told = { earlierAttempts: 10, attempts: kept(10).map((at) => ({ at })) }
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    for (let index = 0; index < 6; index += 1) {
      const attempts = Array.from({ length: 10 }, (_, call) =>
        anAttempt({ outcome: 'failed', status: 500, at: index * 10 + call }),
      )
      await settle(store, record, {
        releasesCursor: index === 0,
        state: 'waiting',
        reason: 'retry',
        until: noWait,
        attempts,
      })
    }

    const again = await reopenAfterKill()
    const found = await again.store.find(record.id)
    expect(found.map(({ deliveries }) => deliveries)).toMatchObject([[told]])
    expect((await again.store.deliveries({ limit: 1 })).items).toMatchObject([told])
    await settle(again.store, record, { state: 'dead', reason: 'refused', attempts: [anAttempt({ at: 60 })] })
    const [letter] = (await again.store.deadLetters({ limit: 1 })).items
    expect([letter?.earlierAttempts, letter?.attempts.map(({ at }) => at)]).toEqual([11, kept(11)])
  })

  test(
    of('says of each delivery in the order in which they were handed in that its decisions are durable'),
    async () => {
      const { store, clock } = await setup()
      const records = await appendAndRoute(store, 300)
      const decisions = [
        { state: 'running', reason: '', releasesCursor: true },
        { state: 'waiting', reason: 'retry', until: clock.now() + 60_000 },
        { state: 'done', reason: 'ok' },
      ] as const
      const told = new Map<string, string[]>(records.map(({ id }) => [id, []]))

      for (const part of decisions) for (const record of records) store.settle(aSettlement(record, part), tell)
      function tell({ record: { id }, state }: Settlement) {
        told.get(id)?.push(state)
      }

      const inOrder = decisions.map(({ state }) => state)
      await until('all are durable', () => [...told.values()].every(({ length }) => length === inOrder.length))
      expect([...told.values()]).toEqual(records.map(() => inOrder))
    },
  )

  test(of('makes durable on close what was handed in, and takes nothing more'), async () => {
    const { store, open } = await setup()
    const records = await appendAndRoute(store, 20)
    const appended = store.append(events(2))
    let durable = 0
    for (const record of records) store.settle(aSettlement(record, { releasesCursor: true }), () => (durable += 1))
    const waiting = take(store, 3)

    await store.close()

    await appended
    expect(durable).toBe(20)
    expect(await store.next(1)).toEqual([])
    expect((await waiting).length).toBeLessThanOrEqual(2)
    await expect(store.append(events(1))).rejects.toMatchObject({ code: 'STORE_CLOSED' })
    const again = await open()
    expect(records.map(({ id }) => id)).not.toContain(ids(await again.store.next(1))[0])
  })

  test(of('refuses at once when more is posted than it can write'), async () => {
    const { store } = await setup()
    const large = Buffer.alloc(1_048_576, 32)
    const event = { stream, bytes: large, message: {} }

    const appends = Array.from({ length: 100 }, () => store.append([event]))

    const results = await Promise.allSettled(appends)
    const refused = results.filter((result) => result.status === 'rejected')
    expect(refused.length).toBeGreaterThan(0)
    expect(refused.length).toBeLessThan(100)
    for (const { reason } of refused) expect(reason).toBeInstanceOf(ServiceError)
    expect(refused.map(({ reason }) => reason.code)).toEqual(refused.map(() => 'STORE_BUSY'))
    await store.append(events(1))
  })

  test(of('lets another store of the same data open after it was closed, and knows its words'), async () => {
    const { store, open } = await setup()
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    await settleFirst(store, record)
    await store.close()

    const again = await open()
    await again.store.append([anEvent({}, 'another.stream')])
    const [next] = await route(again.store, 1)
    if (next === undefined) throw new Error('one was appended')
    await settleFirst(again.store, next, { lane: { rule: 'another', key: 'key' } })

    const told = [...(await again.store.find(record.id)), ...(await again.store.find(next.id))]
    expect(told.flatMap(({ deliveries }) => deliveries.map(({ rule, stream: of }) => [rule, of]))).toEqual([
      ['call', stream],
      ['another', 'another.stream'],
    ])
  })
}
