import type { NewEvent, StreamRecord } from '../event/event.ts'
import type { RequestOutcome } from '../rule/rule.ts'

/*
 * What a back end keeps, and what that means.
 *
 * Durable: on the disk (fsync) or on the brokers (acks=all, the answer checked), so that SIGKILL and power loss at any
 * later instant leave it there. Everything promised here is durable before its promise resolves or its callback runs.
 *
 * Ordered: records come out of `next` in the order in which they were accepted, on Kafka within a partition.
 *
 * Remembered: the log keeps an event as long as any delivery of it is waiting, running or dead, and beyond that as
 * retention says. A delivery that ended is remembered as long as its event.
 *
 * A delivery is one event under one rule. It has no row while it runs straight from memory; it gets one in the commit that
 * makes it wait, end or claim. What has no row after a crash comes out of `next` again.
 */

/** In the order of their numbers on disk: append only. */
export const deliveryStates = ['waiting', 'running', 'done', 'dead'] as const
export type DeliveryState = (typeof deliveryStates)[number]

export const doneReasons = [
  'ok',
  'ignored',
  'duplicate',
  'superseded',
  'expired',
  'sampled',
  'no_match',
  'discarded',
] as const
export type DoneReason = (typeof doneReasons)[number]

export const waitReasons = ['due', 'retry', 'key', 'target', 'rate', 'slot', 'rule_gone', 'parked'] as const
export type WaitReason = (typeof waitReasons)[number]

export const deadReasons = [
  'refused',
  'exhausted',
  'too_old',
  'interrupted',
  'key_failed',
  'template_failed',
  'host_not_allowed',
  'unknown_wiki',
  'unreadable',
  'poison',
] as const
export type DeadReason = (typeof deadReasons)[number]

/** How far a delivery has come. Opaque to the store but for being kept. */
export interface Progress {
  /** Attempts that count against `retry.limit`, since it was opened or replayed. */
  readonly failures: number
  /** When the first attempt began, in ms; 0 before that. `max_age` runs from here. */
  readonly firstAttemptAt: number
  /** Bit i: request i needs no further call. */
  readonly finished: number
  /** Bit i: request i was refused for good. */
  readonly refused: number
  /** What few deliveries have. */
  readonly more?: {
    /** Of a request that names pages: those that are still to be done. By index into `exec`. */
    readonly titles?: Readonly<Record<number, readonly string[]>>
    /** Answers that may have been success as well as failure. By index into `exec`. */
    readonly doubts?: Readonly<Record<number, number>>
    /** It was given up, and then reopened: it does not expire any more. */
    readonly isReplay?: boolean
  }
}

export const noProgress: Progress = {
  failures: 0,
  firstAttemptAt: 0,
  finished: 0,
  refused: 0,
}

/** One call that was made, for the journal. */
export interface AttemptEntry {
  /** When it began, in ms. */
  readonly at: number
  readonly ms: number
  /** HTTP status, or 0 where there was none. */
  readonly status: number
  readonly outcome: RequestOutcome
  /** Index into `exec`. */
  readonly request: number
  /** One sentence; empty where the status says it all. */
  readonly note: string
}

/** What a dead letter keeps of the last answer. Bounded by the engine (a few KiB). */
export interface LastAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly truncated: boolean
  /** The request it answered: method and URL, no headers (they may hold secrets). */
  readonly request: string
  /** Why there is no answer, or what went wrong without a call. */
  readonly error?: string
}

/**
 * A queue within a rule: deliveries of one rule that wait for the same thing (on Kafka and here: a target). The engine
 * names it; the store keeps rows per lane, so that a paused target costs nothing and hides nobody.
 */
export interface Lane {
  readonly rule: string
  /** Empty for a rule's ordinary lane. */
  readonly key: string
}

/** How a delivery stands to others of its rule. */
export interface Standing {
  readonly key?: Key
  readonly root?: Root
}

