import { Histogram, type Registry } from 'prom-client'

/** How many values lay below each limit: what a Prometheus histogram tells, at the price of one array access per value. */
export class Distribution {
  readonly #limits: readonly number[]
  /** Not cumulative; the last one counts what lies above all limits. */
  readonly counts: Float64Array
  sum = 0
  count = 0

  /** `limits`: ascending, each inclusive. */
  constructor(limits: readonly number[]) {
    this.#limits = limits
    this.counts = new Float64Array(limits.length + 1)
  }

  add(value: number): void {
    let bucket = 0
    while (bucket < this.#limits.length && value > (this.#limits[bucket] ?? 0)) bucket++
    this.counts[bucket] = (this.counts[bucket] ?? 0) + 1
    this.sum += value
    this.count++
  }
}

type Labels = Readonly<Record<string, string>>

export interface DistributionDescription {
  readonly name: string
  readonly help: string
  readonly limits: readonly number[]
  readonly labelNames: readonly string[]
  readonly registry: Registry
  /** Asked at each scrape. */
  readonly read: () => Iterable<readonly [Labels, Distribution]>
}

/** A histogram that is read from distributions when it is asked, and never observes by itself. */
export class DistributionMetric extends Histogram {
  readonly #description: DistributionDescription

  constructor(description: DistributionDescription) {
    const { name, help, labelNames, limits, registry } = description
    super({ name, help, labelNames: [...labelNames], buckets: [...limits], registers: [registry] })
    this.#description = description
  }

  /** The registry, and `get`, ask this for what there is to tell; prom-client's types do not mention it. */
  async getForPromString() {
    const { name, help, read } = this.#description
    const values = [...read()].flatMap(([labels, distribution]) => this.#lines(labels, distribution))
    return { name, help, type: 'histogram', aggregator: 'sum', values }
  }

  #lines(labels: Labels, distribution: Distribution) {
    const { name, limits } = this.#description
    const lines = []
    let cumulative = 0
    for (const [bucket, count] of distribution.counts.entries()) {
      cumulative += count
      const le = limits[bucket] ?? '+Inf'
      lines.push({ metricName: `${name}_bucket`, labels: { ...labels, le }, value: cumulative })
    }
    lines.push({ metricName: `${name}_sum`, labels: { ...labels }, value: distribution.sum })
    lines.push({ metricName: `${name}_count`, labels: { ...labels }, value: distribution.count })
    return lines
  }
}
