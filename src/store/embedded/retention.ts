import { type Database, int, type Statement } from '../tables/database.ts'
import type { MetaIds } from '../tables/ids.ts'
import type { Letters } from '../tables/letters.ts'
import type { Standings } from '../tables/standings.ts'
import type { Retained, Retention, Sizes } from './protocol.ts'

const rowsAtOnce = 500
/** What is finished gives way when the store is so full, so that beyond it only live work is left to warn of. */
const trimAbove = 0.8
/** What is live now is looked at again after so long, for it may have ended. */
const lookAgainMs = 600_000
const lookAgainWhenFullMs = 10_000
/** Free pages are given back to the disk where there are more than so many, and so many at once. */
const freePagesKept = 8_192
const freedAtOnce = 512

/**
 * Removes what is finished, oldest first, by age and by size, in steps small enough to fit between two commits. It never
 * touches what the router has not passed, nor an event of which a delivery is waiting, running, dead or parked.
 */
export class RetentionSteps {
  readonly #database: Database
  readonly #limits: Retention
  readonly #ids: MetaIds
  readonly #letters: Letters
  readonly #standings: Standings
  readonly #oldest: Statement
  readonly #live: Statement
  readonly #pages: Statement
  readonly #free: Statement
  readonly #removals: readonly Statement[]
  /** All up to here has been looked at. */
  #scanned = 0
  #startedAt = Number.NEGATIVE_INFINITY

  constructor(database: Database, limits: Retention, ids: MetaIds, letters: Letters, standings: Standings) {
    this.#database = database
    this.#limits = limits
    this.#ids = ids
    this.#letters = letters
    this.#standings = standings
    this.#oldest = database.prepare(
      `SELECT pos, h, accepted FROM events WHERE pos > ? AND pos < ? ORDER BY pos LIMIT ${rowsAtOnce}`,
    )
    this.#live = database.prepare('SELECT DISTINCT pos FROM deliveries WHERE pos BETWEEN ? AND ? AND state <> 2')
    this.#pages = database.prepare('PRAGMA page_count')
    this.#free = database.prepare('PRAGMA freelist_count')
    this.#removals = ['events', 'deliveries', 'attempts'].map((table) =>
      database.prepare(`DELETE FROM ${table} WHERE pos = ?`),
    )
  }

  sizes(): Sizes {
    const live = int(this.#pages.get()?.page_count) - int(this.#free.get()?.freelist_count)
    return { bytes: live * pageSize, ...this.#letters.bytes() }
  }

  step(now: number, cursor: number, transaction: (change: () => number) => number): Retained {
    transaction(() => this.#standings.forgetExpired(now))
    const isOverSize = this.#isOverSize()
    const lookAgain = isOverSize ? lookAgainWhenFullMs : lookAgainMs
    if (now - this.#startedAt >= lookAgain) {
      this.#scanned = 0
      this.#startedAt = now
    }
    const rows = this.#oldest.all(this.#scanned, cursor)
    const bornBefore = now - this.#limits.ageMs
    const old = isOverSize
      ? rows
      : rows.slice(
          0,
          countWhile(rows, (row) => int(row.accepted) < bornBefore),
        )
    const first = old[0]
    const last = old.at(-1)
    if (first === undefined || last === undefined) {
      this.#giveBack()
      return { sizes: this.sizes(), more: false, removed: 0 }
    }
    const live = new Set(this.#live.all(int(first.pos), int(last.pos)).map((row) => int(row.pos)))
    const finished = old.filter((row) => !live.has(int(row.pos))).map((row) => [int(row.pos), int(row.h)] as const)
    const removed = finished.length === 0 ? 0 : transaction(() => this.#remove(finished))
    for (const [pos] of finished) this.#ids.forget(pos)
    this.#scanned = int(last.pos)
    return { sizes: this.sizes(), more: old.length === rowsAtOnce || (isOverSize && this.#isOverSize()), removed }
  }

  #isOverSize(): boolean {
    const { bytes, deadBytes, parkedBytes } = this.sizes()
    return bytes - deadBytes - parkedBytes > this.#limits.sizeBytes * trimAbove
  }

  #remove(events: readonly (readonly [pos: number, hash: number])[]): number {
    for (const [pos, hash] of events) {
      this.#ids.remove(pos, hash)
      for (const removal of this.#removals) removal.run(pos)
    }
    return events.length
  }

  #giveBack(): void {
    if (int(this.#free.get()?.freelist_count) > freePagesKept)
      this.#database.exec(`PRAGMA incremental_vacuum(${freedAtOnce})`)
  }
}

const pageSize = 4096

function countWhile<Item>(items: readonly Item[], holds: (item: Item) => boolean): number {
  const end = items.findIndex((item) => !holds(item))
  return end < 0 ? items.length : end
}
