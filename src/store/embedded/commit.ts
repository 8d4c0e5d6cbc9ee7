import { type Database, isFull, type Statement } from './database.ts'
import type { DueRows } from './due.ts'
import type { MetaIds } from './ids.ts'
import type { Letters } from './letters.ts'
import {
  absent,
  dead,
  done,
  type Extra,
  eventWidth,
  flagAttempted,
  flagClaimed,
  type Group,
  parked,
  settleWidth,
} from './protocol.ts'
import type { Suspects } from './suspects.ts'
import type { Words } from './words.ts'

/** What a commit keeps in step with the tables. */
export interface Derived {
  readonly words: Words
  readonly ids: MetaIds
  readonly letters: Letters
  readonly suspects: Suspects
  readonly due: DueRows
}

const keptAttempts = 50
const noEvents = new Float64Array(0)
const noBytes = new ArrayBuffer(0)
const smallestProbe = 262_144
const largestProbe = 8_388_608

/** Makes groups durable, each whole or not at all. */
export class Commits {
  readonly #database: Database
  readonly #derived: Derived
  readonly #begin: Statement
  readonly #commit: Statement
  readonly #name: Statement
  readonly #event: Statement
  readonly #delivery: Statement
  readonly #attempt: Statement
  readonly #forgetAttempts: Statement
  readonly #number: Statement
  readonly #bytes: Statement
  /** What a full disk kept from being written; its appends were refused. */
  #held: Group | undefined
  #probeBytes = smallestProbe
  #cursor: number

