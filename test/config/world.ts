import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { formatProblem } from '../../src/base/problem.ts'
import { type Flags, loadConfig } from '../../src/config/load.ts'

/** Loads `yaml` from a file in a fresh folder, which is what relative paths are relative to. */
export async function load(
  yaml: string | undefined,
  env: NodeJS.ProcessEnv = {},
  flags: Flags = {},
  files: Readonly<Record<string, string>> = {},
) {
  const cwd = await mkdtemp(join(tmpdir(), 'changeprop-config-'))
  onTestFinished(() => rm(cwd, { recursive: true }))
  for (const [name, text] of Object.entries(files)) await writeFile(join(cwd, name), text)
  if (yaml !== undefined) await writeFile(join(cwd, 'c.yaml'), yaml)
  const loaded = await loadConfig({ file: yaml === undefined ? undefined : 'c.yaml', env, flags, cwd })
  return { ...loaded, cwd, lines: loaded.problems.map(formatProblem) }
}