/** Of deliveries with one key at most one is handed out at a time; the key is free when its settlement is durable. */
export interface Key {
  /** Unique within the rule, wiki included. */
  readonly text: string
  /**
   * `newest` (dedup): the newest that is due is handed out, and all older ones are done (`duplicate`) with the settlement
   * that follows its call. One older than the key's newest start, or with the `meta.id` of its last success, is a duplicate
   * when it first settles. A new one takes over the time of a retry that waits.
   * `oldest` (order): one after another, in order of acceptance; the others wait (`key`) until the one before has ended.
   */
  readonly turn: 'newest' | 'oldest'
  /** `newest`: fresh starts are so far apart, in ms; retries are exempt. */
  readonly windowMs: number
}

/** A root event supersedes those of the same signature with an earlier time, unless it is dead or discarded. */
export interface Root {
  /** Unique within the rule, wiki included. */
  readonly signature: string
  /** In whole ms. */
  readonly time: number
}

/** What has been decided about a delivery, made durable as one: state, journal, due index, dead letter. */
export interface Settlement {
  readonly lane: Lane
  readonly record: StreamRecord
  readonly state: DeliveryState
  readonly reason: DoneReason | WaitReason | DeadReason | ''
  /** The rule's revision that decided. */
  readonly revision: string
  /** When it was decided, in ms. */
  readonly at: number
  /** `waiting`: not before this time, in whole ms. Infinity: not until somebody says so (`parked`, `rule_gone`). */
  readonly until: number
  readonly progress: Progress
  /** `running` of a rule with `retry: never`: a crash from here on ends it (`interrupted`). */
  readonly claimed: boolean
  /** Calls made since the last settlement. */
  readonly attempts: readonly AttemptEntry[]
  readonly answer: LastAnswer | undefined
  /** This delivery was counted by `routed`, and this is its first settlement: it holds the cursor back no longer. */
  readonly releasesCursor: boolean
  /** Absent for most. Its first settlement is the moment from which others take it into account. */
  readonly standing?: Standing | undefined
}

/** What came of a settlement beyond what it says, for what stands in relation to others. */
export interface Consequences {
  /** Where it did not come to what was decided: it waits for something else, or is a duplicate. */
  readonly amended:
    | { readonly state: 'waiting'; readonly reason: WaitReason; readonly until: number }
    | { readonly state: 'done'; readonly reason: DoneReason }
    /** Its row is another process's: kept there if this was its first settlement, else as if this had never been handed in. */
    | { readonly state: 'elsewhere' }
    | undefined
  /** Other deliveries of the rule that wait for something else now, or are done (`duplicate`) with it. */
  readonly moved: readonly {
    readonly from: WaitReason
    readonly to: WaitReason | 'duplicate'
    readonly count: number
  }[]
  /** Lanes in which the key is free now, and from when on a delivery of it is due. */
  readonly due: readonly { readonly lane: Lane; readonly until: number }[]
}

export type Durable = (settlement: Settlement, consequences: Consequences | undefined) => void

/** A process that died within so many ms lived a short life; who comes after so many in a row is wary. */
export const shortLifeMs = 10_000
export const shortLivesInRow = 3

/** A delivery in flight. */
export interface Running {
  readonly lane: Lane
  readonly record: StreamRecord
  readonly standing?: Standing | undefined
}

/** A record to route. */
export interface Routable {
  readonly record: StreamRecord
  /** Rules whose delivery of this record has a row already; undefined (the usual case) for none. */
  readonly known: ReadonlySet<string> | undefined
  /**
   * Another process has handed it over for this rule, and no other, and so it stood to others there; undefined (the usual case)
   * where it comes from its stream.
   */
  readonly handedOver?: { readonly rule: string; readonly standing: Standing | undefined } | undefined
}

/** A delivery that waited and is handed out again. It is the engine's until its next settlement is durable. */
export interface StoredDelivery {
  readonly lane: Lane
  readonly record: StreamRecord
  readonly progress: Progress
  /** Of the rule that decided that it waits. */
  readonly revision: string
  readonly reason: WaitReason
  /**
   * How often the process died while this ran. From 3 on the engine runs it alone among suspects; from 6 on it is poison.
   */
  readonly uncleanStops: number
  readonly standing: Standing | undefined
  /** A later root event was accepted. */
  readonly isSuperseded: boolean
  /** `oldest`: how many wait for it, counted up to 1,001. */
  readonly followers: number
}

