import { setMaxListeners } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Json } from '../../src/event/event.ts'
import type { OutboundRequest, Reply } from '../../src/http/send.ts'
import type { RuleSet } from '../../src/rule/rule.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import type { DeliveryEntry } from '../../src/store/store.ts'
import type { StoreWorld } from '../store/world.ts'
import { WoundClock } from '../support/clock.ts'
import { concerns, type Fields, type Revision, revisions } from './history-rules.ts'
import { newEvent, WoundEngine } from './wound-engine.ts'

/** What a target can do with a call. */
export const replies = {
  ok: answer(200),
  failed: answer(500),
  reset: { kind: 'none', error: 'reset', message: 'the connection was reset', sent: true },
  limited: answer(429, { 'retry-after': '7' }),
  busy: answer(503, { 'retry-after': '3' }),
  refused: answer(404),
} satisfies Record<string, Reply>
export type How = keyof typeof replies

/** Whoever stops an engine has it cut off what is under way. */
const cutOff: Reply = { kind: 'none', error: 'aborted', message: 'the service is stopping', sent: true }

export interface Event extends Fields {
  readonly stream: string
  readonly accepted: number
  /** Rules that were others while it was not routed, or after a restart before it had a row: it may have met them, or not. */
  readonly mayMiss: Set<string>
  /** How many reloads there had been. */
  readonly reloads: number
  /** It has met its rules; until a restart. */
  isRouted: boolean
  /** Only what was acknowledged has to be there after a crash. */
  isAcknowledged: boolean
}

/** A call that reached its target. */
export interface Call {
  readonly rule: string
  /** The one in force when it began. */
  readonly revision: Revision | undefined
  /** How many reloads there had been. */
  readonly reloads: number
  readonly request: number
  readonly event: Event
  readonly origin: string
  readonly at: number
  /** Of which process, counted from 0. */
  readonly life: number
  answered: How | undefined
  /** What followed from the answer is durable. */
  isSettled: boolean
  readonly reply: (reply: Reply) => void
}

/** What an operator does with dead letters and parked deliveries. */
export type Operation = 'replay' | 'discard'

/** Of one letter. */
export interface Operated {
  readonly how: Operation
  /** Of one step. */
  readonly batch: number
  /** How many calls there had been. */
  readonly calls: number
  /** It has not met its gates yet. */
  readonly isNew: boolean
  /** It is known to be done, and durable. */
  isConfirmed: boolean
}

interface Reload {
  readonly rule: string
  readonly revision: Revision | undefined
  /** How many events there had been. */
  readonly events: number
}

/** Who looks at calls as they are made. */
interface Watch {
  /** It is not in `history` yet. */
  began(call: Call, history: History): void
  answered(call: Call, how: How, now: number): void
}

/** The same engine in process after process, on one embedded store; calls are answered by hand. */
export class History {
  readonly clock = new WoundClock()
  readonly events: Event[] = []
  /** In the order in which they began. */
  readonly calls: Call[] = []
  readonly #world: StoreWorld
  readonly #watch: Watch
  readonly #deadBytes: number
  readonly #inForce: Map<string, Revision | undefined>
  readonly #reloads: Reload[] = []
  readonly #operations = new Map<string, Operated[]>()
  #batches = 0
  /** Nothing was posted or reloaded since nothing moved. */
  #isQuiet = true
  #process: WoundEngine | undefined
  #lives = 0
  kills = 0
  /** When nothing moved the last time; what follows from a time after that comes in no certain order. */
  quietAt = 0

  constructor(world: StoreWorld, watch: Watch, deadBytes: number) {
    this.#world = world
    this.#watch = watch
    this.#deadBytes = deadBytes
    this.#inForce = new Map([...revisions].map(([name, [first]]) => [name, first]))
  }

  /** Undefined while the rule is gone. */
  inForce(rule: string): Revision | undefined {
    return this.#inForce.get(rule)
  }

  /** All that were in force since the event was posted. */
  revisionsSince(rule: string, { reloads }: Event): readonly (Revision | undefined)[] {
    const before = this.#reloads.slice(0, reloads).findLast((reload) => reload.rule === rule)
    const first = before === undefined ? revisions.get(rule)?.[0] : before.revision
    const later = this.#reloads.slice(reloads).filter((reload) => reload.rule === rule)
    return [first, ...later.map(({ revision }) => revision)]
  }

