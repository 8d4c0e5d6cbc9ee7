import type { NewEvent } from '../../src/event/event.ts'
import type {
  DeadLetter,
  DeliveryEntry,
  DeliveryFilter,
  EventEntry,
  RefusedEvent,
  Store,
  StoreHealth,
} from '../../src/store/store.ts'

export const healthy: StoreHealth = {
  accepting: true,
  writable: true,
  trouble: undefined,
  warnings: [],
  bytes: 0,
  deadBytes: 0,
}

/** What the API asks of a store, kept in memory: what was appended, and answers that a test lays down. */
export class RecordingStore implements Pick<Store, 'append' | 'health' | 'find' | 'deliveries' | 'deadLetters'> {
  readonly appended: NewEvent[] = []
  /** Requests that were stored, by their number of events. */
  readonly batches: number[] = []
  entries: readonly EventEntry[] = []
  dead: readonly DeadLetter[] = []
  state: StoreHealth = healthy
  /** Called before anything is kept; may reject, or wait. */
  beforeAppend: () => Promise<void> = async () => {}
  /** What the store will not take. */
  refusal: (event: NewEvent) => RefusedEvent | undefined = () => undefined
  readonly asked: unknown[] = []

  /** What was appended, as text. */
  get texts(): string[] {
    return this.appended.map(({ bytes }) => Buffer.from(bytes).toString('utf8'))
  }

  async append(events: readonly NewEvent[]): Promise<readonly RefusedEvent[]> {
    await this.beforeAppend()
    const refused = events.flatMap((event) => this.refusal(event) ?? [])
    this.appended.push(...events.filter((event) => !refused.some((one) => one.event === event)))
    this.batches.push(events.length)
    return refused
  }

  health(): StoreHealth {
    return this.state
  }

  async find(id: string): Promise<readonly EventEntry[]> {
    return this.entries.filter(({ record, metaId }) => record.id === id || metaId === id)
  }

  async deliveries(filter: DeliveryFilter): Promise<{ items: readonly DeliveryEntry[]; cursor: string | undefined }> {
    this.asked.push(filter)
    const all = this.entries.flatMap(({ deliveries }) => deliveries)
    return {
      items: all.filter(({ rule, state }) => rule === (filter.rule ?? rule) && state === (filter.state ?? state)),
      cursor: 'more',
    }
  }

  async deadLetters(filter: { rule?: string; ids?: readonly string[] }): Promise<{
    items: readonly DeadLetter[]
    cursor: string | undefined
  }> {
    this.asked.push(filter)
    const items = this.dead.filter(
      ({ id, rule }) => rule === (filter.rule ?? rule) && (filter.ids?.includes(id) ?? true),
    )
    return { items, cursor: undefined }
  }
}
