import { ServiceError } from '../../base/errors.ts'
import { metaIdOf } from '../../event/event.ts'
import type { RequestOutcome } from '../../rule/rule.ts'
import { type AttemptEntry, type DeliveryEntry, deliveryStates, type LastAnswer } from '../store.ts'
import { keptAttempts } from '../tables/commit.ts'
import { blob, type Database, earlierThan, int, type Row, type Statement, text } from '../tables/database.ts'
import { formatEventId, hashId, parseEventId } from '../tables/event-id.ts'
import { dead, never, parked, type StoredRecord } from '../tables/format.ts'
import type { MetaIds } from '../tables/ids.ts'
import { readMore } from '../tables/progress.ts'
import { readStanding } from '../tables/standings.ts'
import type { Words } from '../tables/words.ts'
import type { DeadRow, Found, Inputs, RowPage } from './protocol.ts'

const foundAtMost = 100
const coversAtMost = 100
const coversNone = { count: 0, ids: [] } as const
const pageBytes = 8_388_608
const unfinishedOnly = 'AND state <> 2'

interface Key {
  readonly pos: number
  readonly rule: number
}

/** Answers people's questions. Each is a few seeks, whatever is stored. */
export class Queries {
  readonly #database: Database
  readonly #mark: number
  readonly #words: Words
  readonly #ids: MetaIds
  readonly #event: Statement
  readonly #delivery: Statement
  readonly #attempts: Statement
  readonly #rulesOf: Statement
  readonly #coverCount: Statement
  readonly #covered: Statement
  readonly #answer: Statement

