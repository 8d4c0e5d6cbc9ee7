import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** A request that arrived, whole. */
export interface TargetRequest {
  readonly method: string
  /** Path and query, as sent. */
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
  /** In order of arrival, from 0. */
  readonly index: number
}

/** What the target does with a request. */
export type Behaviour =
  | {
      readonly kind: 'answer'
      readonly status: number
      readonly headers?: Readonly<Record<string, string | readonly string[]>>
      readonly body?: string | Uint8Array
      /** Held back this long, in ms. */
      readonly afterMs?: number
    }
  /** Says nothing, ever. */
  | { readonly kind: 'hang' }
  /** The connection is reset (RST), with no answer or in the middle of one. */
  | { readonly kind: 'reset'; readonly midway: boolean }
  /** Sends headers, then a byte each `everyMs`, for ever. */
  | { readonly kind: 'drip'; readonly everyMs: number }
  /** These bytes on the socket instead of an answer, then the end. */
  | { readonly kind: 'garbage'; readonly bytes: string }
  /** So many bytes of body, as fast as they are read. */
  | { readonly kind: 'huge'; readonly bytes: number }

export const respond = (
  status: number,
  body: string | Uint8Array = '',
  headers: Readonly<Record<string, string | readonly string[]>> = {},
): Behaviour => ({ kind: 'answer', status, body, headers })
export const respondLate = (afterMs: number, status = 200): Behaviour => ({
  kind: 'answer',
  status,
  afterMs,
})
export const hang = (): Behaviour => ({ kind: 'hang' })
export const reset = (midway = false): Behaviour => ({ kind: 'reset', midway })
export const drip = (everyMs = 10): Behaviour => ({ kind: 'drip', everyMs })
export const garbage = (bytes = 'no HTTP here\r\n\r\n'): Behaviour => ({
  kind: 'garbage',
  bytes,
})
export const huge = (bytes: number): Behaviour => ({ kind: 'huge', bytes })

/** Asked for each request once it has arrived whole. */
export type Script = (request: TargetRequest) => Behaviour | Promise<Behaviour>

/** An HTTP server on a free port that misbehaves to order. */
export interface ScriptedTarget {
  readonly url: string
  readonly port: number
  /** In order of arrival. */
  readonly requests: readonly TargetRequest[]
  /** Connections that were opened so far. */
  readonly connections: number
  /** Connections that are open now. */
  readonly open: number
  /** The most requests that were ever unanswered at one time. */
  readonly maxInFlight: number
  /** Bytes of the last `huge` answer that were written. */
  readonly hugeWritten: number
  /** What to do from now on. */
  behave(script: Script | Behaviour): void
  /** Resolves once that many requests have arrived in all. */
  waitFor(count: number): Promise<void>
  /** Resolves once no connection is open. */
  waitForNone(): Promise<void>
  /** Closes the connections that are idle, as a server does with its keep-alive; those with a request stay. */
  closeIdle(): void
  /** Ends every connection too. */
  close(): Promise<void>
}

/** Listens on 127.0.0.1; without a script it answers 200 to everything. `port` is for opening again where one was closed. */
export async function openTarget(script: Script | Behaviour = respond(200), port = 0): Promise<ScriptedTarget> {
  const requests: TargetRequest[] = []
  const sockets = new Set<Socket>()
  const waiting: { count: number; resolve: () => void }[] = []
  const waitingForNone: (() => void)[] = []
  let current = script
  let inFlight = 0
  let maxInFlight = 0
  let connections = 0
  let hugeWritten = 0

  const server = createServer({ keepAliveTimeout: 0, requestTimeout: 0 }, (message, response) => {
    inFlight += 1
    maxInFlight = Math.max(maxInFlight, inFlight)
    response.once('close', () => {
      inFlight -= 1
    })
    const chunks: Buffer[] = []
    message.on('data', (chunk: Buffer) => chunks.push(chunk))
    message.once('end', () => {
      const request = asRequest(message, Buffer.concat(chunks), requests.length)
      requests.push(request)
      for (const waiter of waiting.splice(0)) {
        if (requests.length >= waiter.count) waiter.resolve()
        else waiting.push(waiter)
      }
      void Promise.resolve(typeof current === 'function' ? current(request) : current).then((behaviour) =>
        act(behaviour, response, (bytes) => {
          hugeWritten = bytes
        }),
      )
    })
  })
  server.on('connection', (socket) => {
    connections += 1
    sockets.add(socket)
    socket.once('close', () => {
      sockets.delete(socket)
      if (sockets.size === 0) for (const resolve of waitingForNone.splice(0)) resolve()
    })
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('expected a port to listen on')

  function waitForNone(): Promise<void> {
    if (sockets.size === 0) return Promise.resolve()
    return new Promise((resolve) => waitingForNone.push(resolve))
  }

  return {
    url: `http://127.0.0.1:${address.port}`,
    port: address.port,
    requests,
    get connections() {
      return connections
    },
    get open() {
      return sockets.size
    },
    get maxInFlight() {
      return maxInFlight
    },
    get hugeWritten() {
      return hugeWritten
    },
    behave(next) {
      current = next
    },
    waitFor(count) {
      if (requests.length >= count) return Promise.resolve()
      return new Promise((resolve) => waiting.push({ count, resolve }))
    },
    waitForNone,
    closeIdle() {
      server.closeIdleConnections()
    },
    async close() {
      if (!server.listening) return
      const closed = [once(server, 'close'), waitForNone()]
      server.close()
      for (const socket of sockets) socket.destroy()
      await Promise.all(closed)
    },
  }
}

function asRequest(message: IncomingMessage, body: Buffer, index: number): TargetRequest {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(message.headers)) {
    if (value !== undefined) headers[name] = Array.isArray(value) ? value.join(', ') : value
  }
  return {
    method: message.method ?? '',
    path: message.url ?? '',
    headers,
    body,
    index,
  }
}

function act(behaviour: Behaviour, response: ServerResponse, wrote: (bytes: number) => void): void {
  const { socket } = response
  if (socket === null) return
  switch (behaviour.kind) {
    case 'answer': {
      const { status, headers = {}, body = '', afterMs } = behaviour
      const answer = () => {
        for (const [name, value] of Object.entries(headers)) {
          response.setHeader(name, typeof value === 'string' ? value : [...value])
        }
        response.statusCode = status
        response.end(body)
      }
      if (afterMs === undefined) answer()
      else setTimeout(answer, afterMs)
      return
    }
    case 'hang':
      return
    case 'reset':
      if (behaviour.midway)
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf', () => socket.resetAndDestroy())
      else socket.resetAndDestroy()
      return
    case 'drip': {
      response.writeHead(200)
      response.write('.')
      const timer = setInterval(() => response.write('.'), behaviour.everyMs)
      response.once('close', () => clearInterval(timer))
      return
    }
    case 'garbage':
      socket.end(behaviour.bytes)
      return
    case 'huge':
      writeHuge(response, behaviour.bytes, wrote)
      return
  }
}

function writeHuge(response: ServerResponse, bytes: number, wrote: (bytes: number) => void): void {
  const chunk = Buffer.alloc(64 * 1024, 'x')
  let left = bytes
  response.writeHead(200, { 'content-length': bytes })
  const more = () => {
    while (left > 0 && !response.destroyed) {
      const next = left < chunk.length ? chunk.subarray(0, left) : chunk
      left -= next.length
      wrote(bytes - left)
      if (!response.write(next)) {
        response.once('drain', more)
        return
      }
    }
    if (left === 0) response.end()
  }
  more()
}
