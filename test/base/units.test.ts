import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  durationPattern,
  formatDuration,
  formatRate,
  formatSize,
  parseDuration,
  parseRate,
  parseSize,
  ratePattern,
  sizePattern,
} from '../../src/base/units.ts'

describe('durations', () => {
  test.each([
    ['500ms', 500],
    ['2s', 2_000],
    ['5m', 300_000],
    ['1h', 3_600_000],
    ['7d', 604_800_000],
    ['0s', 0],
    ['1.5s', 1_500],
    ['0.001s', 1],
  ])('%s is %d ms', (text, ms) => {
    expect(parseDuration(text)).toBe(ms)
  })

  test.each(['', '5', 's', '-1s', '1 s', '1S', '1w', '1e3s', '.5s', '1s ', '99999999999999999999d', 'constructor'])(
    '%j is none',
    (text) => {
      expect(parseDuration(text)).toBeUndefined()
    },
  )

  test('are printed so that they read back as the same number', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 10 ** 12 }), (ms) => {
        expect(parseDuration(formatDuration(ms))).toBe(ms)
      }),
    )
  })

  test.each([
    [0, '0ms'],
    [1_500, '1500ms'],
    [90_000, '90s'],
    [3_600_000, '1h'],
    [172_800_000, '2d'],
  ])('%d ms is printed as %s', (ms, text) => {
    expect(formatDuration(ms)).toBe(text)
  })
})

describe('sizes', () => {
  test.each([
    ['0', 0],
    ['1024', 1_024],
    ['64KiB', 65_536],
    ['10MiB', 10_485_760],
    ['1.5GiB', 1_610_612_736],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes)
  })

  test.each(['', '10MB', '10 MiB', '-1', 'MiB', '1TiB', '10mib', '99999999999GiB'])('%j is none', (text) => {
    expect(parseSize(text)).toBeUndefined()
  })

  test('are printed so that they read back as the same number', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 50 }), (bytes) => {
        expect(parseSize(formatSize(bytes))).toBe(bytes)
      }),
    )
  })
})

describe('rates', () => {
  test.each([
    ['50/s', 50],
    ['600/min', 10],
    ['1/min', 1 / 60],
    ['0.5/s', 0.5],
    ['0/s', 0],
  ])('%s is %d per second', (text, perSecond) => {
    expect(parseRate(text)).toBeCloseTo(perSecond, 12)
  })

  test.each(['50/s', '90/min', '1/min', '7/min', '0.6/min'])('%s is printed as it is written', (text) => {
    expect(formatRate(parseRate(text) ?? 0)).toBe(text)
  })

  test.each(['', '50', '50/h', '/s', '-1/s', '50 / s', '50/sec'])('%j is none', (text) => {
    expect(parseRate(text)).toBeUndefined()
  })
})

test.each([
  ['duration', durationPattern, parseDuration, ['1s', '1.5h', '1', 's1', '5ms5', '1S']],
  ['size', sizePattern, parseSize, ['1', '1KiB', '1.5GiB', '1kib', 'KiB', '1 MiB']],
  ['rate', ratePattern, parseRate, ['1/s', '1.5/min', '1', '1/h', '/s']],
] as const)('the %s pattern for schemas accepts exactly what can be read', (_name, pattern, parse, texts) => {
  for (const text of texts) expect([text, new RegExp(pattern).test(text)]).toEqual([text, parse(text) !== undefined])
})
