import { type Database, isFull, type Statement } from './database.ts'
import type { DueLane, DueRows } from './due.ts'
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
} from './format.ts'
import type { MetaIds } from './ids.ts'
import type { Letters } from './letters.ts'
import type { Amended, Decided, Moved, Standings } from './standings.ts'
import type { Suspects } from './suspects.ts'
import type { Words } from './words.ts'

/** What a commit keeps in step with the tables. */
export interface Derived {
  readonly words: Words
  readonly ids: MetaIds
  readonly letters: Letters
  readonly suspects: Suspects
  readonly due: DueRows
  readonly standings: Standings
}

/** What the group did to others than it spoke of, by index of the settlement. */
export interface Effect {
  readonly index: number
  readonly amended: Amended | undefined
  readonly moved: Moved
  readonly due: readonly DueLane[]
}

/** Of a delivery. */
export const keptAttempts = 50
const noEvents = new Float64Array(0)
const noBytes = new ArrayBuffer(0)
const noEffects: readonly Effect[] = []
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
        claimed, began, ms, status, more)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
      ON CONFLICT(pos, rule) DO UPDATE SET lane = excluded.lane, state = excluded.state, reason = excluded.reason,
        until = excluded.until, at = excluded.at, revision = excluded.revision, failures = excluded.failures,
        first_at = excluded.first_at, finished = excluded.finished, refused = excluded.refused,
        claimed = excluded.claimed, began = coalesce(excluded.began, began), ms = coalesce(excluded.ms, ms),
        status = coalesce(excluded.status, status), more = excluded.more
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

  /** Whether a full disk keeps back what speaks of numbers that no row has yet. */
  get isHolding(): boolean {
    return this.#held !== undefined
  }

  /** Throws where the disk is full: then the events are refused, and the rest is kept for `probe`. */
  apply(group: Group): readonly Effect[] {
    // What the rows say of others is judged anew when they are written in the end.
    const isIdle = this.#derived.standings.isIdle && group.extras.every(({ standing }) => standing === undefined)
    const settles = isIdle ? group.settles : group.settles.slice()
    try {
      return this.#apply(group)
    } catch (error) {
      this.#held = { ...group, settles, events: noEvents, payloads: noBytes }
      this.#probeBytes = Math.min(largestProbe, Math.max(smallestProbe, group.payloads.byteLength))
      throw error
    }
  }

  /**
   * Throws where what was kept still cannot be written. Says whether there is room for as much as was refused, too: a log
   * that is full has room for small writes in itself, and would be called well and full in turns.
   */
  probe(): { readonly hasRoom: boolean; readonly effects: readonly Effect[] } {
    const held = this.#held
    const effects = held === undefined ? noEffects : this.#apply({ ...held, settles: held.settles.slice() })
    this.#held = undefined
    try {
      this.transaction(() => this.#bytes.run('probe', new Uint8Array(this.#probeBytes)))
      this.transaction(() => this.#bytes.run('probe', null))
      return { hasRoom: true, effects }
    } catch (error) {
      if (isFull(error)) return { hasRoom: false, effects }
      throw error
    }
  }

  /** All of `change`, or nothing. Within a transaction it is a part of that. */
  transaction<Result>(change: () => Result): Result {
    if (this.#database.isTransaction) return change()
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

  #apply(group: Group): readonly Effect[] {
    const { words, ids, due } = this.#derived
    let effects: Map<number, Effect> | undefined
    const moveIds = this.transaction(() => {
      for (const { kind, id, text } of group.names) this.#name.run(kind, id, text)
      this.#insertEvents(group)
      effects = this.#upsertDeliveries(group)
      if (group.cursor !== this.#cursor) this.#number.run('cursor', group.cursor)
      if (group.running !== undefined) {
        this.#bytes.run(
          'running',
          new Uint8Array(group.running.buffer, group.running.byteOffset, group.running.byteLength),
        )
      }
      return ids.move(group.events.length / eventWidth)
    })
    moveIds?.()
    this.#cursor = group.cursor
    for (const name of group.names) words.learn(name)
    for (let at = 0, pos = group.first; at < group.events.length; at += eventWidth, pos += 1)
      ids.add(pos, group.events[at] ?? 0)
    const freed = due.settled(group.settles)
    if (effects === undefined && freed.size === 0) return noEffects
    const all = effects ?? new Map<number, Effect>()
    // Who ended was in nobody's hands: its key was free already, but others may have waited for it.
    for (const [index, effect] of all) {
      if (effect.moved.length === 0 || freed.has(index)) continue
      const at = index * settleWidth
      all.set(index, { ...effect, due: due.besides(group.settles[at] ?? 0, group.settles[at + 1] ?? 0) })
    }
    for (const [index, lanes] of freed) {
      all.set(index, { index, amended: undefined, moved: [], ...all.get(index), due: lanes })
    }
    return [...all.values()]
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

  #upsertDeliveries({ settles: s, extras }: Group): Map<number, Effect> | undefined {
    const { letters, suspects, standings } = this.#derived
    const upsert = this.#delivery
    let effects: Map<number, Effect> | undefined
    let nextExtra = 0
    for (let at = 0, index = 0; at < s.length; at += settleWidth, index += 1) {
      const pos = s[at] ?? 0
      const rule = s[at + 1] ?? 0
      const flags = s[at + 12] ?? 0
      let extra = extras[nextExtra]
      if (extra?.index === index) nextExtra += 1
      else extra = undefined
      const relation =
        extra?.standing === undefined && !standings.concerns(rule)
          ? undefined
          : standings.relate(decidedAt(s, at), extra?.standing)
      if (relation !== undefined) {
        // What is read after the commit is what became of it.
        s[at + 3] = relation.amended.state
        s[at + 4] = relation.amended.reason
        s[at + 5] = relation.amended.until ?? absent
      }
      const state = s[at + 3] ?? 0
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
        extra?.more ?? null,
      )
      if (relation !== undefined) {
        const { isAmended, amended } = relation
        const moved = standings.follow(relation)
        if (isAmended || moved.length > 0) {
          effects ??= new Map()
          effects.set(index, { index, amended: isAmended ? amended : undefined, moved, due: [] })
        }
      }
      letters.remove(pos, rule)
      if (state === done || state === dead || (flags & flagAttempted) !== 0) suspects.clear(pos, rule)
      if (extra !== undefined) this.#addExtra(pos, rule, state, extra)
    }
    return effects
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

function decidedAt(s: Float64Array, at: number): Decided {
  return {
    pos: s[at] ?? 0,
    rule: s[at + 1] ?? 0,
    state: s[at + 3] ?? 0,
    reason: s[at + 4] ?? 0,
    until: orNull(s[at + 5]),
    at: s[at + 6] ?? 0,
    firstAttemptAt: s[at + 9] ?? 0,
    ran: ((s[at + 12] ?? 0) & flagAttempted) !== 0,
  }
}

function orNull(column: number | undefined): number | null {
  return column === undefined || column === absent ? null : column
}
