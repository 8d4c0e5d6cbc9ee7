import type { RetryPolicy } from '../rule/rule.ts'
import type { Progress } from '../store/store.ts'

export type RetryDecision =
  | { readonly kind: 'retry'; readonly at: number }
  | { readonly kind: 'give-up'; readonly reason: 'exhausted' | 'too_old' }

/**
 * What follows from a failed attempt; `progress` counts it already. Full jitter: after an outage, what waited should not
 * all arrive at once. Age is judged only here, after an attempt, so nothing dies untried.
 */
export function nextRetry(policy: RetryPolicy, progress: Progress, now: number, random = Math.random): RetryDecision {
  if (progress.failures > policy.limit) return { kind: 'give-up', reason: 'exhausted' }
  if (isTooOld(policy, progress, now)) return { kind: 'give-up', reason: 'too_old' }
  // A factor to a high power may be infinite, and 0 times that is no number.
  const grown = policy.delayMs === 0 ? 0 : policy.delayMs * policy.factor ** (progress.failures - 1)
  const delay = Math.min(grown, policy.maxDelayMs)
  return {
    kind: 'retry',
    at: Math.ceil(now + (policy.jitter === 'full' ? delay * random() : delay)),
  }
}

export function isTooOld(policy: RetryPolicy, progress: Progress, now: number): boolean {
  return now - progress.firstAttemptAt > policy.maxAgeMs
}
