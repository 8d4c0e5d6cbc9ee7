import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigResourceTypes, Kafka as KafkaClient, logLevel } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isListening, type Kafka, needsKafka, saslOf, sharedKafka, startKafka } from './kafka.ts'
import { until } from './until.ts'

/** Writes one record and reads the topic from its start until that record is there. */
async function roundTrip(client: KafkaClient, topic: string, value: string): Promise<void> {
  const producer = client.producer({ allowAutoTopicCreation: false })
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  const [written] = await producer.send({ topic, messages: [{ partition: 0, value }] })
  expect(written).toMatchObject({ topicName: topic, partition: 0, errorCode: 0 })

  const consumer = client.consumer({ groupId: `${topic}-${value}`, maxWaitTimeInMs: 100 })
  await consumer.connect()
  onTestFinished(() => consumer.disconnect())
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const read: string[] = []
  await consumer.run({ eachMessage: async ({ message }) => void read.push(String(message.value)) })
  await until(`${value} is read`, () => read.includes(value))
}

async function createTopic(client: KafkaClient, topic: string): Promise<void> {
  const admin = client.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions: 1, replicationFactor: -1 }], waitForLeaders: true })
  await admin.disconnect()
}

describe('one broker for many tests', () => {
  const kafka = sharedKafka()

  test('keeps what is written, and gives it back', async () => {
    const client = new KafkaClient(kafka.client)
    const topic = `${kafka.prefix()}events`
    await createTopic(client, topic)
    await roundTrip(client, topic, 'first')
  })

  test('gives each test a prefix of its own, and has no topic that nobody created', async () => {
    const [one, other] = [kafka.prefix(), kafka.prefix()]
    expect(one).not.toBe(other)
    const client = new KafkaClient({ ...kafka.client, retry: { retries: 1 } })
    const producer = client.producer({ allowAutoTopicCreation: true })
    await producer.connect()
    onTestFinished(() => producer.disconnect())
    const topic = `${one}events`
    await expect(producer.send({ topic, messages: [{ value: 'x' }] })).rejects.toThrow(
      'This server does not host this topic-partition',
    )
    const admin = client.admin()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    expect(await admin.listTopics()).not.toContain(topic)
  })

  test('keeps what was written through a stop and a kill', async () => {
    const client = new KafkaClient(kafka.client)
    const topic = `${kafka.prefix()}events`
    await createTopic(client, topic)
    await roundTrip(client, topic, 'first')
    await kafka.stop(1)
    await kafka.start(1)
    await roundTrip(client, topic, 'second')
    await kafka.kill(1)
    await kafka.start(1)
    await roundTrip(client, topic, 'third')
  })
})

describe('brokers of their own', () => {
  needsKafka()

  async function start(options: Parameters<typeof startKafka>[0]): Promise<Kafka> {
    const kafka = await startKafka(options)
    onTestFinished(() => kafka.close())
    return kafka
  }

  test('three go on without the one that is killed, and take it back', async () => {
    const kafka = await start({ brokers: 3 })
    const client = new KafkaClient(kafka.client)
    await createTopic(client, 'events')
    await roundTrip(client, 'events', 'first')
    await kafka.kill(1)
    await roundTrip(client, 'events', 'second')
    await kafka.start(1)

    const admin = client.admin()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [{ type: ConfigResourceTypes.TOPIC, name: 'events', configNames: ['min.insync.replicas'] }],
    })
    expect(resources[0]?.configEntries[0]?.configValue).toBe('2')
    await until('the topic is in sync on all three', async () => {
      const { topics } = await admin.fetchTopicMetadata({ topics: ['events'] })
      return topics[0]?.partitions[0]?.isr.length === 3
    })
  }, 120_000)

  test('one that does not come up is told by the end of its log', async () => {
    const properties = { 'authorizer.class.name': 'no.such.Authorizer' }
    await expect(start({ brokers: 1, properties })).rejects.toThrow('no.such.Authorizer')
  })

  test('end with the process that started them, however it ends', async () => {
    const temporary = await mkdtemp(join(tmpdir(), 'changeprop-kafka-'))
    onTestFinished(() => rm(temporary, { recursive: true, force: true }))
    const program = `
      import { startKafka } from ${JSON.stringify(new URL('./kafka.ts', import.meta.url).pathname)}
      console.log((await startKafka({ brokers: 1 })).brokers[0])`
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, TMPDIR: temporary },
    })
    const [said] = await once(child.stdout, 'data')
    const address = String(said).trim()
    expect(await isListening(address)).toBe(true)
    child.kill('SIGKILL')
    await until('the broker is gone', async () => !(await isListening(address)), 5_000)
  })

  test.each(['plain', 'scram-sha-256', 'scram-sha-512'] as const)(
    'log clients in by %s, and refuse others',
    async (sasl) => {
      const kafka = await start({ brokers: 1, sasl, tls: sasl !== 'plain' })
      const client = new KafkaClient(kafka.client)
      await createTopic(client, 'events')
      await roundTrip(client, 'events', 'first')

      const as = (user: { username: string; password: string }) =>
        new KafkaClient({ ...kafka.client, sasl: saslOf(sasl, user), retry: { retries: 0 } }).producer()
      const stranger = as(kafka.users.stranger)
      await stranger.connect()
      onTestFinished(() => stranger.disconnect())
      await expect(stranger.send({ topic: 'events', messages: [{ value: 'x' }] })).rejects.toThrow('Not authorized')
      await expect(as({ ...kafka.users.service, password: 'wrong' }).connect()).rejects.toThrow(/authentication/i)
    },
  )

  test('ask for a certificate where TLS is mutual', async () => {
    const kafka = await start({ brokers: 1, tls: 'mutual' })
    const client = new KafkaClient(kafka.client)
    await createTopic(client, 'events')
    await roundTrip(client, 'events', 'first')
    const anonymous = new KafkaClient({
      brokers: [...kafka.brokers],
      ssl: { ca: kafka.tls?.ca },
      logLevel: logLevel.NOTHING,
      retry: { retries: 0 },
    }).admin()
    await expect(anonymous.connect()).rejects.toThrow()
  })
})
