import { EventEmitter } from 'node:events'
import { createRequire } from 'node:module'
import { setTimeout as pause } from 'node:timers/promises'
import { Kafka, type KafkaConfig, logLevel } from 'kafkajs'
import { registerCodecs } from './codecs.ts'
import { typeOf } from './errors.ts'

const require = createRequire(import.meta.url)

/** What we need of a broker's connection; kafkajs does not type it, nor export it. */
export interface Broker {
  fetch(request: {
    readonly isolationLevel: number
    readonly maxWaitTime: number
    readonly minBytes: number
    readonly maxBytes: number
    readonly topics: readonly {
      readonly topic: string
      readonly partitions: readonly {
        readonly partition: number
        readonly fetchOffset: string
        readonly maxBytes: number
      }[]
    }[]
  }): Promise<{
    readonly responses: readonly { readonly topicName: string; readonly partitions: readonly FetchedPartition[] }[]
  }>
}

export interface FetchedPartition {
  readonly partition: number
  readonly highWatermark: string
  /** Before it no transaction is open. */
  readonly lastStableOffset: string
  readonly abortedTransactions: readonly { readonly producerId: string; readonly firstOffset: string }[]
  /** Where compaction has taken away the last of it, a marker is in its place. */
  readonly messages: readonly FetchedMessage[]
}

export interface FetchedMessage {
  readonly offset: string
  readonly timestamp: string
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: Readonly<Record<string, Buffer | readonly Buffer[]>>
  readonly isControlRecord: boolean
}

/** The part of kafkajs below its producers and consumers: who leads what, and connections. Pinned with the package. */
export interface Cluster {
  connect(): Promise<void>
  disconnect(): Promise<void>
  isConnected(): boolean
  /** What it asks about. It never takes one out, and tells of none any more once one of them is gone. */
  readonly targetTopics: Set<string>
  addMultipleTargetTopics(topics: readonly string[]): Promise<void>
  refreshMetadata(): Promise<void>
  findBroker(node: { readonly nodeId: string }): Promise<Broker>
  /** Partitions by node id. Throws for a topic without metadata. */
  findLeaderForPartitions(topic: string, partitions: readonly number[]): Readonly<Record<string, readonly number[]>>
  findTopicPartitionMetadata(topic: string): readonly { readonly partitionId: number }[]
  /** Null where no broker answers. */
  metadata(of: { readonly topics: readonly string[] }): Promise<{
    readonly topicMetadata: readonly {
      readonly topic: string
      readonly partitionMetadata: readonly { readonly partitionId: number; readonly leader: number }[]
    }[]
  } | null>
  fetchTopicsOffset(
    topics: readonly ({
      readonly topic: string
      readonly partitions: readonly { readonly partition: number }[]
    } & ({ readonly fromBeginning: boolean } | { readonly fromTimestamp: number }))[],
  ): Promise<
    readonly {
      readonly topic: string
      readonly partitions: readonly { readonly partition: number; readonly offset: string }[]
    }[]
  >
}

/** What kafkajs has to say, for the log. */
export type Tell = (level: 'warn' | 'error', message: string) => void

/** The same line is not told again for so long. */
const sameLineEveryMs = 30_000

/** Connects nobody yet. `tell` hears what kafkajs warns of. */
export function createClient(options: KafkaConfig, tell: Tell): Kafka {
  patch()
  const told = new Map<string, number>()
  return new Kafka({
    connectionTimeout: 5_000,
    requestTimeout: 15_000,
    retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 5 },
    ...options,
    logLevel: logLevel.WARN,
    logCreator:
      () =>
      ({ level, log: { message, error } }) => {
        const line = error === undefined ? message : `${message}: ${String(error)}`
        const now = Date.now()
        if (now - (told.get(line) ?? 0) < sameLineEveryMs) return
        if (told.size > 100) told.clear()
        told.set(line, now)
        tell(level === logLevel.ERROR ? 'error' : 'warn', line)
      },
  })
}

/** kafkajs makes one for each producer and consumer, and lets nobody else have one. */
export function openCluster(kafka: Kafka): Cluster {
  const create = Reflect.get(kafka, createClusterOf(kafka))
  return create({
    metadataMaxAge: 30_000,
    allowAutoTopicCreation: false,
    instrumentationEmitter: new EventEmitter(),
  })
}

function createClusterOf(kafka: Kafka): symbol {
  const found = Object.getOwnPropertySymbols(kafka).find(({ description }) => description === createClusterName)
  if (found === undefined) throw new Error('this is not the kafkajs that the adapter was written for: 2.2.4')
  return found
}

