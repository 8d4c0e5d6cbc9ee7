import { type ClientRequest, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, test } from 'vitest'
import { ServiceError } from '../../src/base/errors.ts'
import { createRegistry, type Registry } from '../../src/stream/registry.ts'
import { anEvent, openWorld, type World } from './world.ts'

const invalid = anEvent({ meta: { stream: 'page.edited', id: 'no-uuid' } })
const unknown = anEvent({ $schema: '/no/such/schema/9.9.9' })

/** Knows the one schema of `anEvent`; any other is nowhere. */
const choosy: Pick<Registry, 'admit'> = {
  admit(message) {
    const text = JSON.stringify(message)
    return createRegistry({ from: [], unknown: text.includes('/page/edited/1.0.0') ? 'accept' : 'refuse' }).admit(
      message,
    )
  },
}

interface Answer {
  readonly status: number | undefined
  readonly body: string
}

/** As it stands, with these headers and no others of fetch's making. */
function postRaw(world: World, body: string, headers: Record<string, string>): Promise<Answer> {
  return send(world, headers, (sent) => sent.end(body))
}

/** Without saying how much it will be. */
function postChunked(world: World, body: string): Promise<Answer> {
  return send(world, { 'content-type': 'application/json' }, (sent) => {
    sent.write(body.slice(0, 10))
    sent.end(body.slice(10))
  })
}

function send(world: World, headers: Record<string, string>, write: (sent: ClientRequest) => void): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(`${world.url}/v1/events`, { method: 'POST', headers }, (response) => {
      text(response).then((body) => resolve({ status: response.statusCode, body }), reject)
    })
    sent.on('error', reject)
    write(sent)
  })
}

describe('what is good is stored as it came', () => {
  test('one event, or several in one commit', async () => {
    const world = await openWorld()
    const events = [' {"z":1, "$schema":"/a/1.0.0","meta":{"stream":"a"},"n":12345678901234567890}', anEvent()]

    const one = await world.post(events[0] ?? '')
    const both = await world.post(`[${events.join(',')}]`)

    expect([one.status, one.statusText, await one.text()]).toEqual([201, 'All 1 out of 1 events were accepted.', ''])
    expect([both.status, both.statusText, await both.text()]).toEqual([201, 'All 2 out of 2 events were accepted.', ''])
    expect(world.store.texts).toEqual([events[0]?.trim(), events[0]?.trim(), events[1]])
    expect(world.store.batches).toEqual([1, 2])
  })

  test('and answered only once it is durable', async () => {
    const world = await openWorld()
    const order: string[] = []
    let makeDurable = () => {}
    const asked = new Promise<void>((resolve) => {
      world.store.beforeAppend = () => {
        resolve()
        return new Promise((durable) => {
          makeDurable = () => {
            order.push('durable')
            durable()
          }
        })
      }
    })
    const posted = world.post(anEvent(), { search: '?hasty=true' }).then(() => order.push('answered'))
    await asked
    makeDurable()
    await posted
    expect(order).toEqual(['durable', 'answered'])
  })

  test.each([
    'application/json',
    'application/json; charset=utf-8',
    'text/plain',
    'Text/Plain;charset=UTF-8',
    'application/reports+json',
  ])('as %s', async (type) => {
    const world = await openWorld()
    const response = await world.post(anEvent(), { headers: { 'content-type': type } })
    expect(response.status).toBe(201)
  })

  test.each(['true', 'false', '1', '&hasty=2'])(
    'hastily with hasty=%s, which changes only the answer',
    async (value) => {
      const world = await openWorld()
      const response = await world.post(`[${anEvent()},${anEvent()}]`, { search: `?hasty=${value}` })
      expect([response.status, response.statusText, await response.text()]).toEqual([
        202,
        '2 events hastily received.',
        '',
      ])
      expect(world.store.appended).toHaveLength(2)
    },
  )

  test('and not hastily with an empty hasty', async () => {
    const world = await openWorld()
    expect((await world.post(anEvent(), { search: '?hasty=' })).status).toBe(201)
  })

  test('after 100 Continue, as EventBus asks for it with bodies of more than 1 MiB', async () => {
    const world = await openWorld()
    const body = anEvent({ text: 'x'.repeat(2 * 1024 * 1024) })
    const status = await new Promise((resolve, reject) => {
      const sent = request(`${world.url}/v1/events`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          expect: '100-continue',
        },
      })
      sent.on('continue', () => sent.end(body))
      sent.on('response', (response) => resolve(response.resume().statusCode))
      sent.on('error', reject)
    })
    expect(status).toBe(201)
    expect(world.store.texts).toEqual([body])
  })
})

