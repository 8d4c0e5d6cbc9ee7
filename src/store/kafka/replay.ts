import type { Numbers } from '../tables/numbers.ts'
import { parseStart } from './keys-topic.ts'
import { type KeyValue, type Packed, unpack } from './packed.ts'
import { formatKey, parseFact, parseKey, parseRow, readEnd, type WorkKey } from './row.ts'
import type { ShardChanges } from './shard-changes.ts'
import { type KeyStart, settleOfRow } from './shard-protocol.ts'
import type { ShardRows } from './shard-rows.ts'

/** Makes the rows of a partition from its changelog, and from what the keys topic says. */
export class Replay {
  readonly #rows: ShardRows
  readonly #changes: ShardChanges
  readonly #numbers: Numbers
  readonly #place: (accepted: number) => number
  /** What was handed over, and its owner had not taken up. By key, in order. */
  readonly #unheard = new Map<string, KeyValue>()
  /** Of which something was handed over after what holds: compaction may leave only the last, which is to be what holds. By key. */
  readonly #shadowed = new Map<string, KeyValue>()

  /** `place`: one that is free, for an event that was accepted then. */
  constructor(rows: ShardRows, changes: ShardChanges, numbers: Numbers, place: (accepted: number) => number) {
    this.#rows = rows
    this.#changes = changes
    this.#numbers = numbers
    this.#place = place
  }

  /** What the changelog says, in order. */
  restore(records: Packed): void {
    this.#rows.transaction(() => {
      for (const { key, value } of unpack(records)) {
        const parsed = parseKey(key)
        if (parsed !== undefined) this.#replay(parsed, value)
      }
      this.#rows.learn()
    })
  }

  /** What the keys topic says of calls; before it is restored. */
  remember(starts: readonly KeyStart[]): void {
    this.#rows.transaction(() => {
      for (const { rule, key, pos, began, at, hash, starter } of starts) {
        this.#rows.keepStarter(pos, starter)
        this.#rows.remember(this.#numbers.of('rule', rule), key, { pos, began, at, hash })
      }
      this.#rows.learn()
    })
  }

  /** The next of what was handed over, and not taken up. */
  takeUnheard(limit: number): readonly KeyValue[] {
    const page: KeyValue[] = []
    for (const [name, one] of this.#unheard) {
      if (page.length === limit) break
      page.push(one)
      this.#unheard.delete(name)
    }
    return page
  }

  /** Of what it is to be said once more what holds. */
  takeShadowed(): readonly KeyValue[] {
    const shadowed = [...this.#shadowed.values()]
    this.#shadowed.clear()
    return shadowed
  }

  #replay(key: WorkKey, value: Buffer | null): void {
    if (key.kind === 'owner') return
    const rule = this.#numbers.of('rule', key.rule)
    if (key.kind !== 'delivery') {
      this.#changes.replayFact(key, rule, value === null ? undefined : parseFact(value))
      return
    }
    const name = formatKey(key)
    const end = value === null ? undefined : readEnd(value)
    const hasEnded = end !== undefined
    const found = value === null || hasEnded ? undefined : parseRow(value)
    const known = this.#rows.find(key.id, rule)
    if (value !== null && !hasEnded && found?.row.pos === undefined) {
      // The owner has not said yet what becomes of it; what others wrote of one that is there already, or over, says nothing new.
      const isNews = known === undefined ? !this.#changes.hasEnded(key.id, key.rule) : found?.row.reopens === true
      if (isNews) this.#unheard.set(name.toString(), { key: name, value })
      else {
        this.#shadowed.set(name.toString(), { key: name, value: null })
        const { key: of } = found?.row.standing ?? {}
        if (of !== undefined) this.#shadowed.set(`${key.rule}/${of.text}`, shadowedStart(key.rule, of.text))
      }
      return
    }
    this.#unheard.delete(name.toString())
    this.#shadowed.delete(name.toString())
    if (known !== undefined) this.#rows.remove(known, rule)
    if (hasEnded) {
      this.#changes.hasSaidEnd(`${key.id}/${key.rule}`)
      const start = parseStart(end)
      if (start !== undefined) this.remember([start])
    }
    if (found === undefined) return
    this.#changes.goesOn(key.id, key.rule)
    const settle = settleOfRow(found.row, found.event)
    const { pos: wanted } = found.row
    const isFree = wanted !== undefined && this.#rows.isFree(wanted)
    const pos = isFree ? wanted : this.#place(settle.event.accepted)
    this.#rows.insert(pos, rule, settle)
    this.#rows.insertRow(pos, rule, found.row)
  }
}

/** What holds of it is to be said after what was handed over again: the word of its end may be gone with that. */
export function shadowedStart(rule: string, key: string): KeyValue {
  return { key: formatKey({ kind: 'start', rule, key }), value: null }
}
