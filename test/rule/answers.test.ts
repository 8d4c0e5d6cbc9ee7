import { describe, expect, test } from 'vitest'
import type { Json, JsonObject } from '../../src/event/event.ts'
import { problemsWith, ruleWith } from './world.ts'

function read(
  keys: JsonObject,
  status: number,
  body: Json | string = '',
  headers: Readonly<Record<string, string>> = {},
) {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  return ruleWith(keys).answers.read({ status, headers, body: Buffer.from(text) })
}

describe('answers', () => {
  test('may be a preset, which has no table', () => {
    expect(ruleWith({ answers: 'mediawiki-job' }).answers.preset).toBe('mediawiki-job')
    expect(read({ answers: 'mediawiki-job' }, 500)).toBeUndefined()
    expect(ruleWith({}).answers.preset).toBeUndefined()
  })

  test('are read by the first row that fits, and not at all where none does', () => {
    const answers = [
      { status: [404, '50x'], is: 'ignored' },
      { status: '5xx', is: 'failed' },
      { status: 200, header: { 'X-State': '/busy/' }, is: 'throttled' },
      { status: 200, body: { error: { code: '/^internal/' } }, is: 'refused' },
      { body: '/later/', is: 'unavailable' },
    ]

    expect(read({ answers }, 404)).toBe('ignored')
    expect(read({ answers }, 503)).toBe('ignored')
    expect(read({ answers }, 511)).toBe('failed')
    expect(read({ answers }, 200, '', { 'x-state': 'is busy' })).toBe('throttled')
    expect(read({ answers }, 200, { error: { code: 'internal_api_error' } })).toBe('refused')
    expect(read({ answers }, 418, 'come later')).toBe('unavailable')
    expect(read({ answers }, 200, '{"error":')).toBeUndefined()
    expect(read({ answers }, 200, { error: null })).toBeUndefined()
  })

  test('in Wikimedia’s spelling are ignored first, then failed; other 5xx are refused', () => {
    const keys = { ignore: { status: [404, 412] }, retry_on: { status: ['50x', 404, 418] } }

    expect([404, 412, 500, 509, 418, 511, 200, 400].map((status) => read(keys, status))).toEqual([
      'ignored',
      'ignored',
      'failed',
      'failed',
      'failed',
      'refused',
      undefined,
      undefined,
    ])
  })

  test('that say when to come back are left to the preset, whatever retry_on says', () => {
    const keys = { retry_on: { status: ['5xx', 429] } }

    expect(read(keys, 503, '', { 'retry-after': '5' })).toBeUndefined()
    expect(read(keys, 429)).toBeUndefined()
    expect(read(keys, 503)).toBe('failed')
  })

  test('in Wikimedia’s spelling may be told by an equal body, in whatever order', () => {
    const keys = { ignore: [{ status: 400, body: { a: 1, b: [2] } }] }

    expect(read(keys, 400, '{"b":[2],"a":1}')).toBe('ignored')
    expect(read(keys, 400, '{"b":[2]}')).toBeUndefined()
  })

  test.each<[Json, string]>([
    [[], 'rule.answers'],
    [[{ status: 5000, is: 'failed' }], 'rule.answers[0].status'],
    [[{ status: '5x', is: 'failed' }], 'rule.answers[0].status'],
    [[{ status: 500, is: 'faild' }], 'did you mean failed?'],
    [[{ status: 500 }], 'rule.answers[0]'],
    [[{ is: 'ok' }, { status: 500, is: 'failed' }], 'warning: rule.answers[1]'],
    [[{ body: { x: '/(a+)+$/' }, is: 'ok' }], 'rule.answers[0].body.x'],
    ['htp', 'did you mean http?'],
  ])('that are wrong are a problem: %j', (answers, expected) => {
    const problems = problemsWith({ answers })

    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(expected)
  })
})
