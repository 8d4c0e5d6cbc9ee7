import { ServiceError } from '../base/errors.ts'
import type { DeadLetter, Store } from '../store/store.ts'
import type { Engine } from './engine.ts'

/** Which dead letters are meant. */
export type Selection = { readonly ids: readonly string[] } | { readonly rule: string } | { readonly all: true }

const pageSize = 200

/** What an operator does with dead letters, and with deliveries that were parked for want of room for more of them. */
export class Letters {
  readonly #store: Store
  readonly #engine: Engine
  readonly #now: () => number
  /** One operation at a time: two that overlap would reopen one letter twice. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(store: Store, engine: Engine, now: () => number) {
    this.#store = store
    this.#engine = engine
    this.#now = now
  }

  /**
   * Reopens them, `ratePerSecond` apart: each gets its time at once, and durably, so that the pace outlives a restart. Resolves
   * with their number when all have it.
   */
  async replay(selection: Selection, ratePerSecond: number): Promise<{ count: number }> {
    return this.#inTurn(() => {
      const begun = this.#now()
      return this.#each(selection, (letter, index) =>
        this.#engine.replay(letter, Math.ceil(begun + (index * 1000) / ratePerSecond)),
      )
    })
  }

  /**
   * Ends them for good; of a rule that is gone also what waits for one of that name. Resolves with their number when that is
   * durable.
   */
  async discard(selection: Selection): Promise<{ count: number }> {
    return this.#inTurn(async () => {
      const { count } = await this.#each(selection, (letter) => this.#engine.discard(letter))
      return { count: 'rule' in selection ? count + (await this.#engine.discardGone(selection.rule)) : count }
    })
  }

  #inTurn(operate: () => Promise<{ count: number }>): Promise<{ count: number }> {
    const turn = this.#last.then(operate, operate)
    this.#last = turn
    return turn
  }

  async #each(
    selection: Selection,
    settle: (letter: DeadLetter, index: number) => Promise<void>,
  ): Promise<{ count: number }> {
    const filter = 'all' in selection ? {} : selection
    let count = 0
    let cursor: string | undefined
    do {
      const { writable, trouble } = this.#store.health()
      if (!writable) throw new ServiceError('STORE_FULL', trouble ?? 'the store cannot be written to')
      const page = await this.#store.deadLetters({
        ...filter,
        limit: pageSize,
        ...(cursor === undefined ? {} : { cursor }),
      })
      const first = count
      count += page.items.length
      await Promise.all(page.items.map((letter, index) => settle(letter, first + index)))
      cursor = page.cursor
    } while (cursor !== undefined)
    return { count }
  }
}
