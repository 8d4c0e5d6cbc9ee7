import { type FastifyInstance, fastify } from 'fastify'
import { Kafka, logLevel } from 'kafkajs'
import { Client, type Dispatcher, Pool } from 'undici'
import type { NewEvent } from '../../src/event/event.ts'
import type { Store } from '../../src/store/store.ts'
import { bodyText, eventObject, idPlaces, stream, writeIds } from './event.ts'
import { report, serveCommands } from './part.ts'

/*
 * The limits that the service is held against, each in a process of its own, named by its first argument: `request` and
 * `dispatch` call the target as fast as undici can; `intake` reads posted events and forgets them; `relay` posts each one
 * on to the target at once and answers without waiting; `append` is the service's own store without anything around it.
 */

export interface LimitCommand {
  /** The target's. */
  readonly port: number
  /** Requests to send, or batches to append; for those that listen, ignored. */
  readonly requests: number
  /** For `append`: where, how many events at a time, from how many loops, and whether they have a `meta.id` to be found by. */
  readonly append?: { readonly folder: string; readonly batch: number; readonly loops: number; readonly ids: boolean }
  /** For `kafka`: whom to read from, as which group, which has its offsets already. */
  readonly kafka?: { readonly brokers: readonly string[]; readonly group: string }
}

export interface LimitReport {
  /** Where it listens; 0 for those that do not. */
  readonly port: number
}

/** In flight, and connections. */
const concurrency = 100
const path = '/call'
const headers = { 'content-type': 'application/json' }

const template = Buffer.from(bodyText(1))
const places = idPlaces(template)

/** A request's body with the n-th event. */
function body(n: number): Buffer {
  const bytes = Buffer.from(template)
  writeIds(bytes, places, n)
  return bytes
}

async function callByRequest({ port, requests }: LimitCommand): Promise<void> {
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections: concurrency, pipelining: 1 })
  const bytes = body(0)
  let begun = 0
  const loop = async () => {
    while (begun++ < requests) {
      const answer = await pool.request({ method: 'POST', path, headers, body: bytes })
      await answer.body.dump()
    }
  }
  await Promise.all(Array.from({ length: concurrency }, loop))
}

function callByDispatch({ port, requests }: LimitCommand): Promise<void> {
  const bytes = body(0)
  let begun = 0
  let answered = 0
  return new Promise((resolve, reject) => {
    const next = (client: Client) => {
      if (begun++ < requests) client.dispatch({ method: 'POST', path, headers, body: bytes }, handler(client))
    }
    const handler = (client: Client): Dispatcher.DispatchHandler => ({
      onRequestStart() {},
      onResponseStart() {},
      onResponseData() {},
      onResponseEnd() {
        next(client)
        if (++answered === requests) resolve()
      },
      onResponseError(_controller, error) {
        reject(error)
      },
    })
    for (let i = 0; i < concurrency; i++) next(new Client(`http://127.0.0.1:${port}`, { pipelining: 1 }))
  })
}

/** Fastify as it comes: the body is parsed, and that is all. */
async function forget(): Promise<void> {
  const app = fastify()
  app.post('/v1/events', (_request, reply) => {
    reply.code(201).send()
  })
  await listen(app)
}

async function relay({ port }: LimitCommand): Promise<void> {
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections: concurrency, pipelining: 1 })
  const call = async (bytes: Buffer) => {
    JSON.parse(bytes.toString())
    const answer = await pool.request({ method: 'POST', path, headers, body: bytes })
    await answer.body.dump()
  }
  const app = fastify()
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, bytes, done) => done(null, bytes))
  app.post<{ Body: Buffer }>('/v1/events', (request, reply) => {
    call(request.body).catch(fail)
    reply.code(201).send()
  })
  await listen(app)
}

let store: Promise<Store> | undefined
let appended = 0

async function append({ requests, append: how }: LimitCommand): Promise<void> {
  if (how === undefined) throw new Error('append wants to know how')
  store ??= openStore(how.folder)
  const opened = await store
  let begun = 0
  const loop = async () => {
    while (begun++ < requests) await opened.append(Array.from({ length: how.batch }, () => newEvent(how.ids)))
  }
  await Promise.all(Array.from({ length: how.loops }, loop))
  tell(0)
}

