import type { Socket } from 'node:net'
import fastify, { type FastifyInstance, type FastifyRequest, type RouteOptions } from 'fastify'
import type { Logger } from 'pino'
import { suggest } from '../base/suggestion.ts'
import type { Config } from '../config/config.ts'
import type { Metrics } from '../observability/metrics.ts'
import type { RuleSet } from '../rule/rule.ts'
import type { Store } from '../store/store.ts'
import type { Registry } from '../stream/registry.ts'
import { addAdmin } from './admin.ts'
import type { Operations, ServiceStatus } from './contract.ts'
import { addHealth } from './health.ts'
import { addIntake } from './intake.ts'
import { compileNetworks } from './network.ts'
import { sendError, sendProblem } from './problem.ts'
import { watchRoutes } from './route.ts'

/** All that the interface stands on. */
export interface ServerParts {
  readonly config: Pick<Config, 'listen' | 'intake' | 'admin' | 'stopTimeoutMs'>
  readonly store: Pick<Store, 'append' | 'health' | 'find' | 'deliveries' | 'deadLetters'>
  readonly registry: Pick<Registry, 'admit'>
  /** Undefined while the rules are invalid and none is in force. */
  readonly rules: () => RuleSet | undefined
  readonly operations: Operations
  readonly status: () => ServiceStatus
  readonly metrics: Metrics
  readonly log: Logger
  readonly version: string
  /** The project's page, where it has one. */
  readonly home?: string | undefined
  readonly limits?: Partial<ServerLimits>
}

/** How long a client may take, and how much may be in hand. */
export interface ServerLimits {
  /** From the first byte of a request to the last of its headers. */
  readonly headersMs: number
  /** To the last of its body. */
  readonly requestMs: number
  /** An idle connection stays open. Longer than a PHP request lasts: a connection that we close as EventBus posts is a lost event. */
  readonly keepAliveMs: number
  /** How often the first two are looked after. */
  readonly checkEveryMs: number
  /** Bodies in hand at one time, over all requests; undefined: as the intake thinks fit. */
  readonly bodiesInHandBytes: number | undefined
  /** A body of which nothing came for so long is given up where another needs its room. */
  readonly silentBodyMs: number
}

const usualLimits: ServerLimits = {
  headersMs: 10_000,
  requestMs: 60_000,
  keepAliveMs: 75_000,
  checkEveryMs: 2_000,
  bodiesInHandBytes: undefined,
  silentBodyMs: 5_000,
}

/** Bodies of operators' requests; the intake has its own limit. */
const adminBodyBytes = 8 * 1024 * 1024

/** Composes the interface. It does not listen yet. `isStopping`: whether events are still taken. */
export function buildApp(parts: ServerParts, isStopping: () => boolean): FastifyInstance {
  const { config, store, registry, rules, operations, status, metrics, log, version, home } = parts
  const isAllowed = config.intake.allow === undefined ? () => true : compileNetworks(config.intake.allow)
  const limits = { ...usualLimits, ...parts.limits }
  const app = fastify({
    logger: false,
    bodyLimit: adminBodyBytes,
    keepAliveTimeout: limits.keepAliveMs,
    requestTimeout: limits.requestMs,
    http: { headersTimeout: limits.headersMs, connectionsCheckingInterval: limits.checkEveryMs },
    // Its body would be one that EventBus cannot read; the intake answers for itself.
    return503OnClosing: false,
    // Load balancers ask with HEAD.
    exposeHeadRoutes: true,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: 'array', useDefaults: true } },
    clientErrorHandler: answerGarbage,
    frameworkErrors: (error, _request, reply) => {
      sendProblem(reply, 'BAD_REQUEST', error.message)
    },
  })
  const routes = watchRoutes(app)

  app.setErrorHandler((error, _request, reply) => {
    if (sendError(reply, error).isOurs) log.error({ err: error }, 'a request failed')
  })
  app.setNotFoundHandler((request, reply) => {
    sendProblem(reply, 'NO_ROUTE', hint(request, routes))
  })
  app.register((scope, _options, done) => {
    addIntake(scope, {
      store,
      registry,
      metrics,
      log,
      isStopping,
      maxBodyBytes: config.intake.maxBodyBytes,
      isAllowed,
      silentBodyMs: limits.silentBodyMs,
      ...(limits.bodiesInHandBytes === undefined ? {} : { bodiesInHandBytes: limits.bodiesInHandBytes }),
    })
    done()
  })
  app.register((scope, _options, done) => {
    addAdmin(scope, { store, rules, operations, token: config.admin.token })
    done()
  })
  app.register((scope, _options, done) => {
    addHealth(scope, { status, store, metrics, version, home, isStopping, routes })
    done()
  })
  return app
}

function hint({ method, url }: FastifyRequest, routes: readonly RouteOptions[]): string {
  const [path = ''] = url.split('?', 1)
  const near = suggest(
    path,
    routes.map((route) => route.url),
  )
  const there = routes.filter((route) => route.url === near)
  const meant = there.find((route) => route.method === method) ?? there[0]
  const question = meant === undefined ? '' : `Did you mean ${meant.method} ${meant.url}? `
  return `There is no ${method} ${path}. ${question}/openapi.json names all there is.`
}

const garbageStatus: Readonly<Record<string, string>> = {
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
}

/** For what is no HTTP, or takes too long to come: no body, which EventBus could stumble over, and an end to it. */
function answerGarbage(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return
  const status = garbageStatus[error.code ?? ''] ?? '400 Bad Request'
  if (!socket.writable) {
    socket.destroy()
    return
  }
  socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`, () => socket.destroy())
}
