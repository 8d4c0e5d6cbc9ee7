import { metaOf, parseMessage } from '../../event/event.ts'
import { type Lane, type WaitReason, waitReasons } from '../store.ts'
import { type Database, int, text } from './database.ts'
import { inBytes, type Name, type NameKind } from './format.ts'
import { parseLane } from './lane-name.ts'

/** The words behind small numbers, on the writer's side. */
export class Words {
  readonly #database: Database
  readonly #texts: Record<NameKind, Map<number, string>> = {
    rule: new Map(),
    lane: new Map(),
    stream: new Map(),
    revision: new Map(),
    reason: new Map(),
    outcome: new Map(),
  }

  constructor(database: Database) {
    this.#database = database
    for (const row of database.prepare('SELECT kind, id, text FROM names').all()) {
      const kind = text(row.kind)
      if (isKind(kind)) this.learn({ kind, id: int(row.id), text: text(row.text) })
    }
  }

  learn({ kind, id, text }: Name): void {
    this.#texts[kind].set(id, text)
  }

  of(kind: NameKind, id: number): string {
    const found = this.#texts[kind].get(id)
    if (found === undefined) throw new Error(`the store has no ${kind} number ${id}`)
    return found
  }

  /** Of an event: by its number, or as its own bytes say. */
  stream(id: number, payload: Uint8Array): string {
    return id === inBytes ? streamIn(payload) : this.of('stream', id)
  }

  /** Of a delivery that waits no more, the lane may be forgotten: it finds one anew from the ordinary lane of its rule. */
  laneOnceOf(rule: string, id: number): Lane {
    const found = this.#texts.lane.get(id)
    return found === undefined ? { rule, key: '' } : parseLane(found)
  }

  waitReason(id: number): WaitReason {
    const word = this.of('reason', id)
    const reason = waitReasons.find((known) => known === word)
    if (reason === undefined)
      throw new Error(`the store holds a delivery that waits for "${word}", which means nothing`)
    return reason
  }

  /** The number of a word, or undefined where it was never stored. */
  find(kind: NameKind, text: string): number | undefined {
    for (const [id, known] of this.#texts[kind]) if (known === text) return id
    return undefined
  }

  /** Within a transaction: the number of a word, new or not. */
  intern(kind: NameKind, text: string): number {
    const found = this.find(kind, text)
    if (found !== undefined) return found
    const id = Math.max(-1, ...this.ids(kind)) + 1
    this.#database.prepare('INSERT INTO names(kind, id, text) VALUES (?, ?, ?)').run(kind, id, text)
    this.learn({ kind, id, text })
    return id
  }

  forget(kind: NameKind, id: number): void {
    this.#texts[kind].delete(id)
  }

  ids(kind: NameKind): number[] {
    return [...this.#texts[kind].keys()]
  }

  all(): Name[] {
    return kinds.flatMap((kind) => [...this.#texts[kind]].map(([id, text]) => ({ kind, id, text })))
  }
}

const kinds: readonly NameKind[] = ['rule', 'lane', 'stream', 'revision', 'reason', 'outcome']

function isKind(kind: string): kind is NameKind {
  return kinds.some((known) => known === kind)
}

/** The stream of an event that was stored without its stream's name. */
export function streamIn(payload: Uint8Array): string {
  const stream = metaOf(parseMessage(payload))?.stream
  if (typeof stream !== 'string') throw new Error('the store holds an event that does not say which stream it is of')
  return stream
}
