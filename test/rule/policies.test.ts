import { describe, expect, test } from 'vitest'
import type { JsonObject, StreamRecord } from '../../src/event/event.ts'
import { murmur3 } from '../../src/rule/murmur.ts'
import { examplesOfKeys } from '../../src/rule/reference.ts'
import type { TemplateContext } from '../../src/rule/rule.ts'
import { parse, problemsWith, ruleOf, ruleWith } from './world.ts'

const accepted = Date.UTC(2026, 10, 24)

function context(message: JsonObject): TemplateContext {
  const record: StreamRecord = { id: 'id', stream: 'page', accepted, bytes: new Uint8Array(), message }
  return { record, captures: {}, wiki: () => undefined, target: () => undefined }
}

const eventTime = () => accepted

describe('a key', () => {
  const key = (text: string) => ruleWith({ dedup: { key: text } }).dedup?.key ?? (() => 'no dedup')

  test('is the text that the event yields', () => {
    expect(key('{{message.a}}/{{message.b}}')(context({ a: 'x', b: 5 }))).toBe('x/5')
  })

  test.each<[string, JsonObject]>([
    ['absent', { b: 'y' }],
    ['null', { a: null, b: 'y' }],
    ['empty', { a: '', b: 'y' }],
  ])('of which a part is %s is none', (_, message) => {
    expect(key('{{message.a}}/{{message.b}}')(context(message))).toBe('')
  })

  test('in single braces is percent-encoded, as Wikimedia’s samplers have it', () => {
    expect(key('{message.a}{/message.b}{+message.c}')(context({ a: 'x/y', b: 'ä', c: '/' }))).toBe('x%2Fy/%C3%A4/')
  })

  test('that names a wiki which is not configured fails as such', () => {
    expect(() => key('{{wiki.database}}')(context({}))).toThrow(expect.objectContaining({ reason: 'unknown_wiki' }))
  })

  test('may be what match captured, which is a use of it', () => {
    const keys = { match: { title: '/^(?<space>\\w+):/' }, dedup: { key: '{{match.title.space}}' } }
    expect(problemsWith(keys)).toEqual([])
    const exec = { uri: 'http://a.example/' }
    expect(
      problemsWith({ exec: null, match: null, dedup: keys.dedup, cases: [{ match: keys.match, exec }, { exec }] }),
    ).toEqual([])
  })

  test('that is a list fails', () => {
    expect(() => key('{{message.a}}')(context({ a: [1] }))).toThrow(expect.objectContaining({ reason: 'key_failed' }))
  })

  test('whose function fails, fails', () => {
    expect(() => key('{{date(message.a)}}')(context({ a: 'never' }))).toThrow(
      expect.objectContaining({ reason: 'key_failed' }),
    )
  })
})

