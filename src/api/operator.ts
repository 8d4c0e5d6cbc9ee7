import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { ServiceError } from '../base/errors.ts'
import { isLoopback } from './network.ts'

/**
 * A proxy on this machine adds one or more of these for clients elsewhere: they come from loopback, but are not from here.
 * Beside them there is whatever begins with `x-forwarded-`.
 */
const forwardingHeaders: ReadonlySet<string> = new Set([
  ...['forwarded', 'via', 'x-original-forwarded-for', 'x-original-host', 'x-envoy-external-address'],
  ...['x-real-ip', 'x-client-ip', 'x-cluster-client-ip', 'client-ip', 'true-client-ip', 'cf-connecting-ip'],
])

/**
 * Throws UNAUTHORIZED or FORBIDDEN where a request is not the operator's. With a token, whoever has it is; without one,
 * whoever is on this machine and speaks to it by a local name. (A web page can make a browser here ask for a name of its
 * own that leads to 127.0.0.1, and could then read the answer.)
 */
export function compileOperatorCheck(token: string | undefined): (request: FastifyRequest) => void {
  if (token === undefined) return requireLoopback
  const expected = digest(token)
  return (request) => {
    const given = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1]
    if (given === undefined) {
      throw new ServiceError('UNAUTHORIZED', 'This route needs the operator token, as `Authorization: Bearer TOKEN`.')
    }
    if (!timingSafeEqual(digest(given), expected))
      throw new ServiceError('UNAUTHORIZED', 'The operator token is wrong.')
  }
}

function requireLoopback(request: FastifyRequest): void {
  const remedy = 'Set admin.token in the configuration to ask from elsewhere.'
  if (!isLoopback(request.socket.remoteAddress)) {
    throw new ServiceError('FORBIDDEN', `Without a token this route answers on loopback only. ${remedy}`)
  }
  const forwarded = Object.keys(request.headers).find(isForwarding)
  if (forwarded !== undefined) {
    throw new ServiceError(
      'FORBIDDEN',
      `A request with the header ${forwarded} was not made on this machine. ${remedy}`,
    )
  }
  if (!isLocalName(request.headers.host)) {
    throw new ServiceError(
      'FORBIDDEN',
      `Without a token this route is asked for as localhost or 127.0.0.1 only. ${remedy}`,
    )
  }
}

function isForwarding(header: string): boolean {
  return header.startsWith('x-forwarded-') || forwardingHeaders.has(header)
}

/** Of a `host` header; a client that sends none is no browser. */
function isLocalName(host: string | undefined): boolean {
  return host === undefined || /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?$/i.test(host)
}

/** Equal lengths for the comparison, and no hint of the token's own. */
function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest()
}
