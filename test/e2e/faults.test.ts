import { describe, expect, onTestFinished, test } from 'vitest'
import { openService, type Service, type ServiceOptions } from '../support/service.ts'
import {
  type Behaviour,
  drip,
  garbage,
  hang,
  huge,
  openTarget,
  reset,
  respond,
  type ScriptedTarget,
} from '../support/target.ts'
import { until } from '../support/until.ts'
import { fate } from './event-view.ts'
import { anEvent, events } from './posted-event.ts'
import { openSmallDisk, smallDiskAbsent } from './small-disk.ts'

const stream = 'test.fault'
const mebibyte = 1024 * 1024

async function target(): Promise<ScriptedTarget> {
  const opened = await openTarget()
  onTestFinished(() => opened.close())
  return opened
}

async function service(options: ServiceOptions): Promise<Service> {
  const opened = await openService(options)
  onTestFinished(() => opened.close())
  return opened
}

const calling = (rule: string, url: string, more = '', timeout = '1s') => `
${rule}:
  topic: ${stream}
  exec: { method: post, uri: '${url}/{{message.meta.id}}', timeout: ${timeout} }
  ${more}
`

const health = async (running: Service) => JSON.stringify((await running.get('/healthz')).body)

/** The events that were called, in order of arrival. */
const called = ({ requests }: ScriptedTarget) => requests.map(({ path }) => path.slice(1))

describe('a target that misbehaves', () => {
  test.each<{ name: string; behaviour: Behaviour; end: string; timeout?: string }>([
    { name: 'answers 404', behaviour: respond(404), end: 'dead refused' },
    // The status came whole, and nobody needs the rest of the body; but reading what is read of 40 of them takes time.
    { name: 'answers 200 with 200 MB', behaviour: huge(200 * mebibyte), end: 'done ok', timeout: '1m' },
  ])('that $name holds up no other rule, and its deliveries end as $end', async ({ behaviour, end, timeout }) => {
    await meetsTrouble(behaviour, [end], timeout)
  })

  test.each<{ name: string; behaviour: Behaviour }>([
    { name: 'hangs', behaviour: hang() },
    { name: 'resets the connection', behaviour: reset() },
    { name: 'resets the connection in the middle of an answer', behaviour: reset(true) },
    { name: 'drips', behaviour: drip() },
    { name: 'answers garbage', behaviour: garbage() },
  ])(
    'that $name holds up no other rule; what has not used up its attempts by then is done once it is well',
    async ({ behaviour }) => {
      await meetsTrouble(behaviour, ['done ok', 'dead exhausted'])
    },
  )

  async function meetsTrouble(behaviour: Behaviour, ends: readonly string[], timeout?: string): Promise<void> {
    const bad = await target()
    const good = await target()
    bad.behave(behaviour)
    const running = await service({
      rules: `${calling('bad', bad.url, 'retry: { limit: 1, delay: 100ms, factor: 1 }', timeout)}${calling('good', good.url, '', '1m')}`,
    })
    const posted = events(40, stream)
    const before = await running.residentBytes()

    expect((await running.post(posted)).status).toBe(201)

    await good.waitFor(posted.length)
    if (ends.includes('dead exhausted')) {
      await until('nothing of the bad target runs but a probe', async () => {
        const { body } = await running.get('/v1/rules/bad')
        return /"running":[01],/.test(JSON.stringify(body))
      })
      bad.behave(respond(200))
    }
    let most = 0
    for (const { meta } of posted) {
      await until(`the delivery to the bad target ends as ${ends.join(' or ')}`, async () => {
        most = Math.max(most, await running.residentBytes())
        return ends.includes(await fate(running, meta.id, 'bad'))
      })
      await until('the delivery to the good target is done', async () => {
        return (await fate(running, meta.id, 'good')) === 'done ok'
      })
    }
    expect(new Set(called(good))).toEqual(new Set(posted.map(({ meta }) => meta.id)))
    // 40 answers kept whole would be 8 GB.
    expect(most - before).toBeLessThan(256 * mebibyte)
  }
})

