import { Kafka as KafkaClient } from 'kafkajs'
import { onTestFinished } from 'vitest'
import type { Kafka } from '../support/kafka.ts'
import { openService, type Service, type ServiceOptions } from '../support/service.ts'
import { becomes, until } from '../support/until.ts'

export interface KafkaServiceOptions extends Omit<ServiceOptions, 'config'> {
  readonly brokers: readonly string[]
  readonly name: string
  readonly partitions?: number
  /** More of `store.kafka`, as `key: value` in YAML. */
  readonly more?: readonly string[]
  /** More of the configuration, as lines of YAML. */
  readonly config?: string
}

/** The built service with its store on these brokers. It may not have reached them yet. */
export async function openKafkaService(options: KafkaServiceOptions): Promise<Service> {
  const {
    brokers,
    name,
    partitions = 6,
    more = [`topic_prefix: ${name}.`, 'replication: 1'],
    config = '',
    ...rest
  } = options
  const keys = [`brokers: ${JSON.stringify(brokers)}`, `service: ${name}`, `partitions: ${partitions}`, ...more]
  const service = await openService({ ...rest, config: `store:\n  kafka: { ${keys.join(', ')} }\n${config}` })
  onTestFinished(() => service.close())
  return service
}

/** Resolves when it takes events; fails with what it said last. */
export async function accepts(service: Service): Promise<void> {
  await becomes(
    () => service.get('/readyz'),
    ({ status }) => status === 200,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}:\n${service.output.slice(-4_000)}`)
  })
}

/** Resolves when it has its part of the work, and nothing is wrong; there may be dead letters. */
export async function isWell(service: Service): Promise<void> {
  await accepts(service)
  await becomes(
    () => service.get('/healthz'),
    ({ body }) => warningsOf(body).every((warning) => /^\d+ dead letter/.test(warning)),
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}:\n${service.output.slice(-4_000)}`)
  })
}

function warningsOf(body: unknown): readonly string[] {
  if (typeof body !== 'object' || body === null || !('warnings' in body)) return ['it does not tell']
  return Array.isArray(body.warnings) ? body.warnings.map(String) : ['it does not tell']
}

/** Whether nothing waits or runs in its part of the work, and every event that it read is finished. */
export async function isDrained(service: Service): Promise<boolean> {
  const asked = ['/v1/deliveries?state=waiting', '/v1/deliveries?state=running', '/metrics']
  const [waiting, running, metrics] = await Promise.all(asked.map(async (path) => (await service.get(path)).body))
  const none = '{"deliveries":[],"cursor":null}'
  const isBehind = /^changeprop_stream_lag\{.*\} [1-9]/m.test(String(metrics))
  return JSON.stringify(waiting) === none && JSON.stringify(running) === none && !isBehind
}

/** Every value that the topic has, read without our code. */
export async function readAll({ client }: Pick<Kafka, 'client'>, topic: string): Promise<string[]> {
  const kafka = new KafkaClient(client)
  const admin = kafka.admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets(topic)
  await admin.disconnect()
  const left = new Map(ends.map(({ partition, high }) => [partition, Number(high)]))
  for (const [partition, high] of left) if (high === 0) left.delete(partition)
  const values: string[] = []
  const consumer = kafka.consumer({ groupId: `reads-${topic}-${Date.now()}`, maxWaitTimeInMs: 100 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message: { offset, value } }) => {
      values.push(String(value))
      if (Number(offset) + 1 >= (left.get(partition) ?? 0)) left.delete(partition)
    },
  })
  await until(`${topic} is read to its end`, () => left.size === 0, 60_000)
  await consumer.disconnect()
  return values
}
