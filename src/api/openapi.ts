import type { RouteOptions } from 'fastify'
import type { Json, JsonObject } from '../event/event.ts'

/** The interface as OpenAPI 3.1, drawn from the routes themselves, so that it names each of them and no other. */
export function describeRoutes(routes: readonly RouteOptions[], version: string): JsonObject {
  const paths: Record<string, Record<string, Json>> = {}
  for (const route of routes) {
    const path = route.url.replaceAll(/:(\w+)/g, '{$1}')
    for (const method of [route.method].flat()) {
      paths[path] = { ...paths[path], [method.toLowerCase()]: describeRoute(route) }
    }
  }
  return {
    openapi: '3.1.0',
    info: { title: 'changeprop', version, description: 'Events in, rules decide, HTTP calls out.' },
    components: { securitySchemes: { operator: { type: 'http', scheme: 'bearer' } } },
    paths,
  }
}

function describeRoute({ config, schema }: RouteOptions): Json {
  const about = config?.about
  const responses = Object.entries(about?.answers ?? {}).map(
    ([status, description]) => [status, { description }] as const,
  )
  const body = schemaOf(schema?.body)
  return {
    summary: about?.summary ?? '',
    parameters: [...parameters(schema?.params, 'path'), ...parameters(schema?.querystring, 'query')],
    ...(body === undefined
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: body } } } }),
    responses: Object.fromEntries(responses),
    ...(about?.access === 'operator' ? { security: [{ operator: [] }] } : {}),
  }
}

function parameters(schema: unknown, place: 'path' | 'query'): Json[] {
  const { properties, required } = schemaOf(schema) ?? {}
  return Object.entries(properties ?? {}).map(([name, described]) => ({
    name,
    in: place,
    required: place === 'path' || (Array.isArray(required) && required.includes(name) && !hasDefault(described)),
    schema: described,
  }))
}

function hasDefault(schema: Json): boolean {
  return typeof schema === 'object' && schema !== null && 'default' in schema
}

/** What JSON makes of a schema: nothing of the library that built it. */
function schemaOf(schema: unknown): JsonObject | undefined {
  return schema === undefined ? undefined : JSON.parse(JSON.stringify(schema))
}
