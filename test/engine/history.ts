import { setMaxListeners } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { OutboundRequest, Reply } from '../../src/http/send.ts'
import type { RuleSet } from '../../src/rule/rule.ts'
import type { DeliveryEntry } from '../../src/store/store.ts'
import type { StoreWorld } from '../store/world.ts'
import { WoundClock } from '../support/clock.ts'
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

export interface Event {
  /** In order of acceptance. */
  readonly n: number
  readonly stream: string
  readonly key: string
  /** Of its root event. */
  readonly time: number
  accepted: number
  /** Only what was acknowledged has to be there after a crash. */
  isAcknowledged: boolean
}

/** A call that reached its target. */
export interface Call {
  readonly rule: string
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
  readonly #rules: RuleSet
  readonly #watch: Watch
  #process: WoundEngine | undefined
  #lives = 0
  kills = 0

  constructor(world: StoreWorld, rules: RuleSet, watch: Watch) {
    this.#world = world
    this.#rules = rules
    this.#watch = watch
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
    this.#process = new WoundEngine(await this.#world.open(this.clock), this.clock, { rules: this.#rules, send })
    const last = this.events.findLast(({ isAcknowledged }) => isAcknowledged)
    if (last !== undefined) await this.#process.expectStored(metaId(last))
  }

  /** Nothing moves any more but by an answer, or by the clock. */
  async still(): Promise<void> {
    await this.#current.still()
    const { inFlight } = this
    const isRunning = ({ rule, event }: Call) => inFlight.some((one) => one.rule === rule && one.event === event)
    for (const call of this.calls) {
      if (call.life === this.#lives && call.answered !== undefined && !isRunning(call)) call.isSettled = true
    }
  }

  /** Resolves when they are acknowledged, or never will be. */
  async post(stream: string, key: string, time: number, count: number): Promise<void> {
    const events = Array.from({ length: count }, (_, index): Event => {
      const n = this.events.length + index
      return { n, stream, key, time, accepted: this.clock.now(), isAcknowledged: false }
    })
    this.events.push(...events)
    const life = this.#lives
    const news = events.map((event) => {
      const { n, key, time } = event
      return newEvent(stream, metaId(event), { n, key, time })
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

  /** A kill loses all that is not durable at this moment; a stop cuts off what is under way. Then the next process starts. */
  async end(how: 'kill' | 'stop'): Promise<void> {
    const process = this.#current
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

  /** Nothing waits or runs, be it with a row or in memory. */
  get isIdle(): boolean {
    const { engine } = this.#current
    return engine.ruleNames().every((name) => {
      const { waiting, running } = engine.counts(name)
      return running === 0 && Object.keys(waiting).length === 0
    })
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

  #begin({ origin, path, body }: OutboundRequest, reply: Call['reply']): void {
    const [, rule = '', request] = path.split('/')
    const { n } = JSON.parse(Buffer.from(body ?? '').toString()) as { n: number }
    const event = this.events[n]
    if (event === undefined) throw new Error(`nobody posted ${n}`)
    const call: Call = {
      ...{ rule, request: Number(request), event, origin, at: this.clock.now(), life: this.#lives, reply },
      ...{ answered: undefined, isSettled: false },
    }
    this.#watch.began(call, this)
    this.calls.push(call)
  }
}

function metaId({ n }: Event): string {
  return `event-${n}`
}

function answer(status: number, headers: Readonly<Record<string, string>> = {}): Reply {
  return { kind: 'answer', status, headers, body: new Uint8Array(), truncated: false }
}
