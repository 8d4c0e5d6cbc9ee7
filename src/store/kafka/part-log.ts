import { setTimeout as pause } from 'node:timers/promises'
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { StoreListener } from '../store.ts'
import { loadDriver } from '../tables/database.ts'
import type { ChangelogOptions } from './changelog.ts'
import type { FetchedMessage } from './client.ts'
import type { Owned } from './kafka-record.ts'
import { type KeysTopic, parseStart } from './keys-topic.ts'
import { pack } from './packed.ts'
import type { Part } from './part.ts'
import { openPart } from './part-reader.ts'
import type { Reader } from './reader.ts'
import {
  formatKey,
  isClaim,
  isLoss,
  isMark,
  isOfUnknown,
  ownerHeader,
  ownerOf,
  parseKey,
  parseRow,
  readEnd,
  restorable,
} from './row.ts'
import type { Arrived, ShardThread, Written } from './shard-protocol.ts'
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
/** Answers of brokers that the thread has not taken up, of one partition. */
const askedAtMost = 4

const nothing = pack([])

/**
 * What is read of our partitions of the work topic: up to our claim what counts of them, which the thread makes rows of, and
 * from then on what others hand over, and who claims them.
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
    this.#takeUp(part).catch((error: unknown) => this.#parts.broken(error))
  }

  /** All that counts was read: what ran when its last owner died goes on, then what was handed over is taken up, in order. */
  async #takeUp(part: Part): Promise<void> {
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
    for (let more = true; more; ) {
      const arrived = await thread.ask('takeUp', { partition, now: this.#parts.clock.now() })
      this.#arrived(part, arrived)
      more = arrived.more
      if (more && !part.isLost) await this.#parts.writer.written()
      if (part.isLost) return
    }
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

  /** The thread is asked to take up something; while that is much, no more is read. */
  #asking<Answer>(part: Part, asked: Promise<Answer>): Promise<Answer> {
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
      // Who wrote after another had taken over did not own it any more.
      else if (owner !== undefined && part.lastOwner !== undefined && owner !== part.lastOwner)
        part.usurped.push(...hiddenBy(message))
      else if (!isOfUnknown(message)) {
        part.lastTeller = owner ?? part.lastTeller
        records.push({ key, value: restorable(message) })
      }
    }
    if (records.length === 0) return
    this.#asking(part, this.#parts.thread.ask('restore', { partition: part.partition, records: pack(records) })).catch(
      (error: unknown) => this.#parts.broken(error),
    )
  }

  #hear(part: Part, messages: readonly FetchedMessage[]): void {
    const arrivals: { key: Buffer; value: Buffer | null }[] = []
    const marks: Owned[] = []
    for (const message of messages) {
      const { key, value } = message
      if (key === null) continue
      const owner = ownerOf(message)
      if (isMark(message)) {
        const source = part.marks.get(String(value))
        if (source !== undefined) marks.push(source)
        part.marks.delete(String(value))
      } else if (isLoss(message)) {
        if (String(value) === part.lastTeller) this.#absolve(part)
      } else if (owner === part.owner) {
        // That it knew of no such row does not say that one is there which was made since.
        const isOfRow = !isOfUnknown(message)
        if (isOfRow && (part.claims.size > 0 || part.unconfirmed.size > 0)) this.#parts.readBack(part, message)
      } else if (isClaim(message)) {
        this.#parts.usurped(part)
        return
      } else if (owner !== undefined) part.usurped.push(...hiddenBy(message))
      else if (parseKey(key) !== undefined) arrivals.push({ key, value })
    }
    if (arrivals.length > 0 || marks.length > 0) this.#arrive(part, arrivals, marks)
    // Of what has just arrived it is known then what holds.
    this.#reassert(part)
  }

  /** `marks`: sources of which nothing more arrives that was handed over before they were ours. */
  #arrive(
    part: Part,
    arrivals: readonly { readonly key: Buffer; readonly value: Buffer | null }[],
    marks: readonly Owned[],
  ): void {
    const asked = { partition: part.partition, records: pack(arrivals), now: this.#parts.clock.now() }
    this.#asking(part, this.#parts.thread.ask('arrive', asked))
      .then((arrived) => {
        for (const { key } of arrivals) part.onTheWay.delete(key.toString())
        this.#arrived(part, arrived)
        for (const source of marks) part.isCaughtUp.set(source, true)
      })
      .catch((error: unknown) => this.#parts.broken(error))
  }

  /** Also of what is lost: with it goes what was counted. */
  #arrived(part: Part, arrived: Arrived): void {
    if (!part.isLost) {
      // What is written may tell that one of them is covered already.
      for (const { name, ruleKey } of arrived.loose) part.loose.add(name, ruleKey)
      this.#parts.write(part, arrived)
      part.hasUntold ||= arrived.hasUntold
    }
    for (const change of arrived.rows) this.#parts.listener.rows(change)
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

/** What we may have said that compaction takes away for its sake: of a delivery, and with its end what is remembered of its key. */
function hiddenBy(message: FetchedMessage): readonly Buffer[] {
  const { key } = message
  if (key === null) return []
  const parsed = parseKey(key)
  const value = restorable(message)
  const names = [Buffer.from(key)]
  if (parsed?.kind !== 'delivery' || value === null) return names
  const end = readEnd(value)
  const text = end === undefined ? parseRow(value)?.row.standing?.key?.text : parseStart(end)?.key
  return text === undefined ? names : [...names, formatKey({ kind: 'start', rule: parsed.rule, key: text })]
}
