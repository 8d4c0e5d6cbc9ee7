import { RegExpParser } from '@eslint-community/regexpp'
import type { Alternative, Element, Pattern, QuantifiableElement, Quantifier } from '@eslint-community/regexpp/ast'
import { type ReadonlyFlags, toUnicodeSet } from 'regexp-ast-analysis'
import { analyse } from 'scslre'

/*
 * Backtracking takes exponential time where a repetition can read one text in two ways. scslre finds that for texts that
 * repeat one character, and the polynomial cases; alternatives that begin alike, `(\w|\d)*`, and repeated words, `((ab)+)+`,
 * are found here, on the automaton whose states are the characters of the regex (Glushkov's): it is exponential exactly if
 * two different walks from a state back to itself read the same text. Bounded repetitions count as unbounded ones.
 */

/** Why the time that a regex takes may run away, or undefined where it does not. */
export function runaway(regex: RegExp): string | undefined {
  const { pattern, flags } = new RegExpParser().parseLiteral(String(regex))
  const found = new Loops(flags).objection(pattern)
  if (found !== undefined) return found
  const { reports } = analyse({ pattern, flags }, { reportTypes: { Move: false } })
  if (reports.some(({ exponential }) => exponential))
    return 'a repetition within a repetition can read one text in many ways'
  // Two repetitions that share a text are quadratic in its length; three are cubic, and so on.
  return reports.length > 2 ? 'too many repetitions in a row can read one text in many ways' : undefined
}

/** More characters under one repetition are not judged, but refused. */
const maxPositions = 300
/** More characters in all, with counted repetitions written out, neither. */
const maxWritten = 5_000
/** Up to here a bounded repetition is written out instead of being taken for a loop. */
const maxUnrolled = 3
/** From here on `(a?){n}` has too many ways to leave some of its n out. */
const maxOptional = 10

type QuantifiedNode = QuantifiableElement | Quantifier

interface Position {
  readonly overlaps: (other: Position) => boolean
  /** What may be read next, with how many ways there are to get there (1 or more). */
  readonly follow: Map<Position, number>
  readonly set: ReturnType<typeof toUnicodeSet>['chars'] | undefined
}

/** A piece of a regex: where it may begin and end, and whether it may be nothing at all. */
interface Piece {
  readonly first: readonly Position[]
  readonly last: readonly Position[]
  readonly isNullable: boolean
}

const nothing: Piece = { first: [], last: [], isNullable: true }

class Loops {
  readonly #flags: ReadonlyFlags
  #objection: string | undefined
  /** Positions of the outermost loop that is being read. */
  #positions: Position[] | undefined
  #written = 0

  constructor(flags: ReadonlyFlags) {
    this.#flags = flags
  }

  objection(pattern: Pattern): string | undefined {
    this.#choice(pattern.alternatives)
    return this.#objection
  }

  #choice(alternatives: readonly Alternative[]): Piece {
    const pieces = alternatives.map(({ elements }) => this.#sequence(elements.map((element) => this.#element(element))))
    return {
      first: pieces.flatMap(({ first }) => first),
      last: pieces.flatMap(({ last }) => last),
      isNullable: pieces.some(({ isNullable }) => isNullable),
    }
  }

  #element(element: Element): Piece {
    switch (element.type) {
      case 'Group':
      case 'CapturingGroup':
        return this.#choice(element.alternatives)
      case 'Quantifier':
        return this.#repetition(element)
      case 'Assertion':
        if (element.kind === 'lookahead' || element.kind === 'lookbehind') {
          // It reads the text on its own, from its own beginning.
          const outer = this.#positions
          this.#positions = undefined
          this.#choice(element.alternatives)
          this.#positions = outer
        }
        return nothing
      case 'Backreference':
        return this.#position(undefined)
      case 'Character':
      case 'CharacterClass':
      case 'CharacterSet':
      case 'ExpressionCharacterClass':
        return this.#position(toUnicodeSet(element, this.#flags).chars)
    }
  }

  #repetition({ min, max, element }: Quantifier): Piece {
    if (max === 0) return nothing
    if (max <= maxUnrolled) return this.#unrolled(element, min, max)
    const isOutermost = this.#positions === undefined
    this.#positions ??= []
    const inner = this.#element(element)
    if (inner.isNullable && max >= maxOptional && max !== Number.POSITIVE_INFINITY && inner.first.length > 0) {
      this.#objection ??= 'a counted repetition may leave out what it repeats'
    }
    this.#connect(inner.last, inner.first)
    if (isOutermost) {
      if (this.#positions.length > maxPositions) this.#objection ??= 'a repetition contains too much to be judged'
      else if (isAmbiguous(this.#positions)) this.#objection ??= 'a repetition can read one text in many ways'
      this.#positions = undefined
    }
    return { ...inner, isNullable: inner.isNullable || min === 0 }
  }

  #unrolled(element: QuantifiedNode, min: number, max: number): Piece {
    const pieces = Array.from({ length: max }, (_, index) => {
      const piece = this.#element(element)
      return index < min ? piece : { ...piece, isNullable: true }
    })
    return this.#sequence(pieces)
  }

  #sequence(pieces: readonly Piece[]): Piece {
    return pieces.reduce((a, b) => {
      this.#connect(a.last, b.first)
      return {
        first: a.isNullable ? [...a.first, ...b.first] : a.first,
        last: b.isNullable ? [...a.last, ...b.last] : b.last,
        isNullable: a.isNullable && b.isNullable,
      }
    }, nothing)
  }

  /** What follows what matters only within a loop. */
  #connect(from: readonly Position[], to: readonly Position[]): void {
    if (this.#positions === undefined || this.#positions.length > maxPositions) return
    for (const position of from) for (const next of to) position.follow.set(next, (position.follow.get(next) ?? 0) + 1)
  }

  #position(set: Position['set']): Piece {
    if (++this.#written > maxWritten) {
      this.#objection ??= 'it contains too much to be judged'
      return nothing
    }
    const position: Position = {
      set,
      follow: new Map(),
      overlaps: (other) => set === undefined || other.set === undefined || !set.isDisjointWith(other.set),
    }
    if (this.#positions !== undefined && this.#positions.length <= maxPositions) this.#positions.push(position)
    return { first: [position], last: [position], isNullable: false }
  }
}

/** All positions of a loop reach one another, so one text read in two ways anywhere within can be read so again and again. */
function isAmbiguous(positions: readonly Position[]): boolean {
  const within = new Map(positions.map((position, index) => [position, index]))
  const size = positions.length
  const back = new Map<number, number[]>()
  const reached = new Set<number>(positions.map((_, index) => index * size + index))
  for (const pair of reached) {
    const left = positions[Math.floor(pair / size)]
    const right = positions[pair % size]
    if (left === undefined || right === undefined) continue
    for (const [a, ways] of left.follow) {
      const indexA = within.get(a)
      if (indexA === undefined) continue
      if (left === right && ways > 1) return true
      for (const b of right.follow.keys()) {
        const indexB = within.get(b)
        if (indexB === undefined || !a.overlaps(b)) continue
        const next = indexA * size + indexB
        reached.add(next)
        const sources = back.get(next)
        if (sources === undefined) back.set(next, [pair])
        else sources.push(pair)
      }
    }
  }
  const returning = new Set<number>(positions.map((_, index) => index * size + index))
  for (const pair of returning) {
    for (const source of back.get(pair) ?? []) {
      if (Math.floor(source / size) !== source % size) return true
      returning.add(source)
    }
  }
  return false
}
