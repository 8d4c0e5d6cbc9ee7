import type { IncomingMessage } from 'node:http'

/**
 * How many bytes of bodies are in hand at one time, over all requests. Where that is too little, bodies that have stalled
 * make room for others.
 */
export class BodyBudget {
  readonly #limitBytes: number
  readonly #silentMs: number
  #inHandBytes = 0
  /** What ends a body that is not whole yet, and when the last of it came: silent for longest first. */
  readonly #open = new Map<() => void, number>()

  constructor(limitBytes: number, silentMs: number) {
    this.#limitBytes = limitBytes
    this.#silentMs = silentMs
  }

  makesRoomFor(bytes: number): boolean {
    if (this.#hasRoomFor(bytes)) return true
    this.#endSilent()
    return this.#hasRoomFor(bytes)
  }

  take(bytes: number): void {
    this.#inHandBytes += bytes
  }

  give(bytes: number): void {
    this.#inHandBytes -= bytes
  }

  /** More of a body came, and it may not be all. */
  heard(end: () => void): void {
    this.#open.delete(end)
    this.#open.set(end, performance.now())
  }

  closed(end: () => void): void {
    this.#open.delete(end)
  }

  #hasRoomFor(bytes: number): boolean {
    return this.#inHandBytes + bytes <= this.#limitBytes
  }

  #endSilent(): void {
    const silentSince = performance.now() - this.#silentMs
    for (const [end, heardAt] of this.#open) {
      if (heardAt > silentSince) return
      end()
    }
  }
}

export type ReadBody =
  /** Whoever gets it gives its length back to the budget. */
  | { readonly kind: 'body'; readonly bytes: Buffer }
  | { readonly kind: 'too_large' }
  /** The budget is spent. */
  | { readonly kind: 'busy' }
  /** Others need the room, and no more of it comes. */
  | { readonly kind: 'silent' }
  /** The client has gone. */
  | { readonly kind: 'aborted' }

/**
 * Reads a request's body as it is. What counts against the budget is what has arrived: a client that announces much and
 * sends nothing must not shut out the others.
 */
export function readBody(raw: IncomingMessage, mostBytes: number, budget: BodyBudget): Promise<ReadBody> {
  const announced = Number(raw.headers['content-length'] ?? 0)
  if (announced > mostBytes) return refused(raw, 'too_large')
  if (!budget.makesRoomFor(announced)) return refused(raw, 'busy')
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let size = 0
    const onData = (chunk: Buffer) => {
      // Most bodies come whole, in one chunk.
      if (chunk.length !== announced) budget.heard(onSilent)
      if (size + chunk.length > mostBytes) giveUp('too_large')
      else if (!budget.makesRoomFor(chunk.length)) giveUp('busy')
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
    const onSilent = () => giveUp('silent')
    const stop = () => {
      budget.closed(onSilent)
      raw.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone)
    }
    const giveUp = (kind: 'too_large' | 'busy' | 'silent' | 'aborted') => {
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