describe('one bad event does not harm its neighbours', () => {
  test('207 tells which were refused, and stores the others', async () => {
    const world = await openWorld({ registry: choosy })
    const response = await world.post(`[${invalid}, ${anEvent({ n: 1 })}, ${unknown}, ${anEvent({ n: 2 })}]`)
    expect([response.status, response.statusText]).toEqual([
      207,
      '2 out of 4 events were accepted, but 2 failed (1 invalid and 1 errored).',
    ])
    const errors = [expect.objectContaining({ instancePath: '/meta/id', keyword: 'pattern' })]
    const errorsText = expect.stringContaining('/meta/id must match pattern')
    expect(await response.json()).toEqual({
      invalid: [{ status: 'invalid', event: JSON.parse(invalid), context: { errors, errorsText } }],
      error: [
        {
          status: 'error',
          event: JSON.parse(unknown),
          context: { message: 'There is no schema at /no/such/schema/9.9.9.' },
        },
      ],
    })
    expect(world.store.texts).toEqual([anEvent({ n: 1 }), anEvent({ n: 2 })])
  })

  test.each([
    ['its own fault', false, 400],
    ['no fault of its own', true, 503],
  ])('one that the store refuses for %s is told as such, alone or among others', async (_what, ours, status) => {
    const world = await openWorld()
    const refused = anEvent({ refused: true })
    world.store.refusal = (event) => (event.message.refused === true ? { event, why: 'not this one', ours } : undefined)
    const some = await world.post(`[${anEvent({ n: 1 })},${refused},${anEvent({ n: 2 })}]`)
    const alone = await world.post(refused)
    expect([some.status, alone.status]).toEqual([207, status])
    for (const response of [some, alone]) {
      expect(await response.json()).toEqual({
        invalid: [],
        error: [{ status: 'error', event: JSON.parse(refused), context: { message: 'not this one' } }],
      })
    }
    expect(world.store.texts).toEqual([anEvent({ n: 1 }), anEvent({ n: 2 })])
  })

  test.each([
    [
      'nested too deep',
      Buffer.from(anEvent({ x: 0 }).replace('"x":0', `"x":${'['.repeat(70)}${']'.repeat(70)}`)),
      'It is nested deeper than 64 levels, the posted array included.',
    ],
    [
      'not UTF-8',
      Buffer.concat([Buffer.from(`${anEvent().slice(0, -1)},"x":"`), Buffer.from([0xff]), Buffer.from('"}')]),
      'It is not valid UTF-8.',
    ],
  ])('one that is %s is an error of its own, alone or among others', async (_what, event, message) => {
    const world = await openWorld()
    const some = await world.post(Buffer.concat([Buffer.from(`[${anEvent()},`), event, Buffer.from(`,${anEvent()}]`)]))
    const alone = await world.post(Buffer.from(event))
    for (const [response, status] of [
      [some, 207],
      [alone, 400],
    ] as const) {
      expect(response.status).toBe(status)
      expect(await response.json()).toEqual({
        invalid: [],
        error: [{ status: 'error', event: expect.objectContaining(JSON.parse(anEvent())), context: { message } }],
      })
    }
    expect(world.store.texts).toEqual([anEvent(), anEvent()])
  })

  test('refused events stand in the answer as they were posted', async () => {
    const world = await openWorld()
    const event = '{"1":0, "a":12345678901234567890,"é":"\\u00e9"}'
    expect(await (await world.post(`[${event}]`)).text()).toContain(`"event":${event},`)
  })

  test.each([
    ['all invalid', `[${invalid}]`, '1 out of 1 events were invalid and not accepted.'],
    ['all errored', `[${unknown}]`, '1 out of 1 events had failures and were not accepted. (0 invalid and 1 errored).'],
    [
      'both',
      `[${invalid},${unknown}]`,
      '2 out of 2 events had failures and were not accepted. (1 invalid and 1 errored).',
    ],
    ['no objects', '[1,"x",null]', '3 out of 3 events had failures and were not accepted. (0 invalid and 3 errored).'],
  ])('400 where none was accepted: %s', async (_what, body, sentence) => {
    const world = await openWorld({ registry: choosy })
    const response = await world.post(body)
    expect([response.status, response.statusText]).toEqual([400, sentence])
    expect(await response.text()).toMatch(/^\{"invalid":\[.*\],"error":\[.*\]\}$/s)
    expect(world.store.appended).toEqual([])
  })

  test('202 where it was hasty, with the refused in the body', async () => {
    const world = await openWorld()
    const response = await world.post(`[${invalid},${anEvent()}]`, { search: '?hasty=true' })
    expect([response.status, response.statusText]).toEqual([202, '2 events hastily received.'])
    expect(await response.json()).toMatchObject({ invalid: [{ event: JSON.parse(invalid) }], error: [] })
    expect(world.store.texts).toEqual([anEvent()])
  })
})

