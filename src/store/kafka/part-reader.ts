import type { Key } from '../store.ts'
import { type Database, readerOf, type Statement } from '../tables/database.ts'
import { type Candidate, FreeKeys } from '../tables/free-keys.ts'
import { fileOf } from './shard-protocol.ts'

/** What is read of a partition's tables at once, beside the thread that writes them. */
export class PartReader {
  readonly #freeKeys: FreeKeys
  readonly #row: Statement

  constructor(database: Database) {
    this.#freeKeys = new FreeKeys(database)
    this.#row = database.prepare('SELECT 1 FROM origins WHERE id = ? AND rule = ?')
  }

  isKeyFree(rule: number, key: Key, candidate: Candidate): boolean {
    return this.#freeKeys.isFree(rule, key, candidate)
  }

  /** Whether it has a row, be it a dead letter. `id`: of its event. */
  has(id: string, rule: number): boolean {
    return this.#row.get(id, rule) !== undefined
  }

  close(): void {
    this.#freeKeys.close()
  }
}

/** Of one that is open in the thread. */
export async function openPart(folder: string, partition: number): Promise<PartReader> {
  const open = await readerOf(fileOf(folder, partition))
  return new PartReader(open())
}
