import { describe, expect, test } from 'vitest'
import type { EventsAnswer } from '../../src/api/contract.ts'
import type { StreamRecord } from '../../src/event/event.ts'
import type { Rule } from '../../src/rule/rule.ts'
import { type DeadLetter, type DeliveryEntry, type EventEntry, noProgress } from '../../src/store/store.ts'
import { anEvent, aRule, openWorld } from './world.ts'

const metaId = '0a16dce9-7e5b-4a41-bd86-c0cee60b235c'
const accepted = Date.parse('2026-11-24T02:40:00Z')

const record: StreamRecord = {
  id: '019ab000-0000-7000-8000-000000000001',
  stream: 'page.edited',
  accepted,
  bytes: Buffer.from(anEvent()),
  message: JSON.parse(anEvent()),
}

function aDelivery(changes: Partial<DeliveryEntry> = {}): DeliveryEntry {
  return {
    id: `${record.id}/purge`,
    rule: 'purge',
    revision: aRule().revision,
    state: 'waiting',
    reason: 'retry',
    at: accepted + 1_000,
    next: accepted + 60_000,
    attempts: [{ at: accepted + 500, ms: 20, status: 500, outcome: 'failed', request: 0, note: '' }],
    earlierAttempts: 21,
    eventId: record.id,
    metaId,
    stream: record.stream,
    accepted,
    coveredBy: undefined,
    covers: { count: 0, ids: [] },
    ...changes,
  }
}

function anEntry(deliveries: readonly DeliveryEntry[], changes: Partial<StreamRecord> = {}): EventEntry {
  return { record: { ...record, ...changes }, metaId, routed: true, deliveries }
}

const letter: DeadLetter = {
  ...aDelivery({ state: 'dead', reason: 'refused', next: null }),
  lane: { rule: 'purge', key: '' },
  record,
  progress: noProgress,
  standing: undefined,
  answer: { status: 404, headers: {}, body: 'no such page', truncated: false, request: 'GET http://a.example/' },
}

const no = aRule({
  name: 'no',
  match: () => undefined,
  explain: () => ({ clause: 'match', path: 'page.namespace_id', wanted: 0, found: 4 }),
})
const elsewhere = aRule({ name: 'elsewhere', concernsTopic: () => false })

async function worldOf(entry: EventEntry, rules: readonly Rule[]) {
  const world = await openWorld({ rules })
  world.store.entries = [entry]
  return world
}

async function json(response: Response): Promise<unknown> {
  return response.json()
}

