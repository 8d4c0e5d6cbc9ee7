import type { RequestOutcome } from '../../rule/rule.ts'
import { Commits, type Effect } from '../embedded/commit.ts'
import { blob, type Database, int, type Row, type Statement, text } from '../embedded/database.ts'
import { DueRows } from '../embedded/due.ts'
import { hashId } from '../embedded/event-id.ts'
import { MetaIds } from '../embedded/ids.ts'
import { parseLane } from '../embedded/lane-name.ts'
import { Letters } from '../embedded/letters.ts'
import type { Numbers } from '../embedded/numbers.ts'
import { readMore } from '../embedded/progress.ts'
import {
  absent,
  dead,
  type Extra,
  flagAttempted,
  flagClaimed,
  never,
  parked,
  settleWidth,
  waiting,
} from '../embedded/protocol.ts'
import { readStanding, Standings } from '../embedded/standings.ts'
import { Suspects } from '../embedded/suspects.ts'
import type { Words } from '../embedded/words.ts'
import {
  type AttemptEntry,
  type Consequences,
  type DeliveryEntry,
  deliveryStates,
  type Lane,
  type LaneBacklog,
  type LastAnswer,
} from '../store.ts'
import { metaIdOf } from './kafka-record.ts'
import { type KeyValue, type Packed, pack, unpack } from './packed.ts'
import {
  type Fact,
  formatFact,
  formatKey,
  formatRow,
  type Origin,
  parseFact,
  parseKey,
  parseRow,
  type WorkKey,
  type WorkRow,
} from './row.ts'
import type {
  Arrived,
  Change,
  DeadCounts,
  RowEvent,
  ShardLetter,
  ShardRow,
  ShardSettle,
  Told,
} from './shard-protocol.ts'

/** Within a millisecond of acceptance so many places. */
const placesPerMs = 4_096
/** Places count from here, so that they stay whole numbers until 2089. */
const placesSince = Date.UTC(2020, 0, 1)
const coversAtMost = 100
const letterBytesAtOnce = 8_388_608

/**
 * What this partition has beside the tables of the embedded store: whose event a place is, and what has changed since the
 * changelog was last told.
 */
const tables = `
  CREATE TABLE origins(
    pos INTEGER PRIMARY KEY, id TEXT NOT NULL, rule INTEGER NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL,
    off INTEGER NOT NULL
  );
  CREATE UNIQUE INDEX origin_ids ON origins(id, rule);

  -- The events of newest starts and last successes, which outlive their rows. event: JSON of a Starter.
  CREATE TABLE starters(pos INTEGER PRIMARY KEY, event TEXT NOT NULL);

  -- A conflict within a trigger is dealt with as the statement says that fired it: so there must be none.
  CREATE TEMP TABLE changed(pos INTEGER, rule INTEGER, PRIMARY KEY(pos, rule)) WITHOUT ROWID;
  CREATE TEMP TABLE changed_starts(rule INTEGER, key TEXT, PRIMARY KEY(rule, key)) WITHOUT ROWID;
  CREATE TEMP TABLE changed_roots(rule INTEGER, signature TEXT, time INTEGER, PRIMARY KEY(rule, signature, time)) WITHOUT ROWID;
  ${['INSERT', 'UPDATE'].map((event) => notes('deliveries', event, 'changed', ['pos', 'rule'])).join('')}
  ${['INSERT', 'UPDATE', 'DELETE'].map((event) => notes('starts', event, 'changed_starts', ['rule', 'key'])).join('')}
  ${['INSERT', 'UPDATE', 'DELETE'].map((event) => notes('roots', event, 'changed_roots', ['rule', 'signature', 'time'])).join('')}
`

/** A trigger that notes which row of a table has changed. */
function notes(table: string, event: string, changed: string, columns: readonly string[]): string {
  const row = event === 'DELETE' ? 'old' : 'new'
  const values = columns.map((column) => `${row}.${column}`)
  const isNoted = columns.map((column, index) => `${column} = ${values[index]}`).join(' AND ')
  return `CREATE TEMP TRIGGER ${table}_${event.toLowerCase()} AFTER ${event} ON ${table} BEGIN
    INSERT INTO ${changed} SELECT ${values.join(', ')} WHERE NOT EXISTS (SELECT 1 FROM ${changed} WHERE ${isNoted}); END;
  `
}

const interrupted: LastAnswer = {
  status: 0,
  headers: {},
  body: '',
  truncated: false,
  request: '',
  error:
    'the process ended, or lost this part of the work, while the call was under way; whether it was carried out is not known, and it is not repeated',
}

