import type { RetryPolicy } from '../rule/rule.ts'
import type { DeadReason, Progress } from '../store/store.ts'
import type { AttemptResult } from './attempt.ts'
import { isTooOld, nextRetry } from './retry.ts'
import type { Verdict } from './settler.ts'

/** `retry: never` may be tried again where it is certain that nothing ran; so much later. */
const notSentPauseMs = 5_000

/**
 * What follows from an attempt; pure. Only real failures spend attempts: throttling, an unavailable target and a stop
 * postpone for nothing, bounded by the maximum age.
 */
export function decide(
  policy: RetryPolicy | 'never',
  result: AttemptResult,
  now: number,
  random = Math.random,
): Verdict {
  const { progress, entries: attempts, answer, reached } = result
  const told = { progress, attempts, answer }
  if (result.fatal !== undefined) return { ...told, state: 'dead', reason: result.fatal }
  switch (result.outcome) {
    case 'ok':
    case 'ignored':
      return { progress, attempts, state: 'done', reason: result.outcome }
    case 'refused':
      return { ...told, state: 'dead', reason: 'refused' }
    case 'throttled':
    case 'unavailable':
      if (policy === 'never' ? provesNothingRan(result) : !isTooOld(policy, progress, now)) {
        return { ...told, state: 'waiting', reason: 'target', until: now }
      }
      return givenUp(result, progress, policy === 'never' ? endOfOnlyAttempt(reached) : 'too_old')
    case 'failed':
      if (policy === 'never') {
        if (provesNothingRan(result)) {
          return { ...told, state: 'waiting', reason: 'retry', until: now + notSentPauseMs }
        }
        return givenUp(result, progress, endOfOnlyAttempt(reached))
      }
      if (reached === 'aborted' || reached === 'called_off')
        return { ...told, state: 'waiting', reason: 'retry', until: now }
      return afterFailure(policy, result, now, random)
  }
}

function isUnsent({ reached }: AttemptResult): boolean {
  return reached === 'not_sent' || reached === 'called_off'
}

/** A proxy may say 503 after the call ran; some answers come before anything runs. */
function provesNothingRan(result: AttemptResult): boolean {
  return isUnsent(result) || result.hasNotRun === true
}

function afterFailure(policy: RetryPolicy, result: AttemptResult, now: number, random: () => number): Verdict {
  const progress = {
    ...result.progress,
    failures: result.progress.failures + 1,
  }
  const decision = nextRetry(policy, progress, now, random)
  if (decision.kind === 'give-up') return givenUp(result, progress, decision.reason)
  const { entries: attempts, answer } = result
  return { progress, attempts, answer, state: 'waiting', reason: 'retry', until: decision.at }
}

function endOfOnlyAttempt(reached: AttemptResult['reached']): DeadReason {
  return reached === 'answered' ? 'exhausted' : 'interrupted'
}

/** What may have been a success is no dead letter. */
function givenUp(
  { entries: attempts, answer, isDoubtful }: AttemptResult,
  progress: Progress,
  reason: DeadReason,
): Verdict {
  if (isDoubtful) return { progress, attempts, state: 'done', reason: 'ignored' }
  return { progress, attempts, answer, state: 'dead', reason }
}
