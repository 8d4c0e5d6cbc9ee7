import { expect, onTestFinished, test } from 'vitest'
import type { Standing } from '../../src/store/store.ts'
import { WoundClock } from '../support/clock.ts'
import { sharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'
import { openKafkaWorld } from './kafka-world.ts'
import { promisesOfAStore } from './promises.ts'
import { modelOfStandings } from './standing-model.ts'
import { promisesOfStandings } from './standing-promises.ts'
import { anAttempt, appendAndRoute, lane, settle, settleFirst } from './world.ts'

const kafka = sharedKafka()
const openWorld = () => openKafkaWorld(kafka)
promisesOfAStore('the store on Kafka', openWorld, {
  orderOfStreams: false,
  givesSettledAgain: true,
  countsRunningInMemory: false,
  listsDone: false,
})
promisesOfStandings('the store on Kafka', openWorld)
modelOfStandings('the store on Kafka', openWorld, 0.3)

test('the store on Kafka tells the journal of what waits for its turn when it has waited for a second', async () => {
  const { open, journalLength } = await openWorld()
  const clock = new WoundClock()
  const { store } = await open(clock)
  onTestFinished(() => store.close())
  const arrives = {
    state: 'waiting',
    reason: 'slot',
    standing: { key: { text: 'A', turn: 'newest', windowMs: 0 } },
  } as const
  const [first, second] = await appendAndRoute(store, 2)
  if (first === undefined || second === undefined) throw new Error('two were appended')

  await settleFirst(store, first, arrives)
  const [taken] = (await store.take(lane, clock.now(), 10)).deliveries
  if (taken === undefined) throw new Error('it was due')
  await settle(store, taken.record, { ...arrives, state: 'done', reason: 'ok', attempts: [anAttempt()] })
  expect([taken.record.id, await journalLength()]).toEqual([first.id, 1])

  await settleFirst(store, second, arrives)
  clock.wind(1_000)
  await until('it is told of', async () => (await journalLength()) === 2)
})

test('the store on Kafka finds the last of many that have just come', async () => {
  const { open } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const records = await appendAndRoute(store, 1_100)
  const standingOf = (n: number): Standing => ({ key: { text: String(n), turn: 'oldest', windowMs: 0 } })
  const arrives = { state: 'waiting', reason: 'slot' } as const
  await Promise.all(records.map((one, n) => settleFirst(store, one, { ...arrives, standing: standingOf(n) })))
  const fates = await Promise.all(records.slice(-1).map(({ id }) => store.find(id)))
  expect(fates.flat().flatMap(({ deliveries }) => deliveries.map(({ state }) => state))).toEqual(['waiting'])
})

test('the store on Kafka tells of deliveries that end together in one record of the journal', async () => {
  const { open, journalLength } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const records = await appendAndRoute(store, 100)
  await Promise.all(records.map((record) => settleFirst(store, record, { state: 'done', reason: 'ok' })))
  expect(await journalLength()).toBe(1)
})
