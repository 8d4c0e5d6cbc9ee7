import { Kafka, type Producer } from 'kafkajs'
import { expect, onTestFinished, test } from 'vitest'
import { partitionOf } from '../../src/store/kafka/partition.ts'
import type { Settlement, Standing, Store } from '../../src/store/store.ts'
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

test('a delivery that a reload gave another key meets the others of that key, and frees the one it had', async () => {
  const clock = new WoundClock()
  const world = await openKafkaWorld(kafka, { partitions: 4 })
  const { store, told } = await world.open(clock)
  onTestFinished(() => store.close())
  const placeOf = (text: string) => partitionOf(text, 4)
  const [old = '', another = ''] = ['a', 'b', 'c', 'd', 'e', 'f'].filter(
    (text, index) => index === 0 || placeOf(text) !== placeOf('a'),
  )
  const keyed = (text: string, turn: 'newest' | 'oldest'): Standing => ({ key: { text, turn, windowMs: 0 } })
  const arrives = (standing: Standing) => ({ state: 'waiting', reason: 'slot', until: clock.now(), standing }) as const
  const takeIds = async () => {
    const { deliveries } = await store.take(lane, clock.now(), 10)
    return deliveries.map(({ record }) => record)
  }
  const [first, follower] = await appendAndRoute(store, 2)
  if (first === undefined || follower === undefined) throw new Error('two were appended')
  await settleFirst(store, first, arrives(keyed(old, 'oldest')))
  await settleFirst(store, follower, arrives(keyed(old, 'oldest')))

  const [taken] = await takeIds()
  if (taken === undefined) throw new Error('the first was due')
  await settle(store, taken, arrives(keyed(another, 'newest')))
  const [newer] = await appendAndRoute(store, 1)
  if (newer === undefined) throw new Error('one was appended')
  await settleFirst(store, newer, arrives(keyed(another, 'newest')))
  // Where they are at home is told by the log.
  await until('both have arrived', async () => (await store.deliveries({ limit: 10 })).items.length === 3)

  const due = await takeIds()
  expect(due.map(({ id }) => id).sort()).toEqual([follower.id, newer.id].sort())
  const called = due.find(({ id }) => id === newer.id)
  if (called === undefined) throw new Error('it was due')
  await settle(store, called, { standing: keyed(another, 'newest'), attempts: [anAttempt()] })
  const fates = await Promise.all([first, newer].map(async ({ id }) => (await store.find(id))[0]?.deliveries))
  expect(fates.map((all) => all?.map(({ state, reason }) => `${state} ${reason}`))).toEqual([
    ['done duplicate'],
    ['done ok'],
  ])
  expect((await store.deliveries({ limit: 10 })).items.map(({ eventId }) => eventId)).toEqual([follower.id])
  expect(told.broken).toEqual([])
}, 60_000)

/** Events with root events, each with a key of its own, so that they lie in all partitions. */
async function openRooted() {
  const clock = new WoundClock()
  const world = await openKafkaWorld(kafka, { partitions: 4 })
  let { store } = await world.open(clock)
  onTestFinished(() => store.close())
  const waits = () => ({ state: 'waiting', reason: 'slot', until: clock.now() }) as const
  return {
    group: world.group,
    clock,
    async arrive(count: number, root: NonNullable<Standing['root']>) {
      const records = await appendAndRoute(store, count)
      const key = (text: string) => ({ text, turn: 'oldest', windowMs: 0 }) as const
      const standings = records.map(({ id }): Standing => ({ key: key(id), root }))
      await Promise.all(records.map((one, at) => settleFirst(store, one, { ...waits(), standing: standings[at] })))
    },
    /** How many are told to be superseded when they are taken; then they wait again, or come to what `of` says. */
    async superseded(of: (standing: Standing) => Partial<Settlement> = () => ({})) {
      const { deliveries } = await store.take(lane, clock.now(), 100)
      await Promise.all(
        deliveries.map(({ record, standing }) =>
          settle(store, record, { ...waits(), standing, ...(standing === undefined ? {} : of(standing)) }),
        ),
      )
      return deliveries.filter(({ isSuperseded }) => isSuperseded).map(({ standing }) => standing?.root?.signature)
    },
    async killAndOpen() {
      await world.kill()
      await store.close()
      store = (await world.open(clock)).store
    },
  }
}

