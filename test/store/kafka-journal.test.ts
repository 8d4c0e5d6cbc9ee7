import { Kafka } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createClient } from '../../src/store/kafka/client.ts'
import { formatJournal, Journal } from '../../src/store/kafka/journal.ts'
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

  test.each([
    ['no JSON', '{"event-1'],
    ['nothing', ''],
    ['no object', '"event-1"'],
    ['null', 'null\n"event-1"'],
    ['of no event', '{"event":"event-1","rule":"call","state":"done"}'],
    ['of an event without a place', '{"event":{"id":"event-1","accepted":1},"rule":"call","state":"done"}'],
    ['without what became of it', '{"event":{"id":"event-1","accepted":1,"origin":["page",0,1]},"rule":"call"}'],
  ])('a line of somebody else, which is %s, is passed over', async (_, line) => {
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
    const ours = formatJournal(topic, 1, [
      {
        event: { id: 'event-1', stream: 'page', accepted: 1, origin: ['page', 0, 1] },
        ...{ metaId: undefined, rule: 'call', revision: '', state: 'done', reason: 'ok', at: 1, until: null },
        ...{ attempts: [], coveredBy: undefined },
      },
    ])
    await producer.send({
      topic,
      messages: [line, `${line}\n${ours[0]?.value}`, line].map((value) => ({ value })),
    })
    const journal = new Journal(client, reader, topic, 1)

    expect(await journal.ended(0)).toEqual(new Map([['event-1', new Set(['call'])]]))
    expect((await journal.find('event-1')).map(({ deliveries }) => deliveries.map(({ rule }) => rule))).toEqual([
      ['call'],
    ])
  })
})