  constructor(database: Database, cursor: number, derived: Derived) {
    this.#database = database
    this.#derived = derived
    this.#cursor = cursor
    this.#begin = database.prepare('BEGIN IMMEDIATE')
    this.#commit = database.prepare('COMMIT')
    this.#name = database.prepare('INSERT OR IGNORE INTO names(kind, id, text) VALUES (?, ?, ?)')
    this.#event = database.prepare('INSERT INTO events(pos, h, stream, accepted, payload) VALUES (?, ?, ?, ?, ?)')
    this.#delivery = database.prepare(`
      INSERT INTO deliveries(pos, rule, lane, state, reason, until, at, revision, failures, first_at, finished, refused,
        claimed, began, ms, status)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
      ON CONFLICT(pos, rule) DO UPDATE SET lane = excluded.lane, state = excluded.state, reason = excluded.reason,
        until = excluded.until, at = excluded.at, revision = excluded.revision, failures = excluded.failures,
        first_at = excluded.first_at, finished = excluded.finished, refused = excluded.refused,
        claimed = excluded.claimed, began = coalesce(excluded.began, began), ms = coalesce(excluded.ms, ms),
        status = coalesce(excluded.status, status)
    `)
    this.#attempt = database.prepare(`
      INSERT INTO attempts(pos, rule, n, at, ms, status, outcome, request, note)
      SELECT ?1, ?2, coalesce(max(n), 0) + 1, ?3, ?4, ?5, ?6, ?7, ?8 FROM attempts WHERE pos = ?1 AND rule = ?2
    `)
    this.#forgetAttempts = database.prepare(`
      DELETE FROM attempts WHERE pos = ?1 AND rule = ?2
        AND n <= (SELECT max(n) FROM attempts WHERE pos = ?1 AND rule = ?2) - ${keptAttempts}
    `)
    this.#number = database.prepare('INSERT OR REPLACE INTO meta(key, number) VALUES (?, ?)')
    this.#bytes = database.prepare('INSERT OR REPLACE INTO meta(key, bytes) VALUES (?, ?)')
  }

  /** The cursor as it stands on disk. */
  get cursor(): number {
    return this.#cursor
  }

  /** Throws where the disk is full: then the events are refused, and the rest is kept for `probe`. */
  apply(group: Group): void {
    try {
      this.#apply(group)
    } catch (error) {
      this.#held = { ...group, events: noEvents, payloads: noBytes }
      this.#probeBytes = Math.min(largestProbe, Math.max(smallestProbe, group.payloads.byteLength))
      throw error
    }
  }

  /**
   * Throws where what was kept still cannot be written. Says whether there is room for as much as was refused, too: a log
   * that is full has room for small writes in itself, and would be called well and full in turns.
   */
  probe(): boolean {
    if (this.#held !== undefined) this.#apply(this.#held)
    this.#held = undefined
    try {
      this.transaction(() => this.#bytes.run('probe', new Uint8Array(this.#probeBytes)))
      this.transaction(() => this.#bytes.run('probe', null))
      return true
    } catch (error) {
      if (isFull(error)) return false
      throw error
    }
  }

  /** All of `change`, or nothing. */
  transaction<Result>(change: () => Result): Result {
    this.#begin.run()
    try {
      const result = change()
      this.#commit.run()
      return result
    } catch (error) {
      this.#rollBack(error)
      throw error
    }
  }

  #apply(group: Group): void {
    const { words, ids, due } = this.#derived
    const moved = this.transaction(() => {
      for (const { kind, id, text } of group.names) this.#name.run(kind, id, text)
      this.#insertEvents(group)
      this.#upsertDeliveries(group)
      if (group.cursor !== this.#cursor) this.#number.run('cursor', group.cursor)
      if (group.running !== undefined) {
        this.#bytes.run(
          'running',
          new Uint8Array(group.running.buffer, group.running.byteOffset, group.running.byteLength),
        )
      }
      return ids.move(group.events.length / eventWidth)
    })
    moved?.()
    this.#cursor = group.cursor
    for (const name of group.names) words.learn(name)
    for (let at = 0, pos = group.first; at < group.events.length; at += eventWidth, pos += 1)
      ids.add(pos, group.events[at] ?? 0)
    due.settled(group.settles)
  }

  #insertEvents({ first, events, payloads }: Group): void {
    const insert = this.#event
    let offset = 0
    for (let at = 0, pos = first; at < events.length; at += eventWidth, pos += 1) {
      const length = events[at + 3] ?? 0
      insert.run(
        pos,
        events[at] ?? 0,
        events[at + 1] ?? 0,
        events[at + 2] ?? 0,
        new Uint8Array(payloads, offset, length),
      )
      offset += length
    }
  }

  #upsertDeliveries({ settles: s, extras }: Group): void {
    const { letters, suspects } = this.#derived
    const upsert = this.#delivery
    let nextExtra = 0
    for (let at = 0, index = 0; at < s.length; at += settleWidth, index += 1) {
      const pos = s[at] ?? 0
      const rule = s[at + 1] ?? 0
      const state = s[at + 3] ?? 0
      const flags = s[at + 12] ?? 0
      upsert.run(
        pos,
        rule,
        s[at + 2] ?? 0,
        state,
        s[at + 4] ?? 0,
        orNull(s[at + 5]),
        s[at + 6] ?? 0,
        s[at + 7] ?? 0,
        s[at + 8] ?? 0,
        s[at + 9] ?? 0,
        s[at + 10] ?? 0,
        s[at + 11] ?? 0,
        flags & flagClaimed,
        orNull(s[at + 13]),
        orNull(s[at + 14]),
        orNull(s[at + 15]),
      )
      letters.remove(pos, rule)
      if (state === done || state === dead || (flags & flagAttempted) !== 0) suspects.clear(pos, rule)
      const extra = extras[nextExtra]
      if (extra?.index !== index) continue
      nextExtra += 1
      this.#addExtra(pos, rule, state, extra)
    }
  }

  #addExtra(pos: number, rule: number, state: number, { attempts, bytes, answer }: Extra): void {
    for (const { at, ms, status, outcome, request, note } of attempts) {
      this.#attempt.run(pos, rule, at, ms, status, outcome, request, note)
    }
    if (attempts.length > 0) this.#forgetAttempts.run(pos, rule)
    if (state === dead || state === parked) {
      this.#derived.letters.put(
        pos,
        rule,
        state === parked ? 1 : 0,
        bytes,
        answer === undefined ? null : JSON.stringify(answer),
      )
    }
  }

  #rollBack(cause: unknown): void {
    // A full disk has rolled back already; a second time would be an error that hides the first.
    if (this.#database.isTransaction) this.#database.exec('ROLLBACK')
    if (!isFull(cause)) return
    this.#derived.letters.recount()
    this.#derived.suspects.reload()
  }
}

function orNull(column: number | undefined): number | null {
  return column === undefined || column === absent ? null : column
}
