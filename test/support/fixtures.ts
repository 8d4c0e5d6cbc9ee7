import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'

/** Recorded traffic lies outside the repository: `CHANGEPROP_TEST_FIXTURES`, or `../shared/fixtures` beside it. */
export const fixturesFolder = resolve(process.env.CHANGEPROP_TEST_FIXTURES ?? '../shared/fixtures')

/** For `describe.skipIf`: true only where there are no fixtures and nobody promised any. In CI their absence is a failure. */
export const fixturesAbsent = !existsSync(fixturesFolder) && process.env.CI === undefined

export function readFixture(path: string): string {
  return readFileSync(resolve(fixturesFolder, path), 'utf8')
}
