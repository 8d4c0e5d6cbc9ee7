import {
  type Consequences,
  type DeliveryEntry,
  deliveryStates,
  type Lane,
  type LaneBacklog,
  type LastAnswer,
} from '../store.ts'
import { Commits, type Effect } from '../tables/commit.ts'
import { type Database, int, text } from '../tables/database.ts'
import { DueRows } from '../tables/due.ts'
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
} from '../tables/format.ts'
import { MetaIds } from '../tables/ids.ts'
import { parseLane } from '../tables/lane-name.ts'
import { Letters } from '../tables/letters.ts'
import type { Numbers } from '../tables/numbers.ts'
import { Standings } from '../tables/standings.ts'
import { Suspects } from '../tables/suspects.ts'
import type { Words } from '../tables/words.ts'
import { type KeyValue, type Packed, pack, unpack } from './packed.ts'
import type { Roots } from './roots.ts'
import { type Fact, formatFact, formatKey, parseFact, parseKey, parseRow, type WorkKey, type WorkRow } from './row.ts'
import type {
  Arrived,
  Change,
  DeadCounts,
  ShardLetter,
  ShardOutputs,
  ShardRow,
  ShardSettle,
  Told,
} from './shard-protocol.ts'
import { firstPlaceWith, ShardRows, type Starter } from './shard-rows.ts'

const coversAtMost = 100
const takenUpAtOnce = 1_000
/** Deliveries with a key that are known to have ended. */
const endedAtMost = 20_000
const letterBytesAtOnce = 8_388_608

const interrupted: LastAnswer = {
  status: 0,
  headers: {},
  body: '',
  truncated: false,
  request: '',
  error:
    'the process ended, or lost this part of the work, while the call was under way; whether it was carried out is not known, and it is not repeated',
}

