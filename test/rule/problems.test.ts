import { describe, expect, test } from 'vitest'
import { formatProblem } from '../../src/base/problem.ts'
import type { JsonObject } from '../../src/event/event.ts'
import { parse, problemsWith, ruleWith } from './world.ts'

describe('problems', () => {
  test('are all reported at once, each at its place, with a remedy', () => {
    const text = [
      'purge:',
      '  topic: page',
      '  retyr: { limit: 5 }',
      '  retry: { limit: -1 }',
      '  match: { title: "/(a+)+$/", page: { id: null } }',
      '  exec:',
      '    - { method: post, uri: "http://a.example/{{mesage.x}}" }',
      '    - { method: post, uri: "http://a.example/?x", headers: { x: "{{message" } }',
      'other:',
      '  exec: { uri: "http://a.example/" }',
    ].join('\n')
    const { rules, problems } = parse(text)

    expect(rules).toEqual([])
    expect(problems.map(({ line, column, path }) => `${line}:${column} ${path}`).sort()).toEqual(
      [
        '9:1 other',
        '3:3 purge.retyr',
        '4:19 purge.retry.limit',
        '5:19 purge.match.title',
        '5:43 purge.match.page.id',
        '7:28 purge.exec[0].uri',
        '8:28 purge.exec[1].uri',
        '8:65 purge.exec[1].headers.x',
      ].sort(),
    )
    expect(problems.every(({ remedy }) => remedy !== '')).toBe(true)
  })

  test.each<[string, JsonObject, string]>([
    ['a misspelt key', { mach: {} }, 'did you mean match?'],
    ['a key that is near a later one', { dedupe: {} }, 'did you mean dedup?'],
    ['a misspelt key of exec', { exec: { url: 'http://a.example/' } }, 'did you mean uri?'],
    ['a missing topic', { topic: null }, 'expected the key topic, found none'],
    ['a missing exec', { exec: null }, 'expected the key exec, found none'],
    ['topic and topics', { topics: ['x'] }, 'expected topic or topics, found both'],
    ['no topics', { topic: null, topics: [] }, 'rule.topics'],
    ['a runaway topic', { topic: ['x', '/(a+)+$/'] }, 'rule.topic[1]'],
    ['exec beside cases', { cases: [{ exec: { uri: 'http://a.example/' } }] }, 'within the cases only'],
    ['a case without exec', { exec: null, cases: [{ match: {} }] }, 'rule.cases[0]'],
    ['too many requests', { exec: Array.from({ length: 31 }, () => ({ uri: 'http://a.example/' })) }, 'rule.exec'],
    ['no requests', { exec: [] }, 'rule.exec'],
    ['no concurrency', { throttle: { concurrency: 0 } }, 'rule.throttle.concurrency'],
    ['absurd concurrency', { throttle: { concurrency: 1e9 } }, 'rule.throttle.concurrency'],
    ['concurrency as text', { throttle: { concurrency: '5' } }, 'rule.throttle.concurrency'],
    ['two concurrencies', { throttle: { concurrency: 5 }, concurrency: 5 }, 'found both'],
    ['a negative delay', { retry: { delay: '-5s' } }, 'rule.retry.delay'],
    ['a delay that is a number', { retry: { delay: 5 } }, 'rule.retry.delay'],
    ['an absurd delay', { retry: { max_age: '99999999d' } }, 'expected at most 366d'],
    [
      'a delay longer than the longest',
      { retry: { delay: '2h' } },
      'not to be longer than retry.max_delay, found 2h and 1h',
    ],
    ['a longest delay shorter than the delay', { retry: { max_delay: '1s' } }, 'rule.retry.max_delay'],
    ['a factor below 1', { retry: { factor: 0.5 } }, 'rule.retry.factor'],
    ['another word for retry', { retry: 'nevr' }, 'did you mean never?'],
    ['retry in both spellings', { retry: { limit: 1 }, retry_limit: 1 }, 'found both'],
    ['no timeout', { exec: { uri: 'http://a.example/', timeout: '0s' } }, 'above 0 and at most 1d, found "0s"'],
    [
      'an endless timeout',
      { exec: { uri: 'http://a.example/', timeout: '25d' } },
      'above 0 and at most 1d, found "25d"',
    ],
    ['a timeout in milliseconds', { exec: { uri: 'http://a.example/', timeout: 500 } }, 'rule.exec.timeout'],
    ['limiters', { limiters: {} }, 'not supported by this version yet'],
  ])('name %s', (_, keys, expected) => {
    const problems = problemsWith(keys)

    expect(problems).toHaveLength(keys.retry === 'nevr' ? 1 : problems.length)
    expect(problems.join('\n')).toContain(expected)
    expect(problems.some((problem) => !problem.includes(' warning: '))).toBe(true)
  })

  test.each<[string, string]>([
    ['- a', 'expected a mapping from names to rules, found a list'],
    ['text', 'expected a mapping from names to rules'],
    ['rule:', 'expected a rule, found null'],
    ['rule: [1]', 'expected a rule, found a list'],
    ['a b: { topic: x, exec: { uri: "http://a.example/" } }', 'expected the name of a rule'],
    ['rule: { topic: x, match: { n: .inf }, exec: { uri: "http://a.example/" } }', 'a number that JSON can say'],
    [
      'rule: { topic: x, exec: { method: post, uri: "http://a.example/", body: { n: .nan } } }',
      'a number that JSON can say',
    ],
    ['rule: &r { topic: x, match: { a: *r }, exec: { uri: "http://a.example/" } }', 'anchor'],
    [
      'services: [{ conf: { spec: { paths: { /x: { x-modules: [] } } } } }]',
      'expected rules in this service configuration',
    ],
  ])('name what is no rule: %s', (text, expected) => {
    const { rules, problems } = parse(text)

    expect(rules).toEqual([])
    expect(problems.map(formatProblem).join('\n')).toContain(expected)
  })

  test('say once that a number is none', () => {
    const { problems } = parse('rule: { topic: x, match: { n: .inf, l: [.nan] }, exec: { uri: "http://a.example/" } }')

    expect(problems.map(({ path }) => path)).toEqual(['rule.match.n', 'rule.match.l[0]'])
  })

  test('name the known keys, those that have an effect first', () => {
    expect(problemsWith({ zzzzzz: 1 })[0]).toMatch(
      /known here: topic, topics, .*, concurrency, limiters, .*, consumer$/,
    )
  })

  test('of requests are found beside keys that cannot be read', () => {
    const exec = [
      { methd: 'post', uri: 'http://a.example/{{mesage.x}}' },
      { uri: 7, headers: { x: '{{' } },
    ]
    const cases = [{ exec: { uri: '/sys/x', timeout: 5 } }]

    expect(problemsWith({ exec }).map((problem) => problem.split(': ')[0]?.split(' ')[1])).toEqual([
      'rule.exec[0].methd',
      'rule.exec[1].uri',
      'rule.exec[0].uri',
      'rule.exec[1].headers.x',
    ])
    expect(problemsWith({ exec: null, cases })).toHaveLength(2)
  })

  test('are not drawn from what could not be read', () => {
    const exec = { uri: 'http://a.example/{match.title.x}' }

    expect(problemsWith({ match: 'text', match_not: {}, exec })).toEqual([expect.stringContaining('rule.match:')])
  })

  test('leave the other rules of the file alone', () => {
    const { rules } = parse('bad: { topic: x }\ngood: { topic: x, exec: { uri: "http://a.example/" } }')

    expect(rules.map(({ name }) => name)).toEqual(['good'])
  })
})

