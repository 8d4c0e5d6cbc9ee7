import type { Answer } from '../http/send.ts'
import { retryAfterMs } from './retry-after.ts'
import { throttled, type Verdict } from './verdict.ts'

export function readHttp(answer: Answer, now: number): Verdict {
  const { status } = answer
  const note = String(status)
  if (isSuccess(status) || status === 304) return { outcome: 'ok', note }
  if (status === 412) return { outcome: 'ignored', note }
  if (status === 429) return { ...throttled(answer, now, note), hasNotRun: true }
  if (status === 503 && retryAfterMs(answer.headers, now) !== undefined) {
    return throttled(answer, now, '503 with Retry-After')
  }
  if (status === 408 || status === 425 || status >= 500) return { outcome: 'failed', note }
  return { outcome: 'refused', note }
}

export function isSuccess(status: number): boolean {
  return status >= 200 && status < 300
}
