import { givenIdOf } from '../../event/event.ts'
import type { Settlement } from '../store.ts'
import { formatJournal } from './journal.ts'
import type { KafkaRecord } from './kafka-record.ts'
import type { Told } from './shard-protocol.ts'
import type { Writer } from './writer.ts'

export interface RowlessParts {
  readonly journal: string
  readonly partitions: number
  readonly writer: Writer
}

/**
 * What ends without ever having had a row is told to the journal, and nowhere else: together, one write after another, so that
 * all that ended during one is told in the next.
 */
export class Rowless {
  readonly #parts: RowlessParts
  #untold: { readonly told: Told; readonly done: () => void }[] = []
  #isTelling = false

  constructor(parts: RowlessParts) {
    this.#parts = parts
  }

  /** `done` is called when it is written. */
  ended(settlement: Settlement, record: KafkaRecord, done: () => void): void {
    this.#untold.push({ told: toldOf(settlement, record), done })
    if (this.#isTelling) return
    this.#isTelling = true
    setImmediate(() => this.#tell(() => this.#tellOn()))
  }

  /** Hands all that has ended so far to the writer. */
  flush(): void {
    this.#tell(() => undefined)
  }

  #tellOn(): void {
    if (this.#untold.length > 0) this.#tell(() => this.#tellOn())
    else this.#isTelling = false
  }

  #tell(then: () => void): void {
    const all = this.#untold
    this.#untold = []
    const { journal, partitions, writer } = this.#parts
    const told = all.map((one) => one.told)
    writer.write(formatJournal(journal, partitions, told), () => {
      for (const { done } of all) done()
      then()
    })
  }
}

export function toldOf({ lane, revision, state, reason, at, attempts }: Settlement, record: KafkaRecord): Told {
  const { id, stream, accepted, origin } = record
  return {
    event: { id, stream, accepted, origin },
    metaId: givenIdOf(record),
    rule: lane.rule,
    revision,
    state,
    reason,
    at,
    until: null,
    attempts,
    coveredBy: undefined,
  }
}
