import { type Consequences, deliveryStates, type Lane, type LaneBacklog, type LastAnswer } from '../store.ts'
import { Commits, type Effect } from '../tables/commit.ts'
import { type Database, int, text } from '../tables/database.ts'
import { type DueLane, DueRows } from '../tables/due.ts'
import { absent, type Extra, flagAttempted, flagClaimed, never, parked, settleWidth } from '../tables/format.ts'
import { MetaIds } from '../tables/ids.ts'
import { parseLane } from '../tables/lane-name.ts'
import { Letters } from '../tables/letters.ts'
import type { Numbers } from '../tables/numbers.ts'
import { type Beyond, type Moved, Standings } from '../tables/standings.ts'
import { Suspects } from '../tables/suspects.ts'
import type { Words } from '../tables/words.ts'
import { type Packed, pack, unpack } from './packed.ts'
import { Replay } from './replay.ts'
import type { Roots } from './roots.ts'
import { parseKey, parseRow } from './row.ts'
import { ShardChanges } from './shard-changes.ts'
import { ShardListing } from './shard-listing.ts'
import {
  type Arrived,
  type Change,
  type DeadCounts,
  isRememberedBriefly,
  type KeyEnd,
  type SettleBatch,
  type ShardOutputs,
  type ShardRow,
  type ShardSettle,
  settleOfRow,
  type Told,
} from './shard-protocol.ts'
import { ShardRows } from './shard-rows.ts'

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

/** Where a call stands that never had a row, and what came of it for others. */
interface Ended {
  readonly pos: number
  readonly moved: Consequences['moved']
}

/** What a partition has once its changelog is read. */
interface Work {
  readonly commits: Commits
  readonly due: DueRows
  readonly letters: Letters
  readonly standings: Standings
  readonly suspects: Suspects
}

/**
 * The rows of one partition of the work topic, in a database that is thrown away: what counts is the changelog, from which
 * the next owner makes another. So how deliveries stand to one another is decided by the code that the embedded store has.
 */
export class Shard {
  readonly changes: ShardChanges
  readonly listing: ShardListing
  readonly #partition: number
  readonly #rows: ShardRows
  readonly #words: Words
  readonly #numbers: Numbers
  readonly #roots: Roots
  readonly replay: Replay
  /** What was handed out when it was covered, until it is settled: by id of the delivery, where its row was. */
  readonly #coveredOut = new Map<string, { readonly pos: number; readonly rule: number }>()
  /** What ran when its last owner was lost. */
  readonly #suspected: { readonly pos: number; readonly rule: number }[] = []
  #work: Work | undefined

