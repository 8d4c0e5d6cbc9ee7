import { expect } from 'vitest'
import type { DeliveryEntry } from '../../src/store/store.ts'
import type { Call, Event, History, How } from './history.ts'

const call = (name: string, more: string, origin = 'quick') => `
${name}:
  topic: [${name}, all]
  exec: [${requests(name, name === 'twice' ? ['quick', 'slow'] : [origin])}]
  throttle: { concurrency: 2 }
  ${more}
`
const requests = (name: string, origins: readonly string[]) =>
  origins
    .map((origin, i) => `{ method: post, uri: 'http://${origin}.example/${name}/${i}', body: '{{globals.message}}' }`)
    .join(', ')

const retryLimit = 2
const delayMs = 5_000
const expireMs = 20_000
const retry = `retry: { limit: ${retryLimit}, delay: 2s, factor: 2, jitter: none }`

/** One for each policy; an event of the stream `all` concerns each of them. */
export const rules = `
${call('plain', retry)}
${call('twice', retry)}
${call('once', 'retry: never')}
${call('later', `${retry}\n  delay: 5s`)}
${call('newest', `${retry}\n  dedup: { key: '{{message.key}}' }`)}
${call('window', `${retry}\n  dedup: { key: '{{message.key}}', window: 10s }`)}
${call('settled', `${retry}\n  delay: 5s\n  dedup: { key: '{{message.key}}' }`)}
${call('ordered', `${retry}\n  order: { key: '{{message.key}}' }`, 'slow')}
${call('latest', `${retry}\n  supersede: { signature: '{{message.key}}', time: '{{message.time}}' }`, 'slow')}
${call('fresh', `${retry}\n  expire: 20s`, 'slow')}
`
export const ruleNames = [...rules.matchAll(/^(\w+):$/gm)].map(([, name = '']) => name)

const deduplicated = new Set(['newest', 'window', 'settled'])
const keyed = new Set([...deduplicated, 'ordered'])
const delayed = new Set(['later', 'settled'])

/** What has to hold of each call, the moment it begins. */
export class CallWatch {
  /** What did not hold. */
  readonly faults: string[] = []
  /** By process and origin: not before this time. */
  readonly #pausedUntil = new Map<string, number>()

  began(call: Call, { calls, inFlight }: History): void {
    const { rule, request, event, at } = call
    const check = (holds: boolean, fault: string) => {
      if (!holds) this.faults.push(`${text(call)} ${fault}`)
    }
    const same = calls.filter((one) => one.rule === rule && one.event === event && one.request === request)
    const final = same.find(({ answered, isSettled }) => isSettled && (answered === 'ok' || answered === 'refused'))
    check(final === undefined, 'was made before, and what came of it was durable')
    if (rule === 'once')
      check(
        same.every(({ answered }) => answered === 'limited'),
        'must not be repeated',
      )
    if (delayed.has(rule)) check(at >= event.accepted + delayMs, 'is early')
    check(at >= (this.#pausedUntil.get(pausing(call)) ?? 0), 'comes before the target allows it')
    if (!keyed.has(rule)) return
    const ofKey = (one: Call) => one.rule === rule && one.event.key === event.key
    check(!inFlight.some(ofKey), 'comes while another of its key is in flight')
    check((calls.findLast(ofKey)?.event.n ?? 0) <= event.n, 'comes after that of a later event')
  }

  answered(call: Call, how: How, now: number): void {
    const pauseMs = how === 'limited' ? 7_000 : how === 'busy' ? 3_000 : 0
    const name = pausing(call)
    this.#pausedUntil.set(name, Math.max(this.#pausedUntil.get(name) ?? 0, pauseMs === 0 ? 0 : now + pauseMs))
  }
}

/** What has to hold when all is over: each event met each of its rules, and the last of each key was seen. */
export function expectPromisesKept(history: History, found: readonly DeliveryEntry[]): void {
  const byId = new Map(found.map((entry) => [`${entry.metaId}/${entry.rule}`, entry]))
  for (const event of history.events) {
    if (!event.isAcknowledged) continue
    for (const rule of ruleNames) {
      if (event.stream !== 'all' && event.stream !== rule) continue
      const entry = byId.get(`event-${event.n}/${rule}`)
      const fate = `${event.n} under ${rule} (${entry?.state} ${entry?.reason})`
      expect(entry !== undefined && ends[`${entry.state} ${entry.reason}`]?.(history, event, entry), fate).toBe(true)
      if (!deduplicated.has(rule)) continue
      const saw = (one: Call) => one.rule === rule && one.event.key === event.key && one.event.n >= event.n
      expect(history.calls.some(saw), `${fate} was seen by a call`).toBe(true)
    }
  }
}

type MayEnd = (history: History, event: Event, entry: DeliveryEntry) => boolean

/** The ends that there are, and what must have happened before. */
const ends: Readonly<Record<string, MayEnd>> = {
  'done ok': (history, event, { rule }) =>
    (rule === 'twice' ? [0, 1] : [0]).every((request) =>
      answers(history, event, rule, ['ok']).some((call) => call.request === request),
    ),
  'done duplicate': ({ calls }, event, { rule, coveredBy }) =>
    coveredBy !== undefined &&
    calls.some((one) => one.rule === rule && one.event.key === event.key && one.event.n > event.n),
  'done superseded': ({ events }, event, { rule }) =>
    rule === 'latest' &&
    events.some(
      ({ stream, key, time }) => (stream === rule || stream === 'all') && key === event.key && time > event.time,
    ),
  'done expired': (_, event, { rule, at }) => rule === 'fresh' && at - event.accepted > expireMs,
  'dead refused': (history, event, { rule }) => answers(history, event, rule, ['refused']).length > 0,
  'dead exhausted': (history, event, { rule }) =>
    answers(history, event, rule, ['failed', 'reset', 'busy']).length > (rule === 'once' ? 0 : retryLimit),
  'dead interrupted': (_, __, { rule }) => rule === 'once',
  // It was running when the process was killed, again and again.
  'dead poison': ({ kills }) => kills >= 6,
}

function answers({ calls }: History, event: Event, rule: string, hows: readonly How[]): readonly Call[] {
  return calls.filter(
    (one) => one.rule === rule && one.event === event && one.answered !== undefined && hows.includes(one.answered),
  )
}

function text({ rule, request, event, at }: Call): string {
  return `the call of ${event.n} (${event.key}) under ${rule}, request ${request}, at ${at}`
}

function pausing({ life, origin }: Call): string {
  return `${life} ${origin}`
}
