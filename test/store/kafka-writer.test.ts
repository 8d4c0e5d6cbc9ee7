import { type Admin, ConfigResourceTypes, Kafka, type ProducerBatch, type RecordMetadata } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Outgoing } from '../../src/store/kafka/batch-sender.ts'
import { createClient } from '../../src/store/kafka/client.ts'
import { Writer } from '../../src/store/kafka/writer.ts'
import { readAll } from '../e2e/kafka-service.ts'
import { freeze, thaw } from '../support/freeze.ts'
import { sharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'

/** A writer, and what it has told. */
function openWriter(kafka: Kafka, largestBatch = 786_432) {
  const troubles: (string | undefined)[] = []
  const writer = new Writer({
    kafka,
    trouble: (why) => troubles.push(why),
    largestBatch: () => largestBatch,
    tooLarge: () => undefined,
    committed: () => undefined,
  })
  onTestFinished(() => writer.close())
  return { writer, troubles }
}

function recordOf(topic: string, text: string, partition = 0): Outgoing {
  return { topic, partition, key: null, value: Buffer.from(text) }
}

/** Says how many batches have been handed to the client's producers. */
function countBatches(client: Kafka): () => number {
  const make = client.producer.bind(client)
  let batches = 0
  client.producer = (options) => {
    const producer = make(options)
    const { sendBatch } = producer
    producer.sendBatch = (batch) => {
      batches += 1
      return sendBatch(batch)
    }
    return producer
  }
  return () => batches
}

/** What a promise has come to, if anything. */
function outcomeOf<Result>(promise: Promise<Result>): { result?: Result } {
  const outcome: { result?: Result } = {}
  void promise.then((result) => {
    outcome.result = result
  })
  return outcome
}

describe('a broker that does not answer', () => {
  const kafka = sharedKafka()

  async function setup() {
    const topic = `${kafka.prefix()}written`
    const admin = new Kafka(kafka.client).admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] })
    await admin.disconnect()
    const client = createClient(kafka.client, () => undefined)
    const batches = countBatches(client)
    const { writer, troubles } = openWriter(client)
    const pid = kafka.pid(1) ?? 0
    await writer.connect()
    expect(await writer.tryWrite([recordOf(topic, 'before')])).toEqual([])
    const before = batches()
    return {
      /** Resolves when what was handed in is on its way. */
      begun: () => until('a batch is on its way', () => batches() > before),
      ...{ writer, troubles, topic },
      freeze: () => freeze(pid),
      thaw: () => thaw(pid),
      unanswered: (text: string) => [
        { record: recordOf(topic, text), error: expect.objectContaining({ code: 'STORE_UNAVAILABLE' }) },
      ],
    }
  }

  test('is told soon, and what may fail is given up; what must not be lost is written once it answers', async () => {
    const { writer, troubles, topic, freeze, thaw, begun, unanswered } = await setup()
    await freeze()
    const done: string[] = []
    writer.write([recordOf(topic, 'kept 1')], () => done.push('kept 1'))
    const onItsWay = outcomeOf(writer.tryWrite([recordOf(topic, 'on its way')]))
    await begun()
    writer.write([recordOf(topic, 'kept 2')], () => done.push('kept 2'))
    const through = outcomeOf(writer.written().then(() => true))
    const waiting = outcomeOf(writer.tryWrite([recordOf(topic, 'waiting')]))
    const many = outcomeOf(writer.tryWrite(Array.from({ length: 60_000 }, () => recordOf(topic, 'many'))))
    expect(writer.isBusy).toBe(true)

    await until('the trouble is told', () => troubles.at(-1)?.startsWith('Kafka has not answered for 5 s'), 9_000)
    await until('they are given up', () => onItsWay.result && waiting.result && many.result, 15_000)
    expect(onItsWay.result).toEqual(unanswered('on its way'))
    expect(waiting.result).toEqual(unanswered('waiting'))
    expect(many.result).toHaveLength(60_000)
    expect(writer.isBusy).toBe(false)
    expect(done).toEqual([])
    expect(through.result).toBeUndefined()

    thaw()
    await until('what must not be lost is written', () => done.length === 2, 60_000)
    await writer.written()
    expect(done).toEqual(['kept 1', 'kept 2'])
    expect(troubles.at(-1)).toBeUndefined()
    const values = (await readAll(kafka, topic)).filter((value, index, all) => all.indexOf(value) === index)
    expect(values.filter((value) => value !== 'on its way')).toEqual(['before', 'kept 1', 'kept 2'])
    expect(await writer.tryWrite([recordOf(topic, 'after')])).toEqual([])
  }, 120_000)

  test('does not keep a writer from closing, and nobody waits for ever', async () => {
    const { writer, topic, freeze, begun, unanswered } = await setup()
    await freeze()
    const onItsWay = outcomeOf(writer.tryWrite([recordOf(topic, 'on its way')]))
    await begun()
    const waiting = outcomeOf(writer.tryWrite([recordOf(topic, 'waiting')]))
    writer.write([recordOf(topic, 'kept')], () => undefined)

    const closing = outcomeOf(writer.close().then(() => true))
    await until('it is closed', () => closing.result, 12_000)
    expect(onItsWay.result).toEqual(unanswered('on its way'))
    expect(waiting.result).toHaveLength(1)
  }, 60_000)

  test('is asked until it does, where all that was to be written has been given up', async () => {
    const { writer, troubles, topic, unanswered } = await setup()
    await kafka.kill(1)
    onTestFinished(async () => {
      if (kafka.pid(1) === undefined) await kafka.start(1)
    })
    expect(await writer.tryWrite([recordOf(topic, 'lost')])).toEqual(unanswered('lost'))
    await writer.written()
    expect(troubles.at(-1)).toBeDefined()

    await kafka.start(1)
    await until('all is well', () => troubles.at(-1) === undefined, 60_000)
    expect(await writer.tryWrite([recordOf(topic, 'after')])).toEqual([])
  }, 120_000)
})

