import { type Database, int, type Statement } from './database.ts'

/** Deliveries that were running when the process died, until an attempt at them ends. There are few. */
export class Suspects {
  readonly #stops = new Map<string, number>()
  readonly #database: Database
  readonly #remove: Statement
  readonly #absolve: Statement

  constructor(database: Database) {
    this.#database = database
    this.#remove = database.prepare('DELETE FROM suspects WHERE pos = ? AND rule = ?')
    this.#absolve = database.prepare('UPDATE suspects SET stops = stops - 1 WHERE pos = ? AND rule = ?')
    this.reload()
  }

  reload(): void {
    this.#stops.clear()
    for (const row of this.#database.prepare('SELECT pos, rule, stops FROM suspects').all()) {
      this.#stops.set(`${int(row.pos)}/${int(row.rule)}`, int(row.stops))
    }
  }

  stopsOf(pos: number, rule: number): number {
    return this.#stops.size === 0 ? 0 : (this.#stops.get(`${pos}/${rule}`) ?? 0)
  }

  /** Within a transaction: one of the deaths was none. Says whether it is, or was, suspected. */
  absolve(pos: number, rule: number): boolean {
    const stops = this.stopsOf(pos, rule)
    if (stops === 0) return false
    if (stops === 1) this.clear(pos, rule)
    else {
      this.#absolve.run(pos, rule)
      this.#stops.set(`${pos}/${rule}`, stops - 1)
    }
    return true
  }

  /** Within a transaction; `reload` undoes it after a rollback. */
  clear(pos: number, rule: number): void {
    if (this.#stops.size > 0 && this.#stops.delete(`${pos}/${rule}`)) this.#remove.run(pos, rule)
  }
}
