import { describe, expect, test } from 'vitest'
import { TargetHealth } from '../../src/engine/target-health.ts'
import { WoundClock } from '../support/clock.ts'

function setup() {
  const clock = new WoundClock()
  const health = new TargetHealth('http://target.example', clock)
  let resumed = 0
  health.onResumed(() => {
    resumed += 1
  })
  return { clock, health, resumed: () => resumed }
}

describe('the health of a target', () => {
  test('four refused connections in a row close nothing, and each spends an attempt', () => {
    const { health } = setup()
    const known = [health.refused(), health.refused(), health.refused(), health.refused()]
    expect(known).toEqual([false, false, false, false])
    expect(health.isOpen).toBe(true)
  })

  test('an answer in between begins the count anew', () => {
    const { health } = setup()
    for (let i = 0; i < 4; i++) health.refused()
    health.answered()
    for (let i = 0; i < 4; i++) health.refused()
    expect(health.isOpen).toBe(true)
  })

  test('the fifth refused connection in a row closes the target; those after it spend no attempt', () => {
    const { health } = setup()
    for (let i = 0; i < 4; i++) health.refused()
    expect(health.refused()).toBe(false)
    expect(health.isOpen).toBe(false)
    expect(health.refused()).toBe(true)
  })

  test('after the pause one call at a time may try', () => {
    const { health, clock, resumed } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    expect(resumed()).toBe(1)
    expect(health.isOpen).toBe(true)
    health.started()
    expect(health.isOpen).toBe(false)
  })

  test('the pause between probes doubles up to five seconds', () => {
    const { health, clock } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    const pauses: number[] = []
    for (let probe = 0; probe < 9; probe++) {
      let waited = 0
      while (!health.isOpen) {
        clock.wind(100)
        waited += 100
      }
      pauses.push(waited)
      health.started()
      expect(health.refused()).toBe(true)
    }
    expect(pauses).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000])
  })

  test('an answered probe opens the target for all and calls back', () => {
    const { health, clock, resumed } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    health.started()
    health.answered()
    expect(health.isOpen).toBe(true)
    expect(resumed()).toBe(2)
    health.started()
    expect(health.isOpen).toBe(true)
  })

  test('a target that asked for time gets all of it, also when answers that were under way come in', () => {
    const { health, clock } = setup()
    health.pause(7_000)
    health.answered()
    clock.wind(6_999)
    expect(health.isOpen).toBe(false)
    clock.wind(1)
    expect(health.isOpen).toBe(true)
  })

  test('a target that asked for time and is gone afterwards is probed again, and spends no attempt', () => {
    const { health, clock } = setup()
    health.pause(1_000)
    clock.wind(1_000)
    health.started()
    expect(health.refused()).toBe(true)
    expect(health.isOpen).toBe(false)
    clock.wind(100)
    expect(health.isOpen).toBe(true)
  })

  test('a probe that falls silent lets the next one try after a pause', () => {
    const { health, clock } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    health.started()
    health.fellSilent()
    expect(health.isOpen).toBe(false)
    clock.wind(200)
    expect(health.isOpen).toBe(true)
  })
})
