import { expect, onTestFinished, test } from 'vitest'
import type { DeliveryView } from '../../src/api/contract.ts'
import type { WikiConfig } from '../../src/config/config.ts'
import { openTarget, respond, type TargetRequest } from '../support/target.ts'
import { becomes } from '../support/until.ts'
import { openWorld, type World } from '../support/world.ts'

const json = { 'content-type': 'application/json' }
const say = (content: unknown, headers = {}) => respond(200, JSON.stringify(content), { ...json, ...headers })
const no = (code: string) => say({ error: { code } })

function isEdit({ body }: TargetRequest): boolean {
  return new URLSearchParams(body.toString()).get('action') === 'edit'
}

/** As much of a wiki as sessions are made of. `session` is who is logged in, and `token` what edits have to bring. */
async function aWiki() {
  const state = { session: 0, token: 0, logins: 0, password: 'right', edits: [] as string[], known: '' }
  const there = await openTarget(({ body, headers }) => {
    const form = new URLSearchParams(body.toString())
    const isUser = state.known !== '' && headers.cookie?.includes(`s=${state.known}`) === true
    switch (form.get('action')) {
      case 'query':
        if (form.get('type') === 'login')
          return say({ query: { tokens: { logintoken: 'L+\\' } } }, { 'set-cookie': ['a=1; path=/', 's=0; path=/'] })
        if (form.get('assert') === 'user' && !isUser) return no('assertuserfailed')
        return say({ query: { tokens: { csrftoken: isUser ? `t${state.token}+\\` : '+\\' } } })
      case 'login':
        state.logins += 1
        if (form.get('lgpassword') !== state.password)
          return say({ login: { result: 'Failed', reason: { code: 'wrongpassword', text: 'no' } } })
        state.session += 1
        state.known = String(state.session)
        return say({ login: { result: 'Success' } }, { 'set-cookie': `s=${state.known}; path=/; HttpOnly` })
      default:
        if (form.get('assert') === 'user' && !isUser) return no('assertuserfailed')
        if (form.get('token') !== (isUser ? `t${state.token}+\\` : '+\\')) return no('badtoken')
        state.edits.push(form.get('title') ?? '')
        return say({ edit: { result: 'Success' } })
    }
  })
  onTestFinished(() => there.close())
  return { there, state }
}

const rules = (assert = '') => `
rule:
  topic: pages
  exec:
    method: post
    uri: '{{wiki.url}}/api.php'
    body: { action: edit, format: json, formatversion: 2, title: '{{message.title}}', token: '{{wiki.token}}'${assert} }
  retry: { limit: 0 }
`

const openFor = (url: string, assert?: string) =>
  openWorld(rules(assert), {
    wikis: [{ database: 'w', url, maxPauseMs: 3_600_000, login: { user: 'Bot@c', password: 'right' } }],
  })

const fateOf = (world: World, id: string, wanted: (delivery: DeliveryView | undefined) => boolean) =>
  becomes(async () => (await world.event(id))?.rules[0]?.delivery, wanted)
const isDone = (delivery: DeliveryView | undefined) => delivery?.state === 'done' || delivery?.state === 'dead'

test('many calls share one login, and all carry its token', async () => {
  const { there, state } = await aWiki()
  const world = await openFor(there.url)
  const ids = await Promise.all(
    Array.from({ length: 20 }, (_, i) => world.post('pages', { database: 'w', title: `${i}` })),
  )
  for (const id of ids) expect(await fateOf(world, id, isDone)).toMatchObject({ state: 'done', reason: 'ok' })
  expect(state.logins).toBe(1)
  expect(new Set(state.edits).size).toBe(20)
})

test.each([
  [
    'a session',
    '',
    (state: { known: string }) => {
      state.known = 'lost'
    },
  ],
  [
    'a session that the call asserts',
    ', assert: user',
    (state: { known: string }) => {
      state.known = 'lost'
    },
  ],
  [
    'a token',
    '',
    (state: { token: number }) => {
      state.token += 1
    },
  ],
])('%s that the wiki has lost is renewed without a spent attempt (%s)', async (_, assert, lose) => {
  const { there, state } = await aWiki()
  const world = await openFor(there.url, assert)
  await fateOf(world, await world.post('pages', { database: 'w', title: 'A' }), isDone)
  lose(state)
  const ids = await Promise.all(['B', 'C', 'D'].map((title) => world.post('pages', { database: 'w', title })))
  for (const id of ids) {
    const delivery = await fateOf(world, id, isDone)
    expect(delivery).toMatchObject({ state: 'done', reason: 'ok' })
    expect(delivery?.attempts).toHaveLength(1)
  }
  expect(state.edits.toSorted()).toEqual(['A', 'B', 'C', 'D'])
  expect(state.logins).toBeLessThanOrEqual(2)
  const shown = JSON.stringify(await world.event(ids[0] ?? ''))
  expect(shown).toContain('was renewed')
})

