import { cell, rateCell, shareCell, usageCells, usageHead } from './columns.ts'
import { repeat } from './groups-calls.ts'
import type { IntakeRun, Run, Runs } from './runs.ts'
import { rulesForOthers } from './service.ts'
import { asMs, printTable } from './table.ts'

const tens = { connections: 4, batch: 10, events: 100_000 }

interface IntakeWay {
  readonly name: string
  readonly how: { readonly connections: number; readonly batch: number; readonly events: number }
  readonly bare: IntakeRun[]
  readonly append: Run[]
  readonly all: IntakeRun[]
}

export async function intake(runs: Runs): Promise<void> {
  const single = { connections: 64, batch: 1, events: 40_000 }
  const ways: readonly IntakeWay[] = [
    { name: 'single events, 64 connections', how: single, bare: [], append: [], all: [] },
    { name: 'arrays of 10, 64 connections', how: { ...tens, connections: 64 }, bare: [], append: [], all: [] },
    { name: 'arrays of 10, 4 connections', how: tens, bare: [], append: [], all: [] },
  ]
  await repeat(async () => {
    for (const { how: way, bare, append, all } of ways) {
      bare.push(await runs.intakeLimit(way))
      if (way.batch > 1) append.push(await runs.appendLimit('with lookup', way))
      all.push(
        await runs.withFreshService(rulesForOthers(runs.targetPort), (service) =>
          runs.intake(service.pid, service.port, way),
        ),
      )
    }
  })
  const times = (of: readonly IntakeRun[]) => [cell(of, ({ p50 }) => p50, asMs), cell(of, ({ p99 }) => p99, asMs)]
  const rows = ways.flatMap(({ name, bare, append, all }) => [
    [`fastify alone (b), ${name}`, rateCell(bare), ...times(bare), '1', '', ...usageCells(bare)],
    [
      `changeprop (c), ${name}`,
      rateCell(all),
      ...times(all),
      shareCell(all, bare),
      append.length === 0 ? '' : shareCell(all, append),
      ...usageCells(all),
    ],
  ])
  const head = ['', 'events/s', 'p50 ms', 'p99 ms', 'share of fastify', 'share of appends (h)', ...usageHead]
  printTable('(b), (c) intake; no rule concerns the events', head, rows)
}

export async function appends(runs: Runs): Promise<void> {
  const without: Run[] = []
  const withLookup: Run[] = []
  await repeat(async () => {
    without.push(await runs.appendLimit('without lookup', tens))
    withLookup.push(await runs.appendLimit('with lookup', tens))
  })
  printTable("(h) the store's own append loop: batches of 10 from 4 loops", [
    '', 'events/s', 'share of without', ...usageHead,
  ], [
    ['without lookup by meta.id', rateCell(without), '1', ...usageCells(without)],
    ['with it', rateCell(withLookup), shareCell(withLookup, without), ...usageCells(withLookup)],
  ]) // biome-ignore format: a table
}
