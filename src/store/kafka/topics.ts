import type { Admin, ConfigEntries, ConfigResourceTypes, Kafka } from 'kafkajs'
import { explain, typeOf } from './errors.ts'
import { partitionOf } from './partition.ts'

export interface TopicOptions {
  readonly service: string
  /** Before the names of streams, and of our own topics. */
  readonly prefix: string
  /** Streams are read from topics with any of these before their names. */
  readonly consumePrefixes: readonly string[]
  readonly partitions: number
  readonly replication: number
  /** Of the largest event, in bytes. */
  readonly largestEvent: number
}

/** Node cannot import kafkajs's own name for it. */
const topicResource: ConfigResourceTypes.TOPIC = 2
const rowOverhead = 65_536
const keyOverhead = 4_096
/** Kafka's own. */
const defaultLargestBatch = 1_048_588
const visibleTries = 50
const visiblePauseMs = 100
const hourMs = 3_600_000

interface Spec {
  readonly topic: string
  readonly configs: Readonly<Record<string, string>>
}

/** The names of topics, and which of ours there have to be. */
export class Topics {
  readonly work: string
  /** What a process hands over to the owner of another partition of the work; the same partitions. */
  readonly handed: string
  /** What owners of the work tell all processes of root events; the same partitions. */
  readonly roots: string
  readonly journal: string
  /** What is remembered of keys for an hour; the partitions of the work. */
  readonly keys: string
  /** Of all processes that share the work. */
  readonly group: string
  readonly #options: TopicOptions
  readonly #largestBatches = new Map<string, number>()
  readonly #lookUps = new Map<string, Promise<number>>()

  constructor(options: TopicOptions) {
    this.#options = options
    this.work = `${options.prefix}${options.service}.work`
    this.handed = `${options.prefix}${options.service}.handed`
    this.roots = `${options.prefix}${options.service}.roots`
    this.journal = `${options.prefix}${options.service}.journal`
    this.keys = `${options.prefix}${options.service}.keys`
    this.group = `${options.prefix}${options.service}`
  }

  ofStream(stream: string): string {
    return `${this.#options.prefix}${stream}`
  }

  /** The stream that a topic holds; undefined for our own topics, Kafka's, and those of other prefixes. */
  streamOf(topic: string): string | undefined {
    if (this.isReserved(topic)) return undefined
    const { consumePrefixes } = this.#options
    const matching = consumePrefixes.filter((one) => topic.startsWith(one))
    const longest = matching.sort((a, b) => b.length - a.length)[0]
    return longest === undefined ? undefined : topic.slice(longest.length)
  }

  /** Kafka's own, or ours: it holds no events. */
  isReserved(topic: string): boolean {
    const { prefix, service, consumePrefixes } = this.#options
    return topic.startsWith('__') || [prefix, ...consumePrefixes].some((one) => topic.startsWith(`${one}${service}.`))
  }

  /**
   * Who reads a partition of a stream: the owner of this partition of the work. Streams with as many partitions as the work
   * keep their numbers, so that what has one key stays in one process.
   */
  ownerOf(topic: string, partition: number, count: number): number {
    const { partitions } = this.#options
    return count === partitions ? partition : (partition + partitionOf(topic, partitions)) % partitions
  }

  /** Makes what is missing. */
  async create(kafka: Kafka): Promise<readonly string[]> {
    return withAdmin(kafka, async (admin) => {
      const known = new Set(await admin.listTopics())
      const missing = this.#specs().filter(({ topic }) => !known.has(topic))
      for (const spec of missing) await this.#create(admin, spec)
      await this.#visible(admin, missing)
      return missing.map(({ topic }) => topic)
    })
  }

  async createStream(kafka: Kafka, topic: string): Promise<void> {
    await withAdmin(kafka, (admin) =>
      this.#create(admin, { topic, configs: { 'max.message.bytes': this.#largest(keyOverhead), ...this.#safety() } }),
    )
  }

  /** What a topic takes in one partition's part of a batch, in bytes, as last looked up. */
  largestBatch(topic: string): number {
    return this.#largestBatches.get(topic) ?? defaultLargestBatch
  }

  /** Looks it up, once for all who ask meanwhile. Whoever may not is told Kafka's default. */
  lookUpLargestBatch(kafka: Kafka, topic: string): Promise<number> {
    const under = this.#lookUps.get(topic)
    if (under !== undefined) return under
    const lookUp = this.#lookUp(kafka, topic).finally(() => this.#lookUps.delete(topic))
    this.#lookUps.set(topic, lookUp)
    return lookUp
  }

