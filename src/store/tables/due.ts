import { blob, type Database, int, type Statement } from './database.ts'
import { never, running, type StoredRecord, settleWidth, type TakenRow, waiting } from './format.ts'
import { readMore } from './progress.ts'
import { readStanding, type Standings } from './standings.ts'
import type { Suspects } from './suspects.ts'
import type { Words } from './words.ts'

/** A page holds no more payload than this, unless one event alone is larger. */
const pageBytes = 4_194_304
/** Of a lane, read at once; no fewer than that, since some may be passed over. */
const fewestKeys = 32
const keysAtOnce = 256
const followersCounted = 1_001

export interface DueLane {
  readonly lane: number
  readonly until: number
}

const noneDue: ReadonlyMap<number, readonly DueLane[]> = new Map()

interface Place {
  until: number
  pos: number
}

const start: Readonly<Place> = { until: -1, pos: -1 }

/**
 * Waiting rows, lane by lane in the order of their time. A row that was handed out stays in the table as it is until its
 * next settlement; it is remembered until then, and passed over when a lane is read again from further down.
 */
export class DueRows {
  readonly #words: Words
  readonly #suspects: Suspects
  /** Up to where a lane has been handed out. */
  readonly #places = new Map<number, Place>()
  /** Positions handed out, by rule, with their keys. */
  readonly #out = new Map<number, Map<number, string | undefined>>()
  /** Keys handed out, by rule; and how often: who comes to one that somebody has in memory is sent back. */
  readonly #keysOut = new Map<number, Map<string, number>>()
  readonly #standings: Standings
  readonly #keys: Statement
  readonly #row: Statement
  readonly #key: Statement
  readonly #newestDue: Statement
  readonly #followers: Statement
  readonly #ofKey: Statement

