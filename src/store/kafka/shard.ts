import { metaIdOf } from '../../event/event.ts'
import { type Consequences, deliveryStates, type Lane, type LaneBacklog, type LastAnswer } from '../store.ts'
import { Commits, type Effect } from '../tables/commit.ts'
import { type Database, int, text } from '../tables/database.ts'
import { type DueLane, DueRows } from '../tables/due.ts'
import { absent, type Extra, flagAttempted, flagClaimed, never, parked, settleWidth } from '../tables/format.ts'
import { FreeKeys } from '../tables/free-keys.ts'
import { MetaIds } from '../tables/ids.ts'
import { parseLane } from '../tables/lane-name.ts'
import { Letters } from '../tables/letters.ts'
import type { Numbers } from '../tables/numbers.ts'
import { type Moved, Standings } from '../tables/standings.ts'
import { Suspects } from '../tables/suspects.ts'
import type { Words } from '../tables/words.ts'
import {
  backlogOf,
  endsPlainly,
  LooseDeliveries,
  type LooseDelivery,
  mayBeLoose,
  type Room,
  toldOfLoose,
} from './loose.ts'
import { type KeyValue, type Packed, pack, unpack } from './packed.ts'
import { ruleKeyOf } from './part.ts'
import { Replay, shadowedStart } from './replay.ts'
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
  nameOf,
  type SettleBatch,
  type ShardOutputs,
  type ShardRow,
  type ShardSettle,
  settleOfRow,
  type Told,
} from './shard-protocol.ts'
import { firstPlaceOf, ShardRows } from './shard-rows.ts'

