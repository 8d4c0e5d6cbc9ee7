import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openService, type Service } from '../support/service.ts'
import { until } from '../support/until.ts'
import { type CountingTarget, openCountingTarget } from './counting-target.ts'
import { createFeed, type Feed } from './feed.ts'
import { createRandom, type Random } from './random.ts'

const rounds = Number(process.env.ROUNDS ?? 3)
const eventsPerRound = 2_000
const concurrency = 50
const limitMs = 60_000 + rounds * 5_000
/** Generous: a machine that is busy with other tests takes its time for rounds, but not for ever. */
const testLimitMs = 3 * limitMs + rounds * 20_000

/** What kills came to, for the table at the end. */
interface Toll {
  kills: number
  /** Started and not answered when the process died. */
  unanswered: number
  /** The most that can have been in flight: running or answered but not settled, `concurrency` of each. */
  inFlight: number
  /** Events that may have been in flight at a kill: a call of any other must not be repeated. */
  readonly suspects: Set<string>
}

interface World {
  readonly service: Service
  readonly target: CountingTarget
  readonly feed: Feed
  readonly random: Random
  readonly toll: Toll
}

async function setup(retry: string, status: (id: string, answeredBefore: number) => number): Promise<World> {
  const random = createRandom()
  console.log(`seed ${random.seed}, ${rounds} rounds of ${eventsPerRound} events`)
  const target = await openCountingTarget({ latencyMs: 20, status })
  onTestFinished(() => target.close())
  const service = await openService({
    rules: `
call:
  topic: test.killed
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
  throttle: { concurrency: ${concurrency} }
  retry: ${retry}
`,
  })
  onTestFinished(() => service.close())
  const feed = createFeed(service, 'test.killed', random)
  return { service, target, feed, random, toll: { kills: 0, unanswered: 0, inFlight: 0, suspects: new Set() } }
}

/**
 * Each round posts its events and kills the service once it has got a random part of the way through storing and calling
 * them; the next round goes on with what is left over. In a quarter of the rounds the restart is killed too, which may hit
 * the recovery itself.
 */
async function killInRounds(world: World): Promise<void> {
  const { service, target, feed, random } = world
  for (let round = 0; round < rounds; round++) {
    const before = feed.acknowledged.size + target.started
    const moment = random.between(0, eventsPerRound * 2)
    const progress = () => feed.acknowledged.size + target.started - before
    const posting = feed.post(eventsPerRound)
    await until('the service stores and calls', () => mustRun(service) && progress() >= moment, limitMs)
    await pause(random.between(0, 30))
    await kill(world)
    if (random.chance(0.25)) {
      const starting = service.restart()
      const afterMs = random.between(0, 600)
      await Promise.all([Promise.allSettled([starting]), pause(afterMs).then(() => kill(world))])
    }
    await service.restart()
    feed.up()
    await posting
  }
}

/** Whoever waits for a service that ended on its own waits for ever. */
function mustRun(service: Service): true {
  if (!service.isRunning) throw new Error(`the service ended on its own:\n${service.output.slice(-4_000)}`)
  return true
}

async function kill({ service, target, feed, toll }: World): Promise<void> {
  feed.down()
  await service.kill()
  await until('the connections of the dead process are closed', () => target.connections === 0)
  const { unanswered, answered } = target.takeCutOff()
  const mayBeUnsettled = answered.slice(-(2 * concurrency - unanswered.length))
  toll.kills += 1
  toll.unanswered += unanswered.length
  toll.inFlight += unanswered.length + mayBeUnsettled.length
  for (const id of [...unanswered, ...mayBeUnsettled]) toll.suspects.add(id)
}

/** Waits until nothing more can come of what was acknowledged. */
async function settled({ service, target, feed }: World, given: () => Promise<ReadonlySet<string>>): Promise<string[]> {
  let missing = [...feed.acknowledged]
  await until(
    'every acknowledged event was called, or given up',
    async () => {
      const dead = await given()
      missing = missing.filter((id) => (target.calls.get(id)?.succeeded ?? 0) === 0 && !dead.has(id))
      return mustRun(service) && missing.length === 0
    },
    limitMs,
  ).catch((error: unknown) => console.log(String(error)))
  return missing
}

