import { once } from 'node:events'
import { createServer } from 'node:http'
import { describe, expect, onTestFinished, test } from 'vitest'
import { sharedKafka } from '../support/kafka.ts'
import type { Service } from '../support/service.ts'
import { until } from '../support/until.ts'
import { accepts, isWell, openKafkaService } from './kafka-service.ts'
import { createRandom } from './random.ts'

const isFull = Number(process.env.ROUNDS ?? 1) >= 20
const rounds = isFull ? 20 : 2
const pages = 24
const eventsPerRound = 600
const limitMs = 120_000

/** Calls of /RULE/PAGE/NUMBER, each a little later answered. */
interface PagesTarget {
  readonly url: string
  readonly started: number
  /** Calls that began although the one before of their page had not succeeded. */
  readonly outOfOrder: readonly string[]
  succeeded(rule: string, page: number, number: number): boolean
  /** The highest number of a page with which a call began; -1 for none. */
  newest(rule: string, page: number): number
}

async function openPagesTarget(): Promise<PagesTarget> {
  const done = new Set<string>()
  const newest = new Map<string, number>()
  const outOfOrder: string[] = []
  let started = 0
  const server = createServer((request, response) => {
    const [, rule = '', page = '', number = ''] = (request.url ?? '').split('/')
    started += 1
    const n = Number(number)
    newest.set(`${rule}/${page}`, Math.max(n, newest.get(`${rule}/${page}`) ?? -1))
    if (rule === 'ordered' && n > 0 && !done.has(`${rule}/${page}/${n - 1}`)) outOfOrder.push(`${page}/${n}`)
    request.resume()
    setTimeout(() => {
      done.add(`${rule}/${page}/${n}`)
      response.end()
    }, 5)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the target has no port')
  return {
    url: `http://127.0.0.1:${address.port}`,
    outOfOrder,
    get started() {
      return started
    },
    succeeded: (rule, page, number) => done.has(`${rule}/${page}/${number}`),
    newest: (rule, page) => newest.get(`${rule}/${page}`) ?? -1,
  }
}

/** Posts `count` further events, the pages in turn, one array after another; what was not acknowledged is posted again. */
async function post(service: Service, numbers: number[], count: number): Promise<void> {
  for (let left = count; left > 0; left -= pages) {
    const events = numbers.map((n, page) => {
      const meta = { stream: 'test.pages', domain: 'wiki.example' }
      return { $schema: '/test/pages/1.0.0', meta, page_title: `Page ${page}`, page, n }
    })
    await until('the events are accepted', async () => (await service.post(events)).status === 201, limitMs)
    for (const page of numbers.keys()) numbers[page] = (numbers[page] ?? 0) + 1
  }
}

/** What waits in a process, and what it warns of. */
async function standing(service: Service): Promise<string> {
  const told = await Promise.allSettled(
    ['/healthz', '/v1/rules', '/v1/deliveries?limit=20'].map((path) => service.get(path)),
  )
  return JSON.stringify(told)
}

describe('processes that come and go', () => {
  const kafka = sharedKafka()

  test(
    'lose nothing, keep the order of a key, and call with the last event of each',
    async () => {
      const target = await openPagesTarget()
      const name = `members-${createRandom().seed}`
      const rules = `
ordered:
  topic: test.pages
  exec: { method: post, uri: '${target.url}/ordered/{{message.page}}/{{message.n}}' }
  order: { key: '{{message.page}}' }
  throttle: { concurrency: 30 }
newest:
  topic: test.pages
  exec: { method: post, uri: '${target.url}/newest/{{message.page}}/{{message.n}}' }
  dedup: { key: '{{message.page}}' }
  throttle: { concurrency: 30 }
`
      const open = () => openKafkaService({ brokers: kafka.brokers, name, rules })
      const stays = await open()
      const comes = [await open(), await open()]
      for (const service of [stays, ...comes]) await isWell(service)
      const numbers = Array.from({ length: pages }, () => 0)

      for (let round = 0; round < rounds; round += 1) {
        const before = target.started
        const posting = post(stays, numbers, eventsPerRound)
        await until('calls are made', () => target.started > before + pages, limitMs)
        const [leaver, victim] = round % 2 === 0 ? comes : comes.toReversed()
        expect(await leaver?.stop()).toBe(0)
        await victim?.kill()
        await Promise.all([leaver?.restart(), victim?.restart()])
        for (const service of comes) await accepts(service)
        await posting
      }

      const missing = () =>
        numbers.flatMap((count, page) =>
          Array.from({ length: count }, (_, n) => `${page}/${n}`).filter(
            (one) => !target.succeeded('ordered', page, Number(one.split('/')[1])),
          ),
        )
      await until('each event of each page was called', () => missing().length === 0, limitMs).catch(async (error) => {
        console.log(String(error))
        for (const service of [stays, ...comes]) console.log(await standing(service), service.output.slice(-3_000))
      })
      expect(missing()).toEqual([])
      expect(target.outOfOrder).toEqual([])
      await until(
        'the last event of each page was called',
        () => numbers.every((count, page) => target.newest('newest', page) === count - 1),
        limitMs,
      )
      console.log(`${rounds} rounds, ${numbers.reduce((sum, count) => sum + count, 0)} events, ${target.started} calls`)
    },
    120_000 + rounds * 60_000,
  )
})
