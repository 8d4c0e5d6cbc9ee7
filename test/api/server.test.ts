import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, onTestFinished, test } from 'vitest'
import { anEvent, openWorld, type World } from './world.ts'

const quick = { headersMs: 100, requestMs: 200, checkEveryMs: 20 }

async function connectTo(world: World): Promise<Socket> {
  const socket = connect(Number(new URL(world.url).port), '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  await once(socket, 'connect')
  return socket
}

const posting = 'POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n'

describe('clients that take too long', () => {
  test.each([
    ['in the middle of a header', 'POST /v1/events HTTP/1.1\r\nhost: loc'],
    ['in the middle of a body', `${posting}content-length: 1000\r\n\r\n[{"a":`],
    ['in the middle of a chunked body', `${posting}transfer-encoding: chunked\r\n\r\n5\r\n[{"a"\r\n`],
  ])('are answered 408 with an empty body, and let go: %s', async (_where, sent) => {
    const world = await openWorld({ limits: quick })
    const socket = await connectTo(world)
    socket.write(sent)
    const answer = await text(socket)
    expect(answer).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/)
    expect(answer.endsWith('\r\n\r\n')).toBe(true)
  })

  test('hold none of the memory that others need', async () => {
    const world = await openWorld({ limits: { bodiesInHandBytes: 2_000 }, maxBodyBytes: 1_500 })
    for (let n = 0; n < 20; n++) (await connectTo(world)).write(`${posting}content-length: 1500\r\n\r\n[`)
    const response = await world.post(anEvent({ text: 'x'.repeat(1_000) }))
    expect(response.status).toBe(201)
  })

  test.each([
    ['announced', 'content-length: 1900\r\n\r\n'],
    ['chunked', `transfer-encoding: chunked\r\n\r\n${(1_900).toString(16)}\r\n`],
  ])('make room for others when no more of their body comes, and are answered 408: %s', async (_how, start) => {
    const limits = { bodiesInHandBytes: 2_000, silentBodyMs: 0 }
    const world = await openWorld({ limits, maxBodyBytes: 1_900 })
    const socket = await connectTo(world)
    socket.write(`${posting}${start}${'x'.repeat(1_800)}`)
    let answer: string | undefined
    const answered = text(socket).then((all) => {
      answer = all
    })
    do expect((await world.post(anEvent({ text: 'x'.repeat(500) }))).status).toBe(201)
    while (answer === undefined)
    await answered
    expect(answer).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n.*\r\nconnection: close\r\n.*\r\n\r\n$/is)
    expect(world.store.appended.every(({ bytes }) => bytes.length > 500)).toBe(true)
  })

  test('give their memory back when they go away', async () => {
    const world = await openWorld({ limits: { bodiesInHandBytes: 2_000 }, maxBodyBytes: 1_900 })
    const half = 'x'.repeat(1_800)
    for (let n = 0; n < 3; n++) {
      const socket = await connectTo(world)
      socket.write(`${posting}content-length: 1900\r\n\r\n${half}`)
      // The answer to this one comes after the server has read the other.
      while ((await world.post(anEvent({ text: 'x'.repeat(500) }))).status !== 503);
      socket.destroy()
      while ((await world.post(anEvent({ text: 'x'.repeat(500) }))).status !== 201);
    }
  })
})

describe('what is not HTTP', () => {
  test.each([
    ['garbage', 'garbage\r\n\r\n', '400 Bad Request'],
    ['two lengths', `${posting}content-length: 1\r\ncontent-length: 2\r\n\r\n`, '400 Bad Request'],
    ['a chunk without a size', `${posting}transfer-encoding: chunked\r\n\r\nzz\r\n`, '400 Bad Request'],
    ['headers without end', `${posting}x: ${'x'.repeat(100_000)}\r\n\r\n`, '431 Request Header Fields Too Large'],
  ])('is refused with an empty body: %s', async (_what, sent, status) => {
    const world = await openWorld()
    const socket = await connectTo(world)
    socket.write(sent)
    const answer = await text(socket)
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status}\r\n`))
    expect(answer.endsWith('\r\n\r\n')).toBe(true)
    expect((await world.post(anEvent())).status).toBe(201)
  })
})

test('a body far beyond the limit is answered before it ends, and cut off in the end', async () => {
  const world = await openWorld({ maxBodyBytes: 1_000 })
  const socket = await connectTo(world)
  // The end may come as a reset; that it comes is what counts.
  const closed = new Promise<void>((resolve) => {
    socket.on('error', () => socket.destroy()).on('close', () => resolve())
  })
  socket.write(`${posting}transfer-encoding: chunked\r\n\r\n`)
  const mebibyte = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(2 ** 20, 'x'), Buffer.from('\r\n')])
  socket.write(mebibyte)
  const [answer] = await once(socket, 'data')
  expect(String(answer)).toMatch(/^HTTP\/1\.1 413 Payload Too Large\r\n/)

  for (let n = 0; n < 100 && !socket.destroyed; n++) {
    if (socket.write(mebibyte)) continue
    await Promise.race([closed, new Promise((resolve) => socket.once('drain', resolve))])
  }
  await closed
})

describe('a server that closes', () => {
  test('lets running requests finish, and takes no other', async () => {
    const world = await openWorld()
    let release = () => {}
    const held = new Promise<void>((resolve) => {
      world.store.beforeAppend = () => {
        resolve()
        return new Promise((durable) => {
          release = durable
        })
      }
    })
    const running = world.post(anEvent())
    await held
    const closed = world.server.close()
    await expect(world.post(anEvent(), { headers: { connection: 'close' } })).rejects.toThrow()
    release()
    expect((await running).status).toBe(201)
    await closed
    expect(world.store.appended).toHaveLength(1)
  })

  test('does not wait for idle connections', async () => {
    const world = await openWorld()
    const socket = await connectTo(world)
    socket.write(`${posting}content-length: 2\r\n\r\n[]`)
    await once(socket, 'data')
    await Promise.all([once(socket, 'close'), world.server.close()])
  })

  test('does not wait for connections on which nothing was ever asked', async () => {
    const world = await openWorld()
    const socket = await connectTo(world)
    await Promise.all([once(socket, 'close'), world.server.close()])
  })

  test('goes on answering everything but posted events once it stops accepting', async () => {
    const world = await openWorld()
    world.server.stopAccepting()
    expect((await world.get('/healthz')).status).toBe(200)
    expect((await world.post(anEvent())).status).toBe(503)
  })
})

test('the address names the real port, for IPv6 too', async () => {
  const world = await openWorld({ host: '::1' })
  expect(world.url).toMatch(/^http:\/\/\[::1\]:[1-9]\d+$/)
  expect((await world.get('/healthz')).status).toBe(200)
})
