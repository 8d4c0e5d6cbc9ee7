import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { readAnswer } from '../../src/mediawiki/answers.ts'
import { throttledPauseMs, unavailablePauseMs, type Verdict } from '../../src/mediawiki/verdict.ts'
import type { RequestOutcome } from '../../src/rule/rule.ts'
import { aCall, anAnswer, now, type Pair } from './world.ts'

function read(status: number, body = '', headers: Record<string, string> = {}, sent?: string): Verdict {
  const asked = sent === undefined ? {} : { request: aCall(sent) }
  return readAnswer('mediawiki-api', anAnswer(status, body, headers), now, asked)
}

/** A purge in the newer format, with what is said of each page. */
function aPurge(...pages: readonly object[]): string {
  return JSON.stringify({ batchcomplete: true, purge: pages.map((page, index) => ({ title: `T${index}`, ...page })) })
}

const limit = { purge: { warnings: "You've exceeded your rate limit. Please wait some time and try again." } }

function limited(purge: string): string {
  return JSON.stringify({ ...JSON.parse(purge), warnings: limit })
}

describe('answers recorded from a wiki', () => {
  const readonly: Verdict = { outcome: 'throttled', pauseMs: throttledPauseMs, note: 'readonly', hasNotRun: true }
  const maxlag: Verdict = { outcome: 'throttled', pauseMs: 5_000, note: 'maxlag', hasNotRun: true }
  const longMaxlag: Verdict = { ...maxlag, pauseMs: 7_000 }
  const purged: Verdict = { outcome: 'ok', note: '200' }
  const nothing: Verdict = { outcome: 'ignored', note: 'there is no such page' }
  const rate: Verdict = { outcome: 'throttled', pauseMs: throttledPauseMs, note: 'ratelimited', hasNotRun: true }
  const oneOfThree = { ...rate, note: 'ratelimited: 1 of 3 titles', titles: ['C'] }
  const logIn = (note: string): Verdict => ({ outcome: 'failed', note, needs: 'login', hasNotRun: true })
  const refused = (note: string): Verdict => ({ outcome: 'refused', note })
  const cutShort = (note: string): Verdict => ({ outcome: 'throttled', pauseMs: throttledPauseMs, note })

  const expected: Readonly<Record<string, Verdict>> = {
    purge: { outcome: 'ok', note: '200, 3 of 6 titles without a page' },
    'purge of version 1': { outcome: 'ok', note: '200, 1 of 3 titles without a page' },
    'purge of nothing that is there': nothing,
    'purge of an invalid title among others': { ...refused('invalid title A[b'), titles: ['A[b'] },
    'purge of an invalid title of version 1': refused('invalid title A[b'),
    'purge of page ids': { outcome: 'ok', note: '200, 1 of 3 titles without a page' },
    'purge of revisions': { outcome: 'ok', note: '200, 1 of 3 titles without a page' },
    'purge of an interwiki title': { outcome: 'ok', note: '200, 1 of 2 titles without a page' },
    'purge of no title': nothing,
    'purge, rate limited': { ...rate, note: 'ratelimited: 2 of 6 titles', titles: ['C', 'D', 'A[b'] },
    'purge of version 1, rate limited': oneOfThree,
    'purge in plain text, rate limited': oneOfThree,
    'purge without error texts, rate limited': oneOfThree,
    'purge of page ids, rate limited': { ...oneOfThree, note: 'ratelimited: 1 of 4 titles' },
    'purge of a generator, rate limited': { ...rate, note: 'ratelimited: 2 of 4 titles', titles: ['C', 'D'] },
    'purge, all rate limited': rate,
    'purge with links, rate limited': { ...cutShort('ratelimited: 2 of 3 titles'), titles: ['B', 'C'] },
    'purge with links': purged,
    'purge with a warning': { outcome: 'ok', note: '200 with a warning: Unrecognized parameter: foo.' },
    'purge with a warning of version 1': { outcome: 'ok', note: '200 with a warning: Unrecognized parameter: foo.' },
    'purge with a warning in plain text': { outcome: 'ok', note: '200 with a warning: Unrecognized parameter: foo.' },
    'query of a page that is missing': purged,
    'edit, rate limited': rate,
    'read-only': readonly,
    'read-only in plain text': readonly,
    maxlag,
    'maxlag in plain text': longMaxlag,
    'maxlag in XML': longMaxlag,
    'maxlag without a format': longMaxlag,
    'maxlag without a body': longMaxlag,
    'an exception': { outcome: 'failed', note: 'internal_api_error_RuntimeException' },
    'an exception for a read-only database': cutShort('internal_api_error_DBReadOnlyError'),
    'an exception for a read-only wiki': cutShort('internal_api_error_ReadOnlyError'),
    'an exception for a limit': cutShort('internal_api_error_ThrottledError'),
    'bad token': { outcome: 'failed', note: 'badtoken', needs: 'token', hasNotRun: true },
    'no token': refused('missingparam'),
    'assert=user': logIn('assertuserfailed'),
    'assert=bot in plain text': logIn('assertbotfailed'),
    assertuser: logIn('assertnameduserfailed'),
    'not logged in': logIn('notloggedin'),
    'private wiki': logIn('readapidenied'),
    'writing not allowed': logIn('writeapidenied'),
    'unknown action': refused('badvalue'),
    'bad number': refused('badinteger'),
    'too many titles': refused('toomanyvalues'),
    'two sources': refused('multisource'),
    'page that is missing': refused('missingtitle'),
    'no permission': refused('permissiondenied'),
    'purge by GET': refused('mustbeposted'),
    captcha: refused('edit: Failure'),
    'purge in XML': purged,
    'purge without a format': {
      outcome: 'failed',
      note: '200, but not JSON: the request does not ask for format=json',
    },
    'purge without a body': purged,
    'PHP stops': { outcome: 'failed', note: '500' },
  }

  const { pairs }: { pairs: readonly Pair[] } = JSON.parse(
    readFileSync(new URL('api-answers.json', import.meta.url), 'utf8'),
  )

  test.each(pairs)('are understood: $name', ({ name, request, response }) => {
    const answer = anAnswer(response.status, response.body, response.headers)
    const sent = aCall(request.body ?? null, request.path)

    expect(readAnswer('mediawiki-api', answer, now, { request: sent })).toEqual(expected[name])
  })

  test('without the request lack only what the request tells', () => {
    const differing = pairs.flatMap(({ name, response: { status, body, headers } }) => {
      const verdict = read(status, body, headers)
      const known = expected[name]
      return verdict.outcome === known?.outcome && verdict.pauseMs === known.pauseMs ? [] : [name]
    })

    expect(differing).toEqual(['purge with links, rate limited', 'captcha', 'purge in XML', 'purge without a body'])
  })
})

