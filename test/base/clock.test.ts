import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'

describe('the system clock', () => {
  test('never calls back before the time, not even by a fraction of a millisecond', async () => {
    for (let i = 0; i < 200; i++) {
      const time = Date.now() + (i % 7) + 0.3
      await new Promise<void>((resolve) => systemClock.at(time, resolve))
      expect(Date.now()).toBeGreaterThanOrEqual(time)
    }
  })

  test('calls back for a time that is past, but not at once', async () => {
    let isBack = false
    const rung = new Promise<void>((resolve) =>
      systemClock.at(0, () => {
        isBack = true
        resolve()
      }),
    )
    expect(isBack).toBe(false)
    await rung
  })

  test('a distance beyond what a timer can hold does not ring at once', async () => {
    let isRung = false
    const cancel = systemClock.at(Date.now() + 2 ** 40, () => {
      isRung = true
    })
    await new Promise<void>((resolve) => systemClock.at(Date.now() + 20, resolve))
    cancel()
    expect(isRung).toBe(false)
  })
})
