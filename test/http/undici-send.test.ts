import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Answer, answerLimit, type NoAnswer, type OutboundRequest, type Reply } from '../../src/http/send.ts'
import { openSender, type SenderOptions } from '../../src/http/undici-send.ts'
import {
  type Behaviour,
  drip,
  garbage,
  hang,
  huge,
  openTarget,
  reset,
  respond,
  type Script,
} from '../support/target.ts'

async function setup(script?: Script | Behaviour, options?: SenderOptions) {
  const target = await openTarget(script)
  const sender = openSender(options)
  onTestFinished(async () => {
    await sender.close()
    await target.close()
  })
  const call = (part: Partial<OutboundRequest> = {}, signal?: AbortSignal) =>
    sender.send(requestTo(target.url, part), signal)
  return { target, sender, call }
}

function requestTo(origin: string, part: Partial<OutboundRequest> = {}): OutboundRequest {
  return { method: 'POST', origin, path: '/', headers: {}, body: null, timeoutMs: 60_000, ...part }
}

function answerIn(reply: Reply): Answer {
  if (reply.kind !== 'answer') throw new Error(`expected an answer, got ${reply.error}: ${reply.message}`)
  return reply
}

function noAnswerIn(reply: Reply): NoAnswer {
  if (reply.kind !== 'none') throw new Error(`expected no answer, got ${reply.status}`)
  return reply
}