  /** `database`: empty, with the tables of the embedded store. */
  constructor(partition: number, database: Database, words: Words, numbers: Numbers, roots: Roots) {
    this.#partition = partition
    this.#words = words
    this.#numbers = numbers
    this.#roots = roots
    this.#rows = new ShardRows(database, words, numbers)
    this.changes = new ShardChanges(this.#rows, words, numbers)
    this.replay = new Replay(this.#rows, this.changes, numbers, (accepted) => this.#place(accepted))
    this.listing = new ShardListing(partition, this.#rows, words, numbers)
  }

  close(): void {
    this.#rows.database.close()
  }

  /** The changelog is read to its end. `hasMoved`: its last owner lives, so that nothing is suspected of his end. */
  restored(now: number, hasMoved: boolean): ShardOutputs['restored'] {
    this.changes.forget()
    const { database } = this.#rows
    const cutOff = database.prepare('SELECT pos, rule, claimed FROM deliveries WHERE state = 1').all()
    this.#rows.transaction(() => {
      const count = database.prepare(
        'INSERT INTO suspects(pos, rule, stops) VALUES (?, ?, 1) ON CONFLICT(pos, rule) DO UPDATE SET stops = stops + 1',
      )
      for (const { pos, rule, claimed } of hasMoved ? [] : cutOff) {
        if (claimed !== 0) continue
        count.run(int(pos), int(rule))
        this.#suspected.push({ pos: int(pos), rule: int(rule) })
      }
    })
    const ids = new MetaIds(database)
    const letters = new Letters(database)
    const suspects = new Suspects(database)
    const beyond: Beyond = {
      hasLater: (...root) => this.#roots.hasLater(this.#partition, ...root),
      inHand: (...key) => due.outOf(...key),
    }
    const standings = this.#rows.transaction(() => new Standings(database, this.#words, beyond))
    const due = new DueRows(database, this.#words, suspects, standings)
    this.#rows.transaction(() => {
      for (const { pos, rule, claimed } of cutOff) if (claimed !== 0) standings.callLost(int(pos), int(rule), now)
    })
    const commits = new Commits(database, 0, { words: this.#words, ids, letters, suspects, due, standings })
    this.#work = { commits, due, letters, standings, suspects }
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
    const { records, told } = this.#rows.transaction(() => {
      this.#releaseOrphans(now)
      return this.#settle(settles)
    })
    const own = database.prepare('SELECT rule, signature, time, alive, expires FROM roots').all()
    const roots = pack(this.#roots.differences(this.#partition, own))
    return {
      consequences: [],
      records,
      roots,
      told,
      dead: this.#deadCounts(letters.counts()),
      backlog: this.listing.backlog(),
    }
  }

  /** Its last owner lives after all. */
  absolve(): ShardOutputs['absolve'] {
    const { suspects } = this.#ready
    return this.#rows.transaction(() => {
      for (const { pos, rule } of this.#suspected.splice(0))
        if (suspects.absolve(pos, rule)) this.changes.note(pos, rule)
      return this.changes.take()
    })
  }

  /** The owner before us died between what ended a delivery and what let the next of its key go. */
  #releaseOrphans(now: number): void {
    const { standings, due } = this.#ready
    for (const { pos, rule } of standings.releaseOrphans(now)) {
      const { lane } = this.#rows.read(pos, rule).settle
      due.rewind(this.#numbers.ofLane(lane), now, pos)
    }
  }