describe('what cannot be read is refused with an empty body', () => {
  test.each(['', ' ', '[]', '{}', '[{"a":', '5', 'null', '"x"', '[1,]', '\u0000'])('400 for %j', async (body) => {
    const world = await openWorld()
    const response = await world.post(body)
    expect([response.status, await response.text()]).toEqual([400, ''])
  })

  test.each(['application/x-www-form-urlencoded', 'application/xml', 'nonsense', 'application/json-seq', ';', ''])(
    '415 for the content type %j',
    async (type) => {
      const world = await openWorld()
      expect((await postRaw(world, anEvent(), { 'content-type': type })).status).toBe(415)
    },
  )

  test('415 for no content type at all, and for compressed bodies', async () => {
    const world = await openWorld()
    expect((await postRaw(world, anEvent(), {})).status).toBe(415)
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' }
    expect((await postRaw(world, anEvent(), headers)).status).toBe(415)
  })

  test('413 for more than the largest body, announced or not, and the connection stays usable', async () => {
    const world = await openWorld({ maxBodyBytes: 1_000 })
    const tooLarge = anEvent({ text: 'x'.repeat(1_000) })
    const announced = await world.post(tooLarge)
    const chunked = await postChunked(world, tooLarge)
    expect([announced.status, await announced.text()]).toEqual([413, ''])
    expect(chunked).toMatchObject({ status: 413, body: '' })
    expect((await world.post(anEvent())).status).toBe(201)
    expect(world.store.texts).toEqual([anEvent()])
  })

  test('413 for more events than one request may have', async () => {
    const world = await openWorld()
    const response = await world.post(`[${'1,'.repeat(50_000)}1]`)
    expect([response.status, response.statusText]).toEqual([413, 'The request body has more than 50000 events.'])
  })
})

