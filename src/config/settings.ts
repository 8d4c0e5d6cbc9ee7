import type { ValidateFunction } from 'ajv'
import { Ajv } from 'ajv'
import { formatPath, type Path } from '../base/document.ts'
import type { Problem } from '../base/problem.ts'
import { explainErrors } from '../base/schema-errors.ts'
import { isObject, type SchemaObject } from '../base/schema-words.ts'
import { configSchema } from './schema.ts'

/** One value of the configuration that can be set as a whole, e.g. `listen.port`. */
export interface Setting {
  readonly path: readonly string[]
  /** The path with dots. */
  readonly name: string
  readonly schema: SchemaObject
  /** The environment variable that sets it; undefined for mappings, and for lists of anything but texts. */
  readonly variable: string | undefined
  readonly validate: ValidateFunction
}

export const ajv = new Ajv({ allErrors: true })

export const settings: readonly Setting[] = settingsIn(configSchema, [])

function settingsIn(schema: unknown, path: readonly string[]): readonly Setting[] {
  if (!isObject(schema)) return []
  if (isObject(schema.properties))
    return Object.entries(schema.properties).flatMap(([key, inner]) => settingsIn(inner, [...path, key]))
  const isOneText = schema.type !== 'object' && (schema.type !== 'array' || isTextList(schema))
  const variable = isOneText ? `CHANGEPROP_${path.join('_').toUpperCase()}` : undefined
  return [{ path, name: formatPath(path), schema, variable, validate: ajv.compile(schema) }]
}

function isTextList({ type, items }: SchemaObject): boolean {
  return type === 'array' && isObject(items) && items.type === 'string'
}

/** The text of a variable or flag as the setting's own kind. A number that is none stays text, so that its check says so. */
export function fromText(setting: Setting, text: string): unknown {
  if (isTextList(setting.schema)) return text.split(',').map((item) => item.trim())
  if (text === 'true' || text === 'false') return setting.validate(text === 'true') ? text === 'true' : text
  return setting.schema.type === 'integer' && /^-?\d+$/.test(text) ? Number(text) : text
}

/** What is wrong with a value that was given by `source`, a variable or a flag. */
export function checkSetting(setting: Setting, value: unknown, source: string): readonly Problem[] {
  if (setting.validate(value)) return []
  return explainErrors(setting.validate.errors ?? [], setting.schema, value).map(({ path, message, remedy }) =>
    problemOf(source, [...setting.path, ...path], message, remedy),
  )
}

/** A problem of something that is no file: a variable or a flag. */
export function problemOf(
  source: string,
  path: Path,
  message: string,
  remedy: string,
  severity: Problem['severity'] = 'error',
): Problem {
  return { severity, file: source, line: 0, column: 0, path: formatPath(path), message, remedy }
}
