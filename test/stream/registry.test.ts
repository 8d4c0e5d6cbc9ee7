import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Json } from '../../src/event/event.ts'
import { createRegistry } from '../../src/stream/registry.ts'

const id = '0a16dce9-7e5b-4a41-bd86-c0cee60b235c'

function event(changes: Record<string, Json> = {}, meta: Record<string, Json> = {}): Json {
  return { $schema: '/page/edited/1.0.0', meta: { stream: 'page.edited', ...meta }, ...changes }
}

/** A folder with these files, whose values are texts. */
async function folderOf(files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-schemas-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true })
    await writeFile(join(folder, path), text)
  }
  return folder
}

const wantsTitle = JSON.stringify({
  $schema: 'https://json-schema.org/draft-07/schema#',
  $id: '/page/edited/1.0.0',
  type: 'object',
  required: ['title'],
  properties: { title: { type: 'string', default: 'none' } },
})

describe('the common fields of an event', () => {
  const registry = createRegistry({ from: [], unknown: 'accept' })

  test('are checked where present, and need not be there beyond $schema and meta.stream', () => {
    expect(registry.admit(event())).toMatchObject({ kind: 'admitted', stream: 'page.edited' })
    const full = event({}, { id, dt: '2026-11-24T02:39:59.123Z', domain: 'wiki.example' })
    expect(registry.admit(full)).toMatchObject({ kind: 'admitted', message: full })
  })

  test.each<[string, Json, string]>([
    ['no meta', { $schema: '/a/1.0.0' }, "the event must have required property 'meta'"],
    ['no stream', { $schema: '/a/1.0.0', meta: {} }, "/meta must have required property 'stream'"],
    ['meta as a list', { $schema: '/a/1.0.0', meta: [] }, '/meta must be object'],
    ['a $schema that is no text', event({ $schema: 5 }), '/$schema must be string'],
    ['a stream with a slash', event({}, { stream: 'a/b' }), '/meta/stream must match pattern'],
    [
      'a stream without end',
      event({}, { stream: 'a'.repeat(201) }),
      '/meta/stream must NOT have more than 200 characters',
    ],
    ['an id that is no UUID', event({}, { id: 'x' }), '/meta/id must match pattern'],
    ['a null id', event({}, { id: null }), '/meta/id must be string'],
    ['a date of no month', event({}, { dt: '2026-13-24T02:39:59Z' }), '/meta/dt must match format "date-time"'],
    ['a number as domain', event({}, { domain: 7 }), '/meta/domain must be string'],
  ])('make it invalid: %s', (_what, message, reason) => {
    const admission = registry.admit(message)
    expect(admission).toMatchObject({ kind: 'invalid' })
    expect(admission).toHaveProperty('text', expect.stringContaining(reason))
  })

  test('are all named at once when they are wrong', () => {
    expect(registry.admit(event({}, { id: 'x', dt: 'y' }))).toHaveProperty('errors.length', 2)
  })

  test.each<Json>([1, 'x', null, [], true, { meta: { stream: 'a' } }])(
    'of %j are an error of the producer',
    (message) => {
      expect(registry.admit(message)).toMatchObject({ kind: 'error', ours: false })
    },
  )

  test.each([
    '',
    'a',
    '/',
    '//a',
    '/a/',
    '/../a',
    '/a/../b',
    '/a/./b',
    '/a\\b',
    '/a b',
    '/a%2e%2e/b',
    'https://a.example/b',
    '/a?b',
    `/${'a'.repeat(300)}`,
  ])('include a $schema that is a path: %j is none', ($schema) => {
    expect(registry.admit(event({ $schema }))).toMatchObject({ kind: 'error', ours: false })
  })
})

