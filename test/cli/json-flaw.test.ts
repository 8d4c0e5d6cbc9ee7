import { expect, test } from 'vitest'
import { isJson, offsetOfFlaw } from '../../src/cli/json-flaw.ts'

// The mark stands before what is wrong.
test.each([
  '¦',
  '{"a":¦',
  '{"a" ¦1}',
  '{¦a: 1}',
  '{"a":1,¦}',
  '{"a":1¦]',
  '[1,¦]',
  '[1 ¦2]',
  '[[], {}, [1, -2.5e+3, true, null, "\\u00e9\\n é"], {"a": {"b": []}} ¦',
  '[0¦1]',
  '[¦.5]',
  '[¦nul]',
  '[¦"a\nb"]',
  '[¦"\\x"]',
  '[¦"a',
  "¦'a'",
  '{} ¦{}',
  '[1] ¦x',
  '[¦}',
])('%j is no JSON from the mark on', (marked) => {
  const text = marked.replace('¦', '')
  expect(isJson(text)).toBe(false)
  expect(offsetOfFlaw(text)).toBe(marked.indexOf('¦'))
})