describe('a partition with too few replicas in sync', () => {
  const kafka = sharedKafka({ brokers: 3 })
  const minimum = (value: string) => [{ name: 'min.insync.replicas', value }]
  const triesOfOneSend = 4
  const [other, lasting, passing] = ['other', 'lasting', 'passing']
  let starving: Promise<void> | undefined

  /** One broker is gone for both tests: it takes a while to come back. */
  async function setup() {
    const admin = new Kafka(kafka.client).admin()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    starving ??= starve(admin)
    await starving
    const client = createClient(kafka.client, () => undefined)
    const batches = countBatches(client)
    const { writer, troubles } = openWriter(client)
    await writer.connect()
    return { admin, batches, writer, troubles }
  }

  async function starve(admin: Admin): Promise<void> {
    const starved = { configEntries: minimum('2'), replicaAssignment: [{ partition: 0, replicas: [1, 2] }] }
    await admin.createTopics({
      topics: [
        { topic: lasting, ...starved },
        { topic: passing, ...starved },
        { topic: other, replicaAssignment: [{ partition: 0, replicas: [1] }] },
      ],
    })
    await kafka.kill(2)
    const areStarved = async () => {
      const { topics } = await admin.fetchTopicMetadata({ topics: [lasting, passing] })
      return topics.every(({ partitions }) => partitions[0]?.isr.join() === '1')
    }
    await until('they have one replica', areStarved, 30_000)
  }

  test('is written nothing, and what goes to others in one batch with that is written once, and soon', async () => {
    const { writer, troubles } = await setup()
    const refused = outcomeOf(writer.tryWrite([recordOf(lasting, 'refused')]))
    const done: string[] = []
    writer.write([recordOf(other, 'kept')], () => done.push('kept'))
    expect(await writer.tryWrite([recordOf(other, 'posted')])).toEqual([])
    await until('it is refused', () => refused.result)

    expect(refused.result).toEqual([
      {
        record: recordOf(lasting, 'refused'),
        error: expect.objectContaining({ isOurs: true, message: expect.stringContaining(`the topic ${lasting}`) }),
      },
    ])
    expect(done).toEqual(['kept'])
    expect(await readAll(kafka, other)).toEqual(['kept', 'posted'])
    expect(troubles.filter((why) => why !== undefined)).toEqual([])
  }, 120_000)

  test('is waited for where that is over within seconds: nothing is refused, and nobody is troubled', async () => {
    const { admin, batches, writer, troubles } = await setup()
    const posted = outcomeOf(writer.tryWrite([recordOf(passing, 'posted')]))
    await until('it was refused, and sent again, for longer than one send', () => batches() > triesOfOneSend)
    expect(posted.result).toBeUndefined()

    const resources = [{ type: ConfigResourceTypes.TOPIC, name: passing, configEntries: minimum('1') }]
    await admin.alterConfigs({ validateOnly: false, resources })
    await until('it is answered', () => posted.result, 30_000)
    expect(posted.result).toEqual([])
    expect(await readAll(kafka, passing)).toEqual(['posted'])
    expect(troubles.filter((why) => why !== undefined)).toEqual([])
  }, 60_000)
})

