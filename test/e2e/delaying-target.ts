import { once } from 'node:events'
import { createServer } from 'node:http'

/** What calls of /NUMBER/DUE came to, by the target's clock. `DUE` in ms. */
export interface DelayingTarget {
  readonly url: string
  /** Calls that came before they were due. */
  readonly early: number
  /** Of `count` numbers, how many were called. */
  readonly called: number
  /** Calls beyond the first of a number. */
  readonly repeated: number
  /** Connections that are open: while there are any, more may come of a caller that is gone. */
  readonly connections: number
  /** How late the first calls came, in ms, so that this share of them was no later. */
  lateness(share: number): number
  close(): Promise<void>
}

/** Answers at once. What it keeps does not depend on how many calls there are, but for one small number each. */
export async function openDelayingTarget(count: number): Promise<DelayingTarget> {
  const lateMs = new Int32Array(count).fill(-1)
  let early = 0
  let called = 0
  let repeated = 0
  let connections = 0
  const server = createServer((request, response) => {
    const [, number, due] = (request.url ?? '').split('/').map(Number)
    const late = Date.now() - (due ?? Number.NaN)
    if (!(late >= 0)) early += 1
    if (lateMs[number ?? count] === -1) called += 1
    else repeated += 1
    lateMs[number ?? count] = Math.max(0, late)
    request.resume()
    response.end()
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
    get early() {
      return early
    },
    get called() {
      return called
    },
    get repeated() {
      return repeated
    },
    get connections() {
      return connections
    },
    lateness(share) {
      return lateMs.slice().sort()[Math.ceil(share * count) - 1] ?? Number.NaN
    },
    async close() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}