  constructor(database: Database, mark: number, words: Words, ids: MetaIds) {
    this.#database = database
    this.#mark = mark
    this.#words = words
    this.#ids = ids
    this.#event = database.prepare('SELECT pos, stream, accepted, payload FROM events WHERE pos = ?')
    this.#delivery = database.prepare('SELECT * FROM deliveries WHERE pos = ? AND rule = ?')
    this.#attempts = database.prepare('SELECT * FROM attempts WHERE pos = ? AND rule = ? ORDER BY n')
    this.#rulesOf = database.prepare('SELECT rule FROM deliveries WHERE pos = ? ORDER BY rule')
    this.#coverCount = database.prepare('SELECT count(*) AS count FROM deliveries WHERE rule = ? AND covered_by = ?')
    this.#covered = database.prepare(
      `SELECT pos FROM deliveries WHERE rule = ? AND covered_by = ? ORDER BY pos LIMIT ${coversAtMost}`,
    )
    this.#answer = database.prepare('SELECT answer FROM letters WHERE pos = ? AND rule = ?')
  }

  find(id: string): Found[] {
    const found: Found[] = []
    const own = parseEventId(this.#mark, id)
    const positions = new Set(this.#ids.lookup(hashId(id)))
    if (own !== undefined) positions.add(own.pos)
    for (const pos of [...positions].sort((a, b) => b - a)) {
      const event = this.#eventAt(pos)
      if (event === undefined) continue
      const metaId = metaIdOf(event.payload)
      if (metaId !== id && !(own?.pos === pos && own.accepted === event.accepted)) continue
      const deliveries = this.#rulesOf
        .all(pos)
        .flatMap((row) => this.#entry(event, metaId, { pos, rule: int(row.rule) }) ?? [])
      found.push({ event, metaId, deliveries })
      if (found.length === foundAtMost) break
    }
    return found
  }

  deliveries({ rule, state, limit, cursor }: Inputs['deliveries']): RowPage<DeliveryEntry> {
    const keys = this.#newestFirst(rule, state, limit + 1, parseCursor(cursor))
    const items: DeliveryEntry[] = []
    for (const key of keys.slice(0, limit)) {
      const event = this.#eventAt(key.pos)
      const entry = event === undefined ? undefined : this.#entry(event, metaIdOf(event.payload), key)
      if (entry !== undefined) items.push(entry)
    }
    return { items, cursor: keys.length > limit ? formatCursor(keys[limit - 1]) : undefined }
  }

  /** Dead ones and parked ones. Of one rule, or by their ids, or all. */
  deadLetters({ rule, ids, limit, cursor }: Inputs['deadLetters']): RowPage<DeadRow> {
    const after = parseCursor(cursor)
    const keys = ids === undefined ? this.#oldestFirst(rule, limit + 1, after) : this.#named(ids, rule, after)
    const items: DeadRow[] = []
    let bytes = 0
    let last: Key | undefined
    for (const key of keys) {
      if (items.length === limit || bytes >= pageBytes) return { items, cursor: formatCursor(last) }
      last = key
      const row = this.#deadRow(key)
      if (row === undefined) continue
      bytes += row.event.payload.length
      items.push(row)
    }
    return { items, cursor: undefined }
  }

  #deadRow(key: Key): DeadRow | undefined {
    const event = this.#eventAt(key.pos)
    const row = this.#delivery.get(key.pos, key.rule)
    if (event === undefined || row === undefined) return undefined
    const entry = this.#entry(event, metaIdOf(event.payload), key)
    if (entry === undefined) return undefined
    const answer = this.#answer.get(key.pos, key.rule)?.answer
    const lane = this.#words.laneOnceOf(entry.rule, int(row.lane))
    const progress = {
      failures: int(row.failures),
      firstAttemptAt: int(row.first_at),
      finished: int(row.finished),
      refused: int(row.refused),
      ...readMore(row.more),
    }
    const standing = readStanding(row)
    const lastAnswer = typeof answer === 'string' ? readAnswer(answer) : undefined
    return { entry, event, lane, progress, answer: lastAnswer, standing }
  }

  #newestFirst(rule: string | undefined, state: number | undefined, limit: number, before: Key | undefined): Key[] {
    const rules = rule === undefined ? undefined : this.#numbersOf(rule)
    if (state === undefined || state === 2) {
      const only = state === undefined ? '' : 'AND state = 2'
      if (rules !== undefined)
        return rules.flatMap((number) => this.#keys(`rule = ? ${only}`, [number], limit, 'DESC', number, before))
      const { pos, rule: above } = before ?? { pos: never, rule: 0 }
      return this.#database
        .prepare(
          `SELECT pos, rule FROM deliveries WHERE (pos, rule) < (?, ?) ${only} ORDER BY pos DESC, rule DESC LIMIT ?`,
        )
        .all(pos, above, limit)
        .map(asKey)
    }
    const states = state === 0 ? [0, parked] : [state]
    const keys = this.#unfinished(rules ?? this.#words.ids('rule'), states, limit, 'DESC', before)
    return keys.sort((a, b) => compare(b, a)).slice(0, limit)
  }

  #oldestFirst(rule: string | undefined, limit: number, after: Key | undefined): Key[] {
    const rules = rule === undefined ? this.#words.ids('rule') : this.#numbersOf(rule)
    return this.#unfinished(rules, [dead, parked], limit, 'ASC', after).sort(compare).slice(0, limit)
  }

  /** The first of each rule and state: what is wanted is among them. */
  #unfinished(rules: number[], states: number[], limit: number, order: 'ASC' | 'DESC', beyond: Key | undefined): Key[] {
    return rules.flatMap((rule) =>
      states.flatMap((state) =>
        this.#keys(`rule = ? AND state = ? ${unfinishedOnly}`, [rule, state], limit, order, rule, beyond),
      ),
    )
  }

  #keys(
    where: string,
    values: number[],
    limit: number,
    order: 'ASC' | 'DESC',
    rule: number,
    beyond: Key | undefined,
  ): Key[] {
    const isDown = order === 'DESC'
    let bound = isDown ? never : 0
    if (beyond !== undefined) {
      const sharesPosition = isDown ? rule < beyond.rule : rule > beyond.rule
      bound = sharesPosition ? beyond.pos : beyond.pos + (isDown ? -1 : 1)
    }
    return this.#database
      .prepare(
        `SELECT pos, rule FROM deliveries WHERE ${where} AND pos ${isDown ? '<=' : '>='} ? ORDER BY pos ${order} LIMIT ?`,
      )
      .all(...values, bound, limit)
      .map(asKey)
  }

  #named(ids: readonly string[], rule: string | undefined, after: Key | undefined): Key[] {
    const keys = new Map<string, Key>()
    for (const id of ids) {
      const key = this.#keyOf(id)
      if (key === undefined || (rule !== undefined && this.#words.of('rule', key.rule) !== rule)) continue
      if (after === undefined || compare(key, after) > 0) keys.set(`${key.pos}/${key.rule}`, key)
    }
    return [...keys.values()].sort(compare)
  }

  /** Of a dead or parked delivery, by its id. */
  #keyOf(id: string): Key | undefined {
    const slash = id.indexOf('/')
    const own = slash < 0 ? undefined : parseEventId(this.#mark, id.slice(0, slash))
    const rule = this.#words.find('rule', id.slice(slash + 1))
    if (own === undefined || rule === undefined) return undefined
    const row = this.#delivery.get(own.pos, rule)
    if (row === undefined || (int(row.state) !== dead && int(row.state) !== parked)) return undefined
    return this.#eventAt(own.pos)?.accepted === own.accepted ? { pos: own.pos, rule } : undefined
  }

  #numbersOf(rule: string): number[] {
    const number = this.#words.find('rule', rule)
    return number === undefined ? [] : [number]
  }

  #eventAt(pos: number): StoredRecord | undefined {
    const row = this.#event.get(pos)
    if (row === undefined) return undefined
    const payload = blob(row.payload)
    return { pos, stream: this.#words.stream(int(row.stream), payload), accepted: int(row.accepted), payload }
  }

  #entry(
    { pos, stream, accepted }: StoredRecord,
    metaId: string | undefined,
    { rule }: Key,
  ): DeliveryEntry | undefined {
    const row = this.#delivery.get(pos, rule)
    if (row === undefined) return undefined
    const eventId = formatEventId(this.#mark, accepted, pos)
    const name = this.#words.of('rule', rule)
    const isWaiting = int(row.state) === 0
    const state = deliveryStates[int(row.state)] ?? 'waiting'
    return {
      id: `${eventId}/${name}`,
      rule: name,
      revision: this.#words.of('revision', int(row.revision)),
      state,
      reason: this.#words.of('reason', int(row.reason)),
      at: int(row.at),
      next: isWaiting && row.until !== never ? int(row.until) : null,
      ...this.#attemptsOf(pos, rule, row),
      eventId,
      metaId,
      stream,
      accepted,
      coveredBy: row.covered_by === null ? undefined : this.#idAt(int(row.covered_by), name),
      covers: this.#coversOf(pos, rule, name),
    }
  }

  #coversOf(pos: number, rule: number, name: string): DeliveryEntry['covers'] {
    const count = int(this.#coverCount.get(rule, pos)?.count)
    if (count === 0) return coversNone
    return { count, ids: this.#covered.all(rule, pos).map((row) => this.#idAt(int(row.pos), name)) }
  }

  /** Of a delivery whose event may be forgotten by now: then its time of acceptance is, too. */
  #idAt(pos: number, rule: string): string {
    return `${formatEventId(this.#mark, this.#eventAt(pos)?.accepted ?? 0, pos)}/${rule}`
  }

  #attemptsOf(pos: number, rule: number, delivery: Row): Pick<DeliveryEntry, 'attempts' | 'earlierAttempts'> {
    const rows = this.#attempts.all(pos, rule)
    const earlierAttempts = earlierThan(rows)
    const attempts = rows.map((row) => ({
      at: int(row.at),
      ms: int(row.ms),
      status: int(row.status),
      outcome: this.#outcome(int(row.outcome)),
      request: int(row.request),
      note: text(row.note),
    }))
    const { began, ms, status } = delivery
    if (began === null) return { attempts, earlierAttempts }
    const last: AttemptEntry = { at: int(began), ms: int(ms), status: int(status), outcome: 'ok', request: 0, note: '' }
    attempts.push(last)
    const tooMany = Math.max(0, attempts.length - keptAttempts)
    return { attempts: attempts.slice(tooMany), earlierAttempts: earlierAttempts + tooMany }
  }

  #outcome(number: number): RequestOutcome {
    const word = this.#words.of('outcome', number)
    const outcome = outcomes.find((known) => known === word)
    if (outcome === undefined)
      throw new Error(`the store holds an attempt with the outcome "${word}", which means nothing`)
    return outcome
  }
}

const outcomes: readonly RequestOutcome[] = ['ok', 'ignored', 'throttled', 'unavailable', 'failed', 'refused']

/** It was written by us, from a LastAnswer. */
function readAnswer(json: string): LastAnswer {
  return JSON.parse(json)
}

function compare(a: Key, b: Key): number {
  return a.pos - b.pos || a.rule - b.rule
}

function asKey(row: Row): Key {
  return { pos: int(row.pos), rule: int(row.rule) }
}

function formatCursor(key: Key | undefined): string | undefined {
  return key === undefined ? undefined : `${key.pos}.${key.rule}`
}

function parseCursor(cursor: string | undefined): Key | undefined {
  if (cursor === undefined) return undefined
  const [pos, rule] = cursor.split('.').map(Number)
  if (pos === undefined || rule === undefined || !Number.isSafeInteger(pos) || !Number.isSafeInteger(rule)) {
    throw new ServiceError('BAD_REQUEST', `"${cursor}" is not a cursor that this store gave out`)
  }
  return { pos, rule }
}
