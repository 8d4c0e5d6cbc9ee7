import type { Clock } from '../../src/base/clock.ts'

/** A clock that stands still until it is wound. */
export class WoundClock implements Clock {
  #now: number
  #alarms: { time: number; wake: () => void }[] = []

  constructor(now = 1_700_000_000_000) {
    this.#now = now
    this.now = this.now.bind(this)
  }

  now(): number {
    return this.#now
  }

  at(time: number, wake: () => void): () => void {
    const alarm = { time, wake }
    this.#alarms.push(alarm)
    return () => {
      this.#alarms = this.#alarms.filter((other) => other !== alarm)
    }
  }

  /** Goes forward and rings what is due on the way, in order, each at its own time. */
  wind(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      const next = this.#alarms.filter((alarm) => alarm.time <= end).sort((a, b) => a.time - b.time)[0]
      if (next === undefined) break
      this.#alarms = this.#alarms.filter((alarm) => alarm !== next)
      this.#now = Math.max(this.#now, next.time)
      next.wake()
    }
    this.#now = end
  }
}
