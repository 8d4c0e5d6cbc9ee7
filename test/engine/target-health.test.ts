import { describe, expect, test } from 'vitest'
import { laneKey } from '../../src/engine/lane-key.ts'
import { TargetHealth } from '../../src/engine/target-health.ts'
import type { Lane } from '../../src/store/store.ts'
import { WoundClock } from '../support/clock.ts'

const lane: Lane = { rule: 'rule', key: 'http://target.example' }
const other: Lane = { rule: 'other', key: 'http://target.example' }

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
    health.answered(lane)
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
      health.ended()
    }
    expect(pauses).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000])
  })

  test('a probe that is called off makes way for another', () => {
    const { health, clock, resumed } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    const isProbe = health.started()
    expect(health.isOpen).toBe(false)
    health.calledOff(isProbe)
    expect(health.isOpen).toBe(true)
    expect(resumed()).toBe(2)
  })

  test('a call of before that is called off makes no way beside the probe', () => {
    const { health, clock } = setup()
    const isProbe = health.started()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    health.started()
    health.calledOff(isProbe)
    expect(health.isOpen).toBe(false)
  })

  test('an answered probe opens the target for all and calls back', () => {
    const { health, clock, resumed } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    health.started()
    health.answered(lane)
    health.ended()
    expect(health.isOpen).toBe(true)
    expect(resumed()).toBe(2)
    health.started()
    expect(health.isOpen).toBe(true)
  })

  test('a target that failed gets two calls after the probe, and twice as many with each answer', () => {
    const { health, clock } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    health.started()
    health.answered(lane)
    health.ended()
    const widths = [2, 4, 8, 16, 32, 64].map((width) => {
      let inFlight = 0
      for (; health.isOpen; inFlight++) health.started()
      health.answered(lane)
      for (let n = 0; n < inFlight; n++) health.ended()
      return inFlight === width
    })
    expect(widths).toEqual([true, true, true, true, true, true])
    for (let n = 0; n < 200; n++) health.started()
    expect(health.isOpen).toBe(true)
  })

  test('more failures than answers while calls are let in again close it for twice as long', () => {
    const { health, clock } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    for (const come of ['answered', 'failed', 'answered', 'failed', 'failed'] as const) {
      expect(health.isOpen).toBe(true)
      health.started()
      health[come](lane)
      health.ended()
    }
    clock.wind(199)
    expect(health.isOpen).toBe(false)
    clock.wind(1)
    expect(health.isOpen).toBe(true)
  })

  test('each failure while calls are let in again halves how many may be in flight', () => {
    const { health, clock } = setup()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(100)
    const widths = (['answered', 'answered', 'answered', 'failed', 'failed', 'answered'] as const).map((come) => {
      health.started()
      health[come](lane)
      health.ended()
      let inFlight = 0
      for (; health.isOpen; inFlight++) health.started()
      for (let n = 0; n < inFlight; n++) health.ended()
      return inFlight
    })
    expect(widths).toEqual([2, 4, 8, 4, 2, 4])
  })

  test('half of twenty answers within ten seconds are failures: closed; the nineteenth alone closes nothing', () => {
    const { health } = setup()
    for (let i = 0; i < 10; i++) health.answered(lane)
    for (let i = 0; i < 9; i++) expect(health.failed(lane)).toBe(false)
    expect(health.isOpen).toBe(true)
    expect(health.failed(lane)).toBe(false)
    expect(health.isOpen).toBe(false)
    expect(health.failed(lane)).toBe(true)
  })

  test('what was answered more than ten seconds ago does not count', () => {
    const { health, clock } = setup()
    for (let i = 0; i < 19; i++) health.failed(lane)
    clock.wind(10_000)
    health.failed(lane)
    expect(health.isOpen).toBe(true)
  })

  test('more than half are well: it stays open', () => {
    const { health } = setup()
    for (let i = 0; i < 60; i++) {
      health.answered(lane)
      health.answered(lane)
      health.failed(lane)
    }
    expect(health.isOpen).toBe(true)
  })

  test('a probe that is never answered lets another try after half a minute', () => {
    const { health, clock, resumed } = setup()
    health.pause(1_000)
    clock.wind(1_000)
    health.started()
    clock.wind(29_999)
    expect(health.isOpen).toBe(false)
    clock.wind(1)
    expect(health.isOpen).toBe(true)
    expect(resumed()).toBe(2)
  })

  test('a target that asked for time gets all of it, also when answers that were under way come in', () => {
    const { health, clock } = setup()
    health.pause(7_000)
    health.answered(lane)
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
    health.failed(lane)
    expect(health.isOpen).toBe(false)
    clock.wind(200)
    expect(health.isOpen).toBe(true)
  })

  test('a lane that fails five times in a row while others are answered well closes nothing; the others still can', () => {
    const { health } = setup()
    for (let i = 0; i < 4; i++) health.failed(lane)
    health.answered(other)
    for (let i = 0; i < 100; i++) expect(health.failed(lane)).toBe(false)
    expect(health.isOpen).toBe(true)
    for (let i = 0; i < 20; i++) health.failed(other)
    expect(health.isOpen).toBe(false)
  })

  test('of what was tried before, three in a row are enough for that', () => {
    const { health } = setup()
    const tried: Lane = { rule: 'rule', key: laneKey('http://target.example', true, undefined) }
    for (let i = 0; i < 2; i++) health.failed(tried)
    health.answered(lane)
    for (let i = 0; i < 100; i++) expect(health.failed(tried)).toBe(false)
    expect(health.isOpen).toBe(true)
  })

  test('what others were answered before a lane began to fail says nothing of it', () => {
    const { health, clock } = setup()
    health.answered(other)
    clock.wind(10_000)
    for (let i = 0; i < 20; i++) health.failed(lane)
    expect(health.isOpen).toBe(false)
  })

  test('who made the last probe is the last to be called back', () => {
    const { health, clock } = setup()
    const probes: string[] = []
    for (const name of ['a', 'b', 'c']) {
      const resumed = () => {
        if (!health.isOpen) return
        probes.push(name)
        health.started(resumed)
      }
      health.onResumed(resumed)
    }
    for (let i = 0; i < 5; i++) health.refused()
    for (let probe = 1; probe <= 6; probe++) {
      while (probes.length < probe) clock.wind(100)
      health.failed(lane)
      health.ended()
    }
    expect(probes).toEqual(['a', 'b', 'c', 'a', 'b', 'c'])
  })

  test('who was tried in vain is called back after the others, and probes where they do not', () => {
    const { health, clock } = setup()
    const probes: string[] = []
    const waits = new Set(['tried', 'a', 'b'])
    for (const name of waits) {
      const resumed = () => {
        if (!health.isOpen || !waits.has(name)) return
        probes.push(name)
        health.started(resumed)
      }
      health.onResumed(resumed, name === 'tried')
    }
    for (let i = 0; i < 5; i++) health.refused()
    for (let probe = 1; probe <= 4; probe++) {
      while (probes.length < probe) clock.wind(100)
      if (probe === 3) for (const name of ['a', 'b']) waits.delete(name)
      health.failed(lane)
      health.ended()
    }
    expect(probes).toEqual(['a', 'b', 'a', 'tried'])
  })

  test('the pause of a target that has answered some call well in the last minute grows to a second', () => {
    const { health, clock } = setup()
    health.answered(lane)
    for (let i = 0; i < 5; i++) health.refused()
    const pauses: number[] = []
    for (let probe = 0; probe < 70; probe++) {
      let waited = 0
      for (; !health.isOpen; waited += 100) clock.wind(100)
      pauses.push(waited)
      health.started()
      health.refused()
      health.ended()
    }
    expect(pauses.slice(0, 6)).toEqual([100, 200, 400, 800, 1000, 1000])
    expect(pauses.slice(-3)).toEqual([5000, 5000, 5000])
  })

  test('says since when it is left alone, whatever its probes come to, until one is answered', () => {
    const { health, clock } = setup()
    clock.wind(1_000)
    const since = clock.now()
    for (let i = 0; i < 5; i++) health.refused()
    clock.wind(5_000)
    health.started()
    health.refused()
    health.ended()
    expect(health.pausedSince).toBe(since)
    clock.wind(5_000)
    health.started()
    health.answered(lane)
    health.ended()
    expect(health.pausedSince).toBeUndefined()
  })
})
