import type { StreamRecord } from '../../event/event.ts'
import type { Consequences, Durable, Key, Settlement, Standing } from '../store.ts'
import { type ChangelogOptions, changelogOf } from './changelog.ts'
import type { FetchedMessage } from './client.ts'
import { HandOver } from './hand-over.ts'
import { Homes } from './homes.ts'
import { formatJournal } from './journal.ts'
import { KafkaRecord, type Owned } from './kafka-record.ts'
import { type Claim, keyEndOf, keyOf, newPart, newTicket, type Part, shardSettle, type Ticket, toldOf } from './part.ts'
import { PartLog, type PartLogParts } from './part-log.ts'
import { lossKey } from './row.ts'
import { type PartBatch, type Settled, SettleQueue } from './settle-queue.ts'
import type { Change, ShardSettle, Written } from './shard-protocol.ts'

export interface WorkTopicParts extends Omit<PartLogParts, 'write' | 'readBack' | 'usurped'> {
  readonly partitions: number
  /** A partition is another process's now. */
  lost(owned: Owned): void
  /** All that an event from its stream caused is settled, or has rows. */
  finished(record: KafkaRecord): void
  deadChanged(): void
  later(ms: number, work: () => void): void
}

/** Within that time a member hears of a rebalance. */
const claimAgainAfterMs = 5_000
/** Which write of its owner a claim is of. */
const writeHeader = 'write'

const elsewhere: Consequences = { amended: { state: 'elsewhere' }, moved: [], due: [] }

/**
 * The partitions of the work topic that are ours: what is settled of them, where, and what becomes of that when one is lost. Who
 * owns one, and what of it counts, is decided by the order of the log.
 */
export class WorkTopic {
  /** How many dead letters there are in our partitions, and their bytes, by rule. */
  dead: ReadonlyMap<string, { readonly count: number; readonly bytes: number }> = new Map()
  readonly handOver: HandOver
  readonly #parts: WorkTopicParts
  readonly #owned = new Map<number, Part>()
  /** As the group says. */
  #assigned: ReadonlySet<number> = new Set()
  readonly #homes: Homes
  readonly #log: PartLog
  readonly #queue: SettleQueue