test('a later root event is known in all partitions, also after a kill, until it is dead', async () => {
  const { arrive, superseded, killAndOpen } = await openRooted()
  await arrive(20, { signature: 'template', time: 1_000 })
  await arrive(1, { signature: 'template', time: 2_000 })
  await until('all of them are superseded', async () => (await superseded()).length === 20)

  await killAndOpen()
  await until('all of them are superseded again', async () => (await superseded()).length === 20)

  await superseded(({ root }) => (root?.time === 2_000 ? { state: 'dead', reason: 'refused' } : {}))
  await until('none is', async () => (await superseded()).length === 0)
}, 60_000)

test('what is told of root events counts from the owner of their partition alone', async () => {
  const { group, clock, arrive, superseded } = await openRooted()
  const producer = new Kafka(kafka.client).producer()
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  const stale = {
    key: JSON.stringify(['root', lane.rule, 'template', 2_000]),
    value: JSON.stringify({ numbers: [1, clock.now() + 60_000] }),
    headers: { owner: 'who had it before' },
  }
  const messages = [0, 1, 2, 3].map((partition) => ({ ...stale, partition }))
  await producer.send({ topic: `${group}.roots`, messages })

  await arrive(1, { signature: 'template', time: 1_000 })
  await arrive(20, { signature: 'another', time: 1_000 })
  await arrive(20, { signature: 'another', time: 2_000 })
  const all = Array(20).fill('another')
  await until('what was told later is heard', async () => String(await superseded()) === String(all))
  expect(await superseded()).toEqual(all)
}, 60_000)

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

test.each([
  ['owner', false],
  ['next owner', true],
])(
  'the %s of a partition takes an event of a slower clock for later than those before it',
  async (_, moves) => {
    const world = await openKafkaWorld(kafka)
    let { store } = await world.open()
    onTestFinished(() => store.close())
    await store.append([anEvent({}, 'skewed')])
    const [appended] = await route(store, 1)
    if (appended === undefined) throw new Error('one was appended')
    await settleFirst(store, appended)
    const producer = new Kafka(kafka.client).producer()
    await producer.connect()
    onTestFinished(() => producer.disconnect())
    const now = Date.now()
    const standing = { key: { text: 'A', turn: 'newest', windowMs: 0 } } as const
    const arrive = async (id: string, timestamp: number) => {
      const value = JSON.stringify({ meta: { id } })
      await producer.send({ topic: world.topicOf('skewed'), messages: [{ value, timestamp: String(timestamp) }] })
      // Who has just taken over hands it over to himself.
      for (let isElsewhere = true; isElsewhere; ) {
        const [record] = await route(store, 1)
        if (record === undefined) throw new Error('one was written')
        const waits = { state: 'waiting', reason: 'slot', until: now, at: now, standing } as const
        const settlement = aSettlement(record, { releasesCursor: true, ...waits })
        isElsewhere = await new Promise<boolean>((resolve) => {
          store.settle(settlement, (_, consequences) => resolve(consequences?.amended?.state === 'elsewhere'))
        })
      }
    }
    const take = async () => (await store.take(lane, now, 10)).deliveries
    await arrive('first', now)
    const [first] = await take()
    if (first === undefined) throw new Error('it was due')
    const progress = { ...first.progress, firstAttemptAt: now, finished: 1 }
    await settle(store, first.record, { standing, progress, attempts: [anAttempt()], at: now })
    if (moves) {
      await store.close()
      store = (await world.open()).store
    }

    await arrive('second', now - 200)

    expect((await take()).map(({ record: { message } }) => message?.meta)).toMatchObject([{ id: 'second' }])
  },
  60_000,
)
