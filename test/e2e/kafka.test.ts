import { describe, expect, onTestFinished, test } from 'vitest'
import { sharedKafka } from '../support/kafka.ts'
import type { Service } from '../support/service.ts'
import { becomes, until } from '../support/until.ts'
import { type CountingTarget, openCountingTarget } from './counting-target.ts'
import { createFeed, type Feed } from './feed.ts'
import { accepts, isDrained, isWell, openKafkaService } from './kafka-service.ts'
import { createRandom } from './random.ts'

const rounds = Number(process.env.ROUNDS ?? 2)
const eventsPerRound = 1_500
const concurrency = 20
const limitMs = 90_000

interface Process {
  readonly service: Service
  readonly feed: Feed
}

interface Dead {
  readonly id: string
  readonly meta_id: string
  readonly reason: string
}

async function deadLetters(service: Service): Promise<readonly Dead[]> {
  const { body } = await service.get('/v1/dead?limit=1000')
  if (typeof body !== 'object' || body === null || !('dead' in body) || !Array.isArray(body.dead)) {
    throw new Error(`not a page of dead letters: ${JSON.stringify(body)}`)
  }
  return body.dead
}

async function deadIds(service: Service): Promise<string[]> {
  return (await deadLetters(service)).map(({ meta_id }) => meta_id).sort()
}

