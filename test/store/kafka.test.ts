import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Kafka } from 'kafkajs'
import { expect, onTestFinished, test } from 'vitest'
import { fileOf } from '../../src/store/kafka/shard-protocol.ts'
import type { Standing } from '../../src/store/store.ts'
import { openDatabase } from '../../src/store/tables/database.ts'
import { sharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'
import { openKafkaWorld } from './kafka-world.ts'
import { promisesOfAStore } from './promises.ts'
import { modelOfStandings } from './standing-model.ts'
import { promisesOfStandings } from './standing-promises.ts'
import { anEvent, appendAndRoute, lane, route, settleFirst, stream } from './world.ts'

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

test('the store on Kafka keeps of what the brokers answered the bytes of its events alone, in small pieces', async () => {
  const { open } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const records = await appendAndRoute(store, 200)
  const kept = records.map(({ bytes }) => bytes.buffer.byteLength)
  expect(records.reduce((sum, { bytes }) => sum + bytes.length, 0)).toBeGreaterThan(Buffer.poolSize)
  expect(Math.max(...kept)).toBeLessThanOrEqual(Buffer.poolSize)
})

test('the store on Kafka tells what became of an event whose topic is gone, and takes no other for it', async () => {
  const { open, topicOf } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const [called] = await appendAndRoute(store, 1)
  const [unmatched] = await appendAndRoute(store, 1, 0)
  if (called === undefined || unmatched === undefined) throw new Error('there are two')
  await settleFirst(store, called)
  const find = async () => {
    const found = await Promise.all([called, unmatched].map(({ id }) => store.find(id, { stream, since: 0 })))
    return found.map((entries) =>
      entries.map(({ record, deliveries }) => [record.bytes.length, deliveries.map(({ state }) => state)]),
    )
  }
  expect(await find()).toEqual([[[called.bytes.length, ['done']]], [[unmatched.bytes.length, []]]])

  const client = new Kafka(kafka.client)
  const [admin, producer] = [client.admin(), client.producer()]
  await Promise.all([admin.connect(), producer.connect()])
  onTestFinished(async () => {
    await Promise.all([admin.disconnect(), producer.disconnect()])
  })
  const topic = topicOf(stream)
  await admin.deleteTopics({ topics: [topic] })
  await until('it is gone', async () => !(await admin.listTopics()).includes(topic))
  expect(await find()).toEqual([[[0, ['done']]], []])

  await until('it is made anew', () => admin.createTopics({ topics: [{ topic }], waitForLeaders: true }))
  await producer.send({ topic, messages: [{ value: '{"number":1}' }, { value: '{"number":2}' }] })
  expect(await find()).toEqual([[[0, ['done']]], []])
})

test('the store on Kafka finds an event that no rule matched by whatever version of UUID its producer gave it', async () => {
  const { open } = await openWorld()
  const { store } = await open()
  onTestFinished(() => store.close())
  const ids = ['01890a5d-ac96-774b-bcce-b302099a8057', '3f0e8c5e-5b1c-4d0e-9d57-0c8f1c0a7a11']
  await store.append(ids.map((id) => anEvent({ meta: { id, dt: '2026-11-01T00:00:00Z' } })))
  await route(store, ids.length, 0)
  const found = await Promise.all(ids.map((id) => store.find(id, { stream, since: 0 })))
  expect(found.map((entries) => entries.map(({ metaId }) => metaId))).toEqual(ids.map((id) => [id]))
})
