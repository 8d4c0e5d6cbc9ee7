import { Kafka } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createClient } from '../../src/store/kafka/client.ts'
import { formatJournal, Journal } from '../../src/store/kafka/journal.ts'
import { eventIdOf } from '../../src/store/kafka/kafka-record.ts'
import { Reader } from '../../src/store/kafka/reader.ts'
import type { Told } from '../../src/store/kafka/shard-protocol.ts'
import { sharedKafka } from '../support/kafka.ts'

test('what is told at once takes as many records as it needs, and all of it is there, in order', () => {
  const told = Array.from({ length: 5_000 }, (_, n): Told => {
    const event = { id: `event-${n}`, stream: 'page', accepted: 1, origin: ['page', 0, n] as const }
    return { event, metaId: undefined, rule: 'call', covers: { count: 1, ids: [`${n}`.repeat(20)] } }
  })
  const records = formatJournal('journal', 3, told)
  const lines = records.flatMap(({ value }) => (value ?? '').toString().split('\n'))

  expect(Math.max(...records.map(({ value }) => value?.length ?? 0))).toBeLessThan(200_000)
  expect(records.length).toBeGreaterThan(3)
  for (const partition of [0, 1, 2]) {
    const numbers = records
      .filter((record) => record.partition === partition)
      .flatMap(({ value }) => (value ?? '').toString().split('\n'))
      .map((line) => (JSON.parse(line) as Told).event.origin[2])
    expect(numbers).toEqual([...numbers].sort((a, b) => a - b))
  }
  expect(new Set(lines.map((line) => (JSON.parse(line) as Told).event.id)).size).toBe(5_000)
})

describe('on a broker', () => {
  const kafka = sharedKafka()

  async function setup() {
    const topic = `${kafka.prefix()}journal`
    const admin = new Kafka(kafka.client).admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] })
    const producer = new Kafka(kafka.client).producer()
    await producer.connect()
    const client = createClient(kafka.client, () => undefined)
    const reader = new Reader({ kafka: client, trouble: () => undefined, skipped: () => undefined })
    onTestFinished(async () => {
      await Promise.all([admin.disconnect(), producer.disconnect(), reader.close()])
    })
    return {
      topic,
      journal: new Journal(client, reader, topic, 1),
      send: (values: readonly (Buffer | string | null)[]) =>
        producer.send({ topic, messages: values.map((value) => ({ value })) }),
    }
  }

  test('whoever takes up what is handed over may tell of it sooner than who hands it over', async () => {
    const { topic, send, journal } = await setup()
    const toldAs = (part: object) => ({
      ...{ event: { id: 'event-1', stream: 'page', accepted: 1, origin: ['page', 0, 1] as const }, metaId: undefined },
      ...({ rule: 'call', revision: '', state: 'done', reason: 'ok', at: 1, until: null, attempts: [] } as const),
      ...{ coveredBy: undefined, ...part },
    })
    const handedOver = toldAs({ state: 'waiting', reason: 'slot', isHandedOver: true })
    const states = async () =>
      (await journal.find('event-1')).flatMap(({ deliveries }) => deliveries.map((one) => one.state))
    await send(formatJournal(topic, 1, [handedOver]).map(({ value }) => value))
    expect(await states()).toEqual(['waiting'])
    await send(formatJournal(topic, 1, [toldAs({}), handedOver]).map(({ value }) => value))
    expect(await states()).toEqual(['done'])
  })

  test.each([
    ['no JSON', '{"event-1'],
    ['nothing', ''],
    ['no object', '"event-1"'],
    ['null', 'null\n"event-1"'],
    ['of no event', '{"event":"event-1","rule":"call","state":"done"}'],
    ['of an event without a place', '{"event":{"id":"event-1","accepted":1},"rule":"call","state":"done"}'],
    ['without what became of it', '{"event":{"id":"event-1","accepted":1,"origin":["page",0,1]},"rule":"call"}'],
  ])('a line of somebody else, which is %s, is passed over', async (_, line) => {
    const { topic, send, journal } = await setup()
    const ours = formatJournal(topic, 1, [
      {
        event: { id: 'event-1', stream: 'page', accepted: 1, origin: ['page', 0, 1] },
        ...{ metaId: undefined, rule: 'call', revision: '', state: 'done', reason: 'ok', at: 1, until: null },
        ...{ attempts: [], coveredBy: undefined },
      },
    ])
    await send([line, `${line}\n${ours[0]?.value}`, line])

    expect(await journal.ended(0)).toEqual(new Map([['event-1', new Set(['call'])]]))
    expect((await journal.find('event-1')).map(({ deliveries }) => deliveries.map(({ rule }) => rule))).toEqual([
      ['call'],
    ])
  })

  test('what became of an event whose producer’s clock runs ahead is found by its id', async () => {
    const { topic, send, journal } = await setup()
    const now = Date.now()
    const told = (time: number, offset: number, metaId?: string): Told => ({
      event: { id: eventIdOf(time, ['page', 0, offset]), stream: 'page', accepted: now, origin: ['page', 0, offset] },
      ...{ metaId, rule: 'call', revision: '', state: 'done', reason: 'ok', at: now, until: null },
      ...{ attempts: [], coveredBy: undefined },
    })
    const minute = 60_000
    const theirs = eventIdOf(now + 30 * minute, ['elsewhere', 0, 7])
    const all = [told(now + 30 * minute, 1), told(now, 2, theirs), told(now + 1_000, 3)]
    await send(formatJournal(topic, 1, all).map(({ value }) => value))
    for (const id of [all[0]?.event.id, theirs, all[2]?.event.id])
      expect((await journal.find(id ?? '')).map(({ deliveries }) => deliveries.length)).toEqual([1])
  })

  test('what became of a delivery is what was told last, though by a process whose clock is slower', async () => {
    const { topic, send, journal } = await setup()
    const event = { id: 'event-1', stream: 'page', accepted: 1, origin: ['page', 0, 1] as const }
    const told = {
      event,
      metaId: undefined,
      rule: 'call',
      revision: '',
      attempts: [],
      coveredBy: undefined,
      until: null,
    }
    const waiting = { ...told, state: 'waiting', reason: 'slot', at: 5_000 } as const
    const done = { ...told, state: 'done', reason: 'ok', at: 3_000 } as const
    for (const one of [waiting, done]) await send(formatJournal(topic, 1, [one]).map(({ value }) => value))
    expect((await journal.find('event-1')).map(({ deliveries }) => deliveries.map(({ state }) => state))).toEqual([
      ['done'],
    ])
  })

  test('an event is found by whatever a producer has taken for an id', async () => {
    const { topic, send, journal } = await setup()
    const id = 'a "name", in quotes \\ or not'
    const told: Told = {
      event: { id: 'event-1', stream: 'page', accepted: 1, origin: ['page', 0, 1] },
      ...{ metaId: id, rule: 'call', revision: '', state: 'done', reason: 'ok', at: 1, until: null },
      ...{ attempts: [], coveredBy: undefined },
    }
    await send(formatJournal(topic, 1, [told]).map(({ value }) => value))
    expect((await journal.find(id)).map(({ event }) => event.id)).toEqual(['event-1'])
  })
})
