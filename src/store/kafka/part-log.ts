import { setTimeout as pause } from 'node:timers/promises'
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { StoreListener } from '../store.ts'
import { loadDriver } from '../tables/database.ts'
import type { ChangelogOptions } from './changelog.ts'
import type { FetchedMessage } from './client.ts'
import type { KeysTopic } from './keys-topic.ts'
import { pack } from './packed.ts'
import type { Part } from './part.ts'
import { openPart } from './part-reader.ts'
import type { Reader } from './reader.ts'
import { formatKey, isClaim, isLoss, isMark, isOfUnknown, ownerHeader, ownerOf, restorable } from './row.ts'
import type { ShardThread, Written } from './shard-protocol.ts'
import type { Topics } from './topics.ts'
import type { Writer } from './writer.ts'

export interface PartLogParts {
  readonly topics: Topics
  /** For what can be made again from the topic. */
  readonly folder: string
  readonly clock: Clock
  readonly thread: ShardThread
  readonly writer: Writer
  readonly reader: Reader
  readonly keys: KeysTopic
  readonly listener: StoreListener
  /** A partition is ours, and has all that counts. */
  restored(): void
  trouble(partition: number, why: string | undefined): void
  broken(error: unknown): undefined
  write(part: Part, change: Written, options?: ChangelogOptions): void
  /** A record of ours, where somebody waits for one. */
  readBack(part: Part, message: FetchedMessage): void
  /** Another process has claimed it. */
  usurped(part: Part): void
}

const restoreAgainMs = 1_000
/** Answers of brokers that the thread has not made rows of, of one partition. */
const askedAtMost = 4

const nothing = pack([])

/**
 * What is read of our partitions of the work topic: up to our claim what counts of them, which the thread makes rows of, and
 * from then on what we have written ourselves, and who claims them.
 */
export class PartLog {
  readonly #parts: PartLogParts

  constructor(parts: PartLogParts) {
    this.#parts = parts
  }

  /** The partition is ours from that on. */
  claim(part: Part): void {
    const { topics, folder, thread, writer, reader, trouble, broken } = this.#parts
    const { work, roots } = topics
    const { partition } = part
    trouble(partition, `partition ${partition} of the work is being taken over`)
    thread.ask('open', { partition, folder }).catch((error: unknown) => broken(error))
    // Whatever another owner writes after this does not count.
    const owner = Buffer.from(part.owner)
    const claim = { partition, key: formatKey({ kind: 'owner' }), value: owner, headers: { [ownerHeader]: owner } }
    const claims = [work, roots].map((topic) => ({ ...claim, topic }))
    writer.write(claims, () => {
      if (part.isLost) return
      reader.read(work, partition, 0, (messages) => {
        if (!part.isLost) this.#heard(part, messages)
      })
    })
  }

