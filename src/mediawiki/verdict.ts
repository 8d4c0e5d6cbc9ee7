import type { Answer } from '../http/send.ts'
import type { RequestOutcome } from '../rule/rule.ts'
import { retryAfterMs } from './retry-after.ts'

/** What a reply comes to. */
export interface Verdict {
  readonly outcome: RequestOutcome
  /** How long to leave the target alone, in ms; always there where the outcome is `throttled` or `unavailable`. */
  readonly pauseMs?: number
  /** A few words for the journal: the status, or what the answer said instead. */
  readonly note: string
  /** The answer proves that nothing of what is still to be done has run: even `retry: never` may be tried again. */
  readonly hasNotRun?: true
  /** What is to be renewed before the same request can succeed; once per request that spends no attempt. */
  readonly needs?: 'login' | 'token'
  /** The titles still to be done, for `withTitles`. Absent: what is to be done is the request as it was sent. */
  readonly titles?: readonly string[]
  /** Perhaps a success: MediaWiki does not tell. The count of such answers is `doubts` of the next one. */
  readonly isDoubtful?: true
}

/** For a target that wants time and does not say how much. MediaWiki's own advice for maxlag is the same. */
export const throttledPauseMs = 5_000
export const unavailablePauseMs = 30_000
/** `Retry-After: 0`, or a date that is past, would have us call without end and without spending an attempt. */
const shortestPauseMs = 1_000

export function throttled(answer: Answer, now: number, note: string): Verdict {
  return { outcome: 'throttled', pauseMs: pauseOf(answer, now, throttledPauseMs), note }
}

export function unavailable(answer: Answer, now: number, note: string): Verdict {
  return { outcome: 'unavailable', pauseMs: pauseOf(answer, now, unavailablePauseMs), note }
}

function pauseOf(answer: Answer, now: number, otherwise: number): number {
  return Math.max(retryAfterMs(answer.headers, now) ?? otherwise, shortestPauseMs)
}

const longestNote = 200

/** Words of an answer are the target's, of any length and shape; the journal wants a line. */
export function inOneLine(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim()
  return line.length > longestNote ? `${line.slice(0, longestNote)}…` : line
}
