/**
 * Every code that a user can meet, with what it means. Codes are for ever; messages may be reworded.
 * `http` is the status with which the API answers, where it does.
 */
export const errorCodes = {
  CONFIG_INVALID: {
    http: 500,
    means: 'the configuration has problems; the service does not start',
  },
  STORE_LOCKED: {
    http: 503,
    means: 'another process has the data folder open',
  },
  STORE_FULL: {
    http: 503,
    means: 'the disk, or the configured size, is full; nothing was stored',
  },
  STORE_BUSY: {
    http: 503,
    means: 'more is being posted than the store can keep up with; nothing was stored',
  },
  STORE_NOT_READY: {
    http: 503,
    means: 'Kafka takes nothing yet, or no more; nothing was stored; /readyz says why',
  },
  STORE_UNAVAILABLE: {
    http: 503,
    means: 'Kafka does not answer; whether anything was stored is not known',
  },
  STORE_CLOSED: {
    http: 503,
    means: 'the service is stopping; nothing was stored',
  },
  STORE_BROKEN: {
    http: 503,
    means: 'the store cannot be trusted any more (an fsync error, a damaged file); the process ends',
  },
  NOT_FOUND: { http: 404, means: 'there is no such thing' },
  NO_ROUTE: { http: 404, means: 'there is no such route' },
  BAD_REQUEST: { http: 400, means: 'the request cannot be understood' },
  UNAUTHORIZED: { http: 401, means: 'the operator token is missing or wrong' },
  FORBIDDEN: { http: 403, means: 'this address may not use that route' },
} as const

export type ErrorCode = keyof typeof errorCodes

/** The world is broken, or will not have it; `code` says how. */
export class ServiceError extends Error {
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ServiceError'
    this.code = code
  }
}

/** Of whatever was thrown. Tries that failed together (an address each) have theirs inside, and may have none of their own. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '')
    return [...new Set(error.errors.map(messageOf))].join('; ')
  return error instanceof Error ? error.message : String(error)
}