describe('kafkajs', () => {
  type Answer = (batch: readonly string[]) => readonly RecordMetadata[] | Promise<readonly RecordMetadata[]>

  /** Stands in for kafkajs where no broker does to order what it must do. Each producer has its answers, each connects or not. */
  function setup(producers: readonly { readonly answers: readonly Answer[]; readonly connects?: boolean }[]) {
    const sent: string[][] = []
    let made = 0
    const producer = () => {
      const number = made++
      const { answers = [], connects = true } = producers[number] ?? {}
      const left = [...answers]
      let isConnected = false
      return {
        async connect() {
          if (!connects) throw new Error('no broker is there')
          isConnected = true
        },
        async disconnect() {
          isConnected = false
        },
        async sendBatch({ topicMessages = [] }: ProducerBatch): Promise<readonly RecordMetadata[]> {
          if (!isConnected) throw new Error('The producer is disconnected')
          const batch = topicMessages.flatMap(({ topic, messages }) =>
            messages.map(({ partition, value }) => `${number}: ${topic}/${partition} ${value}`),
          )
          sent.push(batch)
          return (left.shift() ?? all)(batch)
        },
      }
    }
    const admin = () => ({ connect: async () => {}, describeCluster: async () => {}, disconnect: async () => {} })
    return { ...openWriter({ producer, admin } as unknown as Kafka), sent }
  }

  const all = (batch: readonly string[]): readonly RecordMetadata[] =>
    [...new Set(batch.map((line) => line.split(' ')[1] ?? ''))].map((place) => {
      const [topicName = '', partition] = place.split('/')
      return { topicName, partition: Number(partition), errorCode: 0 }
    })
  const without =
    (partition: number): Answer =>
    (batch) =>
      all(batch).filter((one) => one.partition !== partition)
  const unknownTopic: Answer = () => {
    throw Object.assign(new Error('This server does not host this topic-partition'), {
      type: 'UNKNOWN_TOPIC_OR_PARTITION',
    })
  }

  test('may leave a partition out of an answer: what was for it is sent again, and is done only then', async () => {
    const seen: string[][] = []
    const done: string[] = []
    const answer: Answer = (batch) => {
      seen.push([...done])
      return all(batch)
    }
    const { writer, sent } = setup([{ answers: [without(1), answer] }])
    await writer.connect()
    writer.write([recordOf('t', 'a', 0)], () => done.push('a'))
    writer.write([recordOf('t', 'b', 1)], () => done.push('b'))
    writer.write([recordOf('t', 'c', 0), recordOf('t', 'd', 1)], () => done.push('c, d'))
    expect(await writer.tryWrite([recordOf('t', 'e', 1)])).toEqual([])

    expect(sent).toEqual([
      ['0: t/0 a', '0: t/1 b', '0: t/0 c', '0: t/1 d', '0: t/1 e'],
      ['0: t/1 b', '0: t/1 d', '0: t/1 e'],
    ])
    expect(seen.flat()).not.toContain('b')
    expect(seen.flat()).not.toContain('c, d')
    expect(done).toEqual(['a', 'b', 'c, d'])
  })

  test('may leave a partition out of every answer: given up is only what was for it', async () => {
    const { writer } = setup([{ answers: Array.from({ length: 30 }, () => without(1)) }])
    await writer.connect()
    const unwritten = await writer.tryWrite([recordOf('t', 'a', 0), recordOf('t', 'b', 1)])

    expect(unwritten).toEqual([
      { record: recordOf('t', 'b', 1), error: expect.objectContaining({ code: 'STORE_UNAVAILABLE' }) },
    ])
  })

  test('may fail after what it had to send was given up: that is not sent again, and what must not be lost is', async () => {
    let fail: (error: Error) => void = () => undefined
    const hangs: Answer = () =>
      new Promise((_, reject) => {
        fail = reject
      })
    const { writer, sent, troubles } = setup([{ answers: [hangs] }])
    await writer.connect()
    let isDone = false
    writer.write([recordOf('t', 'kept')], () => {
      isDone = true
    })
    expect(await writer.tryWrite([recordOf('t', 'given up')])).toHaveLength(1)
    expect(isDone).toBe(false)

    fail(new Error('Request Produce timed out'))
    await writer.written()
    expect(isDone).toBe(true)
    expect(sent).toEqual([['0: t/0 kept', '0: t/0 given up'], ['0: t/0 kept']])
    expect(troubles.at(-1)).toBeUndefined()
    expect(writer.isBusy).toBe(false)
  })

  test('is spoiled by a topic that was deleted: another producer goes on', async () => {
    const { writer, sent, troubles } = setup([{ answers: [unknownTopic] }, { answers: [] }])
    await writer.connect()
    expect(await writer.tryWrite([recordOf('t', 'a')])).toEqual([])

    expect(sent).toEqual([['0: t/0 a'], ['1: t/0 a']])
    expect(troubles).toEqual([expect.stringContaining('does not host'), undefined])
  })

  test('is spoiled also where the other producer does not connect at once', async () => {
    const { writer, sent } = setup([{ answers: [unknownTopic] }, { answers: [], connects: false }, { answers: [] }])
    await writer.connect()
    expect(await writer.tryWrite([recordOf('t', 'a')])).toEqual([])

    expect(sent).toEqual([['0: t/0 a'], ['2: t/0 a']])
  })
})

