import { randomUUID } from 'node:crypto'
import type { Settlement, StoreListener } from '../store.ts'
import type { Outgoing } from './batch-sender.ts'
import { formatHandedEvent, formatHandedRow, type HandedRow, isUntouched } from './handed.ts'
import { formatJournal } from './journal.ts'
import type { KafkaRecord } from './kafka-record.ts'
import { Heard } from './on-the-way.ts'
import { pack } from './packed.ts'
import { keyOf, type Part, ruleKeyOf, toldHandedOver } from './part.ts'
import { readMark } from './part-log.ts'
import { formatKey, isMark, markKey, ownerHeader } from './row.ts'
import type { ShardThread, Told, Written } from './shard-protocol.ts'
import type { Topics } from './topics.ts'
import type { Writer } from './writer.ts'

export interface HandOverParts {
  readonly topics: Topics
  readonly partitions: number
  readonly thread: ShardThread
  readonly writer: Writer
  readonly listener: StoreListener
  /** Those that are ours, by partition. */
  readonly owned: ReadonlyMap<number, Part>
  write(part: Part, change: Written): void
  broken(error: unknown): undefined
}

/** Deliveries on their way to owners of other partitions of the work, and what comes from them. */
export class HandOver {
  readonly heard = new Heard()
  readonly #parts: HandOverParts
  /** What is to be handed over, and with it what the journal is told, until somebody takes it up. */
  readonly #sending: { readonly record: Outgoing; readonly told: Told | undefined; readonly written: () => void }[] = []

  constructor(parts: HandOverParts) {
    this.#parts = parts
  }

  /** What is handed over in one turn goes together. */
  send(partition: number, settlement: Settlement, record: KafkaRecord, written: () => void): void {
    const { lane, standing } = settlement
    const { handed } = this.#parts.topics
    if (standing !== undefined)
      this.#parts.owned.get(partition)?.onTheWay.add(keyOf(settlement), ruleKeyOf(lane.rule, standing))
    if (this.#sending.length === 0) setImmediate(() => this.sendAll())
    // Handed on once more as an event it would not be told from one that is handed over twice.
    if (record.source === undefined || record.rule !== undefined || !isUntouched(settlement)) {
      this.#sending.push({ record: formatHandedRow(handed, partition, settlement, record), told: undefined, written })
      return
    }
    this.#sending.push({
      record: formatHandedEvent(handed, partition, settlement, record),
      told: toldHandedOver(settlement, record),
      written,
    })
  }

  sendAll(): void {
    const sending = this.#sending.splice(0)
    if (sending.length === 0) return
    const { topics, partitions, writer } = this.#parts
    const told = sending.flatMap((one) => one.told ?? [])
    const records = [...sending.map(({ record }) => record), ...formatJournal(topics.journal, partitions, told)]
    writer.write(records, () => {
      for (const { written } of sending) written()
    })
  }

  /** Whether it was not handed over before; from then on it was. Read again from a place of its own it is given out again. */
  isNews(record: KafkaRecord): boolean {
    const name = `${record.id}/${record.rule}`
    const { source } = record
    const isNews = source === undefined || !this.heard.isRepeated(name, source)
    if (isNews) this.heard.add(name, source)
    else this.hasCome(record)
    return isNews
  }

  /** It was handed over here before its source came to be ours. */
  isHandedOver(part: Part | undefined, settlement: Settlement, record: KafkaRecord): boolean {
    const isFromElsewhere = record.source !== undefined && record.rule === undefined && part !== record.owned
    // What was begun here goes on here: what was handed over meets its row.
    const isBegun = settlement.state !== 'waiting' || !isUntouched(settlement)
    if (!isFromElsewhere || part === undefined || isBegun) return false
    return this.heard.has(`${record.id}/${settlement.lane.rule}`)
  }

  /** Whoever hands it over, or reads it, again is not to begin it once more. */
  rememberEnds(told: readonly Told[]): void {
    for (const one of told)
      if ('state' in one && one.state === 'done') this.heard.add(`${one.event.id}/${one.rule}`, undefined)
  }

  /** What this process has handed over to itself. */
  hasCome({ id, rule, owned }: KafkaRecord): void {
    const onTheWay = this.#parts.owned.get(owned.partition)?.onTheWay
    if (rule !== undefined && onTheWay?.isEmpty === false)
      onTheWay.delete(formatKey({ kind: 'delivery', id, rule }).toString())
  }

  /** Rows that were handed over to one partition, and marks; `finish`: they count here, or need not be read again. */
  async takeUp(rows: readonly HandedRow[], finish: (row: HandedRow) => void): Promise<void> {
    const part = this.#parts.owned.get(rows[0]?.source.owned.partition ?? -1)
    if (part === undefined) return
    const deliveries = rows.filter(({ message }) => !isMark(message))
    if (deliveries.length > 0) {
      await this.#takeUp(part, deliveries)
      if (!part.isLost) this.#mark(part, () => deliveries.forEach(finish))
    }
    if (part.isLost) return
    for (const row of rows) {
      if (!isMark(row.message)) continue
      readMark(part, row.message)
      finish(row)
    }
  }

  /** Also of what is lost: with it goes what was counted. */
  async #takeUp(part: Part, rows: readonly HandedRow[]): Promise<void> {
    const records = rows.flatMap(({ message: { key, value } }) => (key === null ? [] : [{ key, value }]))
    const asked = { partition: part.partition, records: pack(records) }
    const arrived = await this.#parts.thread.ask('arrive', asked).catch(this.#parts.broken)
    if (arrived === undefined) return
    for (const { key } of records) part.onTheWay.delete(key.toString())
    if (!part.isLost) this.#parts.write(part, arrived)
    for (const change of arrived.rows) this.#parts.listener.rows(change)
  }

  /** Calls back when all is read back that was written before, if nobody else had taken the partition over by then. */
  #mark(part: Part, readBack: () => void): void {
    const mark = randomUUID()
    part.marks.set(mark, readBack)
    const headers = { [ownerHeader]: Buffer.from(part.owner) }
    const { topics, writer } = this.#parts
    const record = { topic: topics.work, partition: part.partition, key: markKey, value: Buffer.from(mark), headers }
    writer.write([record], () => undefined)
  }
}
