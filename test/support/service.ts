import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const program = resolve('dist/cli/cli.js')
const startLimitMs = 30_000

export interface ServiceOptions {
  /** One rule file, in YAML. */
  readonly rules: string
  /** A configuration file, in YAML; the flags for rules, data and port go beside it. */
  readonly config?: string
  /** An existing data folder, which stays when the service is closed. */
  readonly data?: string
  readonly env?: Readonly<Record<string, string>>
}

export interface Posted {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

/** The process ended before it said that it was ready. */
export class StartFailed extends Error {
  readonly exitCode: number | null
  readonly output: string

  constructor(exitCode: number | null, output: string) {
    super(`the service ended with ${exitCode} before it was ready:\n${output}`)
    this.name = 'StartFailed'
    this.exitCode = exitCode
    this.output = output
  }
}

/** The built service as a real process, started as an operator would. A restart takes another port. */
export interface Service {
  readonly url: string
  readonly pid: number
  readonly data: string
  /** What it wrote since its first start, both channels in one. */
  readonly output: string
  readonly isRunning: boolean
  /** Rejects where there is no connection, or no whole answer. */
  post(events: unknown, search?: string): Promise<Posted>
  get(path: string): Promise<{ readonly status: number; readonly body: unknown }>
  writeRules(text: string): Promise<void>
  signal(signal: NodeJS.Signals): void
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>
  /** Starts again what has ended, on the same data. Rejects with StartFailed. */
  restart(): Promise<void>
  /** Resident memory, in bytes. */
  residentBytes(): Promise<number>
  /** Of that, what is no file's: heap and stacks. */
  anonymousBytes(): Promise<number>
  /** Kills it if need be, and removes what it was given. */
  close(): Promise<void>
}

export async function openService(options: ServiceOptions): Promise<Service> {
  if (!existsSync(program)) throw new Error('the service is not built: npm run build')
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-service-'))
  const data = options.data ?? join(folder, 'data')
  const rulesFile = join(folder, 'rules.yaml')
  await writeFile(rulesFile, options.rules)
  const args = ['serve', '--rules', rulesFile, '--data', data, '--port', '0']
  if (options.config !== undefined) {
    const configFile = join(folder, 'config.yaml')
    await writeFile(configFile, options.config)
    args.push('--config', configFile)
  }
  const service = new ServiceProcess(folder, data, rulesFile, args, {
    ...process.env,
    ...options.env,
  })
  try {
    await service.restart()
  } catch (error) {
    await service.close()
    throw error
  }
  return service
}

class ServiceProcess implements Service {
  readonly data: string
  readonly #folder: string
  readonly #rulesFile: string
  readonly #args: readonly string[]
  readonly #env: NodeJS.ProcessEnv
  #child: ChildProcess | undefined
  #url = ''
  #output = ''
  readonly #killChild = () => {
    this.#child?.kill('SIGKILL')
  }

  constructor(folder: string, data: string, rulesFile: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#folder = folder
    this.data = data
    this.#rulesFile = rulesFile
    this.#args = args
    this.#env = env
    process.once('exit', this.#killChild)
  }

  get url(): string {
    return this.#url
  }

  get pid(): number {
    const pid = this.#child?.pid
    if (pid === undefined) throw new Error('the service is not running')
    return pid
  }

  get output(): string {
    return this.#output
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  async post(events: unknown, search = ''): Promise<Posted> {
    const response = await fetch(`${this.#url}/v1/events${search}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: typeof events === 'string' ? events : JSON.stringify(events),
    })
    return {
      status: response.status,
      headers: response.headers,
      body: await response.text(),
    }
  }

  async get(path: string): Promise<{ readonly status: number; readonly body: unknown }> {
    const response = await fetch(`${this.#url}${path}`).catch((cause: unknown) => {
      const state = this.isRunning ? 'runs' : `ended with ${this.#child?.exitCode ?? this.#child?.signalCode}`
      throw new Error(`no answer to GET ${path}; the service ${state}:\n${this.#output.slice(-4_000)}`, { cause })
    })
    const text = await response.text()
    const isJson = /json/.test(response.headers.get('content-type') ?? '')
    return { status: response.status, body: isJson ? JSON.parse(text) : text }
  }

  async writeRules(text: string): Promise<void> {
    await writeFile(this.#rulesFile, text)
  }

  signal(signal: NodeJS.Signals): void {
    process.kill(this.pid, signal)
  }

  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  stop(): Promise<number | null> {
    return this.#end('SIGTERM')
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child
    if (child === undefined) return null
    if (this.isRunning) {
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
    }
    return child.exitCode
  }

  async restart(): Promise<void> {
    if (this.isRunning) throw new Error('the service runs already')
    const child = spawn(process.execPath, [program, ...this.#args], {
      env: this.#env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    // The port of the process before may be another's by now.
    this.#url = ''
    let said = ''
    const giveUp = setTimeout(() => {
      said += `not ready within ${startLimitMs} ms`
      child.kill('SIGKILL')
    }, startLimitMs)
    try {
      this.#url = await new Promise<string>((resolve, reject) => {
        const hear = (chunk: Buffer) => {
          said += chunk.toString()
          this.#output += chunk.toString()
          const ready = /listens on (http:\/\/[^\s,;]+)/i.exec(said)?.[1]
          if (ready !== undefined) resolve(ready)
        }
        child.stdout.on('data', hear)
        child.stderr.on('data', hear)
        child.once('error', reject)
        // `close` comes after the last output, `exit` may come before it.
        child.once('close', (code) => reject(new StartFailed(code, said)))
      })
    } finally {
      clearTimeout(giveUp)
    }
  }

  residentBytes(): Promise<number> {
    return this.#memory('VmRSS')
  }

  anonymousBytes(): Promise<number> {
    return this.#memory('RssAnon')
  }

  async #memory(name: string): Promise<number> {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8')
    return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
  }

  async close(): Promise<void> {
    await this.kill()
    process.off('exit', this.#killChild)
    await rm(this.#folder, { recursive: true, force: true })
  }
}
