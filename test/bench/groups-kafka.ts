import { rmSync } from 'node:fs'
import { type Admin, Kafka as KafkaClient, type Message } from 'kafkajs'
import { type Kafka, startKafka } from '../support/kafka.ts'
import { cell, rateCell, shareCell, usageCells, usageHead } from './columns.ts'
import { eventObject, stream } from './event.ts'
import { repeat, repetitions } from './groups-calls.ts'
import { countAsOurs } from './measure.ts'
import type { CallRun, IntakeRun, Runs } from './runs.ts'
import { callingRules, rulesForOthers, type Service } from './service.ts'
import { asMs, printTable } from './table.ts'

const partitions = 12
const backlog = 60_000
const producedAtOnce = 1_000

/** The one broker of the whole group. */
interface Cluster {
  readonly broker: Kafka
  readonly client: KafkaClient
  readonly admin: Admin
}

export async function onKafka(runs: Runs): Promise<void> {
  const broker = await startKafka({ brokers: 1, isOptimised: true })
  const pid = broker.pid(1)
  if (pid !== undefined) countAsOurs(pid)
  const client = new KafkaClient(broker.client)
  const admin = client.admin()
  await admin.connect()
  const cluster = { broker, client, admin }
  await drains(runs, cluster)
  await intake(runs, cluster)
  await admin.disconnect()
  await broker.close()
}

interface DrainWay {
  readonly name: string
  readonly rules: string
  readonly processes: number
  readonly all: CallRun[]
}

async function drains(runs: Runs, cluster: Cluster): Promise<void> {
  const { broker, admin } = cluster
  await fill(cluster)
  const dedup = (key: string) =>
    callingRules(runs.targetPort, 0, `  retry: { limit: 3, delay: 1s }\n  dedup: { key: '${key}' }\n`)
  const one = callingRules(runs.targetPort)
  const ways: readonly DrainWay[] = [
    { name: 'no policy', rules: one, processes: 1, all: [] },
    { name: 'retry, dedup by the key of the topic', rules: dedup('{{message.page_id}}'), processes: 1, all: [] },
    { name: 'retry, dedup by another key', rules: dedup('{{message.meta.id}}'), processes: 1, all: [] },
    { name: '30 rules of which one matches', rules: callingRules(runs.targetPort, 29), processes: 1, all: [] },
    { name: 'no policy, two processes together', rules: one, processes: 2, all: [] },
    // Half of it is handed over to the other process.
    { name: 'dedup by another key, two processes', rules: dedup('{{message.meta.id}}'), processes: 2, all: [] },
  ]
  const limit: CallRun[] = []
  const nameOf = (turn: number, way: number) => `drain${turn}.${way}`
  const names = Array.from({ length: repetitions + 1 }, (_, turn) => ways.map((_, way) => nameOf(turn, way)))
  // One takes kafkajs five seconds, and so do all at once.
  await Promise.all(names.flat().map((name) => startAtFirst(admin, name)))
  const drainAll = async (turn: number) => {
    const bare = await runs.kafkaLimit(backlog, { brokers: broker.brokers, topic: stream, group: `limit${turn}` })
    const ours: CallRun[] = []
    for (const [way, { rules, processes }] of ways.entries()) {
      const drain = (services: readonly Service[]) => runs.drainShared(services, rules, backlog)
      ours.push(await withServices(runs, storeOf(broker, `service: ${nameOf(turn, way)}`), processes, drain))
    }
    return { bare, ours }
  }
  // A broker compiles what it is often asked for, which takes more time than the work; one in service has done so long ago.
  await drainAll(repetitions)
  await repeat(async (repetition) => {
    const { bare, ours } = await drainAll(repetition)
    limit.push(bare)
    for (const [way, run] of ours.entries()) ways[way]?.all.push(run)
  })
  const none = ways[0]?.all ?? []
  const rows = ways.map(({ name, all }) => [
    name,
    rateCell(all),
    shareCell(all, limit),
    shareCell(all, none),
    ...usageCells(all),
  ])
  const bare = ['kafkajs and undici alone', rateCell(limit), '1', '', ...usageCells(limit)]
  const head = ['', 'calls/s', 'share of the bare loop', 'share of no policy', ...usageHead]
  printTable('Kafka, warmed up: drain of 60k in 12 partitions, concurrency 100, target at 0 ms', head, [bare, ...rows])
}

