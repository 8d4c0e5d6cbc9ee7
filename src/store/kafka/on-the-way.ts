import type { Source } from './kafka-record.ts'

/**
 * What this process has handed over to a partition of the work, and has not been taken up there yet: who has the same key of
 * its rule must not overtake it.
 */
export class OnTheWay {
  /** By row. */
  readonly #keys = new Map<string, string>()
  readonly #counts = new Map<string, number>()

  get isEmpty(): boolean {
    return this.#keys.size === 0
  }

  add(row: string, key: string): void {
    this.delete(row)
    this.#keys.set(row, key)
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  delete(row: string): void {
    const key = this.#keys.get(row)
    if (key === undefined) return
    this.#keys.delete(row)
    const left = (this.#counts.get(key) ?? 1) - 1
    if (left > 0) this.#counts.set(key, left)
    else this.#counts.delete(key)
  }

  has(key: string): boolean {
    return this.#counts.has(key)
  }
}

const rememberedAtLeast = 15_000

/**
 * Deliveries that were handed over to this process, by where they were read, and such that have ended, in a row or in another
 * part of the work than where they were read: the last 15 to 30 thousand. Who takes over their source hands over once more
 * what the owner before had not committed.
 */
export class Heard {
  #newer = new Map<string, Source | undefined>()
  #older = new Map<string, Source | undefined>()

  /** `name`: `<event id>/<rule>`. `source`: undefined where it has ended. */
  add(name: string, source: Source | undefined): void {
    if (this.#newer.size >= rememberedAtLeast) {
      this.#older = this.#newer
      this.#newer = new Map()
    }
    this.#newer.set(name, source)
  }

  has(name: string): boolean {
    return this.#newer.has(name) || this.#older.has(name)
  }

  /**
   * Whether it needs nothing more, read there. Where its partition is read anew, what was read of it before may have been left
   * without anything being done about it.
   */
  isRepeated(name: string, source: Source): boolean {
    if (!this.has(name)) return false
    const before = this.#newer.has(name) ? this.#newer.get(name) : this.#older.get(name)
    if (before === undefined || before === source) return true
    return before.partition !== source.partition && !before.owned.isLost
  }
}
