import { AssignerProtocol, type Consumer, type Kafka, type PartitionAssigner } from 'kafkajs'
import { messageOf } from '../../base/errors.ts'
import { atMost } from './client.ts'

export interface Position {
  readonly topic: string
  readonly partition: number
  /** Next to read. */
  readonly offset: number
  readonly metadata: string
}

export interface MembershipParts {
  readonly kafka: Kafka
  readonly group: string
  /** Whose partitions are shared among the members. */
  readonly topic: string
  /** These are ours from now on, and no others. */
  assigned(partitions: readonly number[]): void
  trouble(why: string | undefined): void
}

const sessionMs = 10_000
const heartbeatMs = 2_000
const rebalanceMs = 20_000
/** Without a heartbeat for longer than a rebalance may take, and then a session, it is not a member any more. */
const silentAtMostMs = rebalanceMs + sessionMs
const pauseMs = 1_000
const farewellMs = 5_000

/**
 * Which partitions of the work are this process's. kafkajs's consumer does no more here than to be a member and to commit:
 * all it could fetch is paused, and read by `Reader`, which a rebalance does not set back.
 */
export class Membership {
  readonly #parts: MembershipParts
  #consumer: Consumer | undefined
  #owned: readonly number[] = []
  #isMember = false
  /** That were answered. */
  #commits = 0
  #lastCommit: Promise<void> = Promise.resolve()
  #isLeaving = false
  #retry: NodeJS.Timeout | undefined
  /** kafkajs may stop without a word (issues 659, 660 and 1532 there). */
  #watch: NodeJS.Timeout | undefined

  constructor(parts: MembershipParts) {
    this.#parts = parts
  }

