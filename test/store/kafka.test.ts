import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { fileOf } from '../../src/store/kafka/shard-protocol.ts'
import type { Standing } from '../../src/store/store.ts'
import { openDatabase } from '../../src/store/tables/database.ts'
import { sharedKafka } from '../support/kafka.ts'
import { openKafkaWorld } from './kafka-world.ts'
import { promisesOfAStore } from './promises.ts'
import { modelOfStandings } from './standing-model.ts'
import { promisesOfStandings } from './standing-promises.ts'
import { appendAndRoute, lane, settleFirst } from './world.ts'

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

test('the store on Kafka is broken where rows cannot be read, which would wait for ever', async () => {
  const scratch = await mkdtemp(join(tmpdir(), 'changeprop-scratch-'))
  onTestFinished(() => rm(scratch, { recursive: true }))
  const { open } = await openKafkaWorld(kafka, { scratch })
  const { store, told } = await open()
  onTestFinished(() => store.close())
  const [record] = await appendAndRoute(store, 1)
  if (record === undefined) throw new Error('there is one')
  await settleFirst(store, record, { state: 'waiting', reason: 'slot' })

  const [folder = ''] = await readdir(scratch)
  const database = await openDatabase(fileOf(join(scratch, folder), 0))
  database.exec('DELETE FROM events')
  database.close()

  await expect(store.take(lane, Date.now(), 1)).rejects.toThrow('is gone although a delivery of it waits')
  expect(told.broken.map(({ message }) => message)).toEqual([expect.stringContaining('is gone')])
})

test('the store on Kafka tells of deliveries that end together in one record of the journal', async () => {
  const { open, journalLength } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const records = await appendAndRoute(store, 100)
  await Promise.all(records.map((record) => settleFirst(store, record, { state: 'done', reason: 'ok' })))
  expect(await journalLength()).toBe(1)
})

test('the store on Kafka keeps of what the brokers answered the bytes of its events alone', async () => {
  const { open } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const records = await appendAndRoute(store, 10)
  expect(records.map(({ bytes }) => bytes.buffer.byteLength)).toEqual(records.map(({ bytes }) => bytes.length))
})