const none: ReadonlySet<number> = new Set()
const elsewhere: Consequences = { amended: { state: 'elsewhere' }, moved: [], due: [] }

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
  readonly #rows: ShardRows
  /**
   * Which deliveries with a key ended last. Who has just taken over their source may not have heard of it yet, and hand them
   * over once more.
   */
  readonly #ended = new Set<string>()
  /**
   * What was handed over and waits for its turn, by place: for a second the topic has no more of it than that, and the
   * journal nothing. Most is called by then, and costs no record.
   */
  readonly #untold = new Map<number, { readonly rule: number; readonly since: number }>()
  readonly #words: Words
  readonly #numbers: Numbers
  readonly #roots: Roots
  #work: Work | undefined
  /** `database`: empty, with the tables of the embedded store. */
  constructor(partition: number, database: Database, words: Words, numbers: Numbers, roots: Roots) {
    this.#partition = partition
    this.#words = words
    this.#numbers = numbers
    this.#roots = roots
    this.#rows = new ShardRows(database, words, numbers)
  }

  close(): void {
    this.#rows.database.close()
  }

  /** What the changelog says, in order. */
  restore(records: Packed): void {
    this.#rows.transaction(() => {
      for (const { key, value } of unpack(records)) {
        const parsed = parseKey(key)
        if (parsed !== undefined) this.#replay(parsed, value)
      }
      this.#rows.learn()
    })
  }

  /** The changelog is read to its end. */
  restored(now: number): Change & { readonly backlog: readonly LaneBacklog[] } {
    this.#forgetChanges()
    const { database } = this.#rows
    const cutOff = database.prepare('SELECT pos, rule, claimed FROM deliveries WHERE state = 1').all()
    this.#rows.transaction(() => {
      const count = database.prepare(
        'INSERT INTO suspects(pos, rule, stops) VALUES (?, ?, 1) ON CONFLICT(pos, rule) DO UPDATE SET stops = stops + 1',
      )
      for (const { pos, rule, claimed } of cutOff) if (claimed === 0) count.run(int(pos), int(rule))
    })
    const ids = new MetaIds(database)
    const letters = new Letters(database)
    const suspects = new Suspects(database)
    const standings = this.#rows.transaction(
      () => new Standings(database, this.#words, (...root) => this.#roots.hasLater(this.#partition, ...root)),
    )
    const due = new DueRows(database, this.#words, suspects, standings)
    const commits = new Commits(database, 0, { words: this.#words, ids, letters, suspects, due, standings })
    this.#work = { commits, due, letters, standings }
    const settles = cutOff.map(({ pos, rule, claimed }) => {
      const { settle } = this.#rows.read(int(pos), int(rule))
      return claimed === 0
        ? { ...settle, attempts: [], state: 'waiting' as const, reason: 'slot' as const, until: now, at: now }
        : {
            ...settle,
            attempts: [],
            state: 'dead' as const,
            reason: 'interrupted' as const,
            at: now,
            claimed: false,
            answer: interrupted,
          }
    })
    const { records, told } = this.settle(settles)
    const own = database.prepare('SELECT rule, signature, time, alive, expires FROM roots').all()
    const roots = pack(this.#roots.differences(this.#partition, own))
    return {
      consequences: [],
      records,
      roots,
      told,
      dead: this.#deadCounts(letters.counts()),
      backlog: this.#backlog(),
    }
  }

  /** The next of what was handed over, and its last owner had not taken up. */
  takeUp(now: number): Arrived & { readonly more: boolean } {
    const page = [...take(this.#unheard, takenUpAtOnce)]
    for (const [name] of page) this.#unheard.delete(name)
    return { ...this.arrive(pack(page.map(([, one]) => one)), now), more: this.#unheard.size > 0 }
  }

  /** What comes with its event and has a row already was given out again: what is kept of it holds. */
  settle(settles: readonly ShardSettle[]): Change {
    return this.#rows.transaction(() => this.#settle(settles, undefined))
  }

  /** `arrived`: when they were handed over, in ms, where they were. */
  #settle(settles: readonly ShardSettle[], arrived: number | undefined): Change {
    const { commits, letters } = this.#ready
    const repeated = settles.flatMap(({ bytes, event, lane }, index) => {
      return bytes !== undefined && this.#isKnown(event.id, lane.rule) ? [{ index, ...elsewhere }] : []
    })
    const isRepeated = new Set(repeated.map(({ index }) => index))
    const indexes = [...settles.keys()].filter((index) => !isRepeated.has(index))
    const group = this.#packed(repeated.length === 0 ? settles : settles.filter((_, index) => !isRepeated.has(index)))
    const effects = commits.apply({ ...emptyGroup, ...group, names: this.#numbers.takeFresh() })
    const changed = letters.changes()
    const untold = arrived === undefined ? none : this.#keepUntold(settles, group.settles, effects, arrived)
    return {
      consequences: [
        ...repeated,
        ...effects.map((effect) => ({ ...this.#inWords(effect), index: indexes[effect.index] ?? effect.index })),
      ],
      ...this.#takeChanges(untold),
      dead: changed === undefined ? undefined : this.#deadCounts(letters.counts()),
    }
  }

  /** Deliveries that were handed over. One that is known already is not taken twice, and said again. */
  arrive(records: Packed, now: number): Arrived {
    return this.#rows.transaction(() => this.#arrive(records, now))
  }

  #arrive(records: Packed, now: number): Arrived {
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
    const change = this.#settle(settles, now)
    const again = unpack(this.reassert(pack(known)))
    const consequences = change.consequences.map((one) => ({ ...one, index: indexes[one.index] ?? one.index }))
    const byIndex = new Map(consequences.map((one) => [one.index, one]))
    return {
      ...change,
      records: again.length === 0 ? change.records : pack([...unpack(change.records), ...again]),
      consequences: [...consequences, ...repeated],
      hasUntold: this.#untold.size > 0,
      rows: settles.flatMap((settle, at) => {
        const index = indexes[at] ?? at
        return rowsOf(settle, byIndex.get(index), unparked.has(index)).map((change) => ({ index, change }))
      }),
    }
  }

  /** What is untold since that time, or longer. */
  tell(since: number): ShardOutputs['tell'] {
    return this.#rows.transaction(() => {
      const change = this.#rows.prepare('INSERT OR IGNORE INTO changed(pos, rule) VALUES (?, ?)')
      for (const [pos, one] of this.#untold) {
        if (one.since > since) break
        change.run(pos, one.rule)
      }
      return { ...this.#takeChanges(none), hasUntold: this.#untold.size > 0 }
    })
  }

  /** What holds of these keys. */
  reassert(keys: Packed): Packed {
    return pack(
      unpack(keys).flatMap(({ key }) => {
        const parsed = parseKey(key)
        if (parsed === undefined || parsed.kind === 'owner') return []
        const pos =
          parsed.kind === 'delivery' ? this.#rows.find(parsed.id, this.#numbers.of('rule', parsed.rule)) : undefined
        const older = pos === undefined ? [] : this.#untoldBefore(pos).map(([at, rule]) => this.#recordOf(at, rule))
        return [...older, { key, value: this.#valueOf(parsed) }]
      }),
    )
  }

  rowsOf(topic: string, partition: number, from: number): { readonly offset: number; readonly rule: string }[] {
    return this.#rows
      .prepare('SELECT off, rule FROM origins WHERE topic = ? AND part = ? AND off >= ?')
      .all(topic, partition, from)
      .map(({ off, rule }) => ({ offset: int(off), rule: this.#words.of('rule', int(rule)) }))
  }

  take(lane: Lane, now: number, limit: number): { readonly rows: readonly ShardRow[]; readonly nextUntil: number } {
    const number = this.#numbers.ofLane(lane)
    this.#rows.learn()
    const { rows, nextUntil } = this.#ready.due.take(number, now, limit)
    return {
      rows: rows.map(({ event: { pos, payload }, ...rest }) => {
        return { ...rest, partition: this.#partition, event: this.#rows.eventAt(pos), bytes: payload }
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
    return this.#rows
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
    const rows = this.#rows
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
      const { settle, event } = this.#rows.read(last, int(row.rule))
      const payload = this.#rows.payload(last)
      bytes += payload.length
      const { lane, progress, answer, standing } = settle
      letters.push({ ...entry, partition: this.#partition, event, bytes: payload, lane, progress, answer, standing })
    }
    return { letters, after: undefined }
  }

  /** What need not be remembered any longer. */
  forget(now: number): ShardOutputs['forget'] {
    const { standings } = this.#ready
    this.#rows.transaction(() => standings.forgetExpired(now))
    this.#rows.database.exec(
      'DELETE FROM starters WHERE pos NOT IN (SELECT pos FROM starts UNION SELECT ok_pos FROM starts WHERE ok_pos IS NOT NULL)',
    )
    const { records, roots } = this.#takeChanges(none)
    return { records, roots }
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

  get #ready(): Work {
    if (this.#work === undefined) throw new Error(`partition ${this.#partition} was asked before it was restored`)
    return this.#work
  }

  /** Whether it is a dead letter, or parked: then somebody may reopen it, or end it. */
  #letterOf(id: string, rule: string): 'dead' | 'parked' | undefined {
    const number = this.#numbers.of('rule', rule)
    const pos = this.#rows.find(id, number)
    if (pos === undefined) return undefined
    const { state, reason } = this.#rows.read(pos, number).settle
    return state === 'dead' ? 'dead' : reason === 'parked' ? 'parked' : undefined
  }

  #isKnown(id: string, rule: string): boolean {
    return this.#rows.find(id, this.#numbers.of('rule', rule)) !== undefined || this.#ended.has(`${id}/${rule}`)
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
    const known = this.#rows.find(key.id, rule)
    if (value !== null && found?.row.pos === undefined) {
      // The owner has not said yet what becomes of it; what others wrote of a row that is there already says nothing new.
      if (known === undefined || found?.row.reopens === true) this.#unheard.set(name, { key: formatKey(key), value })
      return
    }
    this.#unheard.delete(name)
    if (known !== undefined) this.#rows.remove(known, rule)
    if (found === undefined) return
    const settle = settleOfRow(found.row, found.event)
    const { pos: wanted } = found.row
    const isFree = wanted !== undefined && this.#rows.isFree(wanted)
    const pos = isFree ? wanted : this.#rows.place(settle.event.accepted)
    this.#rows.insert(pos, rule, settle)
    this.#rows.insertRow(pos, rule, found.row)
  }

  #replayFact(key: Exclude<WorkKey, { kind: 'owner' | 'delivery' }>, rule: number, fact: Fact | undefined): void {
    const { kind } = key
    const name = kind === 'start' ? [rule, key.key] : [rule, key.signature, key.time]
    if (fact === undefined) {
      const where =
        kind === 'start' ? 'starts WHERE rule = ? AND key = ?' : 'roots WHERE rule = ? AND signature = ? AND time = ?'
      this.#rows.prepare(`DELETE FROM ${where}`).run(...name)
      return
    }
    const columns =
      kind === 'start'
        ? 'starts(rule, key, pos, at, ok_pos, ok_h, ok_at, expires)'
        : 'roots(rule, signature, time, alive, expires)'
    const values = [...name, ...fact.numbers]
    this.#rows.prepare(`INSERT OR REPLACE INTO ${columns} VALUES (${values.map(() => '?').join(', ')})`).run(...values)
    for (const [pos, starter] of fact.starters ?? []) this.#rows.keepStarter(pos, JSON.stringify(starter))
  }

  /** Within a transaction: as the commit wants it, with a row for each event that has none. */
  #packed(settles: readonly ShardSettle[]): { readonly settles: Float64Array; readonly extras: readonly Extra[] } {
    const packed = new Float64Array(settles.length * settleWidth)
    const extras: Extra[] = []
    for (const [index, settle] of settles.entries()) {
      const { lane, event, state, reason, until, progress, attempts, claimed, answer, standing } = settle
      const rule = this.#numbers.of('rule', lane.rule)
      const known = this.#rows.find(event.id, rule)
      const pos = known ?? this.#rows.place(settle.event.accepted)
      if (known === undefined) this.#rows.insert(pos, rule, settle)
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
          (settle.bytes?.length ?? this.#rows.payloadBytes(pos)) +
          (answer === undefined ? 0 : JSON.stringify(answer).length),
        answer,
        standing,
        more: progress.more === undefined ? undefined : JSON.stringify(progress.more),
      })
    }
    this.#rows.learn()
    return { settles: packed, extras }
  }

  #forgetChanges(): void {
    this.#rows.database.exec('DELETE FROM changed; DELETE FROM changed_starts; DELETE FROM changed_roots')
  }

  /** Says which they are, of those that were handed over. */
  #keepUntold(
    settles: readonly ShardSettle[],
    packed: Float64Array,
    effects: readonly Effect[],
    since: number,
  ): ReadonlySet<number> {
    const amended = new Set(effects.filter((effect) => effect.amended !== undefined).map(({ index }) => index))
    const kept = new Set<number>()
    for (const [index, { bytes, state, reason, attempts }] of settles.entries()) {
      const isPlain = bytes !== undefined && state === 'waiting' && reason === 'slot' && attempts.length === 0
      if (!isPlain || amended.has(index)) continue
      const pos = packed[index * settleWidth] ?? 0
      this.#untold.set(pos, { rule: packed[index * settleWidth + 1] ?? 0, since })
      kept.add(pos)
    }
    return kept
  }

  /**
   * Who takes over gives those without a place one behind those that have one, within a millisecond: so whoever is told of has
   * all before it told of.
   */
  #untoldBefore(pos: number): [pos: number, rule: number][] {
    if (this.#untold.size === 0) return []
    const before: [number, number][] = []
    for (let at = firstPlaceWith(pos); at < pos; at += 1) {
      const one = this.#untold.get(at)
      if (one !== undefined) before.push([at, one.rule])
    }
    return before
  }

  /** What the changelog and the journal have to be told, but for what they are not to be told yet. What is done leaves no row. */
  #takeChanges(untold: ReadonlySet<number>): Pick<Change, 'records' | 'roots' | 'told'> {
    const records: KeyValue[] = []
    const roots: KeyValue[] = []
    const told: Told[] = []
    this.#rows.transaction(() => {
      for (const { rule, key } of this.#rows.prepare('SELECT rule, key FROM changed_starts').all()) {
        const fact: WorkKey = { kind: 'start', rule: this.#words.of('rule', int(rule)), key: text(key) }
        records.push({ key: formatKey(fact), value: this.#valueOf(fact) })
      }
      const covering = new Map<number, { rule: number; ids: string[] }>()
      const rows: KeyValue[] = []
      const done: [pos: number, rule: number][] = []
      const tell = (pos: number, rule: number) => {
        this.#untold.delete(pos)
        const row = this.#rows.read(pos, rule)
        const { settle, event, metaId, coveredBy } = row
        const { state, reason, revision, at, until, attempts } = settle
        const name = settle.lane.rule
        told.push({
          event,
          metaId,
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
        const isDone = state === 'done'
        if (isDone) {
          done.push([pos, rule])
          if (settle.standing !== undefined) this.#remember(`${event.id}/${name}`)
        }
        const key = formatKey({ kind: 'delivery', id: event.id, rule: name })
        rows.push({ key, value: isDone ? null : this.#rows.format(pos, rule, row) })
        if (!isDone) for (const [older, of] of this.#untoldBefore(pos)) tell(older, of)
      }
      for (const { pos, rule } of this.#rows.prepare('SELECT pos, rule FROM changed ORDER BY pos').all())
        if (!untold.has(int(pos))) tell(int(pos), int(rule))
      for (const [pos, { rule, ids }] of covering) {
        const starter = this.#rows.starterAt(pos)
        if (starter === undefined) continue
        const covers = { count: ids.length, ids: ids.slice(0, coversAtMost) }
        told.push({ ...starter, rule: this.#words.of('rule', rule), covers })
      }
      for (const [pos, rule] of done) this.#rows.remove(pos, rule)
      records.push(...rows)
      for (const root of this.#rows.prepare('SELECT rule, signature, time FROM changed_roots').all()) {
        const rule = this.#words.of('rule', int(root.rule))
        const fact: WorkKey = { kind: 'root', rule, signature: text(root.signature), time: int(root.time) }
        roots.push({ key: formatKey(fact), value: this.#valueOf(fact) })
      }
      this.#forgetChanges()
    })
    return { records: pack([...records, ...roots]), roots: pack(roots), told }
  }

  #remember(ended: string): void {
    this.#ended.add(ended)
    if (this.#ended.size <= endedAtMost) return
    for (const oldest of this.#ended) {
      this.#ended.delete(oldest)
      return
    }
  }

  #deliveryId(pos: number, rule: string): string | undefined {
    const starter = this.#rows.starterAt(pos)
    return starter === undefined ? undefined : `${starter.event.id}/${rule}`
  }

  #valueOf(key: Exclude<WorkKey, { kind: 'owner' }>): Buffer | null {
    const rule = this.#numbers.of('rule', key.rule)
    this.#rows.learn()
    if (key.kind === 'delivery') {
      const pos = this.#rows.find(key.id, rule)
      return pos === undefined ? null : this.#rows.format(pos, rule, this.#rows.read(pos, rule))
    }
    if (key.kind === 'root') {
      const row = this.#rows
        .prepare('SELECT alive, expires FROM roots WHERE rule = ? AND signature = ? AND time = ?')
        .get(rule, key.signature, key.time)
      return row === undefined ? null : formatFact({ numbers: [int(row.alive), int(row.expires)] })
    }
    const row = this.#rows
      .prepare('SELECT pos, at, ok_pos, ok_h, ok_at, expires FROM starts WHERE rule = ? AND key = ?')
      .get(rule, key.key)
    if (row === undefined) return null
    const starters: [number, Starter][] = []
    for (const pos of new Set([row.pos, row.ok_pos])) {
      const starter = typeof pos === 'number' ? this.#rows.starterAt(pos) : undefined
      if (typeof pos !== 'number' || starter === undefined) continue
      this.#rows.keepStarter(pos, JSON.stringify(starter))
      starters.push([pos, starter])
    }
    const numbers = [row.pos, row.at, row.ok_pos, row.ok_h, row.ok_at, row.expires]
    return formatFact({ numbers: numbers.map((value) => (typeof value === 'number' ? value : null)), starters })
  }

  #recordOf(pos: number, rule: number): KeyValue {
    const row = this.#rows.read(pos, rule)
    const key = formatKey({ kind: 'delivery', id: row.event.id, rule: row.settle.lane.rule })
    return { key, value: this.#rows.format(pos, rule, row) }
  }

  #entryOf(pos: number, rule: number): DeliveryEntry {
    const { settle, event, metaId, coveredBy } = this.#rows.read(pos, rule)
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
      metaId,
      stream: event.stream,
      accepted: event.accepted,
      coveredBy: coveredBy === undefined ? undefined : this.#deliveryId(coveredBy, lane.rule),
      covers: { count: 0, ids: [] },
    }
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
}

function* take<One>(from: Iterable<One>, count: number): Generator<One> {
  let taken = 0
  for (const one of from) {
    if (taken === count) return
    yield one
    taken += 1
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
