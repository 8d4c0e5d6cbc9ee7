import { describe, expect, onTestFinished, test } from 'vitest'
import { noProgress } from '../../src/store/store.ts'
import { openSmallDisk, smallDiskAbsent } from '../e2e/small-disk.ts'
import { WoundClock } from '../support/clock.ts'
import { until } from '../support/until.ts'
import { drain, openEmbedded, temporaryFolder } from './embedded.ts'
import { manyBytes } from './limits.ts'
import {
  anEvent,
  appendAndRoute,
  aSettlement,
  events,
  idOf,
  lane,
  route,
  settle,
  settleFirst,
  stream,
  Work,
} from './world.ts'

const noWait = Number.POSITIVE_INFINITY
const dayMs = 86_400_000
const mib = 2 ** 20

/** Half a MiB that does not compress, live until it is settled. */
function largeEvent() {
  return anEvent({ text: 'x'.repeat(mib / 2) })
}

describe.skipIf(smallDiskAbsent)('on a full disk (mounting a small one needs root)', () => {
  test('refuses events, keeps decisions and writes them first when there is room again', async () => {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const clock = new WoundClock()
    const path = `${disk.folder}/data`
    const { store, told } = await openEmbedded(path, clock)
    onTestFinished(() => store.close())
    const records = await appendAndRoute(store, 3)
    await disk.fill()

    let refusal: unknown
    let stored = 0
    while (refusal === undefined) {
      await store.append([largeEvent()]).then(
        () => {
          stored += 1
        },
        (error: unknown) => {
          refusal = error
        },
      )
    }
    expect(refusal).toMatchObject({ code: 'STORE_FULL' })
    expect(store.health()).toMatchObject({ accepting: false, writable: false })
    expect(store.health().trouble).toMatch(/full/)
    let durable = 0
    const settled = records.map((record) =>
      settleFirst(store, record).then(() => {
        durable += 1
      }),
    )
    await expect(store.append(events(1))).rejects.toMatchObject({ code: 'STORE_FULL' })
    clock.wind(5_000)
    expect(store.health().writable).toBe(false)
    expect(durable).toBe(0)

    await disk.free()
    await until('the store writes again', () => {
      clock.wind(1_000)
      return store.health().writable
    })
    await Promise.all(settled)
    await store.append(events(1))
    expect(told.changes.map(({ writable }) => writable)).toEqual([false, true])
    expect(told.broken).toEqual([])
    await store.close()

    const again = await openEmbedded(path, clock)
    onTestFinished(() => again.store.close())
    const left = await route(again.store, stored + 1, 0)
    expect(left).toHaveLength(stored + 1)
    expect((await again.store.deliveries({ limit: 10 })).items).toHaveLength(3)
    await again.store.close()
  })

  test('writes decisions that were on their way when the disk filled up', async () => {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const clock = new WoundClock()
    const { store } = await openEmbedded(`${disk.folder}/data`, clock)
    onTestFinished(() => store.close())
    const records = await appendAndRoute(store, 2_000)
    await disk.fill()
    const settled = Promise.all(records.map((record) => settleFirst(store, record)))
    const appends = Promise.allSettled(Array.from({ length: 30 }, () => store.append([largeEvent()])))
    expect((await appends).some(({ status }) => status === 'rejected')).toBe(true)

    await disk.free()
    await until('the store writes again', () => {
      clock.wind(1_000)
      return store.health().writable
    })

    await settled
    expect((await store.deliveries({ state: 'done', limit: 3_000 })).items).toHaveLength(2_000)
    await store.close()
  })
})

