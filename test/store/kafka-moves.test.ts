import { Kafka, type Producer } from 'kafkajs'
import { expect, onTestFinished, test } from 'vitest'
import type { Store } from '../../src/store/store.ts'
import { WoundClock } from '../support/clock.ts'
import { sharedKafka } from '../support/kafka.ts'
import { becomes, until } from '../support/until.ts'
import { openKafkaWorld } from './kafka-world.ts'
import {
  anAttempt,
  anEvent,
  appendAndRoute,
  aSettlement,
  events,
  lane,
  route,
  settle,
  settleFirst,
  take,
} from './world.ts'

/*
 * What becomes of a partition when it moves, is added, or its position was forgotten.
 */

const kafka = sharedKafka()

async function connectAdmin() {
  const admin = new Kafka(kafka.client).admin()
  await admin.connect()
  onTestFinished(() => admin.disconnect())
  return admin
}

/** Lets no producer that is made from now on write its claims before `let go`. */
function holdClaims(): { readonly held: () => number; letGo(): void; restore(): void } {
  const make = Kafka.prototype.producer
  let letGo = () => {}
  const gone = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let held = 0
  Kafka.prototype.producer = function (this: Kafka, options) {
    const producer: Producer = make.call(this, options)
    const { sendBatch } = producer
    producer.sendBatch = async (batch) => {
      const keys = batch.topicMessages?.flatMap(({ messages }) => messages.map(({ key }) => String(key))) ?? []
      if (keys.includes('["owner"]')) {
        held += 1
        await gone
      }
      return sendBatch(batch)
    }
    return producer
  }
  const restore = () => {
    Kafka.prototype.producer = make
  }
  return { held: () => held, letGo: () => letGo(), restore }
}

test('a claim that was written late costs nobody a partition for good', async () => {
  const { open } = await openKafkaWorld(kafka, { partitions: 2 })
  const claims = holdClaims()
  onTestFinished(claims.restore)
  const opening = open()
  await until('the first claims', () => claims.held() > 0)
  claims.restore()
  const second = await open()
  onTestFinished(() => second.store.close())
  claims.letGo()
  const first = await opening
  onTestFinished(() => first.store.close())

  const seen = new Set<number>()
  const read = async ({ next }: Pick<Store, 'next'>) => {
    for (let page = await next(10); page.length > 0; page = await next(10)) {
      for (const { record } of page) seen.add(Number(Reflect.get(record, 'origin')[1]))
    }
  }
  for (const { store } of [first, second]) void read({ next: (limit) => store.next(limit) })
  await until('events of both partitions come', async () => {
    await second.store.append(events(2))
    return seen.size === 2
  })
}, 90_000)

test('a letter that is replayed while its partition is taken over is reopened', async () => {
  const { open } = await openKafkaWorld(kafka)
  const [one, other] = [await open(), await open()]
  onTestFinished(() => Promise.all([one.store.close(), other.store.close()]).then(() => undefined))
  await one.store.append(events(1))
  const [owner, heir, routed] = await Promise.race([
    take(one.store, 1).then((taken) => [one, other, taken] as const),
    take(other.store, 1).then((taken) => [other, one, taken] as const),
  ])
  const [{ record } = { record: undefined }] = routed
  if (record === undefined) throw new Error('one was appended')
  owner.store.routed(record, 1)
  await settleFirst(owner.store, record, { state: 'dead', reason: 'refused' })
  const { items } = await heir.store.deadLetters({ limit: 10 })
  const [letter] = items
  if (letter === undefined) throw new Error('one is dead')

  const closing = owner.store.close()
  await until('it is taken over', () => heir.store.health().warnings.some((why) => why.includes('being taken over')))
  const reopened = { lane: letter.lane, state: 'waiting', reason: 'due', until: 1 } as const
  await new Promise<void>((resolve) => heir.store.settle(aSettlement(letter.record, reopened), () => resolve()))
  await closing
  await until('it is due', async () => (await heir.store.take(lane, 2, 10)).deliveries.length === 1)
  expect(heir.told.broken).toEqual([])
}, 60_000)

test('attempts are told once, also after its owner died while it ran', async () => {
  const clock = new WoundClock()
  const world = await openKafkaWorld(kafka)
  const first = await world.open(clock)
  const [record] = await appendAndRoute(first.store, 1)
  if (record === undefined) throw new Error('one was appended')
  const attempts = [anAttempt({ outcome: 'failed', status: 500 })]
  await settleFirst(first.store, record, { state: 'waiting', reason: 'retry', until: 0, attempts })
  const [taken] = (await first.store.take(lane, clock.now(), 10)).deliveries
  if (taken === undefined) throw new Error('it was due')
  await settle(first.store, taken.record, { state: 'running', reason: '' })
  await world.kill()
  await first.store.close()

  const { store } = await world.open(clock)
  onTestFinished(() => store.close())
  const listed = await becomes(
    () => store.deliveries({ limit: 10 }),
    ({ items }) => items.length > 0,
  )
  expect(listed.items.map((item) => item.attempts.length)).toEqual([1])
})

test('a partition that is added to a stream is read from its first record on', async () => {
  const world = await openKafkaWorld(kafka)
  const first = await world.open()
  await first.store.append([anEvent({}, 'grown')])
  const [record] = await route(first.store, 1)
  if (record === undefined) throw new Error('one was appended')
  await settleFirst(first.store, record, { state: 'done', reason: 'ok' })
  await first.store.close()
  const topic = world.topicOf('grown')
  const admin = await connectAdmin()
  await admin.createPartitions({ topicPartitions: [{ topic, count: 2 }] })
  const producer = new Kafka(kafka.client).producer()
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  const value = JSON.stringify({ meta: { id: 'early' } })
  await until('it is written', () =>
    producer.send({ topic, messages: [{ partition: 1, value }] }).then(
      () => true,
      () => false,
    ),
  )

  const { store } = await world.open()
  onTestFinished(() => store.close())
  expect((await take(store, 1)).map(({ record: { message } }) => message?.meta)).toMatchObject([{ id: 'early' }])
})

test('a position is committed again and again, though nothing moves: Kafka forgets what is old', async () => {
  const clock = new WoundClock()
  const world = await openKafkaWorld(kafka)
  const { store } = await world.open(clock)
  onTestFinished(() => store.close())
  const [record] = await appendAndRoute(store, 1)
  if (record === undefined) throw new Error('one was appended')
  await settleFirst(store, record, { state: 'done', reason: 'ok' })
  const admin = await connectAdmin()
  const committed = async () => {
    const [of] = await admin.fetchOffsets({ groupId: world.group, topics: [world.topicOf('test.event')] })
    return of?.partitions[0]
  }
  const before = await becomes(committed, (found) => found?.offset === '1')
  clock.wind(600_000)
  const again = await becomes(committed, (found) => found?.metadata !== before?.metadata)
  expect(again?.offset).toBe('1')
})