const createClusterName = 'private:Kafka:createCluster'
/** Of a partition that has none. */
export const noLeader = -1

/** Without Kafka's own markers, and without what belongs to transactions that were aborted. */
export function committedMessages(
  topic: string,
  fetchOffset: string,
  partition: FetchedPartition,
): readonly FetchedMessage[] {
  if (partition.abortedTransactions.length === 0) return partition.messages.filter((one) => !one.isControlRecord)
  const Batch: new (
    topic: string,
    fetchOffset: string,
    partition: FetchedPartition,
  ) => { readonly messages: readonly FetchedMessage[] } = require('kafkajs/src/consumer/batch')
  return new Batch(topic, fetchOffset, partition).messages
}

/** Resolves with it, or after so many ms: kafkajs says farewell to nobody who does not answer. */
export async function atMost(ms: number, work: Promise<unknown>): Promise<void> {
  const end = new AbortController()
  // Rejects only where we end it, when the work is done.
  const patience = pause(ms, undefined, { signal: end.signal }).catch(() => undefined)
  await Promise.race([work, patience]).finally(() => end.abort())
}

interface Queue {
  readonly pending: readonly unknown[]
  readonly throttledUntil: number
  scheduleCheckPendingRequests(): void
}

let isPatched = false

function patch(): void {
  if (isPatched) return
  isPatched = true
  registerCodecs()
  patchTimers()
  patchCommits()
  patchHeartbeats()
  patchTopics()
  patchProducers()
  patchAnswers()
  patchFetches()
}

/**
 * Each connection of kafkajs re-arms a timer of a negative time for ever, about 1,500 times a second (issues 1556, 1704 and
 * 1751 there): where nothing waits and nothing is throttled there is nothing to check.
 */
function patchTimers(): void {
  const { prototype }: { prototype: Queue } = require('kafkajs/src/network/requestQueue')
  const original = prototype.scheduleCheckPendingRequests
  prototype.scheduleCheckPendingRequests = function scheduleCheckPendingRequests() {
    if (this.pending.length > 0 || this.throttledUntil > Date.now()) original.call(this)
  }
}

/**
 * Where a topic is gone kafkajs tries to commit its position for most of a minute. Made anew within that time, the topic would
 * get the position of the one before; and no other position is committed meanwhile.
 */
function patchCommits(): void {
  const response: {
    parse(answer: unknown): Promise<unknown>
  } = require('kafkajs/src/protocol/requests/offsetCommit/v5/response')
  const { parse } = response
  response.parse = async (answer) => {
    try {
      return await parse(answer)
    } catch (error) {
      if (typeOf(error) !== 'UNKNOWN_TOPIC_OR_PARTITION' || !(error instanceof Error)) throw error
      throw Object.assign(error, { retriable: false })
    }
  }
}

interface Group {
  readonly groupId: string
  readonly coordinator: { readonly nodeId: number }
  readonly cluster: {
    findGroupCoordinatorMetadata(of: {
      readonly groupId: string
      readonly coordinatorType: number
    }): Promise<{ readonly coordinator: { readonly nodeId: number } }>
  }
  heartbeat(of: { readonly interval: number }): Promise<void>
}

const ofGroups = 0
const notCoordinator = 16

/**
 * Where the broker that coordinates a group is away kafkajs asks that one again until it gives up, whoever has taken its place:
 * our session ends there meanwhile. Here it asks who has, and joins anew as the member that it is.
 */
function patchHeartbeats(): void {
  const { prototype }: { prototype: Group } = require('kafkajs/src/consumer/consumerGroup')
  const { heartbeat } = prototype
  prototype.heartbeat = async function heartbeatOrRejoin(of) {
    try {
      await heartbeat.call(this, of)
    } catch (error) {
      const { groupId, cluster, coordinator: asked } = this
      // It has answered.
      if (typeOf(error) !== '') throw error
      const found = await cluster
        .findGroupCoordinatorMetadata({ groupId, coordinatorType: ofGroups })
        // Nobody knows yet.
        .catch(() => undefined)
      throw found === undefined || found.coordinator.nodeId === asked.nodeId ? error : errorOf(notCoordinator)
    }
  }
}

/** What is told of a partition then, depending on why. */
const leaderless: readonly string[] = ['LEADER_NOT_AVAILABLE', 'LISTENER_NOT_FOUND']

interface MetadataProtocol {
  protocol(of: { readonly version: number }): (asked: { readonly topics: readonly string[] }) => {
    readonly response: { parse(answer: unknown): Promise<unknown> }
  }
}

