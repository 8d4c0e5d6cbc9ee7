import { inReadingOrder } from '../base/problem.ts'
import { loadRules } from '../rule/load.ts'
import { readConfiguration } from './configuration.ts'
import { counted, countProblems, exitCodeOf, type Format, type Io, writeJson, writeProblems } from './io.ts'

export interface CheckOptions {
  readonly paths: readonly string[]
  readonly config?: string | undefined
  readonly format: Format
}

/** Rules are judged by the hosts of the configuration; where its hosts are in doubt, rules wait for that to be put right. */
export async function check(options: CheckOptions, io: Io): Promise<number> {
  const loaded = await readConfiguration(options.config, { rules: options.paths }, io)
  const hostsInDoubt =
    loaded.config === undefined &&
    loaded.problems.some(({ path, severity }) => severity === 'error' && isAboutHosts(path))
  const { rules, problems } = hostsInDoubt
    ? { rules: undefined, problems: [] }
    : await loadRules(loaded.draft.rules, loaded.draft)
  const all = inReadingOrder([...loaded.problems, ...problems])
  const judged = hostsInDoubt
    ? 'rules not checked: correct the configuration first'
    : rules === undefined
      ? 'rules'
      : counted(rules.rules.length, 'rule')
  if (options.format === 'json') {
    const errors = all.filter(({ severity }) => severity === 'error').length
    writeJson(io, { rules: rules?.rules.length ?? null, errors, warnings: all.length - errors, problems: all })
  } else {
    writeProblems(io, all)
    io.stdout.write(`checked: ${judged}; ${countProblems(all)}\n`)
  }
  return exitCodeOf(all)
}

/** An empty path is the whole file: it could not be read. */
function isAboutHosts(path: string): boolean {
  return path === '' || path.startsWith('wikis') || path.startsWith('targets')
}
