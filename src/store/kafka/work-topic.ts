import { setTimeout as pause } from 'node:timers/promises'
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { StreamRecord } from '../../event/event.ts'
import type { Consequences, Durable, Key, Settlement, StoreListener } from '../store.ts'
import { loadDriver } from '../tables/database.ts'
import { type ChangelogOptions, changelogOf, endedOf } from './changelog.ts'
import type { FetchedMessage } from './client.ts'
import { Homes } from './homes.ts'
import { formatJournal } from './journal.ts'
import { KafkaRecord, type Owned } from './kafka-record.ts'
import { formatStart, type KeysTopic } from './keys-topic.ts'
import { pack } from './packed.ts'
import {
  handedOver,
  keyEndOf,
  keyOf,
  newPart,
  newTicket,
  type Part,
  ruleKeyOf,
  shardSettle,
  type Ticket,
  toldOf,
} from './part.ts'
import { openPart } from './part-reader.ts'
import type { Reader } from './reader.ts'
import {
  formatKey,
  isClaim,
  isLoss,
  isMark,
  isOfUnknown,
  lossKey,
  ownerHeader,
  ownerOf,
  parseKey,
  restorable,
} from './row.ts'
import { type PartBatch, type Settled, SettleQueue } from './settle-queue.ts'
import type { Arrived, Change, ShardSettle, ShardThread } from './shard-protocol.ts'
import type { Topics } from './topics.ts'
import type { Writer } from './writer.ts'

export interface WorkTopicParts {
  readonly topics: Topics
  readonly partitions: number
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
  /** A partition is another process's now. */
  lost(owned: Owned): void
  /** All that an event from its stream caused is settled, or has rows. */
  finished(record: KafkaRecord): void
  deadChanged(): void
  trouble(partition: number, why: string | undefined): void
  later(ms: number, work: () => void): void
  broken(error: unknown): undefined
}

const restoreAgainMs = 1_000
/** Within that time a member hears of a rebalance. */
const claimAgainAfterMs = 5_000
/** Answers of brokers that the thread has not taken up, of one partition. */
const askedAtMost = 4
const untoldForMs = 1_000
/** Which write of its owner a claim is of. */
const writeHeader = 'write'

const nothing = pack([])
const elsewhere: Consequences = { amended: { state: 'elsewhere' }, moved: [], due: [] }

/**
 * The partitions of the work topic that are ours: their rows, and what is settled of them. Who owns one, and what of it
 * counts, is decided by the order of the log.
 */
export class WorkTopic {
  /** How many dead letters there are in our partitions, and their bytes, by rule. */
  dead: ReadonlyMap<string, { readonly count: number; readonly bytes: number }> = new Map()
  readonly #parts: WorkTopicParts
  readonly #owned = new Map<number, Part>()
  /** As the group says. */
  #assigned: ReadonlySet<number> = new Set()
  readonly #homes: Homes
  readonly #queue: SettleQueue