  /** What comes with its event and has a row already was given out again: what is kept of it holds. */
  settle({ settles, ends, ended: ids }: Omit<SettleBatch, 'partition'>): Change {
    return this.#rows.transaction(() => {
      for (const id of ids) this.changes.hasSaidEnd(id)
      const ended = this.#endAll(ends)
      const consequences = ended.flatMap(({ moved }, index) =>
        moved.length === 0 ? [] : [{ index: settles.length + index, amended: undefined, moved, due: [] }],
      )
      const change = this.#settle(settles)
      return {
        ...change,
        consequences: [...change.consequences, ...consequences],
        places: ended.map(({ pos }) => pos),
      }
    })
  }

  /** Before anything else is noted as changed: what the keys topic is told of is not. */
  #endAll(ends: readonly KeyEnd[]): Ended[] {
    if (ends.length === 0) return []
    const brief = ends.map((one) => (isRememberedBriefly(one) ? this.#end(one) : undefined))
    this.changes.forgetStarts()
    return ends.map((one, index) => brief[index] ?? this.#end(one))
  }

  #end({ accepted, starter, hash, rule: name, key, windowMs, began, at }: KeyEnd): Ended {
    const rule = this.#numbers.of('rule', name)
    const pos = this.#place(accepted)
    this.#rows.keepStarter(pos, rule, key, starter)
    const call = { pos, rule, at, firstAttemptAt: began, hash }
    const moved = this.#movedInWords(this.#ready.standings.ended(call, { text: key, turn: 'newest', windowMs }))
    this.#noteCovered(name, key)
    return { pos, moved }
  }

  /** Somebody may still have what was covered there: whoever took its place would be settled, or let go, with it. */
  #place(accepted: number): number {
    const isCovered = (place: number) => [...this.#coveredOut.values()].some(({ pos }) => pos === place)
    return this.#rows.place(accepted, (place) => this.#coveredOut.size > 0 && isCovered(place))
  }

  /** A call of the key was made elsewhere than where it is handed out. */
  #noteCovered(name: string, key: string): void {
    const rule = this.#numbers.of('rule', name)
    for (const pos of this.#ready.due.outOf(rule, key)) {
      const covered = this.#rows
        .prepare(
          'SELECT id FROM deliveries JOIN origins USING (pos) WHERE pos = ? AND deliveries.rule = ? AND covered_by > 0',
        )
        .get(pos, rule)
      if (covered !== undefined) this.#coveredOut.set(`${text(covered.id)}/${name}`, { pos, rule })
    }
  }

  /** It was handed over to another partition: there it is told of. */
  remove(settle: ShardSettle): ShardOutputs['remove'] {
    const change = this.#rows.transaction(() => this.#settle([settle], true))
    const isOther = ({ event, rule }: Told) => event.id !== settle.event.id || rule !== settle.lane.rule
    return { ...change, told: change.told.filter(isOther) }
  }

  /** `areTakenAway`: those that are done have not ended. */
  #settle(settles: readonly ShardSettle[], areTakenAway = false): Omit<Change, 'places'> {
    const { commits, letters } = this.#ready
    // What comes without its event is of a row that is here, or made just before it; somebody else may have ended that meanwhile,
    // be it with this.
    const made = new Set<string>()
    const repeated = settles.flatMap(({ bytes, event, lane }, index) => {
      const name = `${event.id}/${lane.rule}`
      const isNew = bytes !== undefined && !made.has(name) && !this.#isKnown(event.id, lane.rule)
      if (isNew) made.add(name)
      const isOfRow = bytes === undefined && (made.has(name) || this.#hasRow(event.id, lane.rule))
      const isCovered = bytes === undefined && this.#coveredOut.has(name)
      return isNew || (isOfRow && !isCovered)
        ? []
        : [{ index, ...elsewhere, due: bytes === undefined ? this.#letGo(name) : [] }]
    })
    const isRepeated = new Set(repeated.map(({ index }) => index))
    const indexes = [...settles.keys()].filter((index) => !isRepeated.has(index))
    const fresh = repeated.length === 0 ? settles : settles.filter((_, index) => !isRepeated.has(index))
    const group = this.#packed(fresh)
    const effects = commits.apply({ ...emptyGroup, ...group, names: this.#numbers.takeFresh() })
    for (const { lane, standing, attempts } of fresh)
      if (standing?.key?.turn === 'newest' && attempts.length > 0) this.#noteCovered(lane.rule, standing.key.text)
    const changed = letters.changes()
    return {
      consequences: [
        ...repeated,
        ...effects.map((effect) => ({ ...this.#inWords(effect), index: indexes[effect.index] ?? effect.index })),
      ],
      ...this.changes.take(areTakenAway),
      dead: changed === undefined ? undefined : this.#deadCounts(letters.counts()),
    }
  }

  /** Who was covered while it was handed out does not keep its key any longer. */
  #letGo(name: string): Consequences['due'] {
    const covered = this.#coveredOut.get(name)
    if (covered === undefined) return []
    this.#coveredOut.delete(name)
    return this.#dueInWords(this.#ready.due.letGo(covered.pos, covered.rule))
  }

  /** Deliveries that were handed over with what has come of them. One that is known already is not taken twice. */
  arrive(records: Packed): Arrived {
    return this.#rows.transaction(() => this.#arrive(records))
  }

  #arrive(records: Packed): Arrived {
    const settles: ShardSettle[] = []
    /** By index of the settles: the lane has one less that is parked. */
    const unparked = new Set<number>()
    const seen = new Set<string>()
    for (const { key, value } of unpack(records)) {
      const parsed = parseKey(key)
      const arrived = value === null ? undefined : parseRow(value)
      if (parsed?.kind !== 'delivery' || arrived === undefined) continue
      const name = `${parsed.id}/${parsed.rule}`
      const isKnown = this.#isKnown(parsed.id, parsed.rule)
      const letter = isKnown && arrived.row.reopens === true ? this.#letterOf(parsed.id, parsed.rule) : undefined
      if ((isKnown && letter === undefined) || seen.has(name)) continue
      seen.add(name)
      if (letter === 'parked') unparked.add(settles.length)
      const settle = settleOfRow(arrived.row, arrived.event)
      settles.push(isKnown ? { ...settle, bytes: undefined } : settle)
    }
    const { consequences, ...change } = this.#settle(settles)
    const byIndex = new Map(consequences.map((one) => [one.index, one]))
    const rows = settles.flatMap((settle, index) => rowsOf(settle, byIndex.get(index), unparked.has(index)))
    return { ...change, rows }
  }

  take(lane: Lane, now: number, limit: number): { readonly rows: readonly ShardRow[]; readonly nextUntil: number } {
    const number = this.#numbers.ofLane(lane)
    this.#rows.learn()
    const partition = this.#partition
    const { rows, nextUntil } = this.#ready.due.take(number, now, limit)
    const taken = rows.map(({ event: { pos, payload }, ...rest }) => {
      return { ...rest, partition, event: this.#rows.eventAt(pos), bytes: payload }
    })
    return { rows: taken, nextUntil }
  }

  /** Some of what need not be remembered any longer. */
  forget(now: number): ShardOutputs['forget'] {
    const { standings } = this.#ready
    const more = this.#rows.transaction(() => standings.forgetExpired(now)) > 0
    if (!more) this.#rows.forgetStarters()
    const { records, roots } = this.changes.take()
    return { records, roots, more }
  }

  /** Rows that wait and were not handed out, as what went. */
  left(): LaneBacklog[] {
    if (this.#work === undefined) return []
    const { due } = this.#work
    const rows = this.listing.backlog((pos, rule) => !due.isOut(pos, rule))
    return rows.map(({ lane, waiting: counts }) => ({
      lane,
      waiting: Object.fromEntries(Object.entries(counts).map(([reason, count]) => [reason, -count])),
      nextUntil: Number.POSITIVE_INFINITY,
    }))
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

  #hasRow(id: string, rule: string): boolean {
    return this.#rows.find(id, this.#numbers.of('rule', rule)) !== undefined
  }

  #isKnown(id: string, rule: string): boolean {
    return this.#hasRow(id, rule) || this.changes.hasEnded(id, rule)
  }

  /** Within a transaction: as the commit wants it, with a row for each event that has none. */
  #packed(settles: readonly ShardSettle[]): { readonly settles: Float64Array; readonly extras: readonly Extra[] } {
    const packed = new Float64Array(settles.length * settleWidth)
    const extras: Extra[] = []
    for (const [index, settle] of settles.entries()) {
      const { lane, event, state, reason, until, progress, attempts, claimed, answer, standing } = settle
      const rule = this.#numbers.of('rule', lane.rule)
      const known = this.#rows.find(event.id, rule)
      const pos = known ?? this.#place(settle.event.accepted)
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

  #inWords({ index, amended, moved, due }: Effect): Consequences & { readonly index: number } {
    return {
      index,
      amended:
        amended === undefined
          ? undefined
          : amended.until === null
            ? { state: 'done', reason: 'duplicate' }
            : { state: 'waiting', reason: this.#words.waitReason(amended.reason), until: orInfinity(amended.until) },
      moved: this.#movedInWords(moved),
      due: this.#dueInWords(due),
    }
  }

  #dueInWords(due: readonly DueLane[]): Consequences['due'] {
    return due.map(({ lane, until }) => ({ lane: parseLane(this.#words.of('lane', lane)), until: orInfinity(until) }))
  }

  #movedInWords(moved: Moved): Consequences['moved'] {
    return moved.map(({ from, to, count }) => {
      const reason = this.#words.of('reason', to)
      return {
        from: this.#words.waitReason(from),
        to: reason === 'duplicate' ? reason : this.#words.waitReason(to),
        count,
      }
    })
  }

  #deadCounts(
    counts: readonly { readonly rule: number; readonly count: number; readonly bytes: number }[],
  ): DeadCounts {
    return counts.map(({ rule, ...rest }) => ({ rule: this.#words.of('rule', rule), ...rest }))
  }
}

function orInfinity(until: number): number {
  return until === never ? Number.POSITIVE_INFINITY : until
}

const emptyGroup = {
  first: 0,
  events: new Float64Array(0),
  payloads: new ArrayBuffer(0),
  cursor: 0,
  running: undefined,
} as const

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
