import type { IncomingMessage } from 'node:http'

/** How many bytes of bodies are in hand at one time, over all requests. */
export class BodyBudget {
  readonly #limitBytes: number
  #inHandBytes = 0

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  hasRoomFor(bytes: number): boolean {
    return this.#inHandBytes + bytes <= this.#limitBytes
  }

  take(bytes: number): void {
    this.#inHandBytes += bytes
  }

  give(bytes: number): void {
    this.#inHandBytes -= bytes
  }
}

export type ReadBody =
  /** Whoever gets it gives its length back to the budget. */
  | { readonly kind: 'body'; readonly bytes: Buffer }
  | { readonly kind: 'too_large' }
  /** The budget is spent. */
  | { readonly kind: 'busy' }
  /** The client has gone. */
  | { readonly kind: 'aborted' }

/**
 * Reads a request's body as it is. What counts against the budget is what has arrived: a client that announces much and
 * sends nothing must not shut out the others.
 */
export function readBody(raw: IncomingMessage, mostBytes: number, budget: BodyBudget): Promise<ReadBody> {
  const announced = Number(raw.headers['content-length'] ?? 0)
  if (announced > mostBytes) return refused(raw, 'too_large')
  if (!budget.hasRoomFor(announced)) return refused(raw, 'busy')
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let size = 0
    const onData = (chunk: Buffer) => {
      if (size + chunk.length > mostBytes) giveUp('too_large')
      else if (!budget.hasRoomFor(chunk.length)) giveUp('busy')
      else {
        size += chunk.length
        budget.take(chunk.length)
        chunks.push(chunk)
      }
    }
    const onEnd = () => {
      stop()
      const [only] = chunks
      resolve({ kind: 'body', bytes: chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, size) })
    }
    const onGone = () => giveUp('aborted')
    const stop = () => {
      raw.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone)
    }
    const giveUp = (kind: 'too_large' | 'busy' | 'aborted') => {
      stop()
      budget.give(size)
      chunks.length = 0
      if (kind !== 'aborted') discard(raw)
      resolve({ kind })
    }
    raw.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone)
  })
}

/** Read on to the end of a refused body, but not for ever. */
const mostDiscardedBytes = 64 * 1024 * 1024

/**
 * Lets the rest of a body go by, so that the client comes to read our answer: closing at once would reset the connection,
 * and to MediaWiki's EventBus a reset is no refusal at all.
 */
export function discard(raw: IncomingMessage): void {
  let rest = mostDiscardedBytes
  raw.on('data', (chunk: Buffer) => {
    rest -= chunk.length
    if (rest < 0) raw.destroy()
  })
}

async function refused(raw: IncomingMessage, kind: 'too_large' | 'busy'): Promise<ReadBody> {
  discard(raw)
  return { kind }
}
