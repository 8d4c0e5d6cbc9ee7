import { metaOf, type NewEvent, type StreamRecord } from '../../event/event.ts'
import type { Durable, Running, Settlement } from '../store.ts'
import { hashId } from '../tables/event-id.ts'
import {
  absent,
  dead,
  done,
  type Extra,
  eventWidth,
  flagAttempted,
  flagClaimed,
  never,
  parked,
  running,
  settleWidth,
  waiting,
} from '../tables/format.ts'
import type { Numbers } from '../tables/numbers.ts'
import { keyedLane } from './recovery.ts'

/** Events handed in together; stored all or none. */
export interface PendingAppend {
  readonly events: readonly NewEvent[]
  readonly accepted: number
  readonly bytes: number
  stored(): void
  refused(error: Error): void
}

/** A decision on its way to the disk. */
export interface PendingSettle {
  readonly settlement: Settlement
  readonly pos: number
  readonly durable: Durable | undefined
}

const states = { waiting, running, done, dead } as const
/** More are not told: nobody has so many calls in flight, and it bounds what each commit writes. */
const runningAtMost = 4_096

/** All payloads in one buffer, which is then transferred: views of a larger buffer would be cloned with the whole of it. */
export function packEvents(
  appends: readonly PendingAppend[],
  numbers: Numbers,
): { readonly events: Float64Array<ArrayBuffer>; readonly payloads: ArrayBuffer } {
  let count = 0
  let bytes = 0
  for (const append of appends) {
    count += append.events.length
    bytes += append.bytes
  }
  const events = new Float64Array(count * eventWidth)
  const payloads = new Uint8Array(bytes)
  let at = 0
  let offset = 0
  for (const { events: group, accepted } of appends) {
    for (const event of group) {
      const id = metaOf(event.message)?.id
      events[at] = typeof id === 'string' ? hashId(id) : 0
      events[at + 1] = numbers.ofStream(event)
      events[at + 2] = accepted
      events[at + 3] = event.bytes.length
      payloads.set(event.bytes, offset)
      offset += event.bytes.length
      at += eventWidth
    }
  }
  return { events, payloads: payloads.buffer }
}

/** Numbers for what every settlement has; a side list for what few have. */
export function packSettles(
  pending: readonly PendingSettle[],
  numbers: Numbers,
): { readonly settles: Float64Array<ArrayBuffer>; readonly extras: readonly Extra[] } {
  const settles = new Float64Array(pending.length * settleWidth)
  const extras: Extra[] = []
  let at = 0
  for (const { settlement, pos } of pending) {
    const { lane, state, reason, until, progress, attempts } = settlement
    const number = reason === 'parked' ? parked : states[state]
    settles[at] = pos
    settles[at + 1] = numbers.of('rule', lane.rule)
    settles[at + 2] = numbers.ofLane(lane)
    settles[at + 3] = number
    settles[at + 4] = numbers.of('reason', reason)
    settles[at + 5] = state === 'waiting' ? Math.min(until, never) : absent
    settles[at + 6] = settlement.at
    settles[at + 7] = numbers.of('revision', settlement.revision)
    settles[at + 8] = progress.failures
    settles[at + 9] = progress.firstAttemptAt
    settles[at + 10] = progress.finished
    settles[at + 11] = progress.refused
    settles[at + 12] = (settlement.claimed ? flagClaimed : 0) + (attempts.length > 0 ? flagAttempted : 0)
    const last = attempts[0]
    const fitsRow =
      state === 'done' && attempts.length === 1 && last?.outcome === 'ok' && last.request === 0 && last.note === ''
    settles[at + 13] = fitsRow ? last.at : absent
    settles[at + 14] = fitsRow ? last.ms : absent
    settles[at + 15] = fitsRow ? last.status : absent
    const hasMore = settlement.standing !== undefined || progress.more !== undefined
    if ((attempts.length > 0 && !fitsRow) || number === dead || number === parked || hasMore) {
      extras.push(extraOf(at / settleWidth, settlement, fitsRow, numbers))
    }
    at += settleWidth
  }
  return { settles, extras }
}

/** Pairs of position and lane; of what has a key, what `keyedLane` makes of the lane. */
export function packRunning(
  list: Iterable<Running>,
  positionOf: (record: StreamRecord) => number,
  numbers: Numbers,
): Float64Array<ArrayBuffer> {
  const pairs: number[] = []
  for (const { lane, record, standing } of list) {
    if (pairs.length >= runningAtMost * 2) break
    const number = numbers.ofLane(lane)
    pairs.push(positionOf(record), standing?.key === undefined ? number : keyedLane(number))
  }
  return new Float64Array(pairs)
}

function extraOf(index: number, settlement: Settlement, fitsRow: boolean, numbers: Numbers): Extra {
  const { record, attempts, answer, standing, progress } = settlement
  const entries = fitsRow ? [] : attempts.map((entry) => ({ ...entry, outcome: numbers.of('outcome', entry.outcome) }))
  const answerBytes =
    answer === undefined ? 0 : answer.body.length + (answer.error?.length ?? 0) + answer.request.length + 256
  const more = progress.more === undefined ? undefined : JSON.stringify(progress.more)
  return { index, attempts: entries, bytes: record.bytes.length + answerBytes, answer, standing, more }
}