const takenUpAtOnce = 1_000
const toldAtOnce = 1_000

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
  readonly freeKeys: FreeKeys
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
  readonly #loose: LooseDeliveries
  readonly replay: Replay
  /** What was handed out when it was covered, until it is settled: by id of the delivery, where its row was. */
  readonly #coveredOut = new Map<string, { readonly pos: number; readonly rule: number }>()
  /** What ran when its last owner was lost. */
  readonly #suspected: { readonly pos: number; readonly rule: number }[] = []
  #work: Work | undefined

  /** `database`: empty, with the tables of the embedded store. */
  constructor(partition: number, database: Database, words: Words, numbers: Numbers, roots: Roots, room: Room) {
    this.#loose = new LooseDeliveries(room)
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
    this.#loose.clear()
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
    const standings = this.#rows.transaction(
      () => new Standings(database, this.#words, (...root) => this.#roots.hasLater(this.#partition, ...root)),
    )
    this.#rows.transaction(() => {
      for (const { pos, rule, claimed } of cutOff) if (claimed !== 0) standings.callLost(int(pos), int(rule), now)
    })
    const due = new DueRows(database, this.#words, suspects, standings)
    const commits = new Commits(database, 0, { words: this.#words, ids, letters, suspects, due, standings })
    this.#work = { commits, due, freeKeys: new FreeKeys(database), letters, standings, suspects }
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
    const { records, told } = this.#rows.transaction(() => this.#settle(settles, undefined))
    const own = database.prepare('SELECT rule, signature, time, alive, expires FROM roots').all()
    const roots = pack(this.#roots.differences(this.#partition, own))
    const again = unpack(this.changes.reassert(pack(this.replay.takeShadowed())))
    return {
      consequences: [],
      records: pack([...unpack(records), ...again]),
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

  /** The next of what was handed over, and its last owner had not taken up; with the last of it, who waits for nobody any more. */
  takeUp(now: number): Arrived & { readonly more: boolean } {
    const page = this.replay.takeUnheard(takenUpAtOnce)
    if (page.length > 0) return { ...this.arrive(pack(page), now), more: true }
    return { ...this.#rows.transaction(() => this.#releaseOrphans(now)), more: false }
  }

  /** The owner before us died between what ended a delivery and what let the next of its key go. */
  #releaseOrphans(now: number): Arrived {
    const { standings, due } = this.#ready
    const rows = standings.releaseOrphans(now).map(({ pos, rule }) => {
      const { lane } = this.#rows.read(pos, rule).settle
      due.rewind(this.#numbers.ofLane(lane), now, pos)
      return { lane, nextUntil: now, waiting: { key: -1, slot: 1 } }
    })
    return { ...this.changes.take(), dead: undefined, hasUntold: this.#hasUntold, rows, loose: [] }
  }

  /** What comes with its event and has a row already was given out again: what is kept of it holds. */
  settle({ settles, ends, ended: ids }: Omit<SettleBatch, 'partition'>): Change {
    return this.#rows.transaction(() => {
      for (const id of ids) this.changes.hasSaidEnd(id)
      for (const { rule, key } of ends) this.#meet(this.#loose.ofKey(rule, key))
      const loose = this.#looseEnds(settles)
      const endsOfLoose = loose.flatMap(({ end = [] }) => end)
      const ended = this.#endAll([...ends, ...endsOfLoose])
      const consequences = ended.flatMap(({ moved }, index) =>
        moved.length === 0 ? [] : [{ index: settles.length + index, amended: undefined, moved, due: [] }],
      )
      const isLoose = new Set(loose.map(({ index }) => index))
      const indexes = [...settles.keys()].filter((index) => !isLoose.has(index))
      const change = this.#settle(
        indexes.length === settles.length ? settles : settles.filter((_, index) => !isLoose.has(index)),
        undefined,
      )
      const places = ended.map(({ pos }) => pos)
      const placesOfLoose = places.splice(ends.length)
      return {
        ...change,
        consequences: [
          ...change.consequences.map((one) => ({ ...one, index: indexes[one.index] ?? one.index })),
          ...consequences,
        ],
        places,
        loose: loose.map(({ index, end }) => ({ index, place: end === undefined ? undefined : placesOfLoose.shift() })),
      }
    })
  }

  /** Of those that are loose: who has ended, and met nobody. They are not loose any more. */
  #looseEnds(settles: readonly ShardSettle[]): { readonly index: number; readonly end: KeyEnd | undefined }[] {
    if (this.#loose.isEmpty) return []
    return settles.flatMap((settle, index) => {
      const one = this.#loose.get(nameOf(settle))
      if (one === undefined || !endsPlainly(settle, one)) return []
      this.#loose.remove(one)
      this.changes.hasSaidEnd(one.name)
      return { index, end: settle.end }
    })
  }

  /** Somebody looks for more than it is while it is loose: it is given the row that it would have had. */
  #meet(one: LooseDelivery | undefined): void {
    if (one === undefined) return
    const { settle, key, since, isOut } = one
    const { commits, due } = this.#ready
    this.#loose.remove(one)
    this.#rows.transaction(() => {
      const group = this.#packed([settle])
      const effects = commits.apply({ ...emptyGroup, ...group, names: this.#numbers.takeFresh() })
      this.changes.leave(this.changes.keepUntold([settle], group.settles, effects, since))
      if (isOut) due.handOut(group.settles[0] ?? 0, group.settles[1] ?? 0, key.text)
    })
  }

  /** It is settled in a row, and those of its key are to be found there. */
  #meetFor(settle: ShardSettle): void {
    const { lane, standing } = settle
    this.#meet(this.#loose.get(nameOf(settle)))
    if (standing?.key !== undefined) this.#meet(this.#loose.ofKey(lane.rule, standing.key.text))
  }

  /** Whoever lists rows finds them all. */
  meetAll(): void {
    if (this.#loose.isEmpty) return
    this.#rows.transaction(() => {
      for (const one of this.#loose.all()) this.#meet(one)
    })
  }

  get #hasUntold(): boolean {
    return this.changes.hasUntold || this.#loose.hasUntold
  }

  /** The next of what is untold since that time, or longer. */
  tell(since: number): ShardOutputs['tell'] {
    return this.#rows.transaction(() => {
      const loose = this.#loose.tell(since, toldAtOnce)
      const { told, more, ...change } = this.changes.tell(since)
      return {
        ...{ ...change, told: [...told, ...loose.map(toldOfLoose)] },
        ...{ hasUntold: this.#hasUntold, more: more || loose.length === toldAtOnce },
      }
    })
  }

  /** What holds of these keys. */
  reassert(keys: Packed): Packed {
    for (const { key } of unpack(keys)) {
      const parsed = parseKey(key)
      if (parsed?.kind === 'delivery') this.#meet(this.#loose.get(`${parsed.id}/${parsed.rule}`))
    }
    return this.changes.reassert(keys)
  }

  /** Deliveries of events of one partition of a stream. */
  rowsOf(topic: string, partition: number, from: number): ShardOutputs['rowsOf'] {
    const loose = this.#loose.all().flatMap(({ settle: { event, lane } }) => {
      const [ofTopic, ofPartition, offset] = event.origin
      const isOfThat = ofTopic === topic && ofPartition === partition && offset >= from
      return isOfThat ? [{ id: event.id, rule: lane.rule }] : []
    })
    return [...this.listing.rowsOf(topic, partition, from), ...loose]
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
    this.#rows.keepStarter(pos, starter)
    const call = { pos, rule, at, firstAttemptAt: began, hash }
    const moved = this.#ready.standings.ended(call, { text: key, turn: 'newest', windowMs })
    this.#noteCovered(name, key)
    return { pos, moved: this.#movedInWords(moved) }
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
    const change = this.#rows.transaction(() => this.#settle([settle], undefined, true))
    const isOther = ({ event, rule }: Told) => event.id !== settle.event.id || rule !== settle.lane.rule
    return { ...change, told: change.told.filter(isOther) }
  }

  /** `arrived`: when they were handed over, in ms, where they were. `areTakenAway`: those that are done have not ended. */
  #settle(
    settles: readonly ShardSettle[],
    arrived: number | undefined,
    areTakenAway = false,
  ): Omit<Change, 'places' | 'loose'> {
    const { commits, letters } = this.#ready
    if (!this.#loose.isEmpty) for (const settle of settles) this.#meetFor(settle)
    // What comes without its event is of a row that is here, or made just before it; somebody else may have ended that meanwhile.
    const made = new Set<string>()
    const repeated = settles.flatMap(({ bytes, event, lane }, index) => {
      const name = `${event.id}/${lane.rule}`
      const isNew = bytes !== undefined && !this.#isKnown(event.id, lane.rule)
      if (isNew) made.add(name)
      const isOfRow = bytes === undefined && (made.has(name) || this.#hasRow(event.id, lane.rule))
      return isNew || isOfRow ? [] : [{ index, ...elsewhere, due: bytes === undefined ? this.#letGo(name) : [] }]
    })
    const isRepeated = new Set(repeated.map(({ index }) => index))
    const indexes = [...settles.keys()].filter((index) => !isRepeated.has(index))
    const fresh = repeated.length === 0 ? settles : settles.filter((_, index) => !isRepeated.has(index))
    const group = this.#packed(fresh)
    const effects = commits.apply({ ...emptyGroup, ...group, names: this.#numbers.takeFresh() })
    for (const { lane, standing, attempts } of fresh)
      if (standing?.key?.turn === 'newest' && attempts.length > 0) this.#noteCovered(lane.rule, standing.key.text)
    const changed = letters.changes()
    const untold = arrived === undefined ? undefined : this.changes.keepUntold(fresh, group.settles, effects, arrived)
    return {
      consequences: [
        ...repeated,
        ...effects.map((effect) => ({ ...this.#inWords(effect), index: indexes[effect.index] ?? effect.index })),
      ],
      ...this.changes.take(untold, areTakenAway),
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

  /** Deliveries that were handed over. One that is known already is not taken twice, and said again. */
  arrive(records: Packed, now: number): Arrived {
    return this.#rows.transaction(() => this.#arrive(records, now))
  }

  #arrive(records: Packed, now: number): Arrived {
    const settles: ShardSettle[] = []
    const known: KeyValue[] = []
    /** By index of the settles: the lane has one less that is parked. */
    const unparked = new Set<number>()
    const seen = new Set<string>()
    const loose: LooseDelivery[] = []
    /** Whom the others stand to. */
    const met = new Set<string>()
    for (const { key, value } of unpack(records)) {
      const parsed = parseKey(key)
      const arrived = value === null ? undefined : parseRow(value)
      if (parsed?.kind !== 'delivery' || arrived === undefined) continue
      const name = `${parsed.id}/${parsed.rule}`
      const isKnown = this.#isKnown(parsed.id, parsed.rule)
      const letter = isKnown && arrived.row.reopens === true ? this.#letterOf(parsed.id, parsed.rule) : undefined
      const { standing } = arrived.row
      if ((isKnown && letter === undefined) || seen.has(name)) {
        known.push({ key, value: null })
        if (standing?.key !== undefined) known.push(shadowedStart(parsed.rule, standing.key.text))
        continue
      }
      const settle = settleOfRow(arrived.row, arrived.event)
      const ruleKey = standing === undefined ? undefined : ruleKeyOf(parsed.rule, standing)
      const one = isKnown || (ruleKey !== undefined && met.has(ruleKey)) ? undefined : this.#looseOf(settle, now)
      if (one !== undefined) {
        this.#loose.add(one)
        loose.push(one)
        continue
      }
      seen.add(name)
      if (ruleKey !== undefined) met.add(ruleKey)
      if (letter === 'parked') unparked.add(settles.length)
      settles.push(isKnown ? { ...settle, bytes: undefined } : settle)
    }
    const { consequences, ...change } = this.#settle(settles, now)
    const again = unpack(this.reassert(pack(known)))
    const byIndex = new Map(consequences.map((one) => [one.index, one]))
    return {
      ...change,
      records: again.length === 0 ? change.records : pack([...unpack(change.records), ...again]),
      hasUntold: this.#hasUntold,
      rows: [
        ...backlogOf(loose, now),
        ...settles.flatMap((settle, index) => rowsOf(settle, byIndex.get(index), unparked.has(index))),
      ],
      loose: loose.map(({ name, settle, key }) => ({ name, ruleKey: ruleKeyOf(settle.lane.rule, { key }) })),
    }
  }

  /** Undefined where it may not be loose: it is more than handed over, or its key is not free. */
  #looseOf(settle: ShardSettle, now: number): LooseDelivery | undefined {
    const { bytes, lane, event, standing, until, at } = settle
    const key = standing?.key
    if (bytes === undefined || key === undefined || standing?.root !== undefined) return undefined
    if (!mayBeLoose(settle, now) || !this.#loose.hasRoom || this.#loose.ofKey(lane.rule, key.text) !== undefined)
      return undefined
    const rule = this.#numbers.of('rule', lane.rule)
    const laneNumber = this.#numbers.ofLane(lane)
    const { due, freeKeys } = this.#ready
    // Should it be given a row, it is judged as of when it was settled.
    const candidate = { pos: firstPlaceOf(event.accepted), metaId: () => metaIdOf(bytes), now: Math.min(until, at) }
    const isFree = due.outOf(rule, key.text).length === 0 && freeKeys.isFree(rule, key, candidate)
    if (!isFree) return undefined
    return {
      ...{ name: nameOf(settle), lane: laneNumber, key, settle, bytes },
      ...{ since: now, isOut: false },
    }
  }

  take(lane: Lane, now: number, limit: number): { readonly rows: readonly ShardRow[]; readonly nextUntil: number } {
    const number = this.#numbers.ofLane(lane)
    this.#rows.learn()
    const partition = this.#partition
    const share = this.#loose.shareOfRows(number, limit)
    const { rows, nextUntil } = this.#ready.due.take(number, now, share)
    const ofRows = rows.map(({ event: { pos, payload }, ...rest }) => {
      return { ...rest, partition, event: this.#rows.eventAt(pos), bytes: payload }
    })
    const loose = this.#loose.take(number, limit - rows.length).map(({ settle, bytes }): ShardRow => {
      const { event, progress, revision, standing } = settle
      return {
        ...{ partition, event, progress, revision, standing, reason: 'slot', bytes },
        ...{ uncleanStops: 0, isSuperseded: false, followers: 0 },
      }
    })
    // Who is loose is taken soon: for its sake nothing else has to become a row meanwhile.
    return { rows: [...ofRows, ...loose], nextUntil: this.#loose.hasWaiting(number) ? now : nextUntil }
  }

  /** Some of what need not be remembered any longer. */
  forget(now: number): ShardOutputs['forget'] {
    const { standings } = this.#ready
    const more = this.#rows.transaction(() => standings.forgetExpired(now)) > 0
    if (!more) {
      this.#rows.database.exec(
        'DELETE FROM starters WHERE pos NOT IN (SELECT pos FROM starts UNION SELECT ok_pos FROM starts WHERE ok_pos IS NOT NULL)',
      )
    }
    const { records, roots } = this.changes.take()
    return { records, roots, more }
  }

  /** Rows that wait and were not handed out, as what went. */
  left(): LaneBacklog[] {
    if (this.#work === undefined) return []
    const { due } = this.#work
    const rows = this.listing.backlog((pos, rule) => !due.isOut(pos, rule))
    const loose = backlogOf(
      this.#loose.all().filter(({ isOut }) => !isOut),
      Number.POSITIVE_INFINITY,
    )
    return [...rows, ...loose].map(({ lane, waiting: counts }) => ({
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
    const isLoose = this.#loose.get(`${id}/${rule}`) !== undefined
    return isLoose || this.#hasRow(id, rule) || this.changes.hasEnded(id, rule)
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
