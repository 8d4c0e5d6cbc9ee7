/**
 * What this process has handed over to a partition of the work, and the thread has not taken up yet: who has the same key of
 * its rule must not overtake it.
 */
export class OnTheWay {
  /** By row. */
  readonly #keys = new Map<string, string>()
  readonly #counts = new Map<string, number>()

  add(row: string, key: string): void {
    this.delete(row)
    this.#keys.set(row, key)
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  /** Says whether it was there. */
  delete(row: string): boolean {
    const key = this.#keys.get(row)
    if (key === undefined) return false
    this.#keys.delete(row)
    const left = (this.#counts.get(key) ?? 1) - 1
    if (left > 0) this.#counts.set(key, left)
    else this.#counts.delete(key)
    return true
  }

  hasRow(row: string): boolean {
    return this.#keys.has(row)
  }

  has(key: string): boolean {
    return this.#counts.has(key)
  }
}
