import type { Flags } from '../config/load.ts'
import { printConfig, showConfig } from '../config/print.ts'
import { readConfiguration } from './configuration.ts'
import { type Format, type Io, writeJson, writeProblems } from './io.ts'

export interface ConfigOptions extends Flags {
  readonly config?: string | undefined
  readonly format: Format
}

export async function printConfiguration(options: ConfigOptions, io: Io): Promise<number> {
  const { config, origins, problems } = await readConfiguration(options.config, options, io)
  writeProblems(io, problems)
  if (config === undefined) return 1
  if (options.format === 'json') writeJson(io, showConfig(config, origins))
  else io.stdout.write(printConfig(config, origins))
  return 0
}