describe('what became of an event', () => {
  test('tells what is in flight as such, be it from a row or from memory', async () => {
    const world = await worldOf(anEntry([aDelivery()]), [aRule(), aRule({ name: 'other' })])
    const since = accepted + 60_001
    world.operations.inFlight = new Map(
      ['purge', 'other'].map((rule) => [`${record.id}/${rule}`, { revision: aRule().revision, since }]),
    )
    const delivery = { state: 'running', reason: '', at: new Date(since).toISOString(), next: null }
    const answer = (await json(await world.get(`/v1/events/${record.id}`))) as EventsAnswer
    expect(answer.events[0]?.rules).toMatchObject([
      { rule: 'purge', computed_now: false, delivery: { ...delivery, attempts: [{ status: 500 }] } },
      { rule: 'other', computed_now: false, delivery: { ...delivery, attempts: [] } },
    ])
    expect(await json(await world.get('/v1/deliveries'))).toMatchObject({ deliveries: [delivery] })
  })

  test('is told by our id or the producer’s, rule by rule', async () => {
    const world = await worldOf(anEntry([aDelivery()]), [aRule(), no, elsewhere])
    const expected = {
      events: [
        {
          id: record.id,
          meta_id: metaId,
          stream: 'page.edited',
          accepted: '2026-11-24T02:40:00.000Z',
          routed: true,
          rules: [
            {
              rule: 'purge',
              revision: '0123456789ab',
              matched: true,
              case: 1,
              reason: null,
              computed_now: false,
              delivery: {
                id: `${record.id}/purge`,
                state: 'waiting',
                reason: 'retry',
                at: '2026-11-24T02:40:01.000Z',
                attempts: [
                  { at: '2026-11-24T02:40:00.500Z', status: 500, ms: 20, outcome: 'failed', request: 0, note: '' },
                ],
                earlier_attempts: 21,
                next: '2026-11-24T02:41:00.000Z',
                covered_by: null,
                covers: { count: 0, ids: [] },
              },
            },
            {
              rule: 'no',
              revision: '0123456789ab',
              matched: false,
              case: null,
              reason: { clause: 'match', path: 'page.namespace_id', wanted: 0, found: 4 },
              computed_now: true,
            },
          ],
        },
      ],
    }
    expect(await json(await world.get(`/v1/events/${record.id}`))).toEqual(expected)
    expect(await json(await world.get(`/v1/events/${metaId}`))).toEqual(expected)
  })

  test('is what is on record alone, where the event itself is kept no longer', async () => {
    const gone = { bytes: new Uint8Array(0), message: undefined }
    const world = await worldOf(anEntry([aDelivery()], gone), [aRule(), no])
    const answer = (await json(await world.get(`/v1/events/${record.id}`))) as EventsAnswer
    expect(answer.events[0]?.rules.map(({ rule, matched }) => [rule, matched])).toEqual([['purge', true]])
  })

  test('has the event’s own text where that is asked for', async () => {
    const world = await worldOf(anEntry([]), [])
    expect(await json(await world.get(`/v1/events/${metaId}?bytes=true`))).toMatchObject({
      events: [{ bytes: anEvent() }],
    })
  })

  test('says that a rule matches now where no delivery is on record', async () => {
    const world = await worldOf(anEntry([]), [aRule()])
    expect(await json(await world.get(`/v1/events/${metaId}`))).toMatchObject({
      events: [{ rules: [{ matched: true, case: 1, reason: null, computed_now: true }] }],
    })
  })

  test('remembers deliveries of rules that are gone, and does not guess the case of another revision', async () => {
    const gone = aDelivery({ rule: 'gone', id: `${record.id}/gone`, next: null })
    const world = await worldOf(anEntry([aDelivery({ revision: 'ffffffffffff' }), gone]), [aRule()])
    expect(await json(await world.get(`/v1/events/${metaId}`))).toMatchObject({
      events: [
        {
          rules: [
            { rule: 'purge', revision: 'ffffffffffff', matched: true, case: null },
            { rule: 'gone', matched: true, case: null, computed_now: false, delivery: { next: null } },
          ],
        },
      ],
    })
  })

  test('is that no rule could look at it where it is no JSON object', async () => {
    const world = await worldOf(anEntry([], { message: undefined, bytes: Buffer.from('5') }), [aRule()])
    expect(await json(await world.get(`/v1/events/${metaId}`))).toMatchObject({
      events: [
        { rules: [{ matched: false, reason: { clause: 'match', path: '', wanted: 'a JSON object', found: null } }] },
      ],
    })
  })

  test('is 404 where the event is unknown', async () => {
    const world = await openWorld()
    const response = await world.get('/v1/events/nobody')
    expect(response.headers.get('content-type')).toContain('application/problem+json')
    expect(await json(response)).toEqual({
      type: 'about:blank',
      title: 'Not Found',
      status: 404,
      code: 'NOT_FOUND',
      detail: 'There is no event with the id nobody.',
    })
  })
})

