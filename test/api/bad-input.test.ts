import fc from 'fast-check'
import { expect, test } from 'vitest'
import { anEvent, openWorld } from './world.ts'

/** 2,000 requests in an ordinary run; `ROUNDS=20` makes 40,000. */
const runs = 2_000 * Number(process.env.ROUNDS ?? 1)
const clientAnswers = new Set([201, 202, 207, 400, 413, 415])

const good: Record<string, unknown> = JSON.parse(anEvent())
const goodMeta: Record<string, unknown> = JSON.parse(anEvent()).meta
const strangeKeys = fc.constantFrom('__proto__', 'constructor', 'toString', '$schema', 'meta', 'length', '')

/** An event with one or more of its fields replaced by anything. */
const bentEvent = fc
  .record({
    top: fc.dictionary(fc.oneof(fc.constantFrom('$schema', 'meta', 'x'), strangeKeys), fc.jsonValue(), { maxKeys: 2 }),
    meta: fc.dictionary(fc.constantFrom('stream', 'id', 'dt', 'domain', '__proto__'), fc.jsonValue(), { maxKeys: 3 }),
  })
  .map(({ top, meta }) => JSON.stringify({ ...good, meta: { ...goodMeta, ...meta }, ...top }))

/** JSON with bytes replaced, removed or doubled. */
const damaged = fc
  .tuple(
    fc.array(bentEvent, { maxLength: 3 }),
    fc.array(fc.tuple(fc.nat(), fc.nat(255), fc.constantFrom('set', 'cut', 'double'))),
  )
  .map(([events, damages]) => {
    let body = Buffer.from(`[${events.join(',')}]`)
    for (const [place, byte, how] of damages) {
      if (body.length === 0) break
      const at = place % body.length
      if (how === 'cut') body = body.subarray(0, at)
      else if (how === 'double') body = Buffer.concat([body, body.subarray(at)])
      else body.fill(byte, at, at + 1)
    }
    return body
  })

const anyBody = fc.oneof(
  bentEvent.map((event) => Buffer.from(event)),
  fc.array(bentEvent, { maxLength: 5 }).map((events) => Buffer.from(`[${events.join(' , ')}]`)),
  damaged,
  fc.json().map((json) => Buffer.from(json)),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc
    .nat(20_000)
    .map((depth) =>
      Buffer.from(`[{"$schema":"/a","meta":{"stream":"a"},"x":${'['.repeat(depth)}${']'.repeat(depth)}}]`),
    ),
)
const anyType = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('application/json', 'text/plain', 'application/reports+json; charset=x') },
  { weight: 1, arbitrary: fc.stringMatching(/^[\x21-\x7e]{1,30}$/) },
)
const anySearch = fc.oneof(
  fc.constantFrom('', '?hasty=true', '?hasty'),
  fc.webQueryParameters().map((query) => `?${query}`),
)

test('whatever is posted, the answer is one of those that are the client’s, and empty or two lists of failures', async () => {
  const world = await openWorld()
  await fc.assert(
    fc.asyncProperty(anyBody, anyType, anySearch, async (body, type, search) => {
      const already = world.store.appended.length
      const response = await fetch(`${world.url}/v1/events${search}`, {
        method: 'POST',
        headers: { 'content-type': type },
        body: new Uint8Array(body),
      })
      const text = await response.text()
      expect(clientAnswers).toContain(response.status)
      if (text !== '') {
        const lists: { invalid: unknown[]; error: unknown[] } = JSON.parse(text)
        expect(Object.keys(lists)).toEqual(['invalid', 'error'])
        expect(lists.invalid.length + lists.error.length).toBeGreaterThan(0)
      }
      // What was kept is, byte for byte, part of what was posted.
      for (const { bytes } of world.store.appended.slice(already)) expect(body.includes(Buffer.from(bytes))).toBe(true)
      const stored = world.store.appended.length - already
      expect(stored > 0).toBe([201, 207].includes(response.status) || (response.status === 202 && stored > 0))
    }),
    { numRuns: runs },
  )
}, 600_000)
