import { randomUUID } from 'node:crypto'
import {
  AssignerProtocol,
  type Consumer,
  type Kafka,
  type KafkaConfig,
  KafkaJSConnectionError,
  KafkaJSNumberOfRetriesExceeded,
  type PartitionAssigner,
} from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Cluster, createClient } from '../../src/store/kafka/client.ts'
import { typeOf } from '../../src/store/kafka/errors.ts'
import { Membership } from '../../src/store/kafka/membership.ts'
import { withAdmin } from '../../src/store/kafka/topics.ts'
import { needsKafka, sharedKafka, startKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'

const shared = sharedKafka()

/** A topic of two partitions, whose group has its name. */
async function aGroup(client: KafkaConfig = shared.client): Promise<{ readonly kafka: Kafka; readonly topic: string }> {
  const topic = `members-${randomUUID()}`
  const kafka = createClient(client, () => undefined)
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions: 2 }] })
  await admin.disconnect()
  return { kafka, topic }
}

interface Joined {
  readonly membership: Membership
  /** Each time that it was told which partitions it has. */
  readonly assigned: (readonly number[])[]
  readonly troubles: (string | undefined)[]
  /** Those that kafkajs made for it. */
  readonly consumers: Consumer[]
}

interface Watched {
  /** Called with the first consumer. */
  first(consumer: Consumer): void
  /** Called whenever it was told which partitions it has. */
  told(): void
}

const nothing = () => undefined

function join(kafka: Kafka, topic: string, { first = nothing, told = nothing }: Partial<Watched> = {}): Joined {
  const assigned: (readonly number[])[] = []
  const troubles: (string | undefined)[] = []
  const consumers: Consumer[] = []
  const consumer: Kafka['consumer'] = (options) => {
    const made = kafka.consumer(options)
    if (consumers.length === 0) first(made)
    consumers.push(made)
    return made
  }
  const membership = new Membership({
    ...{ kafka: Object.create(kafka, { consumer: { value: consumer } }), group: topic, topic },
    assigned(partitions) {
      assigned.push(partitions)
      told()
    },
    trouble: (why) => void troubles.push(why),
  })
  onTestFinished(() => membership.leave())
  membership.join()
  return { membership, assigned, troubles, consumers }
}

test('a consumer that stops without a word, and does not even say farewell, is replaced', async () => {
  const { kafka, topic } = await aGroup()
  const { assigned, consumers } = join(kafka, topic)
  const silent = await until('it is a member', () => (assigned.length === 1 ? consumers.at(-1) : undefined), 30_000)
  await silent.stop()
  const { disconnect } = silent
  onTestFinished(() => disconnect())
  silent.disconnect = () => new Promise(() => {})

  await until('another has taken its place', () => assigned.length === 2, 60_000)
  expect(assigned[1]).toEqual([0, 1])
}, 120_000)

test('who is a member fetches nothing of what is shared, and says at his times that he lives', async () => {
  const { kafka, topic } = await aGroup()
  const producer = kafka.producer()
  await producer.connect()
  onTestFinished(() => producer.disconnect())
  await producer.send({ topic, messages: [0, 1].map((partition) => ({ partition, value: 'one' })) })
  const fetched: unknown[] = []
  let heartbeats = 0
  const first = (consumer: Consumer) => {
    consumer.on(consumer.events.REQUEST, ({ payload }) => {
      if (payload.apiName === 'Fetch') fetched.push(payload)
    })
    consumer.on(consumer.events.HEARTBEAT, () => {
      heartbeats += 1
    })
  }
  const { assigned } = join(kafka, topic, { first })
  await until('it is a member', () => assigned.length === 1, 30_000)
  await until('it has said so twice', () => heartbeats >= 2, 30_000)

  expect(fetched).toEqual([])
}, 90_000)

/** Of the same name as ours, so that who says it is one of the group. */
const sameName: PartitionAssigner = () => ({
  name: 'changeprop',
  version: 1,
  protocol: ({ topics }) => ({
    name: 'changeprop',
    metadata: AssignerProtocol.MemberMetadata.encode({ version: 1, topics, userData: Buffer.alloc(0) }),
  }),
  assign: async () => [],
})

