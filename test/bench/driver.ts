import { connect, type Socket } from 'node:net'
import { bodyText, idNumber, idPlaces, writeIds } from './event.ts'
import { monotonicMs, report, serveCommands } from './part.ts'
import { Framer, statusOf } from './wire.ts'

/*
 * What posts the events: a process of its own that writes prebuilt requests into raw sockets. Each connection has one
 * request under way. What is answered 503 is posted again, as a producer should.
 */

export interface DriverCommand {
  readonly port: number
  readonly connections: number
  /** Events per request. */
  readonly batch: number
  /** A multiple of `batch`. */
  readonly events: number
  /** Number of the first event; no two runs share one. */
  readonly from: number
  /** Requests per second, sent on time whatever the answers do; undefined for as fast as answers come. */
  readonly perSecond: number | undefined
}

export interface DriverReport {
  /** When the first request was written, and when the last answer was in, by `monotonicMs`. */
  readonly first: number
  readonly last: number
  /** How many requests were turned away with 503 and sent again. */
  readonly turnedAway: number
  /** From a request to its answer, in ms. */
  readonly p50: number
  readonly p99: number
  /** With `perSecond` only: id number of an event, then when it was to be sent; and so on. */
  readonly sent: readonly number[]
}

/** How soon what was answered 503 is sent again. */
const againMs = 20

class Run {
  readonly #command: DriverCommand
  readonly #requests: number
  readonly #took: Float64Array
  readonly #idle: Connection[] = []
  readonly #sent: number[] = []
  /** With a pace: when those became due that are still to be sent. */
  readonly #late: number[] = []
  readonly first = monotonicMs()
  #connections: readonly Connection[] = []
  turnedAway = 0
  #begun = 0
  #answered = 0

  constructor(command: DriverCommand) {
    this.#command = command
    this.#requests = command.events / command.batch
    this.#took = new Float64Array(this.#requests)
  }

  start(connections: readonly Connection[]): void {
    this.#connections = connections
    if (this.#command.perSecond === undefined) for (const connection of connections) this.free(connection)
    else {
      this.#idle.push(...connections)
      this.#keepPace(this.#command.perSecond)
    }
  }

  /** A connection has nothing to do. */
  free(connection: Connection): void {
    if (this.#command.perSecond !== undefined) this.#idle.push(connection)
    else if (this.#begun < this.#requests) connection.post(this.#nextEvent())
  }

  answered(ms: number): void {
    this.#took[this.#answered++] = ms
    if (this.#answered < this.#requests) return
    const last = monotonicMs()
    for (const connection of this.#connections) connection.close()
    this.#took.sort()
    const at = (share: number) => this.#took[Math.floor(share * (this.#requests - 1))] ?? Number.NaN
    const { first, turnedAway } = this
    const done: DriverReport = { first, last, turnedAway, p50: at(0.5), p99: at(0.99), sent: this.#sent }
    report(done)
  }

  #nextEvent(): number {
    return this.#command.from + this.#begun++ * this.#command.batch
  }

  #keepPace(perSecond: number): void {
    const now = monotonicMs()
    const due = Math.min(this.#requests, Math.floor(((now - this.first) / 1000) * perSecond))
    // Stamped when due, not when a connection is free: answers that come late must not hide behind themselves.
    for (let begun = this.#begun + this.#late.length; begun < due; begun++) this.#late.push(now)
    while (this.#late.length > 0) {
      const connection = this.#idle.pop()
      if (connection === undefined) break
      this.#sent.push(idNumber(this.#command.from + this.#begun), this.#late.shift() ?? now)
      connection.post(this.#nextEvent())
    }
    if (this.#begun < this.#requests) setTimeout(() => this.#keepPace(perSecond), 1)
  }
}

class Connection {
  readonly #socket: Socket
  readonly #request: Buffer
  readonly #places: readonly number[]
  run: Run | undefined
  #postedAt = 0

  constructor(port: number, batch: number) {
    const body = bodyText(batch)
    const head = [
      'POST /v1/events HTTP/1.1',
      `host: 127.0.0.1:${port}`,
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
    ]
    this.#request = Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`)
    this.#places = idPlaces(this.#request)
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const framer = new Framer()
    const each = (bytes: Buffer, start: number) => this.#answer(bytes, start)
    this.#socket.on('data', (chunk) => framer.push(chunk, each))
  }

  opened(): Promise<void> {
    return new Promise((resolve, reject) => this.#socket.once('connect', resolve).once('error', reject))
  }

  /** Posts the n-th event and what fits beside it. The buffer is free again: the request before it has been answered. */
  post(n: number): void {
    writeIds(this.#request, this.#places, n)
    this.#postedAt = monotonicMs()
    this.#socket.write(this.#request)
  }

  close(): void {
    this.#socket.destroy()
  }

  #answer(bytes: Buffer, start: number): void {
    const run = this.run
    if (run === undefined) return
    const status = statusOf(bytes, start)
    if (status === 503) {
      run.turnedAway++
      setTimeout(() => this.#socket.write(this.#request), againMs)
      return
    }
    if (status !== 201) throw new Error(`expected 201, got ${bytes.toString('latin1', start, start + 2000)}`)
    const ms = monotonicMs() - this.#postedAt
    run.free(this)
    run.answered(ms)
  }
}

async function drive(command: DriverCommand): Promise<void> {
  const connections = Array.from({ length: command.connections }, () => new Connection(command.port, command.batch))
  await Promise.all(connections.map((connection) => connection.opened()))
  const run = new Run(command)
  for (const connection of connections) connection.run = run
  run.start(connections)
}

serveCommands<DriverCommand>((command) => {
  drive(command).catch((error: unknown) => {
    throw error
  })
})
