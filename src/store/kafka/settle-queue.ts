import type { Outgoing } from './batch-sender.ts'
import { formatJournal } from './journal.ts'
import { pack } from './packed.ts'
import type { Part, Pending } from './part.ts'
import type { Change, ShardSettle, ShardThread, Told } from './shard-protocol.ts'
import type { Topics } from './topics.ts'
import type { Writer } from './writer.ts'

/** What the thread is asked to settle of one part at once. */
export interface PartBatch {
  readonly part: Part
  readonly rows: readonly Extract<Pending, { settle: ShardSettle }>[]
  /** Those of which a key has something to remember first. */
  readonly ends: readonly Extract<Pending, { told: Told }>[]
}

/** What is to be written of a batch, and to be done when it is. */
export interface Settled {
  readonly records: readonly Outgoing[]
  readonly told: readonly Told[]
  readonly done: () => void
}

export interface SettleQueueParts {
  readonly topics: Topics
  readonly partitions: number
  readonly thread: ShardThread
  readonly writer: Writer
  /** Those that are ours. */
  readonly owned: ReadonlyMap<number, Part>
  /** The thread has made that of it. */
  settled(batch: PartBatch, change: Change): Settled
  broken(error: unknown): undefined
}

/** Of all parts together. */
const settlesAtOnce = 1_000
/** What is only told waits so long for more of its kind: each record takes longer than what is in it. */
const tellLingerMs = 15
/** One on its way, and one that waits for it. */
const unwrittenAtMost = 2

const nothing = pack([])
const noChange: Change = {
  ...{ consequences: [], records: nothing, roots: nothing, told: [], dead: undefined },
  places: [],
}

/**
 * Takes settlements to the thread, and what it makes of them to the writer: of all parts together, one batch after another,
 * so that what they tell is in few records.
 */
export class SettleQueue {
  readonly #parts: SettleQueueParts
  /** Settlements of all parts that are not on their way yet. */
  #pending = 0
  #lingering: NodeJS.Timeout | undefined
  #isHurried = false
  #isFlushing = false
  /** How many wait until all is on its way. */
  #waiting = 0
  /** Batches that were settled, and are not written. */
  #unwritten = 0
  #whenWritten: (() => void) | undefined

  constructor(parts: SettleQueueParts) {
    this.#parts = parts
  }

  /** Nobody waits for what is only told. */
  push(part: Part, pending: Pending): void {
    part.settles.push(pending)
    this.#pending += 1
    if ('settle' in pending || this.#pending >= settlesAtOnce) this.#flushSoon()
    else this.#lingering ??= setTimeout(() => this.#flushSoon(), tellLingerMs)
  }

  /** What is not on its way to the thread. */
  takeAll(part: Part): readonly Pending[] {
    return this.#take(part, part.settles.length)
  }

  /** Resolves when all is on its way to the writer, whatever that waits for. */
  async flushed(): Promise<void> {
    this.#waiting += 1
    this.#whenWritten?.()
    this.#flushSoon()
    while (this.#isFlushing) await new Promise(setImmediate)
    this.#waiting -= 1
  }

  #flushSoon(): void {
    clearTimeout(this.#lingering)
    this.#lingering = undefined
    this.#isHurried = true
    if (this.#isFlushing) return
    this.#isFlushing = true
    setImmediate(() => void this.#flush())
  }

  async #flush(): Promise<void> {
    const { topics, partitions, settled } = this.#parts
    while (this.#isHurried) {
      this.#isHurried = false
      const batches = this.#nextBatches()
      const changes = await this.#settle(batches)
      if (changes === undefined) break
      const all = batches.map((batch) => settled(batch, changes.get(batch) ?? noChange))
      const told = all.flatMap((one) => one.told)
      this.#write(
        [...all.flatMap(({ records }) => records), ...formatJournal(topics.journal, partitions, told)],
        () => {
          for (const { done } of all) done()
        },
      )
      // What comes meanwhile is settled together.
      while (this.#unwritten >= unwrittenAtMost && this.#waiting === 0)
        await new Promise<void>((resolve) => {
          this.#whenWritten = resolve
        })
    }
    this.#isFlushing = false
  }

  /** What each part has to settle, and no part too much. */
  #nextBatches(): readonly PartBatch[] {
    const parts = [...this.#parts.owned.values()].filter(({ settles }) => settles.length > 0)
    const atMost = Math.ceil(settlesAtOnce / parts.length)
    return parts.map((part) => {
      const pending = this.#take(part, atMost)
      this.#isHurried ||= part.settles.length > 0
      const rows = pending.flatMap((one) => ('settle' in one ? [one] : []))
      const ends = pending.flatMap((one) => ('told' in one ? [one] : []))
      return { part, rows, ends: ends.sort((a, b) => Number(a.end === undefined) - Number(b.end === undefined)) }
    })
  }

  #take(part: Part, atMost: number): Pending[] {
    const pending = part.settles.splice(0, atMost)
    this.#pending -= pending.length
    return pending
  }

  /** What the thread makes of each; undefined where that is broken. It need not know of what is only told. */
  async #settle(batches: readonly PartBatch[]): Promise<ReadonlyMap<PartBatch, Change> | undefined> {
    const { thread, broken } = this.#parts
    const concerned = batches.filter(({ rows, ends }) => rows.length > 0 || ends.some(({ isKeyed }) => isKeyed))
    if (concerned.length === 0) return new Map()
    const asked = concerned.map(({ part: { partition }, rows, ends }) => {
      return {
        partition,
        settles: rows.map(({ settle }) => settle),
        ends: ends.flatMap(({ end = [] }) => end),
        ended: ends.flatMap(({ isKeyed, told: { event, rule } }) => (isKeyed ? `${event.id}/${rule}` : [])),
      }
    })
    const changes = await thread.ask('settle', { batches: asked }).catch(broken)
    return changes && new Map(concerned.map((batch, index) => [batch, changes[index] ?? noChange]))
  }

  #write(records: readonly Outgoing[], done: () => void): void {
    if (records.length === 0) {
      done()
      return
    }
    this.#unwritten += 1
    this.#parts.writer.write(records, () => {
      this.#unwritten -= 1
      this.#whenWritten?.()
      done()
    })
  }
}