describe('an error', () => {
  test.each<[string, string, RequestOutcome, string]>([
    ['without a code', '{"error":"no"}', 'failed', 'error'],
    ['that nobody knows', '{"error":{"code":"editconflict"}}', 'failed', 'editconflict'],
    ['of no concern', '{"error":null,"errors":[]}', 'ok', '200'],
    [
      'beside others, of which the known one decides',
      '{"errors":[{"code":"x"},{"code":"maxlag"}]}',
      'throttled',
      'x, maxlag',
    ],
    ['that is a value', 'true', 'ok', '200'],
    ['that is a list', '["error"]', 'ok', '200'],
    ['that is a key of the language', '{"__proto__":{"error":{"code":"x"}}}', 'ok', '200'],
    ['of endless length', `{"error":{"code":"${'x'.repeat(5_000)}"}}`, 'failed', `${'x'.repeat(200)}…`],
  ])('%s', (_title, body, outcome, note) => {
    expect(read(200, body)).toMatchObject({ outcome, note })
  })

  test.each([
    'badtimestamp',
    'badtitle',
    'invalidparammix',
    'invalidtitle',
    'mustpostparams',
    'nosuchpageid',
    'nosuchrevid',
    'outofrange',
  ])('that no repetition can heal is refused: %s', (code) => {
    expect(read(200, JSON.stringify({ error: { code } }))).toEqual({ outcome: 'refused', note: code })
  })

  test('that asks for a login says so', () => {
    expect(read(200, '{"error":{"code":"mustbeloggedin"}}').needs).toBe('login')
  })

  test('that does not take our credentials leaves the wiki alone, for people to mend them', () => {
    const note = 'mwoauth-invalid-authorization'
    const verdict = { outcome: 'unavailable', pauseMs: unavailablePauseMs, note, hasNotRun: true }
    expect(read(200, JSON.stringify({ error: { code: note } }))).toEqual(verdict)
  })

  test('is read from the header where the body does not tell', () => {
    const headers = { 'mediawiki-api-error': 'protectedpage, readonly' }
    expect(read(200, '', headers)).toMatchObject({ outcome: 'throttled', note: 'protectedpage, readonly' })
  })

  test('goes before the status, which decides about codes that nobody knows', () => {
    const body = (code: string) => `{"error":{"code":"${code}"}}`
    expect(read(503, body('maxlag'), { 'retry-after': '11' })).toMatchObject({
      outcome: 'throttled',
      pauseMs: 11_000,
      note: 'maxlag',
      hasNotRun: true,
    })
    expect(read(503, body('maxlag')).outcome).toBe('throttled')
    expect(read(400, body('badtoken')).needs).toBe('token')
    expect(read(500, body('missingtitle')).outcome).toBe('refused')
    expect(read(400, body('unheard'))).toEqual({ outcome: 'refused', note: 'unheard' })
    expect(read(500, body('unheard'))).toEqual({ outcome: 'failed', note: 'unheard' })
    expect(read(429, body('unheard'), { 'retry-after': '11' })).toMatchObject({ outcome: 'throttled', pauseMs: 11_000 })
  })
})

