import { compileRegex, isPattern, type Objection, type Pattern, readsAsRegex } from './regex.ts'

/** Which topics a rule concerns: names, and patterns that name a topic by a hit anywhere in it. */
export interface Topics {
  readonly names: readonly string[]
  readonly patterns: readonly Pattern[]
  concerns(topic: string): boolean
}

/** `report` is told the index of an entry, and what is wrong with it. */
export function compileTopics(
  entries: readonly string[],
  report: (index: number, objection: Objection) => void,
  excluded?: Topics,
): Topics {
  const names = new Set<string>()
  const patterns: Pattern[] = []
  entries.forEach((entry, index) => {
    if (!readsAsRegex(entry)) {
      names.add(entry)
      return
    }
    const regex = compileRegex(entry)
    if (isPattern(regex)) patterns.push(regex)
    else report(index, regex)
  })
  return {
    names: [...names],
    patterns,
    concerns: (topic) =>
      (names.has(topic) || patterns.some((pattern) => pattern.test(topic))) && excluded?.concerns(topic) !== true,
  }
}
