import { randomInt } from 'node:crypto'
import type { LaneBacklog, LastAnswer, WaitReason } from '../store.ts'
import { blob, type Database, int } from '../tables/database.ts'
import { marks } from '../tables/event-id.ts'
import { absent, never } from '../tables/format.ts'
import { parseLane } from '../tables/lane-name.ts'
import type { Words } from '../tables/words.ts'

export interface Recovered {
  readonly mark: number
  readonly cursor: number
  readonly last: number
  /** Short lives in a row, this one among them until it is seen to be longer. */
  readonly lives: number
  /** Deliveries whose call was cut off and is not repeated: dead now. */
  readonly interrupted: readonly { readonly pos: number; readonly rule: number }[]
}

const interrupted: LastAnswer = {
  status: 0,
  headers: {},
  body: '',
  truncated: false,
  request: '',
  error:
    'the process ended while the call was under way; whether it was carried out is not known, and it is not repeated',
}

/** Within a transaction: settles what the last process left in flight, and notes that this one is at work. */
export function recover(database: Database, words: Words, now: number): Recovered {
  const number = database.prepare('SELECT number FROM meta WHERE key = ?')
  const setNumber = database.prepare('INSERT OR REPLACE INTO meta(key, number) VALUES (?, ?)')
  const meta = (key: string, otherwise: number): number => {
    const found = number.get(key)?.number
    return typeof found === 'number' ? found : otherwise
  }
  const cursor = meta('cursor', 1)
  const mark = meta('mark', randomInt(marks))
  setNumber.run('mark', mark)
  // The newest event may be gone by retention, but then the cursor is beyond it: no position is used twice.
  const last = Math.max(
    int(database.prepare('SELECT coalesce(max(pos), 0) AS last FROM events').get()?.last),
    cursor - 1,
  )

  const wasCutOff = meta('clean', 1) === 0
  if (wasCutOff) countUncleanStop(database, words, cursor, now)
  setNumber.run('clean', 0)
  const lives = (wasCutOff ? meta('lives', 0) : 0) + 1
  setNumber.run('lives', lives)
  return { mark, cursor, last, lives, interrupted: settleRunning(database, words, now) }
}

/** Claimed calls are not repeated; all others go on at once. */
function settleRunning(database: Database, words: Words, now: number): Recovered['interrupted'] {
  const slot = words.intern('reason', 'slot')
  const reason = words.intern('reason', 'interrupted')
  const answer = JSON.stringify(interrupted)
  const unclaimed = database.prepare(`
    UPDATE deliveries SET state = 0, reason = ?, until = ?, at = ?
    WHERE rule = ? AND state = 1 AND state <> 2 AND claimed = 0
  `)
  const letter = database.prepare(`
    INSERT OR REPLACE INTO letters(pos, rule, parked, bytes, answer)
    SELECT pos, rule, 0, length(payload) + ?, ? FROM deliveries JOIN events USING (pos)
    WHERE rule = ? AND state = 1 AND state <> 2
  `)
  const suspect = database.prepare(`
    DELETE FROM suspects WHERE rule = ?1 AND pos IN (SELECT pos FROM deliveries WHERE rule = ?1 AND state = 1 AND state <> 2)
  `)
  const claimed = database.prepare(`
    UPDATE deliveries SET state = 3, reason = ?, until = NULL, at = ?, claimed = 0 WHERE rule = ? AND state = 1 AND state <> 2
  `)
  const ended = database.prepare('SELECT pos FROM deliveries WHERE rule = ? AND state = 1 AND state <> 2')
  const interruptions: { pos: number; rule: number }[] = []
  for (const rule of words.ids('rule')) {
    unclaimed.run(slot, now, now, rule)
    letter.run(answer.length, answer, rule)
    suspect.run(rule)
    for (const row of ended.all(rule)) interruptions.push({ pos: int(row.pos), rule })
    claimed.run(reason, now, rule)
  }
  return interruptions
}

