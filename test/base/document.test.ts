import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Document, formatPath, type Path, parseDocument, problemAt } from '../../src/base/document.ts'
import { fixturesAbsent, readFixture } from '../support/fixtures.ts'

function documentOf(text: string): Document {
  const { document, problems } = parseDocument('f.yaml', text)
  expect(problems).toEqual([])
  if (document === undefined) throw new Error('no document')
  return document
}

describe('the value of a document', () => {
  test.each([
    ['yes', 'yes'],
    ['true', true],
    ['~', null],
    ['', null],
    ['# only a comment', null],
    ['12', 12],
    ['0x1f', 31],
    ['1.5', 1.5],
    ['"12"', '12'],
    ['2024-01-01', '2024-01-01'],
    ['012', 12],
    ['!!str 12', '12'],
    ['|\n  a\n  b\n', 'a\nb\n'],
    ['[1, [2, a]]', [1, [2, 'a']]],
    ['{1: a, true: b}', { 1: 'a', true: 'b' }],
    ['a: {b: }', { a: { b: null } }],
  ])('%j is YAML 1.2', (text, value) => {
    expect(documentOf(text).value).toEqual(value)
  })

  test('has what anchors, aliases and merge keys stand for', () => {
    const text = `
base: &base { limit: 2, delay: 1s }
more: &more { limit: 9, factor: 3 }
one: { <<: *base, delay: 5s }
two: { delay: 7s, <<: [*base, *more] }
three: *base
four: { "<<": *base }
`
    expect(documentOf(text).value).toEqual({
      base: { limit: 2, delay: '1s' },
      more: { limit: 9, factor: 3 },
      one: { limit: 2, delay: '5s' },
      two: { limit: 2, delay: '7s', factor: 3 },
      three: { limit: 2, delay: '1s' },
      four: { '<<': { limit: 2, delay: '1s' } },
    })
  })

  test('keeps a key named __proto__ as a mere key', () => {
    const { value } = documentOf('{ __proto__: { polluted: 1 }, a: 2 }')
    expect(Object.keys(Object(value))).toEqual(['__proto__', 'a'])
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
    expect('polluted' in Object(value)).toBe(false)
  })

  test.skipIf(fixturesAbsent).each(['changeprop', 'cpjobqueue'])('is there for all of Wikimedia’s %s.yaml', (name) => {
    const { document, problems } = parseDocument(name, readFixture(`wikimedia/${name}.yaml`))
    expect(problems).toEqual([])
    expect(Object.keys(Object(document?.value))).toContain('spec')
  })
})

describe('the place of a node', () => {
  const text = `# a comment
purge:
  retry: { limit: 5, "max delay": 'x' }
  exec:
    - uri: "http://a"
      body: |
        text
    - &second
      uri: b
  empty:
again: *second
merged:
  <<: *second
`
  test.each<[Path, 'key' | 'value', number, number]>([
    [[], 'value', 2, 1],
    [['purge'], 'key', 2, 1],
    [['purge'], 'value', 3, 3],
    [['purge', 'retry'], 'value', 3, 10],
    [['purge', 'retry', 'limit'], 'key', 3, 12],
    [['purge', 'retry', 'limit'], 'value', 3, 19],
    [['purge', 'retry', 'max delay'], 'key', 3, 22],
    [['purge', 'retry', 'max delay'], 'value', 3, 35],
    [['purge', 'exec', 0, 'uri'], 'value', 5, 12],
    [['purge', 'exec', 0, 'body'], 'value', 7, 9],
    [['purge', 'exec', 1], 'value', 9, 7],
    [['purge', 'exec', '1', 'uri'], 'value', 9, 12],
    [['purge', 'empty'], 'value', 10, 3],
    [['again'], 'value', 11, 8],
    [['again', 'uri'], 'value', 9, 12],
    [['merged', 'uri'], 'key', 9, 7],
    [['purge', 'retry', 'none', 'deeper'], 'value', 3, 10],
    [['purge', 'none'], 'key', 2, 1],
    [['purge', 'exec', 7], 'value', 5, 5],
  ])('%j (%s) is %d:%d', (path, part, line, column) => {
    expect(documentOf(text).locate(path, part)).toEqual({ line, column })
  })

  test.each(['\n', '\r\n', '\r'])('counts lines that end with %j', (end) => {
    expect(documentOf(['a: 1', 'b:', '  c: 2'].join(end)).locate(['b', 'c'])).toEqual({ line: 3, column: 6 })
  })

  test('does not count a byte order mark', () => {
    expect(documentOf('\ufeffa: 1').locate(['a'], 'key')).toEqual({ line: 1, column: 1 })
  })

  test('goes into problems, with the path as people write it', () => {
    const problem = problemAt(documentOf(text), ['purge', 'exec', 0, 'uri'], 'm', 'r', { severity: 'warning' })
    expect(problem).toEqual({
      severity: 'warning',
      file: 'f.yaml',
      line: 5,
      column: 12,
      path: 'purge.exec[0].uri',
      message: 'm',
      remedy: 'r',
    })
    expect(formatPath(['a b', 'c-d', '$x', 3])).toBe('["a b"].c-d.$x[3]')
  })
})