function repeats({ target }: World, needed: (id: string) => number): Map<string, number> {
  const found = new Map<string, number>()
  for (const [id, { started }] of target.calls) {
    if (started > needed(id)) found.set(id, started - needed(id))
  }
  return found
}

function sum(numbers: Iterable<number>): number {
  return [...numbers].reduce((total, number) => total + number, 0)
}

function report(title: string, { feed, toll }: World, lost: number, repeated: number, dead: number): void {
  console.log(`${title}
  kills         ${toll.kills}
  acknowledged  ${feed.acknowledged.size} (${feed.unacknowledged} events were not)
  lost          ${lost}
  repeats       ${repeated}
  in flight     at most ${toll.inFlight} at the kills, ${toll.unanswered} of them unanswered
  dead letters  ${dead}`)
}

interface Dead {
  readonly meta_id: string
  readonly reason: string
}

function isDeadPage(body: unknown): body is { readonly dead: readonly Dead[]; readonly cursor: string | null } {
  return typeof body === 'object' && body !== null && 'dead' in body && Array.isArray(body.dead) && 'cursor' in body
}

async function deadLetters(service: Service): Promise<readonly Dead[]> {
  const all: Dead[] = []
  let cursor: string | null = ''
  while (cursor !== null) {
    const { body } = await service.get(
      `/v1/dead?limit=100${cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`}`,
    )
    if (!isDeadPage(body)) throw new Error(`not a page of dead letters: ${JSON.stringify(body)}`)
    all.push(...body.dead)
    cursor = body.cursor
  }
  return all
}

const nobody = async () => new Set<string>()

describe('a service that is killed at random moments', () => {
  test(
    'loses no acknowledged event and repeats only calls that were in flight',
    async () => {
      const world = await setup('{ limit: 8, delay: 200ms }', () => 200)

      await killInRounds(world)
      const lost = await settled(world, nobody)

      const repeated = repeats(world, () => 1)
      const dead = await deadLetters(world.service)
      report('a target that answers 200', world, lost.length, sum(repeated.values()), dead.length)
      expect(lost).toEqual([])
      expect(dead).toEqual([])
      expect(sum(repeated.values())).toBeLessThanOrEqual(world.toll.inFlight)
      expect([...repeated.keys()].filter((id) => !world.toll.suspects.has(id))).toEqual([])
    },
    testLimitMs,
  )

  test(
    'does so with retries pending',
    async () => {
      const isFlaky = (id: string) => Number.parseInt(id.slice(0, 4), 16) % 10 === 0
      const needed = (id: string) => (isFlaky(id) ? 3 : 1)
      const world = await setup('{ limit: 8, delay: 300ms, factor: 1 }', (id, answeredBefore) =>
        answeredBefore < needed(id) - 1 ? 503 : 200,
      )

      await killInRounds(world)
      const lost = await settled(world, nobody)

      const repeated = repeats(world, needed)
      const dead = await deadLetters(world.service)
      report(
        'a target that answers every tenth event 503, twice',
        world,
        lost.length,
        sum(repeated.values()),
        dead.length,
      )
      expect(lost).toEqual([])
      expect(dead).toEqual([])
      expect([...world.target.calls.keys()].filter(isFlaky).length).toBeGreaterThan(0)
      expect(sum(repeated.values())).toBeLessThanOrEqual(world.toll.inFlight)
      expect([...repeated.keys()].filter((id) => !world.toll.suspects.has(id))).toEqual([])
    },
    testLimitMs,
  )

  test(
    'never repeats a call of `retry: never`, and keeps what was interrupted as a dead letter',
    async () => {
      const world = await setup('never', () => 200)
      let dead: readonly Dead[] = []

      await killInRounds(world)
      const lost = await settled(world, async () => {
        dead = await deadLetters(world.service)
        return new Set(dead.map(({ meta_id }) => meta_id))
      })

      const repeated = repeats(world, () => 1)
      report('`retry: never`', world, lost.length, sum(repeated.values()), dead.length)
      expect(lost).toEqual([])
      expect([...repeated.keys()]).toEqual([])
      expect(new Set(dead.map(({ reason }) => reason))).toEqual(new Set(dead.length > 0 ? ['interrupted'] : []))
      expect(dead.length).toBeLessThanOrEqual(world.toll.inFlight + world.toll.kills * concurrency)
    },
    testLimitMs,
  )
})
