import { type Database, int, type Statement } from './database.ts'

/** Deliveries that were running when the process died, until an attempt at them ends. There are few. */
export class Suspects {
  /** All of them, and some that went with their rows, whose places may be others' by now: how often is in the table. */
  readonly #names = new Set<string>()
  readonly #database: Database
  readonly #stops: Statement
  readonly #remove: Statement
  readonly #absolve: Statement

  constructor(database: Database) {
    this.#database = database
    this.#stops = database.prepare('SELECT stops FROM suspects WHERE pos = ? AND rule = ?')
    this.#remove = database.prepare('DELETE FROM suspects WHERE pos = ? AND rule = ?')
    this.#absolve = database.prepare('UPDATE suspects SET stops = stops - 1 WHERE pos = ? AND rule = ?')
    this.reload()
  }

  reload(): void {
    this.#names.clear()
    for (const row of this.#database.prepare('SELECT pos, rule FROM suspects').all())
      this.#names.add(`${int(row.pos)}/${int(row.rule)}`)
  }

  stopsOf(pos: number, rule: number): number {
    if (this.#names.size === 0 || !this.#names.has(`${pos}/${rule}`)) return 0
    const row = this.#stops.get(pos, rule)
    return row === undefined ? 0 : int(row.stops)
  }

  /** Within a transaction: one of the deaths was none. Says whether it is, or was, suspected. */
  absolve(pos: number, rule: number): boolean {
    const stops = this.stopsOf(pos, rule)
    if (stops === 0) return false
    if (stops === 1) this.clear(pos, rule)
    else this.#absolve.run(pos, rule)
    return true
  }

  /** Within a transaction; `reload` undoes it after a rollback. */
  clear(pos: number, rule: number): void {
    if (this.#names.size > 0 && this.#names.delete(`${pos}/${rule}`)) this.#remove.run(pos, rule)
  }
}
