import type { Json, JsonObject } from '../event/event.ts'
import { isEqual, isList, isMapping, member } from './json.ts'
import { type Condition, compilePattern, type Leaf, type Report } from './match.ts'
import type { Reason } from './rule.ts'

/** What `match` and `match_not` of a rule or case say together. */
export interface Clause {
  readonly test: (message: JsonObject) => boolean
  /** Of a message that passed `test`; the same frozen object each time where the event has no part in it. */
  captures(message: JsonObject): JsonObject
  /** The first of the two that says no, or undefined. */
  explain(message: JsonObject): Reason | undefined
}

const noCaptures: JsonObject = Object.freeze({})

/**
 * Undefined stands for a key that is not there: everything matches, nothing is excluded. A list is a choice, in `match` as
 * in `match_not`: any of its items will do.
 */
export function compileClause(match: Json | undefined, matchNot: Json | undefined, report: Report): Clause {
  const wanted = compileChoice(match, (at, objection) => report(['match', ...at], objection))
  const unwanted = compileChoice(matchNot, (at, objection) => report(['match_not', ...at], objection))
  return {
    test: compileTest(wanted, unwanted),
    captures: capturesOf(wanted),
    explain(message) {
      if (wanted.length > 0 && !fits(wanted, message)) return reasonAgainst(match, wanted, message)
      const hit = unwanted.findIndex((condition) => condition.test(message))
      const condition = unwanted[hit]
      return condition === undefined
        ? undefined
        : reasonOf('match_not', condition.leaves, itemOf(matchNot, hit), message)
    },
  }
}

function compileChoice(pattern: Json | undefined, report: Report): readonly Condition[] {
  if (pattern === undefined) return []
  if (!isList(pattern)) return [compilePattern(pattern, report)]
  return pattern.map((item, index) => compilePattern(item, (at, objection) => report([index, ...at], objection)))
}

/** Most rules have one pattern to fit, and one to avoid or none. */
function compileTest(wanted: readonly Condition[], unwanted: readonly Condition[]): Clause['test'] {
  const isWanted = anyOf(wanted)
  const isUnwanted = anyOf(unwanted)
  if (isUnwanted === undefined) return isWanted ?? (() => true)
  if (isWanted === undefined) return (message) => !isUnwanted(message)
  return (message) => isWanted(message) && !isUnwanted(message)
}

function anyOf(conditions: readonly Condition[]): Clause['test'] | undefined {
  return conditions.length < 2 ? conditions[0]?.test : (message) => fits(conditions, message)
}

function fits(conditions: readonly Condition[], message: JsonObject): boolean {
  for (const condition of conditions) if (condition.test(message)) return true
  return false
}

function capturesOf(wanted: readonly Condition[]): Clause['captures'] {
  const [only] = wanted
  if (only === undefined) return () => noCaptures
  if (wanted.length === 1 && only.isConstant) {
    const constant = asObject(only.constant)
    return () => constant
  }
  return (message) => asObject(wanted.find((condition) => condition.test(message))?.capture(message))
}

function asObject(captured: Json | undefined): JsonObject {
  return isMapping(captured) ? captured : noCaptures
}

/** Where the items of a choice all fail at one place, that place is named, with what each would have taken. */
function reasonAgainst(match: Json | undefined, wanted: readonly Condition[], message: JsonObject): Reason {
  const failed = wanted.map((condition) => condition.leaves.find((leaf) => !leaf.test(valueAt(message, leaf.path))))
  const [first] = failed
  if (first !== undefined && failed.every((leaf) => leaf !== undefined && isEqual([...leaf.path], [...first.path]))) {
    const alternatives = failed.flatMap((leaf) => (leaf === undefined ? [] : [leaf.wanted]))
    return reason(
      'match',
      first.path,
      alternatives.length === 1 ? first.wanted : alternatives,
      valueAt(message, first.path),
    )
  }
  // A mapping fails as a whole where it is not there, even if all it asks for is that something is absent.
  return reasonOf(
    'match',
    wanted.flatMap((condition) => condition.leaves),
    match ?? null,
    message,
  )
}

function reasonOf(clause: Reason['clause'], leaves: readonly Leaf[], wanted: Json, message: JsonObject): Reason {
  const [only] = leaves
  if (only !== undefined && leaves.length === 1) {
    return reason(clause, only.path, only.wanted, valueAt(message, only.path))
  }
  return reason(clause, [], wanted, picked(message, leaves))
}

function reason(clause: Reason['clause'], path: readonly string[], wanted: Json, found: Json | undefined): Reason {
  const where = { clause, path: path.join('.'), wanted }
  return found === undefined ? where : { ...where, found }
}

/** Only what the leaves look at: an event may be large. */
function picked(message: JsonObject, leaves: readonly Leaf[]): JsonObject {
  return Object.fromEntries(
    leaves.flatMap(({ path }) => {
      const found = valueAt(message, path)
      return found === undefined ? [] : [[path.join('.'), found] as const]
    }),
  )
}

function valueAt(message: JsonObject, path: readonly string[]): Json | undefined {
  return path.reduce<Json | undefined>(member, message)
}

function itemOf(pattern: Json | undefined, index: number): Json {
  return (isList(pattern) ? pattern[index] : pattern) ?? null
}