describe.skipIf(smallDiskAbsent)('opening on a full disk', () => {
  test('takes nothing until there is room, and then has what it had', async () => {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const path = `${disk.folder}/data`
    const clock = new WoundClock()
    const { store } = await openEmbedded(path, clock)
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    await settleFirst(store, record, { state: 'waiting', reason: 'retry', until: clock.now() })
    await store.close()
    await disk.fill()

    const again = await openEmbedded(path, clock)
    onTestFinished(() => again.store.close())
    expect(again.backlog).toEqual([])
    expect(again.store.health()).toMatchObject({ accepting: false, writable: false })
    for (const asked of [again.store.append(events(1)), again.store.find(record.id)]) {
      await expect(asked).rejects.toMatchObject({ code: 'STORE_FULL' })
    }

    await disk.free()
    await until('the store writes', () => {
      clock.wind(1_000)
      return again.store.health().writable
    })
    expect(again.backlog).toMatchObject([{ lane, waiting: { retry: 1 } }])
    expect((await again.store.take(lane, clock.now(), 10)).deliveries).toHaveLength(1)
    await again.store.append(events(1))
    expect(again.told.broken).toEqual([])
  })

  test('is given up at a stop', async () => {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const path = `${disk.folder}/data`
    await (await openEmbedded(path)).store.close()
    await disk.fill()
    const { store, told } = await openEmbedded(path)

    await store.close()

    expect(told.broken).toEqual([])
    await disk.free()
    await (await openEmbedded(path)).store.close()
  })
})

describe.skipIf(smallDiskAbsent)('closing on a full disk', () => {
  test('ends, and loses nothing that was acknowledged', async () => {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const path = `${disk.folder}/data`
    const { store } = await openEmbedded(path, new WoundClock())
    const [record] = await appendAndRoute(store, 1)
    if (record === undefined) throw new Error('one was appended')
    await disk.fill()
    let stored = 0
    for (let full = false; !full; ) {
      full = await store.append([largeEvent()]).then(
        () => {
          stored += 1
          return false
        },
        () => true,
      )
    }
    store.settle(aSettlement(record, { releasesCursor: true }))

    await store.close()

    await disk.free()
    const again = await openEmbedded(path)
    expect(await route(again.store, stored)).toHaveLength(stored)
    expect(await again.store.find(record.id)).toHaveLength(1)
    await again.store.close()
  })

  test('loses no event whose row does not fit any more, though what a stop notes would', async () => {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const path = `${disk.folder}/data`
    const { store, told } = await openEmbedded(path, new WoundClock())
    const records = await appendAndRoute(store, 2_000)
    await disk.fill()
    await disk.leave(65_536)
    const progress = { ...noProgress, more: { titles: { 0: ['x'.repeat(4_096)] } } }
    for (const record of records) {
      store.settle(aSettlement(record, { state: 'waiting', reason: 'slot', releasesCursor: true, progress }))
    }

    await store.close()
    expect(told.broken).toEqual([])

    await disk.free()
    const again = await openEmbedded(path)
    onTestFinished(() => again.store.close())
    const rows = again.backlog.reduce((sum, { waiting }) => sum + (waiting.slot ?? 0), 0)
    const left = (await drain(again.store)).filter(({ known }) => known === undefined)
    expect(rows + left.length).toBe(records.length)
  })
})

