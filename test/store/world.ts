import type { Clock } from '../../src/base/clock.ts'
import type { JsonObject, NewEvent, StreamRecord } from '../../src/event/event.ts'
import {
  type AttemptEntry,
  type Consequences,
  type DeliveryEntry,
  type Lane,
  type LaneBacklog,
  noProgress,
  type Progress,
  type Routable,
  type Settlement,
  type Standing,
  type Store,
  type StoredDelivery,
  type StoreHealth,
  type WaitReason,
} from '../../src/store/store.ts'
import type { WoundClock } from '../support/clock.ts'

/** A store that is open, and what it has told. */
export interface OpenStore {
  readonly store: Store
  readonly backlog: readonly LaneBacklog[]
  readonly told: {
    readonly changes: StoreHealth[]
    readonly broken: Error[]
    commits: number
  }
}

/** Where the store of one test lives. */
export interface StoreWorld {
  /** Opens the store; what earlier ones of this test made durable is there. */
  open(clock?: Clock): Promise<OpenStore>
  /** The next one opened finds what is durable at this moment: as if the process were killed now. */
  kill(): Promise<void>
}

export const stream = 'test.event'
export const lane = { rule: 'call', key: '' }

let made = 0

export function anEvent(message: JsonObject = {}, of = stream): NewEvent {
  made += 1
  const whole = { meta: { id: `event-${made}`, dt: '2026-11-01T00:00:00Z' }, number: made, ...message }
  return { stream: of, bytes: Buffer.from(JSON.stringify(whole)), message: whole }
}

/** Events without an id of their own: the store's is theirs. */
export function namelessEvents(count: number): NewEvent[] {
  return Array.from({ length: count }, () => anEvent({ meta: {} }))
}

export function events(count: number): NewEvent[] {
  return Array.from({ length: count }, () => anEvent())
}

/** What `next` gives until there are so many. */
export async function take(store: Store, count: number): Promise<Routable[]> {
  const taken: Routable[] = []
  while (taken.length < count) {
    const page = await store.next(count - taken.length)
    if (page.length === 0) break
    taken.push(...page)
  }
  return taken
}

/** Takes so many records and says of each that it runs from memory. */
export async function route(store: Store, count: number, inMemory = 1): Promise<StreamRecord[]> {
  const taken = await take(store, count)
  for (const { record } of taken) store.routed(record, inMemory)
  return taken.map(({ record }) => record)
}

export async function appendAndRoute(store: Store, count: number, inMemory = 1): Promise<StreamRecord[]> {
  await store.append(events(count))
  return route(store, count, inMemory)
}

export function anAttempt(part: Partial<AttemptEntry> = {}): AttemptEntry {
  return { at: 1_700_000_000_000, ms: 12, status: 200, outcome: 'ok', request: 0, note: '', ...part }
}

export function aSettlement(record: StreamRecord, part: Partial<Settlement>): Settlement {
  return {
    lane,
    record,
    state: 'done',
    reason: 'ok',
    revision: '0123456789ab',
    at: record.accepted,
    until: 0,
    progress: noProgress,
    claimed: false,
    attempts: [],
    answer: undefined,
    releasesCursor: false,
    ...part,
  }
}

/** Resolves when the decision is durable. */
export function settle(store: Store, record: StreamRecord, part: Partial<Settlement> = {}): Promise<void> {
  return new Promise((resolve) => store.settle(aSettlement(record, part), () => resolve()))
}

/** The first settlement of a delivery that ran from memory. */
export function settleFirst(store: Store, record: StreamRecord, part: Partial<Settlement> = {}): Promise<void> {
  return settle(store, record, { releasesCursor: true, ...part })
}

export function ids(records: readonly { readonly record: StreamRecord }[]): string[] {
  return records.map(({ record }) => record.id)
}

/** A delivery, as far as it is known to whoever settles it. */
export interface Known {
  readonly lane: Lane
  readonly record: StreamRecord
  readonly standing?: Standing | undefined
  readonly progress?: Progress
}

/**
 * Takes and settles as the engine does, in one store and those that are opened after it. What waits is counted, and lanes
 * are looked at, only by what the store tells; each store that is opened has to agree with the counts.
 */
export class Work {
  readonly clock: WoundClock
  readonly #world: StoreWorld
  readonly #seen = new Set<string>()
  readonly #waiting = new Map<string, number>()
  /** Taken, and why it waited; undefined while it is running. */
  readonly #inHand = new Map<string, WaitReason | undefined>()
  readonly #claimed = new Set<string>()
  readonly #parked = new Set<string>()
  readonly #lanes = new Map<string, { readonly lane: Lane; nextUntil: number }>()
  #opened: OpenStore | undefined

  constructor(world: StoreWorld, clock: WoundClock) {
    this.#world = world
    this.clock = clock
  }