test('an upload that wants a confirmation was not made', () => {
  const sent = 'action=upload&format=json'
  expect(read(200, '{"upload":{"result":"Warning"}}', {}, sent)).toEqual({
    outcome: 'refused',
    note: 'upload: Warning',
  })
  expect(read(200, '{"upload":{"result":"Success"}}', {}, sent).outcome).toBe('ok')
})

test('warnings may lack a text, or all', () => {
  expect(read(200, '{"warnings":[{"code":"a"},{"code":"b"}]}').note).toBe('200 with a warning: a b')
  expect(read(200, '{"warnings":null}').note).toBe('200')
})

test('a lagged wiki may say so by 503 and a header alone', () => {
  expect(read(503, 'Waiting for 10.0.0.1: 9 seconds lagged', { 'x-database-lag': '9' })).toEqual({
    outcome: 'throttled',
    pauseMs: throttledPauseMs,
    note: 'maxlag',
    hasNotRun: true,
  })
  expect(read(503, '', { 'x-database-lag': '9', 'retry-after': '20' }).pauseMs).toBe(20_000)
  expect(read(503).outcome).toBe('failed')
})

test('other statuses are read as http reads them', () => {
  expect(read(500, '{}').outcome).toBe('failed')
  expect(read(404, '{}').outcome).toBe('refused')
  expect(read(302, '{}').outcome).toBe('refused')
  expect(read(412, '').outcome).toBe('ignored')
})

describe('what is not JSON', () => {
  test.each(['', '<!DOCTYPE html><title>Error</title>', '{"purge":['])('is a failure: %j', (body) => {
    expect(read(200, body)).toEqual({ outcome: 'failed', note: '200, but not JSON' })
    expect(read(200, body, {}, 'format=json').note).toBe('200, but not JSON')
  })

  test('is none where another format was asked for', () => {
    expect(read(200, '<api/>', {}, 'format=xml')).toEqual({ outcome: 'ok', note: '200' })
    expect(read(200, '<html>', {}, 'action=purge').outcome).toBe('failed')
  })

  test('is none where it was cut off, for an error is never that long', () => {
    const cutOff = (body: string) => readAnswer('mediawiki-api', anAnswer(200, body, {}, true), now).outcome
    expect(cutOff(' {"query":{"pa')).toBe('ok')
    expect(cutOff('<html')).toBe('failed')
  })
})

describe('a purge', () => {
  const done = { purged: true }
  const sent = 'action=purge&format=json&titles=T0|T1|T2'

  test('that was refused to some titles by no limit spends an attempt for them alone', () => {
    const body = JSON.stringify({ ...JSON.parse(aPurge(done, {}, done)), warnings: { purge: { '*': 'No\n right.' } } })
    expect(read(200, body, {}, sent)).toEqual({
      outcome: 'failed',
      note: 'not purged: 1 of 3 titles No right.',
      titles: ['T1'],
    })
    expect(read(200, aPurge({ purged: false }, {}), {}, sent)).toEqual({ outcome: 'failed', note: 'not purged' })
  })

  test('takes titles for purged only if their links are updated, where that was asked for', () => {
    const body = limited(aPurge({ ...done, linkupdate: true }, done, { missing: true }))
    expect(read(200, body, {}, sent).outcome).toBe('ok')
    expect(read(200, body, {}, `${sent}&forcelinkupdate=`).titles).toEqual(['T1'])
    expect(read(200, body, {}, `${sent}&forcerecursivelinkupdate=0`).titles).toEqual(['T1'])
  })

  test('of which a part ran may not be repeated as a whole by a rule that never repeats', () => {
    const body = limited(aPurge(done, {}))
    expect(read(200, body, {}, sent)).toMatchObject({ titles: ['T1'], hasNotRun: true })
    expect(read(200, body)).toEqual({
      outcome: 'throttled',
      pauseMs: throttledPauseMs,
      note: 'ratelimited: 1 of 2 titles',
    })
    expect(read(200, body, {}, 'action=purge').titles).toBeUndefined()
  })

  test('keeps invalid titles among those to be done, so that in the end they are told', () => {
    expect(read(200, limited(aPurge({ invalid: '' }, {}, done)), {}, sent).titles).toEqual(['T1', 'T0'])
    expect(read(200, aPurge({ invalid: '' }, {}, done), {}, sent)).toMatchObject({
      outcome: 'failed',
      titles: ['T1', 'T0'],
    })
  })

  test('of hostile shape is no reason to stumble', () => {
    expect(read(200, '{"purge":[null,7,[],{"title":{},"purged":true}],"warnings":[null,{}]}', {}, sent)).toEqual({
      outcome: 'failed',
      note: 'not purged: 3 of 4 titles a warning a warning',
    })
    expect(read(200, '{"purge":"none","warnings":"x"}', {}, sent).outcome).toBe('ok')
  })
})