describe('policies are told in the words of rule files', () => {
  const texts = (keys: JsonObject) => ruleWith(keys).policyTexts
  const none = { delay: null, dedup: null, supersede: null, order: null, expire: null, sample: null }

  test('where a rule has none but the defaults', () => {
    expect(texts({})).toEqual({ throttle: { concurrency: 50 }, ...none })
  })

  test.each<[string, JsonObject, JsonObject]>([
    ['a rate', { throttle: { rate: '2.5/s' } }, { throttle: { concurrency: 50, rate: '150/min', burst: 2 } }],
    [
      'a key of limits',
      { throttle: { concurrency: 2, rate: '50/s', burst: 9, key: '{{message.a}}', total: { rate: '60/s' } } },
      {
        throttle: {
          ...{ concurrency: 2, rate: '50/s', burst: 9, key: '{{message.a}}' },
          total: { concurrency: 50, rate: '60/s', burst: 60 },
        },
      },
    ],
    ['Wikimedia’s concurrency', { concurrency: 7 }, { throttle: { concurrency: 7 } }],
    ['a delay', { delay: '2s' }, { delay: '2s' }],
    ['an instant', { delay: '{{message.at}}' }, { delay: '{{message.at}}' }],
    [
      'dedup',
      { dedup: { key: '{{message.a}}', window: '60m', across_wikis: true } },
      { dedup: { key: '{{message.a}}', window: '1h', across_wikis: true } },
    ],
    [
      'supersede',
      { supersede: { signature: '{{message.a}}', time: '{{message.b}}' } },
      { supersede: { signature: '{{message.a}}', time: '{{message.b}}', across_wikis: false } },
    ],
    [
      'what is implied for jobs',
      { answers: 'mediawiki-job' },
      {
        dedup: { key: '{{message.sha1}}', window: null, across_wikis: false },
        supersede: {
          ...{ signature: '{{message.root_event.signature}}', time: '{{message.root_event.dt}}' },
          across_wikis: false,
        },
      },
    ],
    ['jobs that are neither', { answers: 'mediawiki-job', dedup: false, supersede: false }, {}],
    ['order', { order: { key: '{{message.a}}' } }, { order: { key: '{{message.a}}' } }],
    ['an age', { expire: '36h' }, { expire: { age: '36h', root_age: null } }],
    ['Wikimedia’s ages', { claim_ttl: 86_400, root_claim_ttl: 1 }, { expire: { age: '1d', root_age: '1s' } }],
    [
      'Wikimedia’s sample',
      { sample: { rate: 0.5, hash_template: '{{message.a}}' } },
      { sample: { rate: 0.5, key: '{{message.a}}' } },
    ],
  ])('where it has %s', (_, keys, expected) => {
    expect(texts(keys)).toEqual({ throttle: { concurrency: 50 }, ...none, ...expected })
  })
})

describe('a delay', () => {
  test('that is constant counts from the time of the event', () => {
    expect(ruleWith({ delay: '2s' }).dueAt(context({}), eventTime)).toBe(accepted + 2_000)
  })

  test.each<[string, JsonObject, number]>([
    ['ISO', { at: '2026-12-01T00:00:00Z' }, Date.UTC(2026, 11, 1)],
    ['unix seconds', { at: 1_800_000_000 }, 1_800_000_000_000],
    ['unix seconds as text', { at: '1800000000' }, 1_800_000_000_000],
    ['nothing there', {}, 0],
    ['what is no instant', { at: 'soon' }, Number.NaN],
    ['what only looks like one', { at: 'in May 5' }, Number.NaN],
    ['milliseconds for seconds', { at: 1_800_000_000_000 }, Number.NaN],
    ['the fourteen digits of MediaWiki', { at: '20261201000000' }, Number.NaN],
  ])('that an event names: %s', (_, message, due) => {
    expect(ruleWith({ delay: '{{message.at}}' }).dueAt(context(message), eventTime)).toBe(due)
  })

  test('is that of the event where the rule says none', () => {
    expect(ruleWith({}).dueAt(context({ delay_until: 1_800_000_000 }), eventTime)).toBe(1_800_000_000_000)
    expect(ruleWith({}).dueAt(context({}), eventTime)).toBe(0)
    expect(ruleWith({ delay: '0s' }).dueAt(context({ delay_until: 1_800_000_000 }), eventTime)).toBe(accepted)
  })
})

describe('the job endpoint', () => {
  const uri = 'http://a.example/rest.php/eventbus/v0/internal/job/execute'
  const exec = { method: 'post', uri, body: '{{globals.message}}' }
  const job = { sha1: 'abc', root_event: { signature: 'sig', dt: '2026-11-01T00:00:00Z' } }

  test.each<[string, JsonObject]>([
    ['says so', { answers: 'mediawiki-job' }],
    ['calls it literally', { exec }],
  ])('of a rule that %s brings deduplication and supersession with it', (_, keys) => {
    const { dedup, supersede } = ruleWith(keys)
    expect(dedup?.key(context(job))).toBe('abc')
    expect(dedup?.key(context({}))).toBe('')
    expect(supersede?.signature(context(job))).toBe('sig')
    expect(supersede?.time(context(job))).toBe(Date.UTC(2026, 10, 1))
  })

  test('leaves them out where the rule says so, or sets an order, or reads answers otherwise', () => {
    expect(ruleWith({ exec, dedup: false, supersede: false })).toMatchObject({ dedup: undefined, supersede: undefined })
    expect(ruleWith({ exec, order: { key: '{{message.type}}' } }).dedup).toBeUndefined()
    expect(ruleWith({ exec, answers: 'http' }).dedup).toBeUndefined()
  })
})

