import { isObject, type SchemaObject } from '../base/schema-words.ts'
import { ajv } from './settings.ts'

/**
 * What can be read of a value although not all of it fits its schema: members that do not are left out, with null for items
 * of lists, so that the others keep their places. Undefined for nothing.
 */
export function readable(schema: unknown, value: unknown): unknown {
  if (!isObject(schema)) return undefined
  const isWhole: boolean = ajv.compile(schema)(value)
  if (isWhole) return value
  if (Array.isArray(value) && schema.type === 'array') return value.map((item) => readable(schema.items, item) ?? null)
  if (!isObject(value) || schema.type !== 'object') return undefined
  const members = Object.entries(value).map(
    ([key, inner]) => [key, readable(memberSchema(schema, key), inner)] as const,
  )
  return Object.fromEntries(members.filter(([, inner]) => inner !== undefined))
}

function memberSchema({ properties, patternProperties }: SchemaObject, key: string): unknown {
  if (isObject(properties)) return Object.hasOwn(properties, key) ? properties[key] : undefined
  return isObject(patternProperties) ? Object.values(patternProperties)[0] : undefined
}
