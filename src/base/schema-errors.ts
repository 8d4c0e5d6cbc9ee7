import type { ErrorObject } from 'ajv'
import {
  branchesOf,
  describeSchema,
  describeValue,
  flatBranches,
  isObject,
  listOf,
  type SchemaObject,
} from './schema-words.ts'
import { suggest } from './suggestion.ts'

/** One thing that is wrong with a value, in words. */
export interface Complaint {
  readonly path: readonly (string | number)[]
  readonly part: 'key' | 'value'
  readonly message: string
  readonly remedy: string
}

/** One complaint for each thing that is wrong; of a union only the branch that was probably meant. */
export function explainErrors(errors: readonly ErrorObject[], schema: unknown, value: unknown): readonly Complaint[] {
  const complaints = explain(errors, { schema, value }, false)
  const seen = new Set<string>()
  return complaints.filter(({ path, message }) => {
    const same = JSON.stringify([path, message])
    return !seen.has(same) && seen.add(same)
  })
}

interface Checked {
  readonly schema: unknown
  readonly value: unknown
}

function explain(errors: readonly ErrorObject[], checked: Checked, secret: boolean): readonly Complaint[] {
  const { unions, rest } = splitUnions(errors, checked)
  const misspelt = new Map<string, string>()
  for (const error of rest) {
    const meant = error.keyword === 'additionalProperties' ? meantKey(error, checked) : undefined
    if (meant !== undefined) misspelt.set(`${error.instancePath}\0${meant}`, meant)
  }
  const simple = rest
    // A key that is missing because it is misspelt is one mistake, and so is a failed `if` with what it asked for.
    .filter((error) => error.keyword !== 'if' && error.propertyName === undefined)
    .filter(
      (error) =>
        error.keyword !== 'required' || !misspelt.has(`${error.instancePath}\0${error.params.missingProperty}`),
    )
    .map((error) => explainOne(error, checked, secret))
  return [...simple, ...unions.flatMap((union) => explainUnion(union, checked, secret))]
}

interface Union {
  readonly error: ErrorObject
  readonly schema: SchemaObject
  /** What each branch has against the value. */
  readonly branches: readonly (readonly ErrorObject[])[]
}

/** The outermost unions that failed, each with the errors of its branches, and the errors that belong to none. */
function splitUnions(
  errors: readonly ErrorObject[],
  checked: Checked,
): { unions: readonly Union[]; rest: readonly ErrorObject[] } {
  const failed = errors.filter(
    (error) => (error.keyword === 'anyOf' || error.keyword === 'oneOf') && !error.params.passingSchemas,
  )
  const outer = failed.filter((error) => !failed.some((other) => branchOf(error, other, checked) !== undefined))
  const unions = outer.map((error) => {
    const schema = parentOf(error, checked)
    const branches = branchesOf(schema).map((_, index) =>
      errors.filter((inner) => branchOf(inner, error, checked) === index),
    )
    return { error, schema, branches }
  })
  const taken = new Set([...outer, ...unions.flatMap((union) => union.branches.flat())])
  return { unions, rest: errors.filter((error) => !taken.has(error)) }
}

/** Which branch of a failed union an error comes from, directly or through a `$ref`. */
function branchOf(error: ErrorObject, union: ErrorObject, checked: Checked): number | undefined {
  if (error === union || !isWithin(error.instancePath, union.instancePath)) return undefined
  if (isWithin(error.schemaPath, union.schemaPath))
    return Number.parseInt(error.schemaPath.slice(union.schemaPath.length + 1), 10)
  const index = branchesOf(parentOf(union, checked)).findIndex(
    (branch) => isObject(branch) && typeof branch.$ref === 'string' && isWithin(error.schemaPath, branch.$ref),
  )
  return index < 0 ? undefined : index
}

function explainUnion(union: Union, checked: Checked, secret: boolean): readonly Complaint[] {
  const { error, schema, branches } = union
  const hidden = secret || schema.writeOnly === true
  const close = branches.filter((inner) => inner.length > 0 && fits(inner, error.instancePath, checked))
  if (close.length > 0) {
    const [best] = close.map((inner) => ({ inner, cost: costOf(inner, checked) })).sort((a, b) => a.cost - b.cost)
    return explain(best?.inner ?? [], checked, hidden)
  }
  const value = valueFor(error, checked)
  const words = flatBranches(branchesOf(schema)).flatMap((branch) =>
    isObject(branch) && typeof branch.const === 'string' ? [branch.const] : [],
  )
  const meant = typeof value === 'string' && !hidden ? suggest(value, words) : undefined
  const message = `expected ${describeSchema(schema)}, found ${describeValue(value, hidden)}`
  return [
    {
      path: pathOf(error, checked),
      part: 'value',
      message,
      remedy: meant === undefined ? remedyFor(schema) : `did you mean ${meant}?`,
    },
  ]
}

/** Whether the value is of the kind that a branch is about, so that the branch's other errors are worth telling. */
function fits(errors: readonly ErrorObject[], instancePath: string, checked: Checked): boolean {
  const { unions, rest } = splitUnions(errors, checked)
  const otherKind = rest.some(
    (error) => error.instancePath === instancePath && ['type', 'const', 'enum'].includes(error.keyword),
  )
  return (
    !otherKind &&
    unions.every(
      ({ error, branches }) =>
        error.instancePath !== instancePath || branches.some((inner) => fits(inner, instancePath, checked)),
    )
  )
}

