import { errors } from 'undici'
import type { NoAnswer } from './send.ts'

/** System errors of a connection that was never made; whatever else keeps one from being made counts as `unreachable`. */
const beforeSending: Readonly<Record<string, NoAnswer['error']>> = {
  ECONNREFUSED: 'refused',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  UND_ERR_SOCKET: 'reset',
  UND_ERR_INVALID_ARG: 'garbage',
  UND_ERR_NOT_SUPPORTED: 'garbage',
  UND_ERR_REQ_CONTENT_LENGTH_MISMATCH: 'garbage',
  ERR_INVALID_URL: 'garbage',
}

const afterSending: Readonly<Record<string, NoAnswer['error']>> = {
  ETIMEDOUT: 'timeout',
  UND_ERR_HEADERS_OVERFLOW: 'garbage',
  // The connection ended before the body did.
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'reset',
}

/** What an error of undici, or of the system below it, means for a call of which some bytes were `sent`, or none. */
export function noAnswerOf(error: unknown, sent: boolean): NoAnswer {
  return { kind: 'none', error: kindOf(error, sent), message: sentenceOf(error), sent }
}

function kindOf(error: unknown, sent: boolean): NoAnswer['error'] {
  const code = codeOf(error)
  if (!sent) return beforeSending[code] ?? 'unreachable'
  const known = afterSending[code]
  if (known !== undefined) return known
  return isNotHttp(error) ? 'garbage' : 'reset'
}

/**
 * The parser's errors come without their code, and answers that nobody asked for (a 100, an upgrade) with that of a
 * broken socket. Of the former one only says that the connection ended within the answer.
 */
function isNotHttp(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (error instanceof errors.HTTPParserError) return !error.message.includes('Invalid EOF state')
  return error.message === 'bad response' || error.message === 'bad upgrade'
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}

function sentenceOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(sentenceOf).join('; ')
  if (!(error instanceof Error)) return String(error)
  const code = codeOf(error)
  return code === '' || error.message.includes(code) ? error.message : `${error.message} (${code})`
}