  get store(): Store {
    if (this.#opened === undefined) throw new Error('no store was opened')
    return this.#opened.store
  }

  /** What waits, by `<rule> <reason>`. */
  get waiting(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#waiting].filter(([, count]) => count !== 0).sort())
  }

  async open(): Promise<Readonly<Record<string, number>>> {
    this.#opened = await this.#world.open(this.clock)
    for (const [id, reason] of this.#inHand) if (!this.#claimed.has(id)) this.#count(ruleOf(id), reason ?? 'slot', 1)
    this.#inHand.clear()
    this.#claimed.clear()
    this.#lanes.clear()
    const found: Record<string, number> = {}
    for (const { lane, nextUntil, waiting } of this.#opened.backlog) {
      this.#lanes.set(nameOf(lane), { lane, nextUntil })
      for (const [reason, count] of Object.entries(waiting)) {
        const name = `${lane.rule} ${reason}`
        found[name] = (found[name] ?? 0) + count
      }
    }
    return found
  }

  async reopen(): Promise<Readonly<Record<string, number>>> {
    await this.store.close()
    return this.open()
  }

  async reopenAfterKill(): Promise<Readonly<Record<string, number>>> {
    await this.#world.kill()
    await this.store.close()
    return this.open()
  }

  /** What waits is as a start found it. */
  adopt(waiting: Readonly<Record<string, number>>): void {
    this.#waiting.clear()
    for (const [name, count] of Object.entries(waiting)) this.#waiting.set(name, count)
  }

  /** Accepts events, and gives their records once they are routed. */
  async accept(events: readonly NewEvent[]): Promise<StreamRecord[]> {
    await this.store.append(events)
    const records: StreamRecord[] = []
    while (records.length < events.length) {
      for (const { record } of await this.store.next(events.length)) {
        this.store.routed(record, 0)
        if (!this.#seen.has(record.id)) records.push(record)
        this.#seen.add(record.id)
      }
    }
    return records
  }

  /** The next store will let one by that waited for its key: what was before it is claimed, and ends with this one. */
  released(rule: string): void {
    this.#count(rule, 'key', -1)
    this.#count(rule, 'slot', 1)
  }

  /** Resolves when the decision is durable, with what came of it beyond. */
  settle(known: Known, part: Partial<Settlement>): Promise<Consequences | undefined> {
    const { lane, record, standing, progress = noProgress } = known
    const id = idOf(known)
    this.#inHand.delete(id)
    const settlement = aSettlement(record, { lane, standing, progress, at: this.clock.now(), ...part })
    const { state, reason, until } = settlement
    if (this.#parked.delete(id)) this.#count(lane.rule, 'parked', -1)
    if (reason === 'parked') this.#parked.add(id)
    if (state === 'running') this.#inHand.set(id, undefined)
    if (settlement.claimed) this.#claimed.add(id)
    else this.#claimed.delete(id)
    return new Promise((resolve) => {
      this.store.settle(settlement, (_, consequences) => {
        const { rule } = settlement.lane
        const { amended, moved = [], due = [] } = consequences ?? {}
        if (amended?.state === 'waiting') this.#row(settlement.lane, amended.reason, amended.until)
        else if (amended === undefined && state === 'waiting') this.#row(settlement.lane, reason as WaitReason, until)
        for (const { from, to, count } of moved) {
          this.#count(rule, from, -count)
          if (to !== 'duplicate') this.#count(rule, to, count)
        }
        for (const { lane: freed, until: at } of due) this.#rowAt(freed, at)
        resolve(consequences && { amended, moved, due })
      })
    })
  }

  /** Its first settlement: it waits for a slot. */
  arrive(known: Known, part: Partial<Settlement> = {}): Promise<Consequences | undefined> {
    return this.settle(known, { state: 'waiting', reason: 'slot', until: this.clock.now(), ...part })
  }

  /** What came of a call that was made just now. */
  called(known: Known, part: Partial<Settlement> = {}): Promise<Consequences | undefined> {
    const { progress = noProgress } = known
    const firstAttemptAt = progress.firstAttemptAt === 0 ? this.clock.now() : progress.firstAttemptAt
    return this.settle(known, { progress: { ...progress, firstAttemptAt }, attempts: [anAttempt()], ...part })
  }

  async take(of: Lane = lane, limit = 100): Promise<readonly StoredDelivery[]> {
    const { deliveries, nextUntil } = await this.store.take(of, this.clock.now(), limit)
    this.#lanes.set(nameOf(of), { lane: of, nextUntil })
    for (const delivery of deliveries) {
      this.#inHand.set(idOf(delivery), delivery.reason)
      this.#count(of.rule, delivery.reason, -1)
    }
    return deliveries
  }

  async takeOne(of: Lane = lane): Promise<StoredDelivery> {
    const [delivery, another] = await this.take(of)
    if (delivery === undefined || another !== undefined) throw new Error('not one was due')
    return delivery
  }

  /** Of the lanes that are known to have something due. */
  async takeDue(limit = 100): Promise<readonly StoredDelivery[]> {
    const taken: StoredDelivery[] = []
    for (const { lane, nextUntil } of [...this.#lanes.values()]) {
      if (nextUntil <= this.clock.now()) taken.push(...(await this.take(lane, limit)))
    }
    return taken
  }

  /** When a lane has to be looked at again, as far as is known. */
  get nextUntil(): number {
    return Math.min(...[...this.#lanes.values()].map(({ nextUntil }) => nextUntil))
  }

  async entry({ record, lane: { rule } }: Known): Promise<DeliveryEntry> {
    const [event] = await this.store.find(record.id)
    const entry = event?.deliveries.find((one) => one.rule === rule)
    if (entry === undefined) throw new Error(`nothing is known of ${record.id}/${rule}`)
    return entry
  }

  #row(of: Lane, reason: WaitReason, until: number): void {
    this.#count(of.rule, reason, 1)
    this.#rowAt(of, until)
  }

  #rowAt(of: Lane, until: number): void {
    const known = this.#lanes.get(nameOf(of))
    this.#lanes.set(nameOf(of), { lane: of, nextUntil: Math.min(until, known?.nextUntil ?? until) })
  }

  #count(rule: string, reason: WaitReason, by: number): void {
    const name = `${rule} ${reason}`
    this.#waiting.set(name, (this.#waiting.get(name) ?? 0) + by)
  }
}

export function idOf({ record, lane: { rule } }: Known): string {
  return `${record.id}/${rule}`
}

function ruleOf(id: string): string {
  return id.slice(id.indexOf('/') + 1)
}

function nameOf({ rule, key }: Lane): string {
  return JSON.stringify([rule, key])
}
