import { onTestFinished } from 'vitest'
import type { Config } from '../../src/config/config.ts'
import { Engine } from '../../src/engine/engine.ts'
import { Letters } from '../../src/engine/letters.ts'
import type { NewEvent } from '../../src/event/event.ts'
import type { Send } from '../../src/http/send.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'
import { createSessions } from '../../src/mediawiki/session.ts'
import type { Directory } from '../../src/mediawiki/wiki.ts'
import type { RuleSet } from '../../src/rule/rule.ts'
import type { Store } from '../../src/store/store.ts'
import type { OpenStore } from '../store/world.ts'
import type { WoundClock } from '../support/clock.ts'
import { type WatchedStore, watched } from '../support/watched-store.ts'

export interface WoundEngineOptions {
  readonly rules: RuleSet
  readonly send: Send
  readonly sites?: Pick<Config, 'wikis' | 'targets'>
  /** Beyond it, deliveries are parked. */
  readonly deadBytes?: number
}

/** An engine in one process, on a real store and by a clock that is wound. */
export class WoundEngine {
  readonly engine: Engine
  readonly letters: Letters
  readonly #opened: OpenStore
  readonly #watched: WatchedStore
  readonly #clock: WoundClock
  readonly #directory: Directory
  #isStopped = false

  constructor(opened: OpenStore, clock: WoundClock, options: WoundEngineOptions) {
    const { rules, send, sites = { wikis: [], targets: {} }, deadBytes = 2 ** 30 } = options
    this.#opened = opened
    this.#watched = watched(opened.store)
    this.#clock = clock
    const { store } = this.#watched
    const observer = { attempted() {}, settled() {}, covered() {} }
    const userAgent = 'test'
    const sessions = createSessions({ send, clock, userAgent })
    const parts = { store, send, sessions, clock, observer, userAgent, deadBytes }
    this.#directory = createDirectory(sites)
    this.engine = new Engine(parts, this.#directory)
    this.letters = new Letters(store, this.engine, clock.now)
    this.engine.start(rules, opened.backlog, (error) => opened.told.broken.push(error as Error))
    onTestFinished(() => this.stop())
  }

  get store(): Store {
    return this.#watched.store
  }

  reload(rules: RuleSet): void {
    this.engine.reload(rules, this.#directory)
  }

  /** Nothing moves any more but by the answer to a call, or by the clock. */
  still(): Promise<void> {
    return this.#watched.still()
  }

  /** What an earlier process accepted last is there; `still` waits until it is routed. */
  async expectStored(metaId: string): Promise<void> {
    const [entry] = await this.store.find(metaId)
    if (entry === undefined) throw new Error(`${metaId} was acknowledged, and is gone`)
    if (!entry.routed) this.#watched.awaitRouting(metaId)
  }

  /** What is under way is cut off. Throws what broke meanwhile, if anything did. */
  async stop(): Promise<void> {
    if (this.#isStopped) return
    this.#isStopped = true
    const stopping = this.engine.stop(0)
    this.#clock.wind(0)
    await stopping
    await this.store.close()
    await this.engine.stopped()
    const [broken] = this.#opened.told.broken
    if (broken !== undefined) throw broken
  }
}

/** Of an event whose `meta.id` is its own. */
export function newEvent(stream: string, id: string, fields: NewEvent['message']): NewEvent {
  const message = { $schema: '/test/1.0.0', meta: { stream, id, domain: 'wiki.example' }, ...fields }
  return { stream, bytes: Buffer.from(JSON.stringify(message)), message }
}