/**
 * Whoever was running when the process died may have killed it. Those that had no row get one, so that they come out with
 * their count instead of being routed as if nothing had happened; but those that have a key are routed again, in their order,
 * since a row whose key nobody knows yet would be overtaken. `FreeKeys` sees to it that they get a row then.
 */
function countUncleanStop(database: Database, words: Words, cursor: number, now: number): void {
  const running = readRunning(database)
  if (running.length === 0) return
  // Counted once: whoever dies again before the next commit was not running anything.
  database.exec("DELETE FROM meta WHERE key = 'running'")
  const event = database.prepare('SELECT 1 FROM events WHERE pos = ?')
  const delivery = database.prepare('SELECT state FROM deliveries WHERE pos = ? AND rule = ?')
  const insert = database.prepare(`
    INSERT INTO deliveries(pos, rule, lane, state, reason, until, at, revision, failures, first_at, finished, refused, claimed)
    VALUES (?1, ?2, ?3, 0, ?4, ?5, ?5, ?6, 0, 0, 0, 0, 0)
  `)
  const count = database.prepare(`
    INSERT INTO suspects(pos, rule, stops) VALUES (?, ?, 1) ON CONFLICT(pos, rule) DO UPDATE SET stops = stops + 1
  `)
  // Of what was routed again, and then was to meet no rule.
  database
    .prepare(`
      DELETE FROM suspects WHERE pos < ?
        AND NOT EXISTS (SELECT 1 FROM deliveries WHERE pos = suspects.pos AND rule = suspects.rule)
    `)
    .run(cursor)
  for (const { pos, lane, hasKey } of running) {
    const rule = words.intern('rule', parseLane(words.of('lane', lane)).rule)
    const state = delivery.get(pos, rule)?.state
    if (state !== undefined && state !== 0 && state !== 1) continue
    if (state === undefined) {
      if (pos < cursor || event.get(pos) === undefined) continue
      if (!hasKey) insert.run(pos, rule, lane, words.intern('reason', 'slot'), now, words.intern('revision', ''))
    }
    count.run(pos, rule)
  }
}

/** Deliveries that were running at the last commit that had news of it. */
export function readRunning(
  database: Database,
): readonly { readonly pos: number; readonly lane: number; readonly hasKey: boolean }[] {
  const stored = database.prepare("SELECT bytes FROM meta WHERE key = 'running'").get()?.bytes
  if (stored === undefined || stored === null) return []
  const pairs = new Float64Array(blob(stored).slice().buffer)
  return Array.from({ length: pairs.length / 2 }, (_, index) => {
    const lane = pairs[index * 2 + 1] ?? absent
    const hasKey = lane < 0
    return { pos: pairs[index * 2] ?? absent, lane: hasKey ? keyedLane(lane) : lane, hasKey }
  })
}

/** How the lane of what has a key is written among what is running; and back. */
export function keyedLane(lane: number): number {
  return -1 - lane
}

/** Lanes with rows. A scan of two small indexes, not of the rows. */
export function readBacklog(database: Database, words: Words): LaneBacklog[] {
  const lanes = new Map<number, { nextUntil: number; waiting: Partial<Record<WaitReason, number>> }>()
  const rows = database
    .prepare(`
      SELECT lane, reason, min(until) AS until, count(*) AS count FROM deliveries WHERE state = 0 GROUP BY lane, reason
      UNION ALL
      SELECT lane, reason, ${never}, count(*) FROM deliveries
        WHERE rule IN (SELECT id FROM names WHERE kind = 'rule') AND state = 4 AND state <> 2 GROUP BY lane, reason
    `)
    .all()
  for (const row of rows) {
    const lane = lanes.get(int(row.lane)) ?? { nextUntil: Number.POSITIVE_INFINITY, waiting: {} }
    if (row.until !== never) lane.nextUntil = Math.min(lane.nextUntil, int(row.until))
    const reason = words.waitReason(int(row.reason))
    lane.waiting[reason] = (lane.waiting[reason] ?? 0) + int(row.count)
    lanes.set(int(row.lane), lane)
  }
  return [...lanes].map(([lane, counts]) => ({ lane: parseLane(words.of('lane', lane)), ...counts }))
}
