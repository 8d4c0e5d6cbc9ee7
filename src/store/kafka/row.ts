import type { AttemptEntry, DeliveryState, LastAnswer, Progress, Standing } from '../store.ts'
import type { FetchedMessage } from './client.ts'

/*
 * Records of the work topic. Each partition is a changelog that compaction thins out: the newest record of a key is what
 * holds. Its owner writes rows and what is remembered of keys and root events.
 */

/** Where an event lies in its stream: topic, partition, offset. */
export type Origin = readonly [topic: string, partition: number, offset: number]

/** A delivery that waits, runs or is dead, as it lies in the work topic; the bytes of its event follow. */
export interface WorkRow {
  /** Of the event: ours. */
  readonly id: string
  readonly rule: string
  readonly lane: string
  readonly stream: string
  readonly accepted: number
  readonly origin: Origin
  readonly state: DeliveryState
  readonly reason: string
  /** In ms; null for "not until somebody says so", and where it does not wait. */
  readonly until: number | null
  readonly at: number
  readonly revision: string
  readonly progress: Progress
  readonly claimed: boolean
  readonly attempts: readonly AttemptEntry[]
  /** How many calls were made before those; absent where there were none. */
  readonly earlierAttempts?: number
  readonly standing?: Standing | undefined
  readonly answer?: LastAnswer | undefined
  /** How often its owner died while it ran. */
  readonly stops?: number
  /** Handed over, it says what is to become of a dead letter, or of a parked delivery, of this partition. */
  readonly reopens?: boolean
  /** Its place among those of its partition; absent where it is handed over. */
  readonly pos?: number
}

/** What is remembered of a key's calls, or of a root event. */
export interface Fact {
  /** Columns of its table, but for those that name it. */
  readonly numbers: readonly (number | null)[]
  /** By place: the events of a key's newest start and last success. */
  readonly starters?: readonly (readonly [pos: number, starter: object])[]
}

export type WorkKey =
  | { readonly kind: 'delivery'; readonly id: string; readonly rule: string }
  | { readonly kind: 'start'; readonly rule: string; readonly key: string }
  | { readonly kind: 'root'; readonly rule: string; readonly signature: string; readonly time: number }
  | { readonly kind: 'owner' }

/** Header of what the owner of a partition writes: who that is. */
export const ownerHeader = 'owner'
/** Header of a tombstone: the delivery has ended. Others only say that its row is not here. */
export const endHeader = 'end'

/** Header of a tombstone: its owner knew of no such delivery. That says nothing of a row that was made since. */
export const unknownHeader = 'unknown'

/** No row is that long. */
const endMark = Buffer.from([0xff, 0xff, 0xff, 0xff])

/** What the thread is told of a record of the changelog: of one that says that a delivery has ended, that. */
export function restorable({ value, headers }: FetchedMessage): Buffer | null {
  return value === null && headers[endHeader] !== undefined ? endMark : value
}

export function isOfUnknown({ headers }: FetchedMessage): boolean {
  return headers[unknownHeader] !== undefined
}

export function isEnd(value: Buffer): boolean {
  return value.equals(endMark)
}

export function formatKey(key: WorkKey): Buffer {
  switch (key.kind) {
    case 'delivery':
      return Buffer.from(JSON.stringify(['delivery', key.id, key.rule]))
    case 'start':
      return Buffer.from(JSON.stringify(['start', key.rule, key.key]))
    case 'root':
      return Buffer.from(JSON.stringify(['root', key.rule, key.signature, key.time]))
    case 'owner':
      return Buffer.from(JSON.stringify(['owner']))
  }
}

/** Undefined for what is not ours: anybody who may can write to a topic. */
export function parseKey(key: Uint8Array): WorkKey | undefined {
  const parts = parseJson(Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString())
  if (!Array.isArray(parts)) return undefined
  const [kind, first, second, third]: unknown[] = parts
  if (kind === 'owner') return { kind }
  if (typeof first !== 'string' || typeof second !== 'string') return undefined
  if (kind === 'delivery') return { kind, id: first, rule: second }
  if (kind === 'start') return { kind, rule: first, key: second }
  if (kind === 'root' && typeof third === 'number') return { kind, rule: first, signature: second, time: third }
  return undefined
}

export function formatRow(row: WorkRow, event: Uint8Array): Buffer {
  return withEvent(JSON.stringify(row), event)
}

export function parseRow(value: Buffer): { readonly row: WorkRow; readonly event: Uint8Array } | undefined {
  const parsed = parseWithEvent(value)
  const { told: row } = parsed ?? {}
  // Written by formatRow: the key says whose it is, and the topic is ours.
  return parsed !== undefined && typeof row === 'object' && row !== null
    ? { row: row as WorkRow, event: parsed.event }
    : undefined
}

/** Length of the JSON, the JSON, the event. */
export function withEvent(text: string, event: Uint8Array): Buffer {
  const json = Buffer.from(text)
  const value = Buffer.allocUnsafe(4 + json.length + event.length)
  value.writeUInt32LE(json.length, 0)
  json.copy(value, 4)
  value.set(event, 4 + json.length)
  return value
}

/** Undefined for what is cut off; `told` for what is no JSON. */
export function parseWithEvent(value: Buffer): { readonly told: unknown; readonly event: Uint8Array } | undefined {
  if (value.length < 4) return undefined
  const end = 4 + value.readUInt32LE(0)
  if (end > value.length) return undefined
  return { told: parseJson(value.toString('utf8', 4, end)), event: value.subarray(end) }
}

/** A Fact; `starters`: as JSON. */
export function formatFact(
  numbers: Fact['numbers'],
  starters: readonly (readonly [pos: number, starter: string])[] = [],
): Buffer {
  const told = starters.map(([pos, starter]) => `[${pos},${starter}]`)
  return Buffer.from(`{"numbers":${JSON.stringify(numbers)},"starters":[${told.join()}]}`)
}

export function parseFact(value: Buffer): Fact | undefined {
  const fact = parseJson(value.toString())
  // Written by formatFact: the key says what it is, and the topic is ours.
  return typeof fact === 'object' && fact !== null && 'numbers' in fact ? (fact as Fact) : undefined
}

/** A key or signature without what tells the rule's policy: so keys of a stream's partitions are equal to it. */
export function withinRule(text: string): string {
  return text.slice(text.indexOf('\u001f') + 1)
}

export function ownerOf({ headers }: FetchedMessage): string | undefined {
  const owner = headers[ownerHeader]
  return Buffer.isBuffer(owner) ? owner.toString() : undefined
}

/** Of a record that says nothing: who reads his own again has read all that was there before. */
export const markKey = Buffer.from('["mark"]')
const claimKey = formatKey({ kind: 'owner' })
/** Of a record of who has lost the partition to another: so he has not died. Its value: his name. */
export const lossKey = Buffer.from('["loss"]')

/** From here on its owner is another. */
export function isClaim({ key }: FetchedMessage): boolean {
  return key?.equals(claimKey) === true
}

export function isLoss({ key }: FetchedMessage): boolean {
  return key?.equals(lossKey) === true
}

export function isMark({ key }: FetchedMessage): boolean {
  return key?.equals(markKey) === true
}

/** Undefined for what is none: anybody who may can write to a topic. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
