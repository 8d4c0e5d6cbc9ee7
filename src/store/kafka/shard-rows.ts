import { metaIdOf } from '../../event/event.ts'
import type { RequestOutcome } from '../../rule/rule.ts'
import { type AttemptEntry, deliveryStates, type LastAnswer } from '../store.ts'
import { blob, type Database, earlierThan, int, type Row, type Statement, text } from '../tables/database.ts'
import { hashId } from '../tables/event-id.ts'
import { dead, never, parked } from '../tables/format.ts'
import { parseLane } from '../tables/lane-name.ts'
import type { Numbers } from '../tables/numbers.ts'
import { readMore } from '../tables/progress.ts'
import { readStanding } from '../tables/standings.ts'
import { successKeptMs } from '../tables/starts.ts'
import type { Words } from '../tables/words.ts'
import { formatRow, type Origin, type WorkRow } from './row.ts'
import type { KeyStart, RowEvent, ShardSettle } from './shard-protocol.ts'

/** Within a millisecond of acceptance so many places. */
const placesPerMs = 4_096
/** Places count from here, so that they stay whole numbers until 2089. */
const placesSince = Date.UTC(2020, 0, 1)
/** Starters that are looked at together: more than are kept meanwhile, and few enough that nobody waits for it. */
const startersAtOnce = 5_000
/**
 * What this partition has beside the tables of the embedded store: whose event a place is, and what has changed since the
 * changelog was last told.
 */
const tables = `
  CREATE TABLE origins(
    pos INTEGER PRIMARY KEY, id TEXT NOT NULL, rule INTEGER NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL,
    off INTEGER NOT NULL, meta TEXT
  );
  CREATE UNIQUE INDEX origin_ids ON origins(id, rule);

  -- Keys of which the changelog has what is remembered.
  CREATE TABLE facts(rule INTEGER, key TEXT, PRIMARY KEY(rule, key)) WITHOUT ROWID;

  -- The events of newest starts and last successes, which outlive their rows; and of which key. event: JSON of a Starter.
  CREATE TABLE starters(pos INTEGER PRIMARY KEY, rule INTEGER NOT NULL, key TEXT NOT NULL, event TEXT NOT NULL);

  -- A conflict within a trigger is dealt with as the statement says that fired it: so there must be none.
  CREATE TEMP TABLE changed(pos INTEGER, rule INTEGER, PRIMARY KEY(pos, rule)) WITHOUT ROWID;
  CREATE TEMP TABLE changed_starts(rule INTEGER, key TEXT, PRIMARY KEY(rule, key)) WITHOUT ROWID;
  CREATE TEMP TABLE changed_roots(rule INTEGER, signature TEXT, time INTEGER, PRIMARY KEY(rule, signature, time)) WITHOUT ROWID;
  ${['INSERT', 'UPDATE'].map((event) => notes('deliveries', event, 'changed', ['pos', 'rule'])).join('')}
  ${['INSERT', 'UPDATE', 'DELETE'].map((event) => notes('starts', event, 'changed_starts', ['rule', 'key'])).join('')}
  ${['INSERT', 'UPDATE', 'DELETE'].map((event) => notes('roots', event, 'changed_roots', ['rule', 'signature', 'time'])).join('')}
`

/** Of what was accepted then, in ms. */
export function firstPlaceOf(accepted: number): number {
  return Math.max(0, accepted - placesSince) * placesPerMs
}

/** Of those of the same millisecond. */
export function firstPlaceWith(pos: number): number {
  return pos - (pos % placesPerMs)
}

/** A trigger that notes which row of a table has changed. */
function notes(table: string, event: string, changed: string, columns: readonly string[]): string {
  const row = event === 'DELETE' ? 'old' : 'new'
  const values = columns.map((column) => `${row}.${column}`)
  const isNoted = columns.map((column, index) => `${column} = ${values[index]}`).join(' AND ')
  return `CREATE TEMP TRIGGER ${table}_${event.toLowerCase()} AFTER ${event} ON ${table} BEGIN
    INSERT INTO ${changed} SELECT ${values.join(', ')} WHERE NOT EXISTS (SELECT 1 FROM ${changed} WHERE ${isNoted}); END;
  `
}

/** An event by whose call others are covered. */
export interface Starter {
  readonly event: RowEvent
  readonly metaId: string | undefined
}

/** A delivery as it was settled last. */
export interface StoredRow {
  readonly settle: ShardSettle
  readonly event: RowEvent
  readonly metaId: string | undefined
  /** How many calls were made before the attempts that are kept. */
  readonly earlierAttempts: number
  /** The place of the delivery whose call covers it. */
  readonly coveredBy: number | undefined
}

