import { expect, test } from 'vitest'
import { readLetters } from '../../src/store/kafka/letters.ts'
import type { Reader } from '../../src/store/kafka/reader.ts'
import { formatKey, formatRow, type WorkRow } from '../../src/store/kafka/row.ts'
import { noProgress } from '../../src/store/store.ts'

const rule = 'call'

/** Of a partition with so many dead letters. */
function readerOf(count: number): Reader {
  const messages = Array.from({ length: count }, (_, offset) => {
    const id = `event-${offset}`
    const row: WorkRow = {
      ...{ id, rule, lane: '', stream: 'page', accepted: 1, origin: ['page', 0, offset], pos: offset },
      ...{ state: 'dead', reason: 'refused', until: null, at: 1, revision: '', progress: noProgress },
      ...{ claimed: false, attempts: [] },
    }
    const value = formatRow(row, Buffer.from('{}'))
    const key = formatKey({ kind: 'delivery', id, rule })
    return { offset: String(offset), timestamp: '1', key, value, headers: {}, isControlRecord: false }
  })
  const reader: Pick<Reader, 'readToEnd' | 'one'> = {
    readToEnd: async (_topic, _partition, _from, received) => received(messages, messages.length, messages.length),
    one: async (_topic, _partition, offset, found) => {
      const { value } = messages[offset] ?? {}
      if (value !== undefined) found(value, 1)
    },
  }
  return reader as Reader
}

test('dead letters for which a page has no room left come with the next', async () => {
  const all = { rule: undefined, ids: undefined }
  const none = await readLetters(readerOf(3), 'work', 0, { ...all, limit: 0, after: -1 })
  expect(none).toEqual({ letters: [], after: -1 })
  const page = await readLetters(readerOf(3), 'work', 0, { ...all, limit: 2, after: -1 })
  expect(page.letters.map(({ eventId }) => eventId)).toEqual(['event-0', 'event-1'])
  const rest = await readLetters(readerOf(3), 'work', 0, { ...all, limit: 2, after: page.after ?? -1 })
  expect(rest.letters.map(({ eventId }) => eventId)).toEqual(['event-2'])
  expect(rest.after).toBeUndefined()
})