describe('a throttle', () => {
  const none = Number.POSITIVE_INFINITY

  test('without a key limits the rule', () => {
    const { throttle } = ruleWith({ throttle: { concurrency: 5, rate: '120/min' } })
    expect(throttle.total).toEqual({ concurrency: 5, perSecond: 2, burst: 2 })
    expect(throttle.key).toBeUndefined()
  })

  test('with a key limits each key, and the rule by total', () => {
    const { throttle } = ruleWith({
      throttle: { key: '{{message.wiki}}', rate: '0.5/s', total: { concurrency: 9, rate: '7/s', burst: 3 } },
    })
    expect(throttle.perKey).toEqual({ concurrency: 50, perSecond: 0.5, burst: 1 })
    expect(throttle.total).toEqual({ concurrency: 9, perSecond: 7, burst: 3 })
    expect(throttle.key?.(context({ wiki: 'a' }))).toBe('a')
    expect(ruleWith({ throttle: { key: '{{message.wiki}}', concurrency: 2 } }).throttle).toMatchObject({
      perKey: { concurrency: 2, perSecond: none },
      total: { concurrency: 50, perSecond: none },
    })
  })
})

test.each<[string, number]>([
  ['', 0],
  ['a', 1_009_084_850],
  ['en.wikipedia.org-N0ryO6Lrp', 3_817_902_962],
  ['en.wikipedia.org-rpiwQuPlA', 1_712_891_757],
  ['é', 269_551_495],
  ['Пётр', 2_680_946_037],
])('the hash of samples is MurmurHash3: %j', (text, hash) => {
  expect(murmur3(text)).toBe(hash)
})

test('a sample takes what has no key, and a share of the rest', () => {
  const { sample } = ruleWith({ sample: { rate: 0.5, key: '{{message.k}}' } })
  expect(sample?.(context({ k: 'en.wikipedia.org-N0ryO6Lrp' }))).toBe(false)
  expect(sample?.(context({ k: 'en.wikipedia.org-rpiwQuPlA' }))).toBe(true)
  expect(sample?.(context({}))).toBe(true)
})

test('cases of Wikimedia’s rules have shares of their own, else that of the rule', () => {
  const exec = { uri: 'http://a.example/' }
  const rule = (sample: JsonObject) => ({
    topic: 'page',
    sample: { rate: 1, hash_template: '{{message.k}}' },
    cases: [
      { match: { kind: 'some' }, sample, exec },
      { match: { kind: 'all' }, exec },
    ],
  })
  const file = (sample: JsonObject) => {
    const options = { templates: { rule: rule(sample) } }
    return JSON.stringify({ paths: { '/x': { 'x-modules': [{ path: 'sys/kafka.js', options }] } } })
  }
  const { sample, policyTexts } = ruleOf(file({ rate: 0.5, hash_template: '{{message.k}}' }))
  const k = 'en.wikipedia.org-N0ryO6Lrp'

  expect(sample?.(context({ kind: 'some', k }))).toBe(false)
  expect(sample?.(context({ kind: 'some', k: 'en.wikipedia.org-rpiwQuPlA' }))).toBe(true)
  expect(sample?.(context({ kind: 'all', k }))).toBe(true)
  expect(policyTexts.sample).toEqual([0.5, 1].map((rate) => ({ rate, key: '{{message.k}}' })))
  expect(parse(file({ rate: 0.001, hash_template: '{{message.k}}' })).problems[0]).toMatchObject({
    path: expect.stringMatching(/rule\.cases\[0\]\.sample\.rate$/),
    message: 'expected a rate from 0.01 to 1, found 0.001',
  })
})