describe.skipIf(smallDiskAbsent)('what stands to others on a full disk', () => {
  const newest = { key: { text: 'page', turn: 'newest', windowMs: 60_000 } } as const
  const oldest = { key: { text: 'page', turn: 'oldest', windowMs: 0 } } as const

  async function setup() {
    const disk = await openSmallDisk(24)
    onTestFinished(() => disk.close())
    const kill = () => Promise.reject(new Error('the disk has no room for a copy'))
    const open = (clock?: WoundClock) => openEmbedded(`${disk.folder}/data`, clock)
    const work = new Work({ open, kill }, new WoundClock())
    await work.open()
    onTestFinished(() => work.store.close())
    const { clock } = work
    /** Hands something in while the disk is full, and says what came of it once there was room. */
    const whileFull = async <Told>(handIn: () => Promise<Told>, triesInVain = 0): Promise<Told> => {
      await disk.fill()
      const handedIn = handIn()
      await until('the store knows that the disk is full', () => !work.store.health().writable)
      for (let tries = 0; tries < triesInVain; tries += 1) {
        clock.wind(1_000)
        // It is answered after the try.
        await work.store.find('nobody')
      }
      await disk.free()
      await until('the store writes again', () => {
        clock.wind(1_000)
        return work.store.health().writable
      })
      return handedIn
    }
    return { work, clock, whileFull }
  }

  test.each([
    ['to what is only remembered', false, 0],
    ['to what waits', true, 0],
    ['to what waits, after a try in vain', true, 1],
  ])('comes to the same when it is written later, where it stands %s', async (_what, keepsWaiting, triesInVain) => {
    const { work, clock, whileFull } = await setup()
    const twin = () => anEvent({ meta: { id: 'twin' } })
    const records = await work.accept([twin(), anEvent(), anEvent(), twin(), anEvent(), anEvent()])
    const [called, stranger, fresh, again, first, second] = records.map((record) => ({ lane, record }))
    if (!called || !stranger || !fresh || !again || !first || !second) throw new Error('six were accepted')
    await work.arrive({ ...called, standing: newest })
    await work.called(await work.takeOne())
    if (keepsWaiting) await work.arrive({ ...stranger, standing: { key: { ...newest.key, text: 'another page' } } })
    await work.reopen()

    const begun = clock.now()
    const ordered = { rule: 'ordered', key: '' }
    const told = await whileFull(
      () =>
        Promise.all([
          work.arrive({ ...fresh, standing: newest }),
          work.arrive({ ...again, standing: newest }),
          work.arrive({ ...first, standing: oldest, lane: ordered }),
          work.arrive({ ...second, standing: oldest, lane: ordered }),
        ]),
      triesInVain,
    )

    expect(told.map((consequences) => consequences?.amended)).toEqual([
      { state: 'waiting', reason: 'key', until: begun + 60_000 },
      { state: 'done', reason: 'duplicate' },
      undefined,
      { state: 'waiting', reason: 'key', until: noWait },
    ])
    expect((await work.entry(again)).coveredBy).toBe(idOf(called))
    expect(await work.reopen()).toEqual(work.waiting)
  })

  test('is covered, postponed and released with a call that is written later, and told of once', async () => {
    const { work, clock, whileFull } = await setup()
    const [covered, called, postponed, first, second] = (await work.accept(events(5))).map((record) => ({
      lane,
      record,
    }))
    if (!covered || !called || !postponed || !first || !second) throw new Error('five were accepted')
    const ordered = { rule: 'ordered', key: '' }
    await work.arrive({ ...covered, standing: newest })
    await work.arrive({ ...called, standing: newest })
    await work.arrive({ ...first, standing: oldest, lane: ordered })
    await work.arrive({ ...second, standing: oldest, lane: ordered })
    const taken = [await work.takeOne(), await work.takeOne(ordered)]
    await work.arrive({ ...postponed, standing: newest })

    const begun = clock.now()
    const told = await whileFull(() => Promise.all(taken.map((one) => work.called(one))))

    expect(told).toEqual([
      {
        amended: undefined,
        moved: [
          { from: 'slot', to: 'duplicate', count: 1 },
          { from: 'slot', to: 'key', count: 1 },
        ],
        due: [{ lane, until: begun + 60_000 }],
      },
      {
        amended: undefined,
        moved: [{ from: 'key', to: 'slot', count: 1 }],
        due: [{ lane: ordered, until: begun }],
      },
    ])
    expect((await work.entry(covered)).coveredBy).toBe(idOf(called))
    expect((await work.takeOne(ordered)).record.id).toBe(second.record.id)
    expect(await work.take()).toEqual([])
    expect(await work.reopen()).toEqual(work.waiting)
  })
})

