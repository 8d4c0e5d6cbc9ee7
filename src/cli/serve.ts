import { setFlagsFromString } from 'node:v8'
import type { Flags } from '../config/load.ts'
import { createLogger } from '../observability/log.ts'
import { readConfiguration } from './configuration.ts'
import { counted, type Io, writeProblems } from './io.ts'
import { startFailure } from './start-failure.ts'

export interface ServeOptions extends Flags {
  readonly config?: string | undefined
}

/** On a large machine V8 lets garbage pile up to four times what is alive; this halves the memory for a few percent of speed. */
const heapGrowth = '--heap-growing-percent=100'

/** Runs until a signal, or until the service is broken. A wrong configuration ends it at once; wrong rules do not. */
export async function serve(options: ServeOptions, io: Io): Promise<number> {
  const load = () => readConfiguration(options.config, options, io)
  const { config, problems } = await load()
  writeProblems(io, problems)
  if (config === undefined) return 1

  setFlagsFromString(heapGrowth)
  const { startService } = await import('../main.ts')
  const log = createLogger(config.log.level)
  const signals = new StopSignals()
  let reload: (() => void) | undefined
  const onReload = () => reload?.()
  process.on('SIGHUP', onReload)
  try {
    // Who asks twice does not want to wait.
    const again = signals.number(2).then(() => undefined)
    const starting = startService({ config, log, readConfig: load }).catch((error: unknown) => {
      throw startFailure(error, config.store.embedded?.path ?? config.store.kafka?.scratch)
    })
    const service = await Promise.race([starting, again])
    if (service === undefined) return 1
    const rules = service.ruleCount()
    const inForce = rules === undefined ? 'no rules in force: they have problems' : counted(rules, 'rule')
    io.stdout.write(`changeprop listens on ${service.address}, ${service.store}, ${inForce}\n`)

    reload = () => {
      service
        .reload()
        .catch((error: unknown) => log.error({ err: error }, 'the reload failed; what was in force stays in force'))
    }
    const end = await Promise.race([signals.number(1).then(() => undefined), service.broken])
    if (end !== undefined) {
      log.fatal({ err: end }, 'the service is broken and ends; start it again')
      return 1
    }
    const broken = service.broken.then((error) => {
      log.fatal({ err: error }, 'the service broke while it stopped')
      return 1
    })
    let wasHurried = false
    void again.then(() => {
      wasHurried = true
      service.hurry()
    })
    const stopped = service.stop().then(() => (wasHurried ? 1 : 0))
    return await Promise.race([stopped, broken])
  } finally {
    process.off('SIGHUP', onReload)
    signals.close()
  }
}

/** Signals that come so close together are one, in ms. */
const echoMs = 500

/** SIGTERM and SIGINT, counted from when this was made: one that comes while the service starts is not lost. */
class StopSignals {
  #count = 0
  readonly #waiting: { readonly number: number; readonly wake: () => void }[] = []
  #last = 0
  readonly #onSignal = () => {
    // npm passes on what a terminal has sent already, and `timeout` signals twice.
    if (Date.now() - this.#last < echoMs) return
    this.#last = Date.now()
    this.#count++
    for (const { number, wake } of this.#waiting) if (number <= this.#count) wake()
  }

  constructor() {
    process.on('SIGTERM', this.#onSignal)
    process.on('SIGINT', this.#onSignal)
  }

  /** Resolves once so many have come. */
  number(number: number): Promise<void> {
    if (this.#count >= number) return Promise.resolve()
    return new Promise((wake) => this.#waiting.push({ number, wake }))
  }

  /** Where a stop was asked for, the process is about to exit: a further signal must not kill it on its way. */
  close(): void {
    if (this.#count > 0) return
    process.off('SIGTERM', this.#onSignal)
    process.off('SIGINT', this.#onSignal)
  }
}