const elsewhere: Consequences = { amended: { state: 'elsewhere' }, moved: [], due: [] }

/** An event by whose call others are covered. */
interface Starter {
  readonly event: RowEvent
  readonly metaId: string | undefined
}

/** What a partition has once its changelog is read. */
interface Work {
  readonly commits: Commits
  readonly due: DueRows
  readonly letters: Letters
  readonly standings: Standings
}

/**
 * The rows of one partition of the work topic, in a database that is thrown away: what counts is the changelog, from which
 * the next owner makes another. So how deliveries stand to one another is decided by the code that the embedded store has.
 */
export class Shard {
  readonly #partition: number
  /** While the changelog is read: what was handed over, and its owner had not taken up. By key, in order. */
  readonly #unheard = new Map<string, KeyValue>()
  readonly #database: Database
  readonly #words: Words
  readonly #numbers: Numbers
  #work: Work | undefined
  readonly #placeOf: Statement
  readonly #lastPlace: Statement
  readonly #startPlace: Statement
  readonly #insertEvent: Statement
  readonly #insertOrigin: Statement
  readonly #row: Statement
  readonly #attempts: Statement
  readonly #answer: Statement
  readonly #stops: Statement

  /** `database`: empty, with the tables of the embedded store. */
  constructor(partition: number, database: Database, words: Words, numbers: Numbers) {
    this.#partition = partition
    this.#database = database
    this.#words = words
    this.#numbers = numbers
    database.exec(tables)
    this.#placeOf = database.prepare('SELECT pos FROM origins WHERE id = ? AND rule = ?')
    this.#lastPlace = database.prepare('SELECT max(pos) AS pos FROM events WHERE pos >= ? AND pos < ?')
    this.#startPlace = database.prepare('SELECT pos FROM starts WHERE rule = ? AND key = ?')
    this.#insertEvent = database.prepare('INSERT INTO events(pos, h, stream, accepted, payload) VALUES (?, ?, ?, ?, ?)')
    this.#insertOrigin = database.prepare(
      'INSERT INTO origins(pos, id, rule, topic, part, off) VALUES (?, ?, ?, ?, ?, ?)',
    )
    this.#row = database.prepare(`
      SELECT deliveries.*, stream, accepted, payload, id, topic, part, off
      FROM deliveries JOIN events USING (pos) JOIN origins USING (pos) WHERE deliveries.pos = ? AND deliveries.rule = ?
    `)
    this.#attempts = database.prepare('SELECT * FROM attempts WHERE pos = ? AND rule = ? ORDER BY n')
    this.#answer = database.prepare('SELECT answer FROM letters WHERE pos = ? AND rule = ?')
    this.#stops = database.prepare('SELECT stops FROM suspects WHERE pos = ? AND rule = ?')
  }

  close(): void {
    this.#database.close()
  }

  /** What the changelog says, in order. */
  restore(records: Packed): void {
    this.#transaction(() => {
      for (const { key, value } of unpack(records)) {
        const parsed = parseKey(key)
        if (parsed !== undefined) this.#replay(parsed, value)
      }
      this.#learn()
    })
  }

  /** The changelog is read to its end. */
  restored(now: number): Change & { readonly backlog: readonly LaneBacklog[] } {
    this.#forgetChanges()
    const database = this.#database
    const cutOff = database.prepare('SELECT pos, rule, claimed FROM deliveries WHERE state = 1').all()
    this.#transaction(() => {
      const count = database.prepare(
        'INSERT INTO suspects(pos, rule, stops) VALUES (?, ?, 1) ON CONFLICT(pos, rule) DO UPDATE SET stops = stops + 1',
      )
      for (const { pos, rule, claimed } of cutOff) if (claimed === 0) count.run(int(pos), int(rule))
    })
    const ids = new MetaIds(database)
    const letters = new Letters(database)
    const suspects = new Suspects(database)
    const standings = this.#transaction(() => new Standings(database, this.#words))
    const due = new DueRows(database, this.#words, suspects, standings)
    const commits = new Commits(database, 0, { words: this.#words, ids, letters, suspects, due, standings })
    this.#work = { commits, due, letters, standings }
    const settles = cutOff.map(({ pos, rule, claimed }) => {
      const { settle } = this.#settleOf(int(pos), int(rule))
      return claimed === 0
        ? { ...settle, state: 'waiting' as const, reason: 'slot' as const, until: now, at: now }
        : {
            ...settle,
            state: 'dead' as const,
            reason: 'interrupted' as const,
            at: now,
            claimed: false,
            answer: interrupted,
          }
    })
    const change = this.settle(settles)
    const arrived = this.arrive(pack([...this.#unheard.values()]))
    this.#unheard.clear()
    return {
      consequences: [],
      records: pack([...unpack(change.records), ...unpack(arrived.records)]),
      told: [...change.told, ...arrived.told],
      dead: this.#deadCounts(letters.counts()),
      backlog: this.#backlog(),
    }
  }

  /** What comes with its event and has a row already was given out again: what is kept of it holds. */
  settle(settles: readonly ShardSettle[]): Change {
    const { commits, letters } = this.#ready
    const repeated = settles.flatMap(({ bytes, event, lane }, index) => {
      return bytes !== undefined && this.#isKnown(event.id, lane.rule) ? [{ index, ...elsewhere }] : []
    })
    const isRepeated = new Set(repeated.map(({ index }) => index))
    const indexes = [...settles.keys()].filter((index) => !isRepeated.has(index))
    const group = this.#transaction(() =>
      this.#packed(repeated.length === 0 ? settles : settles.filter((_, index) => !isRepeated.has(index))),
    )
    const effects = commits.apply({ ...emptyGroup, ...group, names: this.#numbers.takeFresh() })
    const changed = letters.changes()
    return {
      consequences: [
        ...repeated,
        ...effects.map((effect) => ({ ...this.#inWords(effect), index: indexes[effect.index] ?? effect.index })),
      ],
      ...this.#takeChanges(),
      dead: changed === undefined ? undefined : this.#deadCounts(letters.counts()),
    }
  }

  /** Deliveries that were handed over. One that is known already is not taken twice, and said again. */
  arrive(records: Packed): Arrived {
    const settles: ShardSettle[] = []
    const indexes: number[] = []
    const known: KeyValue[] = []
    const repeated: Arrived['consequences'][number][] = []
    /** By index: the lane has one less that is parked. */
    const unparked = new Set<number>()
    const seen = new Set<string>()
    for (const [index, { key, value }] of unpack(records).entries()) {
      const parsed = parseKey(key)
      const arrived = value === null ? undefined : parseRow(value)
      if (parsed?.kind !== 'delivery' || arrived === undefined) continue
      const name = `${parsed.id}/${parsed.rule}`
      const isKnown = this.#isKnown(parsed.id, parsed.rule)
      const letter = isKnown && arrived.row.reopens === true ? this.#letterOf(parsed.id, parsed.rule) : undefined
      if ((isKnown && letter === undefined) || seen.has(name)) {
        known.push({ key, value: null })
        repeated.push({ index, ...elsewhere })
        continue
      }
      seen.add(name)
      if (letter === 'parked') unparked.add(index)
      const settle = settleOfRow(arrived.row, arrived.event)
      settles.push(isKnown ? { ...settle, bytes: undefined } : settle)
      indexes.push(index)
    }
    const change = this.settle(settles)
    const again = unpack(this.reassert(pack(known)))
    const consequences = change.consequences.map((one) => ({ ...one, index: indexes[one.index] ?? one.index }))
    const byIndex = new Map(consequences.map((one) => [one.index, one]))
    return {
      ...change,
      records: again.length === 0 ? change.records : pack([...unpack(change.records), ...again]),
      consequences: [...consequences, ...repeated],
      rows: settles.flatMap((settle, at) => {
        const index = indexes[at] ?? at
        return rowsOf(settle, byIndex.get(index), unparked.has(index)).map((change) => ({ index, change }))
      }),
    }
  }

  /** What holds of these keys. */
  reassert(keys: Packed): Packed {
    return pack(
      unpack(keys).flatMap(({ key }) => {
        const parsed = parseKey(key)
        return parsed === undefined || parsed.kind === 'owner' ? [] : [{ key, value: this.#valueOf(parsed) }]
      }),
    )
  }

  rowsOf(topic: string, partition: number, from: number): { readonly offset: number; readonly rule: string }[] {
    return this.#database
      .prepare('SELECT off, rule FROM origins WHERE topic = ? AND part = ? AND off >= ?')
      .all(topic, partition, from)
      .map(({ off, rule }) => ({ offset: int(off), rule: this.#words.of('rule', int(rule)) }))
  }

  take(lane: Lane, now: number, limit: number): { readonly rows: readonly ShardRow[]; readonly nextUntil: number } {
    const number = this.#numbers.ofLane(lane)
    this.#learn()
    const { rows, nextUntil } = this.#ready.due.take(number, now, limit)
    const rule = this.#numbers.of('rule', lane.rule)
    return {
      rows: rows.map(({ event: { pos, payload }, ...rest }) => {
        const { event } = this.#settleOf(pos, rule)
        return { ...rest, partition: this.#partition, event, bytes: payload }
      }),
      nextUntil,
    }
  }

  /** Newest first; `before`: a place. */
  deliveries(
    rule: string | undefined,
    states: readonly number[],
    limit: number,
    before: number,
  ): { readonly pos: number; readonly entry: DeliveryEntry }[] {
    const only = rule === undefined ? '' : 'AND rule = ?'
    return this.#database
      .prepare(
        `SELECT pos, rule FROM deliveries WHERE state IN (${states.join(', ')}) AND pos < ? ${only} ORDER BY pos DESC LIMIT ?`,
      )
      .all(before, ...(rule === undefined ? [] : [this.#numbers.of('rule', rule)]), limit)
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
    const rows = this.#database
      .prepare(
        `SELECT pos, rule FROM deliveries WHERE state IN (${dead}, ${parked}) AND pos > ? ${only} ORDER BY pos LIMIT ?`,
      )
      .all(
        after,
        ...(rule === undefined ? [] : [this.#numbers.of('rule', rule)]),
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
      const { settle, event, payload } = this.#settleOf(last, int(row.rule))
      bytes += payload.length
      const { lane, progress, answer, standing } = settle
      letters.push({ ...entry, partition: this.#partition, event, bytes: payload, lane, progress, answer, standing })
    }
    return { letters, after: undefined }
  }

  /** What need not be remembered any longer. */
  forget(now: number): Packed {
    const { standings } = this.#ready
    this.#transaction(() => standings.forgetExpired(now))
    this.#database.exec(
      'DELETE FROM starters WHERE pos NOT IN (SELECT pos FROM starts UNION SELECT ok_pos FROM starts WHERE ok_pos IS NOT NULL)',
    )
    return this.#takeChanges().records
  }

  /** Rows that wait and were not handed out, as what went. */
  left(): LaneBacklog[] {
    if (this.#work === undefined) return []
    const { due } = this.#work
    return this.#backlog((pos, rule) => !due.isOut(pos, rule)).map(({ lane, waiting: counts }) => ({
      lane,
      waiting: Object.fromEntries(Object.entries(counts).map(([reason, count]) => [reason, -count])),
      nextUntil: Number.POSITIVE_INFINITY,
    }))
  }

  #backlog(concerns: (pos: number, rule: number) => boolean = () => true): LaneBacklog[] {
    const lanes = new Map<number, { nextUntil: number; waiting: Record<string, number> }>()
    const rows = this.#database.prepare(
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

  get #ready(): Work {
    if (this.#work === undefined) throw new Error(`partition ${this.#partition} was asked before it was restored`)
    return this.#work
  }

