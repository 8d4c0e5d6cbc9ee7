import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { parentPort, Worker } from 'node:worker_threads'
import { type ErrorCode, ServiceError } from '../base/errors.ts'

/** What passes between the threads: a question by its name, and its answer or why there is none. */
interface Asked<Inputs> {
  readonly id: number
  readonly question: keyof Inputs
  readonly input: Inputs[keyof Inputs]
}

type Answered<Outputs> =
  | { readonly id: number; readonly output: Outputs[keyof Outputs] }
  | { readonly id: number; readonly failure: Failure }

interface Failure {
  readonly code: ErrorCode
  readonly message: string
}

export type AnswersOf<Inputs, Outputs extends Record<keyof Inputs, unknown>> = {
  readonly [Q in keyof Inputs]: (input: Inputs[Q]) => Outputs[Q] | Promise<Outputs[Q]>
}

interface Waiting<Outputs> {
  answered(output: Outputs[keyof Outputs]): void
  failed(error: ServiceError): void
}

/** Instead of a question. */
const noMoreQuestions = null
const endMs = 10_000

/** A thread that keeps data, asked from here. Answers come in the order of the questions. */
export class StoreThread<Inputs, Outputs extends Record<keyof Inputs, unknown>> {
  readonly #worker: Worker
  readonly #exited: Promise<void>
  readonly #waiting = new Map<number, Waiting<Outputs>>()
  #nextId = 1
  #ended: ServiceError | undefined

  /** `entry`: its module, without the ending. `broken`: the thread ended, or may as well. Told once. */
  constructor(entry: URL, broken: (error: ServiceError) => void) {
    this.#worker = startWorker(entry)
    const end = (message: string, cause?: unknown) => {
      if (this.#ended !== undefined) return
      this.#ended = new ServiceError('STORE_BROKEN', message, { cause })
      broken(this.#ended)
      for (const { failed } of this.#waiting.values()) failed(this.#ended)
      this.#waiting.clear()
    }
    this.#worker.on('error', (error) => end(`the store's thread failed: ${error.message}`, error))
    this.#worker.on('messageerror', (error) =>
      end(`a message of the store's thread could not be read: ${error.message}`, error),
    )
    this.#exited = new Promise((resolve) => {
      this.#worker.on('exit', (code) => {
        end(`the store's thread ended by itself (${code})`)
        resolve()
      })
    })
    this.#worker.on('message', (answered: Answered<Outputs>) => this.#receive(answered))
  }

  /** `transfer`: buffers of the input that are not needed here any more. */
  ask<Q extends keyof Inputs>(
    question: Q,
    input: Inputs[Q],
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<Outputs[Q]> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    return new Promise<Outputs[Q]>((resolve, reject) => {
      const id = this.#nextId++
      // The protocol pairs each question with its answer; a map of what is open cannot say so.
      this.#waiting.set(id, { answered: (output) => resolve(output as Outputs[Q]), failed: reject })
      const asked: Asked<Inputs> = { id, question, input }
      this.#worker.postMessage(asked, transfer)
    })
  }

  /**
   * What was asked, and what still will be, is refused for this reason. The thread ends when it is through: cut off within a
   * call of SQLite's addon, it would take the process with it.
   */
  async end(reason: ServiceError): Promise<void> {
    this.#ended ??= reason
    this.#worker.postMessage(noMoreQuestions)
    const cutOff = setTimeout(() => void this.#worker.terminate(), endMs)
    await this.#exited
    clearTimeout(cutOff)
    for (const { failed } of this.#waiting.values()) failed(reason)
    this.#waiting.clear()
  }

  #receive(answered: Answered<Outputs>): void {
    const waiting = this.#waiting.get(answered.id)
    if (waiting === undefined) return
    this.#waiting.delete(answered.id)
    if ('output' in answered) waiting.answered(answered.output)
    else waiting.failed(new ServiceError(answered.failure.code, answered.failure.message))
  }
}

/** The whole of such a thread: it answers one question after another. `explain`: what an error means. */
export function serveThread<Inputs, Outputs extends Record<keyof Inputs, unknown>>(
  answers: AnswersOf<Inputs, Outputs>,
  explain: (error: unknown) => Failure,
): void {
  const port = parentPort
  if (port === null) throw new Error('this is the entry of a worker thread')
  let turn: Promise<void> = Promise.resolve()
  const respond = async ({ id, question, input }: Asked<Inputs>) => {
    try {
      const output = await answers[question](input)
      port.postMessage({ id, output }, transferable(output))
    } catch (error) {
      port.postMessage({ id, failure: explain(error) })
    }
  }
  port.on('message', (asked: Asked<Inputs> | typeof noMoreQuestions) => {
    turn = turn.then(() => (asked === noMoreQuestions ? port.close() : respond(asked)))
  })
}

/** The thread makes little garbage; what V8 would set aside for it by default is a fifth of the service's memory. */
const maxYoungGenerationSizeMb = 8

/** Run from the sources, as tests do, the thread needs a loader of its own. */
function startWorker(entry: URL): Worker {
  if (!import.meta.url.endsWith('.ts')) {
    return new Worker(new URL(`${entry.href}.js`), { resourceLimits: { maxYoungGenerationSizeMb } })
  }
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx'))
  // What the package is loaded by does nothing in a thread; and a module of this kind cannot import by a package's name.
  const register = `data:text/javascript,import { register } from '${new URL('./esm/api/index.mjs', tsx).href}'; register()`
  return new Worker(new URL(`${entry.href}.ts`), { execArgv: ['--import', register] })
}

/** Payloads of a page go without being copied. */
function transferable(output: unknown): ArrayBuffer[] {
  if (typeof output !== 'object' || output === null || !('payloads' in output)) return []
  return output.payloads instanceof ArrayBuffer ? [output.payloads] : []
}
