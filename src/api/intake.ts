import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Logger } from 'pino'
import { type ErrorCode, errorCodes, ServiceError } from '../base/errors.ts'
import type { NewEvent } from '../event/event.ts'
import { splitEvents, splitLimits } from '../event/split.ts'
import type { Metrics } from '../observability/metrics.ts'
import type { RefusedEvent, Store } from '../store/store.ts'
import type { Admission } from '../stream/admission.ts'
import { commonSchema } from '../stream/common-fields.ts'
import type { Registry } from '../stream/registry.ts'
import { BodyBudget, discard, readBody } from './body.ts'
import {
  badRequest,
  broken,
  type Failure,
  forbidden,
  type IntakeReply,
  judged,
  silent,
  tooLarge,
  unavailable,
  unavailableBesides,
  unsupportedType,
} from './intake-answer.ts'
import type { NetworkTest } from './network.ts'

export interface IntakeParts {
  readonly store: Pick<Store, 'append'>
  readonly registry: Pick<Registry, 'admit'>
  readonly metrics: Metrics
  readonly log: Logger
  readonly maxBodyBytes: number
  /** Who may post. The connection's own address counts, whatever headers say. */
  readonly isAllowed: NetworkTest
  /** Whether no more is to be taken. */
  readonly isStopping: () => boolean
  /** Over all requests; by default 64 MiB, or room for two bodies of full size. */
  readonly bodiesInHandBytes?: number
  /** A body of which nothing came for so long is given up where another needs its room. */
  readonly silentBodyMs: number
}

type IntakeRequest = FastifyRequest<{ Querystring: { readonly hasty?: string | readonly string[] } }>

const noneRefused: readonly RefusedEvent[] = []
const types = ['application/json', 'text/plain', 'application/reports+json']
const readableTypes: ReadonlySet<string> = new Set(types)

/** EventGate's. */
export const crossOriginHeaders = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers': 'accept, x-requested-with, content-type',
  'access-control-allow-methods': 'post',
  'access-control-expose-headers': 'etag',
} as const

/**
 * `POST /v1/events`, EventGate's protocol. Bodies of refusals are empty, or `IntakeAnswer`; any other could crash the
 * EventBus that reads it. A fault of ours is a 5xx and never a dropped connection, which EventBus takes for success.
 */
export function addIntake(app: FastifyInstance, parts: IntakeParts): void {
  const intake = new Intake(parts)
  app.removeAllContentTypeParsers()
  // The body is left unread: whether, and how much of it, is for the handler to say.
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  app.setErrorHandler((error, request, reply) => intake.fail(error, request, reply))
  app.post('/v1/events', { config: { about } }, (request: IntakeRequest, reply) => intake.take(request, reply))
  app.options('/v1/events', { config: { about: aboutOptions } }, (_request, reply) =>
    reply.headers(crossOriginHeaders).header('allow', 'POST').type('text/plain').send('POST'),
  )
}

class Intake {
  readonly #parts: IntakeParts
  readonly #budget: BodyBudget

  constructor(parts: IntakeParts) {
    this.#parts = parts
    const inHandBytes = parts.bodiesInHandBytes ?? Math.max(64 * 1024 * 1024, 2 * parts.maxBodyBytes)
    this.#budget = new BodyBudget(inHandBytes, parts.silentBodyMs)
  }

  async take(request: IntakeRequest, reply: FastifyReply): Promise<void> {
    const said = await this.#decide(request)
    if (said === undefined) reply.hijack()
    else send(reply, said)
  }

  /** Undefined where the client has gone. */
  async #decide({ raw, query }: IntakeRequest): Promise<IntakeReply | undefined> {
    const refusal = this.#refusal(raw)
    if (refusal !== undefined) {
      discard(raw)
      return refusal
    }
    const body = await readBody(raw, this.#parts.maxBodyBytes, this.#budget)
    if (body.kind === 'aborted') return undefined
    if (body.kind === 'too_large') return tooLarge
    if (body.kind === 'silent') return silent
    if (body.kind === 'busy') return unavailable('STORE_BUSY')
    try {
      return await this.#decideBody(body.bytes, isHasty(query.hasty))
    } finally {
      this.#budget.give(body.bytes.length)
    }
  }

  /** What can be said before the body is read. */
  #refusal({ headers, socket }: IncomingMessage): IntakeReply | undefined {
    if (!this.#parts.isAllowed(socket.remoteAddress)) return forbidden
    if (!isReadable(headers['content-type']) || !isPlain(headers['content-encoding'])) return unsupportedType
    return this.#parts.isStopping() ? unavailable('STORE_CLOSED') : undefined
  }

  async #decideBody(body: Buffer, hasty: boolean): Promise<IntakeReply> {
    const split = splitEvents(body)
    if (split.kind === 'refused') return { status: split.why === 'too_many' ? 413 : 400, sentence: split.message }