describe("an event's own schema", () => {
  test.each([
    ['as the path says', 'page/edited/1.0.0', wantsTitle],
    ['as JSON', 'page/edited/1.0.0.json', wantsTitle],
    ['as YAML', 'page/edited/1.0.0.yaml', 'type: object\nrequired: [ title ]\n'],
  ])('is found in a folder %s', async (_how, path, text) => {
    const registry = createRegistry({ from: [await folderOf({ [path]: text })], unknown: 'refuse' })
    expect(await registry.admit(event({ title: 'A' }))).toMatchObject({ kind: 'admitted' })
    expect(await registry.admit(event())).toMatchObject({ kind: 'invalid', stream: 'page.edited' })
  })

  test('is compiled once, and from then on answers without a promise', async () => {
    const folder = await folderOf({ 'page/edited/1.0.0': wantsTitle })
    const registry = createRegistry({ from: [folder], unknown: 'refuse' })
    await Promise.all([registry.admit(event()), registry.admit(event())])
    await rm(join(folder, 'page'), { recursive: true })
    expect(registry.admit(event({ title: 'A' }))).toMatchObject({ kind: 'admitted' })
  })

  test('never changes the event: no defaults, no coercion, nothing removed', async () => {
    const schema = JSON.stringify({
      type: 'object',
      properties: { a: { type: 'number' }, b: { default: 1 } },
      additionalProperties: { type: ['object', 'string', 'number'] },
    })
    const registry = createRegistry({ from: [await folderOf({ 'page/edited/1.0.0': schema })], unknown: 'refuse' })
    const message = event({ extra: 'x' })
    await registry.admit(message)
    expect(message).toEqual(event({ extra: 'x' }))
    expect(registry.admit(event({ a: '5' }))).toMatchObject({ kind: 'invalid', text: '/a must be number' })
  })

  test('with a pattern whose time may run away is refused before an event meets it, and the operator told why', async () => {
    const nested = { type: 'object', properties: { list: { items: [{ anyOf: [{ pattern: '^(a+)+$' }] }] } } }
    const schema = JSON.stringify(nested)
    const registry = createRegistry({ from: [await folderOf({ 'page/edited/1.0.0': schema })], unknown: 'accept' })
    const admission = await registry.admit(event({ list: [`${'a'.repeat(40)}b`] }))
    expect(admission).toMatchObject({ kind: 'error', ours: true, message: expect.stringContaining('^(a+)+$') })
  })

  test('comes from the first place that has it', async () => {
    const strict = await folderOf({ 'page/edited/1.0.0': wantsTitle })
    const lenient = await folderOf({ 'page/edited/1.0.0': '{}' })
    const registry = createRegistry({ from: [await folderOf({}), strict, lenient], unknown: 'refuse' })
    expect(await registry.admit(event())).toMatchObject({ kind: 'invalid' })
  })

  test.each([
    [
      'draft 4',
      {
        $schema: 'http://json-schema.org/draft-04/schema#',
        id: '/x',
        properties: { n: { minimum: 3, exclusiveMinimum: true } },
      },
    ],
    ['draft 6', { $schema: 'http://json-schema.org/draft-06/schema#', properties: { n: { exclusiveMinimum: 3 } } }],
    [
      'draft 7 by https',
      { $schema: 'https://json-schema.org/draft-07/schema#', $id: '/x', properties: { n: { exclusiveMinimum: 3 } } },
    ],
    [
      '2019-09',
      { $schema: 'https://json-schema.org/draft/2019-09/schema', properties: { n: { exclusiveMinimum: 3 } } },
    ],
    [
      '2020-12',
      { $schema: 'https://json-schema.org/draft/2020-12/schema', properties: { n: { exclusiveMinimum: 3 } } },
    ],
  ])('may be written in %s', async (_dialect, schema) => {
    const folder = await folderOf({ 'page/edited/1.0.0': JSON.stringify(schema) })
    const registry = createRegistry({ from: [folder], unknown: 'refuse' })
    expect(await registry.admit(event({ n: 3 }))).toMatchObject({ kind: 'invalid' })
    expect(await registry.admit(event({ n: 4 }))).toMatchObject({ kind: 'admitted' })
  })

  test('may refer to others by path', async () => {
    const folder = await folderOf({
      'page/edited/1.0.0': JSON.stringify({ $id: '/page/edited/1.0.0', allOf: [{ $ref: '/fragment/1.0.0#' }] }),
      'fragment/1.0.0.yaml': 'required: [ title ]\n',
    })
    const registry = createRegistry({ from: [folder], unknown: 'refuse' })
    expect(await registry.admit(event())).toMatchObject({ kind: 'invalid' })
  })

  test('where there is none, lets the event in or not, as configured', async () => {
    const folder = await folderOf({ 'page/edited/readme': '' })
    for (const from of [[], [folder]]) {
      expect(await createRegistry({ from, unknown: 'accept' }).admit(event())).toMatchObject({ kind: 'admitted' })
      expect(await createRegistry({ from, unknown: 'refuse' }).admit(event())).toEqual({
        kind: 'error',
        stream: 'page.edited',
        message: 'There is no schema at /page/edited/1.0.0.',
        ours: false,
      })
    }
  })

  test('is none of the other files that lie in a folder of schemas', async () => {
    const folder = await folderOf({ 'README.md': 'text', LICENSE: 'text', 'page/edited/latest': wantsTitle })
    const registry = createRegistry({ from: [folder], unknown: 'refuse' })
    for (const $schema of ['/README.md', '/LICENSE', '/page/edited/latest']) {
      expect(await registry.admit(event({ $schema }))).toMatchObject({ kind: 'error', ours: false })
    }
  })

  test('that appears later is found when it is looked for again', async () => {
    const folder = await folderOf({})
    let now = 0
    const registry = createRegistry({ from: [folder], unknown: 'refuse', now: () => now })
    expect(await registry.admit(event())).toMatchObject({ kind: 'error' })
    await mkdir(join(folder, 'page/edited'), { recursive: true })
    await writeFile(join(folder, 'page/edited/1.0.0'), wantsTitle)
    expect(registry.admit(event({ title: 'A' }))).toMatchObject({ kind: 'error' })
    now += 60_000
    expect(await registry.admit(event({ title: 'A' }))).toMatchObject({ kind: 'admitted' })
  })

  test.each([
    ['is no JSON Schema', '{"type":"strng"}'],
    ['is no JSON', '{"type":'],
    ['is a list', '- a\n- b\n'],
    ['refers to nowhere', '{"$ref":"/nowhere/1.0.0"}'],
    ['is larger than a schema may be', `{"description":"${'x'.repeat(1024 * 1024)}"}`],
  ])('that %s is a fault of ours, told and remembered', async (_what, text) => {
    const folder = await folderOf({ 'page/edited/1.0.0': text })
    const registry = createRegistry({ from: [folder], unknown: 'accept' })
    const admission = await registry.admit(event())
    expect(admission).toMatchObject({ kind: 'error', ours: true })
    expect(registry.admit(event())).toEqual(admission)
  })
})