  constructor(parts: WorkTopicParts) {
    this.#parts = parts
    const { topics, partitions, clock, thread, writer, broken } = parts
    const shared = { topics, partitions, clock, thread, writer, owned: this.#owned, broken }
    this.#homes = new Homes(shared)
    this.#queue = new SettleQueue({ ...shared, settled: (batch, change) => this.#settled(batch, change) })
  }

  /** Those that are ours now, be they restored or not. */
  parts(): ReadonlyMap<number, Owned> {
    return new Map(this.#owned)
  }

  /** If it is ours, and has all that counts. */
  ready(partition: number): Owned | undefined {
    const part = this.#owned.get(partition)
    return part?.isReady === true ? part : undefined
  }

  /** As the store's. */
  routed(record: StreamRecord, inMemory: number): void {
    if (!(record instanceof KafkaRecord)) throw new Error('what was routed is not a record that this store gave out')
    record.isRouted = true
    record.holds += inMemory - 1
    this.#finishIfDone(record)
  }

  /** As the store's. */
  settle(settlement: Settlement, durable?: Durable): void {
    const { record, releasesCursor } = settlement
    if (!(record instanceof KafkaRecord)) throw new Error('what was settled is not a record that this store gave out')
    const ticket = newTicket(settlement, durable)
    if (!releasesCursor) record.holds += 1
    const given = record.rows?.get(settlement.lane.rule)
    if ((given ?? record.owned).isLost) {
      setImmediate(() => this.#keep(ticket, elsewhere))
      return
    }
    const part = this.#partOf(settlement, record)
    const wasLoose = record.source === undefined && part?.loose.delete(`${record.id}/${settlement.lane.rule}`) === true
    if (part !== undefined && this.#needsNoRow(settlement, record)) {
      this.#queue.push(part, {
        ticket,
        told: toldOf(settlement, record),
        end: keyEndOf(settlement, record),
        isKeyed: true,
      })
      return
    }
    if (part !== undefined && this.#isAstray(part, settlement, record)) this.#move(part, settlement, record, ticket)
    else if (part !== undefined && !part.isLost) this.#settleRow(part, settlement, record, ticket, wasLoose)
    else if (part !== undefined) setImmediate(() => this.#keep(ticket, elsewhere))
    else if (record.source !== undefined && settlement.state === 'done' && settlement.standing === undefined)
      this.#tell(settlement, record, ticket)
    else this.#handOver(settlement, record, ticket)
  }

  /**
   * Whose row it is, or is to be; undefined where it needs none, or goes by the log: another process has it, or others of its
   * key may be on their way there, which it must not overtake.
   */
  #partOf({ lane, state, standing }: Settlement, record: KafkaRecord): Part | undefined {
    if (record.source === undefined) {
      // Letters are given out also by who does not own them yet.
      const part = this.#owned.get(record.owned.partition)
      return part === record.owned || part?.isReady === true ? part : undefined
    }
    const given = record.rows?.get(lane.rule)
    if (given?.isLost === false) return this.#owned.get(given.partition)
    if (standing !== undefined) return this.#homes.of(lane.rule, standing, record)
    return state === 'done' ? undefined : this.#owned.get(record.owned.partition)
  }

  /** It ran from memory and is done: what is remembered of its key, and the journal, are all there is to tell. */
  #needsNoRow({ lane, state, standing }: Settlement, record: KafkaRecord): boolean {
    const isKeyed = standing?.key !== undefined && standing.root === undefined
    return isKeyed && state === 'done' && record.source !== undefined && record.rows?.has(lane.rule) !== true
  }

  /** As the store's. */
  isKeyFree(record: StreamRecord, rule: string, key: Key): boolean {
    return this.#homes.isKeyFree(record, rule, key)
  }

  /** A reload gave it another key, whose others lie in another partition. */
  #isAstray(part: Part, { state, standing }: Settlement, record: KafkaRecord): boolean {
    if (part.isLost || record.source !== undefined || state !== 'waiting') return false
    return this.#homes.placeOf(standing, record) !== part.partition
  }