describe('a full disk', () => {
  test.skipIf(smallDiskAbsent)(
    'is answered 503 until there is room again, and nothing acknowledged is lost',
    async () => {
      const disk = await openSmallDisk(48)
      onTestFinished(() => disk.close())
      const good = await target()
      const running = await service({ rules: calling('call', good.url), data: `${disk.folder}/data` })
      const acknowledged = new Set<string>()
      const post = async () => {
        const batch = events(10, stream, 'x'.repeat(20_000))
        const answer = await running.post(batch)
        if (answer.status === 201) for (const { meta } of batch) acknowledged.add(meta.id)
        return answer
      }
      const { pid } = running

      expect((await post()).status).toBe(201)
      await disk.fill()
      const refused = await until('an event is refused', async () => {
        const answer = await post()
        return answer.status !== 201 && answer
      })
      expect(refused.status).toBe(503)
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
      const notReady = await until('/readyz says no', async () => {
        const answer = await running.get('/readyz')
        return answer.status === 503 && answer
      })
      expect(JSON.stringify(notReady.body)).toMatch(/full|space/i)
      expect((await running.get('/healthz')).status).toBe(200)

      await disk.free()
      await until('/readyz says yes', async () => (await running.get('/readyz')).status === 200)
      await until('events are taken again', async () => (await post()).status === 201)

      await until('every acknowledged event is called', () => {
        const seen = new Set(called(good))
        return [...acknowledged].every((id) => seen.has(id))
      })
      expect(running.pid).toBe(pid)
      expect(running.isRunning).toBe(true)
      for (const id of acknowledged)
        await until('it is settled', async () => (await fate(running, id, 'call')) === 'done ok')
      // What was refused is not there in part.
      expect(new Set(called(good))).toEqual(acknowledged)

      await disk.fill()
      await running.kill()
      await running.restart()
      expect((await running.get('/readyz')).status).toBe(503)
      expect((await running.post(anEvent(stream))).status).toBe(503)
      expect((await running.get(`/v1/events/${[...acknowledged][0]}`)).status).toBe(503)
      await disk.free()
      await until('/readyz says yes after a start on a full disk', async () => {
        return (await running.get('/readyz')).status === 200
      })
      await post()
      await until('what is acknowledged then is called', () => {
        const seen = new Set(called(good))
        return [...acknowledged].every((id) => seen.has(id))
      })
    },
  )
})