describe('warnings', () => {
  test.each<[string, JsonObject, string]>([
    ['match and match_not are equal', { match: { a: 1 }, match_not: { a: 1 } }, 'can never match'],
    [
      'match_not is a part of match',
      { match: { a: 1, b: '/x/' }, match_not: [{ c: 1 }, { b: '/x/' }] },
      'can never match',
    ],
    ['match_not is empty', { match_not: {} }, 'can never match'],
    ['only canary events would match', { match: { meta: { domain: 'canary' } } }, 'can never match'],
    [
      'a topic is excluded that was not meant',
      { exclude_topics: ['other'] },
      'expected a stream that the rule concerns, found other',
    ],
    ['all topics are excluded', { exclude_topics: ['page'] }, 'found all of them excluded'],
    [
      'a topic is a regex with flags that there are not',
      { topic: '/a/gx' },
      'rule.topic: expected the name of a stream',
    ],
    ['a topic is a regex without an end', { topic: ['page', '/'] }, 'rule.topic[1]: expected the name of a stream'],
    ['a topic has a space', { topic: null, topics: ['a b'] }, 'found "a b": no stream has such a name'],
    ['a topic is too long', { topic: 'x'.repeat(201) }, 'use up to 200 letters, digits'],
    [
      'an excluded topic is a regex without an end',
      { exclude_topics: '/pa' },
      'rule.exclude_topics: expected the name of a stream, or a /regex/, found "/pa"',
    ],
    ['a named group is not used', { match: { a: '/(?<x>.)/' } }, 'uses the group x of a, found none'],
    [
      'a case cannot be reached',
      {
        exec: null,
        cases: [{ exec: { uri: 'http://a.example/' } }, { match: { a: 1 }, exec: { uri: 'http://a.example/' } }],
      },
      'found one after case 0',
    ],
    ['a key has no effect', { reenqueue_delay: 5 }, 'polling interval'],
    [
      'a schema does not begin with a slash',
      { schema: 'a/b/^1.0.0' },
      'with a slash, found "a/b/^1.0.0": the rule can',
    ],
    [
      'a schema names no version',
      { schema: '/a/b' },
      'expected a version, or a semver range, at the end of the path, found',
    ],
    ['a wiki is needed and none is configured', { exec: { uri: '{{wiki.url}}/x' } }, 'expected a configured wiki'],
  ])('are given where %s', (_, keys, expected) => {
    const problems = problemsWith(keys)

    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(' warning: ')
    expect(problems[0]).toContain(expected)
  })

  test.each<[string, JsonObject]>([
    ['one of a choice may still match', { match: [{ a: 1 }, { a: 2 }], match_not: { a: 1 } }],
    ['match_not asks for more than match', { match: { a: 1 }, match_not: { a: 1, b: 2 } }],
    ['the group is used', { match: { a: '/(?<x>.)/' }, exec: { uri: 'http://a.example/{match.a.x}' } }],
    [
      'the groups are used as a whole',
      { match: { a: '/(?<x>.)/' }, exec: { method: 'post', uri: 'http://a.example/', body: '{{match}}' } },
    ],
    ['a topic has all that a name may have', { topic: ['_a.b-C9', '9', '/a b/i', 'x'.repeat(200)] }],
    ['plain groups are not used', { match: { a: '/(.)/' } }],
    ['a schema has a version', { schema: '/a/b/1.0.0' }],
    ['a schema has a range', { schema: '/a/b/1.x || ^2.1' }],
  ])('are not given where %s', (_, keys) => {
    expect(problemsWith(keys)).toEqual([])
  })
})