test('removes what is older than its age, and nothing of which a delivery is waiting, running, dead or not routed', async () => {
  const clock = new WoundClock()
  const { store } = await openEmbedded(await temporaryFolder(), clock, { ...manyBytes, ageMs: dayMs })
  onTestFinished(() => store.close())
  const done = await appendAndRoute(store, 1_200)
  const [waiting, running, dead, both] = await appendAndRoute(store, 4)
  if (waiting === undefined || running === undefined || dead === undefined || both === undefined)
    throw new Error('four were appended')
  await settleFirst(store, waiting, { state: 'waiting', reason: 'parked', until: noWait })
  await settleFirst(store, running, { state: 'running', reason: '' })
  await settleFirst(store, dead, { state: 'dead', reason: 'refused' })
  await settleFirst(store, both, { state: 'waiting', reason: 'retry', until: clock.now() + 9 * dayMs })
  await settle(store, both, { lane: { rule: 'other', key: '' } })
  const [last] = await appendAndRoute(store, 1, 0)
  await store.append(events(1))
  const [inMemory] = await route(store, 1)
  await Promise.all(done.map((record) => settleFirst(store, record)))
  clock.wind(dayMs / 2)
  const [young] = await appendAndRoute(store, 1, 0)
  const isThere = async (record = done[0]) => record !== undefined && (await store.find(record.id)).length === 1
  expect(await isThere()).toBe(true)

  await until('the old are gone', async () => {
    clock.wind(dayMs / 100)
    return (
      clock.now() > 1_700_000_000_000 + dayMs &&
      !(await isThere()) &&
      !(await isThere(done.at(-1))) &&
      !(await isThere(last))
    )
  })

  for (const record of [waiting, running, dead, both, inMemory, young]) expect(await isThere(record)).toBe(true)
  const { items } = await store.deliveries({ limit: 10 })
  expect(items.map(({ rule, state }) => `${rule} ${state}`).sort()).toEqual([
    'call dead',
    'call running',
    'call waiting',
    'call waiting',
    'other done',
  ])

  await settle(store, dead, { reason: 'discarded' })
  await until('what ended later goes later', async () => {
    clock.wind(600_000)
    return !(await isThere(dead))
  })
  expect(await isThere(waiting)).toBe(true)
})

test('removes the oldest finished events beyond its size', async () => {
  const clock = new WoundClock()
  const { store } = await openEmbedded(await temporaryFolder(), clock, { ...manyBytes, sizeBytes: 8 * mib })
  onTestFinished(() => store.close())
  const made: string[] = []
  for (let index = 0; index < 40; index += 1) {
    await until('there is room', async () => {
      clock.wind(1_000)
      return store.append([largeEvent()]).then(
        () => true,
        () => false,
      )
    })
    const [record] = await route(store, 1)
    if (record === undefined) throw new Error('one was appended')
    made.push(record.id)
    await settleFirst(store, record)
  }

  await until('the size is kept', () => {
    clock.wind(1_000)
    return store.health().bytes < 8 * mib
  })
  expect(await store.find(made[0] ?? '')).toEqual([])
  expect(await store.find(made.at(-1) ?? '')).toHaveLength(1)
})

test('takes no more than its size of live work, says so, and goes on when there is room', async () => {
  const clock = new WoundClock()
  const { store, told } = await openEmbedded(await temporaryFolder(), clock, { ...manyBytes, sizeBytes: 8 * mib })
  onTestFinished(() => store.close())
  let stored = 0
  await until('the store is full', async () => {
    clock.wind(1_000)
    if (!store.health().accepting) return true
    await store.append([largeEvent()])
    stored += 1
    return false
  })
  expect(stored).toBeLessThan(60)
  await expect(store.append(events(1))).rejects.toMatchObject({
    code: 'STORE_FULL',
    message: expect.stringMatching(/not finished/),
  })
  expect(store.health()).toMatchObject({ accepting: false, writable: true })
  expect(store.health().warnings).toHaveLength(1)

  const records = await route(store, stored)
  await Promise.all(records.map((record) => settleFirst(store, record)))

  await until('there is room', () => {
    clock.wind(1_000)
    return store.health().accepting
  })
  await store.append([{ stream, bytes: Buffer.from('{}'), message: {} }])
  expect(told.changes.map(({ accepting }) => accepting)).toEqual([false, true])
})

test('does not count what dead letters hold against the size of live work, but warns of it', async () => {
  const clock = new WoundClock()
  const { store } = await openEmbedded(await temporaryFolder(), clock, {
    ...manyBytes,
    sizeBytes: 8 * mib,
    deadBytes: 10 * mib,
  })
  onTestFinished(() => store.close())
  for (let index = 0; index < 24; index += 1) {
    await store.append([largeEvent()])
    const [record] = await route(store, 1)
    if (record === undefined) throw new Error('one was appended')
    await settleFirst(store, record, { state: 'dead', reason: 'exhausted' })
    clock.wind(1_000)
  }

  const { accepting, deadBytes, warnings } = store.health()
  expect(accepting).toBe(true)
  expect(deadBytes).toBeGreaterThan(10 * mib)
  expect(warnings.join()).toMatch(/dead letters/)
  const taken = await store.take(lane, clock.now(), 1)
  expect(taken.deliveries).toEqual([])
})
