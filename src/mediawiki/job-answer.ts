import type { Answer } from '../http/send.ts'
import { jsonOf, member, textMember } from './answer-json.ts'
import { isSuccess, readHttp } from './http-answer.ts'
import { inOneLine, throttled, unavailable, type Verdict } from './verdict.ts'

/** So often a job is run again that says neither that it failed nor that it did not. */
const repeatsInDoubt = 2

/**
 * EventBus's end point for jobs, and Wikimedia's entry for its job runners. They tell by status, and nothing but 2xx may
 * count as run: a job that is dropped is lost. `doubts`: how many doubtful answers there were before.
 */
export function readJob(answer: Answer, now: number, doubts: number): Verdict {
  const { status } = answer
  const content = jsonOf(answer.body)
  if (isSuccess(status)) return { outcome: 'ok', note: noteOfRun(answer, content) }
  const note = noteOfError(status, content)
  switch (status) {
    case 423:
      return { ...throttled(answer, now, 'readonly'), hasNotRun: true }
    case 403:
      if (member(content, 'error') !== 'rest-read-denied') return { outcome: 'refused', note }
      return { ...unavailable(answer, now, note), needs: 'login', hasNotRun: true }
    case 404:
    case 405:
    case 501:
      return { ...unavailable(answer, now, note), hasNotRun: true }
    case 304:
    case 412:
      return { outcome: 'refused', note }
    case 500:
      if (foundReadOnly(answer, content)) return throttled(answer, now, 'the job found the database read-only')
      if (member(content, 'error') === null) return readDoubt(doubts)
      return { outcome: 'failed', note }
    default:
      return { ...readHttp(answer, now), note }
  }
}

/** `run()` returned neither true nor false. For core's own queue that is a success; some jobs want to be retried by it. */
function readDoubt(doubts: number): Verdict {
  const note = '500 without an error'
  if (doubts >= repeatsInDoubt) return { outcome: 'ignored', note: `${note}, as before: taken for a success` }
  return { outcome: 'failed', note: `${note}, perhaps a success`, isDoubtful: true }
}

/** By then the job may have done a part of its work. */
function foundReadOnly({ headers }: Answer, content: unknown): boolean {
  return headers['x-readonly'] === 'true' || /^(?:[\w\\]*\\)?DBReadOnlyError\b/.test(textMember(content, 'error') ?? '')
}

/** A job that forbids to be retried is answered 200 even if it failed. */
function noteOfRun({ status, body }: Answer, content: unknown): string {
  const error = textMember(content, 'error')
  if (error !== undefined) return inOneLine(`${status}, but the job failed and forbids retries: ${error}`)
  return content === undefined && body.length > 0 ? `${status}, but not JSON` : String(status)
}

function noteOfError(status: number, content: unknown): string {
  const message = textMember(content, 'message')
  const said = message === textMember(content, 'httpReason') ? undefined : message
  const parts = [said, textMember(content, 'error') ?? textMember(content, 'errorKey')]
  return inOneLine(parts.filter((part) => part !== undefined).join(': ')) || String(status)
}
