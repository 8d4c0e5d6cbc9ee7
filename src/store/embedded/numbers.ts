import type { Lane } from '../store.ts'
import { formatLane } from './lane-name.ts'
import type { Name, NameKind } from './protocol.ts'

/** The numbers of words that repeat, on the service's side. A new one is stored with the group that first uses it. */
export class Numbers {
  readonly #byKind: Record<NameKind, Map<string, number>> = {
    rule: new Map(),
    lane: new Map(),
    stream: new Map(),
    revision: new Map(),
    reason: new Map(),
    outcome: new Map(),
  }
  readonly #lanes = new Map<string, Map<string, number>>()
  readonly #streams: string[] = []
  readonly #rules: string[] = []
  #fresh: Name[] = []

  constructor(names: readonly Name[]) {
    for (const { kind, id, text } of names) this.#learn(kind, text, id)
  }

  of(kind: NameKind, text: string): number {
    const found = this.#byKind[kind].get(text)
    if (found !== undefined) return found
    const id = this.#byKind[kind].size
    this.#learn(kind, text, id)
    this.#fresh.push({ kind, id, text })
    return id
  }

  ofLane(lane: Lane): number {
    const found = this.#lanes.get(lane.rule)?.get(lane.key)
    if (found !== undefined) return found
    const keys = this.#lanes.get(lane.rule) ?? new Map<string, number>()
    const id = this.of('lane', formatLane(lane))
    keys.set(lane.key, id)
    this.#lanes.set(lane.rule, keys)
    return id
  }

  stream(id: number): string {
    return known(this.#streams[id], 'stream', id)
  }

  rule(id: number): string {
    return known(this.#rules[id], 'rule', id)
  }

  /** New words, once. */
  takeFresh(): readonly Name[] {
    if (this.#fresh.length === 0) return none
    const fresh = this.#fresh
    this.#fresh = []
    return fresh
  }

  #learn(kind: NameKind, text: string, id: number): void {
    this.#byKind[kind].set(text, id)
    if (kind === 'stream') this.#streams[id] = text
    if (kind === 'rule') this.#rules[id] = text
  }
}

const none: readonly Name[] = []

function known(text: string | undefined, kind: NameKind, id: number): string {
  if (text === undefined) throw new Error(`the store has no ${kind} number ${id}`)
  return text
}
