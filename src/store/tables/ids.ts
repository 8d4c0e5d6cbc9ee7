import { type Database, int, type Statement } from './database.ts'

/** Positions per run. More makes a lookup cheaper (one seek per run) and a start dearer (so many hashes are read again). */
const runLength = 32_768
/** Rows moved beside each commit, at least. */
const movedAtLeast = 1_500
/** Of 53 bits of hash so many lead a sort key; the offset within the run fills the rest. */
const keyBits = 2 ** 15

interface Span {
  /** Position of the first hash. */
  readonly first: number
  /** By offset; 0 where there is nothing to look up. */
  readonly hashes: Float64Array
  length: number
}

/**
 * Finds positions by the hash of the producer's `meta.id`. The newest hashes lie unsorted in memory; each full span is
 * sorted and written behind the log, always at the right edge of its table: an index on random ids would cost half of the
 * append rate. What is found has to be compared with the event itself.
 */
export class MetaIds {
  readonly #spans: Span[] = []
  #current: Span
  #nextRun = 1
  /** The oldest span in #spans, in the order in which its rows are written; undefined before that began. */
  #moving: Float64Array | undefined
  #moved = 0
  readonly #insert: Statement
  readonly #finish: Statement
  readonly #lookup: Statement
  readonly #runOf: Statement
  readonly #delete: Statement

  constructor(database: Database) {
    const last = database.prepare('SELECT coalesce(max(run), 0) AS run, coalesce(max(last), 0) AS last FROM runs').get()
    this.#nextRun = int(last?.run) + 1
    database.prepare('DELETE FROM ids WHERE run >= ?').run(this.#nextRun)
    this.#insert = database.prepare('INSERT OR IGNORE INTO ids(run, h, pos) VALUES (?, ?, ?)')
    this.#finish = database.prepare('INSERT INTO runs(run, first, last) VALUES (?, ?, ?)')
    this.#lookup = database.prepare('SELECT ids.pos FROM runs CROSS JOIN ids ON ids.run = runs.run WHERE ids.h = ?')
    this.#runOf = database.prepare('SELECT run FROM runs WHERE first <= ? AND last >= ?')
    this.#delete = database.prepare('DELETE FROM ids WHERE run = ? AND h = ? AND pos = ?')

    this.#current = span(int(last?.last) + 1)
    const page = database.prepare('SELECT pos, h FROM events WHERE pos > ? ORDER BY pos LIMIT 5000')
    for (let after = int(last?.last), rows = page.all(after); rows.length > 0; rows = page.all(after)) {
      for (const row of rows) {
        after = int(row.pos)
        this.add(after, int(row.h))
      }
    }
  }

  /** An event is durable. Positions come in rising order. */
  add(pos: number, hash: number): void {
    if (this.#current.length === 0) this.#current = { ...this.#current, first: pos }
    while (pos >= this.#current.first + runLength) {
      this.#spans.push(this.#current)
      const next = this.#current.first + runLength
      this.#current = span(pos < next + runLength ? next : pos)
    }
    const offset = pos - this.#current.first
    this.#current.hashes[offset] = hash
    this.#current.length = offset + 1
  }

  /** Within a transaction: moves some rows out of memory. The answer is to be called once they are durable. */
  move(events: number): (() => void) | undefined {
    const oldest = this.#spans[0]
    if (oldest === undefined) return undefined
    this.#moving ??= inOrder(oldest)
    const keys = this.#moving
    const end = Math.min(keys.length, this.#moved + Math.max(movedAtLeast, events * 2))
    for (let index = this.#moved; index < end; index += 1) {
      const offset = (keys[index] ?? 0) % keyBits
      const hash = oldest.hashes[offset] ?? 0
      if (hash !== 0) this.#insert.run(this.#nextRun, hash, oldest.first + offset)
    }
    if (end === keys.length) this.#finish.run(this.#nextRun, oldest.first, oldest.first + oldest.length - 1)
    return () => {
      this.#moved = end
      if (end < keys.length) return
      this.#spans.shift()
      this.#moving = undefined
      this.#moved = 0
      this.#nextRun += 1
    }
  }

  /** Positions whose event may have an id of this hash, in no order. */
  lookup(hash: number): number[] {
    const found = this.#lookup.all(hash).map((row) => int(row.pos))
    for (const { first, hashes, length } of [...this.#spans, this.#current]) {
      for (
        let offset = hashes.indexOf(hash);
        offset !== -1 && offset < length;
        offset = hashes.indexOf(hash, offset + 1)
      ) {
        found.push(first + offset)
      }
    }
    return [...new Set(found)]
  }

  /** Within a transaction: an event goes. `forget` is to be called once that is durable. */
  remove(pos: number, hash: number): void {
    if (hash === 0) return
    if (isWithin(this.#spans[0], pos)) this.#delete.run(this.#nextRun, hash, pos)
    const run = this.#runOf.get(pos, pos)
    if (run !== undefined) this.#delete.run(int(run.run), hash, pos)
  }

  forget(pos: number): void {
    const holder = [...this.#spans, this.#current].find((candidate) => isWithin(candidate, pos))
    if (holder !== undefined) holder.hashes[pos - holder.first] = 0
  }
}

function isWithin(candidate: Span | undefined, pos: number): boolean {
  return candidate !== undefined && pos >= candidate.first && pos < candidate.first + candidate.length
}

function span(first: number): Span {
  return { first, hashes: new Float64Array(runLength), length: 0 }
}

/** Offsets in the order of their hashes' leading bits, as the low bits of numbers: sorting those needs no comparison of ours. */
function inOrder({ hashes, length }: Span): Float64Array {
  const keys = new Float64Array(length)
  for (let offset = 0; offset < length; offset += 1) {
    keys[offset] = Math.floor((hashes[offset] ?? 0) / keyBits) * keyBits + offset
  }
  return keys.sort()
}
