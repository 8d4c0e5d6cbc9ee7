import type { Rule } from '../../src/rule/rule.ts'
import { contextOf, parse, recordOf } from '../rule/world.ts'

/** What rules may ask of an event. */
export interface Fields {
  /** In order of acceptance. */
  readonly n: number
  /** A list is what no key can be made of; undefined is none. */
  readonly key: string | readonly string[] | undefined
  /** What another revision has as its key. */
  readonly other: string
  /** Of its root event. */
  readonly time: number
}

type Field = 'key' | 'other'

/** How a rule is written, among several ways that a reload may choose from. */
export interface Revision {
  readonly rule: Rule
  /** Of its key: by which policy, and of which field. */
  readonly keyName: string | undefined
  readonly field: Field | undefined
  readonly retryLimit: number
  matches(event: Fields): boolean
}

interface Policy {
  readonly origins?: readonly string[]
  readonly isOnce?: boolean
  /** Where there is a key. */
  readonly keyed?: (key: string) => string
  /** By another policy: instead of another field, the last revision has this. */
  readonly swapped?: (key: string) => string
  readonly more?: string
}

export const concurrency = 2
export const delayMs = 5_000
export const windowMs = 10_000
export const expireMs = 20_000
export const perKey = { concurrency: 1, perSecond: 1, burst: 2 }

const delay = `delay: ${delayMs / 1_000}s`
const total = `concurrency: ${concurrency}`
const time = "time: '{{message.time}}'"

/** One for each policy; an event of the stream `all` concerns each of them. */
const policies: Readonly<Record<string, Policy>> = {
  plain: {},
  twice: { origins: ['quick', 'slow'] },
  once: { isOnce: true },
  later: { more: delay },
  newest: { keyed: (key) => `dedup: { key: '${key}' }` },
  window: { keyed: (key) => `dedup: { key: '${key}', window: ${windowMs / 1_000}s }` },
  settled: { keyed: (key) => `dedup: { key: '${key}' }`, more: delay },
  swapped: {
    keyed: (key) => `dedup: { key: '${key}' }`,
    swapped: (key) => `order: { key: '${key}' }`,
  },
  ordered: { keyed: (key) => `order: { key: '${key}' }`, origins: ['slow'] },
  latest: { more: `supersede: { signature: '{{message.key}}', ${time} }`, origins: ['slow'] },
  both: { keyed: (key) => `dedup: { key: '${key}' }`, more: `supersede: { signature: '{{message.key}}', ${time} }` },
  fresh: { more: `expire: ${expireMs / 1_000}s`, origins: ['slow'] },
  share: { more: "sample: { rate: 0.5, key: '{{message.n}}' }" },
  turns: {
    more: `throttle: { key: '{{message.key}}', concurrency: ${perKey.concurrency}, rate: ${perKey.perSecond}/s, burst: ${perKey.burst}, total: { ${total} } }`,
  },
}

export const ruleNames = Object.keys(policies)
export const superseded = new Set(['latest', 'both'])
export const delayed = new Set(['later', 'settled'])
/** Where some template is made of `message.key`, whatever the revision. */
const asksKey = new Set(['latest', 'both', 'turns'])

const noProblems: string[] = []

function revision(
  name: string,
  field: Field,
  retryLimit: number,
  only: string | undefined,
  { mark = 'the first', keyed = policies[name]?.keyed } = {},
): Revision {
  const { origins = ['quick'], isOnce = false, more = '' } = policies[name] ?? {}
  const exec = origins.map(
    (origin, i) =>
      `{ method: post, uri: 'http://${origin}.example/${name}/${i}', headers: { x-mark: ${mark} }, body: '{{globals.message}}' }`,
  )
  const lines = [
    `topic: [${name}, all]`,
    `exec: [${exec.join(', ')}]`,
    only === undefined ? '' : `match: { key: ${only} }`,
    more.startsWith('throttle') ? '' : `throttle: { ${total} }`,
    isOnce ? 'retry: never' : `retry: { limit: ${retryLimit}, delay: 2s, factor: 2, jitter: none }`,
    keyed?.(`{{message.${field}}}`) ?? '',
    more,
  ]
  const { rules, problems } = parse(`${name}:\n${lines.map((line) => `  ${line}\n`).join('')}`)
  noProblems.push(...problems.map(({ message }) => `${name}: ${message}`))
  const [rule] = rules
  if (rule === undefined) throw new Error(`${name} is no rule: ${noProblems}`)
  return {
    rule,
    keyName: keyed?.(field),
    field: keyed === undefined ? undefined : field,
    retryLimit: isOnce ? 0 : retryLimit,
    matches: ({ key }) => only === undefined || key === only,
  }
}

function last(name: string): Revision {
  const swapped = policies[name]?.swapped
  return swapped === undefined
    ? revision(name, 'other', 2, undefined)
    : revision(name, 'key', 2, undefined, { keyed: swapped })
}

/** The first is in force at first; the last wants another key, where there is one. */
export const revisions: ReadonlyMap<string, readonly Revision[]> = new Map(
  ruleNames.map((name) => [
    name,
    [
      revision(name, 'key', 2, undefined),
      revision(name, 'key', 0, undefined, { mark: 'another' }),
      revision(name, 'key', 2, 'y'),
      last(name),
    ],
  ]),
)

/** What is wrong with how they are written. */
export const problems: readonly string[] = noProblems

export function concerns(rule: string, { stream }: { readonly stream: string }): boolean {
  return stream === 'all' || stream === rule
}

/** The key of an event; undefined where it has none. */
export function keyOf({ field }: Revision, event: Fields): string | undefined {
  const key = field === undefined ? undefined : event[field]
  return typeof key === 'string' ? key : undefined
}

/** Whether the rule asks the event for a key that it cannot have. */
export function isKeyless({ rule, field }: Revision, { key }: Fields): boolean {
  return Array.isArray(key) && (field === 'key' || asksKey.has(rule.name))
}

/** Whether the event is in the rule's share. */
export function isInShare({ rule }: Revision, event: Fields): boolean {
  return rule.sample?.(contextOf(rule, recordOf({ n: event.n }))) ?? true
}
