import { type Flags, type LoadedConfig, loadConfig } from '../config/load.ts'
import { CommandFailure, type Io, writeProblems } from './io.ts'

/** The configuration for a command; throws CommandFailure where a flag has a wrong value. */
export async function readConfiguration(file: string | undefined, flags: Flags, io: Io): Promise<LoadedConfig> {
  const loaded = await loadConfig({ file, env: io.env, flags, cwd: io.cwd })
  const { misuse, problems } = loaded
  if (misuse.length === 0) return loaded
  writeProblems(io, problems)
  const lines = misuse.map(({ file, message, remedy }) => `${file}: ${message}; ${remedy}`)
  throw new CommandFailure(2, lines.join('\n'))
}
