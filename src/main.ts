import { readFileSync } from 'node:fs'
import type { Logger } from 'pino'
import type { ServiceStatus } from './api/contract.ts'
import { openServer } from './api/server.ts'
import { systemClock } from './base/clock.ts'
import { formatProblem, hasErrors, type Problem } from './base/problem.ts'
import type { Config } from './config/config.ts'
import { needRestart } from './config/print.ts'
import { Engine } from './engine/engine.ts'
import { Letters } from './engine/letters.ts'
import { openSender } from './http/undici-send.ts'
import { createDirectory } from './mediawiki/directory.ts'
import { createSessions } from './mediawiki/session.ts'
import { createMetrics } from './observability/metrics.ts'
import { logWarnings } from './observability/warnings.ts'
import { loadRules } from './rule/load.ts'
import { storeOf } from './store-of.ts'
import { createRegistry } from './stream/registry.ts'

export interface ServiceOptions {
  readonly config: Config
  readonly log: Logger
  /** Reads the configuration again, for `reload`. */
  readonly readConfig: () => Promise<{ readonly config: Config | undefined; readonly problems: readonly Problem[] }>
}

export interface RunningService {
  /** E.g. `http://127.0.0.1:8192`. */
  readonly address: string
  /** Of the store, for people. */
  readonly store: string
  /** How many rules are in force; undefined where they are invalid and nothing is dispatched. */
  ruleCount(): number | undefined
  /** Takes up rules, wikis and targets anew, all or nothing. The rest of the configuration needs a restart. */
  reload(): Promise<void>
  /** Accepts until calls in flight have ended, or `stop_timeout`; then closes. */
  stop(): Promise<void>
  /** A stop waits for calls no longer, but cuts them off. */
  hurry(): void
  /** Resolves, if ever, with what makes it impossible to go on. */
  readonly broken: Promise<unknown>
}

const { version, homepage: home }: { readonly version: string; readonly homepage?: string } = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
)

const waryWarning =
  'the processes before this one died soon after they began: for its first 10 s each call is put on record before it begins, so that what they die of is found'