test.each(examplesOfKeys())('what the reference gives as an example loads: %s', (line) => {
  const [key = ''] = line.split(':')
  const rest = key === 'topic' || key === 'topics' ? '' : 'topic: page, '
  const text = `rule: { ${rest}exec: { uri: 'http://a.example/' }, ${line} }`

  expect(parse(text).problems.filter(({ severity }) => severity === 'error')).toEqual([])
})

test('ages are read in both spellings', () => {
  const never = Number.POSITIVE_INFINITY
  expect(ruleWith({ expire: '1d' }).expire).toEqual({ ageMs: 86_400_000, rootAgeMs: never })
  expect(ruleWith({ expire: { root_age: '1h' } }).expire).toEqual({ ageMs: never, rootAgeMs: 3_600_000 })
  expect(ruleWith({ claim_ttl: 60, root_claim_ttl: 30 }).expire).toEqual({ ageMs: 60_000, rootAgeMs: 30_000 })
})

test('each policy that changes gives the rule another revision', () => {
  const revisions = [
    {},
    { dedup: { key: '{{message.a}}' } },
    { dedup: { key: '{{message.a}}', window: '1s' } },
    { order: { key: '{{message.a}}' } },
    { delay: '1s' },
    { expire: '1d' },
    { sample: { rate: 0.5, key: '{{message.a}}' } },
    { throttle: { rate: '1/s' } },
    { throttle: { rate: '1/s', burst: 5 } },
    { throttle: { key: '{{message.a}}' } },
    { supersede: { signature: '{{message.a}}', time: '{{message.b}}' } },
  ].map((keys) => ruleWith(keys).revision)
  expect(new Set(revisions).size).toBe(revisions.length)
})

