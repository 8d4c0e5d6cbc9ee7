import { randomBytes } from 'node:crypto'
import { appendFile, readdir, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openService, type Service } from '../support/service.ts'
import { openTarget, type ScriptedTarget } from '../support/target.ts'
import { until } from '../support/until.ts'
import { fate } from './event-view.ts'
import { anEvent, events } from './posted-event.ts'
import { createRandom } from './random.ts'

const stream = 'test.torn'
const rounds = Number(process.env.ROUNDS ?? 3)
const limitMs = 60_000 + rounds * 10_000

interface World {
  readonly service: Service
  readonly target: ScriptedTarget
}

async function setup(): Promise<World> {
  const target = await openTarget()
  onTestFinished(() => target.close())
  const service = await openService({
    rules: `
call:
  topic: ${stream}
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
`,
  })
  onTestFinished(() => service.close())
  return { service, target }
}

/** The write-ahead log: what was committed last stands at its end. */
async function logFile(data: string): Promise<string> {
  const name = (await readdir(data)).find((candidate) => candidate.endsWith('-wal'))
  if (name === undefined) throw new Error(`no write-ahead log in ${data}`)
  return join(data, name)
}

async function callsNewEvent({ service }: World): Promise<void> {
  const event = anEvent(stream)
  expect((await service.post(event)).status).toBe(201)
  await until('a new event is called', async () => (await fate(service, event.meta.id, 'call')) === 'done ok')
}

test(
  'a log whose tail was cut at random bytes is opened, and new events are called',
  async () => {
    const world = await setup()
    const random = createRandom()
    console.log(`seed ${random.seed}`)
    for (let round = 0; round < rounds; round++) {
      expect((await world.service.post(events(random.between(1, 200), stream))).status).toBe(201)
      await world.service.kill()
      const file = await logFile(world.service.data)
      const { size } = await stat(file)
      await truncate(file, size - random.between(0, Math.min(size, 40_000) + 1))

      await world.service.restart()

      await callsNewEvent(world)
    }
  },
  limitMs,
)

test(
  'half a write at the end of the log, as a power cut leaves it, loses nothing that was acknowledged',
  async () => {
    const world = await setup()
    const { service } = world
    const random = createRandom()
    console.log(`seed ${random.seed}`)
    for (let round = 0; round < rounds; round++) {
      const posted = events(random.between(1, 200), stream)
      expect((await service.post(posted)).status).toBe(201)
      await service.kill()
      await appendFile(await logFile(service.data), randomBytes(random.between(1, 10_000)))

      await service.restart()

      // All of them before the next kill: what is in flight at kill after kill is taken for their cause, and ends as poison.
      for (const { meta } of posted) {
        await until('the event is called', async () => (await fate(service, meta.id, 'call')) === 'done ok')
      }
    }
    await callsNewEvent(world)
  },
  limitMs,
)