describe('a text that is not right', () => {
  test.each([
    ['a: 1\nb: 2\na: 3', 3, 1, 'each key once, found "a" again (first in line 1)'],
    ['a: {b: 1, b: 2}', 1, 11, 'each key once, found "b" again'],
    ['a: *nobody', 1, 4, 'an anchor &nobody'],
    ['a: &a [*a]', 1, 8, 'an anchor &a that ends before this alias'],
    ['a: [1', 1, 6, 'expected YAML'],
    ['a: b\n  c: d', 2, 4, 'expected YAML'],
    ['a: 1\n---\nb: 2', 3, 1, 'one document, found a second one'],
    ['a: !!timestamp 2001-01-01', 1, 4, 'a value that fits its tag'],
    ['a: !mine {b: 1}', 1, 4, 'no tag, found !mine'],
    ['? [1]\n: 2', 1, 3, 'a text as key'],
    ['<<: 5', 1, 1, 'a mapping, or a list of mappings, to merge'],
    ['a: \u0000', 1, 4, 'expected YAML'],
  ])('%j has a problem at %d:%d', (text, line, column, message) => {
    const { problems } = parseDocument('f.yaml', text)
    expect(problems).toEqual([
      expect.objectContaining({
        severity: 'error',
        file: 'f.yaml',
        line,
        column,
        message: expect.stringContaining(message),
      }),
    ])
    expect(problems[0]?.remedy).not.toBe('')
  })

  test('gives a document for what can be read, and all of its problems', () => {
    const { document, problems } = parseDocument('f.yaml', 'a: 1\na: 2\nb: 3\nb: 4\nc: *x')
    expect(document?.value).toEqual({ a: 1, b: 3, c: null })
    expect(problems.map(({ line }) => line)).toEqual([2, 4, 5])
  })

  test('cannot grow beyond bounds by its aliases', () => {
    const lists = Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [${Array(9).fill(`*a${i}`).join(', ')}]`)
    const { problems } = parseDocument('f.yaml', `a0: &a0 [1]\n${lists.join('\n')}`)
    expect(problems).toEqual([expect.objectContaining({ message: expect.stringContaining('at most 200000 values') })])
  })

  test('cannot grow beyond bounds by its merge keys', () => {
    const wide = `base: &m0 { ${Array.from({ length: 1_000 }, (_, i) => `k${i}: 1`).join(', ')} }`
    const merges = Array.from({ length: 400 }, (_, i) => `m${i}: { <<: *m0 }`)
    const { problems } = parseDocument('f.yaml', [wide, ...merges].join('\n'))
    expect(problems).toEqual([expect.objectContaining({ message: expect.stringContaining('at most 200000 values') })])
  })

  test('cannot be nested beyond bounds, written out or by aliases', () => {
    const written = `a: ${'['.repeat(150)}${']'.repeat(150)}`
    const aliased = `a0: &a0 ${'['.repeat(60)}${']'.repeat(60)}\nb: ${'['.repeat(60)}*a0${']'.repeat(60)}`
    for (const text of [written, aliased]) {
      const { problems } = parseDocument('f.yaml', text)
      expect(problems).toHaveLength(1)
    }
  })

  test('cannot be endless', () => {
    expect(parseDocument('f.yaml', ' '.repeat(16 * 1024 * 1024 + 1)).problems).toHaveLength(1)
  })

  test('never makes the parser throw', () => {
    const pieces = fc.constantFrom(
      'a',
      ': ',
      '- ',
      '\n',
      '  ',
      '{',
      '}',
      '[',
      ']',
      ', ',
      '&x ',
      '*x',
      '<<',
      '"',
      "'",
      '|',
      '>',
      '!!str ',
      '#',
      '? ',
      '---\n',
      '%',
      '\t',
      '1',
    )
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 40 }), (parts) => {
        const { document, problems } = parseDocument('f.yaml', parts.join(''))
        expect(document !== undefined || problems.length > 0).toBe(true)
      }),
      { numRuns: 3_000 },
    )
  })
})