  async #lookUp(kafka: Kafka, topic: string): Promise<number> {
    const largest = await withAdmin(kafka, (admin) => settingsOf(admin, topic, ['max.message.bytes'])).then(
      ([found]) => Number(found?.configValue ?? defaultLargestBatch),
      (error: unknown) => {
        if (typeOf(error) !== 'TOPIC_AUTHORIZATION_FAILED') throw error
        return defaultLargestBatch
      },
    )
    this.#largestBatches.set(topic, largest)
    return largest
  }

  /**
   * What is wrong with our topics, in sentences that say how to mend it; `missing` are those that are not there, or of which
   * the broker that was asked has not heard yet.
   */
  async check(kafka: Kafka): Promise<{ readonly missing: readonly string[]; readonly wrong: readonly string[] }> {
    return withAdmin(kafka, async (admin) => {
      const known = new Set(await admin.listTopics())
      const missing: string[] = []
      const problems: string[] = []
      for (const { topic, configs } of this.#specs()) {
        if (!known.has(topic)) {
          missing.push(`the topic ${topic} is missing: run \`changeprop topics --create\``)
          continue
        }
        const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
        const count = topics[0]?.partitions.length ?? 0
        if (count !== this.#options.partitions) {
          problems.push(
            `the topic ${topic} has ${count} partitions and store.kafka.partitions is ${this.#options.partitions}: set it to ${count}; partitions of a topic with keys must not be added later`,
          )
        }
        for (const { configName, configValue } of await settingsOf(admin, topic, Object.keys(configs))) {
          const wanted = configs[configName]
          if (wanted === undefined || !differs(configName, configValue, wanted)) continue
          problems.push(
            `the topic ${topic} has ${configName}=${configValue}, expected ${wanted}: change it with kafka-configs.sh --alter --topic ${topic} --add-config ${configName}=${wanted}`,
          )
        }
      }
      return { missing, wrong: problems }
    })
  }

  /** Brokers learn of a new topic one after another. */
  async #visible(admin: Admin, specs: readonly Spec[]): Promise<void> {
    for (let tries = 0; tries < visibleTries; tries += 1) {
      const known = new Set(await admin.listTopics())
      if (specs.every(({ topic }) => known.has(topic))) return
      await new Promise((resolve) => setTimeout(resolve, visiblePauseMs))
    }
  }

  #specs(): Spec[] {
    const changelog = {
      'cleanup.policy': 'compact',
      // What is not compacted yet is read by whoever takes a partition over.
      'segment.ms': String(hourMs),
      'segment.bytes': String(67_108_864),
      'min.cleanable.dirty.ratio': '0.2',
      'min.compaction.lag.ms': String(hourMs),
      // Tombstones, too. What those alone say of keys holds for an hour.
      'delete.retention.ms': String(2 * hourMs),
      ...this.#safety(),
    }
    const weekly = {
      'cleanup.policy': 'delete',
      'retention.ms': String(7 * 24 * hourMs),
      'max.message.bytes': this.#largest(rowOverhead),
      ...this.#safety(),
    }
    return [
      { topic: this.work, configs: { ...changelog, 'max.message.bytes': this.#largest(rowOverhead) } },
      { topic: this.roots, configs: changelog },
      { topic: this.handed, configs: weekly },
      { topic: this.journal, configs: weekly },
      {
        topic: this.keys,
        configs: {
          'cleanup.policy': 'delete',
          'retention.ms': String(2 * hourMs),
          'segment.ms': String(hourMs / 4),
          ...this.#safety(),
        },
      },
    ]
  }

  /** By Kafka's own default one broker is enough to acknowledge, and to lose it. */
  #safety(): Readonly<Record<string, string>> {
    return { 'min.insync.replicas': this.#options.replication > 2 ? '2' : '1' }
  }

  #largest(overhead: number): string {
    return String(Math.max(1_048_576, this.#options.largestEvent + overhead))
  }

  async #create(admin: Admin, { topic, configs }: Spec): Promise<void> {
    const { partitions, replication } = this.#options
    try {
      await admin.createTopics({
        waitForLeaders: false,
        topics: [
          {
            topic,
            numPartitions: partitions,
            replicationFactor: replication,
            configEntries: Object.entries(configs).map(([name, value]) => ({ name, value })),
          },
        ],
      })
    } catch (error) {
      // Another process was quicker.
      if (typeOf(error) === 'TOPIC_ALREADY_EXISTS') return
      const why =
        typeOf(error) === 'INVALID_REPLICATION_FACTOR'
          ? `Kafka has fewer brokers than store.kafka.replication says, which is ${replication}: lower it, or add brokers`
          : explain(error, topic)
      throw new Error(`the topic ${topic} cannot be made: ${why}`, { cause: error })
    }
  }
}

function differs(name: string, found: string, wanted: string): boolean {
  // What is larger than needed does no harm, nor does a journal that is kept for longer, or for as long as a take-over asks it.
  if (name === 'max.message.bytes' || name === 'min.insync.replicas') return Number(found) < Number(wanted)
  if (name === 'retention.ms') return Number(found) >= 0 && Number(found) < hourMs
  return name === 'cleanup.policy' && found !== wanted
}

async function settingsOf(admin: Admin, topic: string, configNames: string[]): Promise<readonly ConfigEntries[]> {
  const { resources } = await admin.describeConfigs({
    includeSynonyms: false,
    resources: [{ type: topicResource, name: topic, configNames }],
  })
  return resources[0]?.configEntries ?? []
}

export async function withAdmin<Result>(kafka: Kafka, ask: (admin: Admin) => Promise<Result>): Promise<Result> {
  const admin = kafka.admin({ retry: { retries: 3, initialRetryTime: 100, maxRetryTime: 1_000 } })
  try {
    await admin.connect()
    return await ask(admin)
  } finally {
    await admin.disconnect()
  }
}
