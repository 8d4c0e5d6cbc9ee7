import type { Answer, OutboundRequest } from '../http/send.ts'
import { jsonOf, listMember, member, textMember } from './answer-json.ts'
import { readPurge } from './api-purge.ts'
import { parametersOf } from './api-request.ts'
import { type Warning, warningsOf } from './api-warnings.ts'
import { isSuccess, readHttp } from './http-answer.ts'
import { inOneLine, throttled, unavailable, type Verdict } from './verdict.ts'

/**
 * The action API says no with status 200, in the body, and in a header besides. Without the request it cannot be known
 * whether links were to be updated, nor what of it is left to do, and the answer is taken to be meant as JSON.
 */
export function readApi(answer: Answer, now: number, request: OutboundRequest | undefined): Verdict {
  const byStatus = readHttp(answer, now)
  const content = jsonOf(answer.body)
  const codes = codesOf(content, answer)
  // Of several the first that is known decides.
  const code = codes.find((each) => readingOf(each) !== 'unknown') ?? codes[0]
  if (code !== undefined) return readError(code, inOneLine(codes.join(', ')), byStatus, answer, now)
  if (answer.status === 503 && 'x-database-lag' in answer.headers) {
    return { ...throttled(answer, now, 'maxlag'), hasNotRun: true }
  }
  if (!isSuccess(answer.status)) return byStatus
  if (content === undefined) return readOther(answer, byStatus, request)
  const warnings = warningsOf(content)
  const failure = request && failureOf(content, request)
  if (failure !== undefined) return { outcome: 'refused', note: failure }
  const purge = listMember(content, 'purge')
  const verdict = purge === undefined ? byStatus : readPurge(purge, warnings, answer, now, request)
  return verdict.outcome === 'ok' ? { ...verdict, note: withWarnings(verdict.note, warnings) } : verdict
}

/** `{"error": {"code": …}}`, `{"errors": [{"code": …}]}` in another error format, else the header. */
function codesOf(content: unknown, { headers }: Answer): readonly string[] {
  const errors = [member(content, 'error'), ...(listMember(content, 'errors') ?? [])]
  const codes = errors
    .filter((error) => error !== undefined && error !== null)
    .map((error) => textMember(error, 'code') ?? 'error')
  if (codes.length > 0) return codes
  return (headers['mediawiki-api-error'] ?? '').split(/\s*,\s*/).filter((code) => code !== '')
}

type Reading = 'passing' | 'cut_short' | 'token' | 'login' | 'stranger' | 'refused' | 'unknown'

/** Only what no repetition can heal is refused. Extensions have codes of their own, and many of those pass. */
function readingOf(code: string): Reading {
  switch (code) {
    case 'maxlag':
    case 'readonly':
    case 'ratelimited':
      return 'passing'
    case 'internal_api_error_DBReadOnlyError':
    case 'internal_api_error_ReadOnlyError':
    case 'internal_api_error_ThrottledError':
      return 'cut_short'
    case 'badtoken':
      return 'token'
    case 'assertuserfailed':
    case 'assertbotfailed':
    case 'assertnameduserfailed':
    case 'notloggedin':
    case 'mustbeloggedin':
    case 'readapidenied':
    case 'writeapidenied':
      return 'login'
    case 'mwoauth-invalid-authorization':
    case 'mwoauth-invalid-authorization-blocked-user':
    case 'mwoauth-invalid-authorization-invalid-user':
    case 'mwoauth-invalid-authorization-not-approved':
    case 'mwoauth-invalid-authorization-wrong-user':
    case 'mwoauth-invalid-authorization-wrong-wiki':
      return 'stranger'
    case 'badinteger':
    case 'badtimestamp':
    case 'badtitle':
    case 'badvalue':
    case 'invalidparammix':
    case 'invalidtitle':
    case 'missingparam':
    case 'missingtitle':
    case 'multisource':
    case 'mustbeposted':
    case 'mustpostparams':
    case 'nosuchpageid':
    case 'nosuchrevid':
    case 'outofrange':
    case 'permissiondenied':
    case 'toomanyvalues':
      return 'refused'
    default:
      return 'unknown'
  }
}

function readError(code: string, note: string, byStatus: Verdict, answer: Answer, now: number): Verdict {
  switch (readingOf(code)) {
    case 'passing':
      return { ...throttled(answer, now, note), hasNotRun: true }
    case 'cut_short':
      return throttled(answer, now, note)
    case 'token':
      return { outcome: 'failed', note, needs: 'token', hasNotRun: true }
    case 'login':
      return { outcome: 'failed', note, needs: 'login', hasNotRun: true }
    case 'stranger':
      return { ...unavailable(answer, now, note), hasNotRun: true }
    case 'refused':
      return { outcome: 'refused', note }
    case 'unknown':
      return byStatus.outcome === 'ok' ? { outcome: 'failed', note } : { ...byStatus, note }
  }
}

/** Another format may have been asked for; only a format that is the default by omission is a mistake. */
function readOther(answer: Answer, byStatus: Verdict, request: OutboundRequest | undefined): Verdict {
  if (answer.truncated && startsAsObject(answer.body)) return byStatus
  const format = request && parametersOf(request).get('format')
  if (format !== undefined && format !== 'json') return byStatus
  const remedy = request === undefined || format === 'json' ? '' : ': the request does not ask for format=json'
  return { outcome: 'failed', note: `${answer.status}, but not JSON${remedy}` }
}

function startsAsObject(body: Uint8Array): boolean {
  return Buffer.from(body.subarray(0, 64)).toString('latin1').trimStart().startsWith('{')
}

/** An edit that wants a captcha and an upload that wants a confirmation are no errors, but nothing was done. */
function failureOf(content: unknown, request: OutboundRequest): string | undefined {
  const action = parametersOf(request).get('action') ?? ''
  const result = textMember(member(content, action), 'result')
  return result === 'Failure' || result === 'Warning' ? inOneLine(`${action}: ${result}`) : undefined
}

function withWarnings(note: string, warnings: readonly Warning[]): string {
  if (warnings.length === 0) return note
  return inOneLine(`${note} with a warning: ${warnings.map(({ text }) => text).join(' ')}`)
}
