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
 * on to the target at once and answers without waiting; `append` is the service's own store without anything around it;
 * `kafka` calls the target with what kafkajs reads from a topic, and `produce` writes each post there.
 */

export interface LimitCommand {
  /** The target's. */
  readonly port: number
  /** Requests to send, or batches to append; for those that listen, ignored. */
  readonly requests: number
  /** For `append`: where, how many events at a time, from how many loops, and whether they have a `meta.id` to be found by. */
  readonly append?: { readonly folder: string; readonly batch: number; readonly loops: number; readonly ids: boolean }
  readonly kafka?: LimitKafka
}

/** For `kafka` and `produce`: where to read, as which group, from the beginning where it is new; or where to write. */
export interface LimitKafka {
  readonly brokers: readonly string[]
  readonly topic: string
  readonly group: string
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

const commitEveryMs = 1_000

/**
 * The loop that performance.md has measured (A2 there), on several partitions: each event is parsed and called, and the lowest
 * offset of each partition whose call is not answered is committed each second.
 */
async function callFromKafka({ port, requests, kafka }: LimitCommand): Promise<void> {
  if (kafka === undefined) throw new Error('kafka wants to know whom to read from')
  const { brokers, topic, group } = kafka
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections: concurrency, pipelining: 1 })
  const consumer = clientOf(brokers).consumer({ groupId: group, maxWaitTimeInMs: 100 })
  /** By partition: what was read and is not answered, in order; and what is read next. */
  const open = new Map<number, Set<number>>()
  const ends = new Map<number, number>()
  const waiting: (() => void)[] = []
  let inFlight = 0
  let answered = 0
  const commit = async () => {
    const offsets = [...ends].map(([partition, end]) => {
      const [lowest = end] = open.get(partition) ?? []
      return { topic, partition, offset: String(lowest) }
    })
    if (offsets.length > 0) await consumer.commitOffsets(offsets)
  }
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await new Promise<void>((resolve) => {
    const call = async (value: Buffer | null, offset: number, ofPartition: Set<number>) => {
      JSON.parse(String(value))
      const answer = await pool.request({ method: 'POST', path, headers, body: value })
      await answer.body.dump()
      ofPartition.delete(offset)
      inFlight--
      waiting.shift()?.()
      if (++answered === requests) resolve()
    }
    void consumer.run({
      autoCommit: false,
      partitionsConsumedConcurrently: concurrency,
      eachBatch: async ({ batch: { partition, messages } }) => {
        const ofPartition = open.get(partition) ?? new Set()
        open.set(partition, ofPartition)
        for (const { offset, value } of messages) {
          while (inFlight >= concurrency) await new Promise<void>((wake) => waiting.push(wake))
          inFlight++
          ofPartition.add(Number(offset))
          ends.set(partition, Number(offset) + 1)
          call(value, Number(offset), ofPartition).catch(fail)
        }
      },
    })
    setInterval(() => commit().catch(fail), commitEveryMs)
  })
  await commit()
  tell(0)
}

/** Fastify and a producer as they come: what is posted is sent on at once, and answered when all replicas have it. */
async function produce({ kafka }: LimitCommand): Promise<void> {
  if (kafka === undefined) throw new Error('produce wants to know whom to write to')
  const producer = clientOf(kafka.brokers).producer({ allowAutoTopicCreation: false })
  await producer.connect()
  const app = fastify()
  type Posted = ReturnType<typeof eventObject>
  app.post<{ Body: Posted | Posted[] }>('/v1/events', async ({ body }, reply) => {
    const messages = [body].flat().map((event) => ({ key: event.meta.id, value: JSON.stringify(event) }))
    await producer.send({ topic: kafka.topic, acks: -1, messages })
    reply.code(201)
  })
  await listen(app)
}

function clientOf(brokers: readonly string[]): Kafka {
  return new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING })
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
  produce,
}

const limit = limits[process.argv[2] ?? '']
if (limit === undefined) throw new Error(`one of ${Object.keys(limits).join(', ')} is wanted, not ${process.argv[2]}`)
serveCommands<LimitCommand>((command) => {
  limit(command).catch(fail)
})
