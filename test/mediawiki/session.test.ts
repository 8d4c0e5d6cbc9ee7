import { describe, expect, onTestFinished, test } from 'vitest'
import type { WikiConfig } from '../../src/config/config.ts'
import { openSender } from '../../src/http/undici-send.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'
import { createSessions, type Denial, type Grant } from '../../src/mediawiki/session.ts'
import type { Target } from '../../src/mediawiki/wiki.ts'
import { WoundClock } from '../support/clock.ts'
import { type Behaviour, openTarget, respond, type ScriptedTarget, type TargetRequest } from '../support/target.ts'

const login = { user: 'Bot@changeprop', password: 'sesame' }

/** A wiki that knows one bot, and forgets whom it knew when it is told to. */
class FakeWiki {
  readonly server: ScriptedTarget
  password = login.password
  /** Answered instead, to each action that has one: an action, or the type of a token. */
  readonly instead = new Map<string, Behaviour>()
  /** Sessions that are logged in, by their cookie. */
  readonly sessions = new Set<string>()
  #count = 0

  constructor(server: ScriptedTarget) {
    this.server = server
    server.behave((request) => this.#answer(request))
  }

  /** What was asked, in order, as the action or the type of token. */
  get asked(): readonly string[] {
    return this.server.requests.map(whatIs)
  }

  #answer(request: TargetRequest): Behaviour {
    const what = whatIs(request)
    const form = new URLSearchParams(request.body.toString())
    const session = /s=([^;]+)/.exec(request.headers.cookie ?? '')?.[1] ?? ''
    const instead = this.instead.get(what)
    if (instead !== undefined) return instead
    this.#count += 1
    if (what === 'login token') {
      return json({ query: { tokens: { logintoken: `for ${this.#count}` } } }, [`s=${this.#count}; path=/; httponly`])
    }
    if (what === 'login') {
      if (form.get('lgtoken') !== `for ${session}`) return json({ login: { result: 'WrongToken' } })
      if (form.get('lgpassword') !== this.password) {
        const reason = { code: 'wrongpassword', text: `Incorrect username or password entered.\nPlease try again.` }
        return json({ login: { result: 'Failed', reason } })
      }
      this.sessions.add(`${this.#count}`)
      return json({ login: { result: 'Success' } }, [
        `s=${this.#count}; expires=Wed, 25 Nov 2099 10:00:00 GMT; path=/`,
        'old=deleted; expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0',
        'name=Bot; path=/',
      ])
    }
    if (form.get('assert') === 'user' && !this.sessions.has(session)) {
      return json({ errors: [{ code: 'assertuserfailed' }] })
    }
    return json({
      query: { tokens: { csrftoken: this.sessions.has(session) ? `${this.#count} of ${session}+\\` : '+\\' } },
    })
  }
}

function whatIs({ body }: TargetRequest): string {
  const form = new URLSearchParams(body.toString())
  return form.get('type') === null ? (form.get('action') ?? '') : `${form.get('type')} token`
}

function json(content: unknown, cookies: readonly string[] = []): Behaviour {
  return respond(200, JSON.stringify(content), cookies.length === 0 ? {} : { 'set-cookie': cookies })
}

async function setup(entry: Partial<WikiConfig> = { login }) {
  const server = await openTarget()
  onTestFinished(() => server.close())
  const wiki = new FakeWiki(server)
  const sender = openSender()
  onTestFinished(() => sender.close())
  const clock = new WoundClock()
  const { signal } = new AbortController()
  const sessions = createSessions({ send: sender.send, clock, userAgent: 'changeprop/test' })
  const targetOf = (): Target => {
    const config = { database: 'one', url: `${server.url}/w`, maxPauseMs: 3_600_000, ...entry }
    const directory = createDirectory({ wikis: [config], targets: { other: { url: server.url, maxPauseMs: 1_000 } } })
    const root = directory.wikiOf({ database: 'one' })
    const target = directory.resolve(server.url, '/w/api.php', root, false)
    if (target === undefined) throw new Error('no target')
    return target
  }
  const target = targetOf()
  return {
    wiki,
    clock,
    target,
    targetOf,
    prepare: (usesToken = false, to = target) => sessions.prepare(to, usesToken, signal),
    renew: (used: Grant, needs: 'login' | 'token', usesToken = false) =>
      sessions.renew(target, usesToken, signal, used, needs),
  }
}

async function granted(answer: Promise<Grant | Denial> | undefined): Promise<Grant> {
  const grant = await answer
  if (grant?.kind !== 'granted') throw new Error(`expected a grant: ${JSON.stringify(grant)}`)
  return grant
}

