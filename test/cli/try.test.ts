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
      gates: [],
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
      gates: [],
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

test.each([
  ['a query', "query: { access_token: hush, n: '1' }", 'http://a.example/x?access_token=***&n=1', undefined],
  ['a form', "method: post, body: { o: { password: hush }, n: '1' }", undefined, 'o%5Bpassword%5D=***&n=1'],
  [
    'JSON',
    "method: post, headers: { content-type: application/json }, body: { o: { password: hush, m: '{{message.$schema}}' } }",
    undefined,
    '{"o":{"password":"***","m":"/a/1.0.0"}}',
  ],
  [
    'an event as a whole',
    "method: post, body: '{{globals.message}}'",
    undefined,
    '{ "$schema": "/a/1.0.0", "meta": {"stream":"t"}, "token":"***" }',
  ],
  ['text', "method: post, headers: { content-type: text/plain }, body: 'no token=x'", undefined, 'no token=x'],
])('try masks secrets in %s', async (_what, request, uri = 'http://a.example/x', body) => {
  const rules = `r: { topic: t, exec: { uri: 'http://a.example/x', ${request} } }`
  const { stdout } = await (await terminalWith({ 'rules/a.yaml': rules })).run(
    ['try', '--event', '-', '--format', 'json'],
    { stdin: '{ "$schema": "/a/1.0.0", "meta": {"stream":"t"}, "token":"hush" }' },
  )
  const [{ requests }] = JSON.parse(stdout)
  expect([requests[0].uri, requests[0].body]).toEqual([uri, body])
})

test('try masks secrets of a request that cannot be sent, too', async () => {
  const rules = "r: { topic: t, exec: { uri: '{{message.url}}', query: { access_token: hush } } }"
  const config = "targets: { a: { url: 'http://a.example/x' } }"
  const { stdout } = await (await terminalWith({ 'c.yaml': config, 'rules/a.yaml': rules })).run(argv, {
    stdin: '{ "$schema": "/a/1.0.0", "meta": {"stream":"t"}, "url": "http://b.example" }',
  })
  expect(stdout).toContain('covers http://b.example/?access_token=***')
})

test('try says why a request cannot be sent', async () => {
  const rules = "gone: { topic: mediawiki.page_change.v1, exec: { uri: '{{wiki.url}}/x' } }"
  const config = "wikis: [ { database: other, url: 'http://o' } ]"
  const terminal = await terminalWith({ 'c.yaml': config, 'rules/a.yaml': rules })
  const { code, stdout } = await terminal.run(argv, { stdin: pageChange() })
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject([{ matched: true, requests: [{ error: 'unknown_wiki' }] }])
})

