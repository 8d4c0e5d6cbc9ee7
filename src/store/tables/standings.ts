import type { Key, Standing } from '../store.ts'
import { type Database, int, type Row, type Statement, text } from './database.ts'
import { dead, done, never, running, waiting } from './format.ts'
import { isRepeat, readStart, successKeptMs, windowEnd } from './starts.ts'
import type { Words } from './words.ts'

const rootsKeptMs = 604_800_000
const expiredAtOnce = 500

/** A settlement on its way into its row, by the numbers of the store. */
export interface Decided {
  readonly pos: number
  readonly rule: number
  readonly state: number
  readonly reason: number
  /** Null where it does not wait. */
  readonly until: number | null
  readonly at: number
  /** When its first attempt began. */
  readonly firstAttemptAt: number
  /** A call was made since the last settlement. */
  readonly ran: boolean
}

/** What becomes of it in the light of others. */
export interface Amended {
  readonly state: number
  readonly reason: number
  readonly until: number | null
  /** Position of the delivery that it is a duplicate of. */
  readonly coveredBy: number | null
}

export interface Relation {
  readonly decided: Decided
  readonly standing: Standing | undefined
  /** The row as it was. */
  readonly before: Row | undefined
  readonly amended: Amended
  readonly isAmended: boolean
}

/** A call of a key that has been made. `hash`: of its event's `meta.id`, 0 for none. */
export type Called = Pick<Decided, 'pos' | 'rule' | 'at' | 'firstAttemptAt'> & { readonly hash: number }

type LaterRoot = (rule: number, signature: string, time: number) => boolean

/** What stands to deliveries beyond their tables. */
export interface Beyond {
  /** Whether a later root event than that counts which is not in these tables. */
  readonly hasLater: LaterRoot
  /** Those of a key that somebody has in hand: they are not counted as waiting any more. */
  readonly inHand: (rule: number, key: string) => readonly number[]
}

/** Nobody has one in hand whose key another is called under. */
const noneBeyond: Beyond = { hasLater: () => false, inHand: () => [] }

/** Others that wait for something else now, or are done: from one reason to another, and how many. */
export type Moved = readonly { readonly from: number; readonly to: number; readonly count: number }[]

/**
 * How deliveries of one rule stand to one another: whose turn it is within a key, which are covered by a newer one, and
 * which root events are superseded. All of it is derived from live rows, but for two bounded memories: when a key's
 * newest call started (`starts`), and which root events were accepted (`roots`).
 */
export class Standings {
  readonly #concerned = new Set<number>()
  readonly #reasons: Readonly<Record<'key' | 'slot' | 'retry' | 'ok' | 'ignored' | 'discarded' | 'duplicate', number>>
  readonly #before: Statement
  readonly #columns: Statement
  readonly #hash: Statement
  readonly #start: Statement
  readonly #putStart: Statement
  readonly #retryUntil: Statement
  readonly #unheld: Statement
  readonly #ahead: Statement
  readonly #stand: Statement
  readonly #hasOlder: Statement
  readonly #coverable: Statement
  readonly #cover: Statement
  readonly #hasSooner: Statement
  readonly #sooner: Statement
  readonly #postpone: Statement
  readonly #held: Statement
  readonly #release: Statement
  readonly #heldKeys: Statement
  readonly #countRoot: Statement
  readonly #laterRoot: Statement
  readonly #beyond: Beyond
  readonly #expired: readonly Statement[]

