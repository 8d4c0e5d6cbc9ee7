import type { Reason } from '../rule/rule.ts'

/** The clause that said no, in a sentence. */
export function describeReason({ clause, path, wanted, found }: Reason): string {
  const where = path === '' ? clause : `${clause} at ${path}`
  const what = found === undefined || found === null ? 'nothing' : JSON.stringify(found)
  return clause === 'match_not'
    ? `${where}: it excludes ${JSON.stringify(wanted)}, and found ${what}`
    : `${where}: wanted ${JSON.stringify(wanted)}, found ${what}`
}
