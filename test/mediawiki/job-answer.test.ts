import { describe, expect, test } from 'vitest'
import { readAnswer } from '../../src/mediawiki/answers.ts'
import { throttledPauseMs, unavailablePauseMs, type Verdict } from '../../src/mediawiki/verdict.ts'
import type { RequestOutcome } from '../../src/rule/rule.ts'
import { fixturesAbsent, readFixture } from '../support/fixtures.ts'
import { anAnswer, now, type Pair } from './world.ts'

function read(status: number, body = '', headers: Record<string, string> = {}, doubts = 0): Verdict {
  return readAnswer('mediawiki-job', anAnswer(status, body, headers), now, { doubts })
}

function pairsIn(path: string): readonly Pair[] {
  const { pairs }: { pairs: readonly Pair[] } = JSON.parse(readFixture(path))
  return pairs
}

test.each<[number, string, RequestOutcome]>([
  [200, '{"status":true}', 'ok'],
  [200, 'job called exit', 'ok'],
  [204, '', 'ok'],
  [302, '', 'refused'],
  [304, '', 'refused'],
  [400, '{"message":"Invalid event received"}', 'refused'],
  [401, '', 'refused'],
  [403, '{"message":"Invalid mediawiki signature"}', 'refused'],
  [403, 'not JSON', 'refused'],
  [403, '{"error":"rest-read-denied"}', 'unavailable'],
  [404, '', 'unavailable'],
  [405, '', 'unavailable'],
  [412, '', 'refused'],
  [415, '', 'refused'],
  [423, '{"message":"Wiki is in read-only mode."}', 'throttled'],
  [500, '', 'failed'],
  [500, '{"error":"told to fail"}', 'failed'],
  [500, '{"message":"Parameter base64_decode() failed"}', 'failed'],
  [500, '[null]', 'failed'],
  [501, '', 'unavailable'],
  [502, '{"error":null}', 'failed'],
  [503, '', 'failed'],
])('%d %s is %s', (status, body, outcome) => {
  expect(read(status, body).outcome).toBe(outcome)
})

describe('an answer in doubt, as core takes it for a success', () => {
  const body = '{"message":"Internal Server Error","error":null,"httpCode":500,"httpReason":"Internal Server Error"}'

  test('is tried twice more, then ignored', () => {
    expect([0, 1, 2, 3].map((doubts) => read(500, body, {}, doubts).outcome)).toEqual([
      'failed',
      'failed',
      'ignored',
      'ignored',
    ])
  })

  test('says that it is to be counted', () => {
    expect(read(500, body)).toEqual({
      outcome: 'failed',
      note: '500 without an error, perhaps a success',
      isDoubtful: true,
    })
    expect(read(500, body, {}, 2)).toEqual({
      outcome: 'ignored',
      note: '500 without an error, as before: taken for a success',
    })
  })

  test('is not one with an error, however often there was doubt', () => {
    const verdict = read(500, body.replace('null', '"told to fail"'), {}, 9)
    expect(verdict).toEqual({ outcome: 'failed', note: 'told to fail' })
  })
})

test('a success of the runner says nothing', () => {
  expect(read(200, '')).toEqual({ outcome: 'ok', note: '200' })
})

test('a read-only wiki pauses, and nothing has run', () => {
  const verdict = { outcome: 'throttled', pauseMs: throttledPauseMs, note: 'readonly', hasNotRun: true }
  expect(read(423)).toEqual(verdict)
  expect(read(423, '', { 'retry-after': '60' })).toEqual({ ...verdict, pauseMs: 60_000 })
})

test('a database that is found read-only pauses, but a part of the job may have run', () => {
  const verdict = { outcome: 'throttled', pauseMs: throttledPauseMs, note: 'the job found the database read-only' }
  expect(read(500, '{"error":"Wikimedia\\\\Rdbms\\\\DBReadOnlyError: Database is read-only: no"}')).toEqual(verdict)
  expect(read(500, '{"error":"DBReadOnlyError: Database is read-only: no"}')).toEqual(verdict)
  expect(read(500, '', { 'x-readonly': 'true' })).toEqual(verdict)
  expect(read(500, '{"error":"RuntimeException: no DBReadOnlyError"}').outcome).toBe('failed')
})

