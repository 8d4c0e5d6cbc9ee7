import { describe, expect, test } from 'vitest'
import { compileRegex, isPattern, readsAsRegex } from '../../src/rule/regex.ts'

function objectionTo(text: string): string | undefined {
  const result = compileRegex(text)
  return isPattern(result) ? undefined : result.message
}

describe('a regex', () => {
  test.each([
    ['/a/', true],
    ['/wiki/', true],
    ['/a/gimuy', true],
    ['/a/x', false],
    ['//', false],
    ['a/', false],
    ['/mediawiki/page/change/1.0.0', false],
  ])('is told by its slashes: %s, %s', (text, expected) => {
    expect(readsAsRegex(text)).toBe(expected)
  })

  test.each([
    '/^https?:\\/\\/[^\\/]+\\/wiki\\/(?<title>.+)$/',
    '/https?:\\/\\/[^\\/]+\\/wiki\\/(File|Discussion|Template|Talk)%3A.+/',
    '/^(?!.*(?:commons|meta|sources|species|wikidata)).*wiki$/',
    '/^(.*).wikipedia.org$/',
    '/^(ka|lv|ta|ur|eo|lt|sl|hy|hr|sk|eu|et|ms|az|da)wiki$/',
    '/(?:la)+/',
    '/[^/]+/',
    '/^(?:[a-z]+\\.)*[a-z]+$/',
    '/^(\\d{1,3}\\.){3}\\d{1,3}$/',
    '/^(?:\\w+\\s?){1,3}$/',
    '/(?<=x)a+$/',
    '/\\w+\\.\\w+\\.org/i',
    '/^(?:%[0-9A-F]{2}|[\\w.-])+$/',
    '/^.*foo.*bar$/',
  ])('whose time is bounded is accepted: %s', (text) => {
    expect(objectionTo(text)).toBeUndefined()
  })

  test.each([
    '/(a+)+$/',
    '/(\\w|\\d)*x/',
    '/^(a|a)*$/',
    '/^(([a-z])+.)+[A-Z]([a-z])+$/',
    '/(.*a){20}/',
    '/^(\\w+\\s?)*$/',
    '/(x+x+)+y/',
    '/(?:a|b|ab)*c/',
    '/((ab)+)+$/',
    '/^(?:.*,)*$/',
    '/a*a*a*a*b$/',
    '/(?=(a+)+$)/',
    '/^(a?){30}a{30}$/',
    '/(.{1,3})*x/',
    '/(?:x(?:y|y)*)+z/',
  ])('that can run away is refused: %s', (text) => {
    expect(objectionTo(text)).toContain('time is bounded')
  })

  test.each([
    [`/(?:${Array.from({ length: 400 }, (_, index) => `w${index}`).join('|')})*/`, 'too much to be judged'],
    ['/((((((((((a{3}){3}){3}){3}){3}){3}){3}){3}){3}){3})/', 'too much to be judged'],
    [`/${'a'.repeat(5_000)}/`, 'at most 4000 characters'],
    ['/l/ah/', 'an unescaped slash'],
    ['/(/', 'Unterminated group'],
    ['/a/gg', 'Invalid flags'],
    ['/(?<a>x)(y)/', 'named groups or plain ones'],
  ])('that cannot be used is refused: %.40s', (text, expected) => {
    expect(objectionTo(text)).toContain(expected)
  })

  test('may have one named group and others that capture nothing', () => {
    const regex = compileRegex('/(?<a>x)(?:y)(?=z)(?<=y)/')

    expect(isPattern(regex) && regex.names).toEqual(['a'])
  })
})
