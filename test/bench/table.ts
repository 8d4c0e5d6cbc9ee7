/** Figures of one kind, one for each repetition. */
export type Figures = readonly number[]

export function median(figures: Figures): number {
  const sorted = [...figures].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2
}

/** `median [least–most]`, or the one figure there is. */
export function spread(figures: Figures, say: (figure: number) => string): string {
  if (figures.length < 2) return say(median(figures))
  return `${say(median(figures))} [${say(Math.min(...figures))}–${say(Math.max(...figures))}]`
}

export const asRate = (perSecond: number) =>
  perSecond >= 10_000 ? `${(perSecond / 1000).toFixed(1)}k` : perSecond.toFixed(0)
export const asRatio = (ratio: number) => ratio.toFixed(2)
export const asMs = (ms: number) => (ms < 10 ? ms.toFixed(2) : ms.toFixed(0))
export const asMicros = (us: number) => us.toFixed(1)
export const asWhole = (figure: number) => figure.toFixed(0)

export function printTable(title: string, head: readonly string[], rows: readonly (readonly string[])[]): void {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  console.log(['', `### ${title}`, '', line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n'))
}
