import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { splitEvents } from '../../src/event/split.ts'

const runs = Number(process.env.ROUNDS ?? 1) * 1_000

function cut(body: string | Buffer): string[] {
  const split = splitEvents(Buffer.from(body))
  if (split.kind !== 'events') throw new Error(`${split.why}: ${split.message}`)
  return split.events.map(({ bytes }) => Buffer.from(bytes).toString('utf8'))
}

function splitAll(body: string | Buffer) {
  const split = splitEvents(Buffer.from(body))
  if (split.kind !== 'events') throw new Error(`${split.why}: ${split.message}`)
  return split.events.map(({ bytes, ...rest }) => ({ text: Buffer.from(bytes).toString('utf8'), ...rest }))
}

describe('a posted body is cut into its events', () => {
  test.each([
    ['numbers beyond 2^53', '{"a":12345678901234567890,"b":1.0e+25,"c":-0}'],
    ['U+2028 and U+2029 as they are', '{"a":"\u2028\u2029"}'],
    ['escapes as escapes', '{"a":"\\u00e9\\/\\"\\\\"}'],
    ['raw Unicode of every length', '{"a":"é€𝄞"}'],
    ['equal keys twice', '{"a":1,"a":2}'],
    ['keys that look like indexes in their place', '{"b":1,"0":2,"a":3}'],
    ['whitespace within', '{ "a" :\n\t[ 1 , 2 ] }'],
    ['brackets, commas and quotes within strings', '{"a":"},{[\\"]\\\\","b":"\\\\\\""}'],
    ['a string that ends in backslashes', '{"a":"\\\\\\\\"}'],
  ])('%s stay byte for byte', (_what, event) => {
    expect(cut(`[${event},{"z":0},${event}]`)).toEqual([event, '{"z":0}', event])
    expect(cut(event)).toEqual([event])
  })

  test('whitespace around events belongs to none of them', () => {
    expect(cut(' [ {"a":1} ,\n\t{"b":2}\r\n]\n')).toEqual(['{"a":1}', '{"b":2}'])
    expect(cut('\n {"a":1} \n')).toEqual(['{"a":1}'])
  })

  test('a byte order mark belongs to no event', () => {
    expect(cut('\ufeff[{"a":"é"}]')).toEqual(['{"a":"é"}'])
    expect(cut('\ufeff{"a":1}')).toEqual(['{"a":1}'])
  })

  test('events are views of the body, not copies', () => {
    const body = Buffer.from('[{"a":1}]')
    const split = splitEvents(body)
    expect(split.kind === 'events' && split.events[0]?.bytes.buffer).toBe(body.buffer)
  })

  test('whatever JSON an array holds, each element comes out as it was written and as JSON.parse reads it', () => {
    const spaced = fc.tuple(fc.json({ maxDepth: 5 }), fc.constantFrom('', ' ', '\n', '\t \r\n')).map(([json, gap]) => ({
      json,
      padded: `${gap}${json}${gap}`,
    }))
    fc.assert(
      fc.property(fc.array(spaced, { minLength: 1 }), (elements) => {
        const body = Buffer.from(`[${elements.map(({ padded }) => padded).join(',')}]`)
        const split = splitEvents(body)
        if (split.kind !== 'events') throw new Error(split.message)
        expect(split.events.map(({ bytes }) => Buffer.from(bytes).toString())).toEqual(elements.map(({ json }) => json))
        expect(split.events.map(({ message }) => message)).toEqual(elements.map(({ json }) => JSON.parse(json)))
      }),
      { numRuns: runs },
    )
  })
})

