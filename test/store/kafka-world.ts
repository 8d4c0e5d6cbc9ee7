import { randomUUID } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import type { KafkaConfig } from 'kafkajs'
import { Kafka } from 'kafkajs'
import type { Clock } from '../../src/base/clock.ts'
import { createKafkaStore, type KafkaStoreOptions } from '../../src/store/kafka/kafka-store.ts'
import type { LaneBacklog, Store, StoreHealth } from '../../src/store/store.ts'
import type { SharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'
import type { OpenStore, StoreWorld } from './world.ts'

/** What one process has of the brokers: it can be taken from it. */
class Lines {
  readonly #sockets = new Set<Socket>()
  #isCut = false

  readonly factory: NonNullable<KafkaConfig['socketFactory']> = ({ host, port, onConnect }) => {
    const socket = connect({ host, port }, onConnect)
    if (this.#isCut) socket.destroy(new Error('the line is cut'))
    this.#sockets.add(socket)
    socket.on('close', () => this.#sockets.delete(socket))
    return socket
  }

  cut(): void {
    this.#isCut = true
    for (const socket of this.#sockets) socket.destroy(new Error('the line is cut'))
  }
}

export interface KafkaWorldOptions {
  readonly partitions?: number
  readonly scratch?: string
}

export interface KafkaWorld extends StoreWorld {
  readonly group: string
  topicOf(stream: string): string
  /** How many records the journal has. */
  journalLength(): Promise<number>
}

/** A store on a broker, with topics of its own. A kill cuts its lines: nothing that it would still do is there. */
export async function openKafkaWorld(
  { client }: SharedKafka,
  { partitions = 1, scratch }: KafkaWorldOptions = {},
): Promise<KafkaWorld> {
  const service = `test-${randomUUID().slice(0, 8)}`
  const group = `${service}.${service}`
  let lines = new Lines()

  async function removeMembers(): Promise<void> {
    const kafka = new Kafka(client)
    const symbol = Object.getOwnPropertySymbols(kafka).find(
      ({ description }) => description === 'private:Kafka:createCluster',
    )
    const cluster = Reflect.get(kafka, symbol ?? '')({})
    const admin = kafka.admin()
    await Promise.all([cluster.connect(), admin.connect()])
    const { groups } = await admin.describeGroups([group])
    const coordinator = await cluster.findGroupCoordinator({ groupId: group })
    for (const { memberId } of groups[0]?.members ?? []) await coordinator.leaveGroup({ groupId: group, memberId })
    await Promise.all([cluster.disconnect(), admin.disconnect()])
  }

  return {
    group,
    topicOf: (stream) => `${service}.${stream}`,
    async journalLength() {
      const admin = new Kafka(client).admin()
      await admin.connect()
      const offsets = await admin.fetchTopicOffsets(`${group}.journal`)
      await admin.disconnect()
      return offsets.reduce((sum, { high }) => sum + Number(high), 0)
    },
    async open(clock?: Clock): Promise<OpenStore> {
      const options: KafkaStoreOptions = {
        client: { brokers: client.brokers, clientId: service, socketFactory: lines.factory },
        service,
        prefix: `${service}.`,
        consumePrefixes: [`${service}.`],
        partitions,
        replication: 1,
        scratch,
        largestEvent: 10_485_760,
        tell: (level, message) => {
          if (process.env.KAFKA_TEST_LOG !== undefined) console.log(level, message)
        },
        ...(clock === undefined ? {} : { clock }),
      }
      const store = createKafkaStore(options)
      const changes: StoreHealth[] = []
      const broken: Error[] = []
      const told = { changes, broken, commits: 0 }
      const lanes: LaneBacklog[] = []
      await store.open({
        committed: () => {
          told.commits += 1
        },
        changed: (health) => changes.push(health),
        broken: (error) => {
          broken.push(error)
          // A test that waits for what the store does not do any more would not tell why.
          console.error(error)
        },
        rows: (change) => lanes.push(change),
        lost: () => undefined,
        shared: () => undefined,
      })
      store.subscribe(() => true)
      await ready(store)
      return { store, backlog: [...lanes], told }
    },
    async kill() {
      lines.cut()
      lines = new Lines()
      await removeMembers()
    },
  }
}

async function ready(store: Store): Promise<void> {
  await until('the store has taken over its part', () => {
    const { accepting, warnings } = store.health()
    return accepting && warnings.length === 0
  })
}
