import type { Clock } from '../../src/base/clock.ts'
import type { JsonObject, NewEvent, StreamRecord } from '../../src/event/event.ts'
import {
  type LaneBacklog,
  noProgress,
  type Routable,
  type Settlement,
  type Store,
  type StoreHealth,
} from '../../src/store/store.ts'

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
