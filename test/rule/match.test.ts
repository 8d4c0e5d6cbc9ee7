import { describe, expect, test } from 'vitest'
import type { Json, JsonObject } from '../../src/event/event.ts'
import { problemsWith, ruleWith } from './world.ts'

const event: JsonObject = {
  $schema: '/test/1.0.0',
  meta: { uri: 'a/fake/uri/for/you', domain: 'wiki.example' },
  number: 1,
  string: 'oolala',
  flag: false,
  nothing: null,
  empty: '',
  words: ['2', 1, '3', '4', 5],
  pages: [{ title: 'A', id: 1 }, { title: 'B' }, null],
}

describe('a pattern', () => {
  test.each<[string, Json, boolean]>([
    ['fits everything where it is empty', {}, true],
    ['fits equal numbers and texts', { number: 1, string: 'oolala' }, true],
    ['does not fit another number', { number: 2, string: 'oolala' }, false],
    ['does not take text for a number', { number: '1' }, false],
    ['does not take a missing value for false', { missing: false }, false],
    ['fits false where it is', { flag: false }, true],
    ['does not take null for false', { nothing: false }, false],
    ['fits an empty text', { empty: '' }, true],
    ['does not take a missing value for an empty text', { missing: '' }, false],
    ['finds a regex anywhere in a text', { string: '/(?:la)+/' }, true],
    ['does not find a regex in what is not there', { missing: '/.+/' }, false],
    ['does not find a regex in a number, a list or null', { number: '/1/', words: '/2/', nothing: '/null/' }, false],
    ['does not fit where the regex is not found', { string: '/lah/' }, false],
    ['obeys the flags of a regex', { string: '/OOLALA/i' }, true],
    ['takes text that only begins with a slash as it is', { $schema: '/test/1.0.0' }, true],
    ['fits what is not there with the word undefined', { missing: 'undefined' }, true],
    ['does not take null for what is not there', { nothing: 'undefined' }, false],
    ['wants the mapping in which something is not to be there', { missing: { inner: 'undefined' } }, false],
    ['fits a missing member of a mapping', { meta: { missing: 'undefined' } }, true],
    ['never takes a text for a mapping', { string: { length: 6 } }, false],
    ['never takes a list for a mapping', { words: {} }, false],
    ['never takes null for a mapping', { nothing: {} }, false],
    ['fits any mapping where it is empty', { meta: {} }, true],
    ['does not see what all objects inherit', { constructor: { name: 'Object' } }, false],
    ['fits a list that has something for each item', { words: ['3', 1, '/(\\d)/'] }, true],
    ['lets one element serve several items', { words: ['/4/', '4'] }, true],
    ['does not fit a list that lacks an item', { words: ['3', 7] }, false],
    ['does not take a text for a list', { string: ['oolala'] }, false],
    ['fits mappings within lists, past a null', { pages: [{ title: 'B', id: 'undefined' }] }, true],
    ['is a choice where it is a list', [{ number: 2 }, { string: 'oolala' }], true],
    ['does not fit where no item of the choice does', [{ number: 2 }, { string: 'x' }], false],
  ])('%s', (_, match, expected) => {
    const rule = ruleWith({ match })

    expect(rule.match(event) !== undefined).toBe(expected)
    expect(rule.explain('page', event) === undefined).toBe(expected)
  })

  test('in match_not excludes what fits it, and in a list what fits any item', () => {
    const list = [{ meta: { uri: '/my-url/' } }, { meta: { uri: '/my-other-url/' } }]
    const at = (uri: string) => ruleWith({ match_not: list }).match({ meta: { uri } })

    expect(at('/x')).toBeDefined()
    expect(at('/my-url')).toBeUndefined()
    expect(at('/my-other-url')).toBeUndefined()
  })

  test('needs match to fit and match_not not to', () => {
    const both = (match: Json, match_not: Json) => ruleWith({ match, match_not }).match(event) !== undefined

    expect(both({ number: 1 }, { meta: { uri: '/my-url/' } })).toBe(true)
    expect(both({ number: 1 }, { meta: { uri: '/fake/' } })).toBe(false)
    expect(both({ number: 2 }, { meta: { uri: '/my-url/' } })).toBe(false)
  })

  test('never looks for a regex in a text of more than 16,384 characters', () => {
    const rule = ruleWith({ match: { title: '/a/' } })

    expect(rule.match({ title: 'a'.repeat(16_384) })).toBeDefined()
    expect(rule.match({ title: 'a'.repeat(16_385) })).toBeUndefined()
  })

  test('gives the same answer again with regexes that would remember where they were', () => {
    const rule = ruleWith({ match: { string: '/la/gy' } })

    expect([1, 2, 3].map(() => rule.match({ string: 'la' }) !== undefined)).toEqual([true, true, true])
  })

  test.each<[Json]>([[{ title: null }], [{ title: '/l/ah/' }], [{ title: '/(/' }], [[]], ['text']])(
    '%j is a problem',
    (match) => {
      expect(problemsWith({ match })).toHaveLength(1)
    },
  )
})