async function ask(service: Service, path: string, body: unknown): Promise<unknown> {
  const answer = await fetch(`${service.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return answer.json()
}

describe('processes that share their work on Kafka', () => {
  const kafka = sharedKafka()

  async function startProcesses(
    count: number,
    target: CountingTarget,
    policies: string,
    random = createRandom(),
  ): Promise<Process[]> {
    const name = `e2e-${random.seed}`
    console.log(`seed ${random.seed}`)
    const rules = `
call:
  topic: test.shared
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
  throttle: { concurrency: ${concurrency} }
  ${policies}
`
    const processes: Process[] = []
    for (let index = 0; index < count; index += 1) {
      const service = await openKafkaService({ brokers: kafka.brokers, name, rules })
      await accepts(service)
      processes.push({ service, feed: createFeed(service, 'test.shared', random) })
    }
    return processes
  }

  async function killAndRestart({ service, feed }: Process): Promise<void> {
    feed.down()
    await service.kill()
    await service.restart()
    await accepts(service)
    feed.up()
  }

  function missing(processes: readonly Process[], target: CountingTarget): string[] {
    return processes.flatMap(({ feed }) => [...feed.acknowledged].filter((id) => !target.calls.get(id)?.succeeded))
  }

  async function allCalled(processes: readonly Process[], target: CountingTarget): Promise<string[]> {
    await until('every acknowledged event was called', () => missing(processes, target).length === 0, limitMs).catch(
      (error: unknown) =>
        console.log(String(error), processes.map(({ service }) => service.output.slice(-2_000)).join('\n')),
    )
    return missing(processes, target)
  }

  test('an event that is posted to one of them is called once, and any of them tells of it', async () => {
    const target = await openCountingTarget({ latencyMs: 5, status: () => 200 })
    onTestFinished(() => target.close())
    const processes = await startProcesses(2, target, 'retry: { limit: 2, delay: 100ms }')

    await Promise.all(processes.map(({ feed }) => feed.post(300)))

    expect(await allCalled(processes, target)).toEqual([])
    const repeated = [...target.calls.values()].filter(({ started }) => started > 1)
    expect(repeated.length).toBeLessThanOrEqual(2 * concurrency)
    for (const { service, feed } of processes) {
      const [id] = feed.acknowledged
      const { body } = await becomes(
        () => service.get(`/v1/events/${id}`),
        ({ status }) => status === 200,
      )
      expect(body).toMatchObject({
        events: [
          { meta_id: id, stream: 'test.shared', rules: [{ rule: 'call', delivery: { state: 'done', reason: 'ok' } }] },
        ],
      })
    }
  }, 120_000)

  test('dead letters are told, replayed and discarded by whichever of them is asked', async () => {
    let isWell = false
    const target = await openCountingTarget({ latencyMs: 1, status: () => (isWell ? 200 : 404) })
    onTestFinished(() => target.close())
    const processes = await startProcesses(2, target, 'retry: { limit: 0 }')
    const [first, second] = processes.map(({ service }) => service)
    if (first === undefined || second === undefined) throw new Error('there are two')
    await processes[0]?.feed.post(40)
    const ids = [...(processes[0]?.feed.acknowledged ?? [])].sort()

    for (const service of [first, second]) {
      await becomes(
        () => deadIds(service),
        (found) => JSON.stringify(found) === JSON.stringify(ids),
      )
    }
    isWell = true
    const half = await deadLetters(first)
    const asked = await ask(first, '/v1/dead/discard', { ids: half.slice(0, 20).map(({ id }) => id) })
    expect(asked).toEqual({ count: 20 })
    await becomes(
      () => Promise.all([deadIds(first), deadIds(second)]),
      (found) => found.every(({ length }) => length === 20),
    )
    expect(await ask(second, '/v1/dead/replay', { rule: 'call', rate: '1000/s' })).toEqual({ count: 20 })

    await until('what was replayed is called', () => missing(processes, target).length === 20)
    await becomes(
      () => Promise.all([deadIds(first), deadIds(second)]),
      (found) => found.flat().length === 0,
    )
  }, 120_000)

  test(
    'killed one by one under load, they lose nothing and repeat only what was in flight',
    async () => {
      const target = await openCountingTarget({ latencyMs: 20, status: () => 200 })
      onTestFinished(() => target.close())
      const processes = await startProcesses(3, target, 'retry: { limit: 8, delay: 200ms }')
      let moves = processes.length - 1

      for (let round = 0; round < rounds; round += 1) {
        const before = target.started
        const posting = Promise.all(processes.map(({ feed }) => feed.post(eventsPerRound / 3)))
        await until('calls are made', () => target.started - before > eventsPerRound / 6, limitMs)
        const victim = processes[round % processes.length]
        if (victim === undefined) throw new Error('there are three')
        await killAndRestart(victim)
        await posting
        moves += 2
      }

      const lost = await allCalled(processes, target)
      const repeats = [...target.calls.values()].reduce((sum, { started }) => sum + started - 1, 0)
      const acknowledged = processes.reduce((sum, { feed }) => sum + feed.acknowledged.size, 0)
      console.log(
        `acknowledged ${acknowledged}, lost ${lost.length}, repeats ${repeats}, ${rounds} kills, ${moves} moves`,
      )
      expect(lost).toEqual([])
      // In flight: running, or answered and not yet settled, in each process whose partitions moved.
      expect(repeats).toBeLessThanOrEqual(moves * processes.length * 2 * concurrency)
    },
    120_000 + rounds * 60_000,
  )

  test.each([
    ['alone', ''],
    ['with `order`', "match: { meta: { id: '/^(?<digit>.)/' } }\n  order: { key: '{{match.meta.id.digit}}' }"],
  ])(
    'killed one by one at random moments, they call an event of `retry: never` %s once, or keep it as a dead letter',
    async (_alone, policies) => {
      const target = await openCountingTarget({ latencyMs: 50, status: () => 200 })
      onTestFinished(() => target.close())
      const random = createRandom()
      const processes = await startProcesses(3, target, `retry: never\n  ${policies}`, random)
      const acknowledged = () => processes.flatMap(({ feed }) => [...feed.acknowledged])
      const post = () => Promise.all(processes.map(({ feed }) => feed.post(50)))

      for (let round = 0; round < rounds; round += 1) {
        const moment = target.started + random.between(0, 120)
        const posting = post()
        await until('calls are made', () => target.started >= moment, limitMs)
        const victim = processes[random.between(0, processes.length)]
        if (victim === undefined) throw new Error('there are three')
        await Promise.all([killAndRestart(victim), posting, post()])
      }

      let dead: readonly Dead[] = []
      const lost = () => {
        const kept = new Set(dead.map(({ meta_id }) => meta_id))
        return acknowledged().filter((id) => !target.calls.get(id)?.succeeded && !kept.has(id))
      }
      for (const { service } of processes) {
        await until(
          'each was called, or is a dead letter',
          async () => {
            dead = await deadLetters(service)
            return lost().length === 0
          },
          limitMs,
        )
        await isWell(service)
        await until('nothing is left', () => isDrained(service), limitMs)
        // Also what was called and cut off of an event whose post was cut off, too: nobody waits for that above.
        dead = await deadLetters(service)
      }
      const calls = [...target.calls]
      const cutOff = calls.filter(([, { answered }]) => answered === 0).map(([id]) => id)
      console.log(
        `acknowledged ${acknowledged().length}, lost ${lost().length}, ${rounds} kills cut off ${cutOff.length}, ${dead.length} dead`,
      )
      expect(lost()).toEqual([])
      expect(calls.filter(([, { started }]) => started > 1)).toEqual([])
      expect(dead.filter(({ reason }) => reason !== 'interrupted')).toEqual([])
      expect(dead.map(({ meta_id }) => meta_id)).toEqual(expect.arrayContaining(cutOff))
      // Two moves a round, and one for each process that joined the first.
      expect(dead.length).toBeLessThanOrEqual((2 * rounds + 2) * 2 * concurrency)
    },
    120_000 + rounds * 60_000,
  )
})
