import { expect, onTestFinished, test } from 'vitest'
import { logWarnings } from '../../src/observability/warnings.ts'
import { WoundClock } from '../support/clock.ts'

test('a warning is told once as it comes, though its numbers change, and once when it is over', () => {
  const clock = new WoundClock()
  const lines: string[] = []
  const log = { warn: (text: string) => lines.push(`warn ${text}`), info: (text: string) => lines.push(`info ${text}`) }
  let warnings: readonly string[] = []
  onTestFinished(logWarnings(log, clock, () => warnings))
  const look = (...found: string[]) => {
    warnings = found
    clock.wind(10_000)
    return lines.splice(0)
  }
  const target = (port: number, s: number) => `for ${s} s the target http://10.0.0.1:${port} has taken no calls`

  expect(look()).toEqual([])
  expect(look(target(80, 31))).toEqual([`warn ${target(80, 31)}`])
  expect(look(target(80, 41), '1 dead letter of the rule r2')).toEqual(['warn 1 dead letter of the rule r2'])
  expect(look(target(80, 51), target(81, 31))).toEqual([
    `warn ${target(81, 31)}`,
    'info no longer: 1 dead letter of the rule r2',
  ])
  expect(look(target(81, 41))).toEqual([`info no longer: ${target(80, 51)}`])
})
