import { describe, expect, test } from 'vitest'
import type { Json, JsonObject } from '../../src/event/event.ts'
import { problemsWith, requestOf } from './world.ts'

const message: JsonObject = {
  meta: { domain: 'wiki.example', dt: '1990-02-20T19:31:13Z', uri: 'https://wiki.example/wiki/A%2FB' },
  page_title: 'Ä/B',
  rev_id: 7,
  zero: 0,
  minor: false,
  nothing: null,
  tags: ['a', 'b c'],
  'x-key': 'hyphen',
  root_event: { signature: 's', dt: 'd', extra: 1 },
  percent: '100%25',
}

/** What a template comes to as a value of a JSON body; undefined where its key is left out. */
function valueFrom(template: Json): Json | undefined {
  const exec = {
    method: 'post',
    headers: { 'content-type': 'application/json' },
    body: { value: template, always: '{{message.zero}}' },
  }
  const { body } = requestOf(exec, message)
  const parsed: { value?: Json } = JSON.parse(String(body))
  return parsed.value
}

describe('a template', () => {
  test.each<[string, Json, Json | undefined]>([
    ['keeps the type of a number', '{{message.rev_id}}', 7],
    ['keeps the type of a boolean', '{{message.minor}}', false],
    ['keeps null', '{{message.nothing}}', null],
    ['keeps a list', '{{message.tags}}', ['a', 'b c']],
    ['keeps a mapping', '{{message.root_event}}', { signature: 's', dt: 'd', extra: 1 }],
    ['leaves its key out where there is nothing', '{{message.missing}}', undefined],
    ['leaves its key out where not even the parent is there', '{{message.missing.deeper.still}}', undefined],
    ['does not mind blanks', '{{ message.rev_id }}', 7],
    ['reads an index', '{{message.tags[1]}}', 'b c'],
    ['reads a quoted key', '{{message["x-key"]}}', 'hyphen'],
    ['reads a key with a hyphen', '{{message.x-key}}', 'hyphen'],
    ['has other names for its root', '{{global.message.rev_id}}{{$.message.rev_id}}', '77'],
    ['is text within text', 'a{{message.rev_id}}b{{message.minor}}', 'a7bfalse'],
    ['percent-encodes with one brace', 'x/{message.page_title}', 'x/%C3%84%2FB'],
    ['percent-encodes a value of its own with one brace', '{message.page_title}', '%C3%84%2FB'],
    ['keeps a number with one brace', '{message.rev_id}', 7],
    ['is empty with one brace where there is nothing', '{message.missing}', ''],
    ['inserts raw text after a plus', '{+message.page_title}!', 'Ä/B!'],
    ['may find nothing after a plus', 'a{+message.missing}b', 'ab'],
    ['puts a slash before what it encodes', 'a{/message.page_title}', 'a/%C3%84%2FB'],
    ['puts no slash before nothing', 'a{/message.missing}', 'a'],
    [
      'leaves other single braces alone',
      '{} {x} {message} { "message": 1 } } {',
      '{} {x} {message} { "message": 1 } } {',
    ],
    ['leaves numbers, booleans and lists alone', [1, true, 'x', { y: 2 }], [1, true, 'x', { y: 2 }]],
    ['does not see what all objects inherit', '{{message.constructor}}', undefined],
  ])('%s', (_, template, expected) => {
    expect(valueFrom(template)).toEqual(expected)
  })

  test('in a static value takes away keys that are null, and only these', () => {
    expect(valueFrom({ a: null, b: [null], c: 1 })).toEqual({ b: [null], c: 1 })
  })

  test.each<[string, Json | undefined]>([
    ['{{date(message.meta.dt)}}', 'Tue, 20 Feb 1990 19:31:13 +0000'],
    ["{{date(message.meta.dt, 'iso')}}", '1990-02-20T19:31:13.000Z'],
    ["{{date('635542273000')}}", 'Tue, 20 Feb 1990 19:31:13 +0000'],
    ['{{date(635542273000)}}', 'Tue, 20 Feb 1990 19:31:13 +0000'],
    ['{{decode(message.percent)}}', '100%'],
    ['{{decode(message.rev_id)}}', 7],
    ["{{default(message.missing.deeper, 'x')}}", 'x'],
    ["{{default(message.zero, 'x')}}", 'x'],
    ["{{default(message.rev_id, 'x')}}", 7],
    ["{{merge(message.root_event, strip(message.meta, ['domain', 'uri']))}}", { dt: 'd', signature: 's', extra: 1 }],
    ["{{strip(message.root_event, 'dt')}}", { signature: 's', extra: 1 }],
    ["{{filter(message.root_event, ['dt', 'none'])}}", { dt: 'd' }],
    ["{{default(message.missing, '}}')}}", '}}'],
    ['{decode(message.meta.uri)}', 'https%3A%2F%2Fwiki.example%2Fwiki%2FA%2FB'],
  ])('calls functions: %s', (template, expected) => {
    expect(valueFrom(template)).toEqual(expected)
  })

  test('makes UUIDs of version 1 from times', () => {
    expect(valueFrom("{{date(message.meta.dt, 'timeuuid')}}")).toMatch(
      /^3db95680-b20b-11c8-[89ab][a-f\d]{3}-[a-f\d]{12}$/,
    )
    expect(valueFrom('{{timeuuid()}}')).toMatch(/^[a-f\d]{8}-[a-f\d]{4}-1[a-f\d]{3}-[89ab][a-f\d]{3}-[a-f\d]{12}$/)
  })

  test.each([
    ['a{{message.missing}}b', 'message.missing'],
    ['a{{message.missing}}', 'message.missing'],
    ['a{{message.nothing}}b', 'message.nothing'],
    ['a{{message.tags}}b', 'message.tags'],
    ['{{date(message.missing)}}', 'date(message.missing)'],
    ['{{date(message.page_title)}}', 'date(message.page_title)'],
    ["{{decode('%')}}", "decode('%')"],
  ])('fails rather than guess: %s', (template, expression) => {
    expect(() => valueFrom(template)).toThrow(expect.objectContaining({ reason: 'template_failed', expression }))
  })

  test.each([
    ['{{message.a', 'expected }}'],
    ['{{}}', 'expected an expression'],
    ['{{ }}', 'expected an expression'],
    ['{{mesage.a}}', 'did you mean message?'],
    ['{{title}}', 'write message.title'],
    ['{{globals.x}}', 'globals.message'],
    ['{{request.params.title}}', 'expected a root of templates, found request; that root exists only within'],
    ['{{wiki.name}}', 'expected wiki.url'],
    ['{{targets.search}}', 'expected targets.NAME.url'],
    ['{{message.a b}}', 'expected its end'],
    ['{{message.}}', 'expected a name after the dot'],
    ['{{message.a[x]}}', 'expected an index'],
    ['{{dat(message.a)}}', 'expected a function of templates, found dat; did you mean date?'],
    ['{{default(message.a)}}', 'expected default(a, b), found 1 arguments; correct the arguments'],
    ["{{default(message.a, 'x)}}", 'expected the closing quote'],
    ['{message.a b}', 'expected its end'],
    ['{{match.title}}', 'expected something that match captures'],
  ])('that is wrong is a problem: %s', (template, expected) => {
    const problems = problemsWith({ exec: { uri: 'http://a.example/', headers: { x: template } } })

    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(expected)
    expect(problems[0]).toContain('rule.exec.headers.x')
  })
})