/** How far a branch is from the value: a misspelt key is near, a different discriminator is far. */
function costOf(errors: readonly ErrorObject[], checked: Checked): number {
  return errors.reduce((cost, error) => {
    if (error.keyword === 'additionalProperties') return cost + (meantKey(error, checked) === undefined ? 2 : 0)
    return cost + (error.keyword === 'const' || error.keyword === 'enum' ? 3 : 1)
  }, 0)
}

function explainOne(error: ErrorObject, checked: Checked, secret: boolean): Complaint {
  const schema = parentOf(error, checked)
  const path = pathOf(error, checked)
  const value = valueFor(error, checked)
  const hidden = secret || schema.writeOnly === true
  const found = describeValue(value, hidden)
  const { params } = error
  switch (error.keyword) {
    case 'additionalProperties':
    case 'unevaluatedProperties': {
      const key = String(params.additionalProperty ?? params.unevaluatedProperty)
      const known = Object.keys(isObject(schema.properties) ? schema.properties : {})
      const meant = suggest(key, known)
      const message = `expected ${known.length === 0 ? 'no further key' : 'a known key'}, found ${JSON.stringify(key)}`
      const names = known.length === 0 ? 'leave it out' : `leave it out; known here: ${known.join(', ')}`
      return {
        path: [...path, key],
        part: 'key',
        message,
        remedy: meant === undefined ? names : `did you mean ${meant}?`,
      }
    }
    case 'required': {
      const key = String(params.missingProperty)
      const property = isObject(schema.properties) ? schema.properties[key] : undefined
      const message = `expected the key ${key}, found none`
      return {
        path,
        part: 'key',
        message,
        remedy: `add ${key}${property === undefined ? '' : `, ${describeSchema(property)}`}`,
      }
    }
    case 'propertyNames': {
      const key = String(params.propertyName)
      const message = `expected as key ${describeSchema(schema.propertyNames)}, found ${JSON.stringify(key)}`
      return {
        path: [...path, key],
        part: 'key',
        message,
        remedy: 'rename the key',
      }
    }
    case 'enum':
    case 'const': {
      const allowed: readonly unknown[] =
        error.keyword === 'const'
          ? [params.allowedValue]
          : Array.isArray(params.allowedValues)
            ? params.allowedValues
            : []
      const meant =
        typeof value === 'string' && !hidden
          ? suggest(
              value,
              allowed.filter((one) => typeof one === 'string'),
            )
          : undefined
      const expected =
        typeof schema.title === 'string' ? schema.title : listOf(allowed.map((one) => JSON.stringify(one)))
      const message = `expected ${expected}, found ${found}`
      return {
        path,
        part: 'value',
        message,
        remedy: meant === undefined ? 'write one of these' : `did you mean ${meant}?`,
      }
    }
    case 'maxItems':
    case 'maxProperties':
    case 'minProperties':
    case 'maxLength':
    case 'uniqueItems':
    case 'dependentRequired':
    case 'not':
    case 'oneOf':
      return {
        path,
        part: 'value',
        message: `expected a value that ${error.message ?? 'is valid'}, found ${found}`,
        remedy: remedyFor(schema),
      }
    default:
      return {
        path,
        part: 'value',
        message: `expected ${describeSchema(schema)}, found ${found}`,
        remedy: remedyFor(schema),
      }
  }
}

function remedyFor(schema: SchemaObject): string {
  const example: unknown = Array.isArray(schema.examples) ? schema.examples[0] : undefined
  return example === undefined
    ? 'correct the value'
    : `write for instance ${typeof example === 'string' ? example : JSON.stringify(example)}`
}

function meantKey(error: ErrorObject, checked: Checked): string | undefined {
  const { properties } = parentOf(error, checked)
  return suggest(String(error.params.additionalProperty), Object.keys(isObject(properties) ? properties : {}))
}

/** The schema whose keyword failed; `{}` where it cannot be found. */
function parentOf(error: ErrorObject, checked: Checked): SchemaObject {
  if (isObject(error.parentSchema)) return error.parentSchema
  const steps = error.schemaPath
    .replace(/^#?\/?/, '')
    .split('/')
    .slice(0, -1)
  const found = steps.reduce<unknown>(
    (schema, step) => inside(schema, unescaped(decodeURIComponent(step))),
    checked.schema,
  )
  return isObject(found) ? found : {}
}

function valueFor(error: ErrorObject, checked: Checked): unknown {
  return pathOf(error, checked).reduce<unknown>(inside, checked.value)
}

/** The instance path, with indexes of lists as numbers. */
function pathOf(error: ErrorObject, checked: Checked): readonly (string | number)[] {
  let value = checked.value
  return error.instancePath
    .split('/')
    .slice(1)
    .map((step) => {
      const key = Array.isArray(value) ? Number(step) : unescaped(step)
      value = inside(value, key)
      return key
    })
}

function inside(value: unknown, key: string | number): unknown {
  if (Array.isArray(value)) return value[Number(key)]
  return isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined
}

function unescaped(step: string): string {
  return step.replaceAll('~1', '/').replaceAll('~0', '~')
}

function isWithin(path: string, outer: string): boolean {
  return path === outer || path.startsWith(`${outer}/`)
}