  #heard(part: Part, messages: readonly FetchedMessage[]): void {
    if (part.held !== undefined) {
      part.held.push(...messages)
      return
    }
    if (part.isReady) {
      this.#hear(part, messages)
      return
    }
    const own = messages.findIndex((message) => ownerOf(message) === part.owner && isClaim(message))
    this.#restore(part, own < 0 ? messages : messages.slice(0, own))
    if (own < 0) return
    part.held = messages.slice(own + 1)
    this.#parts.reader.pause(this.#parts.topics.work, part.partition)
    this.#takeOver(part).catch((error: unknown) => this.#parts.broken(error))
  }

  /** All that counts was read: what ran when its last owner died goes on. */
  async #takeOver(part: Part): Promise<void> {
    const { thread, listener, reader, topics } = this.#parts
    const { partition } = part
    await this.#restoreKeys(part)
    if (part.isLost) return
    // Once it is taken up its tables are opened at once: they go when it is lost.
    await loadDriver()
    if (part.isLost) return
    const hasMoved = part.lastTeller !== undefined && part.losers.has(part.lastTeller)
    const restored = await thread.ask('restored', { partition, now: this.#parts.clock.now(), hasMoved })
    if (!part.isLost) this.#parts.write(part, restored)
    // Also of what is lost: with it goes what was counted.
    for (const lane of restored.backlog) listener.rows(lane)
    if (part.isLost) return
    const tables = await openPart(this.#parts.folder, partition)
    if (part.isLost) {
      tables.close()
      return
    }
    part.tables = tables
    part.isReady = true
    const held = part.held ?? []
    part.held = undefined
    this.#reassert(part)
    this.#parts.trouble(partition, undefined)
    this.#hear(part, held)
    reader.resume(topics.work, partition)
    this.#parts.restored()
  }

  /** However long the brokers take. */
  async #restoreKeys(part: Part): Promise<void> {
    const { keys, clock, trouble } = this.#parts
    const { partition } = part
    while (!part.isLost) {
      try {
        await keys.restore(partition, clock.now())
        return
      } catch (error) {
        if (part.isLost) return
        trouble(partition, `what is remembered of keys in partition ${partition} cannot be read: ${messageOf(error)}`)
        await pause(restoreAgainMs)
      }
    }
  }

  /** While the thread has much to do, no more is read. */
  #asking(part: Part, asked: Promise<undefined>): Promise<undefined> {
    const { reader, topics } = this.#parts
    part.asked += 1
    if (part.asked === askedAtMost) reader.pause(topics.work, part.partition)
    return asked.finally(() => {
      part.asked -= 1
      if (part.asked === askedAtMost - 1 && part.held === undefined && !part.isLost)
        reader.resume(topics.work, part.partition)
    })
  }

  #restore(part: Part, messages: readonly FetchedMessage[]): void {
    const records: { key: Buffer; value: Buffer | null }[] = []
    for (const message of messages) {
      const { key } = message
      const owner = ownerOf(message)
      if (key === null) continue
      if (isLoss(message)) part.losers.add(String(message.value))
      else if (isClaim(message)) part.lastOwner = owner
      // Anybody who may can write to a topic.
      else if (owner === undefined) continue
      // Who wrote after another had taken over did not own it any more.
      else if (part.lastOwner !== undefined && owner !== part.lastOwner) part.usurped.push(Buffer.from(key))
      else if (!isOfUnknown(message)) {
        part.lastTeller = owner
        records.push({ key, value: restorable(message) })
      }
    }
    if (records.length === 0) return
    this.#asking(part, this.#parts.thread.ask('restore', { partition: part.partition, records: pack(records) })).catch(
      (error: unknown) => this.#parts.broken(error),
    )
  }

  #hear(part: Part, messages: readonly FetchedMessage[]): void {
    for (const message of messages) {
      const { key, value } = message
      const owner = ownerOf(message)
      if (key === null) continue
      if (isLoss(message)) {
        if (String(value) === part.lastTeller) this.#absolve(part)
      } else if (owner === part.owner) {
        if (isMark(message)) readMark(part, message)
        // That it knew of no such row does not say that one is there which was made since.
        else if (!isOfUnknown(message) && (part.claims.size > 0 || part.unconfirmed.size > 0))
          this.#parts.readBack(part, message)
      } else if (isClaim(message)) {
        this.#parts.usurped(part)
        return
      } else if (owner !== undefined) part.usurped.push(Buffer.from(key))
    }
    this.#reassert(part)
  }

  /** Compaction may leave only the last record of a key: it has to be ours. */
  #reassert(part: Part): void {
    if (part.usurped.length === 0 || !part.isReady) return
    const keys = pack(part.usurped.splice(0).map((key) => ({ key, value: null })))
    this.#parts.thread
      .ask('reassert', { partition: part.partition, keys })
      .then((records) => {
        const change = { records, roots: nothing, told: [], dead: undefined }
        if (!part.isLost) this.#parts.write(part, change, { withoutRow: 'unknown' })
      })
      .catch((error: unknown) => this.#parts.broken(error))
  }

  /** Who told of its rows last has not died: nothing that ran there is suspected of that. */
  #absolve(part: Part): void {
    this.#parts.thread
      .ask('absolve', { partition: part.partition })
      .then((change) => {
        if (!part.isLost) this.#parts.write(part, { ...change, dead: undefined })
      })
      .catch((error: unknown) => this.#parts.broken(error))
  }
}

/** All is read that was written before it. */
export function readMark(part: Part, { value }: FetchedMessage): void {
  const mark = String(value)
  const then = part.marks.get(mark)
  part.marks.delete(mark)
  then?.()
}
