import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { LoginConfig } from '../../src/config/config.ts'
import type { Answer, OutboundRequest } from '../../src/http/send.ts'
import { openSender } from '../../src/http/undici-send.ts'
import { readAnswer } from '../../src/mediawiki/answers.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'
import { createSessions, type Denial, type Grant } from '../../src/mediawiki/session.ts'
import { anonymousToken, openWiki, type Wiki, wikiAbsent } from '../support/wiki.ts'

const password = 'abcdefgh0123456789abcdefgh012345'
const login = { user: 'Admin@changeprop', password }

const makeBotPassword = `
$password = MediaWiki\\MediaWikiServices::getInstance()->getPasswordFactory()->newFromPlaintext( '${password}' );
$given = [ 'username' => 'Admin', 'appId' => 'changeprop', 'grants' => [ 'basic', 'createeditmovepage', 'protect' ] ];
BotPassword::newUnsaved( $given )->save( 'insert', $password );
`

/** Sessions are kept in the cache. */
const emptyCache = `
ObjectCache::getInstance( CACHE_DB )->deleteObjectsExpiringBefore( '99990101000000', null, INF );
`

describe.skipIf(wikiAbsent)('a session at a MediaWiki', () => {
  let wiki: Wiki
  beforeAll(async () => {
    wiki = await openWiki(undefined, '$wgPasswordAttemptThrottle = [ [ "count" => 3, "seconds" => 300 ] ];\n')
    await wiki.php(makeBotPassword)
    return () => wiki.close()
  })

  function setup(as: { readonly login?: LoginConfig } = { login }) {
    const sender = openSender()
    onTestFinished(() => sender.close())
    const entry = { database: wiki.database, url: wiki.url, maxPauseMs: 1_000, ...as }
    const directory = createDirectory({ wikis: [entry], targets: {} })
    const target = directory.resolve(wiki.url, '/api.php', undefined, false)
    if (target === undefined) throw new Error('no target')
    const sessions = createSessions({ send: sender.send, clock: { now: Date.now }, userAgent: 'changeprop/test' })
    const { signal } = new AbortController()

    async function call({ headers, token }: Grant, params: Record<string, string>) {
      const request: OutboundRequest = {
        method: 'POST',
        origin: wiki.url,
        path: '/api.php',
        headers: { 'content-type': 'application/x-www-form-urlencoded', ...headers },
        body: new URLSearchParams({ format: 'json', formatversion: '2', token, ...params }).toString(),
        timeoutMs: 20_000,
      }
      const reply = await sender.send(request)
      if (reply.kind === 'none') throw new Error(reply.message)
      return { verdict: readAnswer('mediawiki-api', reply, Date.now(), { request }), content: contentOf(reply) }
    }
    return {
      prepare: (usesToken: boolean) => sessions.prepare(target, usesToken, signal),
      renew: (used: Grant, needs: 'login' | 'token') => sessions.renew(target, true, signal, used, needs),
      call,
    }
  }

  test('is made with a bot password, and its token lets an edit through', async () => {
    const { prepare, call } = setup()
    const grant = await granted(prepare(true))

    const edit = { action: 'edit', assert: 'user', title: 'Session', text: 'one' }
    const { verdict, content } = await call(grant, edit)

    expect(verdict).toMatchObject({ outcome: 'ok' })
    expect(content).toMatchObject({ edit: { result: 'Success' } })
  })

  test('is that of nobody where there is no login', async () => {
    const { prepare, call } = setup({})
    const grant = await granted(prepare(true))

    expect(grant.token).toBe(anonymousToken)
    expect((await call(grant, { action: 'edit', title: 'Anonymous', text: 'one' })).verdict.outcome).toBe('ok')
  })

  test('that is lost is told by the next call, and renewed with its token', async () => {
    const { prepare, renew, call } = setup()
    const before = await granted(prepare(true))
    await wiki.php(emptyCache)
    const edit = { action: 'edit', title: 'Lost', text: 'one' }

    const { verdict } = await call(before, edit)
    expect(verdict).toMatchObject({ outcome: 'failed', needs: 'token', hasNotRun: true })
    const asserted = await call(before, { ...edit, assert: 'user' })
    expect(asserted.verdict).toMatchObject({ outcome: 'failed', needs: 'login', hasNotRun: true })

    const after = await granted(renew(before, 'token'))
    expect((await call(after, { ...edit, assert: 'user' })).verdict).toMatchObject({ outcome: 'ok' })
  })

  test('is not made while the wiki is read-only', async () => {
    const { prepare } = setup()
    await wiki.readOnly(true)
    onTestFinished(() => wiki.readOnly(false))

    expect((await denied(prepare(true))).verdict).toMatchObject({ outcome: 'throttled', note: 'login: readonly' })
  })

  test('is refused to a wrong password, and to the right one after too many wrong ones', async () => {
    const wrong = { login: { ...login, password: password.replace('a', 'b') } }
    const { verdict } = await denied(setup(wrong).prepare(false))
    expect(verdict).toMatchObject({ outcome: 'unavailable' })
    expect(verdict.note).toMatch(/^login: Failed: Incorrect username or password/)

    for (let tries = 0; tries < 3; tries += 1) await denied(setup(wrong).prepare(false))
    expect((await denied(setup().prepare(false))).verdict.note).toMatch(/^login: Failed: You have made too many/)
  })
})

function contentOf({ body }: Answer): unknown {
  return JSON.parse(Buffer.from(body).toString())
}

async function granted(answer: Promise<Grant | Denial> | undefined): Promise<Grant> {
  const grant = await answer
  if (grant?.kind !== 'granted') throw new Error(`expected a grant: ${JSON.stringify(grant)}`)
  return grant
}

async function denied(answer: Promise<Grant | Denial> | undefined): Promise<Denial> {
  const denial = await answer
  if (denial?.kind !== 'denied') throw new Error(`expected a denial: ${JSON.stringify(denial)}`)
  return denial
}