describe('policies', () => {
  test('have defaults', () => {
    const { retry, throttle } = ruleWith({})

    expect(throttle.total.concurrency).toBe(50)
    expect(retry).toEqual({
      limit: 8,
      delayMs: 5_000,
      factor: 3,
      maxDelayMs: 3_600_000,
      maxAgeMs: 604_800_000,
      jitter: 'full',
    })
  })

  test('of ours are taken as written', () => {
    const { retry, throttle } = ruleWith({
      retry: { limit: 0, delay: '500ms', factor: 1.5, max_delay: '1m', max_age: '1h', jitter: 'none' },
      throttle: { concurrency: 1 },
    })

    expect(throttle.total.concurrency).toBe(1)
    expect(retry).toEqual({
      limit: 0,
      delayMs: 500,
      factor: 1.5,
      maxDelayMs: 60_000,
      maxAgeMs: 3_600_000,
      jitter: 'none',
    })
    expect(ruleWith({ retry: 'never' }).retry).toBe('never')
  })

  test('in Wikimedia’s spelling bring Wikimedia’s defaults', () => {
    expect(ruleWith({ retry_delay: 10 }).retry).toMatchObject({ limit: 2, delayMs: 10, factor: 6, jitter: 'none' })
    expect(ruleWith({ concurrency: 7 }).throttle.total.concurrency).toBe(7)
  })
})

describe('a revision', () => {
  const revision = (keys: JsonObject) => ruleWith(keys).revision

  test('is 12 hex digits, the same for what says the same', () => {
    expect(revision({ match: { a: 1, b: 2 } })).toMatch(/^[0-9a-f]{12}$/)
    expect(revision({ match: { a: 1, b: 2 } })).toBe(revision({ match: { b: 2, a: 1 } }))
  })

  test('is another one for whatever a rule says otherwise', () => {
    const all = [
      {},
      { match: {} },
      { retry: 'never' },
      { throttle: { concurrency: 2 } },
      { exec: { uri: 'http://a.example/x' } },
    ]

    expect(new Set(all.map((keys) => revision(keys))).size).toBe(all.length)
  })
})