  /** Within a transaction: reasons that we give are named. */
  constructor(database: Database, words: Words, beyond = noneBeyond) {
    this.#beyond = beyond
    const reason = (text: string) => words.intern('reason', text)
    this.#reasons = {
      key: reason('key'),
      slot: reason('slot'),
      retry: reason('retry'),
      ok: reason('ok'),
      ignored: reason('ignored'),
      discarded: reason('discarded'),
      duplicate: reason('duplicate'),
    }
    const some = database.prepare(
      'SELECT 1 FROM deliveries WHERE rule = ? AND state <> 2 AND (key IS NOT NULL OR signature IS NOT NULL) LIMIT 1',
    )
    for (const rule of words.ids('rule')) if (some.get(rule) !== undefined) this.#concerned.add(rule)
    const live = 'rule = ? AND key = ? AND state < 2'
    this.#before = database.prepare(
      'SELECT state, reason, key, turn, window, signature, time, covered_by FROM deliveries WHERE pos = ? AND rule = ?',
    )
    this.#columns = database.prepare(
      'SELECT at, key, turn, window, signature, time FROM deliveries WHERE pos = ? AND rule = ?',
    )
    this.#hash = database.prepare('SELECT h FROM events WHERE pos = ?')
    this.#start = database.prepare('SELECT pos, at, ok_pos, ok_h, ok_at FROM starts WHERE rule = ? AND key = ?')
    this.#putStart = database.prepare(`
      INSERT OR REPLACE INTO starts(rule, key, pos, at, ok_pos, ok_h, ok_at, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    `)
    this.#retryUntil = database.prepare(
      `SELECT max(until) AS until FROM deliveries WHERE ${live} AND pos < ? AND state = 0 AND reason = ?`,
    )
    this.#unheld = database.prepare(
      `SELECT 1 FROM deliveries WHERE ${live} AND pos <> ? AND (state = 1 OR until < ${never}) LIMIT 1`,
    )
    this.#ahead = database.prepare(
      `SELECT 1 FROM deliveries WHERE ${live} AND pos <> ? AND (state = 1 OR until < ${never} OR pos < ?) LIMIT 1`,
    )
    this.#stand = database.prepare(`
      UPDATE deliveries SET key = ?, turn = ?, window = ?, signature = ?, time = ?, covered_by = ? WHERE pos = ? AND rule = ?
    `)
    const older = `${live} AND pos < ?`
    const sooner = `${live} AND pos > ? AND state = 0 AND until < ? AND reason <> ?`
    const byReason = 'AND pos NOT IN (SELECT value FROM json_each(?)) GROUP BY reason'
    // Of most there are none.
    this.#hasOlder = database.prepare(`SELECT 1 FROM deliveries WHERE ${older} LIMIT 1`)
    this.#coverable = database.prepare(
      `SELECT reason, count(*) AS count FROM deliveries WHERE ${older} AND state = 0 ${byReason}`,
    )
    this.#hasSooner = database.prepare(`SELECT 1 FROM deliveries WHERE ${sooner} LIMIT 1`)
    this.#sooner = database.prepare(`SELECT reason, count(*) AS count FROM deliveries WHERE ${sooner} ${byReason}`)
    this.#cover = database.prepare(
      `UPDATE deliveries SET state = 2, reason = ?, until = NULL, at = ?, covered_by = ? WHERE ${older}`,
    )
    this.#postpone = database.prepare(`UPDATE deliveries SET until = ?, reason = ? WHERE ${sooner}`)
    this.#held = database.prepare(`SELECT pos FROM deliveries WHERE ${live} AND until = ${never} ORDER BY pos LIMIT 1`)
    this.#release = database.prepare('UPDATE deliveries SET until = ?, reason = ? WHERE pos = ? AND rule = ?')
    this.#heldKeys = database.prepare(
      `SELECT DISTINCT rule, key FROM deliveries WHERE state = 0 AND turn = ${turns.oldest} AND until = ${never}`,
    )
    this.#countRoot = database.prepare(`
      INSERT INTO roots(rule, signature, time, alive, expires) VALUES (?, ?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET alive = alive + excluded.alive, expires = excluded.expires
    `)
    this.#laterRoot = database.prepare(
      'SELECT 1 FROM roots WHERE rule = ? AND signature = ? AND time > ? AND alive > 0 LIMIT 1',
    )
    this.#expired = ['starts', 'roots'].map((table) =>
      database.prepare(
        `DELETE FROM ${table} WHERE expires < ?1 AND (rule, ${table === 'starts' ? 'key' : 'signature, time'}) IN
           (SELECT rule, ${table === 'starts' ? 'key' : 'signature, time'} FROM ${table} WHERE expires < ?1 LIMIT ${expiredAtOnce}) RETURNING 1`,
      ),
    )
  }

  get isIdle(): boolean {
    return this.#concerned.size === 0
  }

  /** Whether deliveries of a rule may stand in some relation. What is not concerned costs nothing. */
  concerns(rule: number): boolean {
    return this.#concerned.has(rule)
  }

  /** What becomes of a delivery in the light of others. Its row is then to be written, and `follow` to be called. */
  relate(decided: Decided, standing: Standing | undefined): Relation {
    const before = this.#before.get(decided.pos, decided.rule)
    const amended = this.#amend(decided, standing, before)
    const isAmended = amended.reason !== decided.reason || amended.until !== decided.until
    return { decided, standing, before, amended, isAmended }
  }

  #amend(decided: Decided, standing: Standing | undefined, before: Row | undefined): Amended {
    const { pos, rule, state, reason, until, at } = decided
    const asDecided = { state, reason, until, coveredBy: null }
    // It ended before this was decided of it, or with this: a newer one was called.
    if (typeof before?.covered_by === 'number' && state !== running) return this.#duplicateOf(before.covered_by)
    const key = standing?.key
    if (key === undefined || state !== waiting || until === null) return asDecided
    if (key.turn === 'oldest') {
      // Who comes to a key that nobody has is still behind those who wait for it.
      const holder =
        before?.key === key.text ? this.#unheld.get(rule, key.text, pos) : this.#ahead.get(rule, key.text, pos, pos)
      return holder !== undefined ? { ...asDecided, reason: this.#reasons.key, until: never } : asDecided
    }
    const start = readStart(this.#start.get(rule, key.text))
    if (start !== undefined && start.pos > pos) return this.#duplicateOf(start.pos)
    // It has been judged, and is only called again.
    if (before?.key === key.text) return asDecided
    if (start?.ok !== undefined && isRepeat(start, int(this.#hash.get(pos)?.h), key, at))
      return this.#duplicateOf(start.ok.pos)
    let wait = asDecided
    const retryUntil = this.#retryUntil.get(rule, key.text, pos, this.#reasons.retry)?.until
    if (typeof retryUntil === 'number' && retryUntil > until) {
      wait = { ...wait, reason: this.#reasons.retry, until: retryUntil }
    }
    // Retries are exempt, also where a reload gave them another key.
    const isFresh = decided.firstAttemptAt === 0
    const end = start === undefined || !isFresh ? 0 : windowEnd(start, key)
    return end > (wait.until ?? 0) ? { ...wait, reason: this.#reasons.key, until: end } : wait
  }

  /** The row is written: what follows from it for others. */
  follow({ decided, standing, before, amended }: Relation): Moved {
    const { pos, rule, at } = decided
    const { key, root } = standing ?? {}
    if (standing !== undefined) this.#concerned.add(rule)
    const columns = [key?.text ?? null, key === undefined ? null : turns[key.turn], key?.windowMs ?? null]
    this.#stand.run(...columns, root?.signature ?? null, root?.time ?? null, amended.coveredBy, pos, rule)
    this.#recount(rule, before, amended, root, at + rootsKeptMs)
    if (before?.turn === turns.oldest && typeof before.key === 'string') {
      const isLive = amended.state === waiting || amended.state === running
      if (!isLive || before.key !== key?.text || key.turn !== 'oldest')
        return this.#releaseNext(rule, before.key, pos, at)
    }
    if (key?.turn !== 'newest' || !decided.ran || amended.coveredBy !== null) return nothing
    return this.#called({ ...decided, hash: this.#hashOf(pos) }, amended, key)
  }

  /** Of the root that it had before, if any, and of the one that it has now. */
  #recount(
    rule: number,
    before: Row | undefined,
    { state, reason }: Amended,
    root: Standing['root'],
    expires: number,
  ): void {
    const had = before === undefined ? undefined : readStanding(before)?.root
    const counted = had !== undefined && this.#counts(int(before?.state), int(before?.reason)) ? had : undefined
    const counts = this.#counts(state, reason) ? root : undefined
    if (counted?.signature === counts?.signature && counted?.time === counts?.time) return
    if (counted !== undefined) this.#countRoot.run(rule, counted.signature, counted.time, -1, expires)
    if (counts !== undefined) this.#countRoot.run(rule, counts.signature, counts.time, 1, expires)
  }

  /** A call of the key has been made: it saw all that older deliveries could have told. */
  #called(
    { pos, rule, at, firstAttemptAt, hash }: Called,
    { state, reason, until }: Pick<Amended, 'state' | 'reason' | 'until'>,
    key: Key,
  ): Moved {
    const { text, windowMs } = key
    const moved: { from: number; to: number; count: number }[] = []
    const inHand = () => JSON.stringify(this.#beyond.inHand(rule, text))
    const tell = (rows: readonly Row[], to: number) => {
      for (const { reason, count } of rows) moved.push({ from: int(reason), to, count: int(count) })
    }
    if (this.#hasOlder.get(rule, text, pos) !== undefined) {
      tell(this.#coverable.all(rule, text, pos, inHand()), this.#reasons.duplicate)
      this.#cover.run(this.#reasons.duplicate, at, pos, rule, text, pos)
    }

    const postpone = (to: number, end: number) => {
      const sooner = [rule, text, pos, end, this.#reasons.retry]
      if (this.#hasSooner.get(...sooner) === undefined) return
      tell(this.#sooner.all(...sooner, inHand()), to)
      this.#postpone.run(end, to, ...sooner)
    }
    if (windowMs > 0) postpone(this.#reasons.key, firstAttemptAt + windowMs)
    if (state === waiting && reason === this.#reasons.retry && until !== null) postpone(this.#reasons.retry, until)

    const isOk = state === done && (reason === this.#reasons.ok || reason === this.#reasons.ignored)
    const success = isOk ? [pos, hash || null, at] : this.#lastSuccess(rule, text)
    this.#putStart.run(rule, text, pos, firstAttemptAt, ...success, at + Math.max(windowMs, successKeptMs))
    return moved
  }

  /** As `starts` has it. */
  #lastSuccess(rule: number, key: string): readonly (number | null)[] {
    const { ok } = readStart(this.#start.get(rule, key)) ?? {}
    return [ok?.pos ?? null, ok?.hash ?? null, ok?.at ?? null]
  }

  /** Within a transaction: a call of a key has ended well whose delivery never had a row. */
  ended(call: Called, key: Key): Moved {
    this.#concerned.add(call.rule)
    return this.#called(call, { state: done, reason: this.#reasons.ok, until: null }, key)
  }

  #hashOf(pos: number): number {
    return int(this.#hash.get(pos)?.h)
  }

  /** Within a transaction: a delivery died without a settlement. */
  interrupted(pos: number, rule: number, now: number): void {
    const row = this.#columns.get(pos, rule)
    if (row === undefined) return
    this.callLost(pos, rule, now)
    const { key, turn, signature, time } = row
    if (typeof key === 'string' && turn === turns.oldest) this.#releaseNext(rule, key, pos, now)
    if (typeof signature === 'string') this.#countRoot.run(rule, signature, int(time), -1, now + rootsKeptMs)
  }

  /**
   * Within a transaction: what came of its call is not known, and it is not repeated. It may have been carried out, and covers
   * what is older as any call does.
   */
  callLost(pos: number, rule: number, now: number): void {
    const row = this.#columns.get(pos, rule)
    const key = row === undefined ? undefined : readStanding(row)?.key
    if (row === undefined || key?.turn !== 'newest') return
    const call = { pos, rule, at: now, firstAttemptAt: int(row.at), hash: this.#hashOf(pos) }
    this.#called(call, { state: dead, reason: 0, until: null }, key)
  }

  /** Within a transaction: the first of each key that nobody holds back any more. Says which they are. */
  releaseOrphans(now: number): { readonly pos: number; readonly rule: number }[] {
    return this.#heldKeys.all().flatMap(({ rule, key }) => {
      const pos = this.#releaseFirst(int(rule), text(key), now)
      return pos === undefined ? [] : [{ pos, rule: int(rule) }]
    })
  }

  /** Whether an event with a later time was accepted, and is neither dead nor discarded. */
  isSuperseded(rule: number, signature: string, time: number): boolean {
    return this.#laterRoot.get(rule, signature, time) !== undefined || this.#beyond.hasLater(rule, signature, time)
  }

  /** Within a transaction; so many at once. Says how many there were. */
  forgetExpired(now: number): number {
    return this.#expired.reduce((sum, expired) => sum + Number(expired.all(now).length), 0)
  }

  #duplicateOf(pos: number): Amended {
    return { state: done, reason: this.#reasons.duplicate, until: null, coveredBy: pos }
  }

  #counts(state: number, reason: number): boolean {
    return state !== dead && !(state === done && reason === this.#reasons.discarded)
  }

  #releaseNext(rule: number, key: string, pos: number, at: number): Moved {
    const released = this.#releaseFirst(rule, key, at, pos)
    return released === undefined ? nothing : [{ from: this.#reasons.key, to: this.#reasons.slot, count: 1 }]
  }

  /** The first that is held, if none of its key goes on but `ending`. */
  #releaseFirst(rule: number, key: string, at: number, ending = -1): number | undefined {
    if (this.#unheld.get(rule, key, ending) !== undefined) return undefined
    const next = this.#held.get(rule, key)
    if (next === undefined) return undefined
    this.#release.run(at, this.#reasons.slot, int(next.pos), rule)
    return int(next.pos)
  }
}

/** On disk. */
const turns = { newest: 0, oldest: 1 } as const
const nothing: Moved = []

/** From the columns of a delivery. */
export function readStanding({ key, turn, window, signature, time }: Row): Standing | undefined {
  if (typeof key !== 'string' && typeof signature !== 'string') return undefined
  return {
    ...(typeof key === 'string'
      ? { key: { text: key, turn: turn === turns.newest ? 'newest' : 'oldest', windowMs: int(window) } }
      : {}),
    ...(typeof signature === 'string' ? { root: { signature, time: int(time) } } : {}),
  }
}
