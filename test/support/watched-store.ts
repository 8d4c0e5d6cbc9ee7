import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Store } from '../../src/store/store.ts'

/** A store, and whether anything that was asked of it is still under way. */
export interface WatchedStore {
  readonly store: Store
  /** `still` waits until this event, by its `meta.id`, is routed. */
  awaitRouting(metaId: string): void
  /**
   * Resolves when all that was handed in is durable, all that was asked for is answered, every event is routed, and nothing
   * more follows from that: whoever uses the store waits for a call or for its clock.
   */
  still(): Promise<void>
}

export function watched(store: Store): WatchedStore {
  let underWay = 0
  let begun = 0
  const unrouted = new Set<string>()
  const routed = new Set<string>()
  let wake = () => {}

  const begin = () => {
    underWay += 1
    begun += 1
  }
  const end = () => {
    underWay -= 1
    wake()
  }
  async function whole<Value>(answer: Promise<Value>): Promise<Value> {
    begin()
    try {
      return await answer
    } finally {
      end()
    }
  }
  const awaitRouting = (metaId: string) => {
    if (!routed.has(metaId)) unrouted.add(metaId)
  }

  const own: Pick<Store, 'append' | 'routed' | 'settle' | 'take' | 'deadLetters'> = {
    async append(events) {
      const refused = await whole(store.append(events))
      for (const { message } of events) awaitRouting(metaIdOf(message))
      return refused
    },
    routed(record, inMemory) {
      const metaId = metaIdOf(record.message)
      routed.add(metaId)
      unrouted.delete(metaId)
      store.routed(record, inMemory)
      wake()
    },
    settle(settlement, durable) {
      begin()
      store.settle(settlement, (...told) => {
        durable?.(...told)
        end()
      })
    },
    take: (...asked) => whole(store.take(...asked)),
    deadLetters: (filter) => whole(store.deadLetters(filter)),
  }
  const watching = new Proxy(store, {
    get(_, name) {
      const from = name in own ? own : store
      const value: unknown = Reflect.get(from, name, from)
      return typeof value === 'function' ? value.bind(from) : value
    },
  })

  return {
    store: watching,
    awaitRouting,
    async still() {
      for (;;) {
        while (underWay > 0 || unrouted.size > 0) {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
        const before = begun
        // What follows from an answer follows within its turn of the event loop.
        await nextTurn()
        await nextTurn()
        if (underWay === 0 && begun === before) return
      }
    },
  }
}

function metaIdOf(message: unknown): string {
  return (message as { meta: { id: string } }).meta.id
}