/** Asked for topics kafkajs tells of none where any partition of any of them has no leader. Here `noLeader` is its leader. */
function patchTopics(): void {
  const metadata: MetadataProtocol = require('kafkajs/src/protocol/requests/metadata')
  const { protocol } = metadata
  metadata.protocol = (of) => {
    const create = protocol(of)
    return (asked) => {
      const { response, ...rest } = create(asked)
      const parse = async (answer: unknown) =>
        response.parse(answer).catch((error: unknown) => {
          if (!leaderless.includes(typeOf(error))) throw error
          return answer
        })
      return { ...rest, response: { ...response, parse } }
    }
  }
}

/**
 * kafkajs writes nothing of a batch where one of its partitions has no leader. Here all else of it is written; who leads what is
 * asked anew before the next batch, also where a broker refused some of one.
 */
function patchProducers(): void {
  const { prototype } = Kafka
  const { producer } = prototype
  prototype.producer = function createProducer(options) {
    const name = createClusterOf(this)
    let cluster: Producing | undefined
    const value = (...of: readonly unknown[]) => {
      cluster = leadingOnly(Reflect.get(this, name)(...of))
      return cluster
    }
    const created = producer.call(Object.create(this, { [name]: { value } }), options)
    const sendBatch: typeof created.sendBatch = async (batch) => {
      const answer = await created.sendBatch(batch)
      if (cluster !== undefined && answer.some(({ errorCode }) => errorCode !== 0))
        cluster.brokerPool.metadataExpireAt = null
      return answer
    }
    return { ...created, sendBatch }
  }
}

type Producing = Pick<Cluster, 'findLeaderForPartitions'> & { readonly brokerPool: { metadataExpireAt: number | null } }

function leadingOnly(cluster: Producing): Producing {
  const find = cluster.findLeaderForPartitions.bind(cluster)
  cluster.findLeaderForPartitions = (topic, partitions) => {
    const { [noLeader]: without, ...led } = find(topic, partitions)
    if (without !== undefined) cluster.brokerPool.metadataExpireAt = null
    return led
  }
  return cluster
}

/**
 * Where a broker refuses what is for one partition kafkajs sends that broker all of the batch again, and tells of no partition
 * in the end: what the broker had taken would be there many times. Here its answer tells of each.
 */
function patchAnswers(): void {
  for (const version of [3, 4, 5, 6, 7]) {
    const response: {
      parse(answer: unknown): Promise<unknown>
    } = require(`kafkajs/src/protocol/requests/produce/v${version}/response`)
    response.parse = async (answer) => answer
  }
}

/** As kafkajs names it. */
export function errorOf(code: number): Error & { readonly retriable: boolean } {
  return require('kafkajs/src/protocol/error').createErrorFromCode(code)
}

interface Decoder {
  readonly buffer: Buffer
  readonly offset: number
}

/** Where they lie in a batch; its length counts from where it ends itself. */
const batchLengthAt = 8
const batchStart = 12
const magicAt = 16
const lastOffsetDeltaAt = 23

/**
 * A batch that compaction has shortened still reaches to where it ended. kafkajs tells only of what is left of it, and of an
 * emptied one as if nothing had come: so nobody would know where to go on, nor whether a broker is just slow. A marker tells.
 */
function patchFetches(): void {
  const name = require.resolve('kafkajs/src/protocol/requests/fetch/v4/decodeMessages')
  const decode: (decoder: Decoder) => Promise<readonly Pick<FetchedMessage, 'offset'>[]> = require(name)
  const decodeAll: typeof decode = async (decoder) => {
    const { buffer, offset } = decoder
    const size = buffer.readInt32BE(offset)
    const messages = await decode(decoder)
    const last = lastOffsetIn(buffer.subarray(offset + 4, offset + 4 + size))
    return last === undefined || last === messages.at(-1)?.offset ? messages : [...messages, markerAt(last)]
  }
  // Read when the first answer is.
  const loaded = require.cache[name]
  if (loaded !== undefined) loaded.exports = decodeAll
}

/** Of the last whole batch; undefined where there is none, or of the format before batches. */
function lastOffsetIn(batches: Buffer): string | undefined {
  let last: string | undefined
  for (let at = 0; at + batchStart <= batches.length; ) {
    const end = at + batchStart + batches.readInt32BE(at + batchLengthAt)
    if (end > batches.length || batches.readInt8(at + magicAt) < 2) break
    last = String(batches.readBigInt64BE(at) + BigInt(batches.readInt32BE(at + lastOffsetDeltaAt)))
    at = end
  }
  return last
}

function markerAt(offset: string): FetchedMessage & { readonly batchContext: object } {
  return { offset, timestamp: '-1', key: null, value: null, headers: {}, isControlRecord: true, batchContext: {} }
}