  constructor(database: Database, words: Words, suspects: Suspects, standings: Standings) {
    this.#words = words
    this.#suspects = suspects
    this.#standings = standings
    this.#keys = database.prepare(`
      SELECT until, pos, rule FROM deliveries
      WHERE state = 0 AND lane = ? AND (until, pos) > (?, ?) ORDER BY until, pos LIMIT ?
    `)
    this.#row = database.prepare(`
      SELECT reason, revision, failures, first_at, finished, refused, more, key, turn, window, signature, time,
        stream, accepted, payload
      FROM deliveries JOIN events USING (pos) WHERE deliveries.pos = ? AND rule = ?
    `)
    const live = 'rule = ? AND key = ? AND state < 2'
    this.#key = database.prepare('SELECT key, turn FROM deliveries WHERE pos = ? AND rule = ?')
    this.#newestDue = database.prepare(
      `SELECT pos, lane FROM deliveries WHERE ${live} AND state = 0 AND until <= ? ORDER BY pos DESC LIMIT 1`,
    )
    this.#followers = database.prepare(
      `SELECT count(*) AS count FROM (SELECT 1 FROM deliveries WHERE ${live} AND until = ${never} LIMIT ${followersCounted})`,
    )
    this.#ofKey = database.prepare(
      `SELECT lane, min(until) AS until FROM deliveries WHERE ${live} AND state = 0 AND until < ${never} GROUP BY lane`,
    )
  }

  take(lane: number, now: number, limit: number): { readonly rows: readonly TakenRow[]; readonly nextUntil: number } {
    const place = this.#places.get(lane) ?? { ...start }
    this.#places.set(lane, place)
    const rows: TakenRow[] = []
    let bytes = 0
    for (;;) {
      const wanted = Math.max(fewestKeys, Math.min(keysAtOnce, limit - rows.length + 1))
      const keys = this.#keys.all(lane, place.until, place.pos, wanted)
      for (const key of keys) {
        const until = int(key.until)
        const pos = int(key.pos)
        const rule = int(key.rule)
        if (this.#out.get(rule)?.has(pos) !== true) {
          if (until > now || rows.length >= limit || bytes >= pageBytes) {
            return { rows, nextUntil: until === never ? Number.POSITIVE_INFINITY : until }
          }
          const chosen = this.#standings.concerns(rule) ? this.#choose(pos, rule, lane, now) : pos
          if (chosen !== undefined) {
            const row = this.#read(chosen, rule)
            rows.push(row)
            bytes += row.event.payload.length
            this.handOut(chosen, rule, row.standing?.key?.text)
          }
        }
        place.until = until
        place.pos = pos
      }
      if (keys.length < wanted) return { rows, nextUntil: Number.POSITIVE_INFINITY }
    }
  }

  /**
   * Settlements are durable: what they speak of is in nobody's hands any more, and may wait in its lane again. Comes back
   * with the lanes in which keys are free by that, for each settlement that freed one.
   */
  settled(settles: Float64Array): ReadonlyMap<number, readonly DueLane[]> {
    let due: Map<number, readonly DueLane[]> | undefined
    for (let at = 0; at < settles.length; at += settleWidth) {
      const pos = settles[at] ?? 0
      const rule = settles[at + 1] ?? 0
      const state = settles[at + 3]
      if (state === waiting) this.rewind(settles[at + 2] ?? 0, settles[at + 5] ?? 0, pos)
      const out = this.#out.get(rule)
      const key = out?.get(pos)
      if (state === running && key !== undefined) continue
      // Who got a row while it runs was never handed out.
      if (state === running && out?.has(pos) !== true && this.#standings.concerns(rule)) {
        this.#takeKey(pos, rule)
        continue
      }
      out?.delete(pos)
      if (key === undefined) continue
      due ??= new Map()
      due.set(at / settleWidth, this.#free(rule, key))
    }
    return due ?? noneDue
  }

  /** Nobody else of its key is handed out until it is settled again. */
  #takeKey(pos: number, rule: number): void {
    const key = this.#key.get(pos, rule)?.key
    if (typeof key === 'string') this.handOut(pos, rule, key)
  }

  isOut(pos: number, rule: number): boolean {
    return this.#out.get(rule)?.has(pos) === true
  }

  /** Those of the key that are handed out. */
  outOf(rule: number, key: string): readonly number[] {
    if (this.#keysOut.get(rule)?.has(key) !== true) return []
    return [...(this.#out.get(rule) ?? [])].flatMap(([pos, of]) => (of === key ? [pos] : []))
  }

  /** Its row is gone, and now nobody has it in hand any more. Comes back with the lanes in which its key is free by that. */
  letGo(pos: number, rule: number): readonly DueLane[] {
    const key = this.#out.get(rule)?.get(pos)
    this.#out.get(rule)?.delete(pos)
    return key === undefined ? [] : this.#free(rule, key)
  }

  /** Nothing waits in the lane; should something come, it is read from its beginning. */
  forget(lane: number): void {
    this.#places.delete(lane)
  }

  /** The lanes in which others of its key wait, where nobody has that in hand. */
  besides(pos: number, rule: number): readonly DueLane[] {
    const key = this.#key.get(pos, rule)?.key
    return typeof key !== 'string' || this.#keysOut.get(rule)?.has(key) === true ? [] : this.#dueOf(rule, key)
  }

  #free(rule: number, key: string): readonly DueLane[] {
    const keys = this.#keysOut.get(rule)
    const left = (keys?.get(key) ?? 1) - 1
    if (left > 0) {
      keys?.set(key, left)
      return []
    }
    keys?.delete(key)
    return this.#dueOf(rule, key)
  }

  /** Somebody else of the key may run; what was passed over for its sake is looked at again. */
  #dueOf(rule: number, key: string): readonly DueLane[] {
    return this.#ofKey.all(rule, key).map((row) => {
      const lane = int(row.lane)
      const until = int(row.until)
      this.rewind(lane, until, 0)
      return { lane, until }
    })
  }

  /** It waits there, behind what was handed out or before it. */
  rewind(lane: number, until: number, pos: number): void {
    const place = this.#places.get(lane)
    if (place === undefined || until > place.until || (until === place.until && pos > place.pos)) return
    place.until = until
    place.pos = pos - 1
  }

  /** Who of its key is handed out where this one is due; undefined for nobody now. */
  #choose(pos: number, rule: number, lane: number, now: number): number | undefined {
    const row = this.#key.get(pos, rule)
    if (typeof row?.key !== 'string') return pos
    if (this.#keysOut.get(rule)?.has(row.key) === true) return undefined
    if (row.turn !== 0) return pos
    const newest = this.#newestDue.get(rule, row.key, now)
    if (newest === undefined) return pos
    return int(newest.lane) === lane ? int(newest.pos) : undefined
  }

  /** It is in somebody's hands. */
  handOut(pos: number, rule: number, key: string | undefined): void {
    const out = this.#out.get(rule) ?? new Map()
    out.set(pos, key)
    this.#out.set(rule, out)
    if (key === undefined) return
    const keys = this.#keysOut.get(rule) ?? new Map()
    keys.set(key, (keys.get(key) ?? 0) + 1)
    this.#keysOut.set(rule, keys)
  }

  #read(pos: number, rule: number): TakenRow {
    const row = this.#row.get(pos, rule)
    if (row === undefined) throw new Error(`the event at ${pos} is gone although a delivery of it waits`)
    const payload = blob(row.payload)
    const stream = this.#words.stream(int(row.stream), payload)
    const event: StoredRecord = { pos, stream, accepted: int(row.accepted), payload }
    const progress = {
      failures: int(row.failures),
      firstAttemptAt: int(row.first_at),
      finished: int(row.finished),
      refused: int(row.refused),
      ...readMore(row.more),
    }
    const reason = this.#words.waitReason(int(row.reason))
    const revision = this.#words.of('revision', int(row.revision))
    const standing = readStanding(row)
    const { key, root } = standing ?? {}
    const isSuperseded = root !== undefined && this.#standings.isSuperseded(rule, root.signature, root.time)
    const followers = key?.turn === 'oldest' ? int(this.#followers.get(rule, key.text)?.count) : 0
    const uncleanStops = this.#suspects.stopsOf(pos, rule)
    return { event, progress, revision, reason, uncleanStops, standing, isSuperseded, followers }
  }
}
