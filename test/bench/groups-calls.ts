import { once } from 'node:events'
import { createServer } from 'node:net'
import { cell, rateCell, shareCell, usageCells, usageHead } from './columns.ts'
import type { CallRun, EndToEndRun, Run, Runs } from './runs.ts'
import { callingRules, policyRules, refusedRules, ruleOfTwo, rulesBeside } from './service.ts'
import { asMs, asRatio, asWhole, printTable, spread } from './table.ts'

/** Repetitions of each thing that is measured. */
export const repetitions = 3

/** Done in turn, so that what is compared is measured within seconds. */
export async function repeat(once: (repetition: number) => Promise<void>): Promise<void> {
  for (let repetition = 0; repetition < repetitions; repetition++) {
    await once(repetition)
    console.error(`  ${repetition + 1} of ${repetitions}`)
  }
}

const limitCalls = 100_000
const backlog = 50_000
const concurrency = 100

export async function bareCalls(runs: Runs): Promise<void> {
  const request: Run[] = []
  const dispatch: Run[] = []
  await repeat(async () => {
    request.push(await runs.callLimit('request', limitCalls))
    dispatch.push(await runs.callLimit('dispatch', limitCalls))
  })
  printTable('(a) undici alone: 100 in flight, 1 kB of JSON, target at 0 ms', [
    'loop', 'requests/s', 'share of request()', ...usageHead,
  ], [
    ['Pool.request()', rateCell(request), '1', ...usageCells(request)],
    ['dispatch() on own Clients', rateCell(dispatch), shareCell(dispatch, request), ...usageCells(dispatch)],
  ]) // biome-ignore format: a table
}

function drainFresh(runs: Runs, latencyMs: number, silent = 0): Promise<CallRun> {
  return runs.withFreshService(refusedRules, (service) =>
    runs.drain(service, callingRules(runs.targetPort, silent), backlog, latencyMs),
  )
}

function shareOfIdeal(drains: readonly CallRun[], latencyMs: number): string {
  return cell(drains, ({ perSecond }) => perSecond / ((concurrency / latencyMs) * 1000), asRatio)
}

export async function drains(runs: Runs): Promise<void> {
  const limit: Run[] = []
  const latencies = [0, 10, 50]
  const drained = new Map<number, CallRun[]>(latencies.map((ms) => [ms, []]))
  await repeat(async () => {
    limit.push(await runs.callLimit('request', limitCalls))
    for (const ms of latencies) drained.get(ms)?.push(await drainFresh(runs, ms))
  })
  const rows = [...drained].map(([ms, all]) => [
    `drain of 50k, target at ${ms} ms`,
    rateCell(all),
    ms === 0 ? shareCell(all, limit) : '',
    ms === 0 ? '' : shareOfIdeal(all, ms),
    ms === 0 ? '' : cell(all, ({ targetMs }) => targetMs, asMs),
    ...usageCells(all),
  ])
  const bare = ['undici alone, Pool.request()', rateCell(limit), '1', '', '', ...usageCells(limit)]
  const head = ['', 'calls/s', 'share of undici', 'share of concurrency ÷ latency', 'target took, ms', ...usageHead]
  printTable('(d) drain of 50k stored events through one rule, concurrency 100', head, [bare, ...rows])
}

interface EndToEndWay {
  readonly name: string
  readonly connections: number
  readonly batch: number
  readonly limit: Run[]
  readonly all: EndToEndRun[]
}

export async function endToEnd(runs: Runs): Promise<void> {
  const ways: readonly EndToEndWay[] = [
    { name: 'arrays of 100 from 4 connections', connections: 4, batch: 100, limit: [], all: [] },
    { name: 'single posts from 64 connections', connections: 64, batch: 1, limit: [], all: [] },
  ]
  await repeat(async () => {
    for (const { connections, batch, limit, all } of ways) {
      const way = { connections, batch, events: backlog }
      limit.push(await runs.callLimit('request', limitCalls))
      all.push(await runs.withFreshService(callingRules(runs.targetPort), (service) => runs.endToEnd(service, way)))
    }
  })
  const rows = ways.map(({ name, limit, all }) => [
    name,
    rateCell(all),
    rateCell(limit),
    shareCell(all, limit),
    cell(all, ({ settleLagMs }) => settleLagMs, asMs),
    `${Math.max(...all.map(({ turnedAway }) => turnedAway))}`,
    ...usageCells(all),
  ])
  const head = [
    '',
    'events/s',
    'undici alone',
    'share of undici',
    'settled after the last call, ms',
    '503s',
    ...usageHead,
  ]
  printTable('(d) end to end: posted, stored, called and settled, 50k events, target at 0 ms', head, rows)
}

