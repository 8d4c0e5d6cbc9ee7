import { readdirSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createRegistry, type Registry } from '../../src/stream/registry.ts'
import { fixturesAbsent, fixturesFolder, readFixture } from '../support/fixtures.ts'
import { openWorld } from './world.ts'

interface Recording {
  readonly requests: readonly {
    readonly method: string
    readonly url: string
    readonly headers: Record<string, string>
    readonly body: string
  }[]
}

interface Pair {
  readonly name: string
  readonly request: {
    readonly method: string
    readonly path: string
    readonly headers: Record<string, string>
    readonly body?: string
  }
  readonly response: {
    readonly status: number
    readonly statusText: string
    readonly headers: Record<string, string>
    readonly body: string
  }
}

const folders = fixturesAbsent ? [] : ['intake', 'intake-mw1.39', 'intake-without-meta-dt']
const files = folders.flatMap((folder) =>
  readdirSync(resolve(fixturesFolder, 'eventbus', folder)).map((file) => `eventbus/${folder}/${file}`),
)

/** The elements of an array in JSON, as they are written: here they have no whitespace around them. */
function elements(body: string): string[] {
  const parsed: unknown[] = JSON.parse(body)
  let rest = body.slice(1)
  return parsed.map((_, index) => {
    const end = index === parsed.length - 1 ? rest.length - 1 : nextElement(rest)
    const text = rest.slice(0, end)
    rest = rest.slice(end + 1)
    return text
  })
}

/** Where the first comma stands that leaves whole JSON before it. */
function nextElement(text: string): number {
  for (let at = text.indexOf('},{'); at !== -1; at = text.indexOf('},{', at + 1)) {
    try {
      JSON.parse(text.slice(0, at + 1))
      return at + 1
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error
    }
  }
  throw new Error('no further element')
}

describe.skipIf(fixturesAbsent)('what real wikis sent', () => {
  test('there is plenty of it', () => {
    expect(files.length).toBeGreaterThan(50)
  })

  test.each(files)('%s is accepted and kept byte for byte', async (file) => {
    const world = await openWorld()
    const recording: Recording = JSON.parse(readFixture(file))
    for (const { method, url, headers, body } of recording.requests) {
      if (method !== 'POST') continue
      const already = world.store.appended.length
      const response = await world.post(body, {
        search: new URL(url, 'http://localhost').search,
        headers: producerHeaders(headers),
      })
      expect(response.status).toBe(url.includes('hasty=') ? 202 : 201)
      expect(world.store.texts.slice(already)).toEqual(elements(body))
    }
    expect(world.store.appended.length).toBeGreaterThan(0)
  })
})

/** Those that fetch lets one set. */
function producerHeaders({ 'content-type': type, 'x-request-id': id }: Record<string, string>): Record<string, string> {
  return { 'content-type': type ?? '', 'x-request-id': id ?? '' }
}

/** Where interface.md says otherwise than EventGate does. */
const ours: Readonly<Record<string, { readonly status: number; readonly body?: string }>> = {
  'all-error-unknown-schema': { status: 400 },
  'invalid-plus-error': { status: 400 },
  'array-of-nonobjects': { status: 400 },
  'no-schema': { status: 400 },
  'absolute-schema': { status: 400 },
  // EventBus has sent no meta.dt since 2025; the arrival time stands beside the event.
  'no-meta-dt': { status: 201, body: '' },
  'malformed-json': { status: 400, body: '' },
  'json-scalar': { status: 400, body: '' },
  'wrong-content-type': { status: 415, body: '' },
  'no-content-type': { status: 415, body: '' },
}

describe.skipIf(fixturesAbsent)('what EventGate answered', () => {
  const recorded: { readonly pairs: readonly Pair[] } = fixturesAbsent
    ? { pairs: [] }
    : JSON.parse(readFixture('eventbus/eventgate/answers.json'))
  const posts = recorded.pairs.filter(({ name, request }) => request.method === 'POST' && name !== 'too-large')

  test('there is plenty of it', () => {
    expect(posts.length).toBeGreaterThan(12)
  })

  test.each(posts)(
    '$name is what we answer, but for what we settled otherwise',
    async ({ name, request, response }) => {
      const world = await openWorld({ registry: await recordedRegistry() })
      const { body = '', headers, path } = request
      const answer = await fetch(`${world.url}${path}`, {
        method: 'POST',
        headers,
        // Text would be given a content type by fetch.
        body: Buffer.from(body),
      })
      const settled = ours[name]
      expect(answer.status).toBe(settled?.status ?? response.status)
      const text = await answer.text()
      if (settled?.body !== undefined) expect(text).toBe(settled.body)
      else if (name !== 'hasty-invalid') expect(outline(text)).toEqual(outline(response.body))
      if (settled === undefined) expect(answer.statusText).toBe(response.statusText)
      for (const header of [
        'access-control-allow-origin',
        'access-control-allow-methods',
        'access-control-allow-headers',
      ]) {
        expect(answer.headers.get(header)).toBe(response.headers[header])
      }
    },
  )

  /** How many events of which kind, and which; validators word their reasons differently. */
  function outline(body: string): unknown {
    if (body === '') return ''
    const { invalid = [], error = [] } = JSON.parse(body)
    return [...invalid, ...error].map(({ status, event }) => ({ status, event }))
  }
})

/** Knows the two schemas that were used, as far as the recorded requests offend against them, and no other. */
async function recordedRegistry(): Promise<Registry> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-schemas-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  await mkdir(join(folder, 'mediawiki/job'), { recursive: true })
  const schema = { properties: { database: { type: 'string' }, params: { type: 'object' } } }
  await writeFile(join(folder, 'mediawiki/job/1.0.0'), JSON.stringify(schema))
  await mkdir(join(folder, 'mediawiki/recentchange'))
  await writeFile(join(folder, 'mediawiki/recentchange/1.0.0'), '{}')
  return createRegistry({ from: [folder], unknown: 'refuse' })
}
