import { type WaitReason, waitReasons } from '../store.ts'
import { type Database, int, text } from './database.ts'
import type { Name, NameKind } from './protocol.ts'

/** The words behind small numbers, on the writer's side. */
export class Words {
  readonly #database: Database
  readonly #texts = new Map<NameKind, string[]>()

  constructor(database: Database) {
    this.#database = database
    for (const row of database.prepare('SELECT kind, id, text FROM names').all()) {
      const kind = text(row.kind)
      if (isKind(kind)) this.learn({ kind, id: int(row.id), text: text(row.text) })
    }
  }

  learn({ kind, id, text }: Name): void {
    const texts = this.#texts.get(kind) ?? []
    texts[id] = text
    this.#texts.set(kind, texts)
  }

  of(kind: NameKind, id: number): string {
    const found = this.#texts.get(kind)?.[id]
    if (found === undefined) throw new Error(`the store has no ${kind} number ${id}`)
    return found
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
    const id = this.#texts.get(kind)?.indexOf(text) ?? -1
    return id < 0 ? undefined : id
  }

  /** Within a transaction: the number of a word, new or not. */
  intern(kind: NameKind, text: string): number {
    const found = this.find(kind, text)
    if (found !== undefined) return found
    const id = this.#texts.get(kind)?.length ?? 0
    this.#database.prepare('INSERT INTO names(kind, id, text) VALUES (?, ?, ?)').run(kind, id, text)
    this.learn({ kind, id, text })
    return id
  }

  ids(kind: NameKind): number[] {
    return [...(this.#texts.get(kind) ?? []).keys()]
  }

  all(): Name[] {
    return [...this.#texts].flatMap(([kind, texts]) => texts.map((text, id) => ({ kind, id, text })))
  }
}

const kinds: readonly NameKind[] = ['rule', 'lane', 'stream', 'revision', 'reason', 'outcome']

function isKind(kind: string): kind is NameKind {
  return kinds.some((known) => known === kind)
}
