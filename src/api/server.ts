import type { IncomingMessage } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { buildApp, type ServerParts } from './app.ts'

export interface Server {
  /** E.g. `http://127.0.0.1:8192`; the port is the real one where 0 was asked for. */
  readonly address: string
  /** From now on posted events are answered 503, which a producer notices, as it may not notice a closed port. */
  stopAccepting(): void
  /**
   * Takes no new connection, lets running requests finish, for `stopTimeoutMs` at most, and is then gone. What was not
   * refused before is refused now.
   */
  close(): Promise<void>
}

/** A connection that falls idle while the server closes is closed within this time. */
const sweepEveryMs = 50

export async function openServer(parts: ServerParts): Promise<Server> {
  let stopping = false
  const app = buildApp(parts, () => stopping)
  // Node takes a connection on which nothing was ever asked for one that is busy, and would wait for it.
  const silent = new Set<Socket>()
  app.server.on('connection', (socket: Socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
  })
  app.server.on('request', ({ socket }: IncomingMessage) => silent.delete(socket))
  const { host, port } = parts.config.listen
  await app.listen({ host, port })
  return {
    address: addressOf(app.server.address()),
    stopAccepting() {
      stopping = true
    },
    async close() {
      stopping = true
      const sweep = setInterval(() => {
        app.server.closeIdleConnections()
        for (const socket of silent) if (socket.bytesRead === 0) socket.destroy()
      }, sweepEveryMs)
      const cut = setTimeout(() => app.server.closeAllConnections(), parts.config.stopTimeoutMs)
      try {
        await app.close()
      } finally {
        clearInterval(sweep)
        clearTimeout(cut)
      }
    },
  }
}

function addressOf(address: AddressInfo | string | null): string {
  if (address === null || typeof address === 'string') throw new Error(`not an address of a network: ${address}`)
  return `http://${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`
}
