import type { Run } from './runs.ts'
import { asMicros, asRate, asRatio, asWhole, spread } from './table.ts'

/** The columns that every table of runs ends with, and their cells for the repetitions of one row. */
export const usageHead = ['CPU µs/event: main', 'store', 'rest', 'RssAnon MiB', 'others, cores']

type Used = Pick<Run, 'usage' | 'events'>

export function usageCells(runs: readonly Used[]): readonly string[] {
  const others = runs.map(({ usage }) => usage.othersCores + usage.stolenCores)
  return [
    cell(runs, ({ usage, events }) => (usage.mainMs * 1000) / events, asMicros),
    cell(runs, ({ usage, events }) => (usage.storeMs * 1000) / events, asMicros),
    cell(runs, ({ usage, events }) => (usage.restMs * 1000) / events, asMicros),
    cell(runs, ({ usage }) => usage.anonMiB, asWhole),
    asRatio(Math.max(...others)),
  ]
}

/** One figure of each repetition. */
export function cell<Of>(
  runs: readonly Of[],
  figure: (run: Of, repetition: number) => number,
  say: (figure: number) => string,
): string {
  return spread(runs.map(figure), say)
}

export function rateCell(runs: readonly Run[]): string {
  return cell(runs, ({ perSecond }) => perSecond, asRate)
}

/** Each repetition held against the limit that was taken right before it. */
export function shareCell(runs: readonly Run[], limits: readonly Run[]): string {
  return cell(runs, ({ perSecond }, i) => perSecond / (limits[i]?.perSecond ?? Number.NaN), asRatio)
}