test('an end point that is not there pauses for longer, and nothing has run', () => {
  const verdict = { outcome: 'unavailable', pauseMs: unavailablePauseMs, hasNotRun: true }
  expect(read(404)).toEqual({ ...verdict, note: '404' })
  expect(read(405)).toEqual({ ...verdict, note: '405' })
  expect(read(501)).toEqual({ ...verdict, note: '501' })
  expect(read(403, '{"error":"rest-read-denied"}')).toEqual({ ...verdict, needs: 'login', note: 'rest-read-denied' })
})

test('what a target says is a note of one line and bounded length', () => {
  const { note } = read(500, JSON.stringify({ error: `RuntimeException:\n\t${'x'.repeat(10_000)}` }))
  expect(note).toMatch(/^RuntimeException: x+…$/)
  expect(note.length).toBeLessThan(250)
})

describe.skipIf(fixturesAbsent)('recorded answers', () => {
  const byStatus: Readonly<Record<number, RequestOutcome>> = {
    200: 'ok',
    400: 'refused',
    403: 'refused',
    404: 'unavailable',
    405: 'unavailable',
    415: 'refused',
    422: 'refused',
    423: 'throttled',
    500: 'failed',
    501: 'unavailable',
  }
  const otherwise: Readonly<Record<string, RequestOutcome>> = {
    'private-wiki': 'unavailable',
    'job-dbreadonly-exception': 'throttled',
    'rpc-readonly-wiki-writejob': 'throttled',
    'rpc-testReadOnlyDb': 'throttled',
  }

  test.each([
    ['the REST end point', 'eventbus/jobs/rest-endpoint.json', 50],
    ['the entry of job runners', 'eventbus/jobs/jobrunner-entry.json', 15],
  ])(
    'of %s have the outcome of their status, but for private wikis and read-only databases',
    (_title, path, atLeast) => {
      const pairs = pairsIn(path)
      expect(pairs.length).toBeGreaterThan(atLeast)
      expect(pairs.map(({ name, response: r }) => [name, r.status, read(r.status, r.body, r.headers).outcome])).toEqual(
        pairs.map(({ name, response: { status } }) => [name, status, otherwise[name] ?? byStatus[status]]),
      )
    },
  )

  test('are noted in words where the status does not say it all', () => {
    const notes = pairsIn('eventbus/jobs/rest-endpoint.json').map(({ name, response: r }): [string, string] => [
      name,
      read(r.status, r.body, r.headers).note,
    ])
    expect(Object.fromEntries(notes)).toMatchObject({
      success: '200',
      'job-exits': '200, but not JSON',
      'job-false': 'told to fail',
      'job-throws': 'RuntimeException: told to throw in /srv/mediawiki/TestJobs.php on line 7',
      'job-returns-null': '500 without an error, perhaps a success',
      'job-returns-int': '500 without an error, perhaps a success',
      'refreshLinks-missing-page': '500 without an error, perhaps a success',
      'job-noretry-false': '200, but the job failed and forbids retries: failed, but no retries allowed',
      'tampered-params': 'Invalid mediawiki signature',
      'missing-signature': 'Missing mediawiki signature',
      'unknown-type': "Failed creating job from description: Invalid job command 'noSuchJob'",
      'text-plain': 'rest-unsupported-content-type',
      'empty-body': 'rest-json-body-parse-error',
      'wrong-path': 'rest-no-match',
      'private-wiki': 'rest-read-denied',
      'readonly-wiki': 'readonly',
      'wiki-broken': '500',
    })
  })

  test('of jobs that EventBus really sent are never refused', () => {
    interface Sample {
      readonly type: string
      readonly response: { readonly status: number; readonly body: string }
    }
    const { samples }: { samples: readonly Sample[] } = JSON.parse(readFixture('eventbus/jobs/real-jobs.json'))
    const outcomes = samples.map(({ response }) => read(response.status, response.body).outcome)
    expect(new Set(outcomes)).toEqual(new Set(['ok', 'failed']))
  })
})