describe('try says what the gates make of an event that matches', () => {
  const topic = 'mediawiki.page_change.v1'
  const minute = 60_000
  const ago = (ms: number) => new Date(Date.now() - ms).toISOString()
  const words = (what: string) => ({ $schema: '/a/1.0.0', meta: { stream: topic, domain: 'en.w.example' }, what })

  async function tried(policies: string, event: object, format: 'json' | 'text' = 'json') {
    const rules = `r: { topic: ${topic}, exec: { uri: 'http://a.example/x' }, ${policies} }`
    const terminal = await terminalWith({ 'rules/a.yaml': rules })
    const { code, stdout, stderr } = await terminal.run(['try', '--event', '-', '--format', format], {
      stdin: JSON.stringify(event),
    })
    expect([code, stderr]).toEqual([0, ''])
    return stdout
  }

  test.each<[string, string, object, object[], string]>([
    ['has no policy', 'retry: never', words('x'), [], 'r: yes\n  GET http://a.example/x\n'],
    [
      'is young enough',
      'expire: 1h',
      { $schema: '/a/1.0.0', meta: { stream: topic, dt: ago(minute) } },
      [{ gate: 'expire', verdict: 'passes' }],
      'r: yes\n  expire: passes\n',
    ],
    [
      'is too old',
      "expire: 1h, dedup: { key: '{{message.what}}' }",
      { $schema: '/a/1.0.0', meta: { stream: topic, dt: ago(61 * minute) }, what: 'x' },
      [{ gate: 'expire', verdict: 'done', reason: 'expired' }],
      'r: yes, but never called, done (expired): it was too old to be worth a call\n  expire: done (expired)\n',
    ],
    [
      'is in the share',
      "sample: { rate: 1, key: '{{message.what}}' }",
      words('x'),
      [{ gate: 'sample', verdict: 'passes' }],
      'r: yes\n  sample: passes\n',
    ],
    [
      'is not in the share',
      "sample: { rate: 0.000001, key: '{{message.what}}' }",
      words('x'),
      [{ gate: 'sample', verdict: 'done', reason: 'sampled' }],
      'r: yes, but never called, done (sampled): it is not in the share of events that the rule wants\n  sample: done (sampled)\n',
    ],
    [
      'has keys',
      "dedup: { key: '{{message.what}}' }, supersede: { signature: 's-{{message.what}}', time: '{{message.at}}', across_wikis: true }, throttle: { key: '{{message.what}}', concurrency: 1 }",
      { ...words('x'), at: 1_790_000_000 },
      [
        { gate: 'dedup', verdict: 'depends', key: 'en.w.example x' },
        { gate: 'supersede', verdict: 'depends', key: 's-x', time: '2026-09-21T14:13:20.000Z' },
        { gate: 'throttle', verdict: 'depends', key: 'x' },
      ],
      'r: yes\n  dedup: key "en.w.example x"\n  supersede: key "s-x", time 2026-09-21T14:13:20.000Z\n  throttle: key "x"\n',
    ],
    [
      'has no keys',
      "order: { key: '{{message.gone}}' }, supersede: { signature: '{{message.what}}', time: '{{message.gone}}' }, throttle: { key: '{{message.gone}}', concurrency: 1 }",
      words('x'),
      [
        { gate: 'order', verdict: 'passes', note: 'no key' },
        { gate: 'supersede', verdict: 'passes', note: 'no time that can be read' },
        { gate: 'throttle', verdict: 'depends', note: 'no key' },
      ],
      'r: yes\n  order: passes: no key\n  supersede: passes: no time that can be read\n  throttle: no key\n',
    ],
    ...['dedup', 'order', 'throttle'].map((gate): [string, string, object, object[], string] => [
      `has a list as key of ${gate}`,
      `${gate}: { key: '{{message.list}}' }`,
      { ...words('x'), list: [1] },
      [
        {
          gate,
          verdict: 'dead',
          reason: 'key_failed',
          note: 'expected text for message.list, the event has a list',
        },
      ],
      `r: yes, but never called, dead (key_failed): a template of its dedup, order, supersede, sample, delay or throttle could not be rendered from the event\n  ${gate}: dead (key_failed): expected text for message.list, the event has a list\n`,
    ]),
    [
      'names an instant that cannot be read',
      "delay: '{{message.what}}'",
      words('soon'),
      [{ gate: 'delay', verdict: 'passes', note: 'the instant cannot be read' }],
      'r: yes\n  delay: passes: the instant cannot be read\n',
    ],
    ['names no instant', "delay: '{{message.gone}}'", words('x'), [], 'r: yes\n'],
    [
      'is to wait',
      "delay: '{{message.what}}'",
      words('2126-01-01T00:00:00Z'),
      [{ gate: 'delay', verdict: 'waiting', reason: 'due', until: '2126-01-01T00:00:00.000Z' }],
      'r: yes\n  delay: waiting (due) until 2126-01-01T00:00:00.000Z\n',
    ],
    [
      'is to wait by itself, until it is too old',
      'expire: 1h',
      { ...words('x'), delay_until: '2126-01-01T00:00:00Z' },
      [
        { gate: 'expire', verdict: 'passes' },
        { gate: 'delay', verdict: 'waiting', reason: 'due', until: '2126-01-01T00:00:00.000Z' },
        { gate: 'expire', verdict: 'done', reason: 'expired', note: 'by then' },
      ],
      'r: yes, but never called, done (expired): it was too old to be worth a call\n',
    ],
    [
      'is due',
      'delay: 2s',
      { $schema: '/a/1.0.0', meta: { stream: topic, dt: ago(minute) } },
      [{ gate: 'delay', verdict: 'passes' }],
      'r: yes\n  delay: passes\n',
    ],
  ])('that %s', async (_what, policies, event, gates, text) => {
    expect(JSON.parse(await tried(policies, event))).toMatchObject([{ matched: true, gates, requests: [{}] }])
    expect(await tried(policies, event, 'text')).toContain(text)
  })

  test('and that its first request cannot be made', async () => {
    const rules = `gone: { topic: ${topic}, exec: [ { uri: '{{wiki.url}}/x' }, { uri: 'http://a.example' } ] }`
    const { stdout } = await (await terminalWith({ 'rules/a.yaml': rules })).run(['try', '--event', '-'], {
      stdin: pageChange(),
    })
    expect(stdout).toContain(
      'gone: yes, but never called, dead (unknown_wiki): no wiki of the configuration fits the event\n',
    )
  })
})