test('the schema that comes with the service checks its own events', async () => {
  const registry = createRegistry({ from: ['config/schemas'], unknown: 'refuse' })
  const $schema = '/example/page_edited/1.0.0'
  expect(await registry.admit(event({ $schema, title: 'Main Page', rev_id: 5 }))).toMatchObject({ kind: 'admitted' })
  expect(await registry.admit(event({ $schema, title: 5 }))).toMatchObject({
    kind: 'invalid',
    text: '/title must be string',
  })
})

describe('schemas at a base URL', () => {
  async function schemaServer(answer: (path: string) => { status: number; body: string }) {
    const asked: string[] = []
    const server = createServer((request, response) => {
      asked.push(request.url ?? '')
      const { status, body } = answer(request.url ?? '')
      response.writeHead(status).end(body)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    const address: AddressInfo | string | null = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    return { asked, base: `http://127.0.0.1:${address.port}/schemas/` }
  }

  test('are fetched once, however many events ask at one time', async () => {
    const { asked, base } = await schemaServer(() => ({ status: 200, body: wantsTitle }))
    const registry = createRegistry({ from: [base], unknown: 'refuse' })
    const admissions = await Promise.all(Array.from({ length: 20 }, () => registry.admit(event())))
    expect(admissions.every(({ kind }) => kind === 'invalid')).toBe(true)
    expect(asked).toEqual(['/schemas/page/edited/1.0.0'])
  })

  test('are asked for with an extension too, and then are nowhere', async () => {
    const { asked, base } = await schemaServer(() => ({ status: 404, body: '' }))
    const registry = createRegistry({ from: [base], unknown: 'accept' })
    expect(await registry.admit(event())).toMatchObject({ kind: 'admitted' })
    expect(asked).toEqual(['', '.yaml', '.json'].map((extension) => `/schemas/page/edited/1.0.0${extension}`))
    expect(registry.admit(event())).toMatchObject({ kind: 'admitted' })
  })

  test('that cannot be had are a fault of ours, and the place is left in peace for a while', async () => {
    const { asked, base } = await schemaServer(() => ({ status: 500, body: '' }))
    const registry = createRegistry({ from: [base], unknown: 'accept' })
    expect(await registry.admit(event())).toMatchObject({ kind: 'error', ours: true })
    expect(await registry.admit(event({ $schema: '/other/1.0.0' }))).toMatchObject({ kind: 'error', ours: true })
    expect(asked).toHaveLength(1)
  })

  test('that do not come are waited for less long than EventBus waits for our answer', async () => {
    const silent = createServer(() => undefined)
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      silent.closeAllConnections()
      silent.close()
    })
    const { port } = silent.address() as AddressInfo
    const registry = createRegistry({ from: [`http://127.0.0.1:${port}`], unknown: 'accept' })
    const givesUp = new AbortController()
    onTestFinished(() => givesUp.abort())
    const eventBus = pause(10_000, 'EventBus gave up', { signal: givesUp.signal }).catch(() => undefined)
    expect(await Promise.race([eventBus, registry.admit(event())])).toMatchObject({ kind: 'error', ours: true })
  }, 15_000)

  test('that cannot be had are told of once, not for every event, and once more when they are there', async () => {
    let clock = 0
    let status = 403
    const told: unknown[] = []
    const { base } = await schemaServer(() => ({ status, body: wantsTitle }))
    const registry = createRegistry({
      ...{ from: [base], unknown: 'accept', now: () => clock },
      tell: (schema, why) => told.push([schema, why]),
    })
    const [one, other] = ['/page/edited/1.0.0', '/page/moved/1.0.0']
    for (const [$schema, ms] of [
      [one, 0],
      [other, 0],
      [one, 11_000],
    ] as const) {
      clock = ms
      await registry.admit(event({ $schema }))
    }
    const why = expect.stringContaining('answered 403')
    expect(told.splice(0)).toEqual([
      [one, why],
      [other, why],
    ])
    expect(registry.warnings()).toEqual([expect.stringContaining(`${one} and 1 more`)])

    clock = 22_000
    status = 200
    await registry.admit(event())
    expect(told).toEqual([[one, undefined]])
    expect(registry.warnings()).toEqual([expect.stringContaining(`${other}:`)])
    clock = 3_600_000
    expect(registry.warnings()).toEqual([])
  })

  test('that never end are cut off', async () => {
    const { base } = await schemaServer(() => ({ status: 200, body: 'x'.repeat(2 * 1024 * 1024) }))
    const registry = createRegistry({ from: [base], unknown: 'accept' })
    expect(await registry.admit(event())).toHaveProperty('message', expect.stringContaining('larger than'))
  })

  test('keep a password in the URL to themselves', async () => {
    const { base } = await schemaServer(() => ({ status: 500, body: '' }))
    const registry = createRegistry({ from: [base.replace('//', '//user:secret@')], unknown: 'accept' })
    expect(JSON.stringify(await registry.admit(event()))).not.toContain('secret')
  })
})
