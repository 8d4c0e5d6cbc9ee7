/** The one source of time, in milliseconds since 1970. Tests wind their own by hand. */
export interface Clock {
  now(): number
  /** Calls back once, at or after `time`; the answer takes it back. Any distance works, unlike with bare setTimeout. */
  at(time: number, wake: () => void): () => void
}

/** Node's timers overflow at 2^31 ms (24.8 days) and then fire at once. */
const longestTimerMs = 2 ** 31 - 1

export const systemClock: Clock = {
  now: Date.now,
  at(time, wake) {
    let timer: NodeJS.Timeout
    const arm = () => {
      timer = setTimeout(ring, Math.min(longestTimerMs, Math.max(0, Math.ceil(time - Date.now()))))
    }
    // Node's timers run by another clock than Date, and may ring a little before their time by that one.
    const ring = () => {
      if (Date.now() < time) arm()
      else wake()
    }
    arm()
    return () => clearTimeout(timer)
  },
}
