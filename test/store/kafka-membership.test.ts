import { randomUUID } from 'node:crypto'
import type { Consumer, Kafka } from 'kafkajs'
import { expect, onTestFinished, test } from 'vitest'
import { createClient } from '../../src/store/kafka/client.ts'
import { Membership } from '../../src/store/kafka/membership.ts'
import { sharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'

const shared = sharedKafka()

/** A topic of two partitions, whose group has its name. */
async function aGroup(): Promise<{ readonly kafka: Kafka; readonly topic: string }> {
  const topic = `members-${randomUUID()}`
  const kafka = createClient(shared.client, () => undefined)
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

function join(kafka: Kafka, topic: string): Joined {
  const assigned: (readonly number[])[] = []
  const troubles: (string | undefined)[] = []
  const consumers: Consumer[] = []
  const consumer: Kafka['consumer'] = (options) => {
    const made = kafka.consumer(options)
    consumers.push(made)
    return made
  }
  const membership = new Membership({
    ...{ kafka: Object.create(kafka, { consumer: { value: consumer } }), group: topic, topic },
    assigned: (partitions) => void assigned.push(partitions),
    trouble: (why) => void troubles.push(why),
  })
  onTestFinished(() => membership.leave())
  membership.join()
  return { membership, assigned, troubles, consumers }
}

test('a consumer that stops without a word, and does not even say farewell, is replaced', async () => {
  const { kafka, topic } = await aGroup()
  const { assigned, consumers } = join(kafka, topic)
  const silent = await until('it is a member', () => (assigned.length === 1 ? consumers[0] : undefined), 30_000)
  await silent.stop()
  const { disconnect } = silent
  onTestFinished(() => disconnect())
  silent.disconnect = () => new Promise(() => {})

  await until('another has taken its place', () => assigned.length === 2, 60_000)
  expect(assigned[1]).toEqual([0, 1])
}, 120_000)

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
  await expect(membership.commit([position])).rejects.toThrow("not a member of Kafka's consumer group")
  await other.disconnect()

  await until('it is a member', () => assigned.length === 1, 30_000)
  expect({ assigned, trouble: troubles.at(-1) }).toEqual({ assigned: [[0, 1]], trouble: undefined })
  await membership.commit([position])
}, 90_000)
