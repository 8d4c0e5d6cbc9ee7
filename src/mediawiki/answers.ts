import type { Answer, NoAnswer, OutboundRequest } from '../http/send.ts'
import type { AnswersPreset } from '../rule/rule.ts'
import { readApi } from './api-answer.ts'
import { readHttp } from './http-answer.ts'
import { readJob } from './job-answer.ts'
import type { Verdict } from './verdict.ts'

export type { Verdict } from './verdict.ts'

/** What came before the answer. */
export interface Asked {
  /** The request as it was sent; without it less can be read from an answer of the action API. */
  readonly request?: OutboundRequest
  /** How many answers to this request were `isDoubtful` before. */
  readonly doubts?: number
}

/** Pure. `now` is for a `Retry-After` that is a date. Headers of an answer have lower-case names. */
export function readAnswer(
  preset: AnswersPreset,
  answer: Answer,
  now: number = Date.now(),
  { request, doubts = 0 }: Asked = {},
): Verdict {
  switch (preset) {
    case 'http':
      return readHttp(answer, now)
    case 'mediawiki-api':
      return readApi(answer, now, request)
    case 'mediawiki-job':
      return readJob(answer, now, doubts)
  }
}

/** Silence, of whatever kind, is a failure; what it says about the target, `error` and `sent` tell. */
export function readNoAnswer(reply: NoAnswer): Verdict {
  return { outcome: 'failed', note: `${reply.error}: ${reply.message}` }
}