describe('the process', () => {
  test('a second one on the same folder ends with 1 and says why, and the first goes on', async () => {
    const good = await target()
    const running = await service({ rules: calling('call', good.url) })

    const second = openService({ rules: calling('call', good.url), data: running.data })

    await expect(second).rejects.toMatchObject({
      exitCode: 1,
      output: expect.stringMatching(/another process|locked|in use/i),
    })
    const event = anEvent(stream)
    expect((await running.post(event)).status).toBe(201)
    await good.waitFor(1)
  })

  test('SIGTERM waits for calls that are running, ends with 0, and repeats none of them', async () => {
    const slow = await target()
    let answer = () => {}
    const answered = new Promise<void>((resolve) => {
      answer = resolve
    })
    slow.behave(async () => {
      await answered
      return respond(200)
    })
    const running = await service({ rules: calling('call', slow.url).replace('timeout: 1s', 'timeout: 60s') })
    const event = anEvent(stream)
    await running.post(event)
    await slow.waitFor(1)

    const stopped = running.stop()
    answer()

    expect(await stopped).toBe(0)
    await running.restart()
    expect(await fate(running, event.meta.id, 'call')).toBe('done ok')
    expect(called(slow)).toEqual([event.meta.id])
  })

  test('SIGTERM cuts off calls after stop_timeout, ends with 0, and the next start makes them again', async () => {
    const slow = await target()
    slow.behave(hang())
    const running = await service({
      rules: calling('call', slow.url).replace('timeout: 1s', 'timeout: 60s'),
      config: 'stop_timeout: 200ms\n',
    })
    const event = anEvent(stream)
    await running.post(event)
    await slow.waitFor(1)

    expect(await running.stop()).toBe(0)

    slow.behave(respond(200))
    await running.restart()
    await until('the call is made again', async () => (await fate(running, event.meta.id, 'call')) === 'done ok')
  })

  test('a second SIGTERM cuts off calls at once and ends with 1; the next start makes them again', async () => {
    const slow = await target()
    slow.behave(hang())
    const running = await service({ rules: calling('call', slow.url).replace('timeout: 1s', 'timeout: 60s') })
    const event = anEvent(stream)
    await running.post(event)
    await slow.waitFor(1)

    const stopped = running.stop()
    // Signals that come close together count as one.
    await until('the process has ended', async () => {
      if (running.isRunning) running.signal('SIGTERM')
      return !running.isRunning
    })

    expect(await stopped).toBe(1)
    expect(running.output).toMatch(/calls were cut off, .*second signal/)
    slow.behave(respond(200))
    await running.restart()
    await until('the call is made again', async () => (await fate(running, event.meta.id, 'call')) === 'done ok')
  })

  test('SIGHUP with a wrong rule keeps the old rules and says so; once it is mended, the new ones hold', async () => {
    const old = await target()
    const mended = await target()
    const running = await service({ rules: calling('call', old.url) })

    await running.writeRules('call:\n  topik: test.fault\n  exec: 17\n')
    running.signal('SIGHUP')
    await until('/healthz tells of the wrong rules', async () => /reload found \d+ problem/.test(await health(running)))
    expect(running.output).toMatch(/rules\.yaml:2:\d+.*topik/)
    const first = anEvent(stream)
    await running.post(first)
    await until('the old rule calls', async () => (await fate(running, first.meta.id, 'call')) === 'done ok')

    await running.writeRules(calling('call', mended.url))
    running.signal('SIGHUP')
    await until('/healthz is content', async () => !/problem/.test(await health(running)))
    const second = anEvent(stream)
    await running.post(second)
    await until('the new rule calls', async () => (await fate(running, second.meta.id, 'call')) === 'done ok')

    expect(called(old)).toEqual([first.meta.id])
    expect(called(mended)).toEqual([second.meta.id])
  })

  test('schemas that cannot be had are told of once, in the log and by /healthz, and their events are not taken', async () => {
    const gone = await openTarget()
    await gone.close()
    const running = await service({ rules: '{}', config: `schemas: { from: ['${gone.url}'] }\n` })

    for (const event of events(2, stream)) expect((await running.post(event)).status).toBe(503)

    expect(await health(running)).toMatch(/no schema can be had at \/test\/page_edited\/1\.0\.0/)
    expect(running.output.match(/a schema cannot be had/g)).toHaveLength(1)
  })

  test('with wrong rules at start it accepts and stores, and calls once they are mended', async () => {
    const good = await target()
    const running = await service({ rules: 'call:\n  topik: test.fault\n' })
    const event = anEvent(stream)

    expect((await running.post(event)).status).toBe(201)
    expect((await running.get('/readyz')).status).toBe(200)
    expect(await health(running)).toMatch(/problems? in the rules/)
    expect(running.output).toMatch(/rules\.yaml:2:\d+.*topik/)
    expect(called(good)).toEqual([])

    await running.writeRules(calling('call', good.url))
    running.signal('SIGHUP')
    await until('the stored event is called', async () => (await fate(running, event.meta.id, 'call')) === 'done ok')
    expect(called(good)).toEqual([event.meta.id])
  })

  test('a wrong configuration ends it with 1, and every problem is told with its place', async () => {
    const started = openService({ rules: '{}', config: 'stop_timeout: never\nintaik: {}\n' })

    await expect(started).rejects.toMatchObject({ exitCode: 1, output: expect.stringMatching(/config\.yaml:1:\d+/) })
    await expect(started).rejects.toMatchObject({ output: expect.stringMatching(/config\.yaml:2:\d+.*intake/) })
  })
})
