import { describe, expect, test } from 'vitest'
import type { Answer } from '../../src/http/send.ts'
import { readAnswer, readNoAnswer, throttledPauseMs, unavailablePauseMs } from '../../src/mediawiki/answers.ts'
import type { AnswersPreset, RequestOutcome } from '../../src/rule/rule.ts'
import { fixturesAbsent, readFixture } from '../support/fixtures.ts'

const now = Date.UTC(2026, 10, 24)

function anAnswer(status: number, body = '', headers: Record<string, string> = {}, truncated = false): Answer {
  return { kind: 'answer', status, headers, body: new TextEncoder().encode(body), truncated }
}

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

  test('reads 503 with Retry-After as throttled, for as long as is asked', () => {
    const verdict = readAnswer('http', anAnswer(503, '', { 'retry-after': '90' }), now)
    expect(verdict).toMatchObject({ outcome: 'throttled', pauseMs: 90_000 })
  })

  test('reads 503 with a Retry-After that says nothing as failed', () => {
    expect(readAnswer('http', anAnswer(503, '', { 'retry-after': 'soon' }), now).outcome).toBe('failed')
  })

  test('obeys a Retry-After that is a date', () => {
    const headers = { 'retry-after': new Date(now + 7_000).toUTCString() }
    expect(readAnswer('http', anAnswer(429, '', headers), now).pauseMs).toBe(7_000)
  })

  test('does not look at the body', () => {
    expect(readAnswer('http', anAnswer(200, '{"error":{"code":"maxlag"}}'), now).outcome).toBe('ok')
  })
})

test.each(presets)('%s never lets a throttled target be called again at once', (preset) => {
  expect(readAnswer(preset, anAnswer(429), now)).toMatchObject({ outcome: 'throttled', pauseMs: throttledPauseMs })
  const pause = readAnswer(preset, anAnswer(429, '', { 'retry-after': '0' }), now).pauseMs
  expect(pause).toBeGreaterThan(0)
})

describe('mediawiki-api', () => {
  test.each<[string, string, RequestOutcome, string]>([
    ['a purge', '{"batchcomplete":true,"purge":[{"ns":0,"title":"A","purged":true}]}', 'ok', '200'],
    ['an error', '{"error":{"code":"badtoken","info":"Invalid CSRF token."}}', 'failed', 'badtoken'],
    ['an error of another format', '{"errors":[{"code":"badtoken"}]}', 'failed', 'badtoken'],
    ['an error without a code', '{"error":"no"}', 'failed', 'error'],
    ['no error', '{"error":null,"errors":[]}', 'ok', '200'],
    ['maxlag', '{"error":{"code":"maxlag","lag":7}}', 'throttled', 'maxlag'],
    ['readonly', '{"error":{"code":"readonly"}}', 'throttled', 'readonly'],
    ['ratelimited', '{"error":{"code":"ratelimited"}}', 'throttled', 'ratelimited'],
    ['a page of HTML', '<!DOCTYPE html><title>Error</title>', 'failed', '200, but not JSON'],
    ['nothing', '', 'failed', '200, but not JSON'],
    ['a bare value', 'true', 'ok', '200'],
    ['a list', '["error"]', 'ok', '200'],
    ['a key of the language', '{"__proto__":{"error":{"code":"x"}}}', 'ok', '200'],
  ])('reads 200 with %s', (_title, body, outcome, note) => {
    expect(readAnswer('mediawiki-api', anAnswer(200, body), now)).toMatchObject({ outcome, note })
  })

  test('waits as long as maxlag asks', () => {
    const answer = anAnswer(200, '{"error":{"code":"maxlag"}}', { 'retry-after': '11' })
    expect(readAnswer('mediawiki-api', answer, now).pauseMs).toBe(11_000)
  })

  test('takes an answer that was cut off for one without error', () => {
    expect(readAnswer('mediawiki-api', anAnswer(200, ' {"query":{"pa', {}, true), now).outcome).toBe('ok')
    expect(readAnswer('mediawiki-api', anAnswer(200, '<html', {}, true), now).outcome).toBe('failed')
  })

  test('reads other statuses as http does', () => {
    expect(readAnswer('mediawiki-api', anAnswer(500, '{}'), now).outcome).toBe('failed')
    expect(readAnswer('mediawiki-api', anAnswer(404, '{}'), now).outcome).toBe('refused')
  })
})

describe('mediawiki-job', () => {
  test.each<[number, string, RequestOutcome]>([
    [200, '{"status":true}', 'ok'],
    [200, 'job called exit', 'ok'],
    [302, '', 'refused'],
    [304, '', 'refused'],
    [400, '{"message":"Invalid event received"}', 'refused'],
    [403, '{"message":"Invalid mediawiki signature"}', 'refused'],
    [403, 'not JSON', 'refused'],
    [403, '{"error":"rest-read-denied"}', 'unavailable'],
    [404, '', 'unavailable'],
    [405, '', 'unavailable'],
    [412, '', 'refused'],
    [415, '', 'refused'],
    [423, '{"message":"Wiki is in read-only mode."}', 'throttled'],
    [500, '{"error":null}', 'failed'],
    [501, '', 'unavailable'],
    [503, '', 'failed'],
  ])('reads %d %s as %s', (status, body, outcome) => {
    expect(readAnswer('mediawiki-job', anAnswer(status, body), now).outcome).toBe(outcome)
  })

  test('says how long to leave an end point alone that is not there', () => {
    expect(readAnswer('mediawiki-job', anAnswer(404), now).pauseMs).toBe(unavailablePauseMs)
  })

  test('notes read-only', () => {
    const verdict = readAnswer('mediawiki-job', anAnswer(423), now)
    expect(verdict).toEqual({ outcome: 'throttled', pauseMs: throttledPauseMs, note: 'readonly' })
  })
})

describe.skipIf(fixturesAbsent)('the recorded answers of the job end point', () => {
  interface Pair {
    readonly name: string
    readonly response: { readonly status: number; readonly headers: Record<string, string>; readonly body: string }
  }
  const byStatus: Readonly<Record<number, RequestOutcome>> = {
    200: 'ok',
    400: 'refused',
    403: 'refused',
    404: 'unavailable',
    405: 'unavailable',
    415: 'refused',
    423: 'throttled',
    500: 'failed',
    501: 'unavailable',
  }

  test('each have the outcome of their status, and a private wiki is out of service', () => {
    const { pairs }: { pairs: readonly Pair[] } = JSON.parse(readFixture('eventbus/jobs/rest-endpoint.json'))
    expect(pairs.length).toBeGreaterThan(50)
    const outcomes = pairs.map(({ name, response }) => {
      const answer = anAnswer(response.status, response.body, response.headers)
      return [name, response.status, readAnswer('mediawiki-job', answer, now).outcome]
    })
    expect(outcomes).toEqual(
      pairs.map(({ name, response: { status } }) => [
        name,
        status,
        name === 'private-wiki' ? 'unavailable' : byStatus[status],
      ]),
    )
  })
})

test('silence is a failure, and the note says of which kind', () => {
  const verdict = readNoAnswer({ kind: 'none', error: 'timeout', message: 'no answer', sent: true })
  expect(verdict).toEqual({ outcome: 'failed', note: 'timeout: no answer' })
})
