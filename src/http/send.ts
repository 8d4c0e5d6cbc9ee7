/** A request, fully rendered. */
export interface OutboundRequest {
  readonly method: string
  /** Scheme, host and port, e.g. `https://wiki.example:8080`. */
  readonly origin: string
  /** Path and query, percent-encoded, beginning with a slash. */
  readonly path: string
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | string | null
  readonly timeoutMs: number
}

/** What came back. */
export interface Answer {
  readonly kind: 'answer'
  readonly status: number
  /** Lower-case names; several values of one name are joined by `, `. */
  readonly headers: Readonly<Record<string, string>>
  /** At most `answerLimit` bytes of the body. */
  readonly body: Uint8Array
  /** Whether there was more of it. */
  readonly truncated: boolean
}

/** Nothing usable came back. */
export interface NoAnswer {
  readonly kind: 'none'
  readonly error: 'refused' | 'unreachable' | 'timeout' | 'reset' | 'garbage' | 'aborted'
  /** One sentence for the journal. */
  readonly message: string
  /** False only where it is certain that not one byte of the request reached the target. */
  readonly sent: boolean
}

export type Reply = Answer | NoAnswer

/** How much of an answer's body is kept. */
export const answerLimit = 1024 * 1024

/** Whatever the target does is a reply; this rejects only if we are broken. */
export type Send = (request: OutboundRequest, signal?: AbortSignal) => Promise<Reply>
