import type { FastifyInstance, RouteOptions } from 'fastify'

/** What a route says of itself, for `/openapi.json`. */
export interface RouteDescription {
  readonly summary: string
  /** What each status means. */
  readonly answers: Readonly<Record<number, string>>
  readonly access: 'public' | 'operator'
}

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly about?: RouteDescription
  }
}

/** All routes that are added to `app` from now on, as they come. */
export function watchRoutes(app: FastifyInstance): readonly RouteOptions[] {
  const routes: RouteOptions[] = []
  app.addHook('onRoute', (route) => {
    routes.push(route)
  })
  return routes
}
