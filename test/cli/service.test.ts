import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { DeadLetterView, DeliveryView, EventView } from '../../src/api/contract.ts'
import { terminalWith } from './terminal.ts'

interface Asked {
  readonly method: string | undefined
  readonly url: string
  readonly token: string | undefined
  readonly body: unknown
}

/** Answers like the service would, from a table of paths; remembers what it was asked. */
async function serviceThatSays(answers: Readonly<Record<string, unknown>>, status = 200) {
  const asked: Asked[] = []
  const server = createServer(async (request, response) => {
    const url = request.url ?? ''
    const body = request.method === 'POST' ? await json(request) : undefined
    asked.push({ method: request.method, url, token: request.headers.authorization, body })
    const answer = answers[url] ?? answers[url.split('?')[0] ?? '']
    response.writeHead(answer === undefined ? 404 : status, { 'content-type': 'application/json' })
    response.end(
      typeof answer === 'string'
        ? answer
        : JSON.stringify(answer ?? { status: 404, code: 'NOT_FOUND', detail: 'none' }),
    )
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => new Promise<void>((resolve) => server.close(() => resolve())))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return { url: `http://127.0.0.1:${address.port}`, asked }
}

const ago = (ms: number) => new Date(Date.now() - ms).toISOString()
const minute = 60_000

const event: EventView = {
  id: '0199c0de-0000-7000-8000-000000000001',
  meta_id: '4dd0a1c2-33f3-4a5d-8a7c-0c8a4cbbd1e2',
  stream: 'mediawiki.page_change.v1',
  accepted: ago(10 * minute),
  routed: true,
  rules: [
    {
      rule: 'purge',
      revision: 'aaaaaaaaaaaa',
      matched: true,
      case: 1,
      reason: null,
      computed_now: false,
      delivery: {
        id: '0199c0de-0000-7000-8000-000000000001/purge',
        state: 'dead',
        reason: 'exhausted',
        at: ago(5 * minute),
        next: null,
        covered_by: null,
        covers: { count: 0, ids: [] },
        earlier_attempts: 0,
        attempts: [
          { at: ago(9 * minute), status: 503, ms: 20, outcome: 'failed', request: 0, note: '' },
          { at: ago(6 * minute), status: 0, ms: 3_000, outcome: 'failed', request: 1, note: 'timeout: no answer came' },
        ],
      },
    },
    {
      rule: 'render',
      revision: 'bbbbbbbbbbbb',
      matched: true,
      case: null,
      reason: null,
      computed_now: false,
      delivery: {
        id: '0199c0de-0000-7000-8000-000000000001/render',
        state: 'waiting',
        reason: 'retry',
        at: ago(minute),
        next: new Date(Date.now() + 90.5 * minute).toISOString(),
        covered_by: null,
        covers: { count: 3, ids: [] },
        attempts: [],
        earlier_attempts: 0,
      },
    },
    {
      rule: 'bots',
      revision: 'cccccccccccc',
      matched: false,
      case: null,
      reason: { clause: 'match', path: 'performer.is_bot', wanted: true, found: false },
      computed_now: true,
    },
    {
      rule: 'elsewhere',
      revision: 'dddddddddddd',
      matched: false,
      case: null,
      reason: { clause: 'topic', path: 'meta.stream', wanted: 'x', found: 'mediawiki.page_change.v1' },
      computed_now: true,
    },
  ],
}

const noAnswer = { status: 0, headers: {}, body: '', truncated: false, request: '' }

function letter(id: string): DeadLetterView {
  return {
    id,
    rule: 'purge',
    revision: 'aaaaaaaaaaaa',
    event_id: event.id,
    meta_id: event.meta_id,
    stream: event.stream,
    accepted: event.accepted,
    state: 'dead',
    reason: 'refused',
    at: ago(5 * minute),
    next: null,
    covered_by: null,
    covers: { count: 0, ids: [] },
    earlier_attempts: 0,
    attempts: [{ at: ago(9 * minute), status: 404, ms: 20, outcome: 'refused', request: 0, note: '' }],
    event: '{"the":"event"}',
    answer: {
      status: 404,
      headers: { server: 'x' },
      body: 'no such page',
      truncated: true,
      request: 'POST http://w.example/api.php',
    },
  }
}

describe('why', () => {
  test('tells the story of an event: what was called, who said no, and what is next', async () => {
    const { url, asked } = await serviceThatSays({ [`/v1/events/${event.meta_id}`]: { events: [event] } })
    const { code, stdout, stderr } = await (await terminalWith()).run([
      'why',
      String(event.meta_id),
      '--url',
      `${url}/`,
    ])
    expect([code, stderr]).toEqual([0, ''])
    expect(asked.map(({ method, token }) => [method, token])).toEqual([['GET', undefined]])
    const story = stdout.replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ/g, 'TIME')
    expect(story).toBe(`Event ${event.meta_id} (here ${event.id})
  of mediawiki.page_change.v1, accepted TIME (10m ago)

  purge (revision aaaaaaaaaaaa, case 1)
    TIME (9m ago)  call 1: answer 503 after 20ms, failed
    TIME (6m ago)  call 2 (request 2): no answer after 3s, failed: timeout: no answer came
    dead (exhausted) since TIME (5m ago): its attempts failed as often as retry allows, or, as the last one says, more than 1,000 deliveries of its key wait for it (order)
    Next: nothing by itself.
      to see it all:   changeprop dead show ${event.id}/purge
      to try it again: changeprop dead replay ${event.id}/purge

  render (revision bbbbbbbbbbbb)
    waiting (retry) since TIME (1m ago): the last attempt, its own or that of an older event of its key, failed or was cut off; it is tried again
    Its call covers 3 other events.
    Next: TIME (in 1h).

  bots: does not concern it, says the rule as it is now
    match at performer.is_bot: wanted true, found false

  (1 rule about other streams: elsewhere)

`)
  })

  const [rule] = event.rules
  const ended = (changes: Partial<DeliveryView>): EventView => {
    if (rule?.delivery === undefined) throw new Error('the first rule has a delivery')
    return { ...event, rules: [{ ...rule, delivery: { ...rule.delivery, attempts: [], ...changes } }] }
  }
  const storyOf = async (told: EventView, answers: Readonly<Record<string, unknown>> = {}) => {
    const { url, asked } = await serviceThatSays({ '/v1/events/x': { events: [told] }, ...answers })
    const { code, stdout } = await (await terminalWith()).run(['why', 'x', '--url', url])
    expect(code).toBe(0)
    return { stdout, asked }
  }

  test('of a delivery of which the first calls are not kept goes on with their number', async () => {
    const { stdout } = await storyOf(ended({ attempts: rule?.delivery?.attempts ?? [], earlier_attempts: 21 }))
    expect(stdout).toMatch(/\n {4}21 earlier calls are not kept\.\n.* call 22: .*\n.* call 23 \(request 2\)/)
    expect((await storyOf(ended({ earlier_attempts: 1 }))).stdout).toContain(' 1 earlier call is not kept.')
  })

  test.each([
    [true, 'It was routed when the rule was not there, or did not match it: it is not called.'],
    [false, 'Nothing is recorded yet: it is about to be routed, or to be called for the first time.'],
  ])('of a rule that matches and an event that is through: %s', async (routed, story) => {
    const { delivery: _, ...matching } = rule ?? { rule: '', revision: '', matched: true, case: null, reason: null }
    const told = { ...event, routed, rules: [{ ...matching, case: null, computed_now: true }] }
    expect(JSON.stringify(await storyOf(told))).toContain(story)
  })

  test.each([
    [
      'dead',
      'interrupted',
      'no answer came to a call that must not be repeated (retry: never): it timed out, its connection was lost, or the service ended; it may have been carried out',
    ],
    [
      'dead',
      'exhausted',
      'its attempts failed as often as retry allows, or, as the last one says, more than 1,000 deliveries of its key wait for it (order)',
    ],
    ['done', 'ignored', 'the answer says that there was nothing to do, or leaves open whether it was done'],
    ['dead', 'too_old', 'its first attempt is longer ago than retry.max_age'],
    [
      'dead',
      'key_failed',
      'a template of its dedup, order, supersede, sample, delay or throttle could not be rendered from the event',
    ],
    ['dead', 'unreadable', 'the event is no JSON object, or larger than intake.max_body'],
    ['done', 'duplicate', 'a call of its key covers it: of a newer event, or of one with the same meta.id before it'],
  ] as const)('tells of %s (%s) what is true of all its causes', async (state, reason, meaning) => {
    const { stdout } = await storyOf(ended({ state, reason }))
    expect(stdout).toMatch(
      new RegExp(`${state} \\(${reason}\\) since .*\\): ${meaning.replaceAll(/[().]/g, '\\$&')}\n`),
    )
  })

  test('names the call that covers a duplicate, be it of a newer event or an older one', async () => {
    const { stdout } = await storyOf(ended({ state: 'done', reason: 'duplicate', covered_by: 'other/purge' }))
    expect(stdout).toContain('Covered by the call of other/purge.\n')
  })

  test.each(['key_failed', 'template_failed'])('says what failed where a delivery is dead for %s', async (reason) => {
    const dead = ended({ state: 'dead', reason })
    const error = `expected text for message.list, the event has a list${'.'.repeat(1_000)}`
    const kept = { ...letter(`${event.id}/purge`), answer: { ...noAnswer, error } }
    const { stdout, asked } = await storyOf(dead, { '/v1/dead': { dead: [kept], cursor: null } })
    expect(stdout).toContain(`\n    It failed with: ${error.slice(0, 300)}\n`)
    expect(asked.at(-1)?.url).toBe(`/v1/dead?id=${encodeURIComponent(`${event.id}/purge`)}`)

    for (const gone of [{ dead: [], cursor: null }, 'no JSON'])
      expect((await storyOf(dead, { '/v1/dead': gone })).stdout).toMatch(new RegExp(`dead \\(${reason}\\) since`))
  })

  test('gives scripts the answer as it is', async () => {
    const { url } = await serviceThatSays({ '/v1/events/a%2Fb': { events: [event] } })
    const { code, stdout } = await (await terminalWith()).run(['why', 'a/b', '--url', url, '--format', 'json'])
    expect([code, JSON.parse(stdout)]).toEqual([0, { events: [event] }])
  })

  test.each([
    [
      'that nobody knows',
      [],
      {},
      'no event x is known\n(If the store is Kafka, an event that no rule matched is found only with --stream NAME.)\n',
    ],
    ['that nobody knows in its stream', ['--stream', 'page'], {}, 'no event x is known\n'],
    [
      'of other streams',
      ['--stream', 'other'],
      { '/v1/events/x': { events: [event] } },
      'no event x is known; 1 with this id are older, or of other streams\n',
    ],
    [
      'that is older than asked for',
      ['--since', '5m'],
      { '/v1/events/x': { events: [event] } },
      'no event x is known; 1 with this id are older, or of other streams\n',
    ],
  ])('of an event %s is exit code 1', async (_what, flags, answers, message) => {
    const { url } = await serviceThatSays(answers)
    const { code, stdout, stderr } = await (await terminalWith()).run(['why', 'x', '--url', url, ...flags])
    expect([code, stdout, stderr]).toEqual([1, '', message])
  })
})

