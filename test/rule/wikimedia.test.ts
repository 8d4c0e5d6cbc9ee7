import { beforeAll, describe, expect, test } from 'vitest'
import type { Problem } from '../../src/base/problem.ts'
import type { JsonObject } from '../../src/event/event.ts'
import type { Rule } from '../../src/rule/rule.ts'
import { fixturesAbsent, readFixture } from '../support/fixtures.ts'
import { parse, recordOf, requestsOf } from './world.ts'

interface Exchange {
  readonly request: { readonly body?: string }
}

describe.skipIf(fixturesAbsent)('Wikimedia’s production rules', () => {
  let loaded: Readonly<Record<'changeprop' | 'cpjobqueue', { rules: readonly Rule[]; problems: readonly Problem[] }>>
  beforeAll(() => {
    loaded = {
      changeprop: parse(readFixture('wikimedia/changeprop.yaml')),
      cpjobqueue: parse(readFixture('wikimedia/cpjobqueue.yaml')),
    }
  })

  const named = (name: string) => {
    const rule = [...loaded.changeprop.rules, ...loaded.cpjobqueue.rules].find((rule) => rule.name === name)
    if (rule === undefined) throw new Error(`no rule ${name}`)
    return rule
  }
  const leftOut = (problems: readonly Problem[]) => [
    ...new Set(
      problems
        .filter(({ message }) => message.includes('the rule is left out'))
        .map(({ path }) => /templates\.([\w-]+)/.exec(path)?.[1]),
    ),
  ]

  test('load unchanged, but for those that call modules within their service', () => {
    const { changeprop, cpjobqueue } = loaded

    expect([...changeprop.problems, ...cpjobqueue.problems].filter(({ severity }) => severity === 'error')).toEqual([])
    expect(changeprop.rules.length + leftOut(changeprop.problems).length).toBe(25)
    expect(cpjobqueue.rules.length + leftOut(cpjobqueue.problems).length).toBe(30)
    expect(leftOut(changeprop.problems)).toEqual([
      'generate_purge_varnish',
      'generate_purge_varnish_transcludes',
      'page_edit',
      'page_delete',
      'page_restore',
      'on_transclusion_update',
      'page_create',
      'on_backlinks_update',
      'wikidata_description_on_edit',
      'wikidata_description_on_undelete',
    ])
    expect(leftOut(cpjobqueue.problems)).toEqual(['htmlCacheUpdate_partitioner', 'refreshLinks_partitioner'])
  })

  test('come with warnings that name what will not happen, and where', () => {
    const warnings = loaded.changeprop.problems.map(({ line, message }) => `${line} ${message}`)

    expect(warnings).toContainEqual(expect.stringMatching(/^72 .*blacklist.*its pages are not left out/))
    expect(warnings).toContainEqual(expect.stringMatching(/^322 .*limiters.*calls are not limited by key/))
    expect(warnings).toContainEqual(expect.stringMatching(/^141 .*batch_size, which has no effect/))
    expect(warnings).toContainEqual(expect.stringMatching(/^293 .*enable_blacklist, which has no effect/))
  })

  test('have their times to live kept to', () => {
    const rules = loaded.changeprop.rules.filter(({ expire }) => expire !== undefined)
    expect(rules.map(({ expire }) => expire)).toContainEqual({ ageMs: 864_000_000, rootAgeMs: 864_000_000 })
    const jobs = loaded.cpjobqueue.rules.filter(({ expire }) => expire !== undefined)
    expect(jobs.length).toBeGreaterThan(0)
    for (const { expire } of jobs) {
      expect(expire).toEqual({ ageMs: Number.POSITIVE_INFINITY, rootAgeMs: 604_800_000 })
    }
  })

  test('keep their own limits, and the defaults of Wikimedia’s engine', () => {
    expect(named('pcs_rerender_mobile_html_native_transcludes').throttle.total.concurrency).toBe(300)
    expect(named('low_traffic_jobs').throttle.total.concurrency).toBe(50)
    expect(named('cdnPurge').retry).toMatchObject({ limit: 2, delayMs: 60_000, factor: 6, jitter: 'none' })
    expect(named('liftwing_drafttopic').answers.read({ status: 502, headers: {}, body: Buffer.from('') })).toBe(
      'failed',
    )
    expect(named('liftwing_drafttopic').answers.read({ status: 500, headers: {}, body: Buffer.from('') })).toBe(
      'refused',
    )
  })

  test('render a page afresh, its title encoded once, from a MediaWiki-style address', () => {
    const rule = named('pcs_rerender_mobile_html_native_wikidata_change')
    const meta = {
      domain: 'ru.wikipedia.org',
      uri: 'https://ru.wikipedia.org/wiki/Special:A/B%3F',
      dt: '1990-02-20T19:31:13Z',
    }

    expect(requestsOf(rule, recordOf({ meta }))[1]).toEqual({
      method: 'GET',
      origin: 'https://mobileapps.discovery.wmnet:4102',
      path: '/ru.wikipedia.org/v1/page/mobile-html/Special%3AA%2FB%3F',
      headers: { 'x-cache-purge': 'true', 'if-unmodified-since': 'Tue, 20 Feb 1990 19:31:13 +0000' },
      body: null,
      timeoutMs: 420_000,
    })
  })

  test('whose match is a list fire where any item fits', () => {
    const rule = named('pcs_rerender_native_page_images_summary')
    const matches = (message: JsonObject) => rule.match(message)?.case

    expect(matches({ added_properties: { page_image: 'x.png' }, page_title: 'A' })).toBe(0)
    expect(matches({ removed_properties: { page_image: 'x.png' }, page_title: 'A' })).toBe(1)
    expect(
      matches({ added_properties: { page_image: 'x.png' }, page_namespace: 0, meta: { domain: 'www.wikidata.org' } }),
    ).toBeUndefined()
  })

  test('fail for a page that was moved from nowhere, and render the next one right', () => {
    const rule = named('pcs_rerender_native_on_page_move')
    const meta = { domain: 'a.wikipedia.org' }

    expect(() => requestsOf(rule, recordOf({ meta, page_title: 'A' }))).toThrow('message.prior_state.page_title')
    const paths = requestsOf(rule, recordOf({ meta, page_title: 'A', prior_state: { page_title: 'B' } })).map(
      ({ path }) => path,
    )
    expect(paths.slice(0, 2)).toEqual([
      '/a.wikipedia.org/v1/page/media-list/A',
      '/a.wikipedia.org/v1/page/media-list/B',
    ])
  })

  test('ask a model with the event inside, byte for byte', () => {
    const bytes = Buffer.from('{ "wiki_id":"enwiki", "page_change_kind":"edit",\n "rev": 12345678901234567890 }')
    const [request] = requestsOf(named('liftwing_drafttopic'), recordOf(JSON.parse(bytes.toString()), bytes))

    expect(request?.path).toBe('/v1/models/enwiki-drafttopic%3Apredict')
    expect(request?.headers).toEqual({
      host: 'enwiki-drafttopic.revscoring-drafttopic.wikimedia.org',
      'content-type': 'application/json',
    })
    expect(Buffer.from(request?.body ?? '').toString()).toBe(`{"event":${bytes}}`)
  })

  test('run jobs that were recorded from real wikis with the very bytes that were signed', () => {
    const { pairs }: { pairs: readonly Exchange[] } = JSON.parse(readFixture('eventbus/jobs/rest-endpoint.json'))
    const jobs = pairs.map(({ request }) => request.body ?? '').filter(isJob)
    const rule = named('low_traffic_jobs')
    expect(jobs.length).toBeGreaterThan(20)

    for (const text of jobs) {
      const record = recordOf(JSON.parse(text), Buffer.from(text))
      const [request] = requestsOf(rule, record)
      expect(request?.body).toBe(record.bytes)
      expect(request?.headers['content-type']).toBe('application/json')
    }
  })

  test('concern the streams that they name, and jobs that no other rule runs', () => {
    const rule = named('low_traffic_jobs')

    expect(rule.concernsTopic('mediawiki.job.enotifNotify')).toBe(true)
    expect(rule.concernsTopic('mediawiki.job.cdnPurge')).toBe(false)
  })
})

/** Some of the recorded requests are no jobs, but attempts to break the endpoint. */
function isJob(body: string): boolean {
  return body.startsWith('{"') && body.endsWith('}') && body.includes('"mediawiki_signature"')
}
