import { join } from 'node:path'
import type { Consequences, DeliveryEntry, Lane, LaneBacklog, LastAnswer, Progress, Standing } from '../store.ts'
import type { DeadCount, Group, Name, StoredRecord, TakenRow } from '../tables/format.ts'
import type { AnswersOf, StoreThread } from '../thread.ts'

/*
 * What passes between the service's thread and the one that writes. Bulk goes as typed arrays that are transferred, not
 * copied: a few numbers per event and per settlement.
 */

/** In the data folder. */
export function fileIn(folder: string): string {
  return join(folder, 'changeprop.db')
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
  /** Short lives in a row, with this one. */
  readonly lives: number
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
  /** This life is no short one. */
  lived: Record<string, never>
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
  lived: undefined
  forget: { readonly forgotten: readonly number[] }
  close: undefined
}

export type Answers = AnswersOf<Inputs, Outputs>
export type WriterThread = StoreThread<Inputs, Outputs>
