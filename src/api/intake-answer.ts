import { type ErrorCode, errorCodes } from '../base/errors.ts'
import type { PostedEvent } from '../event/split.ts'
import type { Admission } from '../stream/admission.ts'

/** An event that is not stored, and why. */
export interface Failure {
  readonly event: PostedEvent
  readonly why: Exclude<Admission, { readonly kind: 'admitted' }>
}

/** What is said to a producer. */
export interface IntakeReply {
  readonly status: number
  /** Becomes the status line's text; ASCII. */
  readonly sentence: string
  /** `IntakeAnswer` as text; undefined for an empty body. */
  readonly body?: string
  /** After how many seconds it makes sense to post again. */
  readonly retryAfter?: number
  /** No other request can follow on this connection. */
  readonly closes?: true
}

export const forbidden: IntakeReply = { status: 403, sentence: 'Forbidden' }
export const silent: IntakeReply = { status: 408, sentence: 'Request Timeout', closes: true }
export const tooLarge: IntakeReply = { status: 413, sentence: 'Payload Too Large' }
export const unsupportedType: IntakeReply = { status: 415, sentence: 'Unsupported Media Type' }
export const badRequest: IntakeReply = { status: 400, sentence: 'Bad Request' }
export const broken: IntakeReply = { status: 500, sentence: 'Internal Server Error' }

const retryAfterSeconds: Readonly<Partial<Record<ErrorCode, number>>> = { STORE_BUSY: 1, STORE_FULL: 30 }
const usualRetryAfterSeconds = 5

/** Nothing was stored, for no fault of the producer's. */
export function unavailable(code: ErrorCode): IntakeReply {
  return {
    status: 503,
    sentence: `Service Unavailable: ${errorCodes[code].means}`,
    retryAfter: retryAfterSeconds[code] ?? usualRetryAfterSeconds,
  }
}

/** As `unavailable`, where some events could not have been stored anyway. */
export function unavailableBesides(
  code: ErrorCode,
  events: readonly PostedEvent[],
  failures: readonly Failure[],
): IntakeReply {
  // Under load the quickest answer is the best one: events are repeated only where some of them are at fault.
  if (failures.length === 0) return unavailable(code)
  const explained = new Map(failures.map((failure) => [failure.event, failure]))
  const why = { kind: 'error', stream: undefined, message: errorCodes[code].means, ours: true } as const
  const all = events.map((event): Failure => explained.get(event) ?? { event, why })
  return { ...unavailable(code), sentence: sentenceOfNone(all), body: bodyOf(all) }
}

/** `accepted` events are durable, the others are `failures`. In EventGate's words. */
export function judged(accepted: number, failures: readonly Failure[], hasty: boolean): IntakeReply {
  const all = accepted + failures.length
  if (failures.length === 0) {
    const sentence = hasty ? `${all} events hastily received.` : `All ${all} out of ${all} events were accepted.`
    return { status: hasty ? 202 : 201, sentence }
  }
  const body = bodyOf(failures)
  const isOurs = failures.some(({ why }) => why.kind === 'error' && why.ours)
  // Hasty is no reason to drop in silence what we could not store.
  if (hasty && !isOurs) return { status: 202, sentence: `${all} events hastily received.`, body }
  if (accepted > 0) {
    const sentence = `${accepted} out of ${all} events were accepted, but ${failures.length} failed (${countsOf(failures)}).`
    return { status: 207, sentence, body }
  }
  const sentence = sentenceOfNone(failures)
  return isOurs ? { status: 503, sentence, body, retryAfter: usualRetryAfterSeconds } : { status: 400, sentence, body }
}

function sentenceOfNone(failures: readonly Failure[]): string {
  const all = failures.length
  return failures.every(({ why }) => why.kind === 'invalid')
    ? `${all} out of ${all} events were invalid and not accepted.`
    : `${all} out of ${all} events had failures and were not accepted. (${countsOf(failures)}).`
}

function countsOf(failures: readonly Failure[]): string {
  const invalid = failures.filter(({ why }) => why.kind === 'invalid').length
  return `${invalid} invalid and ${failures.length - invalid} errored`
}

/**
 * `IntakeAnswer` as text. Events stand in it as they were posted. Nothing may be added beside the two lists: EventBus takes
 * every value for a list of failures.
 */
function bodyOf(failures: readonly Failure[]): string {
  const of = (kind: Failure['why']['kind']) => failures.filter(({ why }) => why.kind === kind).map(textOf)
  return `{"invalid":[${of('invalid').join(',')}],"error":[${of('error').join(',')}]}`
}

function textOf({ event, why }: Failure): string {
  const context = why.kind === 'invalid' ? { errors: why.errors, errorsText: why.text } : { message: why.message }
  return `{"status":"${why.kind}","event":${asText(event.bytes)},"context":${JSON.stringify(context)}}`
}

export function asText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
}
