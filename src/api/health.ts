import type { FastifyInstance, RouteOptions } from 'fastify'
import type { Metrics } from '../observability/metrics.ts'
import type { Store } from '../store/store.ts'
import type { ServiceStatus } from './contract.ts'
import { describeRoutes } from './openapi.ts'

export interface HealthParts {
  readonly status: () => ServiceStatus
  readonly store: Pick<Store, 'health'>
  readonly metrics: Metrics
  readonly version: string
  /** The project's page; undefined where it has none. */
  readonly home: string | undefined
  readonly isStopping: () => boolean
  /** All of the server's routes, these included, once it listens. */
  readonly routes: readonly RouteOptions[]
}

const serviceName = 'changeprop'
const description = 'Change propagation for wikis: events in, rules decide, HTTP calls out.'

/** What anybody may ask: whether the service lives, is ready, what it counts, and what it is. */
export function addHealth(app: FastifyInstance, parts: HealthParts): void {
  const { status, store, metrics, version, home, isStopping, routes } = parts

  app.get('/healthz', { config: { about: about('Alive, with what will need the operator') } }, async () => {
    return { status: 'alive', warnings: distinct([...status().warnings, ...store.health().warnings]) }
  })

  app.get(
    '/readyz',
    { config: { about: about('Ready to accept events', { 503: 'Not ready, and why' }) } },
    async (_request, reply) => {
      const { ready, reasons } = status()
      const { accepting, trouble } = store.health()
      const isReady = ready && accepting && !isStopping()
      const why = [...reasons]
      if (!accepting) why.push(trouble ?? 'The store does not accept events.')
      if (isStopping()) why.push('The service is stopping.')
      reply.code(isReady ? 200 : 503)
      return { ready: isReady, reasons: distinct(why) }
    },
  )

  app.get(
    '/metrics',
    { config: { about: about("Counts and durations, in Prometheus' format") } },
    async (_request, reply) => {
      reply.type(metrics.contentType)
      return metrics.scrape()
    },
  )

  app.get('/openapi.json', { config: { about: about('This description') } }, async () =>
    describeRoutes(routes, version),
  )
  app.get('/_info', { config: { about: about('Name and version') } }, async () => {
    return { name: serviceName, version, description, ...(home === undefined ? {} : { home }) }
  })
  app.get('/_info/name', { config: { about: about('Name') } }, async () => ({ name: serviceName }))
  app.get('/_info/version', { config: { about: about('Version') } }, async () => ({ version }))
  if (home !== undefined) {
    const about = { summary: "The project's page", answers: { 301: 'It is there' }, access: 'public' } as const
    app.get('/_info/home', { config: { about } }, async (_request, reply) => reply.redirect(home, 301))
  }
  app.get('/robots.txt', { config: { about: about('Nothing here is for robots') } }, async (_request, reply) => {
    reply.type('text/plain; charset=utf-8')
    return 'User-agent: *\nDisallow: /\n'
  })
}

function distinct(sentences: readonly string[]): string[] {
  return [...new Set(sentences)]
}

function about(summary: string, more: Readonly<Record<number, string>> = {}) {
  return { summary, answers: { 200: 'As asked', ...more }, access: 'public' } as const
}
