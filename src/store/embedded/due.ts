import { blob, type Database, int, type Statement } from './database.ts'
import { never, type StoredRecord, settleWidth, type TakenRow, waiting } from './protocol.ts'
import type { Suspects } from './suspects.ts'
import type { Words } from './words.ts'

/** A page holds no more payload than this, unless one event alone is larger. */
const pageBytes = 4_194_304
const keysAtOnce = 256

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
  /** Positions handed out, by rule. */
  readonly #out = new Map<number, Set<number>>()
  readonly #keys: Statement
  readonly #row: Statement

  constructor(database: Database, words: Words, suspects: Suspects) {
    this.#words = words
    this.#suspects = suspects
    this.#keys = database.prepare(`
      SELECT until, pos, rule FROM deliveries
      WHERE state = 0 AND lane = ? AND (until, pos) > (?, ?) ORDER BY until, pos LIMIT ${keysAtOnce}
    `)
    this.#row = database.prepare(`
      SELECT reason, revision, failures, first_at, finished, refused, stream, accepted, payload
      FROM deliveries JOIN events USING (pos) WHERE deliveries.pos = ? AND rule = ?
    `)
  }

  take(lane: number, now: number, limit: number): { readonly rows: readonly TakenRow[]; readonly nextUntil: number } {
    const place = this.#places.get(lane) ?? { ...start }
    this.#places.set(lane, place)
    const rows: TakenRow[] = []
    let bytes = 0
    for (;;) {
      const keys = this.#keys.all(lane, place.until, place.pos)
      for (const key of keys) {
        const until = int(key.until)
        const pos = int(key.pos)
        const rule = int(key.rule)
        if (this.#out.get(rule)?.has(pos) !== true) {
          if (until > now || rows.length >= limit || bytes >= pageBytes) {
            return { rows, nextUntil: until === never ? Number.POSITIVE_INFINITY : until }
          }
          const row = this.#read(pos, rule)
          rows.push(row)
          bytes += row.event.payload.length
          this.#handOut(pos, rule)
        }
        place.until = until
        place.pos = pos
      }
      if (keys.length < keysAtOnce) return { rows, nextUntil: Number.POSITIVE_INFINITY }
    }
  }

  /** Settlements are durable: what they speak of is in nobody's hands any more, and may wait in its lane again. */
  settled(settles: Float64Array): void {
    for (let at = 0; at < settles.length; at += settleWidth) {
      const pos = settles[at] ?? 0
      this.#out.get(settles[at + 1] ?? 0)?.delete(pos)
      if (settles[at + 3] !== waiting) continue
      const place = this.#places.get(settles[at + 2] ?? 0)
      const until = settles[at + 5] ?? 0
      if (place === undefined || until > place.until || (until === place.until && pos > place.pos)) continue
      place.until = until
      place.pos = pos - 1
    }
  }

  #handOut(pos: number, rule: number): void {
    const out = this.#out.get(rule) ?? new Set()
    out.add(pos)
    this.#out.set(rule, out)
  }

  #read(pos: number, rule: number): TakenRow {
    const row = this.#row.get(pos, rule)
    if (row === undefined) throw new Error(`the event at ${pos} is gone although a delivery of it waits`)
    const event: StoredRecord = {
      pos,
      stream: this.#words.of('stream', int(row.stream)),
      accepted: int(row.accepted),
      payload: blob(row.payload),
    }
    const progress = {
      failures: int(row.failures),
      firstAttemptAt: int(row.first_at),
      finished: int(row.finished),
      refused: int(row.refused),
    }
    const reason = this.#words.waitReason(int(row.reason))
    const revision = this.#words.of('revision', int(row.revision))
    return { event, progress, revision, reason, uncleanStops: this.#suspects.stopsOf(pos, rule) }
  }
}