describe('try warns of an event that the intake would refuse, and asks the rules all the same:', () => {
  const refused = 'warning: expected an event that the intake takes, found one that it refuses: '
  test.each([
    ['no schema', '{"meta":{"stream":"t"}}', 'field $schema is missing from the event', true],
    ['no stream', '{"$schema":"/a/1.0.0","meta":{}}', "/meta must have required property 'stream'", false],
    ['no meta', '{"$schema":"/a/1.0.0"}', "the event must have required property 'meta'", false],
    [
      'an id that is none',
      '{"$schema":"/a/1.0.0","meta":{"stream":"t","id":"x"}}',
      '/meta/id must match pattern',
      true,
    ],
  ])('%s', async (_what, stdin, why, matched) => {
    const terminal = await terminalWith({ 'rules/a.yaml': "r: { topic: t, exec: { uri: 'http://a.example' } }" })
    const { code, stdout, stderr } = await terminal.run(['try', '--event', '-', '--format', 'json'], { stdin })
    expect([code, JSON.parse(stdout)]).toMatchObject([0, [{ rule: 'r', matched }]])
    expect(stderr).toContain(`stdin:1:1 ${refused}${why}`)
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
  })

  test('each of several, with its place', async () => {
    const terminal = await terminalWith(files)
    const { code, stderr } = await terminal.run(argv, { stdin: `[${pageChange()},\n {"é":1}, {"meta":{}}]` })
    const why = `${refused.replace('warning: ', '')}field $schema is missing from the event; correct it`
    expect([code, stderr]).toEqual([0, `stdin:2:2 warning: event 1: ${why}\nstdin:2:11 warning: event 2: ${why}\n`])
  })
})

describe('try finds problems (exit code 1)', () => {
  const none = 'expected an event as JSON, or an array of events, found none in stdin; correct it'
  test.each([
    ['an event that ends too early', '{"a":', '1:6 expected JSON in stdin, found the end of stdin; correct it'],
    ['an event that is no JSON', ' {\n  "a": nul }', '2:8 expected JSON in stdin, found "nul"; correct it'],
    ['no event at all', '', `1:1 ${none}`],
    ['an empty list', '[]', `1:1 ${none}`],
    ['text', '"x"', '1:1 expected an event as JSON, or an array of events, found another value in stdin; correct it'],
    ['an event that is no object', '[5]', '1:2 event 0: expected an event that can be read, found 5; correct it'],
    ['a list in a list', '[[1]]', '1:2 event 0: expected an event that can be read, found a list; correct it'],
    [
      'an event that is nested too deep',
      `[{"é":1},\n  ${'['.repeat(99)}${']'.repeat(99)}]`,
      '2:3 event 1: expected an event that can be read, found one that cannot: it is nested deeper than 64 levels, the posted array included; correct it',
    ],
  ])('in %s', async (_what, stdin, message) => {
    const { code, stdout, stderr } = await (await terminalWith(files)).run(argv, { stdin })
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr.split('\n')).toContain(`stdin:${message}`)
    expect(stderr).not.toMatch(/request body/i)
  })

  test('in a file, which is named', async () => {
    const terminal = await terminalWith({ ...files, 'e.json': '[{}\n{}]' })
    const { code, stderr } = await terminal.run(['try', '--config', 'c.yaml', '--event', 'e.json'])
    expect([code, stderr]).toEqual([1, 'e.json:2:1 expected JSON in the file, found "{}]"; correct it\n'])
  })

  test('in rules', async () => {
    const terminal = await terminalWith({ 'rules/a.yaml': 'a: { topic: x }' })
    const { code, stdout, stderr } = await terminal.run(['try', '--event', '-'], { stdin: pageChange() })
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toContain('exec')
  })
})

test('try tells problems of rules in the order of the file, as check does', async () => {
  const rules = 'r:\n  topic: t\n  nosuch: 1\n  match: { n: .nan }\n  exec: { uri: http://a.example/ }\n'
  const terminal = await terminalWith({ 'rules/a.yaml': rules })
  const told = (await terminal.run(['try', '--event', '-'], { stdin: pageChange() })).stderr
  expect(told.match(/:\d+:\d+ /g)).toEqual([':3:3 ', ':4:15 '])
  expect((await terminal.run(['check'])).stderr).toBe(told)
})
