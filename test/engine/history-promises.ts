import { expect } from 'vitest'
import type { DeliveryEntry } from '../../src/store/store.ts'
import type { Call, Event, History, How } from './history.ts'
import {
  concerns,
  concurrency,
  delayed,
  delayMs,
  expireMs,
  isInShare,
  isKeyless,
  keyOf,
  perKey,
  type Revision,
  ruleNames,
  superseded,
  windowMs,
} from './history-rules.ts'

/** As long as nothing may have waited for its turn among suspects. */
const suspectKills = 3
const poisonKills = 6
/** What is in memory is not asked again before it gets a row. */
const rowAfterMs = 1_500

/** What has to hold of each call, the moment it begins. */
export class CallWatch {
  /** What did not hold. */
  readonly faults: string[] = []
  /** By process and origin: not before this time. */
  readonly #pausedUntil = new Map<string, number>()
  /** As above; it asked for time, and has not answered a probe well since. */
  readonly #inTrouble = new Set<string>()
  /** Failures of a target that was known to be in trouble: they spend no attempt. */
  readonly #free = new Set<Call>()

  began(call: Call, history: History): void {
    const { rule, revision, request, event, at } = call
    const { calls, inFlight } = history
    const check = (holds: boolean, fault: string) => {
      if (!holds) this.faults.push(`${text(call)} ${fault}`)
    }
    const operations = history.operations(rule, event)
    const reopened = operations.at(-1)?.calls ?? 0
    const isSame = (one: Call) => one.rule === rule && one.event === event && one.request === request
    // Another revision may have other requests.
    const isFinal = (one: Call, index: number) =>
      isSame(one) &&
      (one.answered === 'ok' || (one.answered === 'refused' && index >= reopened)) &&
      (rule !== 'twice' || history.reloadsSince(rule, one.reloads) === 0)
    const final = calls.find((one, index) => one.isSettled && isFinal(one, index))
    check(final === undefined, 'was made before, and what came of it was durable')
    if (rule === 'once') {
      const mayRepeat = (one: Call, index: number) => !isSame(one) || index < reopened || one.answered === 'limited'
      check(calls.every(mayRepeat), 'must not be repeated')
    }
    const isDiscarded = operations.some(({ how, isConfirmed }) => how === 'discard' && isConfirmed)
    check(!isDiscarded, 'comes though it was discarded')
    if (delayed.has(rule)) check(at >= event.accepted + delayMs, 'is early')
    check(at >= (this.#pausedUntil.get(pausing(call)) ?? 0), 'comes before the target allows it')
    const beside = inFlight.filter((one) => one.rule === rule)
    check(beside.length < concurrency, 'is one too many')
    // What has begun goes on as it was.
    if (request > 0) return
    check(revision !== undefined, 'comes though its rule is gone')
    if (revision === undefined) return
    check(revision.matches(event), 'comes though its rule does not match it any more')
    check(isInShare(revision, event), 'comes though it is not in the share')
    check(!isKeyless(revision, event), 'comes though its key cannot be made')
    const revisions = history.revisionsSince(rule, event)
    const isMine = (one: Call) => one.rule === rule && one.event === event
    const mine = calls.slice(reopened).filter(isMine)
    const spent = mine.filter((one) => (one.answered === 'failed' || one.answered === 'reset') && !this.#free.has(one))
    const limit = Math.max(...revisions.map((one) => one?.retryLimit ?? 0))
    check(rule === 'once' || spent.length <= limit || history.kills > 0, 'was tried often enough')
    if (rule === 'fresh' && operations.length === 0 && history.kills < suspectKills) {
      check(at <= event.accepted + expireMs + rowAfterMs, 'comes too late to be worth it')
    }
    if (rule === 'turns') this.#checkTurn(call, history, check)
    if (rule === 'window' && mine.length === 0 && reopened === 0) this.#checkWindow(call, revision, history, check)
    this.#checkNewest(call, revision, history, check)
    this.#checkKey(call, revision, history, check)
  }

  /** What is known to wait, and to be called instead: nothing has become of it yet. */
  #checkNewest({ rule, event }: Call, revision: Revision, history: History, check: Check): void {
    if (history.isCramped) return
    const waits = (one: Event) =>
      one.isRouted &&
      concerns(rule, one) &&
      history.operations(rule, one).length === 0 &&
      history.revisionsSince(rule, one).length === 1 &&
      !one.mayMiss.has(rule)
    const isCalled = (one: Event) => history.calls.some((call) => call.rule === rule && call.event === one)
    if (rule === 'newest' || rule === 'settled') {
      const isDue = (one: Event) => rule !== 'settled' || history.quietAt >= one.accepted + delayMs
      const key = keyOf(revision, event)
      const isNewer = (one: Event) => one.n > event.n && key !== undefined && keyOf(revision, one) === key
      check(
        !history.events.some((one) => isNewer(one) && waits(one) && isDue(one) && !isCalled(one)),
        'is not the newest',
      )
    }
    if (rule === 'latest') {
      const isLater = (one: Event) => one.key === event.key && typeof one.key === 'string' && one.time > event.time
      check(!history.events.some((one) => isLater(one) && waits(one) && !isCalled(one)), 'is superseded')
    }
  }

  #checkWindow({ rule, event, at }: Call, revision: Revision, { calls }: History, check: Check): void {
    const key = keyOf(revision, event)
    if (key === undefined) return
    const ofKey = (one: Call) =>
      one.rule === rule && one.revision?.keyName === revision.keyName && keyOf(revision, one.event) === key
    // What is tried again keeps the time of its first call, also where a reload gave it this key in between.
    const first = (one: Call) => calls.find((other) => other.rule === rule && other.event === one.event) ?? one
    const isWithin = (one: Call) => ofKey(one) && one.isSettled && at < first(one).at + windowMs
    check(!calls.some(isWithin), 'comes within the window of another')
  }

  #checkTurn({ event: { key }, life, at }: Call, { calls, inFlight }: History, check: Check): void {
    const ofKey = (one: Call) => one.rule === 'turns' && one.event.key === key && one.life === life
    check(inFlight.filter(ofKey).length < perKey.concurrency, 'is one too many of its throttle key')
    const times = [...calls.filter(ofKey).map((one) => one.at), at]
    const isWithin = times.every((since, index) => {
      const allowed = perKey.burst + ((at - since) / 1_000) * perKey.perSecond
      return times.length - index <= allowed
    })
    check(isWithin, 'comes sooner than its rate allows')
  }

