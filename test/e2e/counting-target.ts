import { once } from 'node:events'
import { createServer } from 'node:http'

/** What the target knows of one event: POST /EVENT-ID, told apart by the path alone. */
export interface CallsOfOne {
  started: number
  /** Answers that were written whole, whether or not the caller lived to read them. */
  answered: number
  /** Of those, answers with 200. */
  succeeded: number
}

/** What was under way when the caller was killed. */
export interface CutOff {
  /** Started and never answered. */
  readonly unanswered: readonly string[]
  /** Answered since the kill before, oldest first. */
  readonly answered: readonly string[]
}

/** Answers each call a little later, and keeps count. */
export interface CountingTarget {
  readonly url: string
  readonly calls: ReadonlyMap<string, CallsOfOne>
  /** Calls that began, all events together. */
  readonly started: number
  /** Connections that are open. */
  readonly connections: number
  /** To be asked when the caller is gone and its connections are closed: then nothing of it can arrive any more. */
  takeCutOff(): CutOff
  close(): Promise<void>
}

export interface CountingTargetOptions {
  readonly latencyMs: number
  /** One event whose first call takes longer. */
  readonly slow?: { readonly id: string; readonly ms: number }
  /** By the number of answers that this event had before. */
  readonly status: (id: string, answeredBefore: number) => number
}

export async function openCountingTarget({ latencyMs, slow, status }: CountingTargetOptions): Promise<CountingTarget> {
  const calls = new Map<string, CallsOfOne>()
  let started = 0
  let connections = 0
  let unanswered: string[] = []
  let answered: string[] = []

  const server = createServer((request, response) => {
    const id = (request.url ?? '').slice(1)
    const seen = calls.get(id) ?? { started: 0, answered: 0, succeeded: 0 }
    calls.set(id, seen)
    seen.started += 1
    started += 1
    request.resume()
    const timer = setTimeout(
      () => {
        response.writeHead(status(id, seen.answered)).end()
      },
      slow?.id === id && seen.started === 1 ? slow.ms : latencyMs,
    )
    response.once('close', () => {
      clearTimeout(timer)
      if (!response.writableFinished) {
        unanswered.push(id)
        return
      }
      seen.answered += 1
      if (response.statusCode === 200) seen.succeeded += 1
      answered.push(id)
    })
  })
  server.keepAliveTimeout = 0
  server.on('connection', (socket) => {
    connections += 1
    socket.once('close', () => {
      connections -= 1
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the target has no port')

  return {
    url: `http://127.0.0.1:${address.port}`,
    calls,
    get started() {
      return started
    },
    get connections() {
      return connections
    },
    takeCutOff() {
      const taken = { unanswered, answered }
      unanswered = []
      answered = []
      return taken
    },
    async close() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}