function newEvent(withId: boolean): NewEvent {
  const event = eventObject(appended)
  const { id, ...rest } = event.meta
  return { stream, bytes: body(appended++), message: withId ? event : { ...event, meta: rest } }
}

async function openStore(path: string): Promise<Store> {
  const file = new URL('../../dist/store/embedded/embedded-store.js', import.meta.url).href
  const built: typeof import('../../src/store/embedded/embedded-store.ts') = await import(file)
  const gib = 2 ** 30
  const opened = built.createEmbeddedStore({
    path,
    retention: { ageMs: 7 * 86_400_000, sizeBytes: 10 * gib, deadBytes: gib },
  })
  await opened.open({ committed() {}, changed() {}, broken: fail, rows() {}, lost() {}, shared() {} })
  return opened
}

async function listen(app: FastifyInstance): Promise<void> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  const address = app.addresses()[0]
  if (typeof address !== 'object') throw new Error('no port to listen on')
  tell(address.port)
}

const commitEveryMs = 50

/** Reads, parses, calls with so many in flight, and commits the lowest offset of each partition that is not finished. */
async function callFromKafka({ port, requests, kafka }: LimitCommand): Promise<void> {
  if (kafka === undefined) throw new Error('kafka wants to know whom to read from')
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections: concurrency, pipelining: 1 })
  const client = new Kafka({ brokers: [...kafka.brokers], logLevel: logLevel.NOTHING })
  const consumer = client.consumer({ groupId: kafka.group, maxWaitTimeInMs: 100, maxBytesPerPartition: 524_288 })
  const open = new Map<number, Set<number>>()
  const read = new Map<number, number>()
  let inFlight = 0
  let done = 0
  let free: (() => void)[] = []
  let allDone: () => void = () => undefined
  const finished = new Promise<void>((resolve) => {
    allDone = resolve
  })
  const call = async (value: Buffer, offsets: Set<number>, offset: number) => {
    const answer = await pool.request({ method: 'POST', path, headers, body: value })
    await answer.body.dump()
    offsets.delete(offset)
    inFlight--
    const waiting = free
    free = []
    for (const resume of waiting) resume()
    if (++done === requests) allDone()
  }
  const commit = async () => {
    const offsets = [...read].map(([partition, end]) => {
      const [lowest = end] = open.get(partition) ?? []
      return { topic: stream, partition, offset: String(lowest) }
    })
    if (offsets.length > 0) await consumer.commitOffsets(offsets)
  }
  await consumer.connect()
  await consumer.subscribe({ topics: [stream], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    partitionsConsumedConcurrently: 4,
    eachBatch: async ({ batch: { partition, messages } }) => {
      const offsets = open.get(partition) ?? new Set()
      open.set(partition, offsets)
      for (const { offset, value } of messages) {
        if (value === null) continue
        while (inFlight >= concurrency) await new Promise<void>((resolve) => free.push(resolve))
        inFlight++
        offsets.add(Number(offset))
        read.set(partition, Number(offset) + 1)
        JSON.parse(value.toString())
        call(value, offsets, Number(offset)).catch(fail)
      }
    },
  })
  const timer = setInterval(() => void commit().catch(fail), commitEveryMs)
  await finished
  clearInterval(timer)
  await commit()
  await consumer.disconnect()
  tell(0)
}

function tell(port: number): void {
  const told: LimitReport = { port }
  report(told)
}

function fail(error: unknown): never {
  throw error
}

const limits: Readonly<Record<string, (command: LimitCommand) => Promise<void>>> = {
  request: async (command) => {
    await callByRequest(command)
    tell(0)
  },
  dispatch: async (command) => {
    await callByDispatch(command)
    tell(0)
  },
  intake: forget,
  relay,
  append,
  kafka: callFromKafka,
}

const limit = limits[process.argv[2] ?? '']
if (limit === undefined) throw new Error(`one of ${Object.keys(limits).join(', ')} is wanted, not ${process.argv[2]}`)
serveCommands<LimitCommand>((command) => {
  limit(command).catch(fail)
})
