import { join } from 'node:path'
import type {
  AttemptEntry,
  Consequences,
  DeadLetter,
  DeliveryEntry,
  Lane,
  LaneBacklog,
  LastAnswer,
  Progress,
  Settlement,
  Standing,
  WaitReason,
} from '../store.ts'
import { successKeptMs } from '../tables/starts.ts'
import type { AnswersOf, StoreThread } from '../thread.ts'
import type { Packed } from './packed.ts'
import type { Origin, WorkRow } from './row.ts'

/*
 * What passes between the service's thread and the one that keeps the rows of the partitions that this process owns.
 */

/** Of a partition's tables. */
export function fileOf(folder: string, partition: number): string {
  return join(folder, `work-${partition}.db`)
}

/** The event of a delivery, as far as a row needs it. */
export interface RowEvent {
  readonly id: string
  readonly stream: string
  readonly accepted: number
  readonly origin: Origin
}

export interface ShardSettle extends Omit<Settlement, 'record' | 'releasesCursor'> {
  readonly event: RowEvent
  /** Undefined where the row exists, and holds them. */
  readonly bytes: Uint8Array | undefined
}

/** A call of a key has ended well, of a delivery that never had a row; the journal is told of it elsewhere. */
export interface KeyEnd {
  /** When its event was accepted, in ms. */
  readonly accepted: number
  /** JSON of a Starter. */
  readonly starter: string
  /** Hash of the event's `meta.id`, 0 for none. */
  readonly hash: number
  readonly rule: string
  readonly key: string
  readonly windowMs: number
  /** When the call began, and when it was settled, in ms. */
  readonly began: number
  readonly at: number
}

/** Whether the keys topic is told of it: what has to be remembered for longer is in the changelog. */
export function isRememberedBriefly({ windowMs }: KeyEnd): boolean {
  return windowMs <= successKeptMs
}

/** What the keys topic says of such a call, and where it stands among the deliveries of its partition. */
export type KeyStart = Omit<KeyEnd, 'accepted' | 'windowMs'> & { readonly pos: number }

/** What is settled of one partition at once. */
export interface SettleBatch {
  readonly partition: number
  readonly settles: readonly ShardSettle[]
  readonly ends: readonly KeyEnd[]
  /** Ids of deliveries that ended without ever having had a row. */
  readonly ended: readonly string[]
}

/** For the journal: a delivery came to some state, or others are covered by its call. */
export type Told = { readonly event: RowEvent; readonly metaId: string | undefined; readonly rule: string } & (
  | {
      readonly revision: string
      readonly state: DeliveryEntry['state']
      readonly reason: string
      readonly at: number
      readonly until: number | null
      readonly attempts: readonly AttemptEntry[]
      /** Absent where there were none, and with those that told of it before this was counted. */
      readonly earlierAttempts?: number
      readonly coveredBy: string | undefined
      /** By who hands it over: anything else that is told of it is newer. */
      readonly isHandedOver?: true
    }
  | { readonly covers: DeliveryEntry['covers'] }
)

export interface Change {
  /** By index of what was settled, and then of the ends of keys. */
  readonly consequences: readonly (Consequences & { readonly index: number })[]
  /** What the changelog has to say of it. */
  readonly records: Packed
  /** Of those, what all processes have to know of root events. */
  readonly roots: Packed
  readonly told: readonly Told[]
  readonly dead: DeadCounts | undefined
  /** Of the ends of keys, in their order. */
  readonly places: readonly number[]
}

/** Of a change, what is written of it. */
export type Written = Pick<Change, 'records' | 'roots' | 'told' | 'dead'>

export interface Arrived extends Omit<Change, 'consequences' | 'places'> {
  /** What the engine has to count. */
  readonly rows: readonly LaneBacklog[]
}

/** By rule; those of the partition that have any. */
export type DeadCounts = readonly { readonly rule: string; readonly count: number; readonly bytes: number }[]

export interface ShardRow {
  readonly partition: number
  readonly event: RowEvent
  readonly bytes: Uint8Array
  readonly progress: Progress
  readonly revision: string
  readonly reason: WaitReason
  readonly uncleanStops: number
  readonly standing: Standing | undefined
  readonly isSuperseded: boolean
  readonly followers: number
}

