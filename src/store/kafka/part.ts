import { randomUUID } from 'node:crypto'
import { givenIdOf } from '../../event/event.ts'
import type { Consequences, Durable, Settlement, Standing } from '../store.ts'
import { hashId } from '../tables/event-id.ts'
import type { FetchedMessage } from './client.ts'
import type { KafkaRecord, Owned } from './kafka-record.ts'
import { OnTheWay } from './on-the-way.ts'
import type { PartReader } from './part-reader.ts'
import { formatKey } from './row.ts'
import type { DeadCounts, KeyEnd, ShardSettle, Told } from './shard-protocol.ts'
import type { Starter } from './shard-rows.ts'

/** A settlement that is not durable yet. */
export interface Ticket {
  readonly settlement: Settlement
  readonly durable: Durable | undefined
  /** It makes a row of an event from its stream: the event is finished when the row was read back, or handed over. */
  isFirst: boolean
}

/** A settlement that is durable if nobody else had taken the partition over before it was written. */
export interface Claim {
  readonly ticket: Ticket
  readonly consequences: Consequences | undefined
}

/** A row that was not read back yet. */
export interface Unconfirmed {
  readonly settlement: Settlement
  /** Of its event, each of which is finished when it was: it may be read from its stream, and be handed over, too. */
  readonly records: readonly KafkaRecord[]
}

/** A settlement on its way to the thread: of a row, or of what ran from memory and needs none. */
export type Pending = { readonly ticket: Ticket } & (
  | { readonly settle: ShardSettle }
  | { readonly told: Told; readonly end: KeyEnd | undefined; readonly isKeyed: boolean }
)

/** A partition of the work while it is ours. */
export interface Part extends Owned {
  /** What tells this ownership of it from every other. */
  readonly owner: string
  isReady: boolean
  /** What came after our claim, while what came before is taken up; undefined when it is. */
  held: FetchedMessage[] | undefined
  /** While it is read from its beginning: what the thread was asked to restore, and has not yet. */
  asked: number
  /** While it is read from its beginning: who owned it last. */
  lastOwner: string | undefined
  /** And who told of rows last, which an owner for a moment may not have come to: what is on record as running ran there. */
  lastTeller: string | undefined
  /** Owners before us who lost it, and live. */
  readonly losers: Set<string>
  /** Keys of which somebody wrote who did not own it any more. */
  usurped: Buffer[]
  /** Once it is ready. */
  tables: PartReader | undefined
  readonly settles: Pending[]
  /** Writes so far that have claims among them. */
  writes: number
  /** Claims that count once they were read back: by write and key. A key alone may be that of what was written before. */
  readonly claims: Map<string, Claim[]>
  /**
   * Rows of events from their streams that were not read back yet, by key, as they were settled last. One that was written after
   * another process had taken the partition over does not count, whatever the broker said: its event comes again there.
   */
  readonly unconfirmed: Map<string, Unconfirmed>
  readonly onTheWay: OnTheWay
  /**
   * By whose source: whether all was taken up that others had handed over here of it, before it was ours. What is read of it must
   * not overtake that. While it is not known, what was written to find out.
   */
  readonly isCaughtUp: WeakMap<Owned, true | string>
  /** What was written to find out what is before it, and what to do when it is read. */
  readonly marks: Map<string, () => void>
  dead: DeadCounts
}

export function newPart(partition: number): Part {
  return {
    partition,
    owner: randomUUID(),
    isLost: false,
    isReady: false,
    held: undefined,
    asked: 0,
    lastOwner: undefined,
    lastTeller: undefined,
    losers: new Set(),
    usurped: [],
    tables: undefined,
    settles: [],
    writes: 0,
    claims: new Map(),
    unconfirmed: new Map(),
    onTheWay: new OnTheWay(),
    isCaughtUp: new WeakMap(),
    marks: new Map(),
    dead: [],
  }
}

export function newTicket(settlement: Settlement, durable?: Durable): Ticket {
  return { settlement, durable, isFirst: false }
}

/** What brings deliveries of a rule together. */
export function ruleKeyOf(rule: string, { key, root }: Standing): string {
  return `${rule}\u001f${key?.text ?? root?.signature ?? ''}`
}

/** Of the row that it makes or changes. */
export function keyOf({ record, lane }: Settlement): string {
  return formatKey({ kind: 'delivery', id: record.id, rule: lane.rule }).toString()
}

/** As the thread takes it; with the event's bytes where it makes a row. */
export function shardSettle(settlement: Settlement, record: KafkaRecord, isNew: boolean): ShardSettle {
  const { lane, state, reason, revision, at, until, progress, claimed, attempts, answer, standing } = settlement
  const { id, stream, accepted, origin } = record
  return {
    lane,
    event: { id, stream, accepted, origin },
    // A view would take with it what it is a view of.
    bytes: isNew ? Uint8Array.from(record.bytes) : undefined,
    state,
    reason,
    revision,
    at,
    until,
    progress,
    claimed,
    attempts,
    answer,
    standing,
  }
}

/** Undefined where nothing is remembered of its key. */
export function keyEndOf(
  { lane, standing, attempts, progress, at }: Settlement,
  record: KafkaRecord,
): KeyEnd | undefined {
  const key = standing?.key
  if (key?.turn !== 'newest' || attempts.length === 0) return undefined
  const { id, stream, accepted, origin } = record
  const metaId = givenIdOf(record)
  const starter: Starter = { event: { id, stream, accepted, origin }, metaId }
  return {
    accepted,
    starter: JSON.stringify(starter),
    hash: metaId === undefined ? 0 : hashId(metaId),
    rule: lane.rule,
    key: key.text,
    windowMs: key.windowMs,
    began: progress.firstAttemptAt,
    at,
  }
}

/** For the journal: a delivery that has no row. */
export function toldOf({ lane, revision, state, reason, at, attempts }: Settlement, record: KafkaRecord): Told {
  const { id, stream, accepted, origin } = record
  return {
    event: { id, stream, accepted, origin },
    metaId: givenIdOf(record),
    rule: lane.rule,
    revision,
    state,
    reason,
    at,
    until: null,
    attempts,
    coveredBy: undefined,
  }
}

/** Of one that is handed over before anything has come of it. */
export function toldHandedOver(settlement: Settlement, record: KafkaRecord): Told {
  const { state, reason, until } = settlement
  const isWaiting = state === 'waiting'
  return {
    ...toldOf(settlement, record),
    state: 'waiting',
    reason: isWaiting ? reason : 'slot',
    until: isWaiting && Number.isFinite(until) ? until : null,
    isHandedOver: true,
  }
}
