import { Ajv } from 'ajv'
import Type from 'typebox'
import { describe, expect, test } from 'vitest'
import { checkDocument, parseDocument } from '../../src/base/document.ts'
import { formatProblem } from '../../src/base/problem.ts'

const closed = { additionalProperties: false }
const request = Type.Object({ uri: Type.String(), method: Type.Optional(Type.String()) }, closed)
const secret = Type.Union(
  [
    Type.String({ minLength: 1 }),
    Type.Object({ env: Type.String() }, closed),
    Type.Object({ file: Type.String() }, closed),
  ],
  { title: 'a secret', writeOnly: true },
)
const schema = Type.Object(
  {
    port: Type.Optional(Type.Integer({ minimum: 0, maximum: 65_535 })),
    share: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    wait: Type.Optional(Type.String({ title: 'a duration such as 30s', pattern: '^\\d+s$', examples: ['30s'] })),
    mode: Type.Optional(Type.Union([Type.Literal('accept'), Type.Literal('refuse')])),
    level: Type.Optional(Type.Enum(['info', 'debug'])),
    exec: Type.Optional(Type.Union([request, Type.Array(request, { minItems: 1 })])),
    token: Type.Optional(secret),
    retry: Type.Optional(Type.Union([Type.Literal('never'), Type.Object({ limit: Type.Integer() }, closed)])),
    by: Type.Optional(
      Type.Union([
        Type.Object({ kind: Type.Literal('rate'), rate: Type.Integer() }, closed),
        Type.Object({ kind: Type.Literal('slots'), slots: Type.Integer() }, closed),
      ]),
    ),
    names: Type.Optional(
      Type.Record(Type.String(), Type.Integer(), {
        propertyNames: { title: 'a name of letters', pattern: '^[a-z]+$' },
      }),
    ),
  },
  closed,
)
const validate = new Ajv({ allErrors: true }).compile(schema)

function complaints(text: string, at: readonly string[] = [], validator = validate): readonly string[] {
  const { document, problems } = parseDocument('f', text)
  expect(problems).toEqual([])
  return document === undefined ? [] : checkDocument(document, validator, at).map(formatProblem)
}

describe('a document that does not fit its schema', () => {
  test.each([
    ['prot: 1', 'f:1:1 prot: expected a known key, found "prot"; did you mean port?'],
    ['nothing_like_it: 1', /found "nothing_like_it"; leave it out; known here: port, share/],
    ['port: "80"', 'f:1:7 port: expected a whole number from 0 to 65535, found "80"; correct the value'],
    ['port: 99999', 'f:1:7 port: expected a whole number from 0 to 65535, found 99999; correct the value'],
    ['port: 1.5', /expected a whole number from 0 to 65535, found 1.5/],
    ['share: 0', /expected a number above 0, found 0/],
    ['wait: 30', 'f:1:7 wait: expected a duration such as 30s, found 30; write for instance 30s'],
    ['wait: 30x', /expected a duration such as 30s, found "30x"; write for instance 30s/],
    ['mode: acept', 'f:1:7 mode: expected "accept" or "refuse", found "acept"; did you mean accept?'],
    ['level: inof', 'f:1:8 level: expected "info" or "debug", found "inof"; did you mean info?'],
    ['exec: 5', /expected a mapping with uri or a list that is not empty, found 5/],
    ['exec: []', /exec: expected a list that is not empty, found an empty list/],
    ['exec: {uri: 4}', 'f:1:13 exec.uri: expected text, found 4; correct the value'],
    ['exec: {url: a}', 'f:1:8 exec.url: expected a known key, found "url"; did you mean uri?'],
    ['exec: [{uri: a}, {method: get}]', 'f:1:18 exec[1]: expected the key uri, found none; add uri, text'],
    ['token: {evn: A}', 'f:1:9 token.evn: expected a known key, found "evn"; did you mean env?'],
    ['token: {fiel: A}', /did you mean file\?/],
    ['token: ""', /expected text that is not empty/],
    ['retry: nevr', /expected "never" or a mapping with limit, found "nevr"; did you mean never\?/],
    ['retry: {limit: x}', /retry.limit: expected a whole number, found "x"/],
    ['by: {kind: slots, slots: x}', /by.slots: expected a whole number, found "x"/],
    ['names: {A1: 1}', 'f:1:9 names.A1: expected as key a name of letters, found "A1"; rename the key'],
    ['names: {a: x}', /names.a: expected a whole number, found "x"/],
    ['- 1', /expected a mapping, found a list/],
    ['', /f:1:1 expected a mapping, found nothing/],
  ])('%s is one problem', (text, expected) => {
    const found = complaints(text)
    expect(found).toHaveLength(1)
    if (typeof expected === 'string') expect(found).toEqual([expected])
    else expect(found[0]).toMatch(expected)
  })

  test('has all of its problems told, from the top', () => {
    const text = 'mode: x\nexec:\n  - {uri: 1}\n  - {method: 2}\nprot: 3\nwait: x'
    expect(complaints(text).map((line) => line.split(' ')[0])).toEqual([
      'f:1:7',
      'f:3:11',
      'f:4:5',
      'f:4:14',
      'f:5:1',
      'f:6:7',
    ])
  })

  test.each(['token: 5151', 'token: [5151]', 'token: true'])('%s keeps the secret to itself', (text) => {
    const found = complaints(text)
    expect(found).toEqual([expect.stringContaining('expected a secret, found')])
    expect(found[0]).not.toMatch(/5151|true/)
  })

  test('is told about by its own places when only a part of it is checked', () => {
    const part = new Ajv({ allErrors: true }).compile(Type.Object({ x: Type.Integer() }, closed))
    expect(complaints('a:\n  b: {x: t}\n', ['a', 'b'], part)).toEqual([
      'f:2:10 a.b.x: expected a whole number, found "t"; correct the value',
    ])
  })

  test('is explained where branches of a union are references, too', () => {
    const validator = new Ajv({ allErrors: true, strict: false }).compile({
      $defs: {
        a: { type: 'object', properties: { x: { type: 'integer' } }, required: ['x'], additionalProperties: false },
      },
      anyOf: [{ type: 'string' }, { $ref: '#/$defs/a' }],
    })
    expect(complaints('{x: t}', [], validator)).toEqual([
      'f:1:5 x: expected a whole number, found "t"; correct the value',
    ])
    expect(complaints('[1]', [], validator)).toHaveLength(1)
  })
})

test('a document that fits has no problems', () => {
  expect(complaints('port: 80\nexec: [{uri: a}]\ntoken: {env: A}\nretry: never\nby: {kind: rate, rate: 3}')).toEqual([])
})
