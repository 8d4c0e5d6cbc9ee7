import type { DeadReason, DoneReason, WaitReason } from './store.ts'

/** What reasons mean, in the words of `why`, `try` and rules/README.md. */
export const meanings: {
  readonly done: Readonly<Record<DoneReason, string>>
  readonly waiting: Readonly<Record<WaitReason, string>>
  readonly dead: Readonly<Record<DeadReason, string>>
} = {
  done: {
    ok: 'all its calls succeeded',
    ignored: 'the answer says that there was nothing to do, or leaves open whether it was done',
    duplicate: 'a call of its key covers it: of a newer event, or of one with the same meta.id before it',
    superseded: 'a later event made it pointless',
    expired: 'it was too old to be worth a call',
    sampled: 'it is not in the share of events that the rule wants',
    no_match: 'the rule changed, and no longer matches it',
    discarded: 'an operator discarded it',
  },
  waiting: {
    due: 'it is not due yet',
    retry: 'the last attempt, its own or that of an older event of its key, failed or was cut off; it is tried again',
    key: 'another delivery of its key comes first, or came too short a time ago',
    target: 'its target is paused, does not answer, or has as many calls as it may have',
    rate: 'the rate limit of the rule or its throttle key',
    slot: 'all slots of the rule or its throttle key are taken',
    rule_gone: 'its rule is not there any more; load a rule of that name, or discard it',
    parked: 'dead letters fill their share of the store; replay or discard some',
  },
  dead: {
    refused: 'the target refused it for good',
    exhausted:
      'its attempts failed as often as retry allows, or, as the last one says, more than 1,000 deliveries of its key wait for it (order)',
    too_old: 'its first attempt is longer ago than retry.max_age',
    interrupted:
      'no answer came to a call that must not be repeated (retry: never): it timed out, its connection was lost, or the service ended; it may have been carried out',
    key_failed:
      'a template of its dedup, order, supersede, sample, delay or throttle could not be rendered from the event',
    template_failed: 'a request could not be rendered from the event',
    host_not_allowed: 'no wiki or target of the configuration allows the host of its call',
    unknown_wiki: 'no wiki of the configuration fits the event',
    unreadable: 'the event is no JSON object, or larger than intake.max_body',
    poison: 'the process died again and again while it ran',
  },
}

/** Undefined where the words mean nothing to us: a newer service may say others. */
export function meaningOf(state: string, reason: string): string | undefined {
  const ofState: Readonly<Record<string, string>> =
    state === 'done' || state === 'waiting' || state === 'dead' ? meanings[state] : {}
  return Object.hasOwn(ofState, reason) ? ofState[reason] : undefined
}
