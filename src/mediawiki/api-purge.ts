import type { Answer, OutboundRequest } from '../http/send.ts'
import { member, textMember } from './answer-json.ts'
import { parametersOf, withTitles } from './api-request.ts'
import { isRateLimited, type Warning } from './api-warnings.ts'
import { inOneLine, throttled, type Verdict } from './verdict.ts'

/** One page of an answer to `action=purge`. */
interface Page {
  /** As MediaWiki names the page in the end: normalized, converted, redirects followed. */
  readonly title: string | undefined
  /** Waiting: purged not at all. Partial: without the update of links that was asked for. */
  readonly state: 'done' | 'absent' | 'invalid' | 'waiting' | 'partial'
}

/**
 * A purge says for each page what became of it; the whole is successful even if none was purged. What is not done is told
 * by the answer's own titles, so that it can be asked for whether the request named titles, ids or a generator.
 */
export function readPurge(
  entries: readonly unknown[],
  warnings: readonly Warning[],
  answer: Answer,
  now: number,
  request: OutboundRequest | undefined,
): Verdict {
  const wantsLinks = request !== undefined && asksForLinks(request)
  const pages = entries.map((entry) => pageOf(entry, wantsLinks))
  const left = pages.filter(({ state }) => state === 'waiting' || state === 'partial')
  const invalid = pages.filter(({ state }) => state === 'invalid')
  const rest = restOf(pages, [...left, ...invalid], request)
  if (left.length > 0) {
    const share = left.length < pages.length ? `: ${left.length} of ${pages.length} titles` : ''
    if (!warnings.some(isRateLimited)) {
      const why = warnings.map(({ text }) => text).join(' ')
      return { outcome: 'failed', note: inOneLine(`not purged${share} ${why}`), ...rest }
    }
    const hasNotRun = left.every(({ state }) => state === 'waiting') && (rest !== undefined || isUntouched(pages))
    return { ...throttled(answer, now, `ratelimited${share}`), ...rest, ...(hasNotRun && { hasNotRun }) }
  }
  if (invalid.length > 0) {
    return { outcome: 'refused', note: inOneLine(`invalid title ${invalid[0]?.title}`), ...rest }
  }
  const absent = pages.filter(({ state }) => state === 'absent')
  if (absent.length === pages.length) return { outcome: 'ignored', note: 'there is no such page' }
  const gap = absent.length > 0 ? `, ${absent.length} of ${pages.length} titles without a page` : ''
  return { outcome: 'ok', note: `${answer.status}${gap}` }
}

function asksForLinks(request: OutboundRequest): boolean {
  const parameters = parametersOf(request)
  // The mere presence of such a parameter says yes.
  return parameters.has('forcelinkupdate') || parameters.has('forcerecursivelinkupdate')
}

function pageOf(entry: unknown, wantsLinks: boolean): Page {
  return { title: textMember(entry, 'title'), state: stateOf(entry, wantsLinks) }
}

function stateOf(entry: unknown, wantsLinks: boolean): Page['state'] {
  if (says(entry, 'invalid')) return 'invalid'
  if (says(entry, 'missing') || says(entry, 'special') || says(entry, 'iw')) return 'absent'
  if (!says(entry, 'purged')) return 'waiting'
  return wantsLinks && !says(entry, 'linkupdate') ? 'partial' : 'done'
}

/** `formatversion=1` says yes by an empty text, and no by leaving it out. */
function says(entry: unknown, name: string): boolean {
  const value = member(entry, name)
  return value !== undefined && value !== false
}

/** Undefined where that is the whole request, or the request cannot be made of it. */
function restOf(
  pages: readonly Page[],
  left: readonly Page[],
  request: OutboundRequest | undefined,
): Pick<Verdict, 'titles'> | undefined {
  if (left.length === 0 || left.length === pages.length || request === undefined) return undefined
  const titles = left.flatMap(({ title }) => title ?? [])
  if (titles.length < left.length || withTitles(request, titles) === request) return undefined
  return { titles }
}

function isUntouched(pages: readonly Page[]): boolean {
  return pages.every(({ state }) => state !== 'done' && state !== 'partial')
}
