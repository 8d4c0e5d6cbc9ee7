import type { Database, Statement } from '../tables/database.ts'
import { int } from '../tables/database.ts'
import type { DueRows } from '../tables/due.ts'
import type { Words } from '../tables/words.ts'
import { readRunning } from './recovery.ts'

/**
 * Forgets names of lanes: producers can invent throttle keys, and with them lanes, without end. A name is needed as long as
 * a row waits in the lane, or runs, or its delivery is noted as running; of others the lane is not asked any more.
 */
export class LaneNames {
  readonly #database: Database
  readonly #words: Words
  readonly #due: DueRows
  readonly #waits: Statement
  readonly #runs: Statement
  readonly #remove: Statement

  constructor(database: Database, words: Words, due: DueRows) {
    this.#database = database
    this.#words = words
    this.#due = due
    this.#waits = database.prepare('SELECT 1 FROM deliveries WHERE lane = ? AND state = 0 LIMIT 1')
    this.#runs = database.prepare('SELECT lane FROM deliveries WHERE rule = ? AND state = 1 AND state <> 2')
    this.#remove = database.prepare("DELETE FROM names WHERE kind = 'lane' AND id = ?")
  }

  /** Comes back with those that are forgotten. */
  forget(lanes: readonly number[], transaction: (change: () => void) => void): readonly number[] {
    const running = this.#running()
    const forgotten = lanes.filter((lane) => !running.has(lane) && this.#waits.get(lane) === undefined)
    transaction(() => {
      for (const lane of forgotten) this.#remove.run(lane)
    })
    for (const lane of forgotten) {
      this.#words.forget('lane', lane)
      this.#due.forget(lane)
    }
    return forgotten
  }

  #running(): ReadonlySet<number> {
    const rows = this.#words.ids('rule').flatMap((rule) => this.#runs.all(rule).map((row) => int(row.lane)))
    return new Set([...rows, ...readRunning(this.#database).map(({ lane }) => lane)])
  }
}