test('a consumer that is replaced while it waits for others to join is no member beside the one in its place', async () => {
  const { kafka, topic } = await aGroup()
  // It does not hear that another joins, and the group waits for it.
  const deaf = kafka.consumer({
    ...{ groupId: topic, partitionAssigners: [sameName] },
    ...{ sessionTimeout: 60_000, heartbeatInterval: 59_000, rebalanceTimeout: 33_000 },
  })
  onTestFinished(() => deaf.disconnect())
  await deaf.connect()
  await deaf.subscribe({ topic })
  const isIn = new Promise((resolve) => deaf.on(deaf.events.GROUP_JOIN, resolve))
  await deaf.run({ eachMessage: async () => undefined })
  await isIn

  const { assigned, consumers } = join(kafka, topic)
  await until('another takes its place', () => consumers.length === 2, 60_000)
  const admin = kafka.admin()
  onTestFinished(() => admin.disconnect())
  await admin.connect()
  const members = async () => {
    const { groups } = await admin.describeGroups([topic])
    return groups.flatMap(({ state, members }) => (state === 'Stable' ? members : []))
  }
  await until('it is the only member', async () => (await members()).length === 1, 60_000)

  expect(assigned.at(-1)).toEqual([0, 1])
}, 150_000)

/** For a consumer that connects only when it may. */
function connectingLate(): { readonly first: (consumer: Consumer) => void; readonly mayConnect: () => void } {
  let isAllowed = false
  return {
    first(consumer) {
      const { connect } = consumer
      consumer.connect = () => until('it may connect', () => isAllowed, 60_000).then(connect)
    },
    mayConnect() {
      isAllowed = true
    },
  }
}

/** What comes first of it. */
function outcomeOf(consumer: Consumer | undefined): Promise<'joined' | 'failed'> {
  return new Promise((resolve) => {
    consumer?.on(consumer.events.GROUP_JOIN, () => resolve('joined'))
    consumer?.on(consumer.events.CRASH, () => resolve('failed'))
  })
}

test('a consumer that connects when it was replaced already is no member beside the one in its place', async () => {
  const { kafka, topic } = await aGroup()
  const { first, mayConnect } = connectingLate()
  const { assigned, consumers } = join(kafka, topic, { first })
  await until('another is a member', () => assigned.length > 0, 60_000)
  const outcome = outcomeOf(consumers[0])
  mayConnect()

  expect(await outcome).toBe('failed')
  expect(assigned).toEqual([[0, 1]])
}, 150_000)

test('who leaves while it connects does not become a member after that', async () => {
  const { kafka, topic } = await aGroup()
  const { first, mayConnect } = connectingLate()
  const { membership, consumers } = join(kafka, topic, { first })
  const [late] = consumers
  const outcome = outcomeOf(late)
  onTestFinished(() => late?.disconnect())
  await membership.leave()
  mayConnect()

  expect(await outcome).toBe('failed')
}, 60_000)

test('what is committed while a consumer is about to end does not pass for committed', async () => {
  const { kafka, topic } = await aGroup()
  const { membership, assigned, consumers } = join(kafka, topic)
  await until('it is a member', () => assigned.length === 1, 30_000)
  const position = { topic, partition: 0, offset: 7, metadata: '' }
  await membership.commit(() => [position])

  void consumers[0]?.stop()

  await expect(membership.commit(() => [position])).rejects.toThrow("not a member of Kafka's consumer group")
})

test('what is not committed does not pass for committed by what is committed meanwhile', async () => {
  const listeners = new Map<string, (event: { readonly payload: { readonly memberAssignment: object } }) => void>()
  const happens = (name: string) => listeners.get(name)?.({ payload: { memberAssignment: {} } })
  const done = async () => undefined
  const consumer = {
    ...{ connect: done, subscribe: done, run: done, disconnect: done, pause: nothing },
    events: { HEARTBEAT: 'heartbeat', GROUP_JOIN: 'join', COMMIT_OFFSETS: 'commit', CRASH: 'crash' },
    on: (name: string, heard: () => void) => listeners.set(name, heard),
    async commitOffsets([position]: readonly { readonly offset: string }[]) {
      if (position?.offset === '2') happens('commit')
      await new Promise(setImmediate)
    },
  }
  const { membership } = join({ consumer: () => consumer } as unknown as Kafka, 'topic')
  happens('join')
  const at = (offset: number) => membership.commit(() => [{ topic: 'topic', partition: 0, offset, metadata: '' }])
  const [one, two] = await Promise.allSettled([at(1), at(2)])

  expect([one.status, two.status]).toEqual(['rejected', 'fulfilled'])
})