  #checkKey({ rule, event, life }: Call, revision: Revision, history: History, check: Check): void {
    const { calls, inFlight } = history
    const key = keyOf(revision, event)
    if (key === undefined) return
    const ofKey = (one: Call) =>
      one.rule === rule && one.revision?.keyName === revision.keyName && keyOf(revision, one.event) === key
    check(!inFlight.some(ofKey), 'comes while another of its key is in flight')
    const isLater = (one: Call) => ofKey(one) && one.event.n > event.n
    if (revision.rule.dedup !== undefined) {
      // What was cut off by a crash is not called again where another revision does not want it.
      const counts = (one: Call) => one.isSettled || one.life === life || history.reloadsSince(rule, one.reloads) === 0
      check(!calls.some((one) => isLater(one) && counts(one)), 'comes after that of a later event')
      return
    }
    // What comes back, or gets this key, later than others do has its place behind them.
    if (event.mayMiss.has(rule) || history.isOfOtherKey(rule, event)) return
    const last = history.operations(rule, event).at(-1)
    const isBefore = (one: Call) => {
      if (last === undefined) return true
      const others = history.operations(rule, one.event)
      return others.some(({ batch, isNew }) => batch === last.batch && isNew === last.isNew)
    }
    const after = calls.slice(last?.calls ?? 0).filter((one) => isLater(one) && isBefore(one))
    check(after.length === 0, 'comes after that of a later event')
  }

  answered(call: Call, how: How, now: number): void {
    const pauseMs = how === 'limited' ? 7_000 : how === 'busy' ? 3_000 : 0
    const name = pausing(call)
    const isPaused = now < (this.#pausedUntil.get(name) ?? 0)
    if (pauseMs > 0) this.#inTrouble.add(name)
    else if ((how === 'ok' || how === 'refused') && !isPaused) this.#inTrouble.delete(name)
    else if (this.#inTrouble.has(name)) this.#free.add(call)
    this.#pausedUntil.set(name, Math.max(this.#pausedUntil.get(name) ?? 0, pauseMs === 0 ? 0 : now + pauseMs))
  }
}

type Check = (holds: boolean, fault: string) => void

/**
 * What has to hold when nothing moves any more: each event met each of its rules, and the last of each key was seen.
 * `isReplayed`: and so was all that was given up or set aside, while all targets were well.
 */
export function expectPromisesKept(history: History, found: readonly DeliveryEntry[], isReplayed: boolean): void {
  const byId = new Map(found.map((entry) => [`${entry.metaId}/${entry.rule}`, entry]))
  for (const event of history.events) {
    if (!event.isAcknowledged) continue
    for (const rule of ruleNames) {
      if (!concerns(rule, event)) continue
      const entry = byId.get(`event-${event.n}/${rule}`)
      if (entry === undefined && event.mayMiss.has(rule)) continue
      const end = `${entry?.state} ${entry?.reason}`
      const fate = `${event.n} under ${rule} (${end})`
      expect(entry !== undefined && ends[end]?.(history, event, entry), fate).toBe(true)
      if (isReplayed) expect(end, fate).toMatch(/^done|^dead key_failed/)
      const isDeduplicated = history.revisionsSince(rule, event).some((one) => one?.rule.dedup !== undefined)
      if (!isDeduplicated || unseen.has(end)) continue
      const saw = (one: Call) =>
        one.rule === rule && (one.event === event || (one.event.n > event.n && shareKey(one, event)))
      expect(history.calls.some(saw), `${fate} was seen by a call`).toBe(true)
    }
  }
  for (const rule of ruleNames) {
    const of = (state: string) => found.filter((entry) => entry.rule === rule && entry.state === state).length
    expect({ rule, ...history.counts(rule) }).toEqual({ rule, parked: of('waiting'), dead: of('dead') })
  }
}

/** What ends so need not have been called. */
const unseen = new Set(['done no_match', 'done discarded', 'done superseded', 'waiting parked', 'dead key_failed'])

type MayEnd = (history: History, event: Event, entry: DeliveryEntry) => boolean

/** The ends that there are, and what must have happened before. */
const ends: Readonly<Record<string, MayEnd>> = {
  'done ok': (history, event, { rule }) =>
    (rule === 'twice' ? [0, 1] : [0]).every((request) =>
      answers(history, event, rule, ['ok']).some((call) => call.request === request),
    ),
  'done duplicate': ({ calls }, event, { rule, coveredBy }) =>
    coveredBy !== undefined && calls.some((one) => one.rule === rule && one.event.n > event.n && shareKey(one, event)),
  'done superseded': (history, event, { rule, at }) => {
    if (!superseded.has(rule) || typeof event.key !== 'string') return false
    const isLater = (one: Event) =>
      concerns(rule, one) && one.key === event.key && one.time > event.time && one.accepted <= at
    const mayBeUncalled = (one: Event) =>
      history.kills >= poisonKills ||
      history.operations(rule, one).some(({ how }) => how === 'discard') ||
      history.revisionsSince(rule, one).some((revision) => revision?.matches(one) === false)
    const saw = (one: Call) => one.rule === rule && (isLater(one.event) || (rule === 'both' && one.event.n > event.n))
    const later = history.events.filter(isLater)
    return later.length > 0 && (history.calls.some(saw) || later.some(mayBeUncalled))
  },
  'done expired': (history, event, { rule, at }) =>
    rule === 'fresh' &&
    at - event.accepted > expireMs &&
    !history.operations(rule, event).some(({ how, isConfirmed }) => how === 'replay' && isConfirmed),
  'done sampled': (history, event, { rule }) =>
    history.revisionsSince(rule, event).some((one) => one !== undefined && !isInShare(one, event)),
  'done no_match': (history, event, { rule }) =>
    history.revisionsSince(rule, event).some((one) => one?.matches(event) === false),
  'done discarded': (history, event, { rule }) => history.operations(rule, event).some(({ how }) => how === 'discard'),
  'dead refused': (history, event, { rule }) => answers(history, event, rule, ['refused']).length > 0,
  'dead exhausted': (history, event, { rule }) => {
    const limits = history.revisionsSince(rule, event).map((one) => one?.retryLimit ?? Number.POSITIVE_INFINITY)
    return answers(history, event, rule, ['failed', 'reset', 'busy']).length > Math.min(...limits)
  },
  'dead interrupted': (_, __, { rule }) => rule === 'once',
  // It was running when the process was killed, again and again.
  'dead poison': ({ kills }) => kills >= poisonKills,
  'dead key_failed': (history, event, { rule }) =>
    history.revisionsSince(rule, event).some((one) => one !== undefined && isKeyless(one, event)),
  // Nothing was called, unless it was routed a second time.
  'waiting parked': (history, event, { rule }) =>
    history.isCramped &&
    (history.hasRestarted || !history.calls.some((one) => one.rule === rule && one.event === event)),
}

/** Under the rule by which the call was made. */
function shareKey({ revision, event: called }: Call, event: Event): boolean {
  const key = revision && keyOf(revision, event)
  return key !== undefined && revision !== undefined && keyOf(revision, called) === key
}

function answers({ calls }: History, event: Event, rule: string, hows: readonly How[]): readonly Call[] {
  return calls.filter(
    (one) => one.rule === rule && one.event === event && one.answered !== undefined && hows.includes(one.answered),
  )
}

function text({ rule, request, event, at }: Call): string {
  return `the call of ${event.n} (${event.key}, ${event.other}) under ${rule}, request ${request}, at ${at}`
}

function pausing({ life, origin }: Call): string {
  return `${life} ${origin}`
}