describe('captures', () => {
  const capturesOf = (match: Json) => ruleWith({ match }).match(event)?.captures

  test('hold the hit and the plain groups of a regex by number', () => {
    expect(capturesOf({ meta: { uri: '/fake\\/([^/]+)(x)?/' } })).toEqual({ meta: { uri: ['fake/uri', 'uri', null] } })
  })

  test('hold named groups by name, without those that took no part', () => {
    const captures = capturesOf({ meta: { uri: '/fake\\/(?<element>[^/]+)(?<other>x)?/' } })

    expect(captures).toEqual({ meta: { uri: { element: 'uri' } } })
  })

  test('hold texts, numbers and booleans that were compared', () => {
    expect(capturesOf({ number: 1, flag: false, words: ['3'], missing: 'undefined' })).toEqual({
      number: 1,
      flag: false,
    })
  })

  test('are those of the item of a choice that fits', () => {
    expect(capturesOf([{ number: 2 }, { string: '/(?<o>o+)/' }])).toEqual({ string: { o: 'oo' } })
  })

  test('are one and the same empty object where nothing is captured', () => {
    const rule = ruleWith({})

    expect(rule.match(event)).toBe(rule.match({ other: 1 }))
    expect(rule.match(event)?.captures).toEqual({})
  })
})

describe('cases', () => {
  const cases = [
    { match: { number: 2 }, exec: { uri: 'http://a.example/two' } },
    { match: { number: 1 }, match_not: { string: 'x' }, exec: { uri: 'http://a.example/one' } },
    { exec: { uri: 'http://a.example/rest' } },
  ]
  const caseOf = (message: JsonObject) => ruleWith({ exec: null, cases }).match(message)?.case

  test('are asked in order, and the first that fits is used', () => {
    expect([caseOf({ number: 2 }), caseOf({ number: 1 }), caseOf({ number: 1, string: 'x' })]).toEqual([0, 1, 2])
  })

  test('are null where the rule has none', () => {
    expect(ruleWith({}).match(event)?.case).toBeNull()
  })
})

describe('schema', () => {
  test.each<[string, string, boolean]>([
    ['/mediawiki/page/change/^1.0.0', '/mediawiki/page/change/1.2.0', true],
    ['/mediawiki/page/change/^1.0.0', '/mediawiki/page/change/2.0.0', false],
    ['/mediawiki/page/change/^1.0.0', '/mediawiki/page/other/1.2.0', false],
    ['/mediawiki/page/change/>=1.1.0 <3', '/mediawiki/page/change/2.0.0', true],
    ['/mediawiki/page/change/1.0.0', '/mediawiki/page/change/1.0.0', true],
    ['/mediawiki/page/change/1.0.0', '/mediawiki/page/change/1.0.1', false],
    ['/mediawiki/page/change/latest', '/mediawiki/page/change/latest', true],
    ['/mediawiki/page/^1.0.0', '/mediawiki/page/change/1.0.0', false],
    ['/mediawiki/page/^1.0.0', '/mediawiki/page/nonsense', false],
  ])('%s and an event of %s: %s', (schema, $schema, expected) => {
    const rule = ruleWith({ schema })

    expect([1, 2].map(() => rule.match({ $schema }) !== undefined)).toEqual([expected, expected])
  })

  test('does not fit an event without one', () => {
    expect(ruleWith({ schema: '/a/^1.0.0' }).match({})).toBeUndefined()
  })
})

describe('canary events', () => {
  const canary = { meta: { domain: 'canary' } }

  test('are passed over', () => {
    expect(ruleWith({}).match(canary)).toBeUndefined()
    expect(ruleWith({}).explain('page', canary)?.clause).toBe('canary')
  })

  test('are taken where the rule says so', () => {
    expect(ruleWith({ discard_canary_events: false }).match(canary)).toBeDefined()
  })
})

describe('topics', () => {
  const concerns = (keys: JsonObject) => (topic: string) => ruleWith(keys).concernsTopic(topic)

  test('are names, or regexes found in the name', () => {
    const rule = concerns({ topic: ['plain', '/^mediawiki\\.job\\./'] })

    expect(['plain', 'plain2', 'mediawiki.job.x', 'x.mediawiki.job.x'].map(rule)).toEqual([true, false, true, false])
  })

  test('may be excluded', () => {
    const rule = concerns({ topic: '/job/', exclude_topics: ['job.a', '/^job\\.z/'] })

    expect(['job.a', 'job.b', 'job.zz'].map(rule)).toEqual([false, true, false])
  })
})

describe('the reason why a rule does not concern an event', () => {
  test.each<[string, JsonObject, Json]>([
    ['names the topic', { topic: 'other' }, { clause: 'topic', path: 'meta.stream', wanted: 'other', found: 'page' }],
    [
      'names the schema',
      { schema: '/b/^2' },
      { clause: 'schema', path: '$schema', wanted: '/b/^2', found: '/test/1.0.0' },
    ],
    [
      'names the first value that does not fit, in the order written',
      { match: { meta: { domain: 'wiki.example', uri: '/x/' }, number: 2 } },
      { clause: 'match', path: 'meta.uri', wanted: '/x/', found: 'a/fake/uri/for/you' },
    ],
    ['leaves out what is not there', { match: { title: 'A' } }, { clause: 'match', path: 'title', wanted: 'A' }],
    [
      'names all that a choice would have taken at one place',
      { match: [{ number: 2 }, { number: 3 }] },
      { clause: 'match', path: 'number', wanted: [2, 3], found: 1 },
    ],
    [
      'names what was excluded',
      { match_not: [{ number: 7 }, { meta: { domain: 'wiki.example' } }] },
      { clause: 'match_not', path: 'meta.domain', wanted: 'wiki.example', found: 'wiki.example' },
    ],
    [
      'shows all that was looked at where several values excluded it together',
      { match_not: { number: 1, flag: false } },
      { clause: 'match_not', path: '', wanted: { number: 1, flag: false }, found: { number: 1, flag: false } },
    ],
  ])('%s', (_, keys, reason) => {
    expect(ruleWith(keys).explain('page', event)).toEqual(reason)
  })
})
