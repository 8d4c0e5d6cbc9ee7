import { metaOf, type NewEvent } from '../../event/event.ts'
import type { Lane } from '../store.ts'
import { inBytes, type Name, type NameKind } from './format.ts'
import { formatLane, parseLane } from './lane-name.ts'

/** Streams with a name of their own. Producers may invent more; then the event's own bytes tell which it is of. */
const streamsNamed = 10_000
/** Lanes beyond so many are forgotten where no row is in them. */
const lanesKept = 20_000

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
  /** No number is given twice, also where names were forgotten: so the highest lane never is. */
  readonly #next: Record<NameKind, number> = { rule: 0, lane: 0, stream: 0, revision: 0, reason: 0, outcome: 0 }
  readonly #lanes = new Map<string, Map<string, number>>()
  readonly #streams: string[] = []
  readonly #rules: string[] = []
  #fresh: Name[] = []
  /** Lanes that the writer has been asked to forget, and that were not used since. */
  readonly #leaving = new Set<number>()

  constructor(names: readonly Name[]) {
    for (const { kind, id, text } of names) this.#learn(kind, text, id)
  }

  of(kind: NameKind, text: string): number {
    const found = this.#byKind[kind].get(text)
    if (found !== undefined) return found
    const id = this.#next[kind]
    this.#learn(kind, text, id)
    this.#fresh.push({ kind, id, text })
    return id
  }

  /** Of a word that somebody asks for; undefined where nothing has it. */
  find(kind: NameKind, text: string): number | undefined {
    return this.#byKind[kind].get(text)
  }

  ofStream({ stream, message }: NewEvent): number {
    const streams = this.#byKind.stream
    const isTold = streams.size >= streamsNamed && !streams.has(stream) && metaOf(message)?.stream === stream
    return isTold ? inBytes : this.of('stream', stream)
  }

  ofLane(lane: Lane): number {
    const id = this.#lanes.get(lane.rule)?.get(lane.key) ?? this.#findLane(lane)
    if (this.#leaving.delete(id)) this.#fresh.push({ kind: 'lane', id, text: formatLane(lane) })
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

  /**
   * Of the lanes that are too many, the oldest, at most so many; a rule's ordinary lane is none of them. The writer is to be
   * asked at once which of them it forgets: one that is used in between is stored anew with the group that uses it, which
   * comes to the writer after the question.
   */
  surplusLanes(limit: number): readonly number[] {
    const lanes = this.#byKind.lane
    const surplus = Math.min(limit, lanes.size - lanesKept)
    this.#leaving.clear()
    for (const [text, id] of lanes) {
      if (this.#leaving.size >= surplus) break
      if (id !== this.#next.lane - 1 && parseLane(text).key !== '') this.#leaving.add(id)
    }
    return [...this.#leaving]
  }

  /** What became of `asked`, the surplus lanes. Those that live are not asked of again before all others. */
  forgot(asked: readonly number[], forgotten: readonly number[]): void {
    const gone = new Set(forgotten)
    const wasAsked = new Set(asked)
    const lanes = this.#byKind.lane
    let left = asked.length
    for (const [text, id] of lanes) {
      if (left === 0) break
      if (!wasAsked.delete(id)) continue
      left -= 1
      lanes.delete(text)
      if (!gone.has(id) || !this.#leaving.has(id)) lanes.set(text, id)
      else this.#forgetLane(parseLane(text))
    }
    this.#leaving.clear()
  }

  #findLane(lane: Lane): number {
    const keys = this.#lanes.get(lane.rule) ?? new Map<string, number>()
    const id = this.of('lane', formatLane(lane))
    keys.set(lane.key, id)
    this.#lanes.set(lane.rule, keys)
    return id
  }

  #forgetLane({ rule, key }: Lane): void {
    const keys = this.#lanes.get(rule)
    keys?.delete(key)
    if (keys?.size === 0) this.#lanes.delete(rule)
  }

  #learn(kind: NameKind, text: string, id: number): void {
    this.#byKind[kind].set(text, id)
    this.#next[kind] = Math.max(this.#next[kind], id + 1)
    if (kind === 'stream') this.#streams[id] = text
    if (kind === 'rule') this.#rules[id] = text
  }
}

const none: readonly Name[] = []

function known(text: string | undefined, kind: NameKind, id: number): string {
  if (text === undefined) throw new Error(`the store has no ${kind} number ${id}`)
  return text
}
