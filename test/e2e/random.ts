/** Numbers that look like chance and come back with the same seed. */
export interface Random {
  readonly seed: number
  /** A whole number from `low` up to, but not including, `high`. */
  between(low: number, high: number): number
  /** True in this share of cases. */
  chance(share: number): boolean
}

/** With `SEED` in the environment a run's choices can be had again; what processes then do in time, cannot. */
export function createRandom(seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)): Random {
  // A Weyl sequence, mixed (mulberry32).
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    seed,
    between: (low, high) => low + Math.floor(next() * (high - low)),
    chance: (share) => next() < share,
  }
}