/** One page of a lane, and when to look again. */
export interface Taken {
  readonly deliveries: readonly StoredDelivery[]
  /** `until` of the earliest row of the lane that was not handed out; Infinity for none. */
  readonly nextUntil: number
}

/** A lane with rows, as found at start. */
export interface LaneBacklog {
  readonly lane: Lane
  readonly nextUntil: number
  /** Rows by reason. */
  readonly waiting: Readonly<Partial<Record<WaitReason, number>>>
}

/** What is remembered of a delivery. */
export interface DeliveryEntry {
  /** `<event id>/<rule>`. */
  readonly id: string
  readonly rule: string
  readonly revision: string
  readonly state: DeliveryState
  readonly reason: string
  /** When it came to that state, in ms. */
  readonly at: number
  /** `waiting`: until when, in ms; null otherwise, and for "until somebody says so". */
  readonly next: number | null
  /** Calls made, oldest first; the newest 50 at most. */
  readonly attempts: readonly AttemptEntry[]
  /** How many calls were made before those. */
  readonly earlierAttempts: number
  readonly eventId: string
  readonly metaId: string | undefined
  readonly stream: string
  readonly accepted: number
  /** Of a duplicate: the id of the delivery whose call saw it too. */
  readonly coveredBy: string | undefined
  /** Duplicates of it: how many, and the ids of the first 100. */
  readonly covers: { readonly count: number; readonly ids: readonly string[] }
}

/** Where to look for an event. */
export interface Within {
  readonly stream: string
  /** Accepted then or later, in ms. */
  readonly since: number
}

export interface EventEntry {
  readonly record: StreamRecord
  readonly metaId: string | undefined
  /** The router is through with it, and all that came of it is on record. False also where that is not known. */
  readonly routed: boolean
  readonly deliveries: readonly DeliveryEntry[]
}

/** A dead letter with all that is kept of it. */
export interface DeadLetter extends DeliveryEntry {
  readonly lane: Lane
  readonly record: StreamRecord
  readonly progress: Progress
  readonly answer: LastAnswer | undefined
  readonly standing: Standing | undefined
}

export interface Page<Item> {
  readonly items: readonly Item[]
  /** Hand back to go on; undefined at the end. */
  readonly cursor: string | undefined
}

export interface DeliveryFilter {
  readonly rule?: string
  readonly state?: DeliveryState
  readonly limit: number
  readonly cursor?: string
}

export interface StoreHealth {
  /** Whether `append` would be taken. */
  readonly accepting: boolean
  /** Whether settlements become durable at the moment; if not, no new call may start. */
  readonly writable: boolean
  /** Why not, in a sentence; undefined when all is well. */
  readonly trouble: string | undefined
  /** What will need the operator soon, in sentences. */
  readonly warnings: readonly string[]
  /** Size of what is kept, and of dead letters within it, in bytes. */
  readonly bytes: number
  readonly deadBytes: number
}

/** An event that the store will not take, whatever becomes of those it came with. */
export interface RefusedEvent {
  readonly event: NewEvent
  /** In a sentence that says how to mend it. */
  readonly why: string
  /** The fault is not the event's: posting it again makes sense, once that is mended. */
  readonly ours: boolean
}

/** What the store tells on its own. */
export interface StoreListener {
  /** One durable commit took this long, in ms. */
  committed(ms: number): void
  /** Health changed: the disk filled up or has room again. */
  changed(health: StoreHealth): void
  /** The store cannot be trusted any more; the process must end and start again from what is durable. */
  broken(error: Error): void
  /**
   * Rows of a lane came, or went where counts are negative, other than by what this process settled: where several share the
   * work, it has taken over a part of it or lost one, or another has handed a delivery over. Rows that are handed out are
   * not among those that went.
   */
  rows(change: LaneBacklog): void
  /** Such a part of the work is this process's from now on, from 0 to 1. Not told where all of it is, always. */
  shared(part: number): void
  /** Some of what was handed out is another process's now: what `isOurs` denies is not to be called any more. */
  lost(): void
}

