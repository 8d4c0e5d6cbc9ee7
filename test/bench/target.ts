import type { AddressInfo } from 'node:net'
import { createServer, type Socket } from 'node:net'
import { readIdNumber } from './event.ts'
import { monotonicMs, report, serveCommands } from './part.ts'
import { Framer } from './wire.ts'

/*
 * What the calls go to: a process of its own that answers every request alike and counts. It speaks HTTP with its bare
 * hands, so that it is not what is measured.
 */

export type TargetCommand =
  | {
      readonly kind: 'begin'
      readonly latencyMs: number
      readonly status: number
      /** Counts of requests, ascending, at whose arrival to report. */
      readonly marks: readonly number[]
      /** Whether to note which event arrived when. */
      readonly note: boolean
    }
  | { readonly kind: 'end' }

export interface TargetReport {
  readonly kind: 'listening' | 'ready' | 'mark' | 'total'
  readonly port: number
  readonly count: number
  /** When the first request since `begin` arrived, and when this was reported, by `monotonicMs`. */
  readonly first: number
  readonly at: number
  /** From a request's arrival to its answer, on average, in ms. */
  readonly meanLatencyMs: number
  /** Id number of an event, then its arrival; and so on. */
  readonly arrivals: readonly number[]
}

const answers: Readonly<Record<number, string>> = {
  200: 'HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok',
  429: 'HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nno',
  500: 'HTTP/1.1 500 Broken\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nno',
}

/** Timers tick about each millisecond, so an answer leaves at the tick nearest to its time: on average at its time. */
const halfTickMs = 0.5

let latencyMs = 0
let answer = answers[200]
let marks: readonly number[] = []
let note = false
let count = 0
let first = 0
let delayedMs = 0
let arrivals: number[] = []
/** What waits to be answered. All wait equally long, so the first one is due first. */
let held: { readonly socket: Socket; readonly arrived: number }[] = []
let ticking = false

function tell(kind: TargetReport['kind'], port = 0): void {
  const at = monotonicMs()
  const meanLatencyMs = count === 0 ? 0 : delayedMs / count
  const told: TargetReport = { kind, port, count, first, at, meanLatencyMs, arrivals: kind === 'total' ? arrivals : [] }
  report(told)
}

function arrive(socket: Socket, bytes: Buffer, body: number): void {
  count++
  if (count === 1) first = monotonicMs()
  if (note) arrivals.push(readIdNumber(bytes, body), monotonicMs())
  if (count === marks[0]) {
    marks = marks.slice(1)
    tell('mark')
  }
  if (latencyMs === 0) {
    socket.write(answer ?? '', 'latin1')
    return
  }
  held.push({ socket, arrived: monotonicMs() })
  if (!ticking) {
    ticking = true
    setTimeout(tick, 1)
  }
}

function tick(): void {
  const now = monotonicMs()
  let due = 0
  for (const { socket, arrived } of held) {
    if (arrived + latencyMs > now + halfTickMs) break
    delayedMs += now - arrived
    socket.write(answer ?? '', 'latin1')
    due++
  }
  held = held.slice(due)
  ticking = held.length > 0
  if (ticking) setTimeout(tick, 1)
}

const server = createServer({ noDelay: true }, (socket) => {
  const framer = new Framer()
  const each = (bytes: Buffer, _start: number, body: number) => arrive(socket, bytes, body)
  socket.on('data', (chunk) => framer.push(chunk, each))
  // A caller that is killed resets its connections; that is no news here.
  socket.on('error', () => socket.destroy())
})

serveCommands<TargetCommand>((command) => {
  if (command.kind === 'end') {
    tell('total')
    return
  }
  latencyMs = command.latencyMs
  answer = answers[command.status]
  marks = command.marks
  note = command.note
  count = 0
  first = 0
  delayedMs = 0
  arrivals = []
  tell('ready')
})

server.listen(0, '127.0.0.1', () => {
  const address: AddressInfo | string | null = server.address()
  if (address === null || typeof address === 'string') throw new Error('the target has no port')
  tell('listening', address.port)
})