/** The rows of one partition, as they lie in their tables. */
export class ShardRows {
  readonly database: Database
  readonly #words: Words
  readonly #numbers: Numbers
  /** By their text; each is prepared once. */
  readonly #statements = new Map<string, Statement>()
  /** The last starter that was looked at. */
  #lookedAt = -1

  constructor(database: Database, words: Words, numbers: Numbers) {
    this.database = database
    this.#words = words
    this.#numbers = numbers
    database.exec(tables)
  }

  prepare(sql: string): Statement {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.database.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  /** The place of a delivery; undefined where there is no row. `id`: of its event. */
  find(id: string, rule: number): number | undefined {
    const pos = this.prepare('SELECT pos FROM origins WHERE id = ? AND rule = ?').get(id, rule)?.pos
    return typeof pos === 'number' ? pos : undefined
  }

  /** `event`: JSON of a Starter. A reload may have given it another key than it was called under before. */
  keepStarter(pos: number, rule: number, key: string, event: string): void {
    this.prepare(`
      INSERT INTO starters(pos, rule, key, event) VALUES (?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET key = excluded.key WHERE key <> excluded.key
    `).run(pos, rule, key, event)
  }

  /**
   * Of the next few starters those by which nothing is remembered any more; after the last the first are next. All at once they
   * would take a second of each million.
   */
  forgetStarters(): void {
    const last = this.prepare(
      'SELECT max(pos) AS pos FROM (SELECT pos FROM starters WHERE pos > ? ORDER BY pos LIMIT ?)',
    ).get(this.#lookedAt, startersAtOnce)?.pos
    if (typeof last !== 'number') {
      this.#lookedAt = -1
      return
    }
    this.prepare(`
      DELETE FROM starters WHERE pos > ? AND pos <= ? AND NOT EXISTS (
        SELECT 1 FROM starts WHERE starts.rule = starters.rule AND starts.key = starters.key
          AND starters.pos IN (starts.pos, starts.ok_pos))
    `).run(this.#lookedAt, last)
    this.#lookedAt = last
  }

  /** Of a call that ended well: what a later one of its key has said holds. */
  remember(rule: number, key: string, { pos, began, at, hash }: Pick<KeyStart, 'pos' | 'began' | 'at' | 'hash'>): void {
    this.prepare(`
      INSERT INTO starts(rule, key, pos, at, ok_pos, ok_h, ok_at, expires) VALUES (?1, ?2, ?3, ?4, ?3, ?5, ?6, ?7)
      ON CONFLICT(rule, key) DO UPDATE SET
        pos = max(pos, excluded.pos), at = iif(excluded.pos > pos, excluded.at, at),
        ok_pos = iif(excluded.ok_at > ifnull(ok_at, 0), excluded.ok_pos, ok_pos),
        ok_h = iif(excluded.ok_at > ifnull(ok_at, 0), excluded.ok_h, ok_h),
        ok_at = max(excluded.ok_at, ifnull(ok_at, 0)), expires = max(expires, excluded.expires)
    `).run(rule, key, pos, began, hash || null, at, at + successKeptMs)
  }

  /** As JSON; kept from now on, though its row goes. */
  keptStarter(pos: number, rule: number, key: string): string | undefined {
    const found = this.prepare('SELECT key, event FROM starters WHERE pos = ?').get(pos)
    if (found?.key === key) return text(found.event)
    const starter = this.starterAt(pos)
    if (starter === undefined) return undefined
    const json = JSON.stringify(starter)
    this.keepStarter(pos, rule, key, json)
    return json
  }

  /** Of a row, or of one that is gone but was the newest start of its key, or its last success. */
  starterAt(pos: number): Starter | undefined {
    const row = this.prepare(
      'SELECT id, topic, part, off, meta, stream, accepted FROM origins JOIN events USING (pos) WHERE pos = ?',
    ).get(pos)
    if (row !== undefined) return { event: this.#eventOf(row), metaId: metaOfRow(row) }
    const kept = this.prepare('SELECT event FROM starters WHERE pos = ?').get(pos)?.event
    return typeof kept === 'string' ? (JSON.parse(kept) as Starter) : undefined
  }

  deliveryIdAt(pos: number, rule: string): string | undefined {
    const starter = this.starterAt(pos)
    return starter === undefined ? undefined : `${starter.event.id}/${rule}`
  }

  #eventOf(row: Row): RowEvent {
    const origin: Origin = [text(row.topic), int(row.part), int(row.off)]
    return { id: text(row.id), stream: this.#words.of('stream', int(row.stream)), accepted: int(row.accepted), origin }
  }

  /** As the owner before us had it: nothing follows from it for others. */
  insertRow(pos: number, rule: number, row: WorkRow): void {
    const { progress, standing, attempts, earlierAttempts = 0, answer, stops } = row
    const isParked = row.reason === 'parked'
    const state = isParked ? parked : deliveryStates.indexOf(row.state)
    const until = row.state === 'waiting' ? (row.until ?? never) : null
    const key = standing?.key
    this.prepare(`
        INSERT INTO deliveries(pos, rule, lane, state, reason, until, at, revision, failures, first_at, finished, refused,
          claimed, more, key, turn, window, signature, time)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
      `).run(
      pos,
      rule,
      this.#numbers.ofLane({ rule: row.rule, key: row.lane }),
      state,
      this.#numbers.of('reason', row.reason),
      until,
      row.at,
      this.#numbers.of('revision', row.revision),
      progress.failures,
      progress.firstAttemptAt,
      progress.finished,
      progress.refused,
      row.claimed ? 1 : 0,
      progress.more === undefined ? null : JSON.stringify(progress.more),
      key?.text ?? null,
      key === undefined ? null : key.turn === 'newest' ? 0 : 1,
      key?.windowMs ?? null,
      standing?.root?.signature ?? null,
      standing?.root?.time ?? null,
    )
    const insert = this.prepare(
      'INSERT INTO attempts(pos, rule, n, at, ms, status, outcome, request, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
    )
    for (const [index, one] of attempts.entries()) {
      insert.run(
        pos,
        rule,
        earlierAttempts + index + 1,
        one.at,
        one.ms,
        one.status,
        this.#numbers.of('outcome', one.outcome),
        one.request,
        one.note,
      )
    }
    if (state === dead || isParked) {
      const json = answer === undefined ? null : JSON.stringify(answer)
      this.prepare(
        'INSERT INTO letters(pos, rule, parked, bytes, answer) SELECT pos, ?, ?, length(payload) + ?, ? FROM events WHERE pos = ?',
      ).run(rule, isParked ? 1 : 0, json?.length ?? 0, json, pos)
    }
    if (stops !== undefined) {
      this.prepare('INSERT INTO suspects(pos, rule, stops) VALUES (?, ?, ?)').run(pos, rule, stops)
    }
    this.learn()
  }

  remove(pos: number, rule: number): void {
    for (const table of ['deliveries', 'attempts', 'letters', 'suspects']) {
      this.prepare(`DELETE FROM ${table} WHERE pos = ? AND rule = ?`).run(pos, rule)
    }
    for (const table of ['events', 'origins']) this.prepare(`DELETE FROM ${table} WHERE pos = ?`).run(pos)
  }

  /**
   * A free place for an event: in the order of acceptance, and never that of a starter, though its row is gone. `isHeld`: whether
   * it is not free for another reason.
   */
  place(accepted: number, isHeld: (pos: number) => boolean): number {
    for (let from = firstPlaceOf(accepted); ; ) {
      const end = firstPlaceWith(from) + placesPerMs
      let pos = (this.#lastPlace(from, end) ?? from - 1) + 1
      while (pos < end && isHeld(pos)) pos += 1
      if (pos < end) return pos
      from = end
    }
  }

  #lastPlace(from: number, before: number): number | undefined {
    const taken = this.prepare(`
      SELECT max(pos) AS pos FROM (
        SELECT max(pos) AS pos FROM events WHERE pos >= ?1 AND pos < ?2
        UNION ALL SELECT max(pos) FROM starters WHERE pos >= ?1 AND pos < ?2)
    `).get(from, before)
    return typeof taken?.pos === 'number' ? taken.pos : undefined
  }

  /** Whether no row has that place. */
  isFree(pos: number): boolean {
    return this.prepare('SELECT 1 FROM events WHERE pos = ?').get(pos) === undefined
  }

  insert(pos: number, rule: number, { event, bytes }: Pick<ShardSettle, 'event' | 'bytes'>): void {
    const [topic, partition, offset] = event.origin
    const payload = bytes ?? new Uint8Array(0)
    const id = metaIdOf(payload)
    this.prepare('INSERT INTO events(pos, h, stream, accepted, payload) VALUES (?, ?, ?, ?, ?)').run(
      pos,
      id === undefined ? 0 : hashId(id),
      this.#numbers.of('stream', event.stream),
      event.accepted,
      payload,
    )
    this.prepare('INSERT INTO origins(pos, id, rule, topic, part, off, meta) VALUES (?, ?, ?, ?, ?, ?, ?)').run(
      ...[pos, event.id, rule, topic, partition, offset, id ?? null],
    )
  }

  payload(pos: number): Uint8Array {
    return blob(this.prepare('SELECT payload FROM events WHERE pos = ?').get(pos)?.payload)
  }

  payloadBytes(pos: number): number {
    return int(this.prepare('SELECT length(payload) AS length FROM events WHERE pos = ?').get(pos)?.length)
  }

  /** The service's thread knows no numbers here: words are made and read on this one. */
  learn(): void {
    for (const name of this.#numbers.takeFresh()) this.#words.learn(name)
  }

  /** A row as it was settled. */
  read(pos: number, rule: number): StoredRow {
    const row = this.prepare(`
      SELECT deliveries.*, stream, accepted, id, topic, part, off, meta
      FROM deliveries JOIN events USING (pos) JOIN origins USING (pos) WHERE deliveries.pos = ? AND deliveries.rule = ?
    `).get(pos, rule)
    if (row === undefined) throw new Error(`there is no delivery at ${pos}`)
    const event = this.#eventOf(row)
    const state = int(row.state)
    const answer = state === dead || state === parked ? this.#answerOf(pos, rule) : undefined
    const attempts = this.prepare('SELECT * FROM attempts WHERE pos = ? AND rule = ? ORDER BY n').all(pos, rule)
    const settle: ShardSettle = {
      lane: parseLane(this.#words.of('lane', int(row.lane))),
      event,
      bytes: undefined,
      state: state === parked ? 'waiting' : (deliveryStates[state] ?? 'waiting'),
      // Written by us, from what the contract lists.
      reason: this.#words.of('reason', int(row.reason)) as ShardSettle['reason'],
      revision: this.#words.of('revision', int(row.revision)),
      at: int(row.at),
      until: row.until === null ? 0 : row.until === never ? Number.POSITIVE_INFINITY : int(row.until),
      progress: {
        failures: int(row.failures),
        firstAttemptAt: int(row.first_at),
        finished: int(row.finished),
        refused: int(row.refused),
        ...readMore(row.more),
      },
      claimed: row.claimed === 1,
      attempts: attempts.map((one) => this.#attemptOf(one)),
      answer,
      standing: readStanding(row),
    }
    return {
      settle,
      event,
      metaId: metaOfRow(row),
      earlierAttempts: earlierThan(attempts),
      coveredBy: typeof row.covered_by === 'number' ? row.covered_by : undefined,
    }
  }

  #answerOf(pos: number, rule: number): LastAnswer | undefined {
    const answer = this.prepare('SELECT answer FROM letters WHERE pos = ? AND rule = ?').get(pos, rule)?.answer
    return typeof answer === 'string' ? (JSON.parse(answer) as LastAnswer) : undefined
  }

  #attemptOf(row: Row): AttemptEntry {
    return {
      at: int(row.at),
      ms: int(row.ms),
      status: int(row.status),
      // Written by us, from what the contract lists.
      outcome: this.#words.of('outcome', int(row.outcome)) as RequestOutcome,
      request: int(row.request),
      note: text(row.note),
    }
  }

  /** Within a transaction it is a part of that. */
  transaction<Result>(change: () => Result): Result {
    if (this.database.isTransaction) return change()
    this.database.exec('BEGIN')
    try {
      const result = change()
      this.database.exec('COMMIT')
      return result
    } catch (error) {
      if (this.database.isTransaction) this.database.exec('ROLLBACK')
      throw error
    }
  }

  /** Of a row that is there. */
  eventAt(pos: number): RowEvent {
    const starter = this.starterAt(pos)
    if (starter === undefined) throw new Error(`there is no event at ${pos}`)
    return starter.event
  }

  /** As the changelog has it. */
  format(pos: number, rule: number, { settle, event, earlierAttempts }: StoredRow): Buffer {
    const stops = this.prepare('SELECT stops FROM suspects WHERE pos = ? AND rule = ?').get(pos, rule)?.stops
    const row: WorkRow = {
      id: event.id,
      rule: settle.lane.rule,
      lane: settle.lane.key,
      stream: event.stream,
      accepted: event.accepted,
      origin: event.origin,
      state: settle.state,
      reason: settle.reason,
      until: settle.until === Number.POSITIVE_INFINITY ? null : settle.until,
      at: settle.at,
      revision: settle.revision,
      progress: settle.progress,
      claimed: settle.claimed,
      attempts: settle.attempts,
      ...(earlierAttempts === 0 ? {} : { earlierAttempts }),
      standing: settle.standing,
      answer: settle.answer,
      ...(typeof stops === 'number' ? { stops } : {}),
      pos,
    }
    return formatRow(row, this.payload(pos))
  }
}

function metaOfRow({ meta }: Row): string | undefined {
  return typeof meta === 'string' ? meta : undefined
}