export async function manyRules(runs: Runs): Promise<void> {
  const counts = [1, 30, 300]
  const drained = new Map<number, CallRun[]>(counts.map((count) => [count, []]))
  await repeat(async () => {
    for (const count of counts) drained.get(count)?.push(await drainFresh(runs, 0, count - 1))
  })
  const one = drained.get(1) ?? []
  const rows = [...drained].map(([count, all]) => [`${count}`, rateCell(all), shareCell(all, one), ...usageCells(all)])
  const head = ['rules', 'calls/s', 'share of one rule', ...usageHead]
  printTable('(f) rules on one topic of which one matches: drain of 50k, target at 0 ms', head, rows)
}

const policies: Readonly<Record<string, string>> = {
  none: '',
  'delay, over by then': '  delay: 1ms\n',
  'sample of all': "  sample: { rate: 1, key: '{{message.meta.id}}' }\n",
  'throttle by 4,096 keys': "  throttle: { key: '{{match.meta.id.key}}', total: { concurrency: 100 } }\n",
  'dedup, a key each': "  dedup: { key: '{{message.meta.id}}' }\n",
  'dedup, 4,096 keys': "  dedup: { key: '{{match.meta.id.key}}' }\n",
  'order, a key each': "  order: { key: '{{message.meta.id}}' }\n",
  'order, 4,096 keys': "  order: { key: '{{match.meta.id.key}}' }\n",
  supersede: "  supersede: { signature: '{{message.meta.id}}', time: '{{message.meta.dt}}' }\n",
}

/** What each policy costs per event. */
export async function ofPolicies(runs: Runs): Promise<void> {
  const drained = new Map<string, Run[]>(Object.keys(policies).map((name) => [name, []]))
  await repeat(async () => {
    for (const [name, policy] of Object.entries(policies)) {
      const text = policyRules(runs.targetPort, policy)
      const rules = policy.includes('throttle') ? text.replace('  throttle: { concurrency: 100 }\n', '') : text
      const run = await runs.withFreshService(refusedRules, (service) => runs.drainToEnd(service, rules, backlog))
      drained.get(name)?.push(run)
    }
  })
  const none = drained.get('none') ?? []
  const rows = [...drained].map(([name, all]) => [name, rateCell(all), shareCell(all, none), ...usageCells(all)])
  const head = ['policy', 'events/s', 'share of none', ...usageHead]
  printTable('(p) drain of 50k through a rule with a policy, target at 0 ms, until all are settled', head, rows)
}

/** Many events of few keys: a call covers those that were accepted before it. */
export async function ofFewKeys(runs: Runs): Promise<void> {
  const keys = 1_000
  const events = 100_000
  const ways = { none: '', dedup: "  dedup: { key: '{{message.page_id}}' }\n" }
  const drained = new Map<string, (Run & { readonly calls: number })[]>(Object.keys(ways).map((name) => [name, []]))
  await repeat(async () => {
    for (const [name, policy] of Object.entries(ways)) {
      const rules = callingRules(runs.targetPort, 0, policy)
      const run = await runs.withFreshService(refusedRules, (service) =>
        runs.drainObjects(service, rules, events, (n) => ({ page_id: n % keys })),
      )
      drained.get(name)?.push(run)
    }
  })
  const none = drained.get('none') ?? []
  const rows = [...drained].map(([name, all]) => [
    name,
    rateCell(all),
    shareCell(all, none),
    cell(all, ({ calls }) => calls, asWhole),
    ...usageCells(all),
  ])
  const head = ['policy', 'events/s', 'share of none', 'calls', ...usageHead]
  printTable('Drain of 100k events of 1,000 keys, target at 0 ms, until all are settled', head, rows)
}

