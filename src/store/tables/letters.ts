import { type Database, int, type Statement } from './database.ts'
import type { DeadCount } from './format.ts'

interface Tally {
  count: number
  bytes: number
  parkedBytes: number
  parkedCount: number
  /** No letter of the rule lies above. */
  highest: number
}

/** What dead and parked deliveries hold, and how much of it there is by rule. */
export class Letters {
  readonly #tallies = new Map<number, Tally>()
  readonly #changed = new Set<number>()
  readonly #database: Database
  readonly #insert: Statement
  readonly #remove: Statement

  constructor(database: Database) {
    this.#database = database
    this.#insert = database.prepare('INSERT INTO letters(pos, rule, parked, bytes, answer) VALUES (?, ?, ?, ?, ?)')
    this.#remove = database.prepare('DELETE FROM letters WHERE pos = ? AND rule = ? RETURNING parked, bytes')
    this.recount()
  }

  /** After a rollback: what was counted within it does not hold. */
  recount(): void {
    this.#tallies.clear()
    const rows = this.#database
      .prepare('SELECT rule, parked, count(*) AS count, sum(bytes) AS bytes FROM letters GROUP BY rule, parked')
      .all()
    for (const row of rows) {
      const tally = this.#of(int(row.rule))
      tally.highest = Number.MAX_SAFE_INTEGER
      this.#count(tally, int(row.parked), int(row.count), int(row.bytes))
    }
  }

  /** Costs nothing for a delivery that cannot have one. */
  remove(pos: number, rule: number): void {
    const tally = this.#tallies.get(rule)
    if (tally === undefined || pos > tally.highest || tally.count + tally.parkedCount === 0) return
    const row = this.#remove.get(pos, rule)
    if (row === undefined) return
    this.#count(tally, int(row.parked), -1, -int(row.bytes))
    this.#changed.add(rule)
  }

  put(pos: number, rule: number, parked: 0 | 1, bytes: number, answer: string | null): void {
    const tally = this.#of(rule)
    this.#insert.run(pos, rule, parked, bytes, answer)
    this.#count(tally, parked, 1, bytes)
    tally.highest = Math.max(tally.highest, pos)
    this.#changed.add(rule)
  }

  /** Of the rules that changed since this was last asked. */
  changes(): DeadCount[] | undefined {
    if (this.#changed.size === 0) return undefined
    const counts = [...this.#changed].map((rule) => this.#countOf(rule))
    this.#changed.clear()
    return counts
  }

  counts(): DeadCount[] {
    return [...this.#tallies.keys()].map((rule) => this.#countOf(rule))
  }

  bytes(): { readonly deadBytes: number; readonly parkedBytes: number } {
    let deadBytes = 0
    let parkedBytes = 0
    for (const tally of this.#tallies.values()) {
      deadBytes += tally.bytes
      parkedBytes += tally.parkedBytes
    }
    return { deadBytes, parkedBytes }
  }

  #countOf(rule: number): DeadCount {
    const { count, bytes } = this.#of(rule)
    return { rule, count, bytes }
  }

  #of(rule: number): Tally {
    let tally = this.#tallies.get(rule)
    if (tally === undefined) {
      tally = { count: 0, bytes: 0, parkedBytes: 0, parkedCount: 0, highest: 0 }
      this.#tallies.set(rule, tally)
    }
    return tally
  }

  #count(tally: Tally, parked: number, count: number, bytes: number): void {
    if (parked === 1) {
      tally.parkedCount += count
      tally.parkedBytes += bytes
    } else {
      tally.count += count
      tally.bytes += bytes
    }
  }
}
