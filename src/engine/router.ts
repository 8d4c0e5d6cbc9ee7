import type { Clock } from '../base/clock.ts'
import type { Routable, Store } from '../store/store.ts'
import { Delivery } from './delivery.ts'
import type { Dispatcher } from './dispatcher.ts'
import { unreadable } from './gates.ts'
import type { RuleWork } from './rule-work.ts'
import type { Settler } from './settler.ts'
import type { Works } from './works.ts'

/** Records asked of the store at once. */
const pageSize = 500
/**
 * How long a rule is waited for that is not known to be slower; and after a wait in vain none is for so long but those that
 * paid when they were last waited for, so that all slow rules together cost a tenth, and quick ones need no rows for their
 * sake.
 */
const patienceMs = 100
const impatientForMs = 900

export interface RouterParts {
  readonly store: Store
  readonly works: Works
  readonly dispatcher: Dispatcher
  readonly settler: Settler
  readonly clock: Clock
}

/** Reads the log once, in order, and asks each rule that concerns a record's topic. It never waits for a slot. */
export class Router {
  /** The rule whose new deliveries are set aside, because it has most of the dead letters and those are full. */
  parkedRule: string | undefined
  readonly #parts: RouterParts
  #isStopping = false
  /** No rule is waited for before this time, in ms. */
  #patientFrom = 0
  #wake: (() => void) | undefined

  constructor(parts: RouterParts) {
    this.#parts = parts
    parts.settler.whenRoom = () => this.resume()
  }

  /** What held the router up may be over. */
  resume(): void {
    this.#wake?.()
  }

  stop(): void {
    this.#isStopping = true
    this.resume()
  }

  /** Resolves when the router has stopped, or the store is closed. */
  async run(): Promise<void> {
    const { store, works, settler } = this.#parts
    while (!this.#isStopping) {
      if (works.rules === undefined || !store.health().writable || settler.isCrowded) {
        await this.#resumed()
        continue
      }
      const page = await store.next(pageSize)
      if (page.length === 0) return
      for (const routable of page) {
        // What is not routed before the stop comes out of the log again at the next start.
        if (this.#isStopping) return
        const owing = this.#route(routable)
        if (owing !== undefined) await this.#paid(owing)
        while ((works.rules === undefined || settler.isCrowded) && !this.#isStopping) await this.#resumed()
      }
    }
  }

  /** Routes one record; comes back with a rule that is worth waiting for. */
  #route({ record, known, handedOver }: Routable): RuleWork | undefined {
    const { store, works, dispatcher, settler, clock } = this.#parts
    const { message } = record
    let inMemory = 0
    let owing: RuleWork | undefined
    // Between two records of a page the router may have waited long enough for one to be lost.
    const isOurs = store.isOurs(record)
    const rules = isOurs ? (works.rules?.forTopic(record.stream) ?? []) : []
    const only = handedOver?.rule
    let isGone = isOurs && only !== undefined && known?.has(only) !== true
    for (const rule of rules) {
      if (known?.has(rule.name) || (only !== undefined && rule.name !== only)) continue
      isGone = false
      const settled = { lane: { rule: rule.name, key: '' }, record }
      if (message === undefined) {
        settler.settle(works.of(rule.name), settled, unreadable)
        continue
      }
      const match = rule.match(message)
      if (match === undefined) {
        // It did where it was handed over.
        if (only !== undefined) settler.settle(works.of(only), settled, { state: 'done', reason: 'no_match' })
        continue
      }
      const work = works.of(rule.name)
      if (rule.name === this.parkedRule) {
        settler.settle(work, settled, {
          state: 'waiting',
          reason: 'parked',
          until: Number.POSITIVE_INFINITY,
        })
        continue
      }
      if (dispatcher.admit(work, new Delivery(record, rule, match, clock.now()))) inMemory += 1
      if (work.isOwing(works.room) && owing?.isPaying !== true) owing = work
    }
    // Who handed it over may have rules that are not here yet.
    if (only !== undefined && isGone) {
      const settled = { lane: { rule: only, key: '' }, record, standing: handedOver?.standing }
      settler.settle(works.of(only), settled, { state: 'waiting', reason: 'rule_gone', until: clock.now() })
    }
    store.routed(record, inMemory)
    return owing
  }

  #resumed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined
        resolve()
      }
    })
  }

  /** Waits until it has made up for its debt, where that is worth it. */
  #paid(work: RuleWork): Promise<void> | undefined {
    const { clock } = this.#parts
    const pace = work.pace(patienceMs)
    if (pace === 'slow') work.cancelDebt()
    if (pace === 'slow' || (pace === undefined && !work.isPaying && clock.now() < this.#patientFrom)) return undefined
    return new Promise((resolve) => {
      let cancel: () => void
      const end = () => {
        cancel()
        work.whenPaid = undefined
        resolve()
      }
      const wait = () => {
        const before = work.paid
        cancel = clock.at(clock.now() + patienceMs, () => {
          if (!this.#isStopping && work.isQuick(work.paid - before, patienceMs, patienceMs)) {
            wait()
            return
          }
          work.cancelDebt()
          this.#patientFrom = clock.now() + impatientForMs
          end()
        })
      }
      wait()
      work.whenPaid = () => {
        work.isPaying = true
        end()
      }
    })
  }
}
