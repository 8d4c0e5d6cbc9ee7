import { randomUUID } from 'node:crypto'
import type { Service } from '../support/service.ts'
import type { Random } from './random.ts'

const posters = 8
const largestArray = 50

/** Posts events as producers do that never ask twice: what was not acknowledged is not posted again. */
export interface Feed {
  /** `meta.id` of each event that was answered 201. */
  readonly acknowledged: ReadonlySet<string>
  /** Events whose post was cut off, or refused with a 503; they may have been stored or not. */
  readonly unacknowledged: number
  /** Posts `count` new events, singles and arrays mixed; while the service is `down` it waits. */
  post(count: number): Promise<void>
  /** Posters begin nothing until `up`. */
  down(): void
  up(): void
}

export function createFeed(service: Service, stream: string, random: Random): Feed {
  const acknowledged = new Set<string>()
  let unacknowledged = 0
  let open = Promise.resolve()
  let reopen: (() => void) | undefined

  const postOne = async (ids: readonly string[]): Promise<void> => {
    const events = ids.map((id) => ({
      $schema: '/test/killed/1.0.0',
      meta: { stream, id, dt: new Date().toISOString(), domain: 'wiki.example' },
      page_title: `Page ${id}`,
    }))
    const status = await service.post(ids.length === 1 ? events[0] : events).then(
      (answer) => answer.status,
      // No answer: the process died under it.
      () => 0,
    )
    if (status === 201) for (const id of ids) acknowledged.add(id)
    else if (status === 0 || status === 503) unacknowledged += ids.length
    else throw new Error(`good events were answered ${status}`)
  }

  return {
    acknowledged,
    get unacknowledged() {
      return unacknowledged
    },
    async post(count) {
      const batches: string[][] = []
      for (let left = count; left > 0; ) {
        const size = random.chance(0.5) ? 1 : random.between(2, largestArray + 1)
        batches.push(Array.from({ length: Math.min(size, left) }, () => randomUUID()))
        left -= size
      }
      const poster = async () => {
        for (let batch = batches.pop(); batch !== undefined; batch = batches.pop()) {
          await open
          await postOne(batch)
        }
      }
      await Promise.all(Array.from({ length: posters }, poster))
    },
    down() {
      if (reopen !== undefined) return
      open = new Promise((resolve) => {
        reopen = resolve
      })
    },
    up() {
      reopen?.()
      reopen = undefined
    },
  }
}