  /** Whether it is a dead letter, or parked: then somebody may reopen it, or end it. */
  #letterOf(id: string, rule: string): 'dead' | 'parked' | undefined {
    const number = this.#numbers.of('rule', rule)
    const pos = this.#placeOf.get(id, number)?.pos
    if (typeof pos !== 'number') return undefined
    const state = this.#row.get(pos, number)?.state
    return state === dead ? 'dead' : state === parked ? 'parked' : undefined
  }

  #isKnown(id: string, rule: string): boolean {
    return this.#placeOf.get(id, this.#numbers.of('rule', rule)) !== undefined
  }

  #replay(key: WorkKey, value: Buffer | null): void {
    if (key.kind === 'owner') return
    const rule = this.#numbers.of('rule', key.rule)
    if (key.kind !== 'delivery') {
      this.#replayFact(key, rule, value === null ? undefined : parseFact(value))
      return
    }
    const name = formatKey(key).toString()
    const found = value === null ? undefined : parseRow(value)
    const known = this.#placeOf.get(key.id, rule)?.pos
    if (value !== null && found?.row.pos === undefined) {
      // The owner has not said yet what becomes of it; what others wrote of a row that is there already says nothing new.
      if (known === undefined || found?.row.reopens === true) this.#unheard.set(name, { key: formatKey(key), value })
      return
    }
    this.#unheard.delete(name)
    if (known !== undefined) this.#remove(int(known), rule)
    if (found === undefined) return
    const settle = settleOfRow(found.row, found.event)
    const taken = found.row.pos === undefined ? undefined : this.#lastPlace.get(found.row.pos, found.row.pos + 1)?.pos
    const isFree = found.row.pos !== undefined && typeof taken !== 'number'
    const pos = isFree ? (found.row.pos ?? 0) : this.#place(settle, rule)
    this.#insert(pos, rule, settle)
    this.#insertRow(pos, rule, found.row)
  }

  #replayFact(key: Exclude<WorkKey, { kind: 'owner' | 'delivery' }>, rule: number, fact: Fact | undefined): void {
    const { kind } = key
    const name = kind === 'start' ? [rule, key.key] : [rule, key.signature, key.time]
    if (fact === undefined) {
      const where =
        kind === 'start' ? 'starts WHERE rule = ? AND key = ?' : 'roots WHERE rule = ? AND signature = ? AND time = ?'
      this.#database.prepare(`DELETE FROM ${where}`).run(...name)
      return
    }
    const columns =
      kind === 'start'
        ? 'starts(rule, key, pos, at, ok_pos, ok_h, ok_at, expires)'
        : 'roots(rule, signature, time, alive, expires)'
    const values = [...name, ...fact.numbers]
    this.#database
      .prepare(`INSERT OR REPLACE INTO ${columns} VALUES (${values.map(() => '?').join(', ')})`)
      .run(...values)
    for (const [pos, starter] of fact.starters ?? []) this.#keepStarter(pos, JSON.stringify(starter))
  }

  #keepStarter(pos: number, event: string): void {
    this.#database.prepare('INSERT OR IGNORE INTO starters(pos, event) VALUES (?, ?)').run(pos, event)
  }

  /** Of a row, or of one that is gone but was the newest start of its key, or its last success. */
  #starterAt(pos: number): Starter | undefined {
    const row = this.#database
      .prepare(
        'SELECT id, topic, part, off, stream, accepted, payload FROM origins JOIN events USING (pos) WHERE pos = ?',
      )
      .get(pos)
    if (row !== undefined) return { event: this.#eventOf(row), metaId: metaIdOf(blob(row.payload)) }
    const kept = this.#database.prepare('SELECT event FROM starters WHERE pos = ?').get(pos)?.event
    return typeof kept === 'string' ? (JSON.parse(kept) as Starter) : undefined
  }

  #eventOf(row: Row): RowEvent {
    const origin: Origin = [text(row.topic), int(row.part), int(row.off)]
    return { id: text(row.id), stream: this.#words.of('stream', int(row.stream)), accepted: int(row.accepted), origin }
  }

  /** As the owner before us had it: nothing follows from it for others. */
  #insertRow(pos: number, rule: number, row: WorkRow): void {
    const { progress, standing, attempts, answer, stops } = row
    const isParked = row.reason === 'parked'
    const state = isParked ? parked : deliveryStates.indexOf(row.state)
    const until = row.state === 'waiting' ? (row.until ?? never) : null
    const key = standing?.key
    this.#database
      .prepare(`
        INSERT INTO deliveries(pos, rule, lane, state, reason, until, at, revision, failures, first_at, finished, refused,
          claimed, more, key, turn, window, signature, time)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
      `)
      .run(
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
    const insert = this.#database.prepare(
      'INSERT INTO attempts(pos, rule, n, at, ms, status, outcome, request, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
    )
    for (const [index, one] of attempts.entries()) {
      insert.run(
        pos,
        rule,
        index + 1,
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
      this.#database
        .prepare(
          'INSERT INTO letters(pos, rule, parked, bytes, answer) SELECT pos, ?, ?, length(payload) + ?, ? FROM events WHERE pos = ?',
        )
        .run(rule, isParked ? 1 : 0, json?.length ?? 0, json, pos)
    }
    if (stops !== undefined) {
      this.#database.prepare('INSERT INTO suspects(pos, rule, stops) VALUES (?, ?, ?)').run(pos, rule, stops)
    }
    this.#learn()
  }

  #remove(pos: number, rule: number): void {
    for (const table of ['deliveries', 'attempts', 'letters', 'suspects']) {
      this.#database.prepare(`DELETE FROM ${table} WHERE pos = ? AND rule = ?`).run(pos, rule)
    }
    for (const table of ['events', 'origins']) this.#database.prepare(`DELETE FROM ${table} WHERE pos = ?`).run(pos)
  }

  /** In the order of acceptance, and after whatever of its key was called within the same millisecond. */
  #place({ event: { accepted }, standing }: Pick<ShardSettle, 'event' | 'standing'>, rule: number): number {
    const first = Math.max(0, accepted - placesSince) * placesPerMs
    let pos = first
    for (;;) {
      const end = pos - (pos % placesPerMs) + placesPerMs
      const last = this.#lastPlace.get(pos, end)?.pos
      if (typeof last !== 'number') break
      pos = last + 1
      if (pos < end) break
    }
    const started = standing?.key === undefined ? undefined : this.#startPlace.get(rule, standing.key.text)?.pos
    if (typeof started !== 'number' || started < first || started >= first + placesPerMs) return pos
    return Math.max(pos, started + 1)
  }

  #insert(pos: number, rule: number, { event, bytes }: Pick<ShardSettle, 'event' | 'bytes'>): void {
    const [topic, partition, offset] = event.origin
    const payload = bytes ?? new Uint8Array(0)
    const id = metaIdOf(payload)
    this.#insertEvent.run(
      pos,
      id === undefined ? 0 : hashId(id),
      this.#numbers.of('stream', event.stream),
      event.accepted,
      payload,
    )
    this.#insertOrigin.run(pos, event.id, rule, topic, partition, offset)
  }

  /** Within a transaction: as the commit wants it, with a row for each event that has none. */
  #packed(settles: readonly ShardSettle[]): { readonly settles: Float64Array; readonly extras: readonly Extra[] } {
    const packed = new Float64Array(settles.length * settleWidth)
    const extras: Extra[] = []
    for (const [index, settle] of settles.entries()) {
      const { lane, event, state, reason, until, progress, attempts, claimed, answer, standing } = settle
      const rule = this.#numbers.of('rule', lane.rule)
      const known = this.#placeOf.get(event.id, rule)?.pos
      const pos = typeof known === 'number' ? known : this.#place(settle, rule)
      if (known === undefined) this.#insert(pos, rule, settle)
      const number = reason === 'parked' ? parked : deliveryStates.indexOf(state)
      packed.set(
        [
          pos,
          rule,
          this.#numbers.ofLane(lane),
          number,
          this.#numbers.of('reason', reason),
          state === 'waiting' ? Math.min(until, never) : absent,
          settle.at,
          this.#numbers.of('revision', settle.revision),
          progress.failures,
          progress.firstAttemptAt,
          progress.finished,
          progress.refused,
          (claimed ? flagClaimed : 0) + (attempts.length > 0 ? flagAttempted : 0),
          absent,
          absent,
          absent,
        ],
        index * settleWidth,
      )
      extras.push({
        index,
        attempts: attempts.map((one) => ({ ...one, outcome: this.#numbers.of('outcome', one.outcome) })),
        bytes:
          (settle.bytes?.length ?? this.#payloadBytes(pos)) +
          (answer === undefined ? 0 : JSON.stringify(answer).length),
        answer,
        standing,
        more: progress.more === undefined ? undefined : JSON.stringify(progress.more),
      })
    }
    this.#learn()
    return { settles: packed, extras }
  }

  #payloadBytes(pos: number): number {
    return int(this.#database.prepare('SELECT length(payload) AS length FROM events WHERE pos = ?').get(pos)?.length)
  }

  /** The service's thread knows no numbers here: words are made and read on this one. */
  #learn(): void {
    for (const name of this.#numbers.takeFresh()) this.#words.learn(name)
  }

  #forgetChanges(): void {
    this.#database.exec('DELETE FROM changed; DELETE FROM changed_starts; DELETE FROM changed_roots')
  }

  /** What the changelog and the journal have to be told. What is done leaves no row. */
  #takeChanges(): { readonly records: Packed; readonly told: readonly Told[] } {
    const records: KeyValue[] = []
    const told: Told[] = []
    this.#transaction(() => {
      for (const { rule, key } of this.#database.prepare('SELECT rule, key FROM changed_starts').all()) {
        const fact: WorkKey = { kind: 'start', rule: this.#words.of('rule', int(rule)), key: text(key) }
        records.push({ key: formatKey(fact), value: this.#valueOf(fact) })
      }
      const covering = new Map<number, { rule: number; ids: string[] }>()
      const changed = this.#database.prepare('SELECT pos, rule FROM changed ORDER BY pos').all()
      for (const row of changed) {
        const pos = int(row.pos)
        const rule = int(row.rule)
        const { settle, event, payload, coveredBy } = this.#settleOf(pos, rule)
        const { state, reason, revision, at, until, attempts } = settle
        const name = settle.lane.rule
        told.push({
          event,
          metaId: metaIdOf(payload),
          rule: name,
          revision,
          state,
          reason,
          at,
          until: state === 'waiting' && until !== Number.POSITIVE_INFINITY ? until : null,
          attempts,
          coveredBy: coveredBy === undefined ? undefined : this.#deliveryId(coveredBy, name),
        })
        if (coveredBy !== undefined) {
          const covers = covering.get(coveredBy) ?? { rule, ids: [] }
          covers.ids.push(`${event.id}/${name}`)
          covering.set(coveredBy, covers)
        }
      }
      for (const [pos, { rule, ids }] of covering) {
        const starter = this.#starterAt(pos)
        if (starter === undefined) continue
        const covers = { count: ids.length, ids: ids.slice(0, coversAtMost) }
        told.push({ ...starter, rule: this.#words.of('rule', rule), covers })
      }
      for (const row of changed) records.push(this.#recordOf(int(row.pos), int(row.rule)))
      for (const root of this.#database.prepare('SELECT rule, signature, time FROM changed_roots').all()) {
        const rule = this.#words.of('rule', int(root.rule))
        const fact: WorkKey = { kind: 'root', rule, signature: text(root.signature), time: int(root.time) }
        records.push({ key: formatKey(fact), value: this.#valueOf(fact) })
      }
      this.#forgetChanges()
    })
    return { records: pack(records), told }
  }

  #recordOf(pos: number, rule: number): KeyValue {
    const { settle, event } = this.#settleOf(pos, rule)
    const key = formatKey({ kind: 'delivery', id: event.id, rule: settle.lane.rule })
    if (settle.state !== 'done') return { key, value: this.#formatted(pos, rule) }
    this.#remove(pos, rule)
    return { key, value: null }
  }

  #deliveryId(pos: number, rule: string): string | undefined {
    const starter = this.#starterAt(pos)
    return starter === undefined ? undefined : `${starter.event.id}/${rule}`
  }

  #valueOf(key: Exclude<WorkKey, { kind: 'owner' }>): Buffer | null {
    const rule = this.#numbers.of('rule', key.rule)
    this.#learn()
    if (key.kind === 'delivery') {
      const pos = this.#placeOf.get(key.id, rule)?.pos
      return typeof pos === 'number' ? this.#formatted(pos, rule) : null
    }
    if (key.kind === 'root') {
      const row = this.#database
        .prepare('SELECT alive, expires FROM roots WHERE rule = ? AND signature = ? AND time = ?')
        .get(rule, key.signature, key.time)
      return row === undefined ? null : formatFact({ numbers: [int(row.alive), int(row.expires)] })
    }
    const row = this.#database
      .prepare('SELECT pos, at, ok_pos, ok_h, ok_at, expires FROM starts WHERE rule = ? AND key = ?')
      .get(rule, key.key)
    if (row === undefined) return null
    const starters: [number, Starter][] = []
    for (const pos of new Set([row.pos, row.ok_pos])) {
      const starter = typeof pos === 'number' ? this.#starterAt(pos) : undefined
      if (typeof pos !== 'number' || starter === undefined) continue
      this.#keepStarter(pos, JSON.stringify(starter))
      starters.push([pos, starter])
    }
    const numbers = [row.pos, row.at, row.ok_pos, row.ok_h, row.ok_at, row.expires]
    return formatFact({ numbers: numbers.map((value) => (typeof value === 'number' ? value : null)), starters })
  }

  #formatted(pos: number, rule: number): Buffer {
    const { settle, event, payload } = this.#settleOf(pos, rule)
    const stops = this.#stops.get(pos, rule)?.stops
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
      standing: settle.standing,
      answer: settle.answer,
      ...(typeof stops === 'number' ? { stops } : {}),
      pos,
    }
    return formatRow(row, payload)
  }

  /** A row as it was settled. */
  #settleOf(
    pos: number,
    rule: number,
  ): {
    readonly settle: ShardSettle
    readonly event: RowEvent
    readonly payload: Uint8Array
    readonly coveredBy: number | undefined
  } {
    const row = this.#row.get(pos, rule)
    if (row === undefined) throw new Error(`partition ${this.#partition} has no delivery at ${pos}`)
    const payload = blob(row.payload)
    const event = this.#eventOf(row)
    const answer = this.#answer.get(pos, rule)?.answer
    const state = int(row.state)
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
      attempts: this.#attemptsOf(pos, rule),
      answer: typeof answer === 'string' ? (JSON.parse(answer) as LastAnswer) : undefined,
      standing: readStanding(row),
    }
    return { settle, event, payload, coveredBy: typeof row.covered_by === 'number' ? row.covered_by : undefined }
  }

  #entryOf(pos: number, rule: number): DeliveryEntry {
    const { settle, event, payload, coveredBy } = this.#settleOf(pos, rule)
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
      eventId: event.id,
      metaId: metaIdOf(payload),
      stream: event.stream,
      accepted: event.accepted,
      coveredBy: coveredBy === undefined ? undefined : this.#deliveryId(coveredBy, lane.rule),
      covers: { count: 0, ids: [] },
    }
  }

  #attemptsOf(pos: number, rule: number): AttemptEntry[] {
    return this.#attempts.all(pos, rule).map((row) => ({
      at: int(row.at),
      ms: int(row.ms),
      status: int(row.status),
      // Written by us, from what the contract lists.
      outcome: this.#words.of('outcome', int(row.outcome)) as RequestOutcome,
      request: int(row.request),
      note: text(row.note),
    }))
  }

  #inWords({ index, amended, moved, due }: Effect): Consequences & { readonly index: number } {
    const toLane = (lane: number) => parseLane(this.#words.of('lane', lane))
    const orInfinity = (until: number) => (until === never ? Number.POSITIVE_INFINITY : until)
    return {
      index,
      amended:
        amended === undefined
          ? undefined
          : amended.until === null
            ? { state: 'done', reason: 'duplicate' }
            : { state: 'waiting', reason: this.#words.waitReason(amended.reason), until: orInfinity(amended.until) },
      moved: moved.map(({ from, to, count }) => {
        const reason = this.#words.of('reason', to)
        return {
          from: this.#words.waitReason(from),
          to: reason === 'duplicate' ? reason : this.#words.waitReason(to),
          count,
        }
      }),
      due: due.map(({ lane, until }) => ({ lane: toLane(lane), until: orInfinity(until) })),
    }
  }

  #deadCounts(
    counts: readonly { readonly rule: number; readonly count: number; readonly bytes: number }[],
  ): DeadCounts {
    return counts.map(({ rule, ...rest }) => ({ rule: this.#words.of('rule', rule), ...rest }))
  }

  #transaction<Result>(change: () => Result): Result {
    this.#database.exec('BEGIN')
    try {
      const result = change()
      this.#database.exec('COMMIT')
      return result
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK')
      throw error
    }
  }
}

const emptyGroup = {
  first: 0,
  events: new Float64Array(0),
  payloads: new ArrayBuffer(0),
  cursor: 0,
  running: undefined,
} as const

function settleOfRow(row: WorkRow, event: Uint8Array): ShardSettle {
  const { id, stream, accepted, origin, rule, lane, state, reason, until, at, revision, progress, claimed, attempts } =
    row
  return {
    lane: { rule, key: lane },
    event: { id, stream, accepted, origin },
    bytes: event,
    state,
    // Written by us, from what the contract lists.
    reason: reason as ShardSettle['reason'],
    until: until ?? Number.POSITIVE_INFINITY,
    at,
    revision,
    progress,
    claimed,
    attempts,
    answer: row.answer,
    standing: row.standing,
  }
}

/** What came, as the engine counts it; and what that made of others. */
function rowsOf(
  { lane, state, reason, until }: ShardSettle,
  consequences: Consequences | undefined,
  wasParked: boolean,
): LaneBacklog[] {
  const { amended, moved = [], due = [] } = consequences ?? {}
  const waiting: Record<string, number> = wasParked ? { parked: -1 } : {}
  const add = (name: string, count: number) => {
    waiting[name] = (waiting[name] ?? 0) + count
  }
  const at = amended?.state === 'waiting' ? amended : { reason, until }
  const isWaiting = state === 'waiting' && amended?.state !== 'done'
  if (isWaiting) add(at.reason, 1)
  for (const { from, to, count } of moved) {
    add(from, -count)
    if (to !== 'duplicate') add(to, count)
  }
  return [
    { lane, nextUntil: isWaiting ? at.until : Number.POSITIVE_INFINITY, waiting },
    ...due.map((one) => ({ lane: one.lane, nextUntil: one.until, waiting: {} })),
  ]
}
