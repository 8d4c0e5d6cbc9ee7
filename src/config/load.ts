import { readFile } from 'node:fs/promises'
import { distance } from 'fastest-levenshtein'
import { checkDocument, type Document, parseDocument } from '../base/document.ts'
import { messageOf } from '../base/errors.ts'
import { hasErrors, type Problem } from '../base/problem.ts'
import { isObject } from '../base/schema-words.ts'
import type { Config } from './config.ts'
import { readable } from './readable.ts'
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
  /** Of the file and the environment. */
  readonly problems: readonly Problem[]
  /** Of flags, whose names stand as the file. */
  readonly misuse: readonly Problem[]
}

const flagOf: Readonly<Record<string, readonly [keyof Flags, string]>> = {
  'listen.host': ['host', '--host'],
  'listen.port': ['port', '--port'],
  'store.embedded.path': ['data', '--data'],
  // Whichever store there is, it is what lies on this machine.
  'store.kafka.scratch': ['data', '--data'],
  rules: ['rules', '--rules'],
  'log.level': ['logLevel', '--log-level'],
}

const flagNames: readonly string[] = Object.values(flagOf).map(([, name]) => name)

const validateFile = ajv.compile(configSchema)

/** The file, then the environment, then flags: the later beats the earlier. Every problem at once; never rejects. */
export async function loadConfig(options: LoadOptions): Promise<LoadedConfig> {
  const { env, flags } = options
  const { document, complaints, others } =
    options.file === undefined ? noFile : await readDocument(options.file, locator(options.cwd))
  const problems: Problem[] = [...others, ...complaints]
  const given = new Map<string, Given>()
  for (const setting of settings) given.set(setting.name, give(setting, document, env, flags, problems))
  problems.push(...unknownVariables(env))

  const { config: draft, problems: found } = await resolveConfig(given, document, env, options.cwd)
  // What is odd about a mapping may be no more than the misspelt key in it.
  problems.push(...found.filter((problem) => !complaints.some((complaint) => isWithin(complaint, problem))))
  const origins = new Map([...given].map(([name, { origin }]) => [name, origin]))
  const isMisuse = ({ file }: Problem) => flagNames.includes(file)
  return {
    config: hasErrors(problems) ? undefined : draft,
    draft,
    origins,
    problems: inOrder(problems.filter((problem) => !isMisuse(problem))),
    // A flag for two settings is wrong once.
    misuse: problems.filter(isMisuse).filter(({ file }, at, all) => all.findIndex((one) => one.file === file) === at),
  }
}

interface ReadFile {
  readonly document: Document | undefined
  /** What the schema has against it. */
  readonly complaints: readonly Problem[]
  readonly others: readonly Problem[]
}

const noFile: ReadFile = { document: undefined, complaints: [], others: [] }

async function readDocument(file: string, locate: (path: string) => string): Promise<ReadFile> {
  let text: string
  try {
    text = await readFile(locate(file), 'utf8')
  } catch (error) {
    const reason = messageOf(error)
    const unreadable = problemOf(file, [], `expected a readable file, found an error (${reason})`, 'correct --config')
    return { ...noFile, others: [{ ...unreadable, line: 1, column: 1 }] }
  }
  const { document, problems } = parseDocument(file, text)
  if (document === undefined || document.value === null) return { ...noFile, others: problems }
  return { document, complaints: checkDocument(document, validateFile), others: problems }
}

/** Whether the place of `inner` is that of `outer`, or within it. */
function isWithin(inner: Problem, outer: Problem): boolean {
  const isSame = inner.path === outer.path
  return inner.file === outer.file && (isSame || ['.', '['].some((sign) => inner.path.startsWith(outer.path + sign)))
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
    const isSound = found.length === 0
    return { setting, value: isSound ? value : setting.schema.default, isSound, origin, source }
  }
  const fromFile = setting.path.reduce<unknown>(
    (value, key) => (isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined),
    document?.value,
  )
  const fallback = setting.schema.default
  const isSound = fromFile === undefined || setting.validate(fromFile) === true
  const base: Given =
    fromFile === undefined
      ? { setting, value: fallback, isSound, origin: 'default', source: '' }
      : {
          setting,
          value: readable(setting.schema, fromFile) ?? fallback,
          isSound,
          origin: 'file',
          source: document?.file ?? '',
        }
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