export interface Store {
  /** E.g. `embedded store in ./data`. */
  readonly description: string
  /** How many calls to a quick target a row costs: a rule is waited for the longer rather than given rows. */
  readonly rowCost: number
  /**
   * What was answered within so many ms may be on its way to be durable, however much it is; 0 where no more than may run at once.
   * So much is repeated after a crash.
   */
  readonly settleMs: number
  /**
   * Those before this process lived short lives, and may have died of what they ran before anything told of it: no call may begin
   * before it is on record that its delivery runs.
   */
  readonly isWary: boolean
  /**
   * Recovers what is durable. Lanes with rows, as they stand, come back; where it is not accessible for now (a full disk,
   * brokers that are away) none, health says so, and lanes are told by `rows` later. Rejects with STORE_LOCKED or
   * STORE_BROKEN.
   */
  open(listener: StoreListener): Promise<readonly LaneBacklog[]>
  /** Finishes what was handed in, then lets go of the data. `next` answers with an empty list from then on. */
  close(): Promise<void>
  health(): StoreHealth

  /**
   * Resolves when all are durable but those that come back. Rejects with STORE_FULL, STORE_BUSY (too much is waiting to be
   * written), STORE_NOT_READY, STORE_UNAVAILABLE or STORE_CLOSED: then none is acknowledged.
   */
  append(events: readonly NewEvent[]): Promise<readonly RefusedEvent[]>

  /** Which streams some rule concerns; said before anything is routed, and whenever it is others. */
  subscribe(wants: (stream: string) => boolean): void
  /**
   * Whether a delivery of the record may run from memory under that key, as far as what is durable tells: nothing of the key is
   * waiting or running, and no call that is remembered makes this one wait, or a duplicate. False also where that cannot be
   * told at once.
   */
  isKeyFree(record: StreamRecord, rule: string, key: Key): boolean
  /**
   * How many calls of each rule may be in flight, all processes together; said before anything is routed, and whenever it is
   * others. Comes back with the rules that are confined: all their work is one process's, so that it can keep so low a limit.
   */
  confine(limits: ReadonlyMap<string, number>): ReadonlySet<string>
  /**
   * Whether a delivery of the rule that stands so to others is another process's to decide about: its next settlement as `waiting`
   * hands it over, and comes back as `elsewhere`.
   */
  isElsewhere(record: StreamRecord, rule: string, standing: Standing | undefined): boolean
  /** Whether what becomes of a record that was given out is still this process's to decide. */
  isOurs(record: StreamRecord): boolean
  /** Records to route, in order, at most `limit`; waits until there is one. Each is given out once per start. */
  next(limit: number): Promise<readonly Routable[]>
  /**
   * The router is through with a record and `inMemory` of its deliveries run without a row. The cursor passes over it in
   * the commit that holds the last of so many settlements with `releasesCursor`. Rows made while it was being routed have
   * been handed in before this is called, and do not count.
   */
  routed(record: StreamRecord, inMemory: number): void

  /**
   * Hands in a decision; `durable` is called with it once it is on disk, for those of one delivery in the order in which
   * they were handed in. Never lost for want of disk space: it is kept and written first when there is room again. The first
   * settlement of a delivery makes its row.
   */
  settle(settlement: Settlement, durable?: Durable): void
  /** Due deliveries of a lane, earliest first: at most `limit`, and not more than a few MiB. */
  take(lane: Lane, now: number, limit: number): Promise<Taken>
  /** Deliveries in flight, told with each commit so that `uncleanStops` can be counted. Nobody waits for it. */
  running(list: () => Iterable<Running>): void

  /**
   * By our id or the producer's `meta.id`; newest first, at most 100. Where nothing is remembered of what no rule matched,
   * such an event is found only with `within`.
   */
  find(id: string, within?: Within): Promise<readonly EventEntry[]>
  /** Newest first. */
  deliveries(filter: DeliveryFilter): Promise<Page<DeliveryEntry>>
  /** Dead letters, or (`parked`) deliveries set aside because dead letters fill their share; oldest first. */
  deadLetters(filter: {
    rule?: string
    ids?: readonly string[]
    limit: number
    cursor?: string
  }): Promise<Page<DeadLetter>>
  /** By stream that is read from a place of its own: events behind its end that are not finished. Of what is this process's. */
  lag(): ReadonlyMap<string, number>
  /** How many dead letters there are, and their bytes, by rule. */
  deadCounts(): ReadonlyMap<string, { readonly count: number; readonly bytes: number }>
}
