import type { Path } from '../base/document.ts'
import { formatDuration, longestWaitMs, parseDuration } from '../base/units.ts'
import type { Findings } from './findings.ts'
import type { RetryPolicy } from './rule.ts'
import { type RuleText, retryDefaults } from './schema.ts'

/** When failed calls are repeated. Wikimedia's keys bring Wikimedia's defaults with them. */
export function retryOf(rule: Partial<RuleText>, at: Path, findings: Findings): RetryPolicy | 'never' {
  const { retry, retry_limit, retry_delay, retry_factor } = rule
  const isTheirs = retry_limit !== undefined || retry_delay !== undefined || retry_factor !== undefined
  if (isTheirs && retry !== undefined) {
    findings.error(
      [...at, 'retry'],
      'expected retry or Wikimedia’s retry_limit, retry_delay and retry_factor, found both',
      'keep one of them',
      'key',
    )
  }
  if (retry === 'never') return 'never'
  if (retry === undefined && (isTheirs || findings.dialect === 'service')) {
    const maxAgeMs = duration(retryDefaults.max_age)
    return {
      limit: retry_limit ?? 2,
      delayMs: retry_delay ?? 60_000,
      factor: retry_factor ?? 6,
      maxDelayMs: maxAgeMs,
      maxAgeMs,
      jitter: 'none',
    }
  }
  const text = { ...retryDefaults, ...retry }
  const read = (key: 'delay' | 'max_delay' | 'max_age') => durationAt(text[key], [...at, 'retry', key], findings)
  const policy: RetryPolicy = {
    limit: text.limit,
    delayMs: read('delay'),
    factor: text.factor,
    maxDelayMs: read('max_delay'),
    maxAgeMs: read('max_age'),
    jitter: text.jitter,
  }
  if (policy.delayMs > policy.maxDelayMs) {
    const key = retry?.delay === undefined ? 'max_delay' : 'delay'
    findings.error(
      [...at, 'retry', key],
      `expected retry.delay not to be longer than retry.max_delay, found ${formatDuration(policy.delayMs)} and ${formatDuration(policy.maxDelayMs)}`,
      'shorten the one or lengthen the other',
    )
  }
  if (policy.maxAgeMs === 0) {
    findings.error(
      [...at, 'retry', 'max_age'],
      `expected a duration above 0, found ${text.max_age}`,
      'write for instance 7d; to make no retries, write limit: 0',
    )
  }
  return policy
}

/** A duration that the schema has let pass; at most a year. */
export function durationAt(text: string, at: Path, findings: Findings): number {
  const ms = parseDuration(text)
  if (ms !== undefined && ms <= longestWaitMs) return ms
  findings.error(at, `expected at most ${formatDuration(longestWaitMs)}, found ${text}`, 'shorten it')
  return longestWaitMs
}

function duration(text: string): number {
  return parseDuration(text) ?? 0
}