async function deniedTo(answer: Promise<Grant | Denial> | undefined): Promise<Denial> {
  const denial = await answer
  if (denial?.kind !== 'denied') throw new Error(`expected a denial: ${JSON.stringify(denial)}`)
  return denial
}

describe('a login', () => {
  test('is made when it is first needed, and kept', async () => {
    const { wiki, prepare } = await setup()
    expect(wiki.asked).toEqual([])

    const grant = await granted(prepare())

    expect(grant).toMatchObject({ headers: { cookie: 's=2; name=Bot' }, token: '' })
    expect(await granted(prepare())).toEqual(grant)
    expect(wiki.asked).toEqual(['login token', 'login'])
    expect(wiki.server.requests[1]).toMatchObject({
      method: 'POST',
      path: '/w/api.php',
      headers: { cookie: 's=1', 'user-agent': 'changeprop/test' },
    })
  })

  test('is one for all calls that need it at once', async () => {
    const { wiki, prepare } = await setup()

    const grants = await Promise.all([1, 2, 3].map(() => granted(prepare())))

    expect(new Set(grants.map(({ headers }) => headers.cookie)).size).toBe(1)
    expect(wiki.asked).toEqual(['login token', 'login'])
  })

  test('is not for a wiki without one, nor for other targets', async () => {
    const { wiki, prepare, target } = await setup({})

    expect(prepare()).toBeUndefined()
    expect(prepare(true, { ...target, api: undefined })).toBeUndefined()
    expect(wiki.asked).toEqual([])
  })

  test('is made with the host header and the authorization of the wiki', async () => {
    const { wiki, prepare } = await setup({ login, host: 'wiki.example', authorization: 'Basic x' })

    await granted(prepare())

    expect(wiki.server.requests.map(({ headers }) => [headers.host, headers.authorization])).toEqual([
      ['wiki.example', 'Basic x'],
      ['wiki.example', 'Basic x'],
    ])
  })

  test('is made anew for a call that needs it, once for all of them', async () => {
    const { wiki, prepare, renew } = await setup()
    const lost = await granted(prepare())

    const renewed = await Promise.all([1, 2].map(() => granted(renew(lost, 'login'))))
    const late = await granted(renew(lost, 'login'))

    expect([renewed[1], late]).toEqual([renewed[0], renewed[0]])
    expect(late.headers.cookie).not.toBe(lost.headers.cookie)
    expect(wiki.asked).toEqual(['login token', 'login', 'login token', 'login'])
  })

  test('cannot be renewed where there is none', async () => {
    const { prepare, renew } = await setup({})
    const grant = await granted(prepare(true))

    expect(renew(grant, 'login', true)).toBeUndefined()
  })
})

describe('a token', () => {
  test('is asked for as whoever is logged in, when it is first needed, and kept', async () => {
    const { wiki, prepare } = await setup()
    await granted(prepare())

    const grants = await Promise.all([1, 2].map(() => granted(prepare(true))))

    expect(grants.map(({ token }) => token)).toEqual(['3 of 2+\\', '3 of 2+\\'])
    expect(await granted(prepare(true))).toEqual(grants[0])
    expect(wiki.asked).toEqual(['login token', 'login', 'csrf token'])
  })

  test('of nobody in particular is asked for where there is no login', async () => {
    const { wiki, prepare } = await setup({})

    expect(await granted(prepare(true))).toMatchObject({ headers: {}, token: '+\\' })
    expect(wiki.asked).toEqual(['csrf token'])
  })

  test('is that of the account that an authorization names', async () => {
    const { wiki, prepare } = await setup({ authorization: 'Bearer secret' })

    await granted(prepare(true))

    expect(wiki.server.requests[0]?.headers.authorization).toBe('Bearer secret')
  })

  test('that is bad is renewed, and the login stays', async () => {
    const { wiki, prepare, renew } = await setup()
    const bad = await granted(prepare(true))

    const renewed = await Promise.all([1, 2].map(() => granted(renew(bad, 'token', true))))

    expect(renewed.map(({ token }) => token)).toEqual(['4 of 2+\\', '4 of 2+\\'])
    expect(wiki.asked).toEqual(['login token', 'login', 'csrf token', 'csrf token'])
  })

  test('that is bad since the session is lost is renewed with it', async () => {
    const { wiki, prepare, renew } = await setup()
    const bad = await granted(prepare(true))
    wiki.sessions.clear()

    const renewed = await granted(renew(bad, 'token', true))

    expect(renewed.token).toMatch(/ of 6\+\\$/)
    expect(renewed.headers.cookie).toBe('s=6; name=Bot')
  })

  test('that the rule wrote itself cannot be renewed', async () => {
    const { prepare, renew } = await setup()
    const grant = await granted(prepare())

    expect(renew(grant, 'token', false)).toBeUndefined()
  })
})