describe('refused, with the reason:', () => {
  const key = '{{message.a}}'
  test.each<[string, JsonObject, string]>([
    ['a key that is the same for all', { dedup: { key: 'x' } }, 'rule.dedup.key: expected a template that reads'],
    ['a key of constants only', { dedup: { key: "{{'x'}}{{timeuuid()}}" } }, 'expected a template that reads'],
    [
      'a key that nothing captures',
      { dedup: { key: '{{match.title.x}}' } },
      'rule.dedup.key: expected something that match',
    ],
    ['a target as a key', { throttle: { key: '{{targets.a.url}}' } }, 'expected a property of the event or its wiki'],
    ['a secret as a key', { dedup: { key: '{{wiki.token}}' } }, 'rule.dedup.key: expected a property of the event'],
    ['an empty key', { order: { key: '' } }, 'rule.order.key'],
    ['the whole event as a key', { dedup: { key: '{{globals.message}}' } }, 'expected a property of the event'],
    ['a key that does not parse', { dedup: { key: '{{message' } }, 'expected }}'],
    ['a negative delay', { delay: '-1s' }, 'expected a duration such as 2s'],
    ['an absurd delay', { delay: '9000d' }, 'expected at most 366d'],
    ['a delay too long for a number', { delay: '99999999999999999d' }, 'rule.delay: expected at most 366d'],
    ['an absurd window', { dedup: { key, window: '9000d' } }, 'rule.dedup.window: expected at most 366d'],
    ['a negative window', { dedup: { key, window: '-1s' } }, 'rule.dedup.window'],
    ['a rate of 0', { throttle: { rate: '0/s' } }, 'expected a rate above 0, found 0/s'],
    ['a total rate of 0', { throttle: { key, total: { rate: '0/min' } } }, 'rule.throttle.total.rate: expected a rate'],
    ['a rate of next to nothing', { throttle: { rate: '0.000001/min' } }, 'expected at least one call in 366d, found'],
    [
      'a total rate of next to nothing',
      { throttle: { key, total: { rate: '0.00000001/s' } } },
      'rule.throttle.total.rate',
    ],
    ['an absurd rate', { throttle: { rate: '1000001/s' } }, 'expected at most 1000000/s, found 1000001/s'],
    ['a rate too large for a number', { throttle: { rate: `${'9'.repeat(400)}/s` } }, 'expected at most 1000000/s'],
    ['a burst of nothing', { throttle: { burst: 5 } }, 'expected rate beside burst'],
    ['a burst of 0', { throttle: { rate: '1/s', burst: 0 } }, 'rule.throttle.burst'],
    ['a total without a key', { throttle: { total: { concurrency: 5 } } }, 'expected throttle.key beside total'],
    ['a window with order', { order: { key }, dedup: { key, window: '1h' } }, 'expected no window together with order'],
    ['order and dedup by two keys', { order: { key }, dedup: { key: '{{message.b}}' } }, 'to have the same key'],
    ['an age shorter than the delay', { delay: '2h', expire: '1h' }, 'expected expire to be longer than delay'],
    ['expire in both spellings', { expire: '1h', claim_ttl: 5 }, 'expected expire or Wikimedia’s claim_ttl'],
    [
      'an age shorter than the delay, in seconds',
      { delay: '2h', claim_ttl: 60 },
      'rule.claim_ttl: expected expire to be',
    ],
    ['a window longer than the age', { dedup: { key, window: '2h' }, expire: '1h' }, 'dedup.window to be shorter'],
    [
      'a window as long as the age, in seconds',
      { dedup: { key, window: '1m' }, claim_ttl: 60 },
      'rule.dedup.window: expected dedup.window to be shorter than expire, found 1m and 1m',
    ],
    ['a root age of 0', { expire: { root_age: '0s' } }, 'rule.expire.root_age: expected at least 1s, found 0s'],
    ['a root age below a second', { expire: { age: '1d', root_age: '999ms' } }, 'expected at least 1s, found 999ms'],
    ['a root age below a second, in seconds', { root_claim_ttl: 0.5 }, 'rule.root_claim_ttl: expected at least 1s'],
    ['retries for no time', { retry: { max_age: '0s' } }, 'rule.retry.max_age: expected a duration above 0, found 0s'],
    ['a mapping of no ages', { expire: {} }, 'rule.expire'],
    ['an absurd claim_ttl', { claim_ttl: 1e12 }, 'rule.claim_ttl'],
    ['a sample by two keys', { sample: { rate: 0.5, key, hash_template: key } }, 'expected key or hash_template'],
    ['a sample of nothing', { sample: { rate: 0, key } }, 'rule.sample.rate'],
    ['a sample of more than all', { sample: { rate: 2, key } }, 'rule.sample.rate'],
    ['a sample without a key', { sample: { rate: 0.5 } }, 'expected sample.key'],
    ['supersede without a time', { supersede: { signature: key } }, 'rule.supersede'],
    ['a key within dedup that is unknown', { dedup: { key, windw: '1h' } }, 'did you mean window?'],
  ])('%s', (_, keys, expected) => {
    expect(problemsWith(keys).join('\n')).toContain(expected)
  })

  test.each<[string, JsonObject]>([
    ['order and dedup by one key', { order: { key }, dedup: { key } }],
    ['a window where calls are not repeated', { retry: 'never', dedup: { key, window: '1h' } }],
    ['an age longer than the delay', { delay: '1h', expire: { age: '2h' } }],
    ['a window shorter than the age', { dedup: { key, window: '59m' }, expire: '1h' }],
    ['a root age of a second', { expire: { root_age: '1s' } }],
    ['one call in a year', { throttle: { rate: '0.000002/min' } }],
    ['a million calls per second', { throttle: { rate: '1000000/s' } }],
  ])('not: %s', (_, keys) => {
    expect(problemsWith(keys)).toEqual([])
  })

  test.each<[string, JsonObject]>([
    ['a negative delay', { delay: '-1s' }],
    ['a delay too long for a number', { delay: '99999999999999999d' }],
    ['retries for no time', { retry: { max_age: '0s' } }],
    ['no age beside no window', { dedup: { key, window: '0s' }, expire: '0s', retry: 'never' }],
  ])('once: %s', (_, keys) => {
    expect(problemsWith(keys)).toHaveLength(1)
  })

  test('each at its place', () => {
    const text = [
      'rule:',
      '  topic: page',
      '  exec: { uri: "http://a.example/" }',
      '  dedup: { key: x, window: 9000d }',
      '  throttle: { rate: 0/s }',
    ].join('\n')

    expect(
      parse(text)
        .problems.map(({ line, column }) => `${line}:${column}`)
        .sort(),
    ).toEqual(['4:17', '4:28', '5:21'])
  })
})