describe('rules', () => {
  test('are listed with their policies and how they stand, and one of them with what it says', async () => {
    const world = await openWorld({ rules: [aRule(), aRule({ name: 'once', retry: 'never' })] })
    world.operations.stats = { waiting: { retry: 2, due: 1 }, running: 3, done: 4, dead: 5, oldestEligibleAgeMs: 6 }
    const summary = {
      name: 'purge',
      gone: false,
      revision: '0123456789ab',
      file: 'rules/purge.yaml',
      line: 1,
      topics: ['page.edited'],
      policies: {
        retry: {
          limit: 8,
          delay_ms: 5_000,
          factor: 3,
          max_delay_ms: 3_600_000,
          max_age_ms: 604_800_000,
          jitter: 'full',
        },
        throttle: { concurrency: 50 },
        ...{ delay: null, dedup: null, supersede: null, order: null, sample: null },
        expire: { age: '1d', root_age: null },
        answers: 'http',
      },
      waiting: { retry: 2, due: 1 },
      running: 3,
      done: 4,
      dead: 5,
      oldest_eligible_age_ms: 6,
    }
    const once = { ...summary, name: 'once', policies: { ...summary.policies, retry: 'never' } }
    expect(await json(await world.get('/v1/rules'))).toEqual({ rules: [summary, once] })
    expect(await json(await world.get('/v1/rules/purge'))).toEqual({ ...summary, written: { topic: 'page.edited' } })
    expect((await world.get('/v1/rules/nobody')).status).toBe(404)
  })

  test('that are gone are listed as long as they have deliveries left', async () => {
    const world = await openWorld({ rules: [aRule()] })
    const none = { waiting: {}, running: 0, done: 8, dead: 0, oldestEligibleAgeMs: 0 }
    world.operations.gone.set('held', { ...none, waiting: { rule_gone: 3 } })
    world.operations.gone.set('buried', { ...none, dead: 1 })
    world.operations.gone.set('forgotten', none)
    const held = { name: 'held', gone: true, waiting: { rule_gone: 3 }, running: 0, done: 8, dead: 0 }
    expect(await json(await world.get('/v1/rules'))).toMatchObject({
      rules: [{ name: 'purge', gone: false }, held, { name: 'buried', gone: true, dead: 1 }],
    })
    expect(await json(await world.get('/v1/rules/held'))).toEqual({ ...held, oldest_eligible_age_ms: 0 })
    expect((await world.get('/v1/rules/forgotten')).status).toBe(404)
  })

  test('are shown without the secrets in them', async () => {
    const headers = { Authorization: 'Bearer x', 'x-api-key': 12345, accept: 'y' }
    const written = { exec: [{ uri: 'http://a.example/', headers, body: 'action=x&token=y' }] }
    const world = await openWorld({ rules: [aRule({ written })] })
    const { name } = aRule({})
    expect(await json(await world.get(`/v1/rules/${name}`))).toMatchObject({
      written: {
        exec: [
          {
            uri: 'http://a.example/',
            headers: { Authorization: '***', 'x-api-key': '***', accept: 'y' },
            body: 'action=x&token=***',
          },
        ],
      },
    })
  })
})

describe('deliveries', () => {
  test('are listed by rule and state, page by page', async () => {
    const world = await worldOf(anEntry([aDelivery(), aDelivery({ rule: 'other' })]), [])
    const body = await json(await world.get('/v1/deliveries?rule=purge&state=waiting&limit=7&cursor=x'))
    expect(world.store.asked).toEqual([{ rule: 'purge', state: 'waiting', limit: 7, cursor: 'x' }])
    expect(body).toMatchObject({
      deliveries: [{ rule: 'purge', event_id: record.id, meta_id: metaId, stream: 'page.edited', state: 'waiting' }],
      cursor: 'more',
    })
  })

  test.each([
    ['state=asleep', 'state: expected "waiting", "running", "done" or "dead", found "asleep"'],
    ['limit=0', 'limit: expected a whole number from 1 to 1000, found 0'],
    ['limit=1001', 'limit: expected a whole number from 1 to 1000, found 1001'],
    ['limit=abc', 'limit: expected a whole number from 1 to 1000, found "abc"'],
    ['rul=purge', 'rul: expected a known key, found "rul"; did you mean rule?'],
    ['rule=', 'rule: expected text that is not empty, found ""'],
  ])('are not listed for %s, which is told', async (query, detail) => {
    const world = await openWorld()
    const response = await world.get(`/v1/deliveries?${query}`)
    expect(await json(response)).toMatchObject({
      status: 400,
      code: 'BAD_REQUEST',
      detail: expect.stringContaining(detail),
    })
  })
})

