import type {
  AttemptEntry,
  Consequences,
  DeliveryEntry,
  Lane,
  LaneBacklog,
  LastAnswer,
  Progress,
  Standing,
  WaitReason,
} from '../store.ts'
import type { AnswersOf, StoreThread } from '../thread.ts'

/*
 * What passes between the service's thread and the one that writes. Bulk goes as typed arrays that are transferred, not
 * copied: a few numbers per event and per settlement.
 */

export type NameKind = 'rule' | 'lane' | 'stream' | 'revision' | 'reason' | 'outcome'

/** A small number for a word that repeats. */
export interface Name {
  readonly kind: NameKind
  readonly id: number
  readonly text: string
}

/** Instead of a stream's number: which stream it is, the event's own bytes tell. */
export const inBytes = -1

/** States on disk: those of the contract by their index, and a waiting one that is parked. */
export const waiting = 0
export const running = 1
export const done = 2
export const dead = 3
export const parked = 4

/** "Not until somebody says so", as a number that SQLite keeps. */
export const never = Number.MAX_SAFE_INTEGER

/** Columns of `Group.events`. */
export const eventWidth = 4
/** Columns of `Group.settles`: those of the table, in its order, but for `flags`. */
export const settleWidth = 16
/** Bits of the column that becomes `claimed`. */
export const flagClaimed = 1
export const flagAttempted = 2
/** Stands for NULL in a number column. */
export const absent = -1

/** What few settlements have. */
export interface Extra {
  /** Of `Group.settles`. */
  readonly index: number
  /** Calls that do not fit the row. */
  readonly attempts: readonly (Omit<AttemptEntry, 'outcome'> & { readonly outcome: number })[]
  /** Dead and parked ones: what the event and the answer take, in bytes. */
  readonly bytes: number
  readonly answer: LastAnswer | undefined
  readonly standing: Standing | undefined
  /** `Progress.more` as JSON. */
  readonly more: string | undefined
}

/** What is made durable by one commit. */
export interface Group {
  /** Position of the first event. */
  readonly first: number
  /** Per event: hash of meta.id, stream, accepted, length of the payload. */
  readonly events: Float64Array
  readonly payloads: ArrayBuffer
  readonly settles: Float64Array
  readonly extras: readonly Extra[]
  readonly names: readonly Name[]
  /** The lowest position that the router may have to see again. */
  readonly cursor: number
  /** Pairs of position and lane; undefined where it did not change. */
  readonly running: Float64Array | undefined
}

export interface DeadCount {
  readonly rule: number
  readonly count: number
  readonly bytes: number
}

/** What is kept, in bytes: of live pages, of dead letters, and of parked deliveries. */
export interface Sizes {
  readonly bytes: number
  readonly deadBytes: number
  readonly parkedBytes: number
}

export interface Committed {
  /** How long it took, in ms. */
  readonly ms: number
  /** Told now and then. */
  readonly sizes: Sizes | undefined
  /** Told where they changed. */
  readonly dead: readonly DeadCount[] | undefined
  /** `index`: of `Group.settles`. */
  readonly consequences: readonly (Consequences & { readonly index: number })[]
}

export interface Opened {
  readonly mark: number
  readonly cursor: number
  /** Position of the last event; 0 for none. */
  readonly last: number
  readonly names: readonly Name[]
  readonly backlog: readonly LaneBacklog[]
  readonly dead: readonly DeadCount[]
  readonly sizes: Sizes
}

/** Columns of `Page.records`. */
export const recordWidth = 4

/** Records on their way to the router. */
export interface RecordPage {
  /** Per record: position, stream, accepted, length. */
  readonly records: Float64Array
  readonly payloads: ArrayBuffer
  /** Pairs of position and rule, by position: deliveries that have a row. */
  readonly known: Float64Array
}

export interface StoredRecord {
  readonly pos: number
  readonly stream: string
  readonly accepted: number
  readonly payload: Uint8Array
}

export interface TakenRow {
  readonly event: StoredRecord
  readonly progress: Progress
  readonly revision: string
  readonly reason: WaitReason
  readonly uncleanStops: number
  readonly standing: Standing | undefined
  readonly isSuperseded: boolean
  readonly followers: number
}

export interface Found {
  readonly event: StoredRecord
  readonly metaId: string | undefined
  readonly deliveries: readonly DeliveryEntry[]
}

export interface DeadRow {
  readonly entry: DeliveryEntry
  readonly event: StoredRecord
  readonly lane: Lane
  readonly progress: Progress
  readonly answer: LastAnswer | undefined
  readonly standing: Standing | undefined
}

export interface RowPage<Item> {
  readonly items: readonly Item[]
  readonly cursor: string | undefined
}

export interface Retained {
  readonly sizes: Sizes
  /** Whether another step would find something to do. */
  readonly more: boolean
  readonly removed: number
}

export interface Retention {
  readonly ageMs: number
  readonly sizeBytes: number
  readonly deadBytes: number
}

/** Questions, and what they are asked with. */
export interface Inputs {
  open: { readonly path: string; readonly now: number; readonly retention: Retention }
  commit: Group
  /** Writes what a full disk kept from being written, and sees whether there is room for more. */
  probe: Record<string, never>
  read: { readonly after: number; readonly upTo: number; readonly limit: number; readonly withKnown: boolean }
  take: { readonly lane: number; readonly now: number; readonly limit: number }
  find: { readonly id: string }
  deliveries: {
    readonly rule: string | undefined
    readonly state: number | undefined
    readonly limit: number
    readonly cursor: string | undefined
  }
  deadLetters: {
    readonly rule: string | undefined
    readonly ids: readonly string[] | undefined
    readonly limit: number
    readonly cursor: string | undefined
  }
  retain: { readonly now: number }
  /** Numbers of lanes that may be forgotten where no row is in them. */
  forget: { readonly lanes: readonly number[] }
  close: { readonly cursor: number }
}

export interface Outputs {
  open: Opened
  commit: Committed
  probe: Committed & { readonly hasRoom: boolean }
  read: RecordPage
  take: { readonly rows: readonly TakenRow[]; readonly nextUntil: number }
  find: readonly Found[]
  deliveries: RowPage<DeliveryEntry>
  deadLetters: RowPage<DeadRow>
  retain: Retained
  forget: { readonly forgotten: readonly number[] }
  close: undefined
}

export type Answers = AnswersOf<Inputs, Outputs>
export type WriterThread = StoreThread<Inputs, Outputs>
