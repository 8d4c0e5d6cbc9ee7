import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Kafka as KafkaClient } from 'kafkajs'
import { startKafka } from '../support/kafka.ts'
import { rateCell, shareCell, usageCells, usageHead } from './columns.ts'
import { bodyText, idPlaces, stream, writeIds } from './event.ts'
import { repeat } from './groups-calls.ts'
import type { Run, Runs } from './runs.ts'
import { callingRules, policyRules, rulesForOthers } from './service.ts'
import { printTable } from './table.ts'

const backlog = 30_000
const partitions = 12
const atOnce = 1_000
const askEveryMs = 50

/** Drains of one backlog, each by a group of its own. */
export async function kafkaDrains(runs: Runs): Promise<void> {
  const broker = await startKafka({ brokers: 1, isOptimised: true })
  const client = new KafkaClient(broker.client)
  const admin = client.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic: stream, numPartitions: partitions }] })
  await fill(client)
  let groups = 0
  const newGroup = async () => {
    const groupId = `bench${++groups}`
    const all = Array.from({ length: partitions }, (_, partition) => ({ partition, offset: '0' }))
    await admin.setOffsets({ groupId, topic: stream, partitions: all })
    return groupId
  }
  const drain = async (rules: string): Promise<Run> => {
    const service = await newGroup()
    const folder = runs.newFolder()
    const store = `store: { kafka: { brokers: ['${broker.brokers[0]}'], service: ${service}, replication: 1 } }\n`
    const run = await runs.withService({ folder, rules: rulesForOthers(runs.targetPort), store }, async (started) => {
      await takenOver(started.port)
      const drained = await runs.drainKafka(started, rules, backlog)
      await started.settled(backlog)
      return drained
    })
    rmSync(folder, { recursive: true })
    return run
  }

  const retry = '  retry: { limit: 3, delay: 1s }\n'
  const ways: Readonly<Record<string, string>> = {
    'no policy': callingRules(runs.targetPort),
    'retry and dedup, a key each': policyRules(runs.targetPort, `${retry}  dedup: { key: '{{message.meta.id}}' }\n`),
    '30 rules of which one matches': callingRules(runs.targetPort, 29),
  }
  const limit: Run[] = []
  const drained = new Map<string, Run[]>(Object.keys(ways).map((name) => [name, []]))
  await repeat(async () => {
    limit.push(await runs.kafkaLimit(broker.brokers, await newGroup(), backlog))
    for (const [name, rules] of Object.entries(ways)) drained.get(name)?.push(await drain(rules))
  })
  const none = drained.get('no policy') ?? []
  const rows = [...drained].map(([name, all]) => [
    name,
    rateCell(all),
    shareCell(all, limit),
    shareCell(all, none),
    ...usageCells(all),
  ])
  const bare = ['kafkajs and undici alone', rateCell(limit), '1', '', ...usageCells(limit)]
  const head = ['', 'calls/s', 'share of the bare loop', 'share of no policy', ...usageHead]
  printTable('(k) drain of 30k from Kafka in 12 partitions, one process, target at 0 ms', head, [bare, ...rows])
  await admin.disconnect()
  await broker.close()
}

/** Resolves when the service has its part of the work. */
async function takenOver(port: number): Promise<void> {
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/healthz`)
    if ((await answer.text()) === '{"status":"alive","warnings":[]}') return
    await sleep(askEveryMs)
  }
}

async function fill(client: KafkaClient): Promise<void> {
  const producer = client.producer()
  await producer.connect()
  const template = Buffer.from(bodyText(1))
  const places = idPlaces(template)
  for (let from = 0; from < backlog; from += atOnce) {
    const messages = Array.from({ length: atOnce }, (_, index) => {
      const value = Buffer.from(template)
      writeIds(value, places, from + index)
      return { partition: (from + index) % partitions, value }
    })
    await producer.send({ topic: stream, messages })
  }
  await producer.disconnect()
}