describe('an element that is not to be read harms none of its neighbours', () => {
  const deep = (text: string, levels: number) =>
    `{"a":"]}","x":${'[{"y":'.repeat(levels)}${text}${'}]'.repeat(levels)}}`
  const invalid = Buffer.from([0x22, 0xc3, 0x28, 0x22])

  test('one that is nested too deep, of which only what lies within the limit is read', () => {
    const [good, bad, last] = splitAll(`[{"a":"é"}, ${deep('"}]\\""', 40)} ,{"b":1.0}]`)
    expect([good?.text, good?.flaw, last?.text, last?.flaw]).toEqual(['{"a":"é"}', undefined, '{"b":1.0}', undefined])
    expect(bad?.flaw).toBe('It is nested deeper than 64 levels, the posted array included.')
    expect(bad?.text).toMatch(/^\{"a":"\]\}","x":(\[\{"y":){31}"" *(\}\]){31}\}$/)
    expect(JSON.parse(bad?.text ?? '')).toEqual(bad?.message)
  })

  test('one with bytes that are not UTF-8', () => {
    const body = Buffer.concat([Buffer.from('[{"a":"é"},{"b":'), invalid, Buffer.from('},{"c":1}]')])
    expect(splitAll(body)).toEqual([
      { text: '{"a":"é"}', message: { a: 'é' } },
      { text: '{"b":"\ufffd("}', message: { b: '\ufffd(' }, flaw: 'It is not valid UTF-8.' },
      { text: '{"c":1}', message: { c: 1 } },
    ])
  })

  test('both at once, and a body that is nothing but one of them', () => {
    const body = Buffer.concat([Buffer.from(`[${deep('1', 70)},`), invalid, Buffer.from(',5]')])
    expect(splitAll(body).map(({ flaw }) => flaw)).toEqual([
      expect.stringContaining('64'),
      expect.stringContaining('UTF-8'),
      undefined,
    ])
    expect(splitAll(deep('1', 70))).toMatchObject([{ flaw: expect.stringContaining('64') }])
  })

  test('however many places are too deep', () => {
    const wide = `${'['.repeat(63)}${'[[]],'.repeat(1_000_000)}1${']'.repeat(63)}`
    const [bad, good] = splitAll(`[${wide},{"a":1}]`)
    expect([bad?.flaw === undefined, good?.text]).toEqual([false, '{"a":1}'])
  })

  test('views of the body are given of the others here too', () => {
    const body = Buffer.from(`[{"a":1},${deep('1', 70)}]`)
    const split = splitEvents(body)
    expect(split.kind === 'events' && split.events[0]?.bytes.buffer).toBe(body.buffer)
  })

  test('broken JSON beside it is still no JSON', () => {
    const bodies = [
      `[${deep('1', 70)},{"a":}]`,
      `[${deep('1', 70)}`,
      `[{"a":1},${'['.repeat(1_000_000)}`,
      `[{"a":1},${'['.repeat(100)}"no end`,
    ]
    for (const body of bodies) {
      expect(splitEvents(Buffer.from(body))).toMatchObject({ kind: 'refused', why: 'malformed' })
    }
    const outside = Buffer.concat([Buffer.from('[{"a":1}'), Buffer.from([0xff]), Buffer.from(',{"b":1}]')])
    expect(splitEvents(outside)).toMatchObject({ why: 'malformed', message: 'The request body is not valid UTF-8.' })
  })

  test('whatever the neighbours are', () => {
    fc.assert(
      fc.property(
        fc.array(fc.json({ maxDepth: 5 })),
        fc.array(fc.json({ maxDepth: 5 })),
        fc.integer({ min: 32, max: 200 }),
        fc.json({ maxDepth: 3 }),
        (before, after, levels, inner) => {
          const all = splitAll(`[${[...before, deep(inner, levels), ...after].join(' , ')}]`)
          expect(all.map(({ text, flaw }) => (flaw === undefined ? text : 'deep'))).toEqual([
            ...before,
            'deep',
            ...after,
          ])
        },
      ),
      { numRuns: runs },
    )
  })
})

describe('a body that holds no events is refused', () => {
  test.each(['', '  \n', '[]', ' [ ] ', '{}', '{ }', '\ufeff'])('%j as empty', (body) => {
    expect(splitEvents(Buffer.from(body))).toMatchObject({ kind: 'refused', why: 'empty' })
  })

  test.each([
    '[{"a":',
    '5',
    '"text"',
    'null',
    '[1,]',
    '[{"a":1}]]',
    '[{"a":1}{"b":2}]',
    '{"a":1},{"b":2}',
    ']',
    '}',
    '"',
    '[“a”]',
  ])('%j as malformed', (body) => {
    expect(splitEvents(Buffer.from(body))).toMatchObject({ kind: 'refused', why: 'malformed' })
  })

  test.each([
    ['[{"secret":"x" 5}]', 'The request body is not JSON at position 15.'],
    ['[{"secret":é}]', 'The request body is not JSON.'],
  ])('%s with the place where it is known, and nothing of what was posted', (body, message) => {
    expect(splitEvents(Buffer.from(body))).toEqual({ kind: 'refused', why: 'malformed', message })
  })

  test('nested deeper than allowed, however deep, but not at the limit', () => {
    const nested = (depth: number) => splitAll('['.repeat(depth) + ']'.repeat(depth))
    expect(nested(64)[0]?.flaw).toBeUndefined()
    expect(nested(65)).toMatchObject([{ flaw: expect.any(String) }])
    expect(nested(5_000_000)).toMatchObject([{ flaw: expect.any(String) }])
    expect(splitEvents(Buffer.from('{"a":'.repeat(1_000_000)))).toMatchObject({ why: 'malformed' })
  })

  test('with more events than allowed, but not at the limit', () => {
    const limits = { depth: 64, events: 3 }
    expect(splitEvents(Buffer.from('[1,2,3]'), limits)).toMatchObject({ kind: 'events' })
    expect(splitEvents(Buffer.from('[1,2,3,4]'), limits)).toMatchObject({ why: 'too_many' })
  })

  test('whatever bytes come, there is an answer that is JSON or a refusal in ASCII', () => {
    const soup = fc.array(
      fc.constantFrom('[', ']', '{', '}', '"', ',', ':', '\\', '1', 'a', ' ', 'é', 'null', '"a":'),
      { maxLength: 40 },
    )
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 60 }).map((array) => Buffer.from(array)),
      soup.map((parts) => Buffer.from(parts.join(''))),
    )
    fc.assert(
      fc.property(bytes, (body) => {
        const split = splitEvents(body)
        if (split.kind === 'refused') expect(split.message).toMatch(/^[\x20-\x7e]+$/)
        else
          for (const { bytes, message } of split.events)
            expect(JSON.parse(Buffer.from(bytes).toString())).toEqual(message)
      }),
      { numRuns: runs },
    )
  })
})
