import { CompressionCodecs, CompressionTypes, Kafka } from 'kafkajs'
import { expect, onTestFinished, test } from 'vitest'
import { type Cluster, createClient, openCluster } from '../../src/store/kafka/client.ts'
import { Reader } from '../../src/store/kafka/reader.ts'
import { sharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'

// What compacts looks for work all the time.
const kafka = sharedKafka({ brokers: 1, properties: { 'log.cleaner.backoff.ms': '100' } })

/** `opened`: called with what the reader stands on. */
async function setup(partitions: number, opened: (cluster: Cluster) => void = () => undefined) {
  const client = new Kafka(kafka.client)
  const prefix = kafka.prefix()
  const topic = `${prefix}read`
  const admin = client.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions: partitions }, { topic: `${prefix}turns` }] })
  const producer = client.producer()
  await producer.connect()
  const troubles = new Set<string>()
  const skips: unknown[] = []
  let trouble: string | undefined
  const underneath = createClient(kafka.client, () => undefined)
  const cluster = openCluster(underneath)
  opened(cluster)
  const [createCluster = ''] = Object.getOwnPropertySymbols(underneath).filter((one) =>
    /createCluster/.test(String(one)),
  )
  const reader = new Reader({
    kafka: Object.create(underneath, { [createCluster]: { value: () => cluster } }),
    trouble(why) {
      trouble = why
      if (why !== undefined) troubles.add(why)
    },
    skipped: (topic, partition, from, to) => skips.push({ topic, partition, from, to }),
  })
  onTestFinished(async () => {
    await Promise.all([admin.disconnect(), producer.disconnect(), reader.close()])
  })
  const received = Array.from({ length: partitions }, (): string[] => [])
  return {
    client,
    admin,
    producer,
    reader,
    troubles,
    skips,
    trouble: () => trouble,
    prefix,
    topic,
    /** By partition: values. */
    received,
    read() {
      for (const [partition, values] of received.entries()) {
        reader.read(topic, partition, 0, (messages) => {
          values.push(...messages.map(({ value }) => String(value).slice(0, 20).trim()))
        })
      }
    },
    /** Resolves when the broker has been asked so many times more. */
    async turns(count: number) {
      let turns = 0
      reader.read(`${prefix}turns`, 0, 0, (messages) => {
        turns += messages.length
      })
      for (let turn = 1; turn <= count; turn += 1) {
        await producer.send({ topic: `${prefix}turns`, messages: [{ value: 'turn' }] })
        await until('the broker was asked', () => turns >= turn)
      }
    },
  }
}

test('no record is passed over where there is more than one answer holds', async () => {
  const { producer, topic, received, read } = await setup(12)
  const values = Array.from({ length: 40 }, (_, n) => `${n}`)
  for (const partition of received.keys()) {
    const messages = values.map((value) => ({ partition, value: value.padEnd(100_000) }))
    for (let from = 0; from < messages.length; from += 8) {
      await producer.send({ topic, messages: messages.slice(from, from + 8) })
    }
  }
  read()
  await until('all partitions are read', () => received.every((one) => one.at(-1) === values.at(-1)), 60_000)

  expect(received).toEqual(received.map(() => values))
})

test('a partition goes on where its leader moved to a broker that led nothing, though no answer told of that', async () => {
  const leaders = ['one', 'one']
  const { producer, topic, received, read } = await setup(2, (cluster) => {
    const findBroker = cluster.findBroker.bind(cluster)
    cluster.findLeaderForPartitions = (_topic, partitions) => {
      const led = (broker: string) => partitions.filter((partition) => leaders[partition] === broker)
      return Object.fromEntries(leaders.map((broker) => [broker, led(broker)]))
    }
    cluster.findBroker = () => findBroker({ nodeId: '1' })
  })
  const send = (value: string) => producer.send({ topic, messages: [0, 1].map((partition) => ({ partition, value })) })
  read()
  await send('one')
  await until('both are read', () => received.every((values) => values.at(-1) === 'one'))
  // As metadata tells that are refreshed for another reason.
  leaders[1] = 'another'
  for (const value of ['two', 'three']) {
    await send(value)
    await until('the first goes on', () => received[0]?.at(-1) === value)
  }

  await until('the other goes on, too', () => received[1]?.at(-1) === 'three')
})

test('what a transaction has written is waited for, and read once it is committed', async () => {
  const { client, topic, received, read, turns } = await setup(1)
  const producer = client.producer({ transactionalId: topic, maxInFlightRequests: 1, idempotent: true })
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  const transaction = await producer.transaction()
  await transaction.send({ topic, messages: ['one', 'two', 'three'].map((value) => ({ value })) })
  read()
  await turns(8)
  expect(received).toEqual([[]])

  await transaction.commit()
  await until('they are read', () => (received[0]?.length ?? 0) > 0)
  await turns(2)
  expect(received).toEqual([['one', 'two', 'three']])
})

