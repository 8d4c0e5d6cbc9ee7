import { metaIdOf } from '../../event/event.ts'
import type { DeadLetter } from '../store.ts'
import { KafkaRecord } from './kafka-record.ts'
import type { Reader } from './reader.ts'
import { parseKey, parseRow, type WorkRow } from './row.ts'

const bytesAtOnce = 8_388_608

export interface LettersOf {
  readonly rule: string | undefined
  readonly ids: readonly string[] | undefined
  readonly limit: number
  /** A place; only those beyond it. */
  readonly after: number
}

interface Place {
  readonly pos: number
  readonly offset: number
}

/**
 * Dead letters and parked deliveries of a partition that another process owns, oldest first, as the work topic tells it: all
 * of the partition is read for each page. `after` comes back where there are more.
 */
export async function readLetters(
  reader: Reader,
  topic: string,
  partition: number,
  { rule, ids, limit, after }: LettersOf,
): Promise<{ readonly letters: readonly DeadLetter[]; readonly after: number | undefined }> {
  const wanted = ids === undefined ? undefined : new Set(ids)
  const places = new Map<string, Place>()
  await reader.readToEnd(topic, partition, 0, (messages) => {
    for (const { key, value, offset } of messages) {
      const parsed = key === null ? undefined : parseKey(key)
      if (parsed?.kind !== 'delivery') continue
      const id = `${parsed.id}/${parsed.rule}`
      if ((wanted !== undefined && !wanted.has(id)) || (rule !== undefined && parsed.rule !== rule)) continue
      const row = value === null ? undefined : parseRow(value)?.row
      if (row?.pos !== undefined && isLetter(row)) places.set(id, { pos: row.pos, offset: Number(offset) })
      // What another process hands over is not the owner's word yet.
      else if (value === null || row?.pos !== undefined) places.delete(id)
    }
  })
  const ordered = [...places.values()].filter(({ pos }) => pos > after).sort((a, b) => a.pos - b.pos)
  const letters: DeadLetter[] = []
  let bytes = 0
  for (const [index, { offset }] of ordered.entries()) {
    if (letters.length === limit || bytes >= bytesAtOnce) return { letters, after: ordered[index - 1]?.pos ?? after }
    await reader.one(topic, partition, offset, (value) => {
      const found = parseRow(value)
      if (found === undefined) return
      bytes += value.length
      letters.push(letterOf(found.row, Uint8Array.from(found.event), partition))
    })
  }
  return { letters, after: undefined }
}

function isLetter({ state, reason }: WorkRow): boolean {
  return state === 'dead' || reason === 'parked'
}

function letterOf(row: WorkRow, bytes: Uint8Array, partition: number): DeadLetter {
  const {
    id,
    rule,
    lane,
    stream,
    accepted,
    origin,
    revision,
    state,
    reason,
    at,
    progress,
    attempts,
    earlierAttempts = 0,
  } = row
  const record = new KafkaRecord({ id, stream, accepted, origin }, bytes, { partition, isLost: false })
  return {
    id: `${id}/${rule}`,
    rule,
    revision,
    state,
    reason,
    at,
    next: null,
    attempts,
    earlierAttempts,
    eventId: id,
    metaId: metaIdOf(bytes),
    stream,
    accepted,
    coveredBy: undefined,
    covers: { count: 0, ids: [] },
    lane: { rule, key: lane },
    record,
    progress,
    answer: row.answer,
    standing: row.standing,
  }
}
