import type { Answer, NoAnswer } from '../http/send.ts'
import type { AnswersPreset, RequestOutcome } from '../rule/rule.ts'
import { retryAfterMs } from './retry-after.ts'

/** What a reply comes to. */
export interface Verdict {
  readonly outcome: RequestOutcome
  /** How long to leave the target alone, in ms; always there where the outcome is `throttled` or `unavailable`. */
  readonly pauseMs?: number
  /** A few words for the journal: the status, or what the answer said instead. */
  readonly note: string
}

/** For a target that wants time and does not say how much. MediaWiki's own advice for maxlag is the same. */
export const throttledPauseMs = 5_000
export const unavailablePauseMs = 30_000
/** `Retry-After: 0`, or a date that is past, would have us call without end and without spending an attempt. */
const shortestPauseMs = 1_000

/** `now` is for a `Retry-After` that is a date. Headers of an answer have lower-case names. */
export function readAnswer(preset: AnswersPreset, answer: Answer, now: number = Date.now()): Verdict {
  switch (preset) {
    case 'http':
      return readHttp(answer, now)
    case 'mediawiki-api':
      return readApi(answer, now)
    case 'mediawiki-job':
      return readJob(answer, now)
  }
}

/** Silence, of whatever kind, is a failure; what it says about the target, `error` and `sent` tell. */
export function readNoAnswer(reply: NoAnswer): Verdict {
  return { outcome: 'failed', note: `${reply.error}: ${reply.message}` }
}

function readHttp(answer: Answer, now: number): Verdict {
  const { status } = answer
  const note = String(status)
  if ((status >= 200 && status < 300) || status === 304) return { outcome: 'ok', note }
  if (status === 412) return { outcome: 'ignored', note }
  if (status === 429) return throttled(answer, now, note)
  if (status === 503 && retryAfterMs(answer.headers, now) !== undefined) {
    return throttled(answer, now, '503 with Retry-After')
  }
  if (status === 408 || status === 425 || status >= 500) return { outcome: 'failed', note }
  return { outcome: 'refused', note }
}

/** The action API says no with status 200. */
function readApi(answer: Answer, now: number): Verdict {
  const verdict = readHttp(answer, now)
  if (answer.status < 200 || answer.status > 299) return verdict
  const content = parseJson(answer.body)
  if (content === undefined) {
    // An error is never so long that it would be cut off.
    if (answer.truncated && startsAsObject(answer.body)) return verdict
    return { outcome: 'failed', note: `${answer.status}, but not JSON` }
  }
  const code = errorCodeOf(content)
  if (code === undefined) return verdict
  return passingCodes.has(code) ? throttled(answer, now, code) : { outcome: 'failed', note: code }
}

/** Errors of the action API that say "not now" rather than "this failed". */
const passingCodes = new Set(['maxlag', 'readonly', 'ratelimited'])

/** EventBus's endpoint for jobs tells by status. Nothing but 2xx may count as run: a job that is dropped is lost. */
function readJob(answer: Answer, now: number): Verdict {
  const { status } = answer
  switch (status) {
    case 423:
      return throttled(answer, now, 'readonly')
    case 403:
      if (isReadDenied(answer)) return unavailable(answer, now, 'rest-read-denied')
      return { outcome: 'refused', note: '403' }
    case 404:
    case 405:
    case 501:
      return unavailable(answer, now, String(status))
    case 304:
    case 412:
      return { outcome: 'refused', note: String(status) }
    default:
      return readHttp(answer, now)
  }
}

function throttled(answer: Answer, now: number, note: string): Verdict {
  return { outcome: 'throttled', pauseMs: pauseOf(answer, now, throttledPauseMs), note }
}

function unavailable(answer: Answer, now: number, note: string): Verdict {
  return { outcome: 'unavailable', pauseMs: pauseOf(answer, now, unavailablePauseMs), note }
}

function pauseOf(answer: Answer, now: number, otherwise: number): number {
  return Math.max(retryAfterMs(answer.headers, now) ?? otherwise, shortestPauseMs)
}

/** Undefined where it is not JSON. */
function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** `{"error": {"code": …}}`, or `{"errors": [{"code": …}]}` where the call asked for another error format. */
function errorCodeOf(content: unknown): string | undefined {
  const error = member(content, 'error') ?? firstOf(member(content, 'errors'))
  if (error === undefined || error === null) return undefined
  const code = member(error, 'code')
  return typeof code === 'string' ? code.slice(0, 100) : 'error'
}

function isReadDenied(answer: Answer): boolean {
  return member(parseJson(answer.body), 'error') === 'rest-read-denied'
}

function member(content: unknown, name: string): unknown {
  if (typeof content !== 'object' || content === null) return undefined
  return Object.getOwnPropertyDescriptor(content, name)?.value
}

function firstOf(list: unknown): unknown {
  return Array.isArray(list) ? list[0] : undefined
}

function startsAsObject(body: Uint8Array): boolean {
  return Buffer.from(body.subarray(0, 64)).toString('latin1').trimStart().startsWith('{')
}