test('a wrong password pauses the wiki, and nothing dies of it; it shows in no answer', async () => {
  const { there, state } = await aWiki()
  state.password = 'another'
  const world = await openFor(there.url)
  const id = await world.post('pages', { database: 'w', title: 'A' })
  const delivery = await fateOf(world, id, (it) => it?.state === 'waiting' && it.reason === 'target')
  expect(delivery?.attempts).toMatchObject([{ outcome: 'unavailable' }])
  const later = await world.post('pages', { database: 'w', title: 'B' })
  await fateOf(world, later, (it) => it?.state === 'waiting' && it.reason === 'target')
  expect(state.logins).toBe(1)
  expect(there.requests.filter(isEdit)).toEqual([])
  expect(JSON.stringify(delivery)).not.toContain('right')
})

test('a token in a dead letter is not shown', async () => {
  const { there } = await aWiki()
  const world = await openWorld(
    rules()
      .replace('action: edit', 'action: edit, x: y')
      .replace("wiki.url}}/api.php'", "wiki.url}}/nowhere'\n    query: { token: '{{wiki.token}}' }"),
    {
      wikis: [{ database: 'w', url: there.url, maxPauseMs: 3_600_000, login: { user: 'Bot@c', password: 'right' } }],
    },
  )
  there.behave(
    (
      (before) => (request: TargetRequest) =>
        request.path.startsWith('/nowhere') ? respond(404) : before(request)
    )(({ body }: TargetRequest) => {
      const form = new URLSearchParams(body.toString())
      if (form.get('action') === 'login') return say({ login: { result: 'Success' } }, { 'set-cookie': 's=1' })
      return say({ query: { tokens: { logintoken: 'x', csrftoken: 'verysecret' } } })
    }),
  )
  const id = await world.post('pages', { database: 'w', title: 'A' })
  await fateOf(world, id, isDone)
  expect(there.requests.at(-1)?.path).toContain('verysecret')
  const dead = await world.ask('GET', '/v1/dead')
  expect(JSON.stringify([dead, await world.event(id)])).not.toContain('verysecret')
})

/** A wiki that says nothing to a login before it is told to. */
async function aSlowWiki() {
  let release = () => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  const there = await openTarget(async ({ body }) => {
    const action = new URLSearchParams(body.toString()).get('action')
    if (action === 'login') await released
    if (action === 'login')
      return respond(200, '{"login":{"result":"Success"}}', { ...json, 'set-cookie': 's=secretcookie' })
    if (action === 'query')
      return respond(200, '{"query":{"tokens":{"logintoken":"x","csrftoken":"secrettoken"}}}', json)
    return respond(200, '{"edit":{"result":"Success"}}', json)
  })
  onTestFinished(() => there.close())
  return { there, release }
}

const entryOf = (url: string): WikiConfig => ({
  database: 'w',
  url,
  maxPauseMs: 3_600_000,
  login: { user: 'B@c', password: 'p' },
})

test('a wiki that is gone from the configuration while its login is under way', async () => {
  const { there, release } = await aSlowWiki()
  const wikis = [entryOf(there.url)]
  const world = await openWorld(rules(), { wikis })
  const id = await world.post('pages', { database: 'w' })
  await there.waitFor(2)
  wikis.length = 0
  await world.rewrite(rules())
  release()
  const delivery = await becomes(
    async () => (await world.event(id))?.rules[0]?.delivery,
    (it) => it?.state === 'done' || it?.state === 'dead',
  )
  expect(['done', 'dead']).toContain(delivery?.state)
})

test('a wiki that moves while its login is under way: the cookies and the token do not go to the new place', async () => {
  const { there, release } = await aSlowWiki()
  const elsewhere = await openTarget(say({}))
  onTestFinished(() => elsewhere.close())
  const wikis = [entryOf(there.url)]
  const world = await openWorld(rules(), { wikis })
  const id = await world.post('pages', { database: 'w' })
  await there.waitFor(2)
  wikis[0] = entryOf(elsewhere.url)
  await world.rewrite(rules())
  release()
  await becomes(
    async () => (await world.event(id))?.rules[0]?.delivery,
    (it) => it !== undefined && it.state !== 'running',
  )
  const said = elsewhere.requests.map(({ headers, body }) => `${headers.cookie} ${body}`).join('\n')
  expect(said).not.toContain('secret')
})