/** A target beside that is in trouble: nobody listens there, or how it answers. */
const troubles = {
  down: undefined,
  '429, Retry-After: 7': { status: 429, latencyMs: 0 },
  '500 to each call': { status: 500, latencyMs: 0 },
  'slow, 5 s a call': { status: 200, latencyMs: 5_000 },
} as const

/** A port that was free a moment ago. */
async function deafPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  server.close()
  await once(server, 'close')
  return address.port
}

/** What a bad target costs a good one. */
export async function besideTrouble(runs: Runs): Promise<void> {
  const rulesOf = { 'another rule': rulesBeside, 'the same rule': ruleOfTwo }
  const rows: string[][] = []
  for (const latencyMs of [10, 0]) {
    for (const [where, rules] of Object.entries(rulesOf)) {
      const drained = new Map<string, CallRun[]>(['none', ...Object.keys(troubles)].map((name) => [name, []]))
      const drain = (name: string, port: number | undefined) =>
        runs.withFreshService(
          refusedRules,
          async (service) => {
            const run = await runs.drainBeside(service, rules(runs.targetPort, port), backlog, latencyMs)
            drained.get(name)?.push(run)
          },
          'kill',
        )
      await repeat(async () => {
        await drain('none', undefined)
        for (const [name, how] of Object.entries(troubles)) {
          if (where === 'the same rule' && name.startsWith('slow')) continue
          if (how === undefined) await drain(name, await deafPort())
          else await runs.withOtherTarget(how, (port) => drain(name, port))
        }
      })
      const none = drained.get('none') ?? []
      for (const [name, all] of drained) {
        if (all.length > 0) {
          rows.push([`${latencyMs} ms`, where, name, rateCell(all), shareCell(all, none), ...usageCells(all)])
        }
      }
    }
  }
  const head = ['good target', 'bad one in', 'bad one is', 'calls/s of the good one', 'share of none', ...usageHead]
  printTable('Drain of 50k of which one in 16 goes to a bad target, concurrency 100 a rule', head, rows)
}

/** Needs minutes and some GB of disk: `--big`. */
export async function fullStore(runs: Runs): Promise<void> {
  const calling = callingRules(runs.targetPort)
  const rows: string[][] = []
  const fresh: Run[] = []
  for (const stored of [100_000, 1_000_000]) {
    const folder = runs.newFolder()
    await runs.withService({ folder, rules: calling }, (service) => runs.load(service, stored))
    console.error(`  ${stored} events stored, called and settled`)
    const before: Run[] = []
    const all: CallRun[] = []
    const starts: number[] = []
    await repeat(async () => {
      before.push(await drainFresh(runs, 0))
      const drained = await runs.withService({ folder, rules: refusedRules }, (service) => {
        starts.push(service.startMs)
        return runs.drain(service, calling, backlog, 0)
      })
      all.push(drained)
    })
    fresh.push(...before)
    const started = spread(starts, asMs)
    rows.push([`${stored / 1000}k`, rateCell(all), shareCell(all, before), started, ...usageCells(all)])
  }
  rows.unshift(['0', rateCell(fresh), '1', '', ...usageCells(fresh)])
  const head = ['stored before', 'calls/s', 'share of the empty store', 'start, ms', ...usageHead]
  printTable('(e) drain of 50k with events in the store already, target at 0 ms', head, rows)
}

/** Does memory grow with what waits? The target fails every call, and the next attempt is an hour away. */
export async function waiting(runs: Runs): Promise<void> {
  const retry = '  retry: { limit: 3, delay: 1h, factor: 1, max_delay: 1h, jitter: none }\n'
  const rows: string[][] = []
  for (const events of [50_000, 200_000]) {
    const run = await runs.withFreshService(callingRules(runs.targetPort, 0, retry), (service) =>
      runs.endToEnd(service, { connections: 4, batch: 100, events }, 500),
    )
    rows.push([`${events / 1000}k`, rateCell([run]), asMs(run.settleLagMs), ...usageCells([run])])
    console.error(`  ${events} waiting`)
  }
  const head = ['waiting in the end', 'events/s', 'settled after the last call, ms', ...usageHead]
  printTable('(g) memory while deliveries wait for a retry: end to end, each call answered 500', head, rows)
}
