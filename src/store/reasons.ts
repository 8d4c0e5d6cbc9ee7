import type { DeadReason, DoneReason, WaitReason } from './store.ts'

/** What reasons mean, in the words of `why`, `try` and rules/README.md. */
export const meanings: {
  readonly done: Readonly<Record<DoneReason, string>>
  readonly waiting: Readonly<Record<WaitReason, string>>
  readonly dead: Readonly<Record<DeadReason, string>>
} = {
  done: {
    ok: 'all its calls succeeded',
    ignored: 'the answer says that there was nothing to do',
    duplicate: 'a newer event of the same key covers it',
    superseded: 'a later event made it pointless',
    expired: 'it was too old to be worth a call',
    sampled: 'it is not in the share of events that the rule wants',
    no_match: 'the rule changed, and no longer matches it',
    discarded: 'an operator discarded it',
  },
  waiting: {
    due: 'it is not due yet',
    retry: 'the last attempt failed, and it is tried again',
    key: 'another delivery of its key comes first, or came too short a time ago',
    target: 'its target is paused, does not answer, or has as many calls as it may have',
    rate: 'the rate limit of the rule or its throttle key',
    slot: 'all slots of the rule or its throttle key are taken',
    rule_gone: 'its rule is not there any more; load a rule of that name, or discard it',
    parked: 'dead letters fill their share of the store; replay or discard some',
  },
  dead: {
    refused: 'the target refused it for good',
    exhausted: 'all its attempts failed',
    too_old: 'it failed for longer than retry.max_age',
    interrupted: 'the service stopped during a call that must not be repeated (retry: never)',
    key_failed: 'its key could not be rendered',
    template_failed: 'a request could not be rendered from the event',
    host_not_allowed: 'no wiki or target of the configuration allows the host of its call',
    unknown_wiki: 'no wiki of the configuration fits the event',
    unreadable: 'the event is no JSON object',
    poison: 'the process died again and again while it ran',
  },
}

/** Undefined where the words mean nothing to us: a newer service may say others. */
export function meaningOf(state: string, reason: string): string | undefined {
  const ofState: Readonly<Record<string, string>> =
    state === 'done' || state === 'waiting' || state === 'dead' ? meanings[state] : {}
  return Object.hasOwn(ofState, reason) ? ofState[reason] : undefined
}
