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
      const rest = time - Date.now()
      timer = rest > longestTimerMs ? setTimeout(arm, longestTimerMs) : setTimeout(wake, Math.max(0, rest))
    }
    arm()
    return () => clearTimeout(timer)
  },
}
