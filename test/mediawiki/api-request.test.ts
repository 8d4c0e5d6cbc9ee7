import { expect, test } from 'vitest'
import { parametersOf, withTitles } from '../../src/mediawiki/api-request.ts'
import { aCall } from './world.ts'

test('parameters are those of query and form; the form wins, and the last of a name', () => {
  const request = aCall('titles=A%20b&x=1&x=2', '/w/api.php?action=purge&titles=Q&flag')
  expect(Object.fromEntries(parametersOf(request))).toEqual({ action: 'purge', titles: 'A b', x: '2', flag: '' })
  expect(parametersOf({ ...request, body: Buffer.from('titles=Z') }).get('titles')).toBe('Z')
})

test('a body that is no form names nothing', () => {
  const request = { ...aCall('titles=A'), headers: { 'content-type': 'application/json' } }
  expect(parametersOf(request).size).toBe(0)
  expect(withTitles(request, ['B'])).toBe(request)
})

test.each([
  ['titles=A|B|C', 'titles=B%7CC'],
  ['action=purge&titles=A%7CB&format=json', 'action=purge&format=json&titles=B%7CC'],
  ['pageids=1|2&note=a%20b&x', 'note=a%20b&x&titles=B%7CC'],
  ['revids=1|2', 'titles=B%7CC'],
  ['generator=links&titles=Main&gpllimit=5', 'gpllimit=5&titles=B%7CC'],
  ['%74itles=A', 'titles=B%7CC'],
])('the rest of a form %j is %j', (form, rest) => {
  expect(withTitles(aCall(form), ['B', 'C'])).toEqual(aCall(rest))
})

test('bytes may be a form too', () => {
  expect(withTitles(aCall(Buffer.from('titles=A|Ä')), ['Ä']).body).toBe('titles=%C3%84')
})

test('pages that the query names are replaced there, or by the form', () => {
  expect(withTitles(aCall(null, '/api.php?titles=A|B&maxlag=5'), ['B']).path).toBe('/api.php?maxlag=5&titles=B')
  expect(withTitles(aCall('maxlag=5', '/api.php?titles=A|B'), ['B'])).toEqual(aCall('maxlag=5', '/api.php?titles=B'))
  expect(withTitles(aCall('pageids=1', '/api.php?titles=A|B'), ['B'])).toEqual(aCall('titles=B', '/api.php'))
})

test('a title with a separator in it goes with another separator', () => {
  expect(parametersOf(withTitles(aCall('titles=A'), ['A|b', 'C'])).get('titles')).toBe('\u001fA|b\u001fC')
})

test('a request that names no pages, or that we cannot read, stays as it is', () => {
  const request = aCall('action=purge&titlesx=1', '/api.php?format=json')
  expect(withTitles(request, ['B'])).toBe(request)
})

test('lone surrogates, which JSON can say, do no harm', () => {
  expect(withTitles(aCall('titles=A'), ['\ud800']).body).toBe('titles=%EF%BF%BD')
})
