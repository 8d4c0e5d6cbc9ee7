import { expect, test } from 'vitest'
import { formatJournal } from '../../src/store/kafka/journal.ts'
import type { Told } from '../../src/store/kafka/shard-protocol.ts'

test('what is told at once takes as many records as it needs, and all of it is there, in order', () => {
  const told = Array.from({ length: 5_000 }, (_, n): Told => {
    const event = { id: `event-${n}`, stream: 'page', accepted: 1, origin: ['page', 0, n] as const }
    return { event, metaId: undefined, rule: 'call', covers: { count: 1, ids: [`${n}`.repeat(20)] } }
  })
  const records = formatJournal('journal', 3, told)
  const lines = records.flatMap(({ value }) => (value ?? '').toString().split('\n'))

  expect(Math.max(...records.map(({ value }) => value?.length ?? 0))).toBeLessThan(200_000)
  expect(records.length).toBeGreaterThan(3)
  for (const partition of [0, 1, 2]) {
    const numbers = records
      .filter((record) => record.partition === partition)
      .flatMap(({ value }) => (value ?? '').toString().split('\n'))
      .map((line) => (JSON.parse(line) as Told).event.origin[2])
    expect(numbers).toEqual([...numbers].sort((a, b) => a - b))
  }
  expect(new Set(lines.map((line) => (JSON.parse(line) as Told).event.id)).size).toBe(5_000)
})
