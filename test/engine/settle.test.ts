import { describe, expect, test } from 'vitest'
import type { AttemptResult } from '../../src/engine/attempt.ts'
import { nextRetry } from '../../src/engine/retry.ts'
import { decide } from '../../src/engine/settle.ts'
import type { RetryPolicy } from '../../src/rule/rule.ts'
import { noProgress } from '../../src/store/store.ts'

const now = 1_700_000_000_000
const policy: RetryPolicy = {
  limit: 2,
  delayMs: 1_000,
  factor: 4,
  maxDelayMs: 10_000,
  maxAgeMs: 60_000,
  jitter: 'none',
}

function aResult(result: Partial<AttemptResult>): AttemptResult {
  const progress = { ...noProgress, firstAttemptAt: now - 10 }
  return { outcome: 'ok', progress, entries: [], fatal: undefined, reached: 'answered', answer: undefined, ...result }
}

describe('what follows from an attempt', () => {
  test.each([
    ['ok', { state: 'done', reason: 'ok' }],
    ['ignored', { state: 'done', reason: 'ignored' }],
    ['refused', { state: 'dead', reason: 'refused' }],
    ['throttled', { state: 'waiting', reason: 'target', until: now }],
    ['unavailable', { state: 'waiting', reason: 'target', until: now }],
    ['failed', { state: 'waiting', reason: 'retry', until: now + 1_000 }],
  ] as const)('%s', (outcome, expected) => {
    expect(decide(policy, aResult({ outcome }), now)).toMatchObject(expected)
  })

  test('only a failure counts as one', () => {
    for (const outcome of ['throttled', 'unavailable'] as const) {
      expect(decide(policy, aResult({ outcome }), now).progress?.failures).toBe(0)
    }
    expect(decide(policy, aResult({ outcome: 'failed' }), now).progress?.failures).toBe(1)
    expect(decide(policy, aResult({ outcome: 'failed', reached: 'aborted' }), now).progress?.failures).toBe(0)
  })

  test('limit counts the retries after the first attempt', () => {
    const failed = (failures: number) =>
      decide(policy, aResult({ outcome: 'failed', progress: { ...noProgress, firstAttemptAt: now, failures } }), now)
    expect(failed(1)).toMatchObject({ state: 'waiting', reason: 'retry', until: now + 4_000 })
    expect(failed(2)).toMatchObject({ state: 'dead', reason: 'exhausted' })
  })

  test('throttling is bounded by the maximum age alone', () => {
    const progress = { ...noProgress, firstAttemptAt: now - 60_001 }
    expect(decide(policy, aResult({ outcome: 'throttled', progress }), now)).toMatchObject({
      state: 'dead',
      reason: 'too_old',
    })
  })

  test.each([
    ['an error answer', { reached: 'answered' }, { state: 'dead', reason: 'exhausted' }],
    ['a call that was cut off', { reached: 'cut_off' }, { state: 'dead', reason: 'interrupted' }],
    ['a stop', { reached: 'aborted' }, { state: 'dead', reason: 'interrupted' }],
    ['a refused connection', { reached: 'not_sent' }, { state: 'waiting', reason: 'retry' }],
  ] as const)('retry: never after %s', (_, result, expected) => {
    expect(decide('never', aResult({ outcome: 'failed', ...result }), now)).toMatchObject(expected)
  })

  test.each([
    [{ hasNotRun: true }, { state: 'waiting', reason: 'target' }],
    [{ hasNotRun: false }, { state: 'dead', reason: 'exhausted' }],
    [{ reached: 'cut_off' }, { state: 'dead', reason: 'interrupted' }],
    [{ reached: 'not_sent' }, { state: 'waiting', reason: 'target' }],
  ] as const)('retry: never, told to wait by %o: only some answers prove that nothing ran', (said, expected) => {
    for (const outcome of ['throttled', 'unavailable'] as const) {
      expect(decide('never', aResult({ outcome, ...said }), now)).toMatchObject(expected)
    }
  })

  test('retry: never after a failure that proves that nothing ran: tried again', () => {
    const result = aResult({ outcome: 'failed', hasNotRun: true })
    expect(decide('never', result, now)).toMatchObject({ state: 'waiting', reason: 'retry' })
  })

  test('what may have been a success is done where it would be given up', () => {
    const doubtful = aResult({ outcome: 'failed', isDoubtful: true })
    expect(decide(policy, doubtful, now)).toMatchObject({ state: 'waiting', reason: 'retry' })
    for (const end of [{ ...policy, limit: 0 }, 'never'] as const) {
      expect(decide(end, doubtful, now)).toMatchObject({ state: 'done', reason: 'ignored' })
    }
  })

  test('so is it where the target was found failing by that very answer', () => {
    const progress = { ...noProgress, firstAttemptAt: now - 60_001 }
    const doubtful = aResult({ outcome: 'unavailable', isDoubtful: true, progress })
    for (const end of [policy, 'never'] as const) {
      expect(decide(end, doubtful, now)).toMatchObject({ state: 'done', reason: 'ignored' })
    }
    const young = { ...doubtful, progress: { ...progress, firstAttemptAt: now } }
    expect(decide(policy, young, now)).toMatchObject({ state: 'waiting', reason: 'target' })
  })

  test('a stop before the connection was up spends no attempt, and ends nothing', () => {
    const calledOff = aResult({ outcome: 'failed', reached: 'called_off' })
    expect(decide({ ...policy, limit: 0 }, calledOff, now)).toMatchObject({ state: 'waiting', reason: 'retry' })
    expect(decide('never', calledOff, now)).toMatchObject({ state: 'waiting', reason: 'retry' })
  })

  test('what cannot be rendered is dead whatever its retries', () => {
    expect(decide(policy, aResult({ outcome: 'refused', fatal: 'host_not_allowed' }), now)).toMatchObject({
      state: 'dead',
      reason: 'host_not_allowed',
    })
  })
})

describe('the time of a retry', () => {
  test.each([
    [1, 1_000],
    [2, 4_000],
    [3, 10_000],
    [9, 10_000],
  ])('after %i failures it is at most %i ms away', (failures, ms) => {
    const patient = { ...policy, limit: 99 }
    const progress = { ...noProgress, failures, firstAttemptAt: now }
    expect(nextRetry(patient, progress, now)).toEqual({ kind: 'retry', at: now + ms })
    expect(nextRetry({ ...patient, jitter: 'full' }, progress, now, () => 0)).toEqual({ kind: 'retry', at: now })
    expect(nextRetry({ ...patient, jitter: 'full' }, progress, now, () => 0.5)).toEqual({
      kind: 'retry',
      at: now + ms / 2,
    })
  })

  test('no delay stays none, however often it is multiplied', () => {
    const progress = { ...noProgress, failures: 900, firstAttemptAt: now }
    const eager = { ...policy, limit: 1_000, delayMs: 0, factor: 100 }
    expect(nextRetry(eager, progress, now)).toEqual({ kind: 'retry', at: now })
  })

  test('a factor that overflows stays at the longest delay', () => {
    const progress = { ...noProgress, failures: 5_000, firstAttemptAt: now }
    const huge = { ...policy, limit: 9_999, factor: 100 }
    expect(nextRetry(huge, progress, now)).toEqual({ kind: 'retry', at: now + 10_000 })
  })
})