test('a crash after which kafkajs would begin anew by itself is told, and another consumer takes its place', async () => {
  const { kafka, topic } = await aGroup()
  const clusters: Cluster[] = []
  const [createCluster = ''] = Object.getOwnPropertySymbols(kafka).filter((one) => /createCluster/.test(String(one)))
  const create = Reflect.get(kafka, createCluster)
  const value = (options: unknown) => {
    clusters.push(create(options))
    return clusters.at(-1)
  }
  const { assigned, troubles, consumers } = join(Object.create(kafka, { [createCluster]: { value } }), topic)
  await until('it is a member', () => assigned.length === 1, 30_000)
  const cluster = clusters.at(-1)
  const member = consumers.at(-1)
  const beginsAnew: boolean[] = []
  member?.on(member.events.CRASH, ({ payload: { restart } }) => beginsAnew.push(restart))

  // It is to join anew, and whoever coordinates the group does not answer.
  const silence = new KafkaJSNumberOfRetriesExceeded(new KafkaJSConnectionError('none'), {
    retryCount: 5,
    retryTime: 100,
  })
  const { refreshMetadataIfNecessary } = Object.getPrototypeOf(cluster)
  Object.assign(cluster ?? {}, {
    findGroupCoordinator: () => Promise.reject(silence),
    refreshMetadataIfNecessary: () => {
      Object.assign(cluster ?? {}, { refreshMetadataIfNecessary })
      return Promise.reject(Object.assign(new Error(), { type: 'REBALANCE_IN_PROGRESS' }))
    },
  })

  await until('another has taken its place', () => assigned.length === 2, 15_000)
  // Before the first, those of a coordinator that is not ready yet.
  expect(troubles.slice(-3)).toEqual([
    undefined,
    expect.stringContaining("not a member of Kafka's consumer group"),
    undefined,
  ])
  // Without brokers it would try for ever, also when we have left.
  expect(beginsAnew).toEqual([false])
}, 60_000)

test('who has partitions keeps them when another joins, as far as that is fair', async () => {
  const { kafka, topic } = await aGroup()
  const { assigned } = join(kafka, topic)
  await until('it is a member', () => assigned.length === 1, 30_000)
  // By its name it is the first of all members.
  const other = join(createClient({ ...shared.client, clientId: 'a' }, nothing), topic)
  // The broker answers them one after the other.
  await until('both have been told', () => other.assigned.length === 1 && assigned.length === 2, 30_000)

  expect([assigned.at(-1), other.assigned.at(-1)]).toEqual([[0], [1]])
}, 60_000)

test('who fails when told that others have some of its partitions says so, and is told again', async () => {
  const { kafka, topic } = await aGroup()
  let isFailing = false
  const told = () => {
    if (isFailing) throw new Error('they cannot be taken over')
  }
  const { assigned, troubles } = join(kafka, topic, { told })
  await until('it is a member', () => assigned.length === 1, 30_000)
  isFailing = true
  join(kafka, topic)
  await until('it is told of fewer', () => assigned.length === 2, 30_000)
  isFailing = false

  await until('it is told again', () => assigned.length > 2, 30_000)
  expect(troubles).toContain("not a member of Kafka's consumer group: they cannot be taken over")
}, 90_000)

