import type { DeliveryEntry, LaneBacklog } from '../store.ts'
import { int, text } from '../tables/database.ts'
import { dead, never, parked, waiting } from '../tables/format.ts'
import { parseLane } from '../tables/lane-name.ts'
import type { Numbers } from '../tables/numbers.ts'
import type { Words } from '../tables/words.ts'
import type { ShardLetter } from './shard-protocol.ts'
import type { ShardRows } from './shard-rows.ts'

const letterBytesAtOnce = 8_388_608
/** No rule has this number. */
const noRule = -1

/** What people, the engine and the streams ask of the rows of one partition. No row changes by it. */
export class ShardListing {
  readonly #partition: number
  readonly #rows: ShardRows
  readonly #words: Words
  readonly #numbers: Numbers

  constructor(partition: number, rows: ShardRows, words: Words, numbers: Numbers) {
    this.#partition = partition
    this.#rows = rows
    this.#words = words
    this.#numbers = numbers
  }

  /** Newest first; `before`: a place. */
  deliveries(
    rule: string | undefined,
    states: readonly number[],
    limit: number,
    before: number,
  ): { readonly pos: number; readonly entry: DeliveryEntry }[] {
    const only = rule === undefined ? '' : 'AND rule = ?'
    return this.#rows
      .prepare(
        `SELECT pos, rule FROM deliveries WHERE state IN (${states.join(', ')}) AND pos < ? ${only} ORDER BY pos DESC LIMIT ?`,
      )
      .all(before, ...(rule === undefined ? [] : [this.#numbers.find('rule', rule) ?? noRule]), limit)
      .map((row) => ({ pos: int(row.pos), entry: this.#entryOf(int(row.pos), int(row.rule)) }))
  }

  /** Dead and parked ones, oldest first; `after`: a place. */
  letters(
    rule: string | undefined,
    ids: readonly string[] | undefined,
    limit: number,
    after: number,
  ): { readonly letters: readonly ShardLetter[]; readonly after: number | undefined } {
    const wanted = ids === undefined ? undefined : new Set(ids)
    const only = rule === undefined ? '' : 'AND rule = ?'
    const rows = this.#rows
      .prepare(
        `SELECT pos, rule FROM deliveries WHERE state IN (${dead}, ${parked}) AND pos > ? ${only} ORDER BY pos LIMIT ?`,
      )
      .all(
        after,
        ...(rule === undefined ? [] : [this.#numbers.find('rule', rule) ?? noRule]),
        wanted === undefined ? limit + 1 : -1,
      )
    const letters: ShardLetter[] = []
    let bytes = 0
    let last = after
    for (const row of rows) {
      if (letters.length === limit || bytes >= letterBytesAtOnce) return { letters, after: last }
      last = int(row.pos)
      const entry = this.#entryOf(last, int(row.rule))
      if (wanted !== undefined && !wanted.has(entry.id)) continue
      const { settle, event } = this.#rows.read(last, int(row.rule))
      const payload = this.#rows.payload(last)
      bytes += payload.length
      const { lane, progress, answer, standing } = settle
      letters.push({ ...entry, partition: this.#partition, event, bytes: payload, lane, progress, answer, standing })
    }
    return { letters, after: undefined }
  }

  #entryOf(pos: number, rule: number): DeliveryEntry {
    const { settle, event, metaId, earlierAttempts, coveredBy } = this.#rows.read(pos, rule)
    const { lane, revision, state, reason, at, until, attempts } = settle
    return {
      id: `${event.id}/${lane.rule}`,
      rule: lane.rule,
      revision,
      state,
      reason,
      at,
      next: state === 'waiting' && until !== Number.POSITIVE_INFINITY ? until : null,
      attempts,
      earlierAttempts,
      eventId: event.id,
      metaId,
      stream: event.stream,
      accepted: event.accepted,
      coveredBy: coveredBy === undefined ? undefined : this.#rows.deliveryIdAt(coveredBy, lane.rule),
      covers: { count: 0, ids: [] },
    }
  }

  /** Rows of events of one partition of a stream. */
  rowsOf(topic: string, partition: number, from: number): { readonly id: string; readonly rule: string }[] {
    return this.#rows
      .prepare('SELECT id, rule FROM origins WHERE topic = ? AND part = ? AND off >= ?')
      .all(topic, partition, from)
      .map(({ id, rule }) => ({ id: text(id), rule: this.#words.of('rule', int(rule)) }))
  }

  backlog(concerns: (pos: number, rule: number) => boolean = () => true): LaneBacklog[] {
    const lanes = new Map<number, { nextUntil: number; waiting: Record<string, number> }>()
    const rows = this.#rows.prepare(
      `SELECT pos, rule, lane, reason, until FROM deliveries WHERE state IN (${waiting}, ${parked})`,
    )
    for (const row of rows.all()) {
      if (!concerns(int(row.pos), int(row.rule))) continue
      const found = lanes.get(int(row.lane)) ?? { nextUntil: Number.POSITIVE_INFINITY, waiting: {} }
      const reason = this.#words.of('reason', int(row.reason))
      found.waiting[reason] = (found.waiting[reason] ?? 0) + 1
      if (row.until !== never) found.nextUntil = Math.min(found.nextUntil, int(row.until))
      lanes.set(int(row.lane), found)
    }
    return [...lanes].map(([lane, counts]) => ({ lane: parseLane(this.#words.of('lane', lane)), ...counts }))
  }
}