/** A bare TCP server, for what no HTTP server does. */
async function openSocketServer(connected: (socket: Socket) => void): Promise<{ port: number }> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => sockets.delete(socket))
    connected(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(async () => {
    server.close()
    for (const socket of sockets) socket.destroy()
    await once(server, 'close')
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('expected a port')
  return { port: address.port }
}

describe('a call that is answered', () => {
  test('sends method, path, headers and the very bytes of the body', async () => {
    const { target, call } = await setup()
    const body = Uint8Array.from([0, 255, 10, 13, 200])
    await call({ method: 'put', path: '/w/api.php?a=%20b', headers: { 'x-one': '1' }, body })
    expect(target.requests[0]).toMatchObject({ method: 'PUT', path: '/w/api.php?a=%20b' })
    expect(target.requests[0]?.headers).toMatchObject({ 'x-one': '1', 'content-length': '5' })
    expect(target.requests[0]?.body).toEqual(Buffer.from(body))
  })

  test('sends the bytes of a view, and not of the buffer behind it', async () => {
    const { target, call } = await setup()
    await call({ body: new TextEncoder().encode('[{"a":1},{"b":2}]').subarray(9, 16) })
    expect(target.requests[0]?.body.toString()).toBe('{"b":2}')
  })

  test('sends text as UTF-8', async () => {
    const { target, call } = await setup()
    await call({ body: 'Zürich' })
    expect(target.requests[0]?.body).toEqual(Buffer.from('Zürich', 'utf8'))
  })

  test('sends the host header that it is given', async () => {
    const { target, call } = await setup()
    await call({ headers: { host: 'wiki.example.org' } })
    expect(target.requests[0]?.headers.host).toBe('wiki.example.org')
  })

  test('gives status, headers in lower case and body', async () => {
    const { call } = await setup(respond(418, 'short and stout', { 'X-Kind': 'teapot' }))
    const answer = answerIn(await call())
    expect(answer.status).toBe(418)
    expect(answer.headers['x-kind']).toBe('teapot')
    expect(Buffer.from(answer.body).toString()).toBe('short and stout')
    expect(answer.truncated).toBe(false)
  })

  test('joins several headers of one name', async () => {
    const { call } = await setup(respond(200, '', { 'set-cookie': ['a=1', 'b=2'] }))
    expect(answerIn(await call()).headers['set-cookie']).toBe('a=1, b=2')
  })

  test('takes a redirect for an answer', async () => {
    const { target, call } = await setup(respond(302, '', { location: '/elsewhere' }))
    expect(answerIn(await call()).headers.location).toBe('/elsewhere')
    expect(target.requests).toHaveLength(1)
  })

  test('passes over 103 Early Hints', async () => {
    const { call } = await setup(
      garbage('HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n'),
    )
    expect(answerIn(await call()).status).toBe(204)
  })

  test('keeps the order of bytes of a body that comes in many pieces', async () => {
    const { port } = await openSocketServer((socket) => {
      socket.once('data', () => {
        socket.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n')
        for (let index = 0; index < 20_000; index++) socket.write(`1\r\n${index % 10}\r\n`)
        socket.write('0\r\n\r\n')
      })
    })
    const { sender } = await setup()
    const answer = answerIn(await sender.send(requestTo(`http://127.0.0.1:${port}`)))
    expect(Buffer.from(answer.body).toString()).toBe('0123456789'.repeat(2000))
    expect(answer.truncated).toBe(false)
  })
})

describe('connections', () => {
  test('one connection serves calls that follow one another', async () => {
    const { target, call } = await setup()
    for (let index = 0; index < 20; index++) answerIn(await call({ body: 'x' }))
    expect(target.connections).toBe(1)
  })

  test('there are as many as calls are in flight', async () => {
    const waiting: (() => void)[] = []
    const { target, call } = await setup(() => new Promise((resolve) => waiting.push(() => resolve(respond(200)))))
    const calls = Array.from({ length: 30 }, () => call())
    await target.waitFor(30)
    for (const answer of waiting) answer()
    for (const reply of await Promise.all(calls)) answerIn(reply)
    expect(target.maxInFlight).toBe(30)
    expect(target.connections).toBe(30)
  })

  test('one that the target closed while it stood idle is replaced without a failure', async () => {
    const { target, call } = await setup()
    for (let index = 0; index < 20; index++) {
      answerIn(await call({ body: 'x' }))
      target.closeIdle()
      await target.waitForNone()
    }
    expect(target.requests).toHaveLength(20)
    expect(target.connections).toBe(20)
  })

  test('a target that closes after each answer is served all the same', async () => {
    const { target, call } = await setup(respond(200, 'ok', { connection: 'close' }))
    for (let index = 0; index < 5; index++) answerIn(await call())
    expect(target.connections).toBe(5)
  })

  test('those that stand idle are closed', async () => {
    const { target, call } = await setup(respond(200), { idleMs: 1 })
    answerIn(await call())
    await target.waitForNone()
    answerIn(await call())
  })

  test('a connection is not used again after a call on it was given up', async () => {
    const { target, call } = await setup((request) => (request.index === 0 ? hang() : respond(200, 'second')))
    expect(noAnswerIn(await call({ timeoutMs: 1000 })).error).toBe('timeout')
    expect(Buffer.from(answerIn(await call()).body).toString()).toBe('second')
    expect(target.connections).toBe(2)
  })
})

describe('a call without an answer', () => {
  const table: readonly [string, Behaviour, NoAnswer['error']][] = [
    ['resets the connection', reset(), 'reset'],
    ['resets it in the middle of the answer', reset(true), 'reset'],
    ['says nothing', hang(), 'timeout'],
    ['sends a byte at a time without end', drip(), 'timeout'],
    ['answers something that is not HTTP', garbage(), 'garbage'],
    ['ends the connection without a word', garbage(''), 'reset'],
    ['ends the connection within the headers', garbage('HTTP/1.1 200 OK\r\ncontent-le'), 'reset'],
    [
      'ends the connection before the end of the body',
      garbage('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf'),
      'reset',
    ],
    [
      'ends the connection before the last chunk',
      garbage('HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n'),
      'reset',
    ],
    ['sends endless headers', garbage(`HTTP/1.1 200 OK\r\nx-long: ${'y'.repeat(200_000)}`), 'garbage'],
    ['has no status that can be read', garbage('HTTP/1.1 many OK\r\n\r\n'), 'garbage'],
    [
      'wants another protocol',
      garbage('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n'),
      'garbage',
    ],
    ['asks for more of the request', garbage('HTTP/1.1 100 Continue\r\n\r\n'), 'garbage'],
  ]
  test.each(table)('when the target %s, it may have been sent', async (_title, behaviour, error) => {
    const { call, target } = await setup(behaviour)
    const reply = noAnswerIn(await call({ body: 'x', timeoutMs: error === 'timeout' ? 1000 : 60_000 }))
    expect(reply).toMatchObject({ error, sent: true })
    expect(reply.message).not.toBe('')
    expect(target.requests).toHaveLength(1)
  })

  test('was not sent where nobody listens', async () => {
    const { target, call } = await setup()
    await target.close()
    expect(noAnswerIn(await call())).toMatchObject({ error: 'refused', sent: false })
  })

  test('was not sent where a kept connection is gone and nobody listens any more', async () => {
    const { target, call } = await setup()
    answerIn(await call())
    await target.close()
    expect(noAnswerIn(await call())).toMatchObject({ error: 'refused', sent: false })
  })

  test('was not sent where the host has no address', async () => {
    const { sender } = await setup()
    const reply = noAnswerIn(await sender.send(requestTo('http://no-such-host.invalid')))
    expect(reply).toMatchObject({ error: 'unreachable', sent: false })
  })

  test('was not sent where TLS fails', async () => {
    const { target, sender } = await setup()
    const reply = noAnswerIn(await sender.send(requestTo(`https://127.0.0.1:${target.port}`)))
    expect(reply).toMatchObject({ error: 'unreachable', sent: false })
    expect(target.requests).toHaveLength(0)
  })

  test('was not sent where TLS is never agreed on before the time limit', async () => {
    const { port } = await openSocketServer(() => undefined)
    const { sender } = await setup()
    const reply = noAnswerIn(await sender.send(requestTo(`https://127.0.0.1:${port}`, { timeoutMs: 200 })))
    expect(reply).toMatchObject({ error: 'timeout', sent: false })
  })

  test('was not sent where no connection comes about in its own time', async () => {
    const { port } = await openSocketServer(() => undefined)
    const { sender } = await setup(undefined, { connectTimeoutMs: 50 })
    const reply = noAnswerIn(await sender.send(requestTo(`https://127.0.0.1:${port}`)))
    expect(reply).toMatchObject({ error: 'unreachable', sent: false })
  })

  test('may have been sent where the server hangs up on each new connection', async () => {
    const { port } = await openSocketServer((socket) => socket.resetAndDestroy())
    const { sender } = await setup()
    expect(noAnswerIn(await sender.send(requestTo(`http://127.0.0.1:${port}`))).error).toBe('reset')
  })

  test.each([
    ['no URL', { origin: 'nonsense' }],
    ['another protocol', { origin: 'ftp://wiki.example' }],
    ['a path without a slash', { path: 'api.php' }],
    ['a path with a line break', { path: '/\r\nx: y' }],
    ['a method that is none', { method: 'GET / HTTP/1.1' }],
    ['a tunnel', { method: 'CONNECT' }],
    ['a header name that is none', { headers: { 'x y': '1' } }],
    ['a header that frames messages', { headers: { 'transfer-encoding': 'chunked' } }],
    ['a length that is wrong', { headers: { 'content-length': '99' }, body: 'x' }],
  ] satisfies [string, Partial<OutboundRequest>][])('is a reply, never a throw, for %s', async (_title, part) => {
    const { target, call } = await setup()
    expect(noAnswerIn(await call(part))).toMatchObject({ error: 'garbage', sent: false })
    expect(target.requests).toHaveLength(0)
  })

  test('never tells a secret', async () => {
    const { call } = await setup(reset())
    const reply = noAnswerIn(await call({ headers: { authorization: 'Bearer hush' } }))
    expect(JSON.stringify(reply)).not.toContain('hush')
  })

  test('ends by its own time limit, whatever came and went beside it', async () => {
    const release: (() => void)[] = []
    const { target, call } = await setup((request) =>
      request.path === '/hang' ? hang() : new Promise((resolve) => release.push(() => resolve(respond(200)))),
    )
    const answered = Array.from({ length: 20 }, () => call())
    const hanging = Array.from({ length: 10 }, () => call({ path: '/hang', timeoutMs: 2000 }))
    const later = Array.from({ length: 10 }, () => call())
    await target.waitFor(40)
    for (const [index, answer] of release.entries()) if (index % 3 > 0) answer()
    for (const reply of await Promise.all(hanging)) expect(reply).toMatchObject({ error: 'timeout', sent: true })
    for (const answer of release) answer()
    for (const reply of await Promise.all([...answered, ...later])) answerIn(reply)
  })

  test('leaves the calls beside it alone', async () => {
    const { call } = await setup((request) => (request.path === '/bad' ? reset() : respond(200)))
    const replies = await Promise.all(
      Array.from({ length: 40 }, (_, index) => call({ path: index % 2 === 0 ? '/bad' : '/good' })),
    )
    expect(replies.map((reply) => reply.kind)).toEqual(replies.map((_, index) => (index % 2 === 0 ? 'none' : 'answer')))
  })
})

describe('a body that is too large', () => {
  test('is cut off, and the rest read off so that the connection serves on', async () => {
    const { target, call } = await setup(huge(5 * 1024 * 1024))
    const answer = answerIn(await call())
    expect(answer.body.length).toBe(answerLimit)
    expect(answer.truncated).toBe(true)
    expect(answerIn(await call()).truncated).toBe(true)
    expect(target.connections).toBe(1)
  })

  test('is whole when it has exactly as many bytes as are kept', async () => {
    const { call } = await setup(huge(answerLimit))
    const answer = answerIn(await call())
    expect(answer.body.length).toBe(answerLimit)
    expect(answer.truncated).toBe(false)
  })

  test.each([200 * 1024 * 1024, 1024 ** 4])(
    'ends the connection long before its %d bytes are through',
    async (bytes) => {
      const { target, call } = await setup(huge(bytes))
      const answer = answerIn(await call())
      expect(answer.status).toBe(200)
      expect(answer.body.length).toBe(answerLimit)
      expect(answer.body.buffer.byteLength).toBeLessThanOrEqual(2 * answerLimit)
      expect(answer.truncated).toBe(true)
      expect(target.hugeWritten).toBeLessThan(64 * 1024 * 1024)
    },
  )
})

describe('header values', () => {
  test('are percent-encoded where HTTP does not allow them', async () => {
    const { target, call } = await setup()
    answerIn(await call({ headers: { 'x-triggered-by': 'page:Zürich\r\nx-evil: 日本\ud800', 'x-plain': 'a b' } }))
    expect(target.requests[0]?.headers['x-triggered-by']).toBe(
      'page:Z%C3%BCrich%0D%0Ax-evil: %E6%97%A5%E6%9C%AC%EF%BF%BD',
    )
    expect(target.requests[0]?.headers['x-plain']).toBe('a b')
    expect(target.requests[0]?.headers['x-evil']).toBeUndefined()
  })
})

describe('an abort signal', () => {
  test('that fired before means that nothing was sent', async () => {
    const { target, call } = await setup()
    expect(noAnswerIn(await call({}, AbortSignal.abort()))).toMatchObject({ error: 'aborted', sent: false })
    expect(target.connections).toBe(0)
  })

  test('ends all calls in flight that it belongs to, and no other', async () => {
    const waiting: (() => void)[] = []
    const { target, call } = await setup(() => new Promise((resolve) => waiting.push(() => resolve(respond(200)))))
    const controller = new AbortController()
    const aborted = Array.from({ length: 20 }, () => call({}, controller.signal))
    const other = call({}, new AbortController().signal)
    await target.waitFor(21)
    controller.abort()
    for (const reply of await Promise.all(aborted)) expect(reply).toMatchObject({ error: 'aborted', sent: true })
    for (const answer of waiting) answer()
    answerIn(await other)
  })

  test('that fires while there is no connection yet means that nothing was sent', async () => {
    const { port } = await openSocketServer(() => undefined)
    const { sender } = await setup()
    const controller = new AbortController()
    const reply = sender.send(requestTo(`https://127.0.0.1:${port}`), controller.signal)
    controller.abort()
    expect(await reply).toMatchObject({ error: 'aborted', sent: false })
  })
})

describe('a sender that is closed', () => {
  test('ends the calls in flight, and answers later ones without sending them', async () => {
    const { target, sender, call } = await setup(hang())
    const reply = call()
    await target.waitFor(1)
    await sender.close()
    expect(await reply).toMatchObject({ error: 'aborted', sent: true })
    expect(await call()).toMatchObject({ error: 'aborted', sent: false })
    expect(target.requests).toHaveLength(1)
  })
})
