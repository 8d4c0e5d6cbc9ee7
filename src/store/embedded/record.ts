import { type JsonObject, metaOf, parseMessage, type StreamRecord, withEnvelope } from '../../event/event.ts'
import { formatEventId } from '../tables/event-id.ts'

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
      const message = this.#message ?? parseMessage(this.bytes)
      const meta = metaOf(message)
      const isComplete = message === undefined || (meta?.id !== undefined && meta.dt !== undefined)
      this.#message = isComplete ? message : withEnvelope(message, this.id, this.accepted)
    }
    return this.#message
  }
}