test('who reads to the end of a partition that ends with what an aborted transaction wrote gets there', async () => {
  const { client, producer, reader, topic } = await setup(1)
  await producer.send({ topic, messages: [{ value: 'one' }] })
  const transactional = client.producer({ transactionalId: topic, maxInFlightRequests: 1, idempotent: true })
  await transactional.connect()
  onTestFinished(() => transactional.disconnect())
  const transaction = await transactional.transaction()
  await transaction.send({ topic, messages: [{ value: 'two' }] })
  await transaction.abort()
  const values: string[] = []
  await reader.readToEnd(topic, 0, 0, (messages) => values.push(...messages.map(({ value }) => String(value))))

  expect(values).toEqual(['one'])
})

test('a partition goes on behind a batch of which compaction has left nothing', async () => {
  const { client, admin, producer, reader, prefix } = await setup(1)
  const topic = `${prefix}compacted`
  const settings = { 'cleanup.policy': 'compact', 'segment.ms': '1000', 'min.cleanable.dirty.ratio': '0' }
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
  await admin.createTopics({ topics: [{ topic, configEntries }], waitForLeaders: true })
  // The last batch of a producer that counts its batches stays, be it empty.
  const counting = client.producer({ idempotent: true, maxInFlightRequests: 1 })
  await counting.connect()
  onTestFinished(() => counting.disconnect())
  const at = (seconds: number) => String(Date.now() - 3_600_000 + 1_000 * seconds)
  await counting.send({ topic, messages: [{ key: 'key', value: 'old', timestamp: at(0) }] })
  // What comes next has no room in an answer beside the empty one.
  const large = 'new'.padEnd(700_000)
  await producer.send({ topic, messages: [{ key: 'key', value: large, timestamp: at(10) }] })
  await producer.send({ topic, messages: [{ key: 'last', value: 'last', timestamp: at(20) }] })
  const cluster = openCluster(createClient(kafka.client, () => undefined))
  onTestFinished(() => cluster.disconnect())
  await cluster.connect()
  await cluster.addMultipleTargetTopics([topic])
  const broker = await cluster.findBroker({ nodeId: '1' })
  const partitions = [{ partition: 0, fetchOffset: '0', maxBytes: 1 }]
  const question = { isolationLevel: 1, maxWaitTime: 0, minBytes: 0, maxBytes: 1, topics: [{ topic, partitions }] }
  await until('the first batch is empty', async () => {
    const { responses } = await broker.fetch(question)
    return responses[0]?.partitions[0]?.messages.every(({ isControlRecord }) => isControlRecord)
  })

  const values: string[] = []
  await reader.readToEnd(topic, 0, 0, (messages) => values.push(...messages.map(({ value }) => String(value).trim())))
  expect(values).toEqual(['new', 'last'])
}, 60_000)

test('no broker is asked to wait for longer than a partition that is resumed may have to', async () => {
  const waits: number[] = []
  const { producer, topic, received, read } = await setup(1, (cluster) => {
    const findBroker = cluster.findBroker.bind(cluster)
    cluster.findBroker = async (node) => {
      const broker = await findBroker(node)
      return {
        fetch(question) {
          waits.push(question.maxWaitTime)
          return broker.fetch(question)
        },
      }
    }
  })
  await producer.send({ topic, messages: [{ value: 'one' }] })
  read()
  await until('it is read', () => received[0]?.length === 1)

  expect(Math.max(...waits)).toBeLessThanOrEqual(250)
})

test('what a broker is slow to bring is waited for, however many answers come without it', async () => {
  let answers = 0
  const { producer, topic, received, read } = await setup(1, (cluster) => {
    const findBroker = cluster.findBroker.bind(cluster)
    cluster.findBroker = async (node) => {
      const broker = await findBroker(node)
      return {
        async fetch(request) {
          const { responses } = await broker.fetch(request)
          answers += 1
          if (answers > 10) return { responses }
          const without = ({ topicName, partitions }: (typeof responses)[number]) => {
            return { topicName, partitions: partitions.map((one) => ({ ...one, messages: [] })) }
          }
          return { responses: responses.map(without) }
        },
      }
    }
  })
  await producer.send({ topic, messages: ['one', 'two'].map((value) => ({ value })) })
  read()
  await until('the last is read', () => received[0]?.at(-1) === 'two')
  expect(received).toEqual([['one', 'two']])
})

