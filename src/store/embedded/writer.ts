import { parentPort } from 'node:worker_threads'
import { ServiceError } from '../../base/errors.ts'
import { isFull } from './database.ts'
import type { Answered, Answers, Asked, Question } from './protocol.ts'
import { WriterStore } from './writer-store.ts'

/** Entry of the thread that holds the only connection. It answers one question after another. */
const port = parentPort
if (port === null) throw new Error('writer.ts is run as a worker thread')

const store = new WriterStore()
let turn: Promise<void> = Promise.resolve()

port.on('message', (asked: Asked) => {
  turn = turn.then(() => respond(asked))
})

async function respond<Q extends Question>({ id, question, input }: Asked<Q>): Promise<void> {
  const answers: Answers = store.answers
  try {
    const output = await answers[question](input)
    answer({ id, output }, transferable(output))
  } catch (error) {
    answer({ id, failure: explain(error) }, [])
  }
}

function answer(answered: Answered, transfer: readonly ArrayBuffer[]): void {
  port?.postMessage(answered, transfer)
}

/** Payloads of a page go without being copied. */
function transferable(output: unknown): ArrayBuffer[] {
  if (typeof output !== 'object' || output === null || !('payloads' in output)) return []
  return output.payloads instanceof ArrayBuffer ? [output.payloads] : []
}

function explain(error: unknown): Extract<Answered, { failure: object }>['failure'] {
  if (error instanceof ServiceError) return { code: error.code, message: error.message }
  const message = error instanceof Error ? error.message : String(error)
  return isFull(error) ? { code: 'STORE_FULL', message } : { code: 'STORE_BROKEN', message }
}
