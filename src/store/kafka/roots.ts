import { type Database, int, type Row, type Statement, text } from '../tables/database.ts'
import type { Numbers } from '../tables/numbers.ts'
import type { Words } from '../tables/words.ts'
import { type KeyValue, type Packed, unpack } from './packed.ts'
import { formatFact, formatKey, parseFact, parseKey } from './row.ts'

/**
 * What the owners of all partitions tell of root events: a later one makes earlier ones pointless, whichever partitions their
 * keys are of. It may be a little old; what a partition itself has counts before it.
 */
export class Roots {
  readonly #database: Database
  readonly #words: Words
  readonly #numbers: Numbers
  readonly #put: Statement
  readonly #remove: Statement
  readonly #later: Statement
  readonly #ofPart: Statement

  /** `database`: empty. */
  constructor(database: Database, words: Words, numbers: Numbers) {
    this.#database = database
    this.#words = words
    this.#numbers = numbers
    database.exec(`
      CREATE TABLE roots(
        rule INTEGER, signature TEXT, time INTEGER, part INTEGER, alive INTEGER NOT NULL, expires INTEGER NOT NULL,
        PRIMARY KEY(rule, signature, time, part)
      ) WITHOUT ROWID;
      CREATE INDEX by_part ON roots(part);
    `)
    this.#put = database.prepare('INSERT OR REPLACE INTO roots VALUES (?, ?, ?, ?, ?, ?)')
    this.#remove = database.prepare('DELETE FROM roots WHERE rule = ? AND signature = ? AND time = ? AND part = ?')
    this.#later = database.prepare(
      'SELECT 1 FROM roots WHERE rule = ? AND signature = ? AND time > ? AND part <> ? AND alive > 0 LIMIT 1',
    )
    this.#ofPart = database.prepare('SELECT rule, signature, time, alive, expires FROM roots WHERE part = ?')
  }

  /** What the owner of a partition said, in order. */
  heard(partition: number, records: Packed): void {
    this.#database.exec('BEGIN')
    for (const { key, value } of unpack(records)) {
      const root = parseKey(key)
      if (root?.kind !== 'root') continue
      const name = [this.#numbers.of('rule', root.rule), root.signature, root.time, partition]
      const [alive, expires] = value === null ? [] : (parseFact(value)?.numbers ?? [])
      if (typeof alive === 'number' && typeof expires === 'number') this.#put.run(...name, alive, expires)
      else this.#remove.run(...name)
    }
    this.#database.exec('COMMIT')
    for (const name of this.#numbers.takeFresh()) this.#words.learn(name)
  }

  /** Whether one with a later time counts in another partition. */
  hasLater(partition: number, rule: number, signature: string, time: number): boolean {
    return this.#later.get(rule, signature, time, partition) !== undefined
  }

  /** What has to be said so that all know what a partition has. `rows`: of its own table. */
  differences(partition: number, rows: readonly Row[]): readonly KeyValue[] {
    const told = new Map(this.#ofPart.all(partition).map((row) => [nameOf(row), row]))
    const different: KeyValue[] = []
    for (const row of rows) {
      const known = told.get(nameOf(row))
      told.delete(nameOf(row))
      if (known?.alive !== row.alive || known?.expires !== row.expires) different.push(this.record(row))
    }
    for (const row of told.values()) different.push({ ...this.record(row), value: null })
    return different
  }

  /** As the topics have it. */
  record({ rule, signature, time, alive, expires }: Row): KeyValue {
    const name = this.#words.of('rule', int(rule))
    return {
      key: formatKey({ kind: 'root', rule: name, signature: text(signature), time: int(time) }),
      value: formatFact([int(alive), int(expires)]),
    }
  }
}

function nameOf({ rule, signature, time }: Row): string {
  return `${rule}\u001f${time}\u001f${signature}`
}
