import fc from 'fast-check'
import { expect, test } from 'vitest'
import { TemplateError } from '../../src/rule/rule.ts'
import { contextOf, parse, recordOf } from './world.ts'

const keys = [
  'topic', 'topics', 'exclude_topics', 'schema', 'match', 'match_not', 'cases', 'exec', 'answers', 'retry', 'throttle', 'concurrency',
  'retry_on', 'ignore', 'retry_limit', 'dedup', 'supersede', 'order', 'expire', 'claim_ttl', 'sample', 'key', 'window', 'rate', 'burst',
  'total', 'signature', 'time', 'age', 'root_age', 'hash_template', 'method', 'uri', 'headers', 'query', 'body', 'timeout', 'status', 'is', 'limit', 'delay',
  'meta', '__proto__', 'constructor', 'toString', '<<', 'x-modules', 'services',
] // biome-ignore format: a list
const texts = [
  '{{message.title}}', '{{', '{{}}', '{message.a}', '{decode(', '{{date(message', '{{wiki.url}}/api.php', '{{targets.x.url}}', '/(a+)+$/',
  '/(?<x>a)(b)/', '/[/', '/a/gg', 'http://a.example/', 'http://', '/sys/x', 'https://{{message.h}}/', 'undefined', '5xx', '5s', '-1s', 'never',
  '50/s', '0/s', '{{match.a.x}}', "{{default(message.a, 'x')}}", '/mediawiki/page/change/^1.0.0', '\ud800', '\u0000',
] // biome-ignore format: a list

const scalar = fc.oneof(
  fc.constantFrom(...texts),
  fc.string(),
  fc.integer(),
  fc.double(),
  fc.boolean(),
  fc.constant(null),
)
const { value } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    scalar,
    fc.array(tie('value'), { maxLength: 4 }),
    fc
      .array(fc.tuple(fc.constantFrom(...keys), tie('value')), { maxLength: 5 })
      .map((pairs) => Object.fromEntries(pairs)),
  ),
}))

/** What JSON cannot say, YAML can. */
const yaml = (document: unknown) =>
  JSON.stringify(document, (_, inner) => (typeof inner === 'number' && !Number.isFinite(inner) ? `${inner}` : inner)) ??
  '.nan'

/** A rule of which at least one key is certainly wrong. */
const badRule = fc
  .record({
    topic: fc.oneof(fc.constant('page'), value),
    exec: fc.oneof(
      fc.constant({ uri: 'http://a.example/' }),
      fc.record({ uri: value, headers: value, query: value, body: value }),
      value,
    ),
    match: value,
    match_not: value,
    cases: fc.option(value, { nil: undefined }),
    answers: value,
    retry: value,
    policy: fc.tuple(fc.constantFrom('delay', 'dedup', 'supersede', 'throttle', 'order', 'expire', 'sample'), value),
  })
  .map(({ policy: [key, value], ...rule }) => ({ bad: { ...rule, [key]: value, unknown_key_of_no_use: 1 } }))

/** Any piece of such a text, with a character changed: mostly no YAML any more. */
const brokenText = fc
  .tuple(badRule, fc.nat(), fc.constantFrom('{', '}', '&a ', '*a', ': ', '\t', '- ', '"', '\u0000', '!!x '))
  .map(([rule, at, junk]) => {
    const text = yaml(rule)
    const place = at % text.length
    return text.slice(0, place) + junk + text.slice(place + 1)
  })

test('10,000 bad rule files never throw, and each problem has a place inside its file', () => {
  fc.assert(
    fc.property(fc.oneof(badRule.map(yaml), badRule.map(yaml), brokenText), (text) => {
      const { rules, problems } = parse(text)

      const lines = text.split(/\r\n|\r|\n/)
      expect(rules).toEqual([])
      expect(problems.length).toBeGreaterThan(0)
      for (const { line, column, message, remedy } of problems) {
        expect(line).toBeGreaterThanOrEqual(1)
        expect(line).toBeLessThanOrEqual(lines.length)
        expect(column).toBeGreaterThanOrEqual(1)
        expect(column).toBeLessThanOrEqual((lines[line - 1]?.length ?? 0) + 1)
        expect(message).not.toBe('')
        expect(remedy).not.toBe('')
      }
    }),
    { numRuns: 10_000 },
  )
}, 300_000)

