import type { RouteOptions } from 'fastify'
import type { Json, JsonObject } from '../event/event.ts'
import { isJsonObject } from '../stream/common-fields.ts'

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
  const query = about?.reads === undefined ? schema?.querystring : { properties: about.reads.query }
  const body = schemaOf(about?.reads?.body ?? schema?.body)
  return {
    summary: about?.summary ?? '',
    parameters: [...parameters(schema?.params, 'path'), ...parameters(query, 'query')],
    ...(body === undefined ? {} : { requestBody: requestBody(body, about?.reads?.types ?? ['application/json']) }),
    responses: Object.fromEntries(responses),
    ...(about?.access === 'operator' ? { security: [{ operator: [] }] } : {}),
  }
}

function requestBody(body: JsonObject, types: readonly string[]): Json {
  const schema = 'required' in body ? { ...body, required: requiredOf(body) } : body
  return { required: true, content: Object.fromEntries(types.map((type) => [type, { schema }])) }
}

function parameters(schema: unknown, place: 'path' | 'query'): Json[] {
  const described = schemaOf(schema) ?? {}
  const required = requiredOf(described)
  return Object.entries(described.properties ?? {}).map(([name, schema]) => ({
    name,
    in: place,
    required: place === 'path' || required.includes(name),
    schema,
  }))
}

/** What a client must give: the library that builds our schemas counts what has a default among the required. */
function requiredOf({ properties, required }: JsonObject): readonly string[] {
  const described = isJsonObject(properties) ? properties : {}
  return Array.isArray(required) ? required.filter((name) => !hasDefault(described[name])) : []
}

function hasDefault(schema: Json | undefined): boolean {
  return isJsonObject(schema) && 'default' in schema
}

/** What JSON makes of a schema: nothing of the library that built it. */
function schemaOf(schema: unknown): JsonObject | undefined {
  return schema === undefined ? undefined : JSON.parse(JSON.stringify(schema))
}
