import { Kafka } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { BatchSender } from '../../src/store/kafka/batch-sender.ts'
import { createClient } from '../../src/store/kafka/client.ts'
import { Membership } from '../../src/store/kafka/membership.ts'
import { Reader } from '../../src/store/kafka/reader.ts'
import { Topics, withAdmin } from '../../src/store/kafka/topics.ts'
import { needsKafka, sharedKafka, startKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'

const kafka = sharedKafka()

function topicsOf(prefix: string, replication = 1): Topics {
  const options = { service: 'service', prefix, consumePrefixes: [prefix], partitions: 2, replication }
  return new Topics({ ...options, largestEvent: 1_000 })
}

async function make(topic: string, settings: Readonly<Record<string, string>>, numPartitions = 2): Promise<void> {
  const admin = new Kafka(kafka.client).admin()
  await admin.connect()
  onTestFinished(() => admin.disconnect())
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions, configEntries }] })
}

test('what is missing is made, and then fits', async () => {
  const client = new Kafka(kafka.client)
  const topics = topicsOf(`${kafka.prefix()}.`)
  expect((await topics.check(client)).missing).toEqual([
    expect.stringContaining(`${topics.work} is missing: run \`changeprop topics --create\``),
    expect.stringContaining(`${topics.roots} is missing`),
    expect.stringContaining(`${topics.handed} is missing`),
    expect.stringContaining(`${topics.journal} is missing`),
    expect.stringContaining(`${topics.keys} is missing`),
  ])
  await topics.create(client)
  expect(await topics.check(client)).toEqual({ missing: [], wrong: [] })
})

test('what does not fit is told, with the command that mends it', async () => {
  const client = new Kafka(kafka.client)
  const topics = topicsOf(`${kafka.prefix()}.`, 3)
  await make(topics.work, { 'cleanup.policy': 'delete', 'min.insync.replicas': '1' }, 3)
  await make(topics.roots, { 'cleanup.policy': 'delete', 'min.insync.replicas': '2' })
  await make(topics.handed, { 'retention.ms': '60000', 'min.insync.replicas': '2' })
  await make(topics.journal, { 'retention.ms': '60000', 'min.insync.replicas': '2', 'max.message.bytes': '1000' })
  await make(topics.keys, { 'retention.ms': '60000', 'min.insync.replicas': '2' })
  const { missing, wrong } = await topics.check(client)
  expect(missing).toEqual([])
  const told = wrong.map((problem) => problem.replace(/: .*/, ''))
  expect(told.sort()).toEqual([
    `the topic ${topics.handed} has retention.ms=60000, expected 604800000`,
    `the topic ${topics.journal} has max.message.bytes=1000, expected 1048576`,
    `the topic ${topics.journal} has retention.ms=60000, expected 604800000`,
    `the topic ${topics.keys} has retention.ms=60000, expected 7200000`,
    `the topic ${topics.roots} has cleanup.policy=delete, expected compact`,
    `the topic ${topics.work} has 3 partitions and store.kafka.partitions is 2`,
    `the topic ${topics.work} has cleanup.policy=delete, expected compact`,
    `the topic ${topics.work} has min.insync.replicas=1, expected 2`,
  ])
  expect(wrong.join()).toContain(`kafka-configs.sh --alter --topic ${topics.work} --add-config min.insync.replicas=2`)
})

test('what cannot be made is named, with what to do', async () => {
  const topics = topicsOf(`${kafka.prefix()}.`, 3)
  await expect(topics.create(new Kafka(kafka.client))).rejects.toThrow(
    `the topic ${topics.work} cannot be made: Kafka has fewer brokers than store.kafka.replication says, which is 3`,
  )
})

describe('where a broker is away that has the only copy of somebody else’s topic', () => {
  needsKafka()

  test('all topics are told of, and ours are made', async () => {
    const kafka = await startKafka({ brokers: 3 })
    onTestFinished(() => kafka.close())
    const client = createClient(kafka.client, () => undefined)
    const reader = new Reader({ kafka: client, trouble: () => undefined, skipped: () => undefined })
    onTestFinished(() => reader.close())
    const topics = topicsOf('ours.', 2)
    await withAdmin(client, (admin) =>
      admin.createTopics({
        topics: [
          { topic: 'theirs', replicaAssignment: [{ partition: 0, replicas: [3] }] },
          { topic: 'ours.stream', numPartitions: 2, replicationFactor: 2 },
        ],
      }),
    )
    await kafka.kill(3)
    const found = async () =>
      [...(await reader.topics())].filter(([topic]) => topic === 'theirs' || topic === 'ours.stream').sort()
    await until('it has no leader', async () => (await found())[1]?.[1].leaderless.length === 1)
    await topics.create(client)
    expect((await topics.check(client)).missing).toEqual([])
    expect(await found()).toEqual([
      ['ours.stream', { count: 2, leaderless: [] }],
      ['theirs', { count: 1, leaderless: [0] }],
    ])
  }, 90_000)
})

describe('brokers that make whatever topic somebody asks about', () => {
  const kafka = sharedKafka({ brokers: 1, properties: { 'auto.create.topics.enable': 'true' } })
  const nothing = () => undefined

  /** All topics, once those would be there that somebody has asked about: they are made in that order. */
  async function made(): Promise<readonly string[]> {
    const client = new Kafka(kafka.client)
    const topic = `${kafka.prefix()}later`
    const producer = client.producer()
    await producer.connect()
    await producer.send({ topic, messages: [{ value: 'one' }] })
    await producer.disconnect()
    const topics = await withAdmin(client, (admin) => admin.listTopics())
    expect(topics).toContain(topic)
    return topics
  }

  test('make none that is written to while it is not there', async () => {
    const sender = new BatchSender(createClient(kafka.client, nothing), nothing)
    await sender.connect()
    onTestFinished(() => sender.disconnect())
    await sender.send([{ topic: 'written', partition: 0, key: null, value: null }])

    expect(await made()).not.toContain('written')
  })

  test('make none that is read while it is not there', async () => {
    const reader = new Reader({ kafka: createClient(kafka.client, nothing), trouble: nothing, skipped: nothing })
    onTestFinished(() => reader.close())
    await expect(reader.end('read', 0)).rejects.toThrow()

    expect(await made()).not.toContain('read')
  })

  test('make none whose partitions are to be shared while it is not there', async () => {
    const troubles: (string | undefined)[] = []
    const membership = new Membership({
      ...{ kafka: createClient(kafka.client, nothing), group: 'group', topic: 'shared', assigned: nothing },
      trouble: (why) => void troubles.push(why),
    })
    onTestFinished(() => membership.leave())
    membership.join()
    await until('it is a member, or cannot be', () => troubles.length > 0, 30_000)

    expect(await made()).not.toContain('shared')
  }, 60_000)
})

test('what is asked of one topic is answered though another, which was asked about before, is gone', async () => {
  const client = createClient(kafka.client, () => undefined)
  const prefix = kafka.prefix()
  const ends = (topic: string) =>
    withAdmin(client, (admin) => admin.fetchTopicOffsetsByTimestamp(topic, Date.now())).then((found) => found.length)
  await make(`${prefix}gone`, {}, 1)
  expect(await ends(`${prefix}gone`)).toBe(1)
  // By somebody else.
  await withAdmin(new Kafka(kafka.client), (admin) => admin.deleteTopics({ topics: [`${prefix}gone`] }))
  await make(`${prefix}new`, {}, 2)

  expect(await ends(`${prefix}new`)).toBe(2)
})