describe('dead letters', () => {
  test('are listed with event, attempts and the last answer', async () => {
    const world = await openWorld()
    world.store.dead = [letter]
    expect(await json(await world.get('/v1/dead?rule=purge'))).toMatchObject({
      dead: [
        {
          id: letter.id,
          state: 'dead',
          reason: 'refused',
          event: anEvent(),
          answer: { status: 404, body: 'no such page' },
        },
      ],
      cursor: null,
    })
    expect(await json(await world.get('/v1/dead?id=a&id=b'))).toEqual({ dead: [], cursor: null })
    expect(world.store.asked).toEqual([
      { rule: 'purge', limit: 100 },
      { ids: ['a', 'b'], limit: 100 },
    ])
  })

  const post = (url: string, body: unknown, type = 'application/json') =>
    fetch(url, { method: 'POST', headers: { 'content-type': type }, body: JSON.stringify(body) })

  test.each([
    [{ ids: ['a/purge'] }, { ids: ['a/purge'] }, 10],
    [{ rule: 'purge', rate: '120/min' }, { rule: 'purge' }, 2],
    [{ all: true, rate: '50/s' }, { all: true }, 50],
  ])('are replayed: %j', async (body, selection, ratePerSecond) => {
    const world = await openWorld()
    const response = await post(`${world.url}/v1/dead/replay`, body)
    expect([response.status, await json(response)]).toEqual([200, { count: 3 }])
    expect(world.operations.asked).toEqual([{ selection, ratePerSecond }])
  })

  test('are discarded', async () => {
    const world = await openWorld()
    const response = await post(`${world.url}/v1/dead/discard`, { rule: 'purge' })
    expect([response.status, await json(response)]).toEqual([200, { count: 2 }])
    expect(world.operations.asked).toEqual([{ selection: { rule: 'purge' } }])
  })

  test.each([
    ['replay', {}, 'expected one of ids, rule and all, found none'],
    ['replay', { ids: [] }, 'ids: expected a list that is not empty, found an empty list'],
    ['replay', { all: false }, 'all: expected true, found false'],
    ['replay', { rule: 'a', all: true }, 'expected one of ids, rule and all, found rule and all'],
    ['replay', { rule: 'a', rate: '0/s' }, 'rate: expected a rate above 0, found "0/s"'],
    ['replay', { rule: 'a', rate: 'fast' }, 'rate: expected a rate such as 10/s or 30/min, found "fast"'],
    ['replay', { rule: 'a', speed: '1/s' }, 'speed: expected a known key, found "speed"'],
    ['discard', { rule: 'a', rate: '1/s' }, 'rate: expected a known key, found "rate"'],
    ['discard', [], 'the body: expected a mapping with ids, rule or all, found an empty list'],
    ['discard', null, 'the body: expected a mapping with ids, rule or all, found nothing'],
    [
      'replay',
      null,
      'the body: expected a mapping with ids, rule or all, found nothing; write for instance {"rule":"purge_page"}',
    ],
  ])('stay where %s is asked for with %j, which is told', async (verb, body, detail) => {
    const world = await openWorld()
    const response = await post(`${world.url}/v1/dead/${verb}`, body)
    expect(await json(response)).toMatchObject({
      status: 400,
      code: 'BAD_REQUEST',
      detail: expect.stringContaining(detail),
    })
    expect(world.operations.asked).toEqual([])
  })

  test('stay where a web page posts without asking, as a browser lets it with text/plain', async () => {
    const world = await openWorld()
    const response = await post(`${world.url}/v1/dead/discard`, { all: true }, 'text/plain')
    expect(response.status).toBe(400)
    expect(world.operations.asked).toEqual([])
  })
})

const operators = ['/v1/events/x', '/v1/rules', '/v1/rules/x', '/v1/deliveries', '/v1/dead']

describe('the operator', () => {
  test.each(operators)('with a token is whoever knows it: %s', async (path) => {
    const world = await openWorld({ token: 'secret-token' })
    const wrong = await world.get(path, { authorization: 'Bearer secret-tokem' })
    const none = await world.get(path)
    const basic = await world.get(path, { authorization: 'Basic secret-token' })
    for (const response of [wrong, none, basic]) {
      expect(response.headers.get('www-authenticate')).toBe('Bearer')
      const text = await response.text()
      expect(JSON.parse(text)).toMatchObject({ status: 401, code: 'UNAUTHORIZED' })
      expect(text).not.toContain('secret')
    }
    const right = await world.get(path, { authorization: 'Bearer secret-token', 'x-forwarded-for': '10.0.0.1' })
    expect(right.status).not.toBe(401)
    expect(world.log.join()).not.toContain('secret')
  })

  test.each([
    'forwarded',
    'x-forwarded-for',
    'x-forwarded-host',
    'x-forwarded-proto',
    'x-real-ip',
    'via',
    'x-client-ip',
  ])('without a token is nobody who comes with %s', async (header) => {
    const world = await openWorld()
    expect(await json(await world.get('/v1/rules', { [header]: '127.0.0.1' }))).toMatchObject({
      status: 403,
      code: 'FORBIDDEN',
    })
    expect((await world.get('/v1/rules')).status).toBe(200)
  })

  test('may post nothing without being one', async () => {
    const world = await openWorld({ token: 't' })
    for (const verb of ['replay', 'discard']) {
      const response = await fetch(`${world.url}/v1/dead/${verb}`, { method: 'POST', body: '{"all":true}' })
      expect(response.status).toBe(401)
    }
    expect(world.operations.asked).toEqual([])
  })
})