describe('warned of, with the reason:', () => {
  const key = '{{message.a}}'
  const total = { concurrency: 5, rate: '60/min' }
  test.each<[string, JsonObject, string]>([
    [
      'a key that may have more than the rule',
      { throttle: { key, concurrency: 6, total } },
      'rule.throttle.concurrency: expected throttle.concurrency not to be above that of total, found 6 and 5;',
    ],
    [
      'a key that may have more than the rule by default',
      { throttle: { key, concurrency: 51 } },
      'rule.throttle.concurrency: expected throttle.concurrency not to be above that of total, found 51 and 50 (the default)',
    ],
    [
      'the same in Wikimedia’s spelling',
      { concurrency: 51, throttle: { key } },
      'rule.concurrency: expected concurrency not to be above that of total',
    ],
    [
      'a key that may be called faster than the rule',
      { throttle: { key, rate: '2/s', total } },
      'rule.throttle.rate: expected throttle.rate not to be above that of total, found 2/s and 60/min;',
    ],
    [
      'retries that are given up after the first',
      { retry: { delay: '2m', max_age: '1m' } },
      'rule.retry.max_age: expected retry.max_age not to be shorter than retry.delay, found 1m and 2m',
    ],
    [
      'the same with the default of one',
      { retry: { max_age: '1s' } },
      'rule.retry.max_age: expected retry.max_age not to be shorter than retry.delay, found 1s and 5s',
    ],
    [
      'the same with the default of the other',
      { retry: { delay: '8d', max_delay: '9d' } },
      'rule.retry.delay: expected retry.max_age not to be shorter than retry.delay, found 7d and 8d',
    ],
    [
      'an age that ends before the first retry',
      { expire: '4s' },
      'rule.expire: expected expire not to be shorter than retry.delay, found 4s and 5s',
    ],
    ['the same in a mapping', { expire: { age: '4s' } }, 'rule.expire.age: expected expire not to be'],
    [
      'the same in Wikimedia’s spelling',
      { claim_ttl: 59, retry_limit: 1 },
      'rule.claim_ttl: expected expire not to be',
    ],
  ])('%s', (_, keys, expected) => {
    const problems = problemsWith(keys)

    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(' warning: ')
    expect(problems[0]).toContain(expected)
  })

  test.each<[string, JsonObject]>([
    ['limits of a key that are the rule’s', { throttle: { key, concurrency: 5, rate: '1/s', total } }],
    ['limits of a key that nobody wrote', { throttle: { key, total } }],
    ['a rate of each key where the rule has none', { throttle: { key, rate: '9000/s' } }],
    ['an age where no call is repeated', { retry: 'never', expire: '1s' }],
    ['an age where there are no retries', { retry: { limit: 0 }, expire: '1s' }],
    ['a single retry of short life', { retry: { limit: 1, max_age: '1s' } }],
    ['ages as long as the delay', { retry: { delay: '1m', max_age: '1m' }, expire: '1m' }],
  ])('not: %s', (_, keys) => {
    expect(problemsWith(keys)).toEqual([])
  })

  test('not where a delay is compared that was to be another', () => {
    expect(problemsWith({ retry: { delay: '1s', dealy: '1s' }, expire: '2s' }).join()).not.toContain('warning')
  })
})