  /** It is handed over to where it belongs, and then removed from where it was. */
  #move(part: Part, settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const partition = this.#homes.placeOf(settlement.standing, record)
    this.#send(partition, settlement, record, () => {
      const { standing: _, ...settle } = shardSettle(settlement, record, false)
      const gone: ShardSettle = { ...settle, state: 'done', reason: 'no_match', attempts: [] }
      const remove = async () => {
        if (part.isLost) return elsewhere
        const change = await this.#parts.thread.ask('remove', { partition: part.partition, settle: gone })
        if (!part.isLost) this.#write(part, change, { withoutRow: 'gone' })
        const { moved, due } = change.consequences[0] ?? elsewhere
        return { ...elsewhere, moved, due }
      }
      remove().then(
        (consequences) => this.#keep(ticket, consequences),
        (error: unknown) => this.#parts.broken(error),
      )
    })
  }

  /** It has ended, and has no row. */
  #tell(settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const part = this.#owned.get(record.owned.partition)
    if (part !== undefined)
      this.#queue.push(part, { ticket, told: toldOf(settlement, record), end: undefined, isKeyed: false })
  }

  #settleRow(part: Part, settlement: Settlement, record: KafkaRecord, ticket: Ticket, wasLoose: boolean): void {
    const { lane } = settlement
    const isNew = record.source !== undefined && record.rows?.has(lane.rule) !== true
    if (isNew) {
      record.rows ??= new Map()
      record.rows.set(lane.rule, part)
      ticket.isFirst = true
      part.unconfirmed.set(keyOf(settlement), settlement)
    } else if (part.unconfirmed.size > 0) {
      const before = part.unconfirmed.get(keyOf(settlement))
      // What is handed over, should its row not count, is how far it has come.
      if (before !== undefined) part.unconfirmed.set(keyOf(settlement), { ...settlement, record: before.record })
    }
    const settle = shardSettle(settlement, record, isNew)
    const hasEnded = wasLoose && settlement.state === 'done'
    const end = hasEnded ? keyEndOf(settlement, record) : undefined
    this.#queue.push(part, { settle: end === undefined ? settle : { ...settle, end }, ticket, mayWait: hasEnded })
  }

  /** What the thread has made of a batch: what is to be written, and what is to be said when it is. */
  #settled({ part, rows, ends }: PartBatch, change: Change): Settled {
    const byIndex = new Map(change.consequences.map((one) => [one.index, one]))
    const awaitsReadBack = (ticket: Ticket, index: number) =>
      ticket.settlement.claimed && byIndex.get(index)?.amended?.state !== 'elsewhere'
    const hasClaims = rows.some(({ ticket }, index) => awaitsReadBack(ticket, index))
    if (hasClaims) part.writes += 1
    for (const [index, { ticket }] of rows.entries()) {
      if (awaitsReadBack(ticket, index)) this.#awaitReadBack(part, ticket)
      // It has a row already, and nothing is written.
      if (ticket.isFirst && byIndex.get(index)?.amended?.state === 'elsewhere')
        this.#confirm(part, keyOf(ticket.settlement))
    }
    const { topics, keys } = this.#parts
    const headers = hasClaims ? { [writeHeader]: Buffer.from(String(part.writes)) } : {}
    const keyEnds = ends.flatMap(({ end = [] }) => end)
    const loose = change.loose.flatMap(({ index, place }) => {
      const { ticket, settle } = rows[index] ?? {}
      const record = ticket?.settlement.record
      if (ticket === undefined || settle === undefined || !(record instanceof KafkaRecord)) return []
      const start = settle.end === undefined || place === undefined ? '' : formatStart(settle.end, place)
      return {
        record: endedOf(topics.work, part, keyOf(ticket.settlement), start),
        told: toldOf(ticket.settlement, record),
      }
    })
    this.#countDead(part, change.dead)
    return {
      records: [
        ...changelogOf(topics, part, change, { headers }),
        ...loose.map(({ record }) => record),
        ...keys.format(part.partition, keyEnds, change.places),
      ],
      told: [...change.told, ...[...loose, ...ends].map((one) => one.told)],
      done: () => {
        const consequencesOf = (index: number) => (part.isLost ? elsewhere : byIndex.get(index))
        for (const [index, { ticket }] of rows.entries())
          if (!awaitsReadBack(ticket, index)) this.#keep(ticket, consequencesOf(index))
        for (const [index, { ticket, end }] of ends.entries()) {
          const { record } = ticket.settlement
          // Who has the partition now may have read what is remembered of its keys before this was there.
          if (part.isLost && end !== undefined && record instanceof KafkaRecord)
            this.#handOver(ticket.settlement, record, ticket)
          else this.#keep(ticket, consequencesOf(rows.length + index))
        }
      },
    }
  }

  /** Of what is read beside the thread: it cannot end before. */
  close(): void {
    for (const part of this.#owned.values()) part.tables?.close()
  }

  /** Resolves when all that was settled is on its way. */
  flushed(): Promise<void> {
    return this.#queue.flushed()
  }

  /** Resolves when the journal tells of all that waits here, too. */
  async waitingTold(): Promise<void> {
    if (await this.#tellRows(Number.POSITIVE_INFINITY)) await this.#parts.writer.written()
  }

  /** What has waited for a second is told of. */
  async tellOld(): Promise<void> {
    await this.#tellRows(this.#parts.clock.now() - untoldForMs)
  }

  /** Says whether there was anything to tell. */
  async #tellRows(since: number): Promise<boolean> {
    let hasTold = false
    for (const part of this.#owned.values()) {
      for (let more = part.isReady && part.hasUntold; more; ) {
        const change = await this.#parts.thread.ask('tell', { partition: part.partition, since })
        if (part.isLost) break
        part.hasUntold = change.hasUntold
        hasTold ||= change.told.length > 0
        this.#write(part, { ...change, dead: undefined })
        more = change.more
        if (more) await this.#parts.writer.written()
        if (part.isLost) break
      }
    }
    return hasTold
  }

  /** Nobody may have taken the partition over before a claim was written: then that one may have made the call. */
  #awaitReadBack(part: Part, ticket: Ticket): void {
    const name = `${part.writes}/${keyOf(ticket.settlement)}`
    if (part.isLost) this.#keep(ticket, elsewhere)
    else part.claims.set(name, [...(part.claims.get(name) ?? []), ticket])
  }

  #write(part: Part, change: Pick<Change, 'records' | 'roots' | 'told' | 'dead'>, options?: ChangelogOptions): void {
    const { topics, partitions, writer } = this.#parts
    this.#countDead(part, change.dead)
    const journal = formatJournal(topics.journal, partitions, change.told)
    const records = [...changelogOf(topics, part, change, options), ...journal]
    if (records.length > 0) writer.write(records, () => undefined)
  }

  /** To the process that owns its key, be it this one; or, where it is a letter, its row. */
  #handOver(settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const home = record.source === undefined ? record.owned.partition : this.#homes.placeOf(settlement.standing, record)
    this.#send(home, settlement, record, () => this.#keep(ticket, elsewhere))
  }

  #send(partition: number, settlement: Settlement, record: KafkaRecord, written: () => void): void {
    const { lane, standing } = settlement
    if (standing !== undefined)
      this.#owned.get(partition)?.onTheWay.add(keyOf(settlement), ruleKeyOf(lane.rule, standing))
    this.#parts.writer.write([handedOver(this.#parts.topics.work, partition, settlement, record)], written)
  }

  /** It is durable. What one partition keeps waiting holds up no other. */
  #keep({ settlement, durable, isFirst }: Ticket, consequences: Consequences | undefined): void {
    if (!isFirst) this.#release(settlement.record)
    durable?.(settlement, consequences)
  }

  #release(record: StreamRecord): void {
    if (!(record instanceof KafkaRecord) || record.source === undefined) return
    record.holds -= 1
    this.#finishIfDone(record)
  }

  #confirm(part: Part, key: string): void {
    const settlement = part.unconfirmed.get(key)
    if (settlement !== undefined && part.unconfirmed.delete(key)) this.#release(settlement.record)
  }

  #finishIfDone(record: KafkaRecord): void {
    const { source, holds, isRouted } = record
    if (source === undefined || holds !== 0 || !isRouted || record.isFinished || record.owned.isLost) return
    record.isFinished = true
    this.#parts.finished(record)
  }

  /** These are ours from now on, and no others. */
  assigned(partitions: readonly number[]): void {
    this.#assigned = new Set(partitions)
    this.#lose([...this.#owned.values()].filter(({ partition }) => !this.#assigned.has(partition)))
    for (const partition of partitions) if (!this.#owned.has(partition)) this.#takeOver(partition)
  }

  #takeOver(partition: number): void {
    const { thread, writer, reader } = this.#parts
    const part = newPart(partition)
    this.#owned.set(partition, part)
    this.#parts.trouble(partition, `partition ${partition} of the work is being taken over`)
    thread.ask('open', { partition, folder: this.#parts.folder }).catch((error: unknown) => this.#parts.broken(error))
    const { work, roots } = this.#parts.topics
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
    if (part.isLost) return
    this.#write(part, restored)
    for (const lane of restored.backlog) listener.rows(lane)
    for (let more = true; more; ) {
      const arrived = await thread.ask('takeUp', { partition, now: this.#parts.clock.now() })
      if (part.isLost) return
      this.#arrived(part, arrived)
      more = arrived.more
      if (more) await this.#parts.writer.written()
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
        part.usurped.push(Buffer.from(key))
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
        if (isOfRow && (part.claims.size > 0 || part.unconfirmed.size > 0))
          this.#readBack(part, message, key.toString())
      } else if (isClaim(message)) {
        this.#lose([part])
        this.#claimAgainLater(part.partition)
        return
      } else if (owner !== undefined) part.usurped.push(Buffer.from(key))
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
        if (part.isLost) return
        for (const { key } of arrivals) part.onTheWay.delete(key.toString())
        this.#arrived(part, arrived)
        for (const source of marks) part.isCaughtUp.set(source, true)
      })
      .catch((error: unknown) => this.#parts.broken(error))
  }

  #arrived(part: Part, arrived: Arrived): void {
    this.#write(part, arrived)
    part.hasUntold ||= arrived.hasUntold
    for (const { name, ruleKey } of arrived.loose) part.loose.add(name, ruleKey)
    for (const change of arrived.rows) this.#parts.listener.rows(change)
  }

  #readBack(part: Part, { headers }: FetchedMessage, key: string): void {
    this.#confirm(part, key)
    const name = `${String(headers[writeHeader])}/${key}`
    const tickets = part.claims.get(name)
    if (tickets === undefined) return
    part.claims.delete(name)
    for (const ticket of tickets) this.#keep(ticket, undefined)
  }

  /** Compaction may leave only the last record of a key: it has to be ours. */
  #reassert(part: Part): void {
    if (part.usurped.length === 0 || !part.isReady) return
    const keys = pack(part.usurped.splice(0).map((key) => ({ key, value: null })))
    this.#parts.thread
      .ask('reassert', { partition: part.partition, keys })
      .then((records) => {
        const change = { records, roots: nothing, told: [], dead: undefined }
        if (!part.isLost) this.#write(part, change, { withoutRow: 'unknown' })
      })
      .catch((error: unknown) => this.#parts.broken(error))
  }

  /** Who told of its rows last has not died: nothing that ran there is suspected of that. */
  #absolve(part: Part): void {
    this.#parts.thread
      .ask('absolve', { partition: part.partition })
      .then((change) => {
        if (!part.isLost) this.#write(part, { ...change, dead: undefined })
      })
      .catch((error: unknown) => this.#parts.broken(error))
  }

  /** All at once: what comes of settlements in one may start others. */
  #lose(parts: readonly Part[]): void {
    if (parts.length === 0) return
    const { topics, thread, reader, writer, listener, broken } = this.#parts
    for (const part of parts) {
      const { partition } = part
      part.isLost = true
      this.#owned.delete(partition)
      this.#parts.trouble(partition, undefined)
      reader.stop(topics.work, partition)
      part.tables?.close()
      this.#parts.lost(part)
    }
    const left: Ticket[] = []
    for (const part of parts) {
      left.push(...this.#leaveSettles(part), ...[...part.claims.values()].flat())
      part.claims.clear()
      this.#handOverUnconfirmed(part)
    }
    // Who queues in memory under their keys is handed over behind that; and nothing is started before it is dropped.
    listener.lost()
    for (const ticket of left) this.#keep(ticket, elsewhere)
    this.#sumDead()
    for (const { partition, owner, isReady } of parts) {
      const loss = { topic: topics.work, partition, key: lossKey, value: Buffer.from(owner) }
      if (isReady) writer.write([loss], () => undefined)
      thread.ask('drop', { partition }).then(
        (lanes) => {
          for (const lane of lanes) listener.rows(lane)
        },
        (error: unknown) => broken(error),
      )
    }
  }

  /**
   * What is not on its way to the thread will not be. Of what ended, of an event that is still ours, whoever has the key now is
   * told; the others come back.
   */
  #leaveSettles(part: Part): readonly Ticket[] {
    return this.#queue.takeAll(part).flatMap((pending) => {
      const { ticket } = pending
      const { settlement } = ticket
      const { record } = settlement
      if (!('told' in pending) || !(record instanceof KafkaRecord) || record.owned.isLost) return [ticket]
      this.#handOver(settlement, record, ticket)
      return []
    })
  }

  /** Rows of events that are still ours, and may not have come to be: whoever has the partition now takes them up. */
  #handOverUnconfirmed(part: Part): void {
    const unconfirmed = [...part.unconfirmed.values()]
    part.unconfirmed.clear()
    for (const settlement of unconfirmed) {
      const { record } = settlement
      if (record instanceof KafkaRecord && !record.owned.isLost)
        this.#handOver(settlement, record, newTicket(settlement))
    }
  }

  /** Where the group goes on to say that a partition is ours, the other's claim was one of before, and written late. */
  #claimAgainLater(partition: number): void {
    this.#parts.trouble(partition, `partition ${partition} of the work was claimed by another process`)
    this.#parts.later(claimAgainAfterMs, () => {
      if (this.#owned.has(partition)) return
      this.#parts.trouble(partition, undefined)
      if (this.#assigned.has(partition)) this.#takeOver(partition)
    })
  }

  #countDead(part: Part, dead: Change['dead']): void {
    if (dead === undefined) return
    part.dead = dead
    this.#sumDead()
  }

  #sumDead(): void {
    const counts = new Map<string, { count: number; bytes: number }>()
    for (const { dead } of this.#owned.values()) {
      for (const { rule, count, bytes } of dead) {
        if (count === 0) continue
        const sum = counts.get(rule) ?? { count: 0, bytes: 0 }
        counts.set(rule, { count: sum.count + count, bytes: sum.bytes + bytes })
      }
    }
    this.dead = counts
    this.#parts.deadChanged()
  }

  /** What is remembered of keys and root events for too long. */
  async forget(): Promise<void> {
    for (const part of this.#owned.values()) {
      for (let more = part.isReady; more && !part.isLost; ) {
        const forgotten = { partition: part.partition, now: this.#parts.clock.now() }
        const change = await this.#parts.thread.ask('forget', forgotten)
        more = change.more
        if (!part.isLost) this.#write(part, { ...change, told: [], dead: undefined })
      }
    }
  }
}
