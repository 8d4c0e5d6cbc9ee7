import { readFile } from 'node:fs/promises'
import { distance } from 'fastest-levenshtein'
import { checkDocument, type Document, type Path, parseDocument, problemAt } from '../base/document.ts'
import { hasErrors, type Problem } from '../base/problem.ts'
import { isObject } from '../base/schema-words.ts'
import type { Config } from './config.ts'
import { type Given, locator, type Origin, resolveConfig } from './resolve.ts'
import { configSchema } from './schema.ts'
import { ajv, checkSetting, fromText, problemOf, type Setting, settings } from './settings.ts'

/** Flags of the command line that set values, as typed. */
export interface Flags {
  readonly host?: string | undefined
  readonly port?: string | undefined
  readonly data?: string | undefined
  readonly rules?: readonly string[] | undefined
  readonly logLevel?: string | undefined
}

export interface LoadOptions {
  readonly file?: string | undefined
  readonly env: NodeJS.ProcessEnv
  readonly flags: Flags
  /** What relative paths are relative to; the working directory where left out. */
  readonly cwd?: string | undefined
}

export interface LoadedConfig {
  /** Undefined where there is an error among the problems. */
  readonly config: Config | undefined
  /** The same with defaults where something is wrong: only to look for further problems. */
  readonly draft: Config
  /** By name of the setting, e.g. `listen.port`. */
  readonly origins: ReadonlyMap<string, Origin>
  readonly problems: readonly Problem[]
}

const flagOf: Readonly<Record<string, readonly [keyof Flags, string]>> = {
  'listen.host': ['host', '--host'],
  'listen.port': ['port', '--port'],
  'store.embedded.path': ['data', '--data'],
  rules: ['rules', '--rules'],
  'log.level': ['logLevel', '--log-level'],
}

const validateFile = ajv.compile(configSchema)

/** The file, then the environment, then flags: the later beats the earlier. Every problem at once; never rejects. */
export async function loadConfig(options: LoadOptions): Promise<LoadedConfig> {
  const { env, flags } = options
  const problems: Problem[] = []
  const document =
    options.file === undefined ? undefined : await readDocument(options.file, locator(options.cwd), problems)
  const given = new Map<string, Given>()
  for (const setting of settings) given.set(setting.name, give(setting, document, env, flags, problems))
  problems.push(...unknownVariables(env))

  const { config: draft, problems: found } = await resolveConfig(given, document, env, options.cwd)
  problems.push(...found)
  const origins = new Map([...given].map(([name, { origin }]) => [name, origin]))
  return { config: hasErrors(problems) ? undefined : draft, draft, origins, problems: inOrder(problems) }
}

async function readDocument(
  file: string,
  locate: (path: string) => string,
  problems: Problem[],
): Promise<Document | undefined> {
  let text: string
  try {
    text = await readFile(locate(file), 'utf8')
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    problems.push(problemOf(file, [], `expected a readable file, found an error (${reason})`, 'correct --config'))
    return undefined
  }
  const parsed = parseDocument(file, text)
  problems.push(...parsed.problems)
  if (parsed.document === undefined || parsed.document.value === null) return undefined
  const later = laterKeys(parsed.document)
  const checked = checkDocument(parsed.document, validateFile)
  problems.push(...later, ...checked.filter(({ path }) => !later.some((other) => other.path === path)))
  return parsed.document
}

/** Keys that later versions will know; a plain "unknown key" would send people to look for a misspelling. */
function laterKeys(document: Document): readonly Problem[] {
  const root = isObject(document.value) ? document.value : {}
  const wikis = Array.isArray(root.wikis)
    ? root.wikis.map((wiki: unknown, index) => ({ path: ['wikis', index], site: wiki }))
    : []
  const targets = isObject(root.targets)
    ? Object.entries(root.targets).map(([name, site]) => ({ path: ['targets', name], site }))
    : []
  const keys: readonly { path: Path; key: string; of: unknown }[] = [
    { path: ['store'], key: 'kafka', of: root.store },
    ...[...wikis, ...targets].flatMap(({ path, site }) =>
      ['login', 'concurrency', 'rate'].map((key) => ({ path, key, of: site })),
    ),
  ]
  return keys
    .filter(({ key, of }) => isObject(of) && Object.hasOwn(of, key))
    .map(({ path, key }) =>
      problemAt(document, [...path, key], `found ${key}, which is not supported by this version yet`, 'leave it out', {
        part: 'key',
      }),
    )
}

function give(
  setting: Setting,
  document: Document | undefined,
  env: NodeJS.ProcessEnv,
  flags: Flags,
  problems: Problem[],
): Given {
  const check = (text: string | readonly string[], origin: Origin, source: string): Given => {
    const value = typeof text === 'string' ? fromText(setting, text) : text
    const found = checkSetting(setting, value, source)
    problems.push(...found)
    return { setting, value: found.length > 0 ? setting.schema.default : value, origin, source }
  }
  const fromFile = setting.path.reduce<unknown>(
    (value, key) => (isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined),
    document?.value,
  )
  const usable = fromFile !== undefined && setting.validate(fromFile)
  const base: Given = usable
    ? { setting, value: fromFile, origin: 'file', source: document?.file ?? '' }
    : { setting, value: setting.schema.default, origin: 'default', source: '' }
  // An empty variable counts as none: that is how compose files say "not set".
  const text = setting.variable === undefined ? undefined : env[setting.variable]
  const flag = flagOf[setting.name]
  const flagValue = flag === undefined ? undefined : flags[flag[0]]
  const fromEnv =
    text === undefined || text === '' || setting.variable === undefined
      ? base
      : check(text, 'environment', setting.variable)
  return flag === undefined || flagValue === undefined || (Array.isArray(flagValue) && flagValue.length === 0)
    ? fromEnv
    : check(flagValue, 'flag', flag[1])
}

/** Variables that look like ours but for a letter or two. */
function unknownVariables(env: NodeJS.ProcessEnv): readonly Problem[] {
  const known = settings.flatMap(({ variable }) => (variable === undefined ? [] : [variable]))
  return Object.keys(env).flatMap((name) => {
    const meant =
      name.startsWith('CHANGEPROP_') && !known.includes(name)
        ? known.find((candidate) => distance(name, candidate) <= 2)
        : undefined
    return meant === undefined
      ? []
      : [problemOf(name, [], `expected a known variable, found ${name}`, `did you mean ${meant}?`, 'warning')]
  })
}

/** File by file, and each from its top. */
function inOrder(problems: readonly Problem[]): readonly Problem[] {
  const files = [...new Set(problems.map(({ file }) => file))]
  return problems.toSorted(
    (a, b) => files.indexOf(a.file) - files.indexOf(b.file) || a.line - b.line || a.column - b.column,
  )
}
