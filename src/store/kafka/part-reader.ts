import type { Key } from '../store.ts'
import { type Database, readerOf, type Statement } from '../tables/database.ts'
import { type Candidate, FreeKeys } from '../tables/free-keys.ts'
import { fileOf } from './shard-protocol.ts'

/**
 * What is read of a partition's tables at once, beside the thread that writes them. All of one turn is read of one state: what the
 * thread writes meanwhile it tells in a later turn, and a state of its own for each question costs more than the question.
 */
export class PartReader {
  readonly #freeKeys: FreeKeys
  readonly #row: Statement
  readonly #begin: Statement
  readonly #end: Statement
  #isReading = false

  constructor(database: Database) {
    this.#freeKeys = new FreeKeys(database)
    this.#row = database.prepare('SELECT 1 FROM origins WHERE id = ? AND rule = ?')
    this.#begin = database.prepare('BEGIN')
    this.#end = database.prepare('COMMIT')
  }

  isKeyFree(rule: number, key: Key, candidate: Candidate): boolean {
    this.#read()
    return this.#freeKeys.isFree(rule, key, candidate)
  }

  /** Whether it has a row, be it a dead letter. `id`: of its event. */
  has(id: string, rule: number): boolean {
    this.#read()
    return this.#row.get(id, rule) !== undefined
  }

  close(): void {
    this.#endTurn()
    this.#freeKeys.close()
  }

  #read(): void {
    if (this.#isReading) return
    this.#begin.run()
    this.#isReading = true
    queueMicrotask(() => this.#endTurn())
  }

  #endTurn(): void {
    if (!this.#isReading) return
    this.#isReading = false
    this.#end.run()
  }
}

/** Of one that is open in the thread. */
export async function openPart(folder: string, partition: number): Promise<PartReader> {
  const open = await readerOf(fileOf(folder, partition))
  return new PartReader(open())
}