describe('many records', () => {
  const kafka = sharedKafka()

  async function setup(partitions: number, largestBatch?: number) {
    const topic = `${kafka.prefix()}many`
    const settings = largestBatch === undefined ? {} : { 'max.message.bytes': String(largestBatch) }
    const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
    const admin = new Kafka(kafka.client).admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic, numPartitions: partitions, configEntries }] })
    await admin.disconnect()
    const client = createClient(kafka.client, () => undefined)
    const sizes: number[] = []
    const refusals: number[] = []
    const make = client.producer.bind(client)
    client.producer = (options) => {
      const producer = make(options)
      const { sendBatch } = producer
      producer.sendBatch = async (batch) => {
        sizes.push((batch.topicMessages ?? []).reduce((sum, { messages }) => sum + messages.length, 0))
        const answer = await sendBatch(batch)
        refusals.push(...answer.flatMap(({ errorCode }) => (errorCode === 0 ? [] : [errorCode])))
        return answer
      }
      return producer
    }
    const { writer } = openWriter(client, largestBatch)
    await writer.connect()
    return { topic, writer, sizes, refusals }
  }

  test('are in batches of 5,000 at most: kafkajs reads none of more than some 100,000', async () => {
    const { topic, writer, sizes } = await setup(3)
    const many = Array.from({ length: 12_000 }, (_, n) => recordOf(topic, '', n % 3))
    expect(await writer.tryWrite(many)).toEqual([])

    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(12_000)
    expect(Math.max(...sizes)).toBe(5_000)
  })

  test('are in batches of which the broker refuses none for its size, and not in more than that takes', async () => {
    const { topic, writer, sizes, refusals } = await setup(2, 20_000)
    const many = Array.from({ length: 100 }, (_, n) => recordOf(topic, 'x'.repeat(1_000), n % 2))
    expect(await writer.tryWrite(many)).toEqual([])

    expect(refusals).toEqual([])
    // 17 of 1,128 bytes for each of two partitions.
    expect(sizes).toEqual([34, 34, 32])
  })
})
