import { buildConnector } from 'undici'
import { ClientPool } from './client-pool.ts'
import { Flight, type Landing } from './flight.ts'
import { legalHeaders } from './header-value.ts'
import { noAnswerOf } from './no-answer.ts'
import type { NoAnswer, OutboundRequest, Reply, Send } from './send.ts'

export interface SenderOptions {
  /** How long a connection, TLS included, may take to come about. undici rounds this up to half seconds. */
  readonly connectTimeoutMs?: number
  /** How long a connection may stand idle before it is forgotten. undici closes its socket earlier, after 4 s or as the target says. */
  readonly idleMs?: number
}

export interface Sender {
  readonly send: Send
  /** Calls in flight are answered with `aborted`, and so are later ones. Resolves when every socket is closed. */
  close(): Promise<void>
}

/** How late a time limit may be kept: one look at all calls costs less than a timer for each. */
const lookEveryMs = 100

/**
 * Sends over HTTP/1.1, one call at a time on a connection, with as many connections to an origin as there are calls.
 * Nothing is repeated once a byte may have been written; a kept-alive connection that turns out closed before that is
 * replaced in silence. Redirects are answers.
 */
export function openSender(options: SenderOptions = {}): Sender {
  const { connectTimeoutMs = 5_000, idleMs = 10_000 } = options
  const connect = buildConnector({ timeout: connectTimeoutMs })
  const pools = new Map<string, ClientPool>()
  const flights: Flight[] = []
  const watched = new WeakSet<AbortSignal>()
  let timer: NodeJS.Timeout | undefined
  let isClosed = false

  const landing: Landing = {
    now: () => performance.now(),
    landed(flight) {
      const last = flights.pop()
      if (last === undefined || last === flight) return
      flights[flight.place] = last
      last.place = flight.place
    },
  }

  function send(request: OutboundRequest, signal?: AbortSignal): Promise<Reply> {
    if (isClosed) return Promise.resolve(notSent('aborted', 'the service is stopping'))
    if (signal !== undefined) {
      if (signal.aborted) return Promise.resolve(notSent('aborted', 'the call was called off'))
      if (!watched.has(signal)) watch(signal)
    }
    const method = request.method.toUpperCase()
    if (method === 'CONNECT') return Promise.resolve(notSent('garbage', 'CONNECT is not a call'))
    timer ??= setInterval(look, lookEveryMs).unref()
    return new Promise((resolve) => {
      let flight: Flight
      try {
        flight = new Flight(poolOf(request), landing, performance.now() + request.timeoutMs, signal, resolve)
      } catch (error) {
        // Only a client that cannot be made for such an origin comes here.
        resolve(noAnswerOf(error, false))
        return
      }
      flight.place = flights.push(flight) - 1
      const { path, headers, body } = request
      flight.begin({ path, method, headers: legalHeaders(headers), body })
    })
  }

  /** With TLS the `host` header chooses the certificate, hence the connection. */
  function poolOf({ origin, headers }: OutboundRequest): ClientPool {
    const key = origin.startsWith('https:') && headers.host !== undefined ? `${origin} ${headers.host}` : origin
    let pool = pools.get(key)
    if (pool === undefined) {
      pool = new ClientPool(origin, connect)
      pools.set(key, pool)
    }
    return pool
  }

  /** One listener for all calls of a signal: hundreds may share it, and lists of listeners are slow. */
  function watch(signal: AbortSignal): void {
    watched.add(signal)
    signal.addEventListener('abort', () => {
      for (const flight of [...flights])
        if (flight.signal === signal) flight.giveUp('aborted', 'the call was called off')
    })
  }

  function look(): void {
    const now = performance.now()
    for (const flight of [...flights]) {
      if (flight.deadline <= now) flight.giveUp('timeout', 'there was no whole answer within the time limit')
    }
    for (const [key, pool] of pools) {
      pool.dropIdle(now - idleMs)
      if (pool.isEmpty) pools.delete(key)
    }
    if (pools.size > 0) return
    clearInterval(timer)
    timer = undefined
  }

  async function close(): Promise<void> {
    isClosed = true
    clearInterval(timer)
    for (const flight of [...flights]) flight.giveUp('aborted', 'the service is stopping')
    await Promise.all([...pools.values()].map((pool) => pool.close()))
    pools.clear()
  }

  return { send, close }
}

function notSent(error: NoAnswer['error'], message: string): NoAnswer {
  return { kind: 'none', error, message, sent: false }
}