describe('dead', () => {
  const pages = {
    '/v1/dead?rule=purge': {
      dead: [letter('a/purge'), { ...letter('b/purge'), earlier_attempts: 21 }],
      cursor: 'next page',
    },
    '/v1/dead?rule=purge&cursor=next+page': { dead: [letter('c/purge')], cursor: null },
  }

  test('list goes through all pages', async () => {
    const { url } = await serviceThatSays(pages)
    const terminal = await terminalWith()
    const text = await terminal.run(['dead', 'list', '--rule', 'purge', '--url', url])
    expect([text.code, text.stderr]).toEqual([0, ''])
    expect(text.stdout.split('\n').map((line) => line.split(' ')[0])).toEqual([
      'a/purge',
      'b/purge',
      'c/purge',
      '3',
      '',
    ])
    expect(text.stdout.match(/\d+ calls?/g)).toEqual(['1 call', '22 calls', '1 call'])
    const lines = await terminal.run(['dead', 'list', '--rule', 'purge', '--url', url, '--format', 'json'])
    expect(
      lines.stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line).id),
    ).toEqual(['a/purge', 'b/purge', 'c/purge'])
  })

  test.each([
    ['that is in force', 'purge', {}, 0, '0 dead letters\n', ''],
    ['that is gone', 'old', {}, 0, '0 dead letters\n', ''],
    [
      'that may be there once the rules are valid',
      'nosuch',
      { note: 'There are problems.' },
      0,
      '0 dead letters\n',
      '',
    ],
    ['that nobody knows', 'nosuch', {}, 1, '', 'no rule nosuch is known\n'],
  ])('list of a rule %s and has no dead letters', async (_, rule, note, expected, out, message) => {
    const rules = [
      { name: 'purge', gone: false, dead: 0, waiting: {} },
      { name: 'old', gone: true, dead: 0, waiting: { rule_gone: 1 } },
    ]
    const { url } = await serviceThatSays({ '/v1/dead': { dead: [], cursor: null }, '/v1/rules': { rules, ...note } })
    const { code, stdout, stderr } = await (await terminalWith()).run(['dead', 'list', '--rule', rule, '--url', url])
    expect([code, stdout, stderr]).toEqual([expected, out, message])
  })

  test('list of a rule that nobody knows any more but that has dead letters shows them', async () => {
    const { url } = await serviceThatSays({ ...pages, '/v1/rules': { rules: [] } })
    const { code, stdout } = await (await terminalWith()).run(['dead', 'list', '--rule', 'purge', '--url', url])
    expect([code, stdout.trimEnd().split('\n').at(-1)]).toEqual([0, '3 dead letters'])
  })

  test('show prints all that is kept, and is exit code 1 where one is unknown', async () => {
    const { url, asked } = await serviceThatSays({ '/v1/dead': { dead: [letter('a/purge')], cursor: null } })
    const { code, stdout, stderr } = await (await terminalWith()).run([
      'dead',
      'show',
      'a/purge',
      'z/purge',
      '--url',
      url,
    ])
    expect([code, stderr]).toEqual([1, 'no dead letter z/purge is known\n'])
    expect(asked.map(({ url }) => url)).toEqual(['/v1/dead?id=a%2Fpurge&id=z%2Fpurge'])
    for (const part of [
      'the target refused it for good',
      'POST http://w.example/api.php',
      'answer 404',
      'no such page',
      'cut off here',
      '{"the":"event"}',
    ]) {
      expect(stdout).toContain(part)
    }
  })

  test.each([
    ['interrupted', 'last call: one had begun; what came of it was not kept'],
    ['host_not_allowed', 'last call: none was made'],
  ] as const)('show says of a letter without an answer whether a call was made: %s', async (reason, told) => {
    const answer = { status: 0, headers: {}, body: '', truncated: false, request: '', error: 'no answer' }
    const dead = [{ ...letter('a/purge'), reason, answer }]
    const { url } = await serviceThatSays({ '/v1/dead': { dead, cursor: null } })
    expect((await (await terminalWith()).run(['dead', 'show', 'a/purge', '--url', url])).stdout).toContain(told)
  })

  test('replay says how many and how fast, and goes on in a pipe', async () => {
    const { url, asked } = await serviceThatSays({
      '/v1/rules': { rules: [{ name: 'purge', gone: false, dead: 4, waiting: { retry: 9, parked: 3 } }] },
      '/v1/dead/replay': { count: 7 },
    })
    const { code, stdout, stderr } = await (await terminalWith()).run(
      ['dead', 'replay', '--rule', 'purge', '--rate', '30/min', '--url', url],
      {
        env: { CHANGEPROP_ADMIN_TOKEN: 'tok' },
      },
    )
    expect([code, stderr, stdout]).toEqual([0, 'replay 7 dead letters, at most 30/min\n', 'replaying 7 dead letters\n'])
    expect(asked.at(-1)).toMatchObject({
      method: 'POST',
      url: '/v1/dead/replay',
      token: 'Bearer tok',
      body: { rule: 'purge', rate: '30/min' },
    })
  })

  test.each([
    [['--rule', 'left'], { rule: 'left' }],
    [['--all'], { all: true }],
    [['a/x', 'b/x', 'a/x'], { ids: ['a/x', 'b/x'] }],
  ])('discard %j counts and sends what was meant', async (flags, body) => {
    const { url, asked } = await serviceThatSays({
      '/v1/rules': { rules: [{ name: 'gone', gone: true, dead: 1, waiting: { rule_gone: 1 } }] },
      '/v1/dead': { dead: [letter('a/x'), letter('b/x')], cursor: null },
      '/v1/dead/discard': { count: 2 },
    })
    const { code, stdout, stderr } = await (await terminalWith()).run(['dead', 'discard', ...flags, '--url', url])
    expect([code, stderr, stdout]).toEqual([0, 'discard 2 dead letters\n', 'discarded 2 dead letters\n'])
    expect(asked.at(-1)?.body).toEqual(body)
  })

  test.each([
    ['y\n', [], 0, 1],
    ['n\n', [], 1, 0],
    ['\n', [], 1, 0],
    ['', ['--yes'], 0, 1],
  ])('replay at a terminal asks first: %j %j', async (answers, flags, expected, posts) => {
    const { url, asked } = await serviceThatSays({
      '/v1/dead': { dead: [letter('a/x')], cursor: null },
      '/v1/dead/replay': { count: 1 },
    })
    const { code, stderr } = await (await terminalWith()).run(['dead', 'replay', 'a/x', '--url', url, ...flags], {
      answers,
    })
    expect(code).toBe(expected)
    expect(asked.filter(({ method }) => method === 'POST')).toHaveLength(posts)
    expect(stderr.includes('nothing was changed')).toBe(posts === 0)
    expect(stderr.includes('go on?')).toBe(flags.length === 0)
  })

  test('replay of ids of which some are no dead letters says so first, is about the others, and is exit code 1', async () => {
    const { url, asked } = await serviceThatSays({
      '/v1/dead': { dead: [letter('a/x')], cursor: null },
      '/v1/dead/replay': { count: 1 },
    })
    const { code, stderr } = await (await terminalWith()).run(['dead', 'replay', 'a/x', 'b/x', '--url', url])
    expect([code, stderr]).toEqual([1, 'no dead letter b/x is known\nreplay 1 dead letter, at most 10/s\n'])
    expect(asked.at(-1)?.body).toEqual({ ids: ['a/x'], rate: '10/s' })
  })

  test.each([
    [['a/x', 'b/x'], 'no dead letter a/x is known\nno dead letter b/x is known\n'],
    [['--rule', 'nosuch'], 'no rule nosuch is known\n'],
  ])('discard of %j, of which nothing is there, changes nothing and is exit code 1', async (flags, message) => {
    const { url, asked } = await serviceThatSays({
      '/v1/rules': { rules: [{ name: 'purge', gone: false, dead: 4, waiting: {} }] },
      '/v1/dead': { dead: [], cursor: null },
      '/v1/dead/discard': { count: 0 },
    })
    const { code, stdout, stderr } = await (await terminalWith()).run(['dead', 'discard', ...flags, '--url', url])
    expect([code, stdout, stderr]).toEqual([1, '', message])
    expect(asked.filter(({ method }) => method === 'POST')).toEqual([])
  })

  test('discard of a rule that is gone is of what waits for it, too', async () => {
    const { url, asked } = await serviceThatSays({
      '/v1/rules': { rules: [{ name: 'old', gone: true, dead: 1, waiting: { rule_gone: 3 } }] },
      '/v1/dead/discard': { count: 4 },
    })
    const { code, stdout, stderr } = await (await terminalWith()).run([
      'dead',
      'discard',
      '--rule',
      'old',
      '--url',
      url,
    ])
    const what = '4 dead or waiting events\n'
    expect([code, stderr, stdout]).toEqual([0, `discard ${what}`, `discarded ${what}`])
    expect(asked.at(-1)?.body).toEqual({ rule: 'old' })
  })

  test('discard of a rule without dead letters is no failure', async () => {
    const { url } = await serviceThatSays({
      '/v1/rules': { rules: [{ name: 'purge', gone: false, dead: 0, waiting: {} }] },
      '/v1/dead/discard': { count: 0 },
    })
    const { code, stderr } = await (await terminalWith()).run(['dead', 'discard', '--rule', 'purge', '--url', url])
    expect([code, stderr]).toEqual([0, 'discard 0 dead letters\n'])
  })

  test('show asks for so many ids at once as fit into the head of a request', async () => {
    const { url, asked } = await serviceThatSays({ '/v1/dead': { dead: [], cursor: null } })
    const ids = Array.from({ length: 120 }, (_, index) => `${index}/${'r'.repeat(100)}`)
    await (await terminalWith()).run(['dead', 'show', ...ids, '--url', url])
    expect(asked.length).toBeGreaterThan(1)
    expect(Math.max(...asked.map(({ url }) => url.length))).toBeLessThan(12_000)
  })
})

