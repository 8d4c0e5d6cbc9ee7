import type { Dispatcher } from 'undici'
import type { ClientPool, Connection } from './client-pool.ts'
import { noAnswerOf } from './no-answer.ts'
import { type Answer, answerLimit, type NoAnswer, type Reply } from './send.ts'

type RawHeaders = Parameters<NonNullable<Dispatcher.DispatchHandler['onResponseStart']>>[2]

/** Beyond `answerLimit` a body is read only to save the connection; beyond this the connection is given up. */
const readLimit = 16 * 1024 * 1024

const noBytes = new Uint8Array(0)

/** Who must hear that a flight is over. */
export interface Landing {
  now(): number
  landed(flight: Flight): void
}

/** One call on its way: undici tells it what happens, and it settles once. */
export class Flight implements Dispatcher.DispatchHandler {
  readonly deadline: number
  readonly signal: AbortSignal | undefined
  /** Its place among the flights; theirs to write. */
  place = -1
  readonly #pool: ClientPool
  readonly #connection: Connection
  readonly #landing: Landing
  readonly #resolve: (reply: Reply) => void
  #isSettled = false
  #sent = false
  #status = 0
  #headers: RawHeaders = {}
  #received = 0
  /** What is kept of the body is its first `#kept` bytes; of one chunk no copy is made. */
  #body: Uint8Array = noBytes
  #kept = 0

  constructor(
    pool: ClientPool,
    landing: Landing,
    deadline: number,
    signal: AbortSignal | undefined,
    resolve: (reply: Reply) => void,
  ) {
    this.#pool = pool
    this.#connection = pool.take()
    this.#landing = landing
    this.deadline = deadline
    this.signal = signal
    this.#resolve = resolve
  }

  begin(options: Dispatcher.DispatchOptions): void {
    this.#connection.client.dispatch(options, this)
  }

  /** Ends the call from our side. What was sent cannot be taken back. */
  giveUp(error: NoAnswer['error'], message: string): void {
    if (this.#isSettled) return
    this.#settle({ kind: 'none', error, message, sent: this.#sent })
    this.#pool.drop(this.#connection)
  }

  /** Called right before the request is written to a socket that is connected. */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    // A second time would mean that undici repeats a call that may have run; that is not its decision.
    if (this.#sent) controller.abort(new Error('the request was already sent once'))
    this.#sent = true
  }

  /** Called for interim answers too (103 and the like); the last one counts. */
  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: RawHeaders): void {
    this.#status = status
    this.#headers = headers
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Uint8Array): void {
    this.#received += chunk.length
    if (this.#kept < answerLimit) this.#keep(chunk)
    if (this.#received <= readLimit || this.#isSettled) return
    this.#settle(this.#answer())
    this.#pool.drop(this.#connection)
  }

  onResponseEnd(): void {
    if (this.#isSettled) return
    this.#pool.give(this.#connection, this.#landing.now())
    this.#settle(this.#answer())
  }

  /** The controller is undefined where the request never started. */
  onResponseError(_controller: unknown, error: Error): void {
    if (this.#isSettled) return
    this.#settle(noAnswerOf(error, this.#sent))
    this.#pool.drop(this.#connection)
  }

  #keep(chunk: Uint8Array): void {
    const more = chunk.length > answerLimit - this.#kept ? chunk.subarray(0, answerLimit - this.#kept) : chunk
    const length = this.#kept + more.length
    if (this.#kept === 0) {
      this.#body = more
    } else {
      if (length > this.#body.length) this.#grow(length)
      this.#body.set(more, this.#kept)
    }
    this.#kept = length
  }

  /** One buffer, not a list of chunks: a body that comes byte by byte would cost a hundred times its size. */
  #grow(length: number): void {
    const larger = new Uint8Array(Math.min(answerLimit, Math.max(4096, 2 * length)))
    larger.set(this.#body.subarray(0, this.#kept))
    this.#body = larger
  }

  #answer(): Answer {
    const body = this.#kept === this.#body.length ? this.#body : this.#body.subarray(0, this.#kept)
    return {
      kind: 'answer',
      status: this.#status,
      headers: hasOneEach(this.#headers) ? this.#headers : joined(this.#headers),
      body,
      truncated: this.#received > this.#kept,
    }
  }

  #settle(reply: Reply): void {
    this.#isSettled = true
    this.#landing.landed(this)
    this.#resolve(reply)
  }
}

function hasOneEach(headers: RawHeaders): headers is Record<string, string> {
  for (const name in headers) if (typeof headers[name] !== 'string') return false
  return true
}

function joined(headers: RawHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(', ') : (value ?? '')]),
  )
}
