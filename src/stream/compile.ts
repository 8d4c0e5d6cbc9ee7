import type { Options, ValidateFunction } from 'ajv'
import { Ajv } from 'ajv'
import { Ajv2019 } from 'ajv/dist/2019.js'
import { Ajv2020 } from 'ajv/dist/2020.js'
import ajvFormats from 'ajv-formats'
import { runaway } from '../base/regex-safety.ts'
import type { Json, JsonObject } from '../event/event.ts'
import { isJsonObject } from './common-fields.ts'

/**
 * Nothing that changes an event: no defaults, no coercion. One error is enough: an event of 10 MiB could hold millions.
 * Formats and patterns are read as leniently as EventGate reads them, so that a schema that works there works here.
 */
const options: Options = {
  strict: false,
  allErrors: false,
  useDefaults: false,
  coerceTypes: false,
  removeAdditional: false,
  unicodeRegExp: false,
  logger: false,
}

/**
 * A schema → its validator. Schemas it refers to are had from `find`, by path; a materialized schema of an Event Platform
 * repository refers to none. Rejects with what is wrong with the schema.
 */
export async function compileSchema(
  schema: JsonObject,
  find: (path: string) => Promise<JsonObject | undefined>,
): Promise<ValidateFunction> {
  const loadSchema = async (uri: string) => {
    const path = uri.replace(/#.*$/s, '')
    const found = await find(path)
    if (found === undefined) throw new Error(`it refers to ${path}, which is nowhere`)
    return bounded(withoutDialect(found))
  }
  // A validator of its own for each: equal ids in different schemas do no harm.
  const ajv = ajvFor(schema.$schema, { ...options, loadSchema })
  ajvFormats.default(ajv, { mode: 'fast', keywords: false })
  return ajv.compileAsync(bounded(withoutDialect(schema)))
}

/** Refuses patterns whose time may run away: one event that fits them badly would hold up all others. */
function bounded(schema: JsonObject): JsonObject {
  for (const [key, value] of Object.entries(schema)) {
    if (key === 'pattern' && typeof value === 'string') refuseRunaway(value)
    if (key === 'patternProperties' && isJsonObject(value)) Object.keys(value).forEach(refuseRunaway)
    for (const inner of Array.isArray(value) ? value : [value]) if (isJsonObject(inner)) bounded(inner)
  }
  return schema
}

function refuseRunaway(pattern: string): void {
  const danger = runaway(new RegExp(pattern))
  if (danger !== undefined) throw new Error(`the time of its pattern ${pattern} is not bounded: ${danger}`)
}

function ajvFor(dialect: Json | undefined, options: Options): Ajv {
  if (typeof dialect === 'string' && dialect.includes('2019-09')) return new Ajv2019(options)
  if (typeof dialect === 'string' && dialect.includes('2020-12')) return new Ajv2020(options)
  return new Ajv(options)
}

/** Ajv knows a dialect by one exact URI, repositories spell it in several ways; draft 4 is put into the words of draft 7. */
function withoutDialect(schema: JsonObject): JsonObject {
  const { $schema: dialect, ...rest } = schema
  if (typeof dialect !== 'string' || !dialect.includes('draft-04')) return rest
  const { id, ...others } = rest
  return { ...(typeof id === 'string' ? { $id: id } : {}), ...fromDraft4(others) }
}

function fromDraft4(schema: JsonObject): JsonObject {
  const { id, minimum, exclusiveMinimum, maximum, exclusiveMaximum, ...rest } = schema
  const converted = Object.entries(rest).map(([key, value]) => [key, within(value)] as const)
  return {
    ...Object.fromEntries(converted),
    ...(id === undefined || typeof id === 'string' ? {} : { id: within(id) }),
    ...limit('minimum', 'exclusiveMinimum', minimum, exclusiveMinimum),
    ...limit('maximum', 'exclusiveMaximum', maximum, exclusiveMaximum),
  }
}

function within(value: Json): Json {
  if (isJsonObject(value)) return fromDraft4(value)
  return Array.isArray(value) ? value.map(within) : value
}

/** In draft 4 `exclusive…` was a flag beside the limit; since then it is the limit. */
function limit(inclusive: string, exclusive: string, value: Json | undefined, flag: Json | undefined): JsonObject {
  if (flag === true && value !== undefined) return { [exclusive]: value }
  return {
    ...(value === undefined ? {} : { [inclusive]: isJsonObject(value) ? within(value) : value }),
    ...(flag === undefined || typeof flag === 'boolean' ? {} : { [exclusive]: within(flag) }),
  }
}