describe('what is not our client’s fault is answered 503, never dropped', () => {
  test.each([
    ['STORE_BUSY', '1'],
    ['STORE_FULL', '30'],
    ['STORE_CLOSED', '5'],
    ['STORE_BROKEN', '5'],
  ] as const)('%s, to be tried again after %s s, hasty or not', async (code, after) => {
    const world = await openWorld()
    world.store.beforeAppend = () => Promise.reject(new ServiceError(code, 'the disk is full'))
    for (const search of ['', '?hasty=true']) {
      const response = await world.post(anEvent(), { search })
      expect([response.status, response.headers.get('retry-after'), await response.text()]).toEqual([503, after, ''])
    }
  })

  test('with every event and its reason, where some were bad besides', async () => {
    const world = await openWorld()
    world.store.beforeAppend = () => Promise.reject(new ServiceError('STORE_FULL', 'the disk is full'))
    const response = await world.post(`[${anEvent()},${invalid}]`)
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '30'])
    expect(await response.json()).toMatchObject({
      invalid: [{ event: JSON.parse(invalid) }],
      error: [{ event: JSON.parse(anEvent()), context: { message: expect.stringContaining('nothing was stored') } }],
    })
  })

  test('a schema that cannot be had, unless other events were accepted', async () => {
    const broken: Pick<Registry, 'admit'> = {
      admit: async (message) => {
        const usual = await createRegistry({ from: [], unknown: 'accept' }).admit(message)
        return JSON.stringify(message).includes('broken')
          ? { kind: 'error', stream: 'a', message: 'away', ours: true }
          : usual
      },
    }
    const world = await openWorld({ registry: broken })
    const none = await world.post(anEvent({ a: 'broken' }), { search: '?hasty=true' })
    const some = await world.post(`[${anEvent({ a: 'broken' })},${anEvent()}]`, { search: '?hasty=true' })
    expect([none.status, none.headers.get('retry-after'), some.status]).toEqual([503, '5', 207])
  })

  test('a server that is stopping', async () => {
    const world = await openWorld()
    world.server.stopAccepting()
    const response = await world.post(anEvent())
    expect([response.status, response.headers.get('retry-after'), await response.text()]).toEqual([503, '5', ''])
    expect(world.store.appended).toEqual([])
  })

  test('more bodies in hand than memory is meant for; others are taken as soon as there is room', async () => {
    const world = await openWorld({ limits: { bodiesInHandBytes: 1_000 } })
    const event = anEvent({ text: 'x'.repeat(500) })
    let release = () => {}
    const held = new Promise<void>((resolve) => {
      world.store.beforeAppend = () => {
        resolve()
        return new Promise((durable) => {
          release = durable
        })
      }
    })
    const first = world.post(event)
    await held
    const announced = await world.post(event)
    const chunked = await postChunked(world, event)
    expect([announced.status, announced.headers.get('retry-after'), await announced.text()]).toEqual([503, '1', ''])
    expect(chunked).toMatchObject({ status: 503, body: '' })
    world.store.beforeAppend = async () => {}
    release()
    expect((await first).status).toBe(201)
    expect((await world.post(event)).status).toBe(201)
  })

  test('500 with an empty body where we are broken, and the log says so', async () => {
    const world = await openWorld()
    world.store.beforeAppend = () => Promise.reject(new Error('this cannot be'))
    const response = await world.post(anEvent())
    expect([response.status, await response.text()]).toEqual([500, ''])
    expect(world.log.join()).toContain('this cannot be')
  })
})

describe('networks', () => {
  test.each([
    [['127.0.0.0/8'], 201],
    [['10.0.0.0/8', '127.0.0.1'], 201],
    [['::ffff:127.0.0.0/104'], 201],
    [['10.0.0.0/8', '::1/128'], 403],
    [[], 403],
  ])('of %j decide who may post', async (allow, status) => {
    const world = await openWorld({ allow, host: '127.0.0.1' })
    const response = await world.post(anEvent(), { headers: { 'x-forwarded-for': '10.1.2.3' } })
    expect([response.status, await response.text()]).toEqual([status, ''])
  })

  test('of IPv4 cover connections that the socket shows as IPv6', async () => {
    const world = await openWorld({ allow: ['127.0.0.0/8'], host: '::' })
    const response = await fetch(`http://127.0.0.1:${new URL(world.url).port}/v1/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: anEvent(),
    })
    expect(response.status).toBe(201)
  })

  test('that are none keep the server from starting', async () => {
    await expect(openWorld({ allow: ['everybody'] })).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
  })
})

describe('browsers', () => {
  test('are told that they may post, as by EventGate', async () => {
    const world = await openWorld()
    const options = await fetch(`${world.url}/v1/events`, { method: 'OPTIONS' })
    expect(options.status).toBe(200)
    for (const { headers } of [options, await world.post(anEvent()), await world.post('')]) {
      expect(headers.get('access-control-allow-origin')).toBe('*')
      expect(headers.get('access-control-allow-methods')).toBe('post')
      expect(headers.get('access-control-allow-headers')).toBe('accept, x-requested-with, content-type')
    }
  })
})

test('every event is counted by its stream and what became of it', async () => {
  const world = await openWorld({ registry: choosy })
  await world.post(`[${anEvent()},${anEvent()},${invalid}]`)
  await world.post('[5]')
  const metrics = await (await world.get('/metrics')).text()
  expect(metrics).toContain('changeprop_events_total{stream="page.edited",result="accepted"} 2')
  expect(metrics).toContain('changeprop_events_total{stream="page.edited",result="invalid"} 1')
  expect(metrics).toContain('changeprop_events_total{stream="other",result="error"} 1')
})
