import { member, textMember } from './answer-json.ts'

/** A warning of the action API. */
export interface Warning {
  /** Absent in the old error format. */
  readonly code: string | undefined
  readonly text: string
}

/** Of whatever `errorformat` and `formatversion`. */
export function warningsOf(content: unknown): readonly Warning[] {
  const listOrByModule = member(content, 'warnings')
  if (typeof listOrByModule !== 'object' || listOrByModule === null) return []
  return Object.values(listOrByModule).map(warningOf)
}

function warningOf(warning: unknown): Warning {
  const code = textMember(warning, 'code')
  const named = ['warnings', 'text', '*', 'html'].map((name) => textMember(warning, name))
  return { code, text: named.find((text) => text !== undefined) ?? code ?? 'a warning' }
}

/** The old format has no codes, and its texts are always in English. */
export function isRateLimited({ code, text }: Warning): boolean {
  return code === undefined ? /exceeded your rate limit/i.test(text) : code === 'ratelimited'
}
