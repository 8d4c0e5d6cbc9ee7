import { randomUUID } from 'node:crypto'
import type { Clock } from '../../base/clock.ts'
import { givenIdOf, type StreamRecord } from '../../event/event.ts'
import type { Key, Settlement, Standing } from '../store.ts'
import { KafkaRecord, type Owned } from './kafka-record.ts'
import type { Heard } from './on-the-way.ts'
import { type Part, ruleKeyOf } from './part.ts'
import { partitionOf } from './partition.ts'
import { markKey, withinRule } from './row.ts'
import type { ShardThread } from './shard-protocol.ts'
import { firstPlaceOf } from './shard-rows.ts'
import type { Topics } from './topics.ts'
import type { Writer } from './writer.ts'

export interface HomesParts {
  readonly topics: Topics
  readonly partitions: number
  readonly clock: Clock
  readonly thread: ShardThread
  readonly writer: Writer
  /** Those that are ours, by partition. */
  readonly owned: ReadonlyMap<number, Part>
  readonly heard: Heard
  broken(error: unknown): undefined
}

/** Where keys and confined rules are at home, and whether keys are free there. */
export class Homes {
  readonly #parts: HomesParts
  /** By which the thread knows rules; undefined until it has said it. */
  readonly #numbers = new Map<string, number | undefined>()
  /** Rules that are at home in one partition each, with all their keys. */
  #confined: ReadonlySet<string> = new Set()

  constructor(parts: HomesParts) {
    this.#parts = parts
  }

  /**
   * As the store's. Divided, a limit below the number of partitions could be exceeded, since each process has at least one call;
   * so it is not divided, however many processes there are: homes are not to change as they come and go.
   */
  confine(limits: ReadonlyMap<string, number>): ReadonlySet<string> {
    const { partitions } = this.#parts
    this.#confined = new Set([...limits].flatMap(([rule, limit]) => (limit < partitions ? [rule] : [])))
    return this.#confined
  }

  /** Events of a stream whose partitions go by the same key are at home where they are read, and so is what has no key. */
  placeOf(rule: string, standing: Settlement['standing'], record: KafkaRecord): number {
    const text = this.#confined.has(rule) ? rule : keyTextOf(standing)
    return text === undefined ? record.owned.partition : partitionOf(text, this.#parts.partitions)
  }

  /** Where all of its key meet, if that is ours, and none of them is on its way there. */
  of(rule: string, standing: Standing, record: KafkaRecord): Part | undefined {
    const part = this.#parts.owned.get(this.placeOf(rule, standing, record))
    if (part?.isReady !== true) return undefined
    // What is handed over is read in order.
    if (record.rule !== undefined && part === record.owned) return part
    if (part.onTheWay.has(ruleKeyOf(rule, standing))) return undefined
    return this.#isCaughtUp(part, record.owned) ? part : undefined
  }

  /** Sources that fall to it are about to be read, which may have been others' until now: it is asked ahead. */
  ask(partition: number): void {
    const own = this.#parts.owned.get(partition)
    if (own?.isReady !== true) return
    for (const other of this.#parts.owned.values()) {
      if (!other.isReady) continue
      other.isCaughtUp.delete(own)
      this.#isCaughtUp(other, own)
      this.#isCaughtUp(own, other)
    }
  }

  /**
   * Whether nothing that an owner of the source before us has handed over is on its way there, be it from there to the part of
   * the work that goes with it; asks, where that is not known.
   */
  #isCaughtUp(part: Part, source: Owned): boolean {
    const known = part.isCaughtUp.get(source)
    if (known !== undefined) return known === true
    // The offsets of what they had handed over were finished before what is read now was given out: so this comes after it.
    const mark = randomUUID()
    part.isCaughtUp.set(source, mark)
    part.marks.set(mark, () => {
      if (part.isCaughtUp.get(source) === mark) part.isCaughtUp.set(source, true)
    })
    const { topics, writer } = this.#parts
    const record = { topic: topics.handed, partition: part.partition, key: markKey, value: Buffer.from(mark) }
    writer.write([record], () => undefined)
    return false
  }

  /** As the store's: where its key, or its rule, is at home is not ours, or not yet. */
  isElsewhere(record: KafkaRecord, rule: string, standing: Standing | undefined): boolean {
    if (standing === undefined && !this.#confined.has(rule)) return false
    return this.#parts.owned.get(this.placeOf(rule, standing, record))?.isReady !== true
  }

  /** As the store's. */
  isKeyFree(record: StreamRecord, rule: string, key: Key): boolean {
    if (!(record instanceof KafkaRecord) || record.source === undefined || record.owned.isLost) return false
    const home = this.of(rule, { key }, record)
    const number = this.#numberOf(rule)
    if (home?.tables === undefined || number === undefined) return false
    const isHanded = record.rule !== undefined
    if (!isHanded && this.#parts.heard.has(`${record.id}/${rule}`)) return false
    // Whoever reads a stream was told which rows of it there are in its own part.
    if ((isHanded || home !== record.owned) && home.tables.has(record.id, number)) return false
    const metaId = () => givenIdOf(record)
    const candidate = { pos: firstPlaceOf(record.accepted), metaId, now: this.#parts.clock.now() }
    return home.tables.isKeyFree(number, key, candidate)
  }

  #numberOf(rule: string): number | undefined {
    const { thread, broken } = this.#parts
    if (!this.#numbers.has(rule)) {
      this.#numbers.set(rule, undefined)
      thread.ask('numberOf', { rule }).then((number) => this.#numbers.set(rule, number), broken)
    }
    return this.#numbers.get(rule)
  }
}

function keyTextOf(standing: Settlement['standing']): string | undefined {
  const text = standing?.key?.text ?? standing?.root?.signature
  return text === undefined ? undefined : withinRule(text)
}
