import { cell, usageCells, usageHead } from './columns.ts'
import { repeat } from './groups-calls.ts'
import type { LatencyRun, LatenessRun, Runs } from './runs.ts'
import { callingRules } from './service.ts'
import { asMs, asRatio, asWhole, median, printTable, spread } from './table.ts'

export async function latency(runs: Runs): Promise<void> {
  const perSecond = 1000
  const seconds = 6
  const relay: LatencyRun[] = []
  const ours: LatencyRun[] = []
  await repeat(async () => {
    relay.push(await runs.relayLatency(perSecond, seconds))
    ours.push(
      await runs.withFreshService(callingRules(runs.targetPort), (service) =>
        runs.latency(service.pid, service.port, perSecond, seconds),
      ),
    )
  })
  const row = (name: string, all: readonly LatencyRun[]) => [
    name,
    cell(all, ({ p50 }) => p50, asMs),
    cell(all, ({ p99 }) => p99, asMs),
    cell(all, ({ p99 }, i) => p99 / (relay[i]?.p99 ?? Number.NaN), asRatio),
    asMs(median(all.map(({ answer }) => answer.p50))),
    asMs(median(all.map(({ answer }) => answer.p99))),
    ...usageCells(all),
  ]
  const head = ['', 'p50 ms', 'p99 ms', 'times the relay', 'post to 201: p50 ms', 'p99 ms', ...usageHead]
  printTable('Latency at a steady 1,000 single events/s: from post to the arrival of the call; target at 10 ms', head, [
    row('fastify → undici relay, nothing stored', relay),
    row('changeprop', ours),
  ])
}

/** How late are deliveries that wait for a time? */
export async function lateness(runs: Runs, big: boolean): Promise<void> {
  const all: LatenessRun[] = []
  const ways = [{ name: '20k over 20 s', events: 20_000, afterMs: 10_000, overMs: 20_000 }]
  if (big) ways.push({ name: '1M over 10 min', events: 1_000_000, afterMs: 300_000, overMs: 600_000 })
  for (const { name, events, afterMs, overMs } of ways) {
    all.push(
      await runs.withFreshService(callingRules(runs.targetPort), (service) =>
        runs.lateness(service, events, afterMs, overMs),
      ),
    )
    console.error(`  ${name}`)
  }
  const rows = all.map((run, i) => [
    ways[i]?.name ?? '',
    ...[run.least, run.p50, run.p99, run.most].map(asWhole),
    ...usageCells([run]),
  ])
  const head = ['due', 'least late, ms', 'p50', 'p99', 'most', ...usageHead]
  printTable('Lateness of delayed deliveries: from when they were due to the arrival of the call', head, rows)
}

export async function starts(runs: Runs, big: boolean): Promise<void> {
  const rows: string[][] = []
  for (const stored of big ? [0, 1_000_000] : [0, 50_000]) {
    const folder = runs.newFolder()
    const options = { folder, rules: callingRules(runs.targetPort) }
    await runs.withService(options, async (service) => {
      if (stored > 0) await runs.load(service, stored)
    })
    const afterStop: number[] = []
    const afterKill: number[] = []
    await repeat(async () => {
      afterStop.push(await runs.withService(options, async ({ startMs }) => startMs, 'kill'))
      afterKill.push(await runs.withService(options, async ({ startMs }) => startMs))
    })
    rows.push([`${stored / 1000}k`, spread(afterStop, asMs), spread(afterKill, asMs)])
    console.error(`  with ${stored} stored`)
  }
  printTable(
    'Start: from the command to its ready line',
    ['stored events', 'after a stop, ms', 'after kill -9, ms'],
    rows,
  )
}
