import { type JsonObject, metaOf, type StreamRecord, withEnvelope } from '../../event/event.ts'
import { formatEventId } from './event-id.ts'

/** An event at its position. What costs something is made when it is first asked for. */
export class LogRecord implements StreamRecord {
  readonly pos: number
  readonly stream: string
  readonly accepted: number
  readonly bytes: Uint8Array
  readonly #mark: number
  #id: string | undefined
  #message: JsonObject | undefined
  #isRead: boolean

  /** `message`: the bytes, parsed, where that has been done. */
  constructor(mark: number, pos: number, stream: string, accepted: number, bytes: Uint8Array, message?: JsonObject) {
    this.#mark = mark
    this.pos = pos
    this.stream = stream
    this.accepted = accepted
    this.bytes = bytes
    this.#isRead = false
    this.#message = message
  }

  get id(): string {
    this.#id ??= formatEventId(this.#mark, this.accepted, this.pos)
    return this.#id
  }

  get message(): JsonObject | undefined {
    if (!this.#isRead) {
      this.#isRead = true
      const message = this.#message ?? parsePayload(this.bytes)
      const meta = metaOf(message)
      const isComplete = message === undefined || (meta?.id !== undefined && meta.dt !== undefined)
      this.#message = isComplete ? message : withEnvelope(message, this.id, this.accepted)
    }
    return this.#message
  }
}

export function parsePayload(bytes: Uint8Array): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'))
    return isObject(value) ? value : undefined
  } catch {
    return undefined // other producers of a log may write anything; the engine makes a dead letter of it
  }
}

/** JSON.parse yields nothing but JSON. */
function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The stream of an event that was stored without its stream's name. */
export function streamIn(payload: Uint8Array): string {
  const stream = metaOf(parsePayload(payload))?.stream
  if (typeof stream !== 'string') throw new Error('the store holds an event that does not say which stream it is of')
  return stream
}