/** Rules that mostly load, with odd but possible patterns and templates, and events that were not made for them. */
const oddPattern = fc.dictionary(
  fc.constantFrom('meta', 'title', 'tags', '__proto__', 'constructor'),
  fc.oneof(
    scalar.filter((one) => one !== null),
    fc.constant({ title: '/(?<x>.)(?<y>z)?/' }),
    fc.constant(['/a/', 1]),
    fc.constant({}),
  ),
)
const oddTemplate = fc
  .array(
    fc.constantFrom(
      '{{message.title}}',
      '{message.tags}',
      '{+message.meta.title}',
      '{{match.title}}',
      '{decode(message.title)}',
      '/',
      'x',
      '.',
      '%',
    ),
  )
  .map((parts) => parts.join(''))
const event = fc.dictionary(
  fc.constantFrom('meta', 'title', 'tags', '$schema', '__proto__', 'constructor'),
  fc.jsonValue(),
)

test('rules never throw when an event is matched or explained, and only TemplateError when it is rendered', () => {
  let rendered = 0
  fc.assert(
    fc.property(oddPattern, oddPattern, oddTemplate, oddTemplate, event, (match, match_not, path, text, parsed) => {
      const exec = {
        method: 'post',
        uri: `http://a.example/${path}`,
        headers: { x: text },
        query: { y: text },
        body: { z: text, match },
      }
      const { rules } = parse(yaml({ rule: { topic: 'page', schema: '/a/^1', match: [match, {}], match_not, exec } }))
      const { rules: open } = parse(yaml({ rule: { topic: 'page', exec } }))
      const message = JSON.parse(JSON.stringify(parsed))
      for (const rule of [...rules, ...open]) {
        const matched = rule.match(message)
        expect(rule.explain('page', message) === undefined).toBe(matched !== undefined)
        for (const request of matched?.requests ?? []) {
          try {
            const { path } = request.render(contextOf(rule, recordOf(message)))
            expect(path).toMatch(/^\/[\w./~!*()%?&=-]*$/)
            rendered++
          } catch (error) {
            expect(error).toBeInstanceOf(TemplateError)
          }
        }
      }
    }),
    { numRuns: 3_000 },
  )
  expect(rendered).toBeGreaterThan(100)
}, 300_000)

test('policies say when and under which key for any event, or throw TemplateError', () => {
  const texts = ['{{message.title}}', '{message.tags}', '{/message.meta.title}', '{{date(message.tags)}}', '-']
  const text = fc.array(fc.constantFrom(...texts), { minLength: 1 }).map((parts) => parts.join(''))
  const instant = fc.constantFrom('{{message.title}}', '{{message.meta.title}}', '{{message.tags}}')
  let keys = 0
  fc.assert(
    fc.property(text, text, instant, event, (key, other, delay, parsed) => {
      const policies = {
        delay,
        dedup: { key },
        supersede: { signature: other, time: delay },
        throttle: { key: other },
        sample: { rate: 0.5, key },
      }
      const { rules } = parse(yaml({ rule: { topic: 'page', exec: { uri: 'http://a.example/' }, ...policies } }))
      const message = JSON.parse(JSON.stringify(parsed))
      for (const rule of rules) {
        const context = contextOf(rule, recordOf(message))
        for (const ask of [
          () => rule.dueAt(context, () => 0),
          () => rule.dedup?.key(context),
          () => rule.supersede?.signature(context),
          () => rule.supersede?.time(context),
          () => rule.throttle.key?.(context),
          () => rule.sample?.(context),
        ]) {
          try {
            if (typeof ask() === 'string') keys++
          } catch (error) {
            expect(error).toBeInstanceOf(TemplateError)
            expect(error).toMatchObject({ reason: 'key_failed' })
          }
        }
      }
    }),
    { numRuns: 2_000 },
  )
  expect(keys).toBeGreaterThan(100)
}, 300_000)
