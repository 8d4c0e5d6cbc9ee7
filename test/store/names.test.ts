import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { Lane, Store, StoredDelivery } from '../../src/store/store.ts'
import { int, openDatabase, single } from '../../src/store/tables/database.ts'
import { WoundClock } from '../support/clock.ts'
import { becomes } from '../support/until.ts'
import { drain, openEmbedded, temporaryFolder } from './embedded.ts'
import { anEvent, appendAndRoute, aSettlement, ids, settle } from './world.ts'

const lanesKept = 20_000
const streamsNamed = 10_000
const far = Number.MAX_SAFE_INTEGER

const laneOf = (n: number): Lane => ({ rule: 'call', key: `key ${n}` })

async function namesIn(path: string, kind: string): Promise<number> {
  const database = await openDatabase(join(path, 'changeprop.db'))
  const count = int(single(database, `SELECT count(*) FROM names WHERE kind = '${kind}'`))
  database.close()
  return count
}

async function setup() {
  const clock = new WoundClock()
  const path = await temporaryFolder()
  const opened = await openEmbedded(path, clock)
  const { store, told } = opened
  const [record] = await appendAndRoute(store, 1)
  if (record === undefined) throw new Error('nothing was stored')
  /** Settles one event in so many lanes, one after another; in the end it is done, so that no row is in any. */
  const visit = async (from: number, count: number) => {
    for (let n = from; n < from + count; n += 1) {
      store.settle(aSettlement(record, { lane: laneOf(n), state: 'waiting', reason: 'slot', until: far }))
    }
    await settle(store, record, { lane: { rule: 'call', key: '' } })
  }
  /** Retention, and whatever else is done at its time. */
  const sweep = async () => {
    clock.wind(5_000)
    // What is asked of the writer comes after what it is doing; a sweep is some twenty questions.
    for (let question = 0; question < 50; question += 1) await store.find('nobody')
  }
  return { clock, path, store, told, visit, sweep }
}

function waitIn(store: Store, records: Awaited<ReturnType<typeof appendAndRoute>>, from: number): Promise<unknown> {
  return Promise.all(
    records.map((record, n) =>
      settle(store, record, { lane: laneOf(from + n), state: 'waiting', reason: 'target', until: 1 }),
    ),
  )
}

async function takeAll(store: Store, lanes: number): Promise<readonly StoredDelivery[]> {
  const pages = await Promise.all(
    Array.from({ length: lanes }, (_, n) => store.take(laneOf(n), Number.MAX_SAFE_INTEGER - 1, 10)),
  )
  return pages.flatMap(({ deliveries }) => deliveries)
}

test('names of lanes in which nothing waits any more are forgotten, but for the newest', async () => {
  const { path, store, visit, sweep } = await setup()
  for (let round = 0; round < 4; round += 1) {
    await visit(round * lanesKept, lanesKept)
    await sweep()
  }
  await becomes(
    async () => {
      await sweep()
      return namesIn(path, 'lane')
    },
    (count) => count === lanesKept,
  )
  await store.close()
})

test('what waits in a lane is handed out although the lane is among the oldest, also after a restart', async () => {
  const { path, store, visit, sweep, told } = await setup()
  const records = await appendAndRoute(store, 100)
  await waitIn(store, records, 0)
  await visit(100, 2 * lanesKept)
  await sweep()
  await becomes(
    async () => {
      await sweep()
      return namesIn(path, 'lane')
    },
    (count) => count <= lanesKept + 100,
  )
  const taken = await takeAll(store, 100)
  expect(new Set(ids(taken))).toEqual(new Set(records.map(({ id }) => id)))
  expect(told.broken).toEqual([])
  await store.close()

  const again = await openEmbedded(path)
  onTestFinished(() => again.store.close())
  expect(new Set(again.backlog.map(({ lane }) => lane.key))).toEqual(new Set(records.map((_, n) => laneOf(n).key)))
  expect(new Set(ids(await takeAll(again.store, 100)))).toEqual(new Set(records.map(({ id }) => id)))
})

