import { int, text } from '../tables/database.ts'
import type { Numbers } from '../tables/numbers.ts'
import type { Words } from '../tables/words.ts'
import { type KeyValue, type Packed, pack, unpack } from './packed.ts'
import { type Fact, formatFact, formatKey, parseKey, type WorkKey } from './row.ts'
import type { Change, Told } from './shard-protocol.ts'
import type { ShardRows } from './shard-rows.ts'

const coversAtMost = 100
/** Deliveries that are known to have ended. */
const endedAtMost = 20_000

/** What the changelog and the journal have to be told of one partition: what its tables note as changed. */
export class ShardChanges {
  readonly #rows: ShardRows
  readonly #words: Words
  readonly #numbers: Numbers
  /**
   * Which deliveries ended last. Who has just taken over their source may not have heard of it yet, and hand them over, or begin
   * them, once more.
   */
  readonly #ended = new Set<string>()
  constructor(rows: ShardRows, words: Words, numbers: Numbers) {
    this.#rows = rows
    this.#words = words
    this.#numbers = numbers
  }

  /** Whether it is one of those that ended last. `id`: of its event. */
  hasEnded(id: string, rule: string): boolean {
    return this.#ended.has(`${id}/${rule}`)
  }

  /** What is noted so far came from the changelog itself, or it was told. */
  forget(): void {
    this.#rows.database.exec('DELETE FROM changed; DELETE FROM changed_starts; DELETE FROM changed_roots')
  }

  /** A row is told anew, where it is there. */
  note(pos: number, rule: number): void {
    this.#rows
      .prepare('INSERT OR IGNORE INTO changed(pos, rule) SELECT pos, rule FROM deliveries WHERE pos = ? AND rule = ?')
      .run(pos, rule)
  }

  /** What has changed of keys is told elsewhere. */
  forgetStarts(): void {
    this.#rows.database.exec('DELETE FROM changed_starts')
  }

