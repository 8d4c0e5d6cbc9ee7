import { expect, test } from 'vitest'
import { legalHeaders } from '../../src/http/header-value.ts'

test('headers that HTTP allows are passed on as the same object', () => {
  const headers = { 'x-empty': '', 'x-tab': 'a\tb', 'x-all': ' !"#$%&()*+,-./09:;<=>?@AZ[\\]^_`az{|}~' }
  expect(legalHeaders(headers)).toBe(headers)
})

test.each([
  ['a line break', 'a\r\nb', 'a%0D%0Ab'],
  ['a NUL', 'a\0b', 'a%00b'],
  ['DEL', '\x7f', '%7F'],
  ['Latin-1', 'é', '%C3%A9'],
  ['an emoji', '🙂', '%F0%9F%99%82'],
  ['a lone surrogate', '\udc00', '%EF%BF%BD'],
])('%s is percent-encoded as UTF-8', (_title, value, encoded) => {
  expect(legalHeaders({ 'x-before': 'é', 'x-title': value })).toEqual({ 'x-before': '%C3%A9', 'x-title': encoded })
})