  join(): void {
    const { kafka, group } = this.#parts
    const consumer: Consumer = kafka.consumer({
      groupId: group,
      partitionAssigners: [
        sticky(() => {
          if (this.#consumer !== consumer) throw replaced()
          return this.#owned
        }),
      ],
      sessionTimeout: sessionMs,
      heartbeatInterval: heartbeatMs,
      rebalanceTimeout: rebalanceMs,
      maxWaitTimeInMs: 250,
      allowAutoTopicCreation: false,
      // So many that a broker may start anew meanwhile: whoever is replaced has to wait for the session of the one before. And one
      // that failed is replaced by us: kafkajs would begin it anew beside that, and go on where we have left.
      retry: { retries: 20, initialRetryTime: 100, maxRetryTime: 2_000, restartOnFailure: async () => false },
    })
    this.#consumer = consumer
    this.#join(consumer).catch((error: unknown) => this.#again(consumer, error))
  }

  /**
   * Rejects where the group has moved on, or we are not a member; a later commit will do. One after another, and each asks for
   * its positions when it is its turn: what was lost while it waited is another's to commit.
   */
  commit(positions: () => readonly Position[]): Promise<void> {
    const commit = () => this.#commit(positions())
    this.#lastCommit = this.#lastCommit.then(commit, commit)
    return this.#lastCommit
  }

  async #commit(positions: readonly Position[]): Promise<void> {
    if (positions.length === 0) return
    const before = this.#commits
    if (this.#isMember)
      await this.#consumer?.commitOffsets(positions.map((one) => ({ ...one, offset: String(one.offset) })))
    // kafkajs resolves also where it is about to end, and commits nothing.
    if (this.#commits === before)
      throw Object.assign(new Error("not a member of Kafka's consumer group"), { type: 'UNKNOWN_MEMBER_ID' })
  }

  async leave(): Promise<void> {
    this.#isLeaving = true
    clearTimeout(this.#retry)
    clearTimeout(this.#watch)
    const consumer = this.#consumer
    // One that is about to join does not.
    this.#consumer = undefined
    await consumer?.disconnect()
  }

  /**
   * Where the consumer is replaced meanwhile, or we leave, it must not become a member: its partitions would be nobody's. kafkajs
   * does not stop one that is about to join when it is told to disconnect, so it fails there.
   */
  async #join(consumer: Consumer): Promise<void> {
    const { topic, assigned, trouble } = this.#parts
    const watch = setTimeout(
      () => this.#again(consumer, new Error(`no heartbeat for ${silentAtMostMs / 1_000} s`)),
      silentAtMostMs,
    )
    this.#watch = watch
    consumer.on(consumer.events.HEARTBEAT, () => watch.refresh())
    // Listeners run before the consumer fetches for the first time after joining.
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      if (this.#consumer !== consumer) throw replaced()
      const partitions = payload.memberAssignment[topic] ?? []
      watch.refresh()
      consumer.pause([{ topic, partitions }])
      this.#owned = partitions
      this.#isMember = true
      trouble(undefined)
      try {
        assigned(partitions)
      } catch (error) {
        // kafkajs would go on as if they had been taken over.
        this.#again(consumer, error)
      }
    })
    consumer.on(consumer.events.COMMIT_OFFSETS, () => {
      this.#commits += 1
    })
    consumer.on(consumer.events.CRASH, ({ payload: { error } }) => this.#again(consumer, error))
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({ autoCommit: false, eachBatch: async () => undefined })
  }

  /** Once for each consumer, whatever becomes of it later. */
  #again(consumer: Consumer, error: unknown): void {
    if (this.#isLeaving || this.#consumer !== consumer) return
    this.#parts.trouble(`not a member of Kafka's consumer group: ${messageOf(error)}`)
    this.#consumer = undefined
    this.#isMember = false
    clearTimeout(this.#retry)
    clearTimeout(this.#watch)
    this.#retry = setTimeout(() => {
      // What it still has to say does not matter: another one takes its place.
      void atMost(farewellMs, Promise.allSettled([consumer.disconnect()])).then(() => {
        if (!this.#isLeaving) this.join()
      })
    }, pauseMs)
  }
}

/** kafkajs tries again what fails by any other kind of error. */
function replaced(): TypeError {
  return new TypeError('another consumer has taken the place of this one, or the service is stopping')
}

/** Each member keeps what it has, as far as that is fair; only the rest moves. */
function sticky(owned: () => readonly number[]): PartitionAssigner {
  return ({ cluster }) => ({
    name: 'changeprop',
    version: 1,
    protocol: ({ topics }) => ({
      name: 'changeprop',
      metadata: AssignerProtocol.MemberMetadata.encode({
        version: 1,
        topics,
        userData: Buffer.from(JSON.stringify(owned())),
      }),
    }),
    async assign({ members, topics: [topic = ''] }) {
      const partitions = cluster.findTopicPartitionMetadata(topic).map(({ partitionId }) => partitionId)
      const had = new Map(members.map(({ memberId, memberMetadata }) => [memberId, readOwned(memberMetadata)]))
      return [...share(partitions, had)].map(([memberId, share]) => ({
        memberId,
        memberAssignment: AssignerProtocol.MemberAssignment.encode({
          version: 1,
          assignment: { [topic]: [...share] },
          userData: Buffer.alloc(0),
        }),
      }))
    },
  })
}

/** Pure. `had`: by member, what it has. Every member gets its fair share, one more or less. */
export function share(
  partitions: readonly number[],
  had: ReadonlyMap<string, readonly number[]>,
): ReadonlyMap<string, readonly number[]> {
  // Those with most come first: they are the ones that may keep one more.
  const members = [...had.keys()].sort(
    (a, b) => (had.get(b)?.length ?? 0) - (had.get(a)?.length ?? 0) || (a < b ? -1 : 1),
  )
  const fair = Math.floor(partitions.length / members.length)
  const withOneMore = partitions.length % members.length
  const free = new Set(partitions)
  const shares = new Map<string, number[]>()
  for (const [index, member] of members.entries()) {
    const most = fair + (index < withOneMore ? 1 : 0)
    const kept = (had.get(member) ?? []).filter((partition) => free.has(partition)).slice(0, most)
    for (const partition of kept) free.delete(partition)
    shares.set(member, kept)
  }
  for (const [index, member] of members.entries()) {
    const most = fair + (index < withOneMore ? 1 : 0)
    const own = shares.get(member) ?? []
    for (const partition of free) {
      if (own.length >= most) break
      own.push(partition)
      free.delete(partition)
    }
  }
  return shares
}

function readOwned(metadata: Buffer): readonly number[] {
  const text = AssignerProtocol.MemberMetadata.decode(metadata)?.userData?.toString() ?? ''
  const owned: unknown = text === '' ? [] : JSON.parse(text)
  return Array.isArray(owned) ? owned.filter((one) => typeof one === 'number') : []
}
