const blankLine = Buffer.from('\r\n\r\n')

/** One message in `bytes`: its head from `start`, its body from `body` up to `end`. */
type EachMessage = (bytes: Buffer, start: number, body: number, end: number) => void

/**
 * Cuts what comes out of a socket into HTTP/1.1 messages, pipelined or in pieces. It knows bodies with a content-length
 * only, and says so loudly when it meets another: that is all this bench needs, and it costs next to nothing.
 */
export class Framer {
  #rest: Buffer | undefined

  push(chunk: Buffer, each: EachMessage): void {
    const bytes = this.#rest === undefined ? chunk : Buffer.concat([this.#rest, chunk])
    let start = 0
    while (start < bytes.length) {
      const headEnd = bytes.indexOf(blankLine, start)
      if (headEnd === -1) break
      const body = headEnd + blankLine.length
      const end = body + contentLength(bytes.toString('latin1', start, headEnd))
      if (end > bytes.length) break
      each(bytes, start, body, end)
      start = end
    }
    this.#rest = start < bytes.length ? bytes.subarray(start) : undefined
  }
}

function contentLength(head: string): number {
  const digits = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1]
  if (digits !== undefined) return Number(digits)
  if (/\r\ntransfer-encoding:/i.test(head)) throw new Error(`the bench reads no chunked bodies: ${head}`)
  return 0
}

/** Status of the response that begins at `start`. */
export function statusOf(bytes: Buffer, start: number): number {
  return Number(bytes.toString('latin1', start + 9, start + 12))
}
