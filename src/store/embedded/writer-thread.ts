import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { ServiceError } from '../../base/errors.ts'
import type { Answered, Asked, Inputs, Outputs, Question } from './protocol.ts'

interface Waiting {
  answered(output: Outputs[Question]): void
  failed(error: ServiceError): void
}

/** The other thread, asked from here. Answers come in the order of the questions. */
export class WriterThread {
  readonly #worker: Worker
  readonly #waiting = new Map<number, Waiting>()
  #nextId = 1
  #ended: ServiceError | undefined

  /** `broken`: the thread ended, or may as well. Told once. */
  constructor(broken: (error: ServiceError) => void) {
    this.#worker = startWorker()
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
    this.#worker.on('exit', (code) => end(`the store's thread ended by itself (${code})`))
    this.#worker.on('message', (answered: Answered) => this.#receive(answered))
  }

  /** `transfer`: buffers of the input that are not needed here any more. */
  ask<Q extends Question>(question: Q, input: Inputs[Q], transfer: readonly ArrayBuffer[] = []): Promise<Outputs[Q]> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    return new Promise<Outputs[Q]>((resolve, reject) => {
      const id = this.#nextId++
      // The protocol pairs each question with its answer; a map of what is open cannot say so.
      this.#waiting.set(id, { answered: (output) => resolve(output as Outputs[Q]), failed: reject })
      const asked: Asked<Q> = { id, question, input }
      this.#worker.postMessage(asked, transfer)
    })
  }

  /** What was asked, and what still will be, is refused for this reason. */
  async end(reason: ServiceError): Promise<void> {
    this.#ended ??= reason
    await this.#worker.terminate()
    for (const { failed } of this.#waiting.values()) failed(reason)
    this.#waiting.clear()
  }

  #receive(answered: Answered): void {
    const waiting = this.#waiting.get(answered.id)
    if (waiting === undefined) return
    this.#waiting.delete(answered.id)
    if ('output' in answered) waiting.answered(answered.output)
    else waiting.failed(new ServiceError(answered.failure.code, answered.failure.message))
  }
}

/** The thread makes little garbage; what V8 would set aside for it by default is a fifth of the service's memory. */
const maxYoungGenerationSizeMb = 8

/** Built, the entry lies beside us. Run from the sources, as tests do, the thread needs a loader of its own. */
function startWorker(): Worker {
  if (!import.meta.url.endsWith('.ts')) {
    return new Worker(new URL('./writer.js', import.meta.url), { resourceLimits: { maxYoungGenerationSizeMb } })
  }
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx'))
  // What the package is loaded by does nothing in a thread; and a module of this kind cannot import by a package's name.
  const register = `data:text/javascript,import { register } from '${new URL('./esm/api/index.mjs', tsx).href}'; register()`
  return new Worker(new URL('./writer.ts', import.meta.url), { execArgv: ['--import', register] })
}
