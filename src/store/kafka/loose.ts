import { metaIdOf } from '../../event/event.ts'
import type { Key, Lane, LaneBacklog } from '../store.ts'
import type { ShardSettle, Told } from './shard-protocol.ts'

const roomInBytes = 16_777_216

/** For the events of all that are loose, in all partitions. */
export class Room {
  bytes = 0

  get isFull(): boolean {
    return this.bytes >= roomInBytes
  }
}

/** One that was handed over. */
export interface LooseDelivery {
  /** `<event id>/<rule>` */
  readonly name: string
  /** By which the tables know it. */
  readonly lane: number
  readonly key: Key
  readonly settle: ShardSettle
  readonly bytes: Uint8Array
  /** When it was handed over, in ms. */
  readonly since: number
  isOut: boolean
}

/**
 * Deliveries that have no row: the log has them as they were handed over, until they end. So may run who is alone with his key,
 * as does what is called where it is read; rows are for those that meet.
 */
export class LooseDeliveries {
  /** In the order in which they were handed over. */
  readonly #all = new Map<string, LooseDelivery>()
  readonly #byKey = new Map<string, LooseDelivery>()
  /** By lane: those that are not handed out. */
  readonly #waiting = new Map<number, Map<string, LooseDelivery>>()
  /** Lanes in which the odd one of the next page is one of these, and no row. */
  readonly #turns = new Set<number>()
  /** Of which the journal has nothing. */
  readonly #untold = new Set<LooseDelivery>()
  readonly #room: Room

  constructor(room: Room) {
    this.#room = room
  }

  get isEmpty(): boolean {
    return this.#all.size === 0
  }

  get hasRoom(): boolean {
    return !this.#room.isFull
  }

  get hasUntold(): boolean {
    return this.#untold.size > 0
  }

  add(arrived: LooseDelivery): void {
    // Its bytes are a view of all that came with it, which is not to be kept for its sake.
    const bytes = new Uint8Array(arrived.bytes)
    const one = { ...arrived, bytes, settle: { ...arrived.settle, bytes } }
    const { name, lane, key, settle } = one
    this.#all.set(name, one)
    this.#untold.add(one)
    this.#byKey.set(nameOfKey(settle.lane.rule, key.text), one)
    const waiting = this.#waiting.get(lane) ?? new Map<string, LooseDelivery>()
    waiting.set(name, one)
    this.#waiting.set(lane, waiting)
    this.#room.bytes += bytes.length
  }

  get(name: string): LooseDelivery | undefined {
    return this.#all.get(name)
  }

  /** There is one at most. */
  ofKey(rule: string, key: string): LooseDelivery | undefined {
    return this.#byKey.get(nameOfKey(rule, key))
  }

  all(): readonly LooseDelivery[] {
    return [...this.#all.values()]
  }

  /** Of those that were handed over then, or before, the next that the journal is to be told of. */
  tell(time: number, limit: number): readonly LooseDelivery[] {
    const found: LooseDelivery[] = []
    for (const one of this.#untold) {
      if (one.since > time || found.length >= limit) break
      found.push(one)
      this.#untold.delete(one)
    }
    return found
  }

  /** The next of a lane. They are handed out with that. */
  take(lane: number, limit: number): readonly LooseDelivery[] {
    const taken: LooseDelivery[] = []
    for (const one of this.#waiting.get(lane)?.values() ?? []) {
      if (taken.length >= limit) break
      one.isOut = true
      taken.push(one)
    }
    for (const one of taken) this.#leaveLane(one)
    return taken
  }

  hasWaiting(lane: number): boolean {
    return this.#waiting.has(lane)
  }

  /** How many rows go with it in a page of a lane: neither waits for the last of the other. One that another part has filled is no turn. */
  shareOfRows(lane: number, page: number): number {
    if (page === 0 || !this.#waiting.has(lane)) return page
    const isRowsTurn = !this.#turns.delete(lane)
    if (isRowsTurn) this.#turns.add(lane)
    return isRowsTurn ? Math.ceil(page / 2) : Math.floor(page / 2)
  }

  clear(): void {
    for (const one of this.all()) this.remove(one)
  }

  /** It has ended, or has a row. */
  remove(one: LooseDelivery): void {
    this.#all.delete(one.name)
    this.#untold.delete(one)
    this.#byKey.delete(nameOfKey(one.settle.lane.rule, one.key.text))
    this.#leaveLane(one)
    this.#room.bytes -= one.bytes.length
  }

  #leaveLane({ name, lane }: LooseDelivery): void {
    const waiting = this.#waiting.get(lane)
    waiting?.delete(name)
    if (waiting?.size !== 0) return
    this.#waiting.delete(lane)
    this.#turns.delete(lane)
  }
}

function nameOfKey(rule: string, key: string): string {
  return `${rule}\u001f${key}`
}

/** It was handed over to be called for the first time, now. */
export function mayBeLoose({ state, reason, until, attempts, progress, claimed }: ShardSettle, now: number): boolean {
  const waits = state === 'waiting' && reason === 'slot' && until <= now
  return waits && attempts.length === 0 && progress.firstAttemptAt === 0 && progress.more === undefined && !claimed
}

/** There is nothing to keep of it but what is remembered of its key. */
export function endsPlainly({ state, reason, attempts, standing, end }: ShardSettle, { key }: LooseDelivery): boolean {
  if (state !== 'done' || standing?.root !== undefined || standing?.key?.text !== key.text) return false
  return (
    attempts.length === 0 || key.turn === 'oldest' || (end !== undefined && (reason === 'ok' || reason === 'ignored'))
  )
}

/** For the journal. */
export function toldOfLoose({ settle, bytes }: LooseDelivery): Told {
  const { event, lane, revision, state, reason, at, until, attempts } = settle
  return {
    ...{ event, metaId: metaIdOf(bytes), rule: lane.rule, revision, state, reason, at, until, attempts },
    coveredBy: undefined,
  }
}

/** As the engine counts them. */
export function backlogOf(loose: readonly LooseDelivery[], nextUntil: number): LaneBacklog[] {
  const lanes = new Map<number, { readonly lane: Lane; count: number }>()
  for (const { lane, settle } of loose) {
    const found = lanes.get(lane) ?? { lane: settle.lane, count: 0 }
    found.count += 1
    lanes.set(lane, found)
  }
  return [...lanes.values()].map(({ lane, count }) => ({ lane, nextUntil, waiting: { slot: count } }))
}