test('a lane that is used again while it is being forgotten keeps its rows, also after a restart', async () => {
  const { clock, path, store, visit, told } = await setup()
  const records = await appendAndRoute(store, 500)
  await visit(0, 2 * lanesKept)
  clock.wind(5_000)
  // The question of retention is answered first; the lanes are asked of while these are on their way, in any order.
  for (let first = 0; first < records.length; first += 50) {
    await waitIn(store, records.slice(first, first + 50), first)
  }
  const taken = await takeAll(store, 500)
  expect(new Set(ids(taken))).toEqual(new Set(records.map(({ id }) => id)))
  expect(told.broken).toEqual([])
  await store.close()

  const again = await openEmbedded(path)
  onTestFinished(() => again.store.close())
  expect(again.backlog.length).toBe(500)
  expect(new Set(ids(await takeAll(again.store, 500)))).toEqual(new Set(records.map(({ id }) => id)))
})

test('what runs is in its lane again after a kill, although the lane was among the oldest', async () => {
  const { path, store, visit, sweep } = await setup()
  const [inRow, inMemory] = await appendAndRoute(store, 2)
  if (inRow === undefined || inMemory === undefined) throw new Error('nothing was stored')
  await settle(store, inRow, { lane: laneOf(0), state: 'running', reason: '' })
  let isNoted = true
  store.running(() => (isNoted ? [{ lane: laneOf(1), record: inMemory }] : []))
  await visit(2, 2 * lanesKept)
  await sweep()
  await becomes(
    async () => {
      await sweep()
      return namesIn(path, 'lane')
    },
    (count) => count <= lanesKept + 2,
  )
  const copy = await temporaryFolder()
  await cp(path, copy, { recursive: true })
  isNoted = false
  await store.close()

  const again = await openEmbedded(copy)
  onTestFinished(() => again.store.close())
  expect(new Set(again.backlog.map(({ lane }) => lane.key))).toEqual(new Set([laneOf(0).key, laneOf(1).key]))
})

test('a dead letter can be reopened after its lane was forgotten', async () => {
  const { path, store, visit, sweep } = await setup()
  const [record] = await appendAndRoute(store, 1)
  if (record === undefined) throw new Error('nothing was stored')
  await settle(store, record, { lane: laneOf(0), state: 'dead', reason: 'refused' })
  await visit(1, 2 * lanesKept)
  await sweep()
  await becomes(
    async () => {
      await sweep()
      return namesIn(path, 'lane')
    },
    (count) => count === lanesKept,
  )
  const { items } = await store.deadLetters({ limit: 10 })
  expect(items.map(({ lane }) => lane)).toEqual([{ rule: 'call', key: '' }])
  await store.close()
})

test('an event of a stream beyond those that have names is of its stream all the same', async () => {
  const path = await temporaryFolder()
  const { store } = await openEmbedded(path)
  const streamOf = (n: number) => `invented ${n}`
  const ofStream = (n: number) => anEvent({ meta: { stream: streamOf(n), id: `id ${n}` } }, streamOf(n))
  const count = streamsNamed + 500
  for (let n = 0; n < count; n += 500) {
    await store.append(Array.from({ length: 500 }, (_, at) => ofStream(n + at)))
  }
  const last = count - 1
  expect((await store.find(`id ${last}`)).map(({ record }) => record.stream)).toEqual([streamOf(last)])
  await store.close()
  expect(await namesIn(path, 'stream')).toBe(streamsNamed)

  const { store: again } = await openEmbedded(path)
  onTestFinished(() => again.close())
  const records = (await drain(again)).map(({ record }) => record)
  expect(records.map(({ stream }) => stream)).toEqual([...Array(count).keys()].map(streamOf))
  const [newest] = records.slice(-1)
  if (newest === undefined) throw new Error('nothing was read')
  await settle(again, newest, { lane: laneOf(0), state: 'waiting', reason: 'slot', until: 1 })
  const { deliveries } = await again.take(laneOf(0), 2, 1)
  expect(deliveries.map(({ record }) => record.stream)).toEqual([streamOf(last)])
})