test('a group that others use otherwise, where kafkajs gives up, is joined when they have left', async () => {
  const { kafka, topic } = await aGroup()
  const position = { topic, partition: 0, offset: 7, metadata: '' }
  const other = kafka.consumer({ groupId: topic })
  onTestFinished(() => other.disconnect())
  await other.connect()
  await other.subscribe({ topic })
  const isIn = new Promise((resolve) => other.on(other.events.GROUP_JOIN, resolve))
  await other.run({ eachMessage: async () => undefined })
  await isIn

  const { membership, assigned, troubles } = join(kafka, topic)
  await until('it is told', () => troubles.length > 0, 30_000)
  expect(troubles[0]).toMatch(/^not a member of Kafka's consumer group: .*protocol/)
  // What is not committed must not seem to be.
  await expect(membership.commit(() => [position])).rejects.toThrow("not a member of Kafka's consumer group")
  await other.disconnect()

  await until('it is a member', () => assigned.length === 1, 30_000)
  expect({ assigned, trouble: troubles.at(-1) }).toEqual({ assigned: [[0, 1]], trouble: undefined })
  await membership.commit(() => [position])
}, 90_000)

test('a position of a topic that is deleted is not committed of another that has its name later', async () => {
  const { kafka, topic } = await aGroup()
  const { membership, assigned, consumers } = join(kafka, topic)
  const member = await until('it is a member', () => (assigned.length === 1 ? consumers.at(-1) : undefined), 30_000)
  const isAnswered = new Promise<void>((resolve) => {
    member.on(member.events.REQUEST, ({ payload }) => {
      if (payload.apiName === 'OffsetCommit') resolve()
    })
  })
  const stream = `${topic}.stream`
  const committed = membership.commit(() => [{ topic: stream, partition: 0, offset: 5, metadata: '' }])
  const said = committed.then(
    () => 'committed',
    (error: unknown) => typeOf(error),
  )
  const admin = kafka.admin()
  await admin.connect()
  onTestFinished(() => admin.disconnect())
  // Where kafkajs tries it again, it finds the topic.
  await isAnswered
  await admin.createTopics({ topics: [{ topic: stream, numPartitions: 1 }], waitForLeaders: true })

  expect(await said).toBe('UNKNOWN_TOPIC_OR_PARTITION')
  const [found] = await admin.fetchOffsets({ groupId: topic, topics: [stream] })
  expect(found?.partitions.map(({ offset }) => offset)).toEqual(['-1'])
}, 60_000)

describe('brokers of their own', () => {
  needsKafka()

  /** Resolves when it has said that it lives: before that it may have to ask for more than that. */
  async function settled({ assigned, consumers }: Joined): Promise<void> {
    await until('it is a member', () => assigned.length === 1, 30_000)
    const member = consumers.at(-1)
    await new Promise((resolve) => member?.on(member.events.HEARTBEAT, resolve))
  }

  test('who is a member stays one while the only broker starts anew', async () => {
    const brokers = await startKafka({ brokers: 1 })
    onTestFinished(() => brokers.close())
    const { kafka, topic } = await aGroup(brokers.client)
    const joined = join(kafka, topic)
    const { membership, troubles, consumers } = joined
    await settled(joined)
    const before = consumers.length
    await brokers.kill(1)
    await brokers.start(1)

    await membership.commit(() => [{ topic, partition: 0, offset: 7, metadata: '' }])
    expect({ made: consumers.length - before, trouble: troubles.at(-1) }).toEqual({ made: 0, trouble: undefined })
  }, 90_000)

  test('who is a member stays one, with what it has, where another broker takes the place of the group’s coordinator', async () => {
    // Whoever leads this partition coordinates all groups.
    const brokers = await startKafka({ brokers: 3, properties: { 'offsets.topic.num.partitions': '1' } })
    onTestFinished(() => brokers.close())
    const { kafka, topic } = await aGroup(brokers.client)
    const joined = join(kafka, topic)
    const { membership, assigned, troubles, consumers } = joined
    await settled(joined)
    const before = { consumers: consumers.length, troubles: troubles.length }
    const [offsets] = await withAdmin(kafka, (admin) =>
      admin.fetchTopicMetadata({ topics: ['__consumer_offsets'] }).then(({ topics }) => topics),
    )
    await brokers.kill(offsets?.partitions[0]?.leader ?? 0)

    await until('it has joined there', () => assigned.length === 2, 60_000)
    await membership.commit(() => [{ topic, partition: 0, offset: 7, metadata: '' }])
    expect(assigned).toEqual([
      [0, 1],
      [0, 1],
    ])
    expect({ made: consumers.length - before.consumers, troubles: troubles.slice(before.troubles) }).toEqual({
      ...{ made: 0, troubles: [undefined] },
    })
  }, 120_000)
})
