import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { parseDocument } from '../base/document.ts'
import { messageOf } from '../base/errors.ts'
import { hasErrors, type Problem } from '../base/problem.ts'
import type { Hosts } from './hosts.ts'
import { parseRules } from './parse.ts'
import type { Rule, RuleSet } from './rule.ts'
import { ruleSet } from './rule-set.ts'

export interface LoadedRules {
  /** All of them, or undefined where any of them has an error. */
  readonly rules: RuleSet | undefined
  readonly problems: readonly Problem[]
}

/**
 * Reads rules from files and folders; of a folder all `*.yaml` and `*.yml` in it and below, by name. What cannot be read is a
 * problem too; this rejects only if we are broken.
 */
export async function loadRules(paths: readonly string[], hosts: Hosts): Promise<LoadedRules> {
  const problems: Problem[] = []
  const rules: Rule[] = []
  for (const path of paths) {
    const { files, problems: found } = await filesAt(path)
    problems.push(...found)
    for (const file of files) {
      const text = await readText(file)
      if (typeof text !== 'string') {
        problems.push(text)
        continue
      }
      const { document, problems: flaws } = parseDocument(file, text)
      problems.push(...flaws)
      if (document === undefined) continue
      const parsed = parseRules(document, hosts)
      problems.push(...parsed.problems)
      rules.push(...parsed.rules)
    }
  }
  problems.push(...duplicates(rules))
  return { rules: hasErrors(problems) ? undefined : ruleSet(rules), problems }
}

async function filesAt(path: string): Promise<{ files: readonly string[]; problems: readonly Problem[] }> {
  try {
    if (!(await stat(path)).isDirectory()) return { files: [path], problems: [] }
    const entries = await readdir(path, { recursive: true, withFileTypes: true })
    const files = entries
      .filter((entry) => !entry.isDirectory() && /\.ya?ml$/.test(entry.name) && !entry.name.startsWith('.'))
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
    if (files.length > 0) return { files, problems: [] }
    const none = problem(
      path,
      'warning',
      'expected files *.yaml or *.yml in this folder, found none',
      'add a file of rules',
    )
    return { files, problems: [none] }
  } catch (error) {
    return { files: [], problems: [unreadable(path, error)] }
  }
}

async function readText(file: string): Promise<string | Problem> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    return unreadable(file, error)
  }
}

function unreadable(path: string, error: unknown): Problem {
  const reason = messageOf(error)
  return problem(
    path,
    'error',
    `expected a file or folder that can be read, found ${reason}`,
    'correct the path or its permissions',
  )
}

function duplicates(rules: readonly Rule[]): readonly Problem[] {
  const first = new Map<string, Rule>()
  return rules.flatMap((rule) => {
    const other = first.get(rule.name)
    if (other === undefined) {
      first.set(rule.name, rule)
      return []
    }
    return [
      {
        severity: 'error' as const,
        file: rule.file,
        line: rule.line,
        column: 1,
        path: rule.name,
        message: `expected each name of a rule once, found ${rule.name} again (first in ${other.file}:${other.line})`,
        remedy: 'rename one of them',
      },
    ]
  })
}

function problem(file: string, severity: Problem['severity'], message: string, remedy: string): Problem {
  return { severity, file, line: 1, column: 1, path: '', message, remedy }
}
