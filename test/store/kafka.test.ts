import { expect, onTestFinished, test } from 'vitest'
import type { Standing } from '../../src/store/store.ts'
import { sharedKafka } from '../support/kafka.ts'
import { openKafkaWorld } from './kafka-world.ts'
import { promisesOfAStore } from './promises.ts'
import { modelOfStandings } from './standing-model.ts'
import { promisesOfStandings } from './standing-promises.ts'
import { appendAndRoute, settleFirst } from './world.ts'

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
