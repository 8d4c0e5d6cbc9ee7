import type { Settlement, Standing } from '../store.ts'
import type { Outgoing } from './batch-sender.ts'
import type { FetchedMessage } from './client.ts'
import type { KafkaRecord, Source } from './kafka-record.ts'
import { keyOf } from './part.ts'
import { formatRow, parseWithEvent, withEvent } from './row.ts'
import type { RowEvent } from './shard-protocol.ts'

/*
 * Records of the topic by which a process hands a delivery over to whoever owns another partition of the work: in partition p
 * what the owner of p is to take up, in order. They have no key where nothing has come of the delivery yet: then it is the
 * event, for one rule. Else they are as a row is, or a mark.
 */

/** An event that was handed over for one rule. */
export interface HandedEvent {
  readonly event: RowEvent
  readonly rule: string
  /** By the rules of who handed it over. */
  readonly standing: Standing | undefined
  readonly bytes: Uint8Array
}

/** A row that was handed over, or a mark: taken up when all before it was routed. */
export interface HandedRow {
  readonly source: Source
  readonly offset: number
  readonly message: FetchedMessage
}

/** Whether nothing has come of it yet: whoever takes it up begins at the beginning. */
export function isUntouched({ state, reason, attempts, progress }: Settlement): boolean {
  const isBefore = (state === 'waiting' && reason !== 'parked') || state === 'running'
  return isBefore && attempts.length === 0 && progress.firstAttemptAt === 0 && progress.more === undefined
}

export function formatHandedEvent(
  topic: string,
  partition: number,
  { lane, standing }: Pick<Settlement, 'lane' | 'standing'>,
  { id, stream, accepted, origin, bytes }: KafkaRecord,
): Outgoing {
  const told = [lane.rule, id, stream, accepted, ...origin, standing]
  return { topic, partition, key: null, value: withEvent(JSON.stringify(told), bytes) }
}

/** Undefined for what is not ours: anybody who may can write to a topic. */
export function parseHandedEvent({ value }: FetchedMessage): HandedEvent | undefined {
  const parsed = value === null ? undefined : parseWithEvent(value)
  const { told } = parsed ?? {}
  if (parsed === undefined || !Array.isArray(told)) return undefined
  const [rule, id, stream, accepted, topic, partition, offset, standing]: unknown[] = told
  if (typeof rule !== 'string' || typeof id !== 'string' || typeof stream !== 'string') return undefined
  if (typeof accepted !== 'number' || typeof topic !== 'string') return undefined
  if (typeof partition !== 'number' || typeof offset !== 'number' || typeof standing !== 'object') return undefined
  return {
    rule,
    // Written by formatHandedEvent: the topic is ours.
    standing: (standing as Standing | null) ?? undefined,
    event: { id, stream, accepted, origin: [topic, partition, offset] },
    // A view would keep the whole answer of the broker in memory.
    bytes: Buffer.from(parsed.event),
  }
}

/** With what has come of it. */
export function formatHandedRow(
  topic: string,
  partition: number,
  settlement: Settlement,
  record: KafkaRecord,
): Outgoing {
  const { id, stream, accepted, origin, bytes, source, owned } = record
  const { lane, state, reason, until, at, revision, progress, claimed, attempts, standing, answer } = settlement
  // A call that runs elsewhere is not known where it goes.
  const isRunning = state === 'running'
  const row = {
    id,
    rule: lane.rule,
    lane: lane.key,
    stream,
    accepted,
    origin,
    state: isRunning ? ('waiting' as const) : state,
    reason: isRunning ? 'slot' : reason,
    until: isRunning ? at : until === Number.POSITIVE_INFINITY ? null : until,
    at,
    revision,
    progress,
    claimed: claimed && !isRunning,
    attempts,
    standing,
    answer,
  }
  // What only moves may have come to its end there already.
  const reopens = source === undefined && partition === owned.partition
  const value = formatRow(reopens ? { ...row, reopens } : row, bytes)
  return { topic, partition, key: Buffer.from(keyOf(settlement)), value }
}
