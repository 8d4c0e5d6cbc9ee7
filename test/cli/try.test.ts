import { describe, expect, test } from 'vitest'
import { pageChange, purgeConfig, purgeRule, terminalWith } from './terminal.ts'

const files = { 'c.yaml': purgeConfig, 'rules/a.yaml': purgeRule }
const argv = ['try', '--config', 'c.yaml', '--event', '-', '--format', 'json']

test('try prints what each rule makes of an event: the same JSON that scripts rely on', async () => {
  const rules = `${purgeRule}other: { topic: elsewhere, exec: { uri: 'http://a/b' } }\n`
  const terminal = await terminalWith({ 'c.yaml': purgeConfig, 'rules/a.yaml': rules })
  const { code, stdout, stderr } = await terminal.run(argv, { stdin: pageChange() })
  expect([code, stderr]).toEqual([0, ''])
  expect(JSON.parse(stdout)).toEqual([
    {
      rule: 'purge',
      matched: true,
      case: null,
      reason: null,
      captures: { meta: { domain: { lang: 'en' } } },
      requests: [
        {
          method: 'POST',
          uri: 'http://en.w.example/w/api.php',
          headers: { authorization: '***', 'content-type': 'application/json', host: 'cache.example' },
          body: '{"title":"A \\"b\\"","lang":"en"}',
        },
      ],
    },
    {
      rule: 'other',
      matched: false,
      case: null,
      reason: { clause: 'topic', path: 'meta.stream', wanted: 'elsewhere', found: 'mediawiki.page_change.v1' },
      captures: {},
      requests: [],
    },
  ])
  expect(stdout).not.toContain('hush')
})

test.each([
  ['another stream', { stream: 'x' }, { clause: 'topic' }],
  ['another wiki', { domain: 'en.other.example' }, { clause: 'match', path: 'meta.domain', found: 'en.other.example' }],
  ['no wiki', { domain: undefined }, { clause: 'match', path: 'meta.domain', found: null }],
  ['a bot', { isBot: true }, { clause: 'match_not', path: 'performer.is_bot', found: true }],
])('try says which clause said no to an event of %s, and that is exit code 0', async (_what, changes, reason) => {
  const { code, stdout } = await (await terminalWith(files)).run(argv, { stdin: pageChange(changes) })
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject([{ rule: 'purge', matched: false, reason, requests: [] }])
})

test('try leaves the body out where there is none, and shows bytes as received where the body is the whole event', async () => {
  const rules = `
bare: { topic: t, exec: { uri: 'http://a.example/x?', method: get } }
whole: { topic: t, exec: { uri: 'http://a.example/y', method: post, headers: { content-type: application/json }, body: '{{globals.message}}' } }
`.replace('x?', 'x')
  const event = '{ "$schema": "/a/1.0.0",  "meta":{"stream":"t"}, "n": 12345678901234567890, "u": "\\u00e9" }'
  const { stdout } = await (await terminalWith({ 'rules/a.yaml': rules })).run(
    ['try', '--event', '-', '--format', 'json'],
    { stdin: ` ${event}\n` },
  )
  const [bare, whole] = JSON.parse(stdout)
  expect(bare.requests).toEqual([{ method: 'GET', uri: 'http://a.example/x', headers: {} }])
  expect(whole.requests[0].body).toBe(event)
})

test('try labels the events of an array', async () => {
  const terminal = await terminalWith({ ...files, 'e.json': `[${pageChange()}, ${pageChange({ stream: 'x' })}]` })
  const { stdout } = await terminal.run(['try', '--config', 'c.yaml', '--event', 'e.json', '--format', 'json'])
  expect(JSON.parse(stdout)).toMatchObject([
    { event: 0, rule: 'purge', matched: true },
    { event: 1, rule: 'purge', matched: false },
  ])
  const text = await terminal.run(['try', '--config', 'c.yaml', '--event', 'e.json'])
  expect(text.stdout).toContain('event 0: purge: yes')
  expect(text.stdout).toContain('event 1: purge: no, topic at meta.stream')
})

test('try tells people the same', async () => {
  const { stdout } = await (await terminalWith(files)).run(['try', '--config', 'c.yaml', '--event', '-'], {
    stdin: pageChange(),
  })
  expect(stdout).toContain('purge: yes\n')
  expect(stdout).toContain('  POST http://en.w.example/w/api.php\n')
  expect(stdout).toContain('    authorization: ***\n')
  expect(stdout).toContain('    {"title":"A \\"b\\"","lang":"en"}\n')
})

test('try says why a request cannot be sent', async () => {
  const rules = "gone: { topic: mediawiki.page_change.v1, exec: { uri: '{{wiki.url}}/x' } }"
  const config = "wikis: [ { database: other, url: 'http://o' } ]"
  const terminal = await terminalWith({ 'c.yaml': config, 'rules/a.yaml': rules })
  const { code, stdout } = await terminal.run(argv, { stdin: pageChange() })
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject([{ matched: true, requests: [{ error: 'unknown_wiki' }] }])
})

describe('try finds problems (exit code 1)', () => {
  test.each([
    ['an event that is no JSON', '{"a":', 'stdin: expected an event as JSON'],
    ['no event at all', '', 'stdin: expected an event as JSON'],
    ['an event without a stream', '{"meta":{}}', 'event 0: expected an object with meta.stream as text'],
    ['an event that is no object', '[5]', 'expected an'],
    [
      'an event that is nested too deep',
      `[${pageChange()},${'['.repeat(99)}${']'.repeat(99)}]`,
      'event 1: expected an event that can be read; found: It is nested deeper than 64 levels',
    ],
  ])('in %s', async (_what, stdin, message) => {
    const { code, stdout, stderr } = await (await terminalWith(files)).run(argv, { stdin })
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toContain(message)
  })

  test('in rules', async () => {
    const terminal = await terminalWith({ 'rules/a.yaml': 'a: { topic: x }' })
    const { code, stdout, stderr } = await terminal.run(['try', '--event', '-'], { stdin: pageChange() })
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toContain('exec')
  })
})