test('a large batch that compaction has shortened is passed', async () => {
  const { client, admin, reader, prefix } = await setup(1)
  const topic = `${prefix}compacted`
  const settings = { 'cleanup.policy': 'compact', 'min.cleanable.dirty.ratio': '0', 'segment.ms': '100' }
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
  await admin.createTopics({ topics: [{ topic, numPartitions: 1, configEntries }] })
  const producer = client.producer()
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  const send = (keys: readonly number[], size: number) =>
    producer.send({ topic, messages: keys.map((key) => ({ key: `${key}`, value: 'x'.repeat(size) })) })
  const keys = Array.from({ length: 900 }, (_, key) => key)
  await send(keys, 1_000)
  await send(keys.slice(800), 1)
  const last = await until('it is compacted', async () => {
    // Only what is in segments that are written no more is compacted.
    const [{ baseOffset = '' } = {}] = await send([1_000], 1)
    let isThere = false
    await reader.one(topic, 0, 899, () => {
      isThere = true
    })
    return !isThere && baseOffset
  })
  const offsets: string[] = []
  await reader.readToEnd(topic, 0, 0, (messages) => offsets.push(...messages.map(({ offset }) => offset)))
  expect(offsets.slice(799, 801)).toEqual(['799', '900'])
  expect(offsets.at(-1)).toBe(last)
}, 60_000)

test('where all records were removed the end is reached at once, and none is found', async () => {
  const { admin, producer, reader, topic } = await setup(1)
  await producer.send({ topic, messages: ['one', 'two'].map((value) => ({ value })) })
  // kafkajs asks whoever leads the topic only where it has been told.
  await admin.fetchTopicMetadata({ topics: [topic] })
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '-1' }] })
  const values: string[] = []
  await reader.readToEnd(topic, 0, 0, (messages) => values.push(...messages.map(({ value }) => String(value))))
  await reader.one(topic, 0, 1, (value) => values.push(String(value)))

  expect(values).toEqual([])
})

test('a partition whose records were removed goes on at what is there, beside others of its topic, and that is told', async () => {
  const { admin, producer, skips, topic, received, read } = await setup(3)
  const send = (value: string) =>
    producer.send({ topic, messages: [...received.keys()].map((partition) => ({ partition, value })) })
  await send('one')
  await send('two')
  await admin.fetchTopicMetadata({ topics: [topic] })
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '1' }] })
  read()
  await until('all that is left is read', () => received.every((values) => values.at(-1) === 'two'))

  expect(received).toEqual([['two'], ['one', 'two'], ['one', 'two']])
  expect(skips).toEqual([{ topic, partition: 0, from: 0, to: 1 }])
})

test('what cannot be taken is given again, and the partitions beside it go on', async () => {
  const { producer, reader, troubles, topic, received } = await setup(2)
  let refusals = 0
  for (const [partition, values] of received.entries()) {
    reader.read(topic, partition, 0, (messages) => {
      if (partition === 0 && messages.length > 0 && refusals < 2) {
        refusals += 1
        throw new Error('not this one')
      }
      values.push(...messages.map(({ value }) => String(value)))
    })
  }
  const send = (value: string) => producer.send({ topic, messages: [0, 1].map((partition) => ({ partition, value })) })
  await send('one')
  await until('it was refused', () => refusals > 0)
  await send('two')
  await until('both are read', () => received.every((values) => values.at(-1) === 'two'))

  expect(received).toEqual([
    ['one', 'two'],
    ['one', 'two'],
  ])
  expect([...troubles]).toEqual([`Kafka cannot be read: ${topic}/0 at offset 0: not this one`])
})

test('who cannot take what is read to the end, or a single record, is told so, and what is read next is read', async () => {
  const { producer, reader, topic } = await setup(1)
  await producer.send({ topic, messages: [{ value: 'one' }] })
  const refuse = () => {
    throw new Error('not this one')
  }
  await expect(reader.readToEnd(topic, 0, 0, refuse)).rejects.toThrow('not this one')
  await expect(reader.one(topic, 0, 0, refuse)).rejects.toThrow('not this one')
  const values: string[] = []
  await reader.one(topic, 0, 0, (value) => values.push(String(value)))
  expect(values).toEqual(['one'])
})

test('the end of a partition is found as soon as its topic has it', async () => {
  const { admin, client, reader, topic } = await setup(1)
  expect(await reader.end(topic, 0)).toBe(0)
  await admin.createPartitions({ topicPartitions: [{ topic, count: 2 }] })
  const producer = client.producer()
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  await producer.send({ topic, messages: [{ partition: 1, value: 'one' }] })

  expect(await reader.end(topic, 1)).toBe(1)
  const values: string[] = []
  await reader.readToEnd(topic, 1, 0, (messages) => values.push(...messages.map(({ value }) => String(value))))
  expect(values).toEqual(['one'])
})

