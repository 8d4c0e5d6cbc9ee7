import type { Json, JsonObject } from '../event/event.ts'
import { isEqual, isList, isMapping, mapping, member } from './json.ts'
import { compileRegex, isPattern, type Objection, readsAsRegex } from './regex.ts'

/** A pattern of `match`, compiled once and asked of every event. */
export interface Condition {
  /** Pure, and without garbage. */
  readonly test: (value: Json | undefined) => boolean
  /** What a value that passed `test` leaves for templates; undefined for nothing. */
  readonly capture: (value: Json | undefined) => Json | undefined
  /** What `capture` gives whatever the value; undefined where that depends on it. */
  readonly constant: Json | undefined
  readonly isConstant: boolean
  /** Roughly how long `test` takes; only comparisons matter. */
  readonly cost: number
  /** Where a value of the event is compared, in the order written. */
  readonly leaves: readonly Leaf[]
}

export interface Leaf {
  readonly path: readonly string[]
  readonly wanted: Json
  readonly test: (value: Json | undefined) => boolean
}

/** A way into the captures that a condition may fill. */
export interface CapturePath {
  readonly path: readonly string[]
  /** Named groups below it; empty where the whole value is captured. */
  readonly names: readonly string[]
  /** Whether its plain groups are below it, by number. */
  readonly isNumbered: boolean
}

export type PatternPath = readonly (string | number)[]
export type Report = (at: PatternPath, objection: Objection) => void

/** What stands for a property that is not there. */
export const absentWord = 'undefined'

const capturesNothing = { capture: () => undefined, constant: undefined, isConstant: true } as const

/** Compiles a pattern; what is wrong in it goes to `report`, and that part of the result fits nothing. */
export function compilePattern(
  pattern: Json,
  report: Report,
  at: PatternPath = [],
  path: readonly string[] = [],
): Condition {
  if (isList(pattern)) return listCondition(pattern, report, at, path)
  if (isMapping(pattern)) return mappingCondition(pattern, report, at, path)
  if (pattern === null) {
    report(at, {
      message: 'expected a pattern, found nothing',
      remedy: `write ${absentWord} for a property that is not there, or leave the key out`,
    })
    return leaf(path, pattern, () => false, 1, capturesNothing)
  }
  if (pattern === absentWord) return leaf(path, pattern, (value) => value === undefined, 1, capturesNothing)
  if (typeof pattern === 'string' && readsAsRegex(pattern)) return regexCondition(pattern, report, at, path)
  const capture = { capture: () => pattern, constant: pattern, isConstant: true }
  return leaf(path, pattern, (value) => value === pattern, 1, capture)
}

function regexCondition(text: string, report: Report, at: PatternPath, path: readonly string[]): Condition {
  const regex = compileRegex(text)
  if (!isPattern(regex)) {
    report(at, regex)
    return leaf(path, text, () => false, 1, capturesNothing)
  }
  const capture = (value: Json | undefined) => {
    const found = typeof value === 'string' ? regex.exec(value) : null
    if (found === null) return undefined
    if (regex.names.length === 0) return Array.from(found, (group: string | undefined) => group ?? null)
    return mapping(Object.entries(found.groups ?? {}).filter(([, text]) => text !== undefined))
  }
  const test = (value: Json | undefined) => typeof value === 'string' && regex.test(value)
  return leaf(path, text, test, 10, { capture, constant: undefined, isConstant: false })
}

