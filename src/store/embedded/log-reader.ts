import { Fifo } from '../../base/fifo.ts'
import type { Routable } from '../store.ts'
import { inBytes } from '../tables/format.ts'
import type { Numbers } from '../tables/numbers.ts'
import { streamIn } from '../tables/words.ts'
import type { PendingAppend } from './group.ts'
import type { LowWaterMark } from './low-water.ts'
import { type RecordPage, recordWidth, type WriterThread } from './protocol.ts'
import { LogRecord } from './record.ts'

const tailRecords = 4_000
const tailBytes = 33_554_432
/** A reader further behind than this is waited for before an append is answered: what it finds in the tail costs half. */
const followsWithin = 1_000
/** How long; and after a wait in vain none is for so long, so that a reader that stands still costs a tenth. */
const patienceMs = 100
const impatientForMs = 900
const readAtOnce = 500
const nothing: readonly Routable[] = []

export interface LogReaderParts {
  readonly thread: WriterThread
  readonly numbers: Numbers
  readonly mark: number
  readonly cursor: LowWaterMark
  /** Of the last event found at start: up to it, deliveries may have rows already. */
  readonly last: number
}

/**
 * Gives each durable record once, in order: from the tail, where what was just stored lies parsed, else from the disk.
 */
export class LogReader {
  readonly #parts: LogReaderParts
  /** Given out up to here. */
  #given: number
  #durable: number
  #tail: LogRecord[] = []
  #tailHead = 0
  #tailBytes = 0
  #isClosed = false
  #waiting: (() => void)[] = []
  /** To be answered when the reader has come to `pos`. */
  readonly #unanswered = new Fifo<{ readonly pos: number; readonly since: number; readonly answer: () => void }>()
  #patience: NodeJS.Timeout | undefined
  #patientFrom = 0

  constructor(parts: LogReaderParts) {
    this.#parts = parts
    this.#given = parts.cursor.cursor - 1
    this.#durable = parts.last
  }

  /** Events are durable from `first` on. */
  stored(first: number, appends: readonly PendingAppend[]): void {
    let count = 0
    let bytes = 0
    for (const append of appends) {
      count += append.events.length
      bytes += append.bytes
    }
    if (count === 0) return
    this.#durable = first + count - 1
    if (this.#hasRoom(first, count, bytes)) {
      let pos = first
      for (const { events, accepted } of appends) {
        for (const event of events) {
          this.#tail.push(new LogRecord(this.#parts.mark, pos, event.stream, accepted, event.bytes, event.message))
          pos += 1
        }
      }
      this.#tailBytes += bytes
    }
    this.#wake()
  }

  /**
   * Calls `answer` when the reader has come near to the last of what is durable, or time is up: whoever posts more than is
   * read slows down by that, instead of having it all read from the disk and parsed again.
   */
  whenNear(answer: () => void): void {
    const isNear = this.#durable - this.#given <= followsWithin
    if (this.#isClosed || isNear || performance.now() < this.#patientFrom) {
      answer()
      return
    }
    this.#unanswered.push({ pos: this.#durable - followsWithin, since: performance.now(), answer })
    this.#patience ??= setTimeout(() => this.#losePatience(), patienceMs)
  }

  async next(limit: number): Promise<readonly Routable[]> {
    for (;;) {
      if (this.#isClosed) return nothing
      if (this.#tail[this.#tailHead]?.pos === this.#given + 1) return this.#fromTail(limit)
      if (this.#given < this.#durable) {
        const page = await this.#fromDisk(limit)
        if (page.length > 0) return page
        continue
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  close(): void {
    this.#isClosed = true
    this.#tail = []
    this.#answerUpTo(Number.POSITIVE_INFINITY)
    this.#wake()
  }

  #answerUpTo(pos: number): void {
    const unanswered = this.#unanswered
    for (let first = unanswered.peek(); first !== undefined && first.pos <= pos; first = unanswered.peek()) {
      unanswered.shift()
      first.answer()
    }
    if (unanswered.length > 0) return
    clearTimeout(this.#patience)
    this.#patience = undefined
  }

  #losePatience(): void {
    const now = performance.now()
    const first = this.#unanswered.peek()
    if (first === undefined) return
    const waited = now - first.since
    if (waited < patienceMs) {
      this.#patience = setTimeout(() => this.#losePatience(), patienceMs - waited)
      return
    }
    this.#patientFrom = now + impatientForMs
    this.#answerUpTo(Number.POSITIVE_INFINITY)
  }

  /** A tail that the reader cannot reach soon would only take memory. */
  #hasRoom(first: number, count: number, bytes: number): boolean {
    const held = this.#tail.length - this.#tailHead
    if (held === 0) return first - this.#given <= tailRecords && bytes <= tailBytes
    const follows = this.#tail.at(-1)?.pos === first - 1
    return follows && held + count <= tailRecords && this.#tailBytes + bytes <= tailBytes
  }

  #fromTail(limit: number): readonly Routable[] {
    const end = Math.min(this.#tail.length, this.#tailHead + limit)
    const page: Routable[] = []
    for (let index = this.#tailHead; index < end; index += 1) {
      const record = this.#tail[index]
      if (record === undefined) break
      this.#tailBytes -= record.bytes.length
      this.#parts.cursor.given(record.pos)
      page.push({ record, known: undefined })
      this.#given = record.pos
    }
    this.#tailHead = end
    if (end === this.#tail.length) {
      this.#tail = []
      this.#tailHead = 0
    } else if (end >= 1_000) {
      this.#tail = this.#tail.slice(end)
      this.#tailHead = 0
    }
    this.#answerUpTo(this.#given)
    return page
  }

  async #fromDisk(limit: number): Promise<readonly Routable[]> {
    const { thread, last } = this.#parts
    const after = this.#given
    const tailFrom = this.#tail[this.#tailHead]?.pos
    const upTo = tailFrom === undefined ? this.#durable : tailFrom - 1
    const page = await thread.ask('read', { after, upTo, limit: Math.min(limit, readAtOnce), withKnown: after < last })
    if (this.#isClosed) return nothing
    const records = this.#unpack(page)
    // Nothing lies there any more: retention has been there before the last stop.
    if (records.length === 0) this.#given = upTo
    this.#answerUpTo(this.#given)
    return records
  }

  #unpack({ records, payloads, known }: RecordPage): readonly Routable[] {
    const { numbers, mark, cursor } = this.#parts
    const page: Routable[] = []
    let offset = 0
    let nextKnown = 0
    for (let at = 0; at < records.length; at += recordWidth) {
      const pos = records[at] ?? 0
      const length = records[at + 3] ?? 0
      const bytes = new Uint8Array(payloads, offset, length)
      offset += length
      let rules: Set<string> | undefined
      for (; nextKnown < known.length && (known[nextKnown] ?? 0) <= pos; nextKnown += 2) {
        rules ??= new Set()
        rules.add(numbers.rule(known[nextKnown + 1] ?? 0))
      }
      cursor.given(pos)
      this.#given = pos
      const number = records[at + 1] ?? 0
      const stream = number === inBytes ? streamIn(bytes) : numbers.stream(number)
      const record = new LogRecord(mark, pos, stream, records[at + 2] ?? 0, bytes)
      page.push({ record, known: rules })
    }
    return page
  }

  #wake(): void {
    const waiting = this.#waiting
    if (waiting.length === 0) return
    this.#waiting = []
    for (const wake of waiting) wake()
  }
}