interface IntakeWay {
  readonly name: string
  readonly how: { readonly connections: number; readonly batch: number; readonly events: number }
  readonly bare: IntakeRun[]
  readonly all: IntakeRun[]
}

async function intake(runs: Runs, { broker, admin }: Cluster): Promise<void> {
  const prefix = 'intake.'
  const topic = `${prefix}${stream}`
  await createTopic(admin, topic)
  // All that is posted is of one page: by the default key it would lie in one partition.
  const keys = `streams: { ${stream}: { partition_key: '{{message.meta.id}}' } }`
  const store = storeOf(broker, `topic_prefix: ${prefix}, ${keys}`)
  const ways: readonly IntakeWay[] = [
    { name: 'single events', how: { connections: 64, batch: 1, events: 20_000 }, bare: [], all: [] },
    { name: 'arrays of 10', how: { connections: 64, batch: 10, events: 50_000 }, bare: [], all: [] },
  ]
  await repeat(async () => {
    for (const { how, bare, all } of ways) {
      bare.push(await runs.intakeLimit(how, { brokers: broker.brokers, topic, group: '' }))
      const post = async ([service]: readonly Service[]) => {
        if (service === undefined) throw new Error('no service to post to')
        await service.ready()
        return runs.intake(service.pid, service.port, how)
      }
      all.push(await withServices(runs, store, 1, post))
    }
  })
  const times = (of: readonly IntakeRun[]) => [cell(of, ({ p50 }) => p50, asMs), cell(of, ({ p99 }) => p99, asMs)]
  const rows = ways.flatMap(({ name, bare, all }) => [
    [`fastify and kafkajs alone, ${name}`, rateCell(bare), ...times(bare), '1', ...usageCells(bare)],
    [`changeprop, ${name}`, rateCell(all), ...times(all), shareCell(all, bare), ...usageCells(all)],
  ])
  const head = ['', 'events/s', 'p50 ms', 'p99 ms', 'share of fastify and kafkajs', ...usageHead]
  printTable('Kafka: intake from 64 connections, acks=all; no rule concerns the events', head, rows)
}

function storeOf(broker: Kafka, more: string): string {
  return `store: { kafka: { brokers: ['${broker.brokers[0]}'], replication: 1, ${more} } }\n`
}

/** Runs `use` with so many services that share their work; no rule concerns what is stored. */
async function withServices<Result>(
  runs: Runs,
  store: string,
  count: number,
  use: (services: readonly Service[]) => Promise<Result>,
): Promise<Result> {
  if (count === 0) return use([])
  const folder = runs.newFolder()
  const rules = rulesForOthers(runs.targetPort)
  const result = await runs.withService({ folder, rules, store }, (service) =>
    withServices(runs, store, count - 1, (others) => use([service, ...others])),
  )
  rmSync(folder, { recursive: true })
  return result
}

/** Stores events of a page each, by the key that the service gives them. */
async function fill({ client, admin }: Cluster): Promise<void> {
  await createTopic(admin, stream)
  // Of a topic so new some partitions may refuse a batch: all of it is sent again then, and must not be stored twice.
  const producer = client.producer({ idempotent: true })
  await producer.connect()
  for (let from = 0; from < backlog; from += producedAtOnce) {
    const messages = Array.from({ length: producedAtOnce }, (_, at): Message => {
      const event = { ...eventObject(from + at), page_id: from + at }
      return { key: `${event.database}\u001f${event.page_id}`, value: JSON.stringify(event) }
    })
    await producer.send({ topic: stream, messages })
  }
  await producer.disconnect()
}

async function createTopic(admin: Admin, topic: string): Promise<void> {
  await admin.createTopics({ topics: [{ topic, numPartitions: partitions }] })
}

/** Makes a consumer group that has all events of the stream before it. */
async function startAtFirst(admin: Admin, groupId: string): Promise<void> {
  const offsets = Array.from({ length: partitions }, (_, partition) => ({ partition, offset: '0' }))
  await admin.setOffsets({ groupId, topic: stream, partitions: offsets })
}
