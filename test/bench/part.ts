import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/*
 * The target, the driver and each limit are processes of their own. They are told what to do by lines of JSON on stdin
 * and report by lines of JSON on stdout; they end when their stdin does, so none outlives a bench that was killed.
 */

/** The bench's end of such a process. */
export class Part<Command, Report> {
  readonly pid: number
  readonly #child: ChildProcess
  readonly #reports: Report[] = []
  #waiting: { resolve: (report: Report) => void; reject: (error: Error) => void } | undefined
  #ended: Error | undefined

  constructor(file: string, ...args: readonly string[]) {
    const child = spawn(process.execPath, ['--import', 'tsx', new URL(file, import.meta.url).pathname, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    if (child.pid === undefined) throw new Error(`${file} could not be started`)
    this.pid = child.pid
    this.#child = child
    createInterface({ input: child.stdout }).on('line', (line) => {
      const report: Report = JSON.parse(line)
      if (this.#waiting === undefined) this.#reports.push(report)
      else this.#waiting.resolve(report)
      this.#waiting = undefined
    })
    child.once('exit', (code) => {
      this.#ended = new Error(`${file} ended with ${code}`)
      this.#waiting?.reject(this.#ended)
    })
  }

  send(command: Command): void {
    this.#child.stdin?.write(`${JSON.stringify(command)}\n`)
  }

  /** The next report; they come in the order in which they were made. One caller at a time. */
  next(): Promise<Report> {
    const report = this.#reports.shift()
    if (report !== undefined) return Promise.resolve(report)
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
    })
  }

  ask(command: Command): Promise<Report> {
    this.send(command)
    return this.next()
  }

  async stop(): Promise<void> {
    if (this.#ended !== undefined) return
    const gone = once(this.#child, 'exit')
    this.#child.stdin?.end()
    await gone
  }
}

/** The other end, within such a process. */
export function serveCommands<Command>(obey: (command: Command) => void): void {
  const input = createInterface({ input: process.stdin })
  input.on('line', (line) => obey(JSON.parse(line)))
  input.on('close', () => process.exit(0))
}

export function report(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

/** Milliseconds on a clock that all processes of a machine share and nobody sets. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
