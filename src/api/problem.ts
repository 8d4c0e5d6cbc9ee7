import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { formatPath } from '../base/document.ts'
import { type ErrorCode, errorCodes, messageOf, ServiceError } from '../base/errors.ts'
import { explainErrors } from '../base/schema-errors.ts'
import type { ProblemAnswer } from './contract.ts'

/** Answers with a problem of RFC 9457; the status is that of the code unless another is given. */
export function sendProblem(reply: FastifyReply, code: ErrorCode, detail: string, status?: number): FastifyReply {
  return send(reply, status ?? errorCodes[code].http, code, detail)
}

/**
 * What went wrong in a route outside the intake, as an answer; `isOurs` where somebody should look into it. Of what is
 * broken in us only the log may tell.
 */
export function sendError(reply: FastifyReply, error: unknown): { readonly isOurs: boolean } {
  if (error instanceof ServiceError) {
    if (error.code === 'UNAUTHORIZED') reply.header('www-authenticate', 'Bearer')
    sendProblem(reply, error.code, error.message)
    return { isOurs: false }
  }
  if (isMisfit(error)) {
    sendProblem(reply, 'BAD_REQUEST', explain(error, reply.request))
    return { isOurs: false }
  }
  const status = statusOf(error)
  if (status >= 400 && status < 500) {
    sendProblem(reply, 'BAD_REQUEST', messageOf(error), status)
    return { isOurs: false }
  }
  send(reply, 500, undefined, 'This is a fault of changeprop itself; its log says more.')
  return { isOurs: true }
}

function send(reply: FastifyReply, status: number, code: ErrorCode | undefined, detail: string): FastifyReply {
  const problem: ProblemAnswer = {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    ...(code === undefined ? {} : { code }),
    detail,
  }
  return reply.code(status).type('application/problem+json').send(JSON.stringify(problem))
}

/** A request that does not fit the schema of its route. */
type Misfit = FastifyError & Required<Pick<FastifyError, 'validation' | 'validationContext'>>

function isMisfit(error: unknown): error is Misfit {
  return error instanceof Error && 'validation' in error && 'validationContext' in error
}

function explain(
  { validation, validationContext }: Misfit,
  { routeOptions, body, params, query }: FastifyRequest,
): string {
  const schemas = routeOptions.schema ?? {}
  const [schema, value] =
    validationContext === 'body'
      ? [schemas.body, body]
      : validationContext === 'params'
        ? [schemas.params, params]
        : [schemas.querystring, query]
  return explainErrors(validation, schema, value)
    .map(({ path, message, remedy }) => `${formatPath(path) || 'the body'}: ${message}; ${remedy}`)
    .join('. ')
}

function statusOf(error: unknown): number {
  return error instanceof Error && 'statusCode' in error && typeof error.statusCode === 'number'
    ? error.statusCode
    : 500
}
