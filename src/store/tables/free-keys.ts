import type { Key } from '../store.ts'
import type { Database, Statement } from './database.ts'
import { hashId } from './event-id.ts'
import { isRepeat, readStart, windowEnd } from './starts.ts'

/** A delivery that would have a key. */
export interface Candidate {
  /** Its place, or one before which none of those lie that were accepted with it. */
  readonly pos: number
  /** The producer's, if there is one; asked for few. */
  metaId(): string | undefined
  /** In ms. */
  readonly now: number
}

/** Which keys are free, read beside whoever writes the tables. */
export class FreeKeys {
  readonly #database: Database
  readonly #find: Statement

  /** `database`: a connection of its own. */
  constructor(database: Database) {
    this.#database = database
    // Of most there is nothing to find.
    this.#find = database.prepare(`
      SELECT 1 AS live, NULL AS pos, NULL AS at, NULL AS ok_pos, NULL AS ok_h, NULL AS ok_at
        FROM deliveries WHERE rule = ?1 AND key = ?2 AND state < 2
      UNION ALL SELECT 1, NULL, NULL, NULL, NULL, NULL FROM suspects WHERE pos = ?3 AND rule = ?1
      UNION ALL SELECT 0, pos, at, ok_pos, ok_h, ok_at FROM starts WHERE rule = ?1 AND key = ?2
      LIMIT 1
    `)
  }

  /**
   * Whether nothing of the key waits or runs, nor is remembered of it what makes this one wait, or a duplicate; nor was the
   * delivery running when a process died, so that its next call has to be on record first.
   */
  isFree(rule: number, key: Key, { pos, metaId: idOf, now }: Candidate): boolean {
    const found = this.#find.get(rule, key.text, pos)
    if (found === undefined) return true
    if (found.live !== 0) return false
    const start = key.turn === 'oldest' ? undefined : readStart(found)
    if (start === undefined) return true
    if (start.pos >= pos || windowEnd(start, key) > now) return false
    const metaId = idOf()
    return !isRepeat(start, metaId === undefined ? 0 : hashId(metaId), key, now)
  }

  close(): void {
    this.#database.close()
  }
}
