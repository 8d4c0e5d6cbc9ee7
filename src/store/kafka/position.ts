/** Kafka takes 4,096 bytes; beyond this no more is read until the lowest is finished. */
const longestRuns = 3_500
/** No shorter than one run. */
const nearlyLongest = longestRuns - 20

/** How far a partition had come. */
export interface Committed {
  /** When that was said, in ms. */
  readonly at: number
  readonly runs: string
  /** Short lives in a row of those who read it, with who says it; 0 where that is none. */
  readonly lives: number
  /** When the latest before it was accepted, in ms: what comes behind it was accepted no earlier. */
  readonly latest: number
}

export function formatMetadata({ at, runs, lives, latest }: Committed): string {
  return [at.toString(36), runs, lives.toString(36), latest.toString(36)].join(';')
}

/** Undefined where somebody else has committed. */
export function parseMetadata(metadata: string): Committed | undefined {
  const [, at = '', runs = '', lives = '', latest = ''] =
    /^([0-9a-z]+);([0-9a-z+ ]*);([0-9a-z]+);([0-9a-z]+)$/.exec(metadata) ?? []
  if (at === '') return undefined
  return { runs, at: Number.parseInt(at, 36), lives: Number.parseInt(lives, 36), latest: Number.parseInt(latest, 36) }
}

/**
 * How far one partition of a source has come, where what was read ends in any order: the lowest offset that is not finished,
 * and which above it are. Offsets may have gaps.
 */
export class Progress {
  /** Read and not finished, in order, with what is still open of each. */
  readonly #open = new Map<number, number>()
  /** Finished runs above the lowest open one: [first, end). In order, apart. */
  #runs: [number, number][] = []
  /** Next to read. */
  #end: number
  /** When the latest that was read was accepted, in ms; and the latest before each that is open. */
  #latest: number
  readonly #latestBefore = new Map<number, number>()

  /** `runs`, `latest`: as they were committed, with the offset. */
  constructor(offset: number, runs: string, latest = 0) {
    this.#end = offset
    this.#runs = parseRuns(offset, runs)
    this.#latest = latest
  }

  /** Clocks of different machines differ a little: what comes next was accepted no earlier than what came before, in ms. */
  acceptedAt(time: number): number {
    return Math.max(this.#latest, time)
  }

  /** Whether it was finished by an earlier owner. */
  isFinished(offset: number): boolean {
    return this.#runs.some(([first, end]) => offset >= first && offset < end)
  }

  /** A record is in hand; `end` has to be called as often as `begin` before it is finished. `accepted`: in ms. */
  begin(offset: number, accepted = 0): void {
    this.#open.set(offset, (this.#open.get(offset) ?? 0) + 1)
    if (!this.#latestBefore.has(offset)) this.#latestBefore.set(offset, this.#latest)
    this.#latest = Math.max(this.#latest, accepted)
    // What lies between does not exist.
    if (offset > this.#end) this.#add(this.#end, offset)
    this.#end = Math.max(this.#end, offset + 1)
  }

  end(offset: number): void {
    const open = this.#open.get(offset)
    if (open === undefined) throw new Error(`the record at ${offset} was finished more often than it was begun`)
    if (open > 1) {
      this.#open.set(offset, open - 1)
      return
    }
    this.#open.delete(offset)
    this.#latestBefore.delete(offset)
    this.#add(offset, offset + 1)
  }

  /** Nothing of it concerns anybody. */
  pass(offset: number, accepted = 0): void {
    this.begin(offset, accepted)
    this.end(offset)
  }

  /** Before that there is nothing more. */
  goOn(next: number): void {
    if (next <= this.#end) return
    const from = this.#end
    this.#end = next
    this.#add(from, next)
  }

  /** The lowest offset that an owner after us has to read. */
  get offset(): number {
    const lowest = this.#open.keys().next().value
    return lowest ?? this.#end
  }

  /** Of what lies before `offset`, in ms. */
  get latest(): number {
    return this.#latestBefore.get(this.offset) ?? this.#latest
  }

  /** Next to read. */
  get next(): number {
    return this.#end
  }

  get open(): number {
    return this.#open.size
  }

  /** Whether more runs could not be told any more. */
  get isCrowded(): boolean {
    return this.#runs.length > 200 && this.runs.length > nearlyLongest
  }

  /**
   * Finished runs above `offset`: each as the distance from the end of the last and its length, in base 36. Of too many only
   * the first: what was read ahead before it was crowded may still end.
   */
  get runs(): string {
    let at = this.offset
    let length = 0
    const parts: string[] = []
    for (const [first, end] of this.#runs) {
      if (end <= at) continue
      const from = Math.max(first, at)
      const part = `${(from - at).toString(36)}+${(end - from).toString(36)}`
      length += part.length + 1
      if (length > longestRuns) break
      parts.push(part)
      at = end
    }
    return parts.join(' ')
  }

  #add(first: number, end: number): void {
    const runs = this.#runs
    let index = runs.length
    // Most are finished near the end.
    while (index > 0 && (runs[index - 1]?.[0] ?? 0) > first) index -= 1
    const before = runs[index - 1]
    const after = runs[index]
    if (before !== undefined && before[1] >= first) {
      before[1] = Math.max(before[1], end)
      if (after !== undefined && after[0] <= before[1]) {
        before[1] = Math.max(before[1], after[1])
        runs.splice(index, 1)
      }
    } else if (after !== undefined && after[0] <= end) after[0] = first
    else runs.splice(index, 0, [first, end])

    const low = this.offset
    let passed = 0
    while ((runs[passed]?.[1] ?? Number.POSITIVE_INFINITY) <= low) passed += 1
    if (passed > 0) runs.splice(0, passed)
  }
}

function parseRuns(offset: number, text: string): [number, number][] {
  const runs: [number, number][] = []
  let at = offset
  for (const [, gap = '', length = ''] of text.matchAll(/([0-9a-z]+)\+([0-9a-z]+)/g)) {
    const first = at + Number.parseInt(gap, 36)
    at = first + Number.parseInt(length, 36)
    runs.push([first, at])
  }
  return runs
}
