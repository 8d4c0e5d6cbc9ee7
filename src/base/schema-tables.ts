import { describeSchema, isObject, type SchemaObject } from './schema-words.ts'

/** A schema as Markdown tables: one for its keys, then one for each key with mappings within, but for those under a key in `except`. */
export function schemaTables(title: string, schema: SchemaObject, except: readonly string[] = [], path = ''): string[] {
  const properties = isObject(schema.properties) ? Object.entries(schema.properties) : []
  const heading = path === '' ? title : `Keys of \`${path}\``
  const rows = properties.map(([key, inner]) => rowOf(key, inner))
  const below = properties.flatMap(([key, inner]) => {
    const mappings = except.includes(key) ? [] : mappingsIn(inner)
    if (mappings.length === 0) return []
    const merged = { properties: Object.assign({}, ...mappings.map((mapping) => mapping.properties)) }
    return schemaTables(title, merged, except, path === '' ? key : `${path}.${key}`)
  })
  return [`## ${heading}`, '', '| key | value | meaning | default |', '|---|---|---|---|', ...rows, '', ...below]
}

function rowOf(key: string, schema: unknown): string {
  const { description = '', default: fallback } = isObject(schema) ? schema : {}
  const shown = fallback === undefined ? '' : code(typeof fallback === 'string' ? fallback : JSON.stringify(fallback))
  return `| ${[code(key), describeSchema(schema), String(description), shown].map(cell).join(' | ')} |`
}

/** The mappings with keys of their own, at once or in a union, a list or the values of a mapping. */
function mappingsIn(schema: unknown): readonly SchemaObject[] {
  if (!isObject(schema)) return []
  if (isObject(schema.properties)) return [schema]
  const values = isObject(schema.patternProperties) ? Object.values(schema.patternProperties) : []
  const inner = Array.isArray(schema.anyOf) ? schema.anyOf : [schema.items, schema.additionalProperties, ...values]
  return inner.flatMap(mappingsIn)
}

function code(text: string): string {
  return `\`${text}\``
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}