export interface ShardLetter extends Omit<DeadLetter, 'record' | 'lane'> {
  readonly partition: number
  readonly event: RowEvent
  readonly bytes: Uint8Array
  readonly lane: Lane
  readonly progress: Progress
  readonly answer: LastAnswer | undefined
}

export interface ShardInputs {
  /** Begins with an empty partition. */
  open: { readonly partition: number; readonly folder: string }
  /** By which its tables know a rule. */
  numberOf: { readonly rule: string }
  /** What its changelog says, in order. */
  restore: { readonly partition: number; readonly records: Packed }
  /** And what the keys topic says. */
  remember: { readonly partition: number; readonly starts: readonly KeyStart[] }
  /** All of it was said: what ran when its last owner died goes on, or is dead where it must not be repeated. */
  /** `hasMoved`: its last owner lives. */
  restored: { readonly partition: number; readonly now: number; readonly hasMoved: boolean }
  absolve: { readonly partition: number }
  settle: { readonly batches: readonly SettleBatch[] }
  /** It was handed over to another partition: there it is told of. */
  remove: { readonly partition: number; readonly settle: ShardSettle }
  /** What was handed over with what has come of it. */
  arrive: { readonly partition: number; readonly records: Packed }
  /** The newest that is known of these keys, for a changelog in which somebody else has written. */
  reassert: { readonly partition: number; readonly keys: Packed }
  /** Rows of events of one partition of a stream. */
  rowsOf: { readonly partition: number; readonly topic: string; readonly part: number; readonly from: number }
  take: { readonly lane: Lane; readonly now: number; readonly limit: number }
  deliveries: {
    readonly rule: string | undefined
    readonly states: readonly number[]
    readonly limit: number
    readonly cursor: string | undefined
  }
  letters: {
    readonly partition: number
    readonly rule: string | undefined
    readonly ids: readonly string[] | undefined
    readonly limit: number
    readonly after: number
  }
  forget: { readonly partition: number; readonly now: number }
  /** What the owner of that partition, whoever it is, tells of root events. */
  heardRoots: { readonly partition: number; readonly folder: string; readonly records: Packed }
  drop: { readonly partition: number }
}

export interface ShardOutputs {
  open: undefined
  numberOf: number
  restore: undefined
  remember: undefined
  restored: Omit<Change, 'places'> & { readonly backlog: readonly LaneBacklog[] }
  absolve: Pick<Change, 'records' | 'roots' | 'told'>
  /** In the order of the batches. */
  settle: readonly Change[]
  remove: Omit<Change, 'places'>
  arrive: Arrived
  reassert: Packed
  rowsOf: readonly { readonly id: string; readonly rule: string }[]
  take: { readonly rows: readonly ShardRow[]; readonly nextUntil: number }
  deliveries: { readonly items: readonly DeliveryEntry[]; readonly cursor: string | undefined }
  letters: { readonly letters: readonly ShardLetter[]; readonly after: number | undefined }
  forget: Pick<Change, 'records' | 'roots'> & { readonly more: boolean }
  heardRoots: undefined
  /** Rows that waited and were not handed out. */
  drop: readonly LaneBacklog[]
}

export type ShardAnswers = AnswersOf<ShardInputs, ShardOutputs>
export type ShardThread = StoreThread<ShardInputs, ShardOutputs>

/** As it lies in the work topic. */
export function settleOfRow(row: WorkRow, event: Uint8Array): ShardSettle {
  const { id, stream, accepted, origin, rule, lane, state, reason, until, at, revision, progress, claimed, attempts } =
    row
  return {
    lane: { rule, key: lane },
    event: { id, stream, accepted, origin },
    bytes: event,
    state,
    // Written by us, from what the contract lists.
    reason: reason as ShardSettle['reason'],
    until: until ?? Number.POSITIVE_INFINITY,
    at,
    revision,
    progress,
    claimed,
    attempts,
    answer: row.answer,
    standing: row.standing,
  }
}

/** `<event id>/<rule>` */
export function nameOf({ event, lane }: Pick<ShardSettle, 'event' | 'lane'>): string {
  return `${event.id}/${lane.rule}`
}