/** Puts the service together and starts it. Rejects with a ServiceError where it cannot. */
export async function startService({ config, log, readConfig }: ServiceOptions): Promise<RunningService> {
  const clock = systemClock
  let tellBroken: (error: unknown) => void = () => undefined
  const broken = new Promise<unknown>((resolve) => {
    tellBroken = resolve
  })

  const metrics = createMetrics()
  const sender = openSender()
  const { store, deadBytes } = await storeOf(config, log)
  const userAgent = `changeprop/${version}`
  const sessions = createSessions({ send: sender.send, clock, userAgent })
  const engine = new Engine(
    { store, send: sender.send, sessions, clock, observer: metrics, userAgent, deadBytes },
    createDirectory(config),
  )
  const letters = new Letters(store, engine, clock.now)

  let loaded = await loadRules(config.rules, config)
  let reloadTrouble: string | undefined
  tellProblems(log, loaded.problems)

  if (config.admin.token === undefined) {
    log.info('admin.token is not set: the operator routes answer on loopback only')
  }

  let isStopping = false
  const backlog = await store.open({
    committed: (ms) => metrics.committed(ms),
    changed: ({ trouble, writable }) => {
      if (trouble === undefined) log.info('the store takes events')
      else if (!isStopping) log.error({ trouble }, 'the store takes no events')
      if (writable) engine.resume()
    },
    broken: tellBroken,
    rows: (change) => engine.rows(change),
    lost: () => engine.dropLost(),
    shared: (part) => engine.share(part),
  })
  if (store.isWary) log.warn(waryWarning)
  engine.start(loaded.rules, backlog, tellBroken)

  const rules = () => loaded.rules
  const ruleStats = (name: string) => engine.counts(name)
  metrics.observe({
    rules: () => engine.ruleNames().map((name) => [name, engine.counts(name)] as const),
    storeBytes: () => store.health().bytes,
    lag: () => store.lag(),
    pausedTargets: () => engine.pausedTargets(),
  })

  const registry = createRegistry({
    ...config.schemas,
    tell: (schema, why) => {
      if (why === undefined) log.info({ schema }, 'the schema can be had again')
      else log.warn({ schema, why }, 'a schema cannot be had: events that name it are answered 503')
    },
  })

  const status = (): ServiceStatus => {
    const { accepting, trouble, warnings } = store.health()
    const invalid =
      loaded.rules === undefined ? [`${countErrors(loaded.problems)} in the rules: nothing is dispatched`] : []
    const wary = store.isWary ? [waryWarning] : []
    const stale = reloadTrouble === undefined ? [] : [reloadTrouble]
    const gone = engine.ruleNames().flatMap((name) => {
      const waiting = engine.counts(name).waiting.rule_gone ?? 0
      return waiting === 0 ? [] : [`${counted(waiting, 'delivery', 'deliveries')} of the rule ${name}, which is gone`]
    })
    const troubled = engine.troubledTargets().map(([target, ms]) => {
      return `for ${Math.floor(ms / 1_000)} s the target ${target} has taken no calls: it refuses them, fails, or asked for time`
    })
    const dead = [...store.deadCounts()].flatMap(([rule, { count }]) => {
      return count === 0
        ? []
        : [`${counted(count, 'dead letter')} of the rule ${rule}: see \`changeprop dead list --rule ${rule}\``]
    })
    return {
      ready: accepting,
      reasons: trouble === undefined ? [] : [trouble],
      warnings: [...warnings, ...invalid, ...wary, ...stale, ...gone, ...registry.warnings(), ...troubled, ...dead],
    }
  }
  const operations = {
    // Of a rule that is gone, dead letters may be all that is left, and the engine knows nothing of those.
    ruleNames: () => [...new Set([...engine.ruleNames(), ...store.deadCounts().keys()])],
    ruleStats,
    running: () => engine.running(),
    replay: letters.replay.bind(letters),
    discard: letters.discard.bind(letters),
  }
  const server = await openServer({
    config,
    store,
    registry,
    rules,
    operations,
    status,
    metrics,
    log,
    version,
    home,
  }).catch(async (error: unknown) => {
    await engine.stop(0)
    await store.close()
    await sender.close()
    throw error
  })

  const stopLogging = logWarnings(log, clock, () => status().warnings)

  let reloading = Promise.resolve()
  /** One after another: the files as they were read last are in force. */
  function reload(): Promise<void> {
    reloading = reloading.then(reloadNow, reloadNow)
    return reloading
  }

  async function reloadNow(): Promise<void> {
    const read = await readConfig()
    const next = read.config === undefined ? undefined : await loadRules(read.config.rules, read.config)
    const problems = [...read.problems, ...(next?.problems ?? [])]
    tellProblems(log, problems)
    const stale = read.config === undefined ? [] : needRestart(config, read.config)
    if (stale.length > 0) log.warn(`what was changed in ${stale.join(', ')} holds only after a restart`)
    if (read.config === undefined || next?.rules === undefined) {
      reloadTrouble = `the last reload found ${countErrors(problems)}: the rules, wikis and targets loaded before it stay in force`
      log.error(reloadTrouble)
      return
    }
    const directory = createDirectory(read.config)
    reloadTrouble = undefined
    loaded = next
    engine.reload(next.rules, directory)
    log.info({ rules: next.rules.rules.length }, 'rules, wikis and targets were loaded anew')
  }

  async function stop(): Promise<void> {
    stopLogging()
    isStopping = true
    const { cutOff } = await engine.stop(config.stopTimeoutMs)
    if (cutOff > 0)
      log.warn(
        { calls: cutOff },
        'calls were cut off, as stop_timeout was over or a second signal came; all but those of retry: never are made again',
      )
    await server.close()
    await store.close()
    await engine.stopped()
    await sender.close()
  }

  return {
    address: server.address,
    store: store.description,
    ruleCount: () => loaded.rules?.rules.length,
    reload,
    stop,
    hurry: () => engine.hurry(),
    broken,
  }
}

function tellProblems(log: Logger, problems: readonly Problem[]): void {
  for (const problem of problems) {
    if (problem.severity === 'error') log.error(formatProblem(problem))
    else log.warn(formatProblem(problem))
  }
  if (hasErrors(problems)) log.error('see `changeprop check`')
}

function countErrors(problems: readonly Problem[]): string {
  const count = problems.filter(({ severity }) => severity === 'error').length
  return counted(count, 'problem')
}

function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`
}
