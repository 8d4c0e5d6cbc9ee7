import type { FastifyInstance, RouteOptions } from 'fastify'
import type { JsonObject } from '../event/event.ts'

/** What a route says of itself, for `/openapi.json`. */
export interface RouteDescription {
  readonly summary: string
  /** What each status means. */
  readonly answers: Readonly<Record<number, string>>
  readonly access: 'public' | 'operator'
  /** Of a route that reads its requests itself, so that fastify has no schemas of them. */
  readonly reads?: {
    readonly types: readonly string[]
    readonly body: JsonObject
    /** Parameters by name; all may be absent. */
    readonly query: JsonObject
  }
}

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly about?: RouteDescription
  }
}

/** All routes that are added to `app` from now on, as they come; HEAD, which goes without saying where there is GET, is none. */
export function watchRoutes(app: FastifyInstance): readonly RouteOptions[] {
  const routes: RouteOptions[] = []
  app.addHook('onRoute', (route) => {
    if (route.method !== 'HEAD') routes.push(route)
  })
  return routes
}