describe('a login that is refused', () => {
  const note = 'login: Failed: Incorrect username or password entered. Please try again.'

  test('pauses the wiki, with a note that says why, and holds no secret', async () => {
    const { wiki, prepare } = await setup()
    wiki.password = 'another'

    const denial = await deniedTo(prepare())

    expect(denial.verdict).toEqual({ outcome: 'unavailable', pauseMs: 30_000, note, hasNotRun: true })
    expect(denial.reply).toMatchObject({ kind: 'answer', status: 200, headers: {}, body: Buffer.from(note) })
  })

  test('is not tried again before 20 minutes, lest the wiki lock us out', async () => {
    const { wiki, clock, prepare } = await setup()
    wiki.password = 'another'
    await deniedTo(prepare())
    wiki.password = login.password

    clock.wind(20 * 60_000 - 1)
    expect((await deniedTo(prepare())).verdict.note).toBe(note)
    expect(wiki.asked).toHaveLength(2)
    clock.wind(1)
    await granted(prepare())
  })

  test('is tried again at once after a reload', async () => {
    const { wiki, prepare, targetOf } = await setup()
    wiki.password = 'another'
    await deniedTo(prepare())
    wiki.password = login.password

    await granted(prepare(false, targetOf()))
  })
})

describe('a login that comes to nothing', () => {
  test.each<[string, string, Behaviour, object]>([
    [
      'a read-only wiki',
      'login',
      json({ errors: [{ code: 'readonly' }] }),
      { outcome: 'throttled', pauseMs: 5_000, note: 'login: readonly' },
    ],
    [
      'a wiki that lags behind',
      'login token',
      respond(503, '{"errors":[{"code":"maxlag"}]}', { 'retry-after': '7' }),
      { outcome: 'throttled', pauseMs: 7_000, note: 'login: maxlag' },
    ],
    ['too many requests', 'login', respond(429, '', { 'retry-after': '9' }), { outcome: 'throttled', pauseMs: 9_000 }],
    ['a failing wiki', 'login token', respond(500), { outcome: 'failed', note: 'login: 500' }],
    ['a page that is no API', 'login token', respond(200, '<html>'), { outcome: 'failed' }],
    ['nothing there', 'login token', respond(404), { outcome: 'unavailable', note: 'login: 404', pauseMs: 30_000 }],
    ['no token', 'login token', json({ query: {} }), { outcome: 'failed', note: 'login: no login token' }],
    ['no result', 'login', json({}), { outcome: 'unavailable', note: 'login: no result' }],
    ['a session that is not kept', 'login', json({ login: { result: 'WrongToken' } }), { outcome: 'failed' }],
    [
      'a session that is lost meanwhile',
      'login',
      json({ login: { result: 'Failed', reason: { code: 'sessionlost', text: 'Lost.' } } }),
      { outcome: 'failed', note: 'login: Failed: Lost.' },
    ],
    [
      'a revoked access token',
      'csrf token',
      json({ errors: [{ code: 'mwoauth-invalid-authorization' }] }),
      { outcome: 'unavailable', pauseMs: 30_000 },
    ],
    [
      'a session that never is one',
      'csrf token',
      json({ errors: [{ code: 'assertuserfailed' }] }),
      { outcome: 'failed', note: 'login: assertuserfailed' },
    ],
  ])('because of %s has the verdict of a call of which nothing has run', async (_title, step, instead, verdict) => {
    const { wiki, prepare } = await setup()
    wiki.instead.set(step, instead)

    const denial = await deniedTo(prepare(true))

    expect(denial.verdict).toMatchObject({ ...verdict, hasNotRun: true })
  })

  test('is tried again by the next call', async () => {
    const { wiki, prepare } = await setup()
    wiki.instead.set('login', respond(500))
    await Promise.all([1, 2].map(() => deniedTo(prepare())))
    wiki.instead.clear()

    await granted(prepare())
  })

  test('because the connection broke is as a call that was not sent', async () => {
    const { wiki, prepare } = await setup()
    wiki.instead.set('login', { kind: 'reset', midway: false })

    const denial = await deniedTo(prepare())

    expect(denial.reply).toMatchObject({ kind: 'none', error: 'reset', sent: false })
    expect(denial.verdict).toMatchObject({ outcome: 'failed', hasNotRun: true })
  })
})