test('a partition of which no broker tells is not taken for an empty one; what was in it is gone', async () => {
  const { reader, topic } = await setup(1)
  const nothing = () => {
    throw new Error('nothing is there')
  }
  await expect(reader.end(topic, 1)).rejects.toThrow(`no broker knows of partition 1 of ${topic}`)
  await expect(reader.offsetAt(topic, 1, 0)).rejects.toThrow('no broker knows')
  await expect(reader.readToEnd(topic, 1, 0, nothing)).rejects.toThrow('no broker knows')
  await reader.one(topic, 1, 0, nothing)
})

test('a topic that is deleted stops no other, and goes on at its offset when it is there again', async () => {
  const { client, admin, reader, troubles, prefix, topic, received, read } = await setup(2)
  /** By a new one each time: a producer that has written to a topic fails for all once that is gone. */
  const send = async (topic: string, value: string, partitions: readonly number[]) => {
    const producer = client.producer()
    await producer.connect()
    await producer.send({ topic, messages: partitions.map((partition) => ({ partition, value })) })
    await producer.disconnect()
  }
  const other: string[] = []
  const readOther = (topic: string) =>
    reader.read(topic, 0, 0, (messages) => other.push(...messages.map(({ value }) => String(value))))
  await send(topic, 'one', [0, 1])
  read()
  readOther(`${prefix}turns`)
  await until('both are read', () => received.every((values) => values.at(-1) === 'one'))
  await admin.deleteTopics({ topics: [topic] })
  await until('it is missed', () => [...troubles].some((why) => why.includes(`${topic}/0`)))
  await send(`${prefix}turns`, 'beside', [0])
  await until('what was read beside it is read', () => other.at(-1) === 'beside')
  await admin.createTopics({ topics: [{ topic: `${prefix}later` }] })
  await send(`${prefix}later`, 'later', [0])
  readOther(`${prefix}later`)
  await until('a topic that came later is read', () => other.at(-1) === 'later')
  expect(await reader.end(`${prefix}later`, 0)).toBe(1)
  await expect(reader.end(topic, 0)).rejects.toThrow()

  await admin.createTopics({ topics: [{ topic, numPartitions: 2 }] })
  await send(topic, 'one', [0, 1])
  await send(topic, 'two', [0, 1])
  await until('it is read again', () => received.every((values) => values.at(-1) === 'two'), 40_000)
})

test('of a partition with a batch that cannot be decoded all before it is read, and others go on', async () => {
  const { producer, reader, trouble, topic, received, read } = await setup(3)
  const gzip = CompressionCodecs[CompressionTypes.GZIP]
  let isKnown = false
  CompressionCodecs[CompressionTypes.GZIP] = () => ({
    ...gzip(),
    decompress(buffer: Buffer) {
      if (!isKnown) throw new Error('nobody knows how')
      return gzip().decompress(buffer)
    },
  })
  onTestFinished(() => {
    CompressionCodecs[CompressionTypes.GZIP] = gzip
  })
  const send = (value: string, partitions: readonly number[], compression = CompressionTypes.None) =>
    producer.send({ topic, compression, messages: partitions.map((partition) => ({ partition, value })) })
  await send('one', [0, 1, 2])
  await send('two', [0, 1, 2])
  await send('packed', [1], CompressionTypes.GZIP)
  await send('three', [0, 1, 2])
  read()
  await until('others are read', () => [0, 2].every((partition) => received[partition]?.at(-1) === 'three'))
  await until('it is told', () => trouble() !== undefined)
  await send('four', [0, 2])
  await until('others go on', () => [0, 2].every((partition) => received[partition]?.at(-1) === 'four'))
  expect(received[1]).toEqual(['one', 'two'])
  expect(trouble()).toBe(`Kafka cannot be read: ${topic}/1 at offset 2: nobody knows how`)
  reader.stop(topic, 1)
  expect(trouble()).toBeUndefined()
  await expect(reader.readToEnd(topic, 1, 0, () => undefined)).rejects.toThrow('nobody knows how')

  reader.read(topic, 1, 2, (messages) => received[1]?.push(...messages.map(({ value }) => String(value))))
  await until('it is told again', () => trouble() !== undefined)
  isKnown = true
  await until('it is read', () => received[1]?.at(-1) === 'three')
  await until('all is well', () => trouble() === undefined)
  expect(received).toEqual([
    ['one', 'two', 'three', 'four'],
    ['one', 'two', 'packed', 'three'],
    ['one', 'two', 'three', 'four'],
  ])
})