    const accepted: NewEvent[] = []
    const failures: Failure[] = []
    for (const event of split.events) {
      const admission = event.flaw === undefined ? this.#parts.registry.admit(event.message) : unreadable(event.flaw)
      const why = admission instanceof Promise ? await admission : admission
      if (why.kind === 'admitted') accepted.push({ stream: why.stream, bytes: event.bytes, message: why.message })
      else failures.push({ event, why })
    }
    const stored = accepted.length === 0 ? noneRefused : await this.#store(accepted)
    const refused = typeof stored === 'string' ? noneRefused : stored
    for (const { event, why, ours } of refused) {
      const posted = split.events.find(({ bytes }) => bytes === event.bytes)
      if (posted === undefined) throw new Error('the store refuses what it was not given')
      failures.push({ event: posted, why: { kind: 'error', stream: event.stream, message: why, ours } })
    }
    if (failures.length > 0) this.#note(failures)
    return typeof stored === 'string'
      ? unavailableBesides(stored, split.events, failures)
      : judged(accepted.length - refused.length, failures, hasty)
  }

  /** What is refused, once all others are durable; a code where none is. */
  async #store(events: readonly NewEvent[]): Promise<readonly RefusedEvent[] | ErrorCode> {
    const { store, metrics } = this.#parts
    let refused: readonly RefusedEvent[]
    try {
      refused = await store.append(events)
    } catch (error) {
      for (const event of events) metrics.events(event.stream, 'error')
      if (error instanceof ServiceError && errorCodes[error.code].http === 503) return error.code
      throw error
    }
    const isRefused = new Set(refused.map(({ event }) => event))
    for (const event of events) if (!isRefused.has(event)) metrics.events(event.stream, 'accepted')
    return refused
  }

  #note(failures: readonly Failure[]): void {
    const { metrics, log } = this.#parts
    for (const { why } of failures) metrics.events(why.stream, why.kind)
    const [first] = failures
    if (first === undefined) return
    const { why } = first
    const reason = why.kind === 'invalid' ? why.text : why.message
    log.debug({ count: failures.length, stream: why.stream, reason }, 'events were refused')
  }

  /** Nobody's fault but ours, or a request that fastify cannot make sense of. */
  fail(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
    discard(request.raw)
    const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined
    if (status === 415) send(reply, unsupportedType)
    else if (typeof status === 'number' && status >= 400 && status < 500) send(reply, badRequest)
    else {
      this.#parts.log.error({ err: error }, 'the intake failed')
      send(reply, broken)
    }
  }
}

function send(reply: FastifyReply, { status, sentence, body, retryAfter, closes }: IntakeReply): void {
  reply.raw.statusMessage = sentence
  reply.code(status).headers(crossOriginHeaders)
  if (retryAfter !== undefined) reply.header('retry-after', String(retryAfter))
  if (closes) reply.header('connection', 'close')
  if (body !== undefined) reply.type('application/json; charset=utf-8')
  reply.send(body)
}

/** Parameters such as a charset change nothing: JSON is UTF-8. */
function isReadable(contentType: string | undefined): boolean {
  if (contentType === undefined) return false
  if (readableTypes.has(contentType)) return true
  return readableTypes.has((contentType.split(';', 1)[0] ?? '').trim().toLowerCase())
}

function isPlain(contentEncoding: string | undefined): boolean {
  return contentEncoding === undefined || contentEncoding.toLowerCase() === 'identity'
}

function unreadable(message: string): Admission {
  return { kind: 'error', stream: undefined, message, ours: false }
}

/** Any value but none: `hasty=false` too, as with EventGate. */
function isHasty(value: string | readonly string[] = ''): boolean {
  return typeof value === 'string' ? value !== '' : value.some((one) => one !== '')
}

const about = {
  summary: 'Take events: one, or an array of them',
  answers: {
    201: 'All are durable; empty body',
    202: 'Asked with `hasty`: those that are valid are durable',
    207: 'Some were refused or could not be stored; the body says which',
    400: 'None was accepted, for faults of theirs; the body says which, and is empty where there were none to be read',
    403: 'This network may not post; empty body',
    408: 'The body did not come to its end in time; empty body',
    413: 'More than `intake.max_body`, or too many events; empty body',
    415: 'Neither application/json nor text/plain nor application/reports+json; empty body',
    503: 'Nothing could be stored; post again after `Retry-After` seconds',
  },
  access: 'public',
  reads: {
    types,
    body: { anyOf: [commonSchema, { type: 'array', items: commonSchema, minItems: 1, maxItems: splitLimits.events }] },
    query: {
      hasty: {
        type: 'string',
        description: 'Any value but none: 202 in place of 201. Events are as durable as without.',
      },
    },
  },
} as const

const aboutOptions = {
  summary: 'What a browser may do here',
  answers: { 200: 'The headers say it' },
  access: 'public',
} as const
