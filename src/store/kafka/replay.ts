import type { Numbers } from '../tables/numbers.ts'
import { type Packed, unpack } from './packed.ts'
import { isEnd, parseFact, parseKey, parseRow, type WorkKey } from './row.ts'
import type { ShardChanges } from './shard-changes.ts'
import { type KeyStart, settleOfRow } from './shard-protocol.ts'
import type { ShardRows } from './shard-rows.ts'

/** Makes the rows of a partition from its changelog, and from what the keys topic says. */
export class Replay {
  readonly #rows: ShardRows
  readonly #changes: ShardChanges
  readonly #numbers: Numbers
  readonly #place: (accepted: number) => number
  /** `place`: one that is free, for an event that was accepted then. */
  constructor(rows: ShardRows, changes: ShardChanges, numbers: Numbers, place: (accepted: number) => number) {
    this.#rows = rows
    this.#changes = changes
    this.#numbers = numbers
    this.#place = place
  }

  /** What the changelog says, in order. */
  restore(records: Packed): void {
    this.#rows.transaction(() => {
      for (const { key, value } of unpack(records)) {
        const parsed = parseKey(key)
        if (parsed !== undefined) this.#replay(parsed, value)
      }
      this.#rows.learn()
    })
  }

  /** What the keys topic says of calls; before it is restored. */
  remember(starts: readonly KeyStart[]): void {
    this.#rows.transaction(() => {
      for (const { rule, key, pos, began, at, hash, starter } of starts) {
        const number = this.#numbers.of('rule', rule)
        this.#rows.keepStarter(pos, number, key, starter)
        this.#rows.remember(number, key, { pos, began, at, hash })
      }
      this.#rows.learn()
    })
  }

  #replay(key: WorkKey, value: Buffer | null): void {
    if (key.kind === 'owner') return
    const rule = this.#numbers.of('rule', key.rule)
    if (key.kind !== 'delivery') {
      this.#changes.replayFact(key, rule, value === null ? undefined : parseFact(value))
      return
    }
    const hasEnded = value !== null && isEnd(value)
    const found = value === null || hasEnded ? undefined : parseRow(value)
    const known = this.#rows.find(key.id, rule)
    if (known !== undefined) this.#rows.remove(known, rule)
    if (hasEnded) this.#changes.hasSaidEnd(`${key.id}/${key.rule}`)
    if (found === undefined) return
    this.#changes.goesOn(key.id, key.rule)
    const settle = settleOfRow(found.row, found.event)
    const { pos: wanted } = found.row
    const isFree = wanted !== undefined && this.#rows.isFree(wanted)
    const pos = isFree ? wanted : this.#place(settle.event.accepted)
    this.#rows.insert(pos, rule, settle)
    this.#rows.insertRow(pos, rule, found.row)
  }
}
