import { messageOf } from '../base/errors.ts'
import { runaway } from '../base/regex-safety.ts'

/** A `/regex/flags` of a rule, compiled. */
export interface Pattern {
  readonly text: string
  test(value: string): boolean
  exec(value: string): RegExpExecArray | null
  /** Names of its groups; empty where it has none with a name. */
  readonly names: readonly string[]
}

export interface Objection {
  readonly message: string
  readonly remedy: string
}

/**
 * Longer texts never fit a regex. Titles, addresses and comments are far below; and what is quadratic in the length of a
 * text, as many harmless regexes are, stays within milliseconds.
 */
export const maxSubject = 16_384
const maxPattern = 4_000

/** Whether a text is meant as a regex: between slashes, with at most five flags behind them. */
export function readsAsRegex(text: string): boolean {
  return /^\/.+\/[gimuy]{0,5}$/s.test(text)
}

/** Compiles a text that reads as a regex, or says what is wrong with it. Named and plain groups do not mix. */
export function compileRegex(text: string): Pattern | Objection {
  const end = text.lastIndexOf('/')
  const source = text.slice(1, end)
  const flags = text.slice(end + 1)
  if (source.length > maxPattern) {
    return objection(`expected a regex of at most ${maxPattern} characters, found ${source.length}`, 'shorten it')
  }
  if (hasBareSlash(source)) {
    return objection(
      `expected a regex, found an unescaped slash within ${text}`,
      'write \\/ within a regex; for a plain text that begins and ends with a slash, a regex with ^ and $',
    )
  }
  let regex: RegExp
  try {
    regex = new RegExp(source, flags)
  } catch (error) {
    const reason = messageOf(error)
    return objection(`expected a regex, found ${text}: ${reason}`, 'correct the regex')
  }
  const groups = groupsOf(regex)
  if (groups.names.length > 0 && groups.plain > 0) {
    return objection(
      `expected named groups or plain ones, found both in ${text}`,
      'name them all, or write (?: for those that capture nothing',
    )
  }
  const danger = runaway(regex)
  if (danger !== undefined) {
    return objection(
      `expected a regex whose time is bounded, found ${text}: ${danger}`,
      'let no repetition contain another over the same characters, nor alternatives that begin alike',
    )
  }
  return pattern(text, regex, groups.names)
}

export function isPattern(result: Pattern | Objection): result is Pattern {
  return 'test' in result
}

function pattern(text: string, regex: RegExp, names: readonly string[]): Pattern {
  // With `g` or `y` a regex would go on from its last hit; rules remember nothing.
  const exec = (value: string) => {
    if (value.length > maxSubject) return null
    regex.lastIndex = 0
    return regex.exec(value)
  }
  const test = (value: string) => {
    if (value.length > maxSubject) return false
    regex.lastIndex = 0
    return regex.test(value)
  }
  return { text, test, exec, names }
}

/** With an empty alternative added, the regex fits the empty text, and its answer has a place for each group. */
function groupsOf(regex: RegExp): { names: readonly string[]; plain: number } {
  const found = new RegExp(`${regex.source}|`, regex.flags).exec('')
  const names = Object.keys(found?.groups ?? {})
  return { names, plain: (found?.length ?? 1) - 1 - names.length }
}

function hasBareSlash(source: string): boolean {
  let inClass = false
  for (let at = 0; at < source.length; at++) {
    const character = source[at]
    if (character === '\\') at++
    else if (character === '[') inClass = true
    else if (character === ']') inClass = false
    else if (character === '/' && !inClass) return true
  }
  return false
}

function objection(message: string, remedy: string): Objection {
  return { message, remedy }
}