describe('a service that cannot be asked is exit code 1, with what to do', () => {
  test('for nobody listens there', async () => {
    const { code, stderr } = await (await terminalWith()).run(['why', 'x', '--url', 'http://127.0.0.1:1'])
    expect(code).toBe(1)
    expect(stderr).toMatch(/cannot ask .*ECONNREFUSED.*is the service running there\? \(--url\)/)
  })

  test('for it wants a token', async () => {
    const { url } = await serviceThatSays(
      { '/v1/events/x': { status: 401, code: 'UNAUTHORIZED', detail: 'The operator token is wrong.' } },
      401,
    )
    const { code, stderr } = await (await terminalWith()).run(['why', 'x', '--url', url], {
      env: { CHANGEPROP_ADMIN_TOKEN: 'hush' },
    })
    expect([code, stderr]).toEqual([
      1,
      `${url} answered 401 (UNAUTHORIZED): The operator token is wrong. Put the token into CHANGEPROP_ADMIN_TOKEN.\n`,
    ])
  })

  test.each(['<html>', { hello: 'world' }])('for it is something else: %j', async (answer) => {
    const { url } = await serviceThatSays({ '/v1/events/x': answer })
    const { code, stderr } = await (await terminalWith()).run(['why', 'x', '--url', url])
    expect(code).toBe(1)
    expect(stderr).toContain('is it changeprop')
  })

  test.each(['<html>', { status: 404 }, { code: 'NO_ROUTE', detail: 'There is no GET /foo/v1/events/x.' }])(
    'for it is something else, or another path, that answers 404: %j',
    async (answer) => {
      const { url } = await serviceThatSays({ '/v1/events/x': answer }, 404)
      const { code, stderr } = await (await terminalWith()).run([
        'why',
        'x',
        '--since',
        '1h',
        '--stream',
        's',
        '--url',
        url,
      ])
      const message = `expected ${url} to know /v1/events/x, found that it does not; is it changeprop, and all of the URL right? (--url)\n`
      expect([code, stderr]).toEqual([1, message])
    },
  )
})
