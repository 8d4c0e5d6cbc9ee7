import type { AttemptEntry, LastAnswer, Progress, Standing, WaitReason } from '../store.ts'

/*
 * What one commit makes durable, and what lies in the tables, as numbers.
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
