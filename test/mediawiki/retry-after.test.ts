import { expect, test } from 'vitest'
import { retryAfterMs } from '../../src/mediawiki/retry-after.ts'

const now = Date.UTC(2026, 10, 24, 8, 49, 37)

test.each([
  ['0', 0],
  ['5', 5_000],
  [' 120 ', 120_000],
  ['5, 60', 5_000],
  ['Tue, 24 Nov 2026 08:50:37 GMT', 60_000],
  ['Tuesday, 24-Nov-26 08:50:37 GMT', 60_000],
  ['Tue Nov 24 08:50:37 2026', 60_000],
  ['Tue, 24 Nov 2026 08:49:00 GMT', 0],
])('%j asks for %d ms', (value, ms) => {
  expect(retryAfterMs({ 'retry-after': value }, now)).toBe(ms)
})

test.each(['', '-5', '1.5', '5s', 'soon', 'page 7', '2026-11-24T08:50:37Z', 'Tue, 99 Nov 2026 08:50:37 GMT'])(
  '%j asks for nothing that can be read',
  (value) => {
    expect(retryAfterMs({ 'retry-after': value }, now)).toBeUndefined()
  },
)

test('without the header nothing is asked for', () => {
  expect(retryAfterMs({}, now)).toBeUndefined()
})
