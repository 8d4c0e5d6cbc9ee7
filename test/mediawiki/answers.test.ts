import { describe, expect, test } from 'vitest'
import { readAnswer, readNoAnswer } from '../../src/mediawiki/answers.ts'
import { throttledPauseMs } from '../../src/mediawiki/verdict.ts'
import type { AnswersPreset, RequestOutcome } from '../../src/rule/rule.ts'
import { anAnswer, now } from './world.ts'

const presets: readonly AnswersPreset[] = ['http', 'mediawiki-api', 'mediawiki-job']

describe('http', () => {
  test.each<[number, RequestOutcome]>([
    [200, 'ok'],
    [201, 'ok'],
    [202, 'ok'],
    [204, 'ok'],
    [299, 'ok'],
    [301, 'refused'],
    [302, 'refused'],
    [304, 'ok'],
    [307, 'refused'],
    [400, 'refused'],
    [401, 'refused'],
    [403, 'refused'],
    [404, 'refused'],
    [405, 'refused'],
    [408, 'failed'],
    [409, 'refused'],
    [412, 'ignored'],
    [413, 'refused'],
    [422, 'refused'],
    [423, 'refused'],
    [425, 'failed'],
    [429, 'throttled'],
    [499, 'refused'],
    [500, 'failed'],
    [501, 'failed'],
    [502, 'failed'],
    [503, 'failed'],
    [504, 'failed'],
    [599, 'failed'],
    [799, 'failed'],
  ])('reads %d as %s', (status, outcome) => {
    expect(readAnswer('http', anAnswer(status), now).outcome).toBe(outcome)
  })

  test('does not look at the body', () => {
    expect(readAnswer('http', anAnswer(200, '{"error":{"code":"maxlag"}}'), now).outcome).toBe('ok')
  })
})

describe.each(presets)('%s', (preset) => {
  test('reads 503 with Retry-After as throttled, for as long as is asked; something may have run', () => {
    const verdict = readAnswer(preset, anAnswer(503, '', { 'retry-after': '90' }), now)
    expect(verdict).toMatchObject({ outcome: 'throttled', pauseMs: 90_000 })
    expect(verdict.hasNotRun).toBeUndefined()
  })

  test('reads 503 with a Retry-After that says nothing as failed', () => {
    expect(readAnswer(preset, anAnswer(503, '', { 'retry-after': 'soon' }), now).outcome).toBe('failed')
  })

  test('reads 429 as throttled, and nothing has run', () => {
    const headers = { 'retry-after': new Date(now + 7_000).toUTCString() }
    const verdict = readAnswer(preset, anAnswer(429, '', headers), now)
    expect(verdict).toMatchObject({ outcome: 'throttled', pauseMs: 7_000, hasNotRun: true })
  })

  test('never lets a throttled target be called again at once', () => {
    expect(readAnswer(preset, anAnswer(429), now)).toMatchObject({ outcome: 'throttled', pauseMs: throttledPauseMs })
    const pause = readAnswer(preset, anAnswer(429, '', { 'retry-after': '0' }), now).pauseMs
    expect(pause).toBeGreaterThan(0)
  })
})

test('silence is a failure, and the note says of which kind', () => {
  const verdict = readNoAnswer({ kind: 'none', error: 'timeout', message: 'no answer', sent: true })
  expect(verdict).toEqual({ outcome: 'failed', note: 'timeout: no answer' })
})
