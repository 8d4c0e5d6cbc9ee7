import type { StoreHealth } from '../store.ts'
import type { DeadCount } from '../tables/format.ts'
import type { Retention, Sizes } from './protocol.ts'

const warnFrom = 0.8

/** What the store can take, kept ready: the engine asks before each call. */
export class Health {
  readonly #limits: Retention
  readonly #told: (health: StoreHealth) => void
  readonly #dead = new Map<string, { readonly count: number; readonly bytes: number }>()
  #sizes: Sizes = { bytes: 0, deadBytes: 0, parkedBytes: 0 }
  /** Why nothing can be written. */
  #diskTrouble: string | undefined
  /** Retention found nothing more to remove, and still so much is taken. */
  #isLiveTight = false
  #isLiveFull = false
  #ended: string | undefined
  #current: StoreHealth

  constructor(limits: Retention, told: (health: StoreHealth) => void) {
    this.#limits = limits
    this.#told = told
    this.#current = this.#assess()
  }

  get current(): StoreHealth {
    return this.#current
  }

  get deadCounts(): ReadonlyMap<string, { readonly count: number; readonly bytes: number }> {
    return this.#dead
  }

  /** Bytes that count against the size, finished history included: what dead letters and parked deliveries hold has a size of its own. */
  get liveBytes(): number {
    const { bytes, deadBytes, parkedBytes } = this.#sizes
    return Math.max(0, bytes - deadBytes - parkedBytes)
  }

  /** Whether retention has to look for what may go. */
  get isTight(): boolean {
    return this.liveBytes >= this.#limits.sizeBytes * warnFrom
  }

  measured(sizes: Sizes): void {
    this.#sizes = sizes
    if (this.liveBytes < this.#limits.sizeBytes) this.#isLiveFull = false
    if (!this.isTight) this.#isLiveTight = false
    this.#update()
  }

  /** Retention found nothing more to remove. */
  retained(): void {
    this.#isLiveFull = this.liveBytes >= this.#limits.sizeBytes
    this.#isLiveTight = this.isTight
    this.#update()
  }

  counted(dead: readonly DeadCount[], ruleOf: (rule: number) => string): void {
    for (const { rule, count, bytes } of dead) {
      if (count === 0) this.#dead.delete(ruleOf(rule))
      else this.#dead.set(ruleOf(rule), { count, bytes })
    }
  }

  disk(trouble: string | undefined): void {
    this.#diskTrouble = trouble
    this.#update()
  }

  ended(why: string): void {
    this.#ended = why
    this.#current = this.#assess()
  }

  #update(): void {
    const before = this.#current
    this.#current = this.#assess()
    if (before.accepting !== this.#current.accepting || before.writable !== this.#current.writable)
      this.#told(this.#current)
  }

  #assess(): StoreHealth {
    const { sizeBytes, deadBytes: deadLimit } = this.#limits
    const { bytes, deadBytes } = this.#sizes
    const warnings: string[] = []
    if (this.#isLiveTight) {
      warnings.push(
        `work that is not finished takes ${mib(this.liveBytes)} of the ${mib(sizeBytes)} that the store may have`,
      )
    }
    if (deadBytes >= deadLimit * warnFrom) {
      warnings.push(
        `dead letters take ${mib(deadBytes)} of the ${mib(deadLimit)} that they may have: replay or discard some`,
      )
    }
    const full = this.#isLiveFull
      ? `work that is not finished takes all of the ${mib(sizeBytes)} that the store may have; raise retention.size, or see what holds it up`
      : undefined
    const disk =
      this.#diskTrouble === undefined
        ? undefined
        : `the disk is full, or refuses writes (${this.#diskTrouble}); no event is taken and no call starts`
    const trouble = this.#ended ?? disk ?? full
    const writable = disk === undefined && this.#ended === undefined
    return { accepting: trouble === undefined, writable, trouble, warnings, bytes, deadBytes }
  }
}

function mib(bytes: number): string {
  return `${Math.round(bytes / 104_857.6) / 10} MiB`
}