  /** How often the rule was reloaded since so many reloads of any. */
  reloadsSince(rule: string, reloads: number): number {
    return this.#reloads.slice(reloads).filter((reload) => reload.rule === rule).length
  }

  /** Whether it was posted before the rule got the key that it has. */
  isOfOtherKey(rule: string, event: Event): boolean {
    const { keyName } = this.inForce(rule) ?? {}
    return this.revisionsSince(rule, event).some((one) => one !== undefined && one.keyName !== keyName)
  }

  /** What was done with its delivery, oldest first. */
  operations(rule: string, event: Event): readonly Operated[] {
    return this.#operations.get(`${metaId(event)}/${rule}`) ?? []
  }

  /** Calls that are waiting for their answer. */
  get inFlight(): readonly Call[] {
    return this.calls.filter(({ life, answered }) => life === this.#lives && answered === undefined)
  }

  async open(): Promise<void> {
    const life = this.#lives
    const send = (request: OutboundRequest, signal?: AbortSignal) =>
      new Promise<Reply>((resolve) => {
        const stop = () => resolve(cutOff)
        if (signal !== undefined) setMaxListeners(0, signal)
        signal?.addEventListener('abort', stop)
        // What a process that was killed would still have done, it has not done.
        if (life !== this.#lives) return
        this.#begin(request, (reply) => {
          signal?.removeEventListener('abort', stop)
          resolve(reply)
        })
      })
    const options = { rules: this.#rules(), send, deadBytes: this.#deadBytes }
    this.#process = new WoundEngine(await this.#world.open(this.clock), this.clock, options)
    const last = this.events.findLast(({ isAcknowledged }) => isAcknowledged)
    if (last !== undefined) await this.#process.expectStored(metaId(last))
  }

  /** Nothing moves any more but by an answer, or by the clock. */
  async still(): Promise<void> {
    await this.#current.still()
    this.quietAt = this.clock.now()
    this.#isQuiet = true
    for (const event of this.events) event.isRouted = event.isAcknowledged
    const { inFlight } = this
    const isRunning = ({ rule, event }: Call) => inFlight.some((one) => one.rule === rule && one.event === event)
    for (const call of this.calls) {
      if (call.life === this.#lives && call.answered !== undefined && !isRunning(call)) call.isSettled = true
    }
  }

  /** Resolves when they are acknowledged, or never will be. */
  async post(stream: string, fields: Omit<Fields, 'n'>, count: number): Promise<void> {
    const events = Array.from({ length: count }, (_, index): Event => {
      const n = this.events.length + index
      const accepted = this.clock.now()
      const reloads = this.#reloads.length
      return { ...fields, n, stream, accepted, mayMiss: new Set(), reloads, isRouted: false, isAcknowledged: false }
    })
    this.events.push(...events)
    this.#isQuiet = false
    for (const [rule, revision] of this.#inForce) for (const event of events) mayMissUnder(rule, revision, event)
    const life = this.#lives
    const news = events.map((event) => {
      const { n, key, other, time } = event
      return newEvent(stream, metaId(event), { n, other, time, ...(key === undefined ? {} : { key: key as Json }) })
    })
    const isAppended = await this.#current.store.append(news).then(
      () => true,
      () => false,
    )
    if (!isAppended || life !== this.#lives) return
    for (const event of events) event.isAcknowledged = true
  }

  /** Resolves when the engine has heard it; that need not be durable then. */
  async answer(call: Call, how: How): Promise<void> {
    this.#watch.answered(call, how, this.clock.now())
    call.answered = how
    call.reply(replies[how])
    await nextTurn()
  }

  /** Puts another revision of a rule in force, or takes the rule away. */
  reload(rule: string, revision: Revision | undefined): void {
    if (this.inForce(rule) === revision) return
    for (const event of this.events) if (!event.isRouted) event.mayMiss.add(rule)
    this.#reloads.push({ rule, revision, events: this.events.length })
    this.#inForce.set(rule, revision)
    this.#isQuiet = false
    this.#current.reload(this.#rules())
  }

  /** Of one of the letters there are, or of all. Resolves when it is begun; says whether there were any. */
  async operate(how: Operation, pick: number | 'all'): Promise<boolean> {
    const process = this.#current
    const life = this.#lives
    const { items } = await process.store.deadLetters({ limit: 10_000 })
    const letters = pick === 'all' ? items : items.slice(pick % items.length).slice(0, 1)
    if (letters.length === 0) return false
    this.#batches += 1
    const operated = letters.map(({ metaId, rule, standing }): Operated => {
      const { batch, calls } = { batch: this.#batches, calls: this.calls.length }
      const one = { how, batch, calls, isNew: standing === undefined, isConfirmed: false }
      const name = `${metaId}/${rule}`
      this.#operations.set(name, [...(this.#operations.get(name) ?? []), one])
      return one
    })
    const ids = letters.map(({ id }) => id)
    const under = process.letters
    const ending = how === 'replay' ? under.replay({ ids }, 1_000) : under.discard({ ids })
    void ending.then(
      ({ count }) => {
        if (life === this.#lives && count === ids.length) for (const one of operated) one.isConfirmed = true
      },
      // The process ended meanwhile.
      () => undefined,
    )
    return true
  }

  /** A kill loses all that is not durable at this moment; a stop cuts off what is under way. Then the next process starts. */
  async end(how: 'kill' | 'stop'): Promise<void> {
    const process = this.#current
    await this.#mayMissAfterRestart()
    if (how === 'kill') {
      this.kills += 1
      this.#lives += 1
      await this.#world.kill()
      await process.stop()
    } else {
      await process.stop()
      this.#lives += 1
    }
    await this.open()
  }

  /** Nothing waits or runs, be it with a row or in memory, but for what is set aside. */
  get isIdle(): boolean {
    const { engine } = this.#current
    return engine.ruleNames().every((name) => {
      const { waiting, running } = engine.counts(name)
      return running === 0 && Object.keys(waiting).every((reason) => reason === 'parked')
    })
  }

  /** Whether dead letters have hardly any room. */
  get isCramped(): boolean {
    return this.#deadBytes < 2 ** 30
  }

  get hasRestarted(): boolean {
    return this.#lives > 0
  }

  /** What the engine counts. */
  counts(rule: string): { readonly parked: number; readonly dead: number } {
    const { waiting, dead } = this.#current.engine.counts(rule)
    return { parked: waiting.parked ?? 0, dead }
  }

  async deliveries(): Promise<readonly DeliveryEntry[]> {
    const { items } = await this.#current.store.deliveries({ limit: 10_000 })
    return items
  }

  close(): Promise<void> {
    return this.#current.stop()
  }

  get #current(): WoundEngine {
    if (this.#process === undefined) throw new Error('no process was started')
    return this.#process
  }

  #rules(): RuleSet {
    return ruleSet([...this.#inForce.values()].flatMap((revision) => revision?.rule ?? []))
  }

  /** What has no row is routed again, by the rules that are there then. */
  async #mayMissAfterRestart(): Promise<void> {
    for (const event of this.events) event.isRouted = false
    const rows = new Set((await this.deliveries()).map(({ id, metaId, rule }) => `${metaId ?? id}/${rule}`))
    for (const event of this.events) {
      for (const [rule, revision] of this.#inForce) {
        // A rule that is gone keeps what it has.
        if (revision === undefined && this.#isQuiet) continue
        if (!rows.has(`${metaId(event)}/${rule}`)) mayMissUnder(rule, revision, event)
      }
    }
  }

  #begin({ origin, path, body }: OutboundRequest, reply: Call['reply']): void {
    const [, rule = '', request] = path.split('/')
    const { n } = JSON.parse(Buffer.from(body ?? '').toString()) as { n: number }
    const event = this.events[n]
    if (event === undefined) throw new Error(`nobody posted ${n}`)
    const call: Call = {
      ...{
        rule,
        revision: this.inForce(rule),
        reloads: this.#reloads.length,
        request: Number(request),
        event,
        origin,
        at: this.clock.now(),
        life: this.#lives,
        reply,
      },
      ...{ answered: undefined, isSettled: false },
    }
    this.#watch.began(call, this)
    this.calls.push(call)
  }
}

function mayMissUnder(rule: string, revision: Revision | undefined, event: Event): void {
  if (concerns(rule, event) && revision?.matches(event) !== true) event.mayMiss.add(rule)
}

function metaId({ n }: Event): string {
  return `event-${n}`
}

function answer(status: number, headers: Readonly<Record<string, string>> = {}): Reply {
  return { kind: 'answer', status, headers, body: new Uint8Array(), truncated: false }
}
