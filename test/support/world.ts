import { randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { request } from 'undici'
import { onTestFinished } from 'vitest'
import type { EventsAnswer, EventView, RuleSummary } from '../../src/api/contract.ts'
import type { Config } from '../../src/config/config.ts'
import { type RunningService, startService } from '../../src/main.ts'

/** The whole service in this process, on a free port and a folder of its own, with rules that can be rewritten. */
export interface World {
  readonly service: RunningService
  /** Appends one event of the stream; answers its `meta.id`. */
  post(stream: string, fields?: Readonly<Record<string, unknown>>): Promise<string>
  postAll(events: readonly unknown[]): Promise<number>
  /** What became of it. */
  event(id: string): Promise<EventView | undefined>
  rule(name: string): Promise<RuleSummary>
  ask(method: 'GET' | 'POST', path: string, body?: unknown): Promise<{ status: number; body: unknown }>
  /** Puts other rules in force. */
  rewrite(rules: string): Promise<void>
  /** Stops the service and starts another on the same folder. */
  restart(): Promise<void>
}

export interface WorldOptions {
  readonly stopTimeoutMs?: number
  /** How much dead letters may take. */
  readonly deadBytes?: number
  readonly wikis?: Config['wikis']
  readonly targets?: Config['targets']
}

export function anEvent(stream: string, fields: Readonly<Record<string, unknown>> = {}) {
  return { $schema: '/test/1.0.0', meta: { stream, id: randomUUID(), domain: 'wiki.example' }, ...fields }
}

export async function openWorld(rules: string, options: WorldOptions = {}): Promise<World> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-world-'))
  const file = join(folder, 'rules.yaml')
  await writeFile(file, rules)
  const config: Config = {
    listen: { host: '127.0.0.1', port: 0 },
    store: {
      embedded: {
        path: join(folder, 'data'),
        retention: { ageMs: 86_400_000, sizeBytes: 2 ** 30, deadBytes: options.deadBytes ?? 2 ** 29 },
      },
    },
    rules: [file],
    schemas: { from: [], unknown: 'accept' },
    intake: { maxBodyBytes: 10_485_760, allow: undefined },
    admin: { token: undefined },
    stopTimeoutMs: options.stopTimeoutMs ?? 5_000,
    log: { level: 'fatal' },
    wikis: options.wikis ?? [],
    targets: options.targets ?? {},
  }
  const log = pino({ level: 'silent' })
  const start = () => startService({ config, log, readConfig: async () => ({ config, problems: [] }) })
  let service = await start()
  onTestFinished(async () => {
    await service.stop()
    await rm(folder, { recursive: true, force: true })
  })

  async function ask(method: 'GET' | 'POST', path: string, body?: unknown) {
    const answer = await request(`${service.address}${path}`, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    const text = await answer.body.text()
    return { status: answer.statusCode, body: text === '' ? undefined : (JSON.parse(text) as unknown) }
  }

  const postAll = async (events: readonly unknown[]) => (await ask('POST', '/v1/events', events)).status
  return {
    get service() {
      return service
    },
    async post(stream, fields) {
      const event = anEvent(stream, fields)
      const status = await postAll([event])
      if (status !== 201) throw new Error(`the event was answered ${status}`)
      return event.meta.id
    },
    postAll,
    async event(id) {
      const answer = await ask('GET', `/v1/events/${id}`)
      return answer.status === 404 ? undefined : (answer.body as EventsAnswer).events[0]
    },
    async rule(name) {
      return (await ask('GET', `/v1/rules/${name}`)).body as RuleSummary
    },
    ask,
    async rewrite(text) {
      await writeFile(file, text)
      await service.reload()
    },
    async restart() {
      await service.stop()
      service = await start()
    },
  }
}