function mappingCondition(pattern: JsonObject, report: Report, at: PatternPath, path: readonly string[]): Condition {
  const parts = Object.entries(pattern).map(([key, inner]) => ({
    key,
    condition: compilePattern(inner, report, [...at, key], [...path, key]),
  }))
  const tests = [...parts].sort((a, b) => a.condition.cost - b.condition.cost)
  const leaves =
    parts.length === 0
      ? [{ path, wanted: pattern, test: isMapping }]
      : parts.flatMap(({ condition }) => condition.leaves)
  const isConstant = parts.every(({ condition }) => condition.isConstant)
  const captureFrom = (value: Json | undefined) => {
    const found = parts.flatMap(({ key, condition }) => {
      const captured = condition.capture(member(value, key))
      return captured === undefined ? [] : [[key, captured] as const]
    })
    return found.length === 0 ? undefined : mapping(found)
  }
  const constant = isConstant ? frozen(captureFrom(undefined)) : undefined
  return {
    test: allOf(tests.map(({ key, condition }) => ({ key, test: condition.test }))),
    capture: isConstant ? () => constant : captureFrom,
    constant,
    isConstant,
    cost: 1 + parts.reduce((cost, { condition }) => cost + condition.cost, 0),
    leaves,
  }
}

/** A constant is shared by all events. */
function frozen(value: Json | undefined): Json | undefined {
  if (isMapping(value)) for (const inner of Object.values(value)) frozen(inner)
  return Object.freeze(value)
}

type KeyTest = { readonly key: string; readonly test: (value: Json | undefined) => boolean }

/**
 * One and two keys are what most patterns have; a loop over a list costs them twice. A key that no object inherits is read
 * directly, which is most of the speed.
 */
function allOf(tests: readonly KeyTest[]): (value: Json | undefined) => boolean {
  const [one, two] = tests
  if (one === undefined) return isMapping
  if (tests.some(({ key }) => key in Object.prototype)) {
    return (value) => isMapping(value) && tests.every(({ key, test }) => test(member(value, key)))
  }
  if (two === undefined) {
    const { key, test } = one
    return (value) => isMapping(value) && test(value[key])
  }
  if (tests.length === 2) {
    const { key: keyOne, test: testOne } = one
    const { key: keyTwo, test: testTwo } = two
    return (value) => isMapping(value) && testOne(value[keyOne]) && testTwo(value[keyTwo])
  }
  return (value) => {
    if (!isMapping(value)) return false
    for (const { key, test } of tests) if (!test(value[key])) return false
    return true
  }
}

/** Some element fits each item; order does not matter, and one element may fit several. */
function listCondition(pattern: readonly Json[], report: Report, at: PatternPath, path: readonly string[]): Condition {
  const items = pattern.map((item, index) => compilePattern(item, report, [...at, index], path))
  const test = (value: Json | undefined) => isList(value) && items.every((item) => value.some(item.test))
  return leaf(path, pattern, test, 20, capturesNothing)
}

function leaf(
  path: readonly string[],
  wanted: Json,
  test: Leaf['test'],
  cost: number,
  capture: Pick<Condition, 'capture' | 'constant' | 'isConstant'>,
): Condition {
  return { test, cost, leaves: [{ path, wanted, test }], ...capture }
}

/** Whether every event that fits `pattern` also fits `other`; false where that cannot be told from the text. */
export function implies(pattern: Json, other: Json): boolean {
  if (!isMapping(other)) return isEqual(pattern, other)
  return (
    isMapping(pattern) &&
    Object.entries(other).every(([key, inner]) => {
      const own = member(pattern, key)
      return own !== undefined && implies(own, inner)
    })
  )
}

/** Where a pattern captures something, and what. Patterns that do not compile capture nothing. */
export function capturePaths(pattern: Json, path: readonly string[] = []): readonly CapturePath[] {
  if (isMapping(pattern)) {
    return Object.entries(pattern).flatMap(([key, inner]) => capturePaths(inner, [...path, key]))
  }
  if (isList(pattern) || pattern === null || pattern === absentWord) return []
  if (typeof pattern !== 'string' || !readsAsRegex(pattern)) return [{ path, names: [], isNumbered: false }]
  const regex = compileRegex(pattern)
  return isPattern(regex) ? [{ path, names: regex.names, isNumbered: regex.names.length === 0 }] : []
}
