import { describe, expect, test } from 'vitest'
import { healthy } from '../support/recording-store.ts'
import { openWorld } from './world.ts'

describe('health', () => {
  test('is alive, with the warnings of service and store', async () => {
    const world = await openWorld()
    world.status = { ready: true, reasons: [], warnings: ['The rules have problems.'] }
    world.store.state = { ...healthy, warnings: ['The log is at 85 % of its size.'] }
    const response = await world.get('/healthz')
    expect([response.status, await response.json()]).toEqual([
      200,
      { status: 'alive', warnings: ['The rules have problems.', 'The log is at 85 % of its size.'] },
    ])
  })

  test('is ready when the service says so and the store takes events', async () => {
    const world = await openWorld()
    const response = await world.get('/readyz')
    expect([response.status, await response.json()]).toEqual([200, { ready: true, reasons: [] }])
  })

  test('is not ready, and says why, when the service or the store is not, or the server stops', async () => {
    const world = await openWorld()
    world.status = { ready: false, reasons: ['The rules have problems.'], warnings: [] }
    world.store.state = { ...healthy, accepting: false, trouble: 'The disk is full.' }
    world.server.stopAccepting()
    const response = await world.get('/readyz')
    const reasons = ['The rules have problems.', 'The disk is full.', 'The service is stopping.']
    expect([response.status, await response.json()]).toEqual([503, { ready: false, reasons }])
  })
})

describe('what the service is', () => {
  test.each([
    [
      '/_info',
      {
        name: 'changeprop',
        version: '1.2.3',
        description: expect.any(String),
        home: 'https://changeprop.example/',
      },
    ],
    ['/_info/name', { name: 'changeprop' }],
    ['/_info/version', { version: '1.2.3' }],
  ])('%s', async (path, expected) => {
    const world = await openWorld()
    expect(await (await world.get(path)).json()).toEqual(expected)
  })

  test('leads to the page of the project', async () => {
    const world = await openWorld()
    const response = await fetch(`${world.url}/_info/home`, { redirect: 'manual' })
    expect([response.status, response.headers.get('location')]).toEqual([301, 'https://changeprop.example/'])
  })

  test('keeps robots out', async () => {
    const world = await openWorld()
    expect(await (await world.get('/robots.txt')).text()).toBe('User-agent: *\nDisallow: /\n')
  })

  test('is public, even where operators need a token and posting is limited', async () => {
    const world = await openWorld({ token: 't', allow: [] })
    for (const path of ['/healthz', '/readyz', '/metrics', '/openapi.json', '/_info', '/robots.txt']) {
      expect((await world.get(path, { 'x-forwarded-for': '10.0.0.1' })).status).toBe(200)
    }
  })

  test.each(['/healthz', '/metrics', '/_info', '/openapi.json'])(
    '%s answers HEAD as GET, without a body',
    async (path) => {
      const world = await openWorld()
      const [head, get] = [await fetch(`${world.url}${path}`, { method: 'HEAD' }), await world.get(path)]
      expect([head.status, head.headers.get('content-type'), await head.text()]).toEqual([
        200,
        get.headers.get('content-type'),
        '',
      ])
    },
  )

  test('/readyz tells HEAD, too, that it is not ready', async () => {
    const world = await openWorld()
    world.server.stopAccepting()
    expect((await fetch(`${world.url}/readyz`, { method: 'HEAD' })).status).toBe(503)
  })

  test.each([
    ['/v1/events', 404],
    ['/v1/dead/replay', 404],
    ['/v1/rules', 401],
  ])('HEAD %s is %i', async (path, status) => {
    const world = await openWorld({ token: 't' })
    expect((await fetch(`${world.url}${path}`, { method: 'HEAD' })).status).toBe(status)
  })

  test('is described by OpenAPI, route by route', async () => {
    const world = await openWorld()
    const document: { openapi: string; paths: Record<string, Record<string, { summary: string; responses: object }>> } =
      JSON.parse(await (await world.get('/openapi.json')).text())
    const routes = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method} ${path}`),
    )
    expect(document.openapi).toBe('3.1.0')
    expect(routes.sort()).toEqual(
      [
        'get /_info',
        'get /_info/home',
        'get /_info/name',
        'get /_info/version',
        'get /healthz',
        'get /metrics',
        'get /openapi.json',
        'get /readyz',
        'get /robots.txt',
        'get /v1/dead',
        'get /v1/deliveries',
        'get /v1/events/{id}',
        'get /v1/rules',
        'get /v1/rules/{name}',
        'options /v1/events',
        'post /v1/dead/discard',
        'post /v1/dead/replay',
        'post /v1/events',
      ].sort(),
    )
    for (const methods of Object.values(document.paths)) {
      for (const { summary, responses } of Object.values(methods)) {
        expect(summary).not.toBe('')
        expect(Object.keys(responses)).not.toEqual([])
      }
    }
    expect(document.paths['/v1/deliveries']?.get).toMatchObject({
      parameters: expect.arrayContaining([expect.objectContaining({ name: 'state', in: 'query', required: false })]),
      security: [{ operator: [] }],
    })
    expect(document.paths['/v1/events']?.post).not.toHaveProperty('security')
  })

  test('is described with the bodies and parameters that are read, and which of them must be there', async () => {
    const world = await openWorld()
    const { paths }: { paths: Record<string, { post: unknown }> } = JSON.parse(
      await (await world.get('/openapi.json')).text(),
    )
    const event = { required: ['$schema', 'meta'], properties: { meta: { required: ['stream'] } } }
    const body = { schema: { anyOf: [event, { type: 'array', items: event }] } }
    expect(paths['/v1/events']?.post).toMatchObject({
      parameters: [{ name: 'hasty', in: 'query', required: false }],
      requestBody: { required: true, content: { 'application/json': body, 'text/plain': body } },
    })
    for (const path of ['/v1/dead/replay', '/v1/dead/discard']) {
      expect(paths[path]?.post).toMatchObject({
        requestBody: { required: true, content: { 'application/json': { schema: { additionalProperties: false } } } },
        responses: { 413: {}, 415: {} },
      })
    }
    // Nothing of it must be there: `rate` has a default.
    expect(JSON.stringify(paths['/v1/dead/replay'])).toContain('"required":[]')
  })
})

describe('routes that are not there', () => {
  test.each([
    ['/v1/rule', 'Did you mean GET /v1/rules?'],
    ['/v1/events', 'Did you mean POST /v1/events?'],
    ['/nothing', 'There is no GET /nothing. /openapi.json names all there is.'],
    ['/rule', 'There is no GET /rule. /openapi.json names all there is.'],
    ['/healtz?x=1', 'There is no GET /healtz. Did you mean GET /healthz?'],
    ['/v1/schemas', 'There is no GET /v1/schemas.'],
    ['/%E0%A4%A', ''],
  ])('%s is a problem with a hint', async (path, hint) => {
    const world = await openWorld()
    const response = await world.get(path)
    expect(response.headers.get('content-type')).toContain('application/problem+json')
    const [status, code] = path.includes('%') ? [400, 'BAD_REQUEST'] : [404, 'NO_ROUTE']
    expect(await response.json()).toMatchObject({ status, code, detail: expect.stringContaining(hint) })
    expect(response.status).toBe(status)
  })

  test('are no reason to read a body', async () => {
    const world = await openWorld()
    const response = await fetch(`${world.url}/v2/events`, { method: 'POST', body: '{' })
    expect(response.status).toBe(404)
  })
})