  /** Whether the changelog has something of a key; and whether it will have from now on. */
  #hasFact(rule: number, key: string, willHave: boolean): boolean {
    const had = this.#rows.prepare('SELECT 1 FROM facts WHERE rule = ? AND key = ?').get(rule, key) !== undefined
    if (willHave && !had) this.#rows.prepare('INSERT INTO facts(rule, key) VALUES (?, ?)').run(rule, key)
    if (!willHave && had) this.#rows.prepare('DELETE FROM facts WHERE rule = ? AND key = ?').run(rule, key)
    return had
  }

  /** As the changelog has it, or of what never had a row. `id`: of the delivery. */
  hasSaidEnd(id: string): void {
    this.#remember(id)
  }

  /** It goes on after all: somebody reopened it. */
  goesOn(id: string, rule: string): void {
    this.#ended.delete(`${id}/${rule}`)
  }

  /**
   * What the changelog and the journal have to be told. What is done leaves no row, and what is only taken away from here has
   * not ended.
   */
  take(areTakenAway = false): Pick<Change, 'records' | 'roots' | 'told'> {
    const records: KeyValue[] = []
    const roots: KeyValue[] = []
    const told: Told[] = []
    this.#rows.transaction(() => {
      for (const { rule, key } of this.#rows.prepare('SELECT rule, key FROM changed_starts').all()) {
        const fact: WorkKey = { kind: 'start', rule: this.#words.of('rule', int(rule)), key: text(key) }
        const value = this.#valueOf(fact)
        const hadFact = this.#hasFact(int(rule), text(key), value !== null)
        // Of what the keys topic alone has there is nothing to take back.
        if (value !== null || hadFact) records.push({ key: formatKey(fact), value })
      }
      const covering = new Map<number, { rule: number; ids: string[] }>()
      const rows: KeyValue[] = []
      const done: [pos: number, rule: number][] = []
      const tell = (pos: number, rule: number) => {
        const row = this.#rows.read(pos, rule)
        const { settle, event, metaId, earlierAttempts, coveredBy } = row
        const { state, reason, revision, at, until, attempts } = settle
        const name = settle.lane.rule
        const isDone = state === 'done'
        told.push({
          event,
          metaId,
          rule: name,
          revision,
          state,
          reason,
          at,
          until: state === 'waiting' && until !== Number.POSITIVE_INFINITY ? until : null,
          attempts,
          earlierAttempts,
          coveredBy: coveredBy === undefined ? undefined : this.#rows.deliveryIdAt(coveredBy, name),
        })
        if (coveredBy !== undefined) {
          const covers = covering.get(coveredBy) ?? { rule, ids: [] }
          covers.ids.push(`${event.id}/${name}`)
          covering.set(coveredBy, covers)
        }
        if (isDone) {
          done.push([pos, rule])
          if (!areTakenAway) this.#remember(`${event.id}/${name}`)
        }
        const key = formatKey({ kind: 'delivery', id: event.id, rule: name })
        rows.push({ key, value: isDone ? null : this.#rows.format(pos, rule, row) })
      }
      for (const { pos, rule } of this.#rows.prepare('SELECT pos, rule FROM changed ORDER BY pos').all())
        tell(int(pos), int(rule))
      for (const [pos, { rule, ids }] of covering) {
        const starter = this.#rows.starterAt(pos)
        if (starter === undefined) continue
        const covers = { count: ids.length, ids: ids.slice(0, coversAtMost) }
        told.push({ ...starter, rule: this.#words.of('rule', rule), covers })
      }
      for (const [pos, rule] of done) this.#rows.remove(pos, rule)
      records.push(...rows)
      for (const root of this.#rows.prepare('SELECT rule, signature, time FROM changed_roots').all()) {
        const rule = this.#words.of('rule', int(root.rule))
        const fact: WorkKey = { kind: 'root', rule, signature: text(root.signature), time: int(root.time) }
        roots.push({ key: formatKey(fact), value: this.#valueOf(fact) })
      }
      this.forget()
    })
    return { records: pack([...records, ...roots]), roots: pack(roots), told }
  }

  #remember(ended: string): void {
    this.#ended.add(ended)
    if (this.#ended.size <= endedAtMost) return
    for (const oldest of this.#ended) {
      this.#ended.delete(oldest)
      return
    }
  }

  /** What holds of these keys. */
  reassert(keys: Packed): Packed {
    return pack(
      unpack(keys).flatMap(({ key }) => {
        const parsed = parseKey(key)
        if (parsed === undefined || parsed.kind === 'owner') return []
        const value = this.#valueOf(parsed)
        if (parsed.kind === 'start') this.#hasFact(this.#numbers.of('rule', parsed.rule), parsed.key, value !== null)
        return [{ key, value }]
      }),
    )
  }

  #valueOf(key: Exclude<WorkKey, { kind: 'owner' }>): Buffer | null {
    const rule = this.#numbers.of('rule', key.rule)
    this.#rows.learn()
    if (key.kind === 'delivery') {
      const pos = this.#rows.find(key.id, rule)
      return pos === undefined ? null : this.#rows.format(pos, rule, this.#rows.read(pos, rule))
    }
    if (key.kind === 'root') {
      const row = this.#rows
        .prepare('SELECT alive, expires FROM roots WHERE rule = ? AND signature = ? AND time = ?')
        .get(rule, key.signature, key.time)
      return row === undefined ? null : formatFact([int(row.alive), int(row.expires)])
    }
    const row = this.#rows
      .prepare('SELECT pos, at, ok_pos, ok_h, ok_at, expires FROM starts WHERE rule = ? AND key = ?')
      .get(rule, key.key)
    if (row === undefined) return null
    const starters: [pos: number, starter: string][] = []
    for (const pos of row.pos === row.ok_pos ? [row.pos] : [row.pos, row.ok_pos]) {
      if (typeof pos !== 'number') continue
      const starter = this.#rows.keptStarter(pos, rule, key.key)
      if (starter !== undefined) starters.push([pos, starter])
    }
    const numbers = [row.pos, row.at, row.ok_pos, row.ok_h, row.ok_at, row.expires]
    return formatFact(
      numbers.map((value) => (typeof value === 'number' ? value : null)),
      starters,
    )
  }

  /** What an owner before us told of a key or a root event; undefined: that it is forgotten. */
  replayFact(key: Exclude<WorkKey, { kind: 'owner' | 'delivery' }>, rule: number, fact: Fact | undefined): void {
    const { kind } = key
    if (kind === 'start') this.#hasFact(rule, key.key, fact !== undefined)
    const name = kind === 'start' ? [rule, key.key] : [rule, key.signature, key.time]
    if (fact === undefined) {
      const where =
        kind === 'start' ? 'starts WHERE rule = ? AND key = ?' : 'roots WHERE rule = ? AND signature = ? AND time = ?'
      this.#rows.prepare(`DELETE FROM ${where}`).run(...name)
      return
    }
    const columns =
      kind === 'start'
        ? 'starts(rule, key, pos, at, ok_pos, ok_h, ok_at, expires)'
        : 'roots(rule, signature, time, alive, expires)'
    const values = [...name, ...fact.numbers]
    this.#rows.prepare(`INSERT OR REPLACE INTO ${columns} VALUES (${values.map(() => '?').join(', ')})`).run(...values)
    if (kind === 'root') return
    for (const [pos, starter] of fact.starters ?? [])
      this.#rows.keepStarter(pos, rule, key.key, JSON.stringify(starter))
  }
}
