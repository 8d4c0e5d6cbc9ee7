/** A JSON Schema as an object; `true` and `false` as schemas say nothing we could put in words. */
export type SchemaObject = { readonly [keyword: string]: unknown }

export function isObject(value: unknown): value is SchemaObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** What a schema wants, as a noun: its title where it has one. */
export function describeSchema(schema: unknown): string {
  if (!isObject(schema)) return 'another value'
  if (typeof schema.title === 'string') return schema.title
  if ('const' in schema) return JSON.stringify(schema.const)
  if (Array.isArray(schema.enum)) return listOf(schema.enum.map((value) => JSON.stringify(value)))
  const union = branchesOf(schema)
  if (union.length > 0) return listOf(flatBranches(union).map(describeSchema))
  const types = Array.isArray(schema.type) ? schema.type : [schema.type]
  return listOf(types.map((type) => describeType(type, schema)))
}

/** What was found. Never the value of a secret. */
export function describeValue(value: unknown, secret: boolean): string {
  if (value === undefined || value === null) return 'nothing'
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list'
  if (typeof value === 'object') return 'a mapping'
  if (secret) return `a ${typeof value} (not shown)`
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}

/** `a, b or c`, each once. */
export function listOf(parts: readonly string[]): string {
  const once = [...new Set(parts)]
  return once.length < 2 ? once.join('') : `${once.slice(0, -1).join(', ')} or ${once.at(-1)}`
}

export function branchesOf(schema: SchemaObject): readonly unknown[] {
  const branches = schema.anyOf ?? schema.oneOf
  return Array.isArray(branches) ? branches : []
}

/** The branches of a union, with those of unions among them in their place. */
export function flatBranches(branches: readonly unknown[]): readonly unknown[] {
  return branches.flatMap((branch) => {
    const inner = isObject(branch) && typeof branch.title !== 'string' ? branchesOf(branch) : []
    return inner.length > 0 ? flatBranches(inner) : [branch]
  })
}

function describeType(type: unknown, schema: SchemaObject): string {
  if (type === 'string') {
    if (typeof schema.pattern === 'string') return `text like ${schema.pattern}`
    if (typeof schema.format === 'string') return `text in the format ${schema.format}`
    return typeof schema.minLength === 'number' && schema.minLength > 0 ? 'text that is not empty' : 'text'
  }
  if (type === 'integer') return `a whole number${range(schema)}`
  if (type === 'number') return `a number${range(schema)}`
  if (type === 'boolean') return 'true or false'
  if (type === 'null') return 'nothing'
  if (type === 'array')
    return typeof schema.minItems === 'number' && schema.minItems > 0 ? 'a list that is not empty' : 'a list'
  if (type === 'object') {
    const required = Array.isArray(schema.required) ? schema.required.map(String) : []
    return required.length === 0 ? 'a mapping' : `a mapping with ${required.join(' and ')}`
  }
  return 'another value'
}

function range(schema: SchemaObject): string {
  const from = schema.minimum ?? schema.exclusiveMinimum
  const to = schema.maximum ?? schema.exclusiveMaximum
  const lower = from === undefined ? '' : schema.minimum === undefined ? ` above ${from}` : ` from ${from}`
  const upper =
    to === undefined
      ? schema.minimum === undefined
        ? ''
        : ' up'
      : schema.maximum === undefined
        ? ` below ${to}`
        : ` to ${to}`
  return lower + upper
}