  constructor(parts: WorkTopicParts) {
    this.#parts = parts
    const { topics, partitions, clock, thread, writer, broken } = parts
    const shared = { topics, partitions, clock, thread, writer, owned: this.#owned, broken }
    this.handOver = new HandOver({ ...parts, owned: this.#owned, write: (part, change) => this.#write(part, change) })
    this.#homes = new Homes({ ...shared, heard: this.handOver.heard })
    this.#log = new PartLog({
      ...parts,
      write: (part, change, options) => this.#write(part, change, options),
      readBack: (part, message) => this.#readBack(part, message),
      usurped: (part) => {
        this.#lose([part])
        this.#claimAgainLater(part.partition)
      },
    })
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

  /** Streams of one of our partitions are about to be read. */
  begin(owned: Owned): void {
    this.#homes.ask(owned.partition)
  }

  /** As the store's. */
  routed(record: StreamRecord, inMemory: number): void {
    if (!(record instanceof KafkaRecord)) throw new Error('what was routed is not a record that this store gave out')
    this.handOver.hasCome(record)
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
    const part = this.#partOf(settlement, record)
    if (
      (given ?? record.owned).isLost ||
      (given === undefined && this.handOver.isHandedOver(part, settlement, record))
    ) {
      setImmediate(() => this.#keep(ticket, elsewhere))
      return
    }
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
    else if (part !== undefined && !part.isLost) this.#settleRow(part, settlement, record, ticket)
    else if (part !== undefined) setImmediate(() => this.#keep(ticket, elsewhere))
    else if (record.source !== undefined && settlement.state === 'done' && settlement.standing === undefined)
      this.#tell(settlement, record, ticket)
    else this.#handTo(settlement, record, ticket)
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
    if (state === 'done' || (state === 'waiting' && this.#homes.isElsewhere(record, lane.rule, undefined)))
      return undefined
    return this.#owned.get(record.owned.partition)
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

  /** As the store's. */
  isElsewhere(record: StreamRecord, rule: string, standing: Standing | undefined): boolean {
    return record instanceof KafkaRecord && this.#homes.isElsewhere(record, rule, standing)
  }

  /** As the store's. */
  confine(limits: ReadonlyMap<string, number>): ReadonlySet<string> {
    return this.#homes.confine(limits)
  }

  /** A reload gave it another key, whose others lie in another partition, or confined its rule to one. */
  #isAstray(part: Part, { lane, state, standing }: Settlement, record: KafkaRecord): boolean {
    if (part.isLost || record.source !== undefined || state !== 'waiting') return false
    return this.#homes.placeOf(lane.rule, standing, record) !== part.partition
  }

  /** It is handed over to where it belongs, and then removed from where it was. */
  #move(part: Part, settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const partition = this.#homes.placeOf(settlement.lane.rule, settlement.standing, record)
    this.handOver.send(partition, settlement, record, () => {
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

  #settleRow(part: Part, settlement: Settlement, record: KafkaRecord, ticket: Ticket): void {
    const { lane } = settlement
    const isNew = record.source !== undefined && record.rows?.has(lane.rule) !== true
    const before = part.unconfirmed.size === 0 ? undefined : part.unconfirmed.get(keyOf(settlement))
    if (isNew) {
      record.rows ??= new Map()
      record.rows.set(lane.rule, part)
      ticket.isFirst = true
    }
    if (before !== undefined) {
      // What is handed over, should its row not count, is how far it has come.
      const next = isNew ? { ...before, records: [...before.records, record] } : { ...before, settlement }
      part.unconfirmed.set(keyOf(settlement), next)
    } else if (isNew) part.unconfirmed.set(keyOf(settlement), { settlement, records: [record] })
    if (isNew && before !== undefined) setImmediate(() => this.#keep(ticket, elsewhere))
    else this.#queue.push(part, { settle: shardSettle(settlement, record, isNew), ticket })
  }

  /** What the thread has made of a batch: what is to be written, and what is to be said when it is. */
  #settled({ part, rows, ends }: PartBatch, change: Change): Settled {
    const byIndex = new Map(change.consequences.map((one) => [one.index, one]))
    const awaitsReadBack = (ticket: Ticket, index: number) =>
      ticket.settlement.claimed && byIndex.get(index)?.amended?.state !== 'elsewhere'
    const hasClaims = rows.some(({ ticket }, index) => awaitsReadBack(ticket, index))
    if (hasClaims) part.writes += 1
    for (const [index, { ticket }] of rows.entries()) {
      if (awaitsReadBack(ticket, index)) this.#awaitReadBack(part, { ticket, consequences: byIndex.get(index) })
      // It has a row already, and nothing is written.
      if (ticket.isFirst && byIndex.get(index)?.amended?.state === 'elsewhere')
        this.#confirm(part, keyOf(ticket.settlement))
    }
    const { topics, keys } = this.#parts
    const headers = hasClaims ? { [writeHeader]: Buffer.from(String(part.writes)) } : {}
    const keyEnds = ends.flatMap(({ end = [] }) => end)
    this.#countDead(part, change.dead)
    this.handOver.rememberEnds(change.told)
    // Who has just taken over its source may not have heard of it yet.
    const ofOthers = ends.filter(({ isKeyed, ticket: { settlement } }) => {
      const { record } = settlement
      return isKeyed && record instanceof KafkaRecord && (record.rule !== undefined || record.owned !== part)
    })
    this.handOver.rememberEnds(ofOthers.map(({ told }) => told))
    return {
      records: [
        ...changelogOf(topics, part, change, { headers }),
        ...keys.format(part.partition, keyEnds, change.places),
      ],
      told: [...change.told, ...ends.map((one) => one.told)],
      done: () => {
        for (const [index, { ticket }] of rows.entries()) {
          if (awaitsReadBack(ticket, index)) continue
          const isForNobody = part.isLost && ticket.settlement.state === 'running'
          this.#keep(ticket, isForNobody ? ofAnother(byIndex.get(index)) : byIndex.get(index))
        }
        for (const [index, { ticket, end }] of ends.entries()) {
          const { record } = ticket.settlement
          const consequences = byIndex.get(rows.length + index)
          // Who has the partition now may have read what is remembered of its keys before this was there.
          if (part.isLost && end !== undefined && record instanceof KafkaRecord)
            this.#handTo(ticket.settlement, record, ticket, consequences)
          else this.#keep(ticket, consequences)
        }
      },
    }
  }

  /** Of what is read beside the thread: it cannot end before. */
  close(): void {
    for (const part of this.#owned.values()) part.tables?.close()
  }

  /** Resolves when all that was settled is on its way. */
  async flushed(): Promise<void> {
    await this.#queue.flushed()
    this.handOver.sendAll()
  }

  /** Nobody may have taken the partition over before a claim was written: then that one may have made the call. */
  #awaitReadBack(part: Part, claim: Claim): void {
    const { ticket, consequences } = claim
    const name = `${part.writes}/${keyOf(ticket.settlement)}`
    if (part.isLost) this.#keep(ticket, ofAnother(consequences))
    else part.claims.set(name, [...(part.claims.get(name) ?? []), claim])
  }

  #write(part: Part, change: Written, options?: ChangelogOptions): void {
    const { topics, partitions, writer } = this.#parts
    this.#countDead(part, change.dead)
    this.handOver.rememberEnds(change.told)
    const journal = formatJournal(topics.journal, partitions, change.told)
    const records = [...changelogOf(topics, part, change, options), ...journal]
    if (records.length > 0) writer.write(records, () => undefined)
  }

  /** To the process that owns its key, be it this one; or, where it is a letter, its row. */
  #handTo(settlement: Settlement, record: KafkaRecord, ticket: Ticket, consequences?: Consequences): void {
    const { lane, standing } = settlement
    const home = record.source === undefined ? record.owned.partition : this.#homes.placeOf(lane.rule, standing, record)
    this.handOver.send(home, settlement, record, () => this.#keep(ticket, ofAnother(consequences)))
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
    const unconfirmed = part.unconfirmed.get(key)
    part.unconfirmed.delete(key)
    for (const record of unconfirmed?.records ?? []) this.#release(record)
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
    const part = newPart(partition)
    this.#owned.set(partition, part)
    this.#log.claim(part)
  }

  #readBack(part: Part, { key: name, headers }: FetchedMessage): void {
    const key = String(name)
    this.#confirm(part, key)
    const claim = `${String(headers[writeHeader])}/${key}`
    const claims = part.claims.get(claim)
    if (claims === undefined) return
    part.claims.delete(claim)
    for (const { ticket, consequences } of claims) this.#keep(ticket, consequences)
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
    const left: Claim[] = []
    for (const part of parts) {
      left.push(...this.#leaveSettles(part), ...[...part.claims.values()].flat())
      part.claims.clear()
      this.#handOverUnconfirmed(part)
    }
    // Who queues in memory under their keys is handed over behind that; and nothing is started before it is dropped.
    listener.lost()
    for (const { ticket, consequences } of left) this.#keep(ticket, ofAnother(consequences))
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
  #leaveSettles(part: Part): readonly Claim[] {
    return this.#queue.takeAll(part).flatMap((pending) => {
      const { ticket } = pending
      const { settlement } = ticket
      const { record } = settlement
      if (!('told' in pending) || !(record instanceof KafkaRecord) || record.owned.isLost)
        return [{ ticket, consequences: undefined }]
      this.#handTo(settlement, record, ticket)
      return []
    })
  }

  /** Rows of events that are still ours, and may not have come to be: whoever has the partition now takes them up. */
  #handOverUnconfirmed(part: Part): void {
    const unconfirmed = [...part.unconfirmed.values()]
    part.unconfirmed.clear()
    for (const { settlement, records } of unconfirmed) {
      const [record, ...others] = records.filter(({ owned }) => !owned.isLost)
      if (record === undefined) continue
      const ofRecord = { ...settlement, record }
      const ticket = newTicket(ofRecord, () => {
        for (const other of others) this.#release(other)
      })
      this.#handTo(ofRecord, record, ticket)
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

/** As they are where it is kept elsewhere: what came of it for others of this process holds. */
function ofAnother(consequences: Consequences | undefined): Consequences {
  return consequences === undefined ? elsewhere : { ...consequences, amended: elsewhere.amended }
}
