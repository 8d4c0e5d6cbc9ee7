import { Kafka as KafkaClient } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { DeadAnswer, DeadLetterView, EventsAnswer } from '../../src/api/contract.ts'
import { needsKafka, sharedKafka, startKafka } from '../support/kafka.ts'
import { openTarget, respondLate } from '../support/target.ts'
import { becomes, until } from '../support/until.ts'
import { openCountingTarget } from './counting-target.ts'
import { openDelayingTarget } from './delaying-target.ts'
import { fate } from './event-view.ts'
import { createFeed } from './feed.ts'
import { accepts, isDrained, isWell, openKafkaService, readAll } from './kafka-service.ts'
import { anEvent } from './posted-event.ts'
import { createRandom } from './random.ts'
import { ruleCounts } from './rule-counts.ts'

const isFull = Number(process.env.ROUNDS ?? 1) >= 20
const limitMs = 90_000

describe('the service on one broker', () => {
  const kafka = sharedKafka()

  test('delayed deliveries outlive a kill, are shared, and none is called early', async () => {
    const count = isFull ? 100_000 : 3_000
    const spreadMs = isFull ? 300_000 : 5_000
    const target = await openDelayingTarget(count)
    onTestFinished(() => target.close())
    const name = `delays-${createRandom().seed}`
    const rules = `
later:
  topic: test.delay
  exec: { method: post, uri: '${target.url}/{{message.n}}/{{message.due}}' }
`
    const [first, second] = await Promise.all(
      [1, 2].map(() => openKafkaService({ brokers: kafka.brokers, name, rules })),
    )
    if (first === undefined || second === undefined) throw new Error('two were started')
    await Promise.all([isWell(first), isWell(second)])
    const begun = Date.now() + (isFull ? 120_000 : 8_000)
    for (let from = 0; from < count; from += 500) {
      const events = Array.from({ length: Math.min(500, count - from) }, (_, index) => {
        const n = from + index
        const due = begun + Math.floor((((n * 7_919) % count) / count) * spreadMs)
        const meta = { stream: 'test.delay', domain: 'wiki.example' }
        return { $schema: '/test/delayed/1.0.0', meta, n, due, delay_until: new Date(due).toISOString() }
      })
      expect((await second.post(events)).status).toBe(201)
    }
    await first.kill()
    await first.restart()

    await until('each was called', () => target.called === count, begun - Date.now() + spreadMs + limitMs)

    console.log(
      `${count} delayed: ${target.early} early, p99 ${target.lateness(0.99)} ms late, ${target.repeated} repeated`,
    )
    expect(target.early).toBe(0)
    // In flight when partitions moved: two processes with 50 calls and as many unsettled each.
    expect(target.repeated).toBeLessThanOrEqual(200)
  }, 900_000)

  test('what takes long holds up nobody, and after a kill nothing that ended is called again', async () => {
    const slow = '00000000-0000-4000-8000-000000000001'
    const target = await openCountingTarget({ latencyMs: 5, slow: { id: slow, ms: 60_000 }, status: () => 200 })
    onTestFinished(() => target.close())
    const random = createRandom()
    const name = `straggler-${random.seed}`
    const rules = `
call:
  topic: test.straggler
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
  throttle: { concurrency: 10 }
`
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules })
    await isWell(service)
    const meta = { stream: 'test.straggler', domain: 'wiki.example', id: slow }
    expect((await service.post({ $schema: '/test/1.0.0', meta })).status).toBe(201)
    await until('the straggler is called', () => target.calls.get(slow)?.started === 1)
    const feed = createFeed(service, 'test.straggler', random)
    await feed.post(500)
    await until('all others were called', () => [...feed.acknowledged].every((id) => target.calls.get(id)?.answered))
    expect(target.calls.get(slow)?.answered).toBe(0)
    // Told, not only answered: then nothing of it is in flight. What is settled is told in order.
    for (const id of [...target.calls.keys()].slice(-20))
      await until('the last are told', async () => (await fate(service, id, 'call')) === 'done ok')
    await service.kill()
    await service.restart()

    await until('the straggler is called again, and ends', () => target.calls.get(slow)?.answered === 1, limitMs)
    const repeated = [...feed.acknowledged].filter((id) => (target.calls.get(id)?.started ?? 0) > 1)
    expect(repeated).toEqual([])
  }, 180_000)

  test('of a rule whose limit is below the number of processes no more calls than that run at once', async () => {
    const dedup = "dedup: { key: '{{message.meta.id}}' }"
    const limits = [1, 2, 1, 2]
    const targets = await Promise.all(limits.map(() => openTarget(respondLate(10))))
    for (const target of targets) onTestFinished(() => target.close())
    const rules = limits.map(
      (concurrency, index) => `
rule-${index}:
  topic: test.limited
  exec: { method: post, uri: '${targets[index]?.url}/{{message.meta.id}}' }
  throttle: { concurrency: ${concurrency} }
  ${index < 2 ? '' : dedup}`,
    )
    const random = createRandom()
    const name = `limited-${random.seed}`
    const open = () => openKafkaService({ brokers: kafka.brokers, name, rules: rules.join('\n') })
    const services = await Promise.all([open(), open(), open()])
    await Promise.all(services.map(isWell))
    const feeds = services.map((service) => createFeed(service, 'test.limited', random))
    await Promise.all(feeds.map((feed) => feed.post(100)))
    await services[0]?.kill()
    await services[0]?.restart()

    const ids = feeds.flatMap(({ acknowledged }) => [...acknowledged])
    const missing = () =>
      targets.flatMap(({ requests }) => {
        const called = new Set(requests.map(({ path }) => path))
        return ids.filter((id) => !called.has(`/${id}`))
      })
    await until('each was called', () => missing().length === 0, limitMs)
    expect(ids.length).toBe(300)
    expect(targets.map(({ maxInFlight }) => maxInFlight)).toEqual(limits)
  }, 300_000)

  test('what waited for the turn of its key is not counted any more once it was called', async () => {
    const target = await openCountingTarget({ latencyMs: 20, status: () => 200 })
    onTestFinished(() => target.close())
    const random = createRandom()
    const name = `counted-${random.seed}`
    const rules = `
call:
  topic: test.counted
  match: { meta: { id: '/^(?<digit>.)/' } }
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
  order: { key: '{{match.meta.id.digit}}' }
`
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules })
    await isWell(service)
    const feed = createFeed(service, 'test.counted', random)
    await feed.post(200)
    await until('all are called', () => [...feed.acknowledged].every((id) => target.calls.get(id)?.succeeded), limitMs)

    await becomes(
      () => ruleCounts(service, 'call'),
      ({ waiting, running, done }) => done === 200 && running === 0 && Object.keys(waiting).length === 0,
    )
  }, 180_000)

  test('two data centres by prefix: what one took is worked on by whoever has its prefix', async () => {
    const target = await openCountingTarget({ latencyMs: 10, status: () => 200 })
    onTestFinished(() => target.close())
    const random = createRandom()
    const name = `centres-${random.seed}`
    const rules = `
call:
  topic: test.centre
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
  throttle: { concurrency: 20 }
`
    const centre = (prefix: string) =>
      openKafkaService({
        brokers: kafka.brokers,
        name,
        rules,
        more: [`topic_prefix: ${name}.${prefix}.`, 'replication: 1'],
      })
    const [eqiad, codfw] = await Promise.all([centre('eqiad'), centre('codfw')])
    await Promise.all([isWell(eqiad), isWell(codfw)])
    const feeds = [eqiad, codfw].map((service) => createFeed(service, 'test.centre', random))
    const posting = Promise.all(feeds.map((feed) => feed.post(800)))
    await until('calls are made', () => target.started > 200)
    feeds[0]?.down()
    await eqiad.kill()
    const heir = await centre('eqiad')
    await accepts(heir)
    await eqiad.restart()
    feeds[0]?.up()
    await posting

    const acknowledged = feeds.flatMap((feed) => [...feed.acknowledged])
    await until('all were called', () => acknowledged.every((id) => target.calls.get(id)?.succeeded), limitMs)
    const repeats = [...target.calls.values()].reduce((sum, { started }) => sum + started - 1, 0)
    console.log(`${acknowledged.length} acknowledged by two centres, ${repeats} repeated after a hand-over`)
    expect(repeats).toBeLessThanOrEqual(3 * 2 * 2 * 20)
  }, 240_000)

  test('topics that come to be while a regex asks for them are called from their first event on, each once', async () => {
    const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
    onTestFinished(() => target.close())
    const name = `new-${createRandom().seed}`
    const rules = `call: { topic: '/^test\\.new\\..*$/', exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const services = await Promise.all([1, 2].map(() => openKafkaService({ brokers: kafka.brokers, name, rules })))
    for (const service of services) await isWell(service)
    const client = new KafkaClient(kafka.client)
    const admin = client.admin()
    const producer = client.producer()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    await producer.connect()
    onTestFinished(() => producer.disconnect())
    const ids: string[] = []
    const some = (stream: string) => {
      const made = Array.from({ length: 30 }, () => anEvent(stream))
      ids.push(...made.map(({ meta }) => meta.id))
      return made
    }
    const topic = `${name}.test.new.other`
    const write = () => {
      const values = some('test.new.other').map((event) => JSON.stringify(event))
      return producer.send({ topic, messages: values.map((value, n) => ({ partition: n % 3, value })) })
    }
    const allAreCalled = () =>
      until('all are called', () => ids.every((id) => target.calls.get(id)?.succeeded), limitMs)

    const answers = await Promise.all(services.map((service) => service.post(some('test.new.posted'))))
    await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] })
    await write()
    await allAreCalled()
    // What is read twice is called twice before these are.
    await write()
    await allAreCalled()
    for (const service of services) await until('nothing is left', () => isDrained(service))

    expect(answers.map(({ status }) => status)).toEqual([201, 201])
    expect(new Map([...target.calls].map(([id, { started }]) => [id, started]))).toEqual(
      new Map(ids.map((id) => [id, 1])),
    )
  }, 180_000)

  test.each(['rules are read anew', 'one of two processes is away'])(
    'a topic that comes to be while %s is called from its first event on',
    async (meanwhile) => {
      const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
      onTestFinished(() => target.close())
      const name = `new-${createRandom().seed}`
      const rules = `call: { topic: '/^test\\.new\\..*$/', exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
      const open = () => openKafkaService({ brokers: kafka.brokers, name, rules })
      const [stays, goes] = await Promise.all([open(), open()])
      await Promise.all([isWell(stays), isWell(goes)])
      const client = new KafkaClient(kafka.client)
      const admin = client.admin()
      const producer = client.producer()
      await admin.connect()
      onTestFinished(() => admin.disconnect())
      await producer.connect()
      onTestFinished(() => producer.disconnect())
      const written = Array.from({ length: 30 }, () => anEvent('test.new.other'))
      const messages = written.map((event, n) => ({ partition: n % 6, value: JSON.stringify(event) }))
      const topic = `${name}.test.new.other`

      if (meanwhile === 'one of two processes is away') await goes.kill()
      await admin.createTopics({ topics: [{ topic, numPartitions: 6 }] })
      await producer.send({ topic, messages })
      if (goes.isRunning) for (const service of [stays, goes]) service.signal('SIGHUP')
      else await goes.restart()

      await until('all are called', () => written.every(({ meta }) => target.calls.get(meta.id)?.succeeded), limitMs)
    },
    180_000,
  )

  test('an event that its topic has no room for is refused alone, until the topic has', async () => {
    const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
    onTestFinished(() => target.close())
    const name = `large-${createRandom().seed}`
    const rules = `call: { topic: test.large, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const admin = new KafkaClient(kafka.client).admin()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    const topic = `${name}.test.large`
    const set = (bytes: number) => ({ name: 'max.message.bytes', value: String(bytes) })
    await admin.createTopics({ topics: [{ topic, numPartitions: 2, configEntries: [set(20_000)] }] })
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules })
    await accepts(service)
    const event = (n: number, size: number) => ({
      $schema: '/test/1.0.0',
      meta: { stream: 'test.large', domain: 'wiki.example', id: `00000000-0000-4000-8000-00000000010${n}` },
      filling: 'x'.repeat(size),
    })
    // Together they are more than the topic takes at once.
    const small = [0, 1, 2, 3].map((n) => event(n, 15_000))
    const large = event(4, 25_000)

    const some = await service.post([...small.slice(0, 2), large, ...small.slice(2)])
    const alone = await service.post(large)
    await until('the others are called', () => small.every(({ meta }) => target.calls.get(meta.id)?.succeeded))

    const why = { message: expect.stringContaining(`larger than max.message.bytes of the topic ${topic} allows`) }
    for (const answer of [some, alone]) {
      expect(JSON.parse(answer.body)).toEqual({ invalid: [], error: [{ status: 'error', event: large, context: why }] })
    }
    expect([some.status, alone.status]).toEqual([207, 400])
    expect(target.calls.has(large.meta.id)).toBe(false)

    await admin.alterConfigs({
      validateOnly: false,
      resources: [{ type: 2, name: topic, configEntries: [set(50_000)] }],
    })
    await until('it is accepted', async () => (await service.post(large)).status === 201)
    await until('it is called', () => target.calls.get(large.meta.id)?.succeeded)
  }, 60_000)

  test('an event whose topic would be the service’s own, Kafka’s, or one that Kafka does not take, is refused alone', async () => {
    const name = `names-${createRandom().seed}`
    const rules = "call: { topic: test.none, exec: { uri: 'http://127.0.0.1:9/' } }"
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules, more: ['replication: 1'] })
    await accepts(service)
    const good = anEvent(`${name}_a.b`)
    expect((await service.post(good)).status).toBe(201)

    const bad = [`${name}.work`, '__consumer_offsets', `${name}_a_b`].map((stream) => anEvent(stream))
    const some = await service.post([...bad, good])
    const alone = await service.post(bad[0])

    const told = bad.map(({ meta: { stream } }) => expect.stringMatching(`${stream}.* another name`))
    expect(JSON.parse(some.body).error.map(({ context }: { context: { message: string } }) => context.message)).toEqual(
      expect.arrayContaining(told),
    )
    expect([some.status, alone.status]).toEqual([207, 400])
    const written = (await readAll(kafka, `${name}.work`)).join()
    expect(written).not.toContain(bad[0]?.meta.id)
  }, 60_000)

  test('an event by another producer that is larger than the intake takes becomes a dead letter, and holds up nothing', async () => {
    const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
    onTestFinished(() => target.close())
    const name = `foreign-${createRandom().seed}`
    const rules = `call: { topic: test.foreign, delay: 1s, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const config = 'intake: { max_body: 64KiB }'
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules, config })
    await accepts(service)
    const event = (n: number, size: number) => ({
      $schema: '/test/1.0.0',
      meta: { stream: 'test.foreign', domain: 'wiki.example', id: `00000000-0000-4000-8000-00000000030${n}` },
      filling: 'x'.repeat(size),
    })
    const small = [event(0, 10), event(1, 10)]
    expect((await service.post(small[0])).status).toBe(201)
    const producer = new KafkaClient(kafka.client).producer()
    await producer.connect()
    onTestFinished(() => producer.disconnect())
    const written = [event(2, 900_000), small[1]].map((one) => ({ key: 'page', value: JSON.stringify(one) }))
    await producer.send({ topic: `${name}.test.foreign`, messages: written })

    await until('the others are called', () => small.every(({ meta }) => target.calls.get(meta.id)?.succeeded))
    const { body } = await becomes(
      () => service.get('/v1/dead'),
      ({ body }) => JSON.stringify(body).includes('unreadable'),
    )
    expect(JSON.stringify(body)).toContain('at most `intake.max_body`')
    expect(JSON.stringify(body).length).toBeLessThan(200_000)

    const since = letterOf(body)?.at
    await fetch(`${service.url}/v1/dead/replay`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"all":true}',
    })
    const again = await becomes(
      async () => letterOf((await service.get('/v1/dead')).body),
      (letter) => letter !== undefined && letter.at !== since,
    )
    expect(again?.reason).toBe('unreadable')
  }, 60_000)

  test('an event whose throttle key is nearly as large as an event may be holds up nobody', async () => {
    const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
    onTestFinished(() => target.close())
    const name = `lane-${createRandom().seed}`
    const rules = `
call:
  topic: test.lane
  delay: 1s
  throttle: { concurrency: 5, key: '{{message.key}}' }
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
`
    const config = 'intake: { max_body: 1MiB }'
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules, config })
    await accepts(service)
    const both = [{ ...anEvent('test.lane'), key: 'x'.repeat(700_000) }, anEvent('test.lane')]
    for (const event of both) expect((await service.post(event)).status).toBe(201)
    await until('both are called', () => both.every(({ meta }) => target.calls.get(meta.id)?.succeeded))
  }, 60_000)

  test('an event that no rule matched is found in its stream, by either id, and told which clause said no', async () => {
    const name = `unmatched-${createRandom().seed}`
    const rules = "call: { topic: test.unmatched, match: { title: A }, exec: { uri: 'http://127.0.0.1:9/' } }"
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules })
    await accepts(service)
    const event = { ...anEvent('test.unmatched'), title: 'B' }
    expect((await service.post([anEvent('test.unmatched'), event])).status).toBe(201)
    const { id } = event.meta
    const find = (of: string, query: string) => service.get(`/v1/events/${of}?${query}`)

    expect((await service.get(`/v1/events/${id}`)).status).toBe(404)
    const { body } = await find(id, 'stream=test.unmatched')
    const found = {
      meta_id: id,
      stream: 'test.unmatched',
      rules: [{ rule: 'call', matched: false, reason: { clause: 'match', path: 'title', found: 'B' } }],
    }
    expect(body).toMatchObject({ events: [found] })
    const ours = (body as EventsAnswer).events[0]?.id ?? ''
    expect((await find(ours, 'stream=test.unmatched')).body).toMatchObject({ events: [{ ...found, id: ours }] })
    const later = new Date(Date.now() + 60_000).toISOString()
    for (const query of ['stream=test.other', `stream=test.unmatched&since=${later}`]) {
      expect((await find(id, query)).status).toBe(404)
    }
    expect((await find(id, 'stream=test.unmatched&since=yesterday')).status).toBe(400)
  }, 60_000)

  test('partitions that disagree with the topics end a start, with what to do', async () => {
    const name = `partitions-${createRandom().seed}`
    const rules = "call: { topic: test.none, exec: { uri: 'http://127.0.0.1:9/' } }"
    const right = await openKafkaService({ brokers: kafka.brokers, name, rules })
    await accepts(right)
    const wrong = await openKafkaService({ brokers: kafka.brokers, name, rules, partitions: 4 })

    await until('it ends', () => !wrong.isRunning)
    expect(await wrong.stop()).toBe(1)
    expect(wrong.output).toMatch(/\.work has 6 partitions and store.kafka.partitions is 4: set it to 6/)
    expect(right.isRunning).toBe(true)
  }, 60_000)
})

describe('brokers that are away, or ask who one is', () => {
  needsKafka()

  test('a service without a broker refuses events, says why, and goes on when there is one', async () => {
    const kafka = await startKafka({ brokers: 1 })
    onTestFinished(() => kafka.close())
    await kafka.stop(1)
    const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
    onTestFinished(() => target.close())
    const rules = `call: { topic: test.away, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const service = await openKafkaService({ brokers: kafka.brokers, name: 'away', rules })
    const id = '00000000-0000-4000-8000-000000000002'
    const event = { $schema: '/test/1.0.0', meta: { stream: 'test.away', domain: 'wiki.example', id } }

    const refused = await service.post(event)
    const ready = await service.get('/readyz')
    const questions = await Promise.all([service.get(`/v1/events/${id}`), service.get('/v1/dead')])
    await kafka.start(1)
    await accepts(service)
    const accepted = await until('it is accepted', async () => {
      const { status } = await service.post(event)
      return status === 201 && status
    })
    await until('it is called', () => target.calls.get(id)?.succeeded)

    expect([refused.status, Number(refused.headers.get('retry-after')) > 0]).toEqual([503, true])
    expect([ready.status, JSON.stringify(ready.body)]).toEqual([503, expect.stringContaining('Kafka is not ready')])
    expect(service.output).toContain('Kafka is not ready: ')
    const unknown = { status: 503, body: { detail: expect.stringContaining('Kafka does not answer') } }
    expect(questions).toMatchObject([unknown, unknown])
    expect(accepted).toBe(201)
  }, 180_000)

  test('a stream that Kafka allows nobody to write to is refused alone, with what to do', async () => {
    const kafka = await startKafka({ brokers: 1, sasl: 'plain' })
    onTestFinished(() => kafka.close())
    const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
    onTestFinished(() => target.close())
    const { username, password } = kafka.users.stranger
    const admin = new KafkaClient(kafka.client).admin()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    const allow = { principal: `User:${username}`, host: '*', operation: 2, permissionType: 3 } as const
    const topics = { ...allow, resourceType: 2 } as const
    await admin.createAcls({
      acl: [
        { ...topics, resourceName: 'allow.allow.', resourcePatternType: 4 },
        { ...topics, resourceName: 'allow.test.allowed', resourcePatternType: 3 },
        { ...allow, resourceType: 3, resourceName: 'allow.allow', resourcePatternType: 3 },
      ],
    })
    const rules = `call: { topic: [test.allowed, test.barred], exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const service = await openKafkaService({
      ...{ brokers: kafka.brokers, name: 'allow', rules },
      more: [
        'topic_prefix: allow.',
        'replication: 1',
        `sasl: { mechanism: plain, username: ${username}, password: ${password} }`,
      ],
    })
    await accepts(service)
    const event = (stream: string, n: number) => ({
      $schema: '/test/1.0.0',
      meta: { stream, domain: 'wiki.example', id: `00000000-0000-4000-8000-00000000020${n}` },
    })
    const allowed = event('test.allowed', 1)
    const barred = event('test.barred', 2)

    const some = await service.post([barred, allowed])
    const alone = await service.post(barred)
    await until('the other is called', () => target.calls.get(allowed.meta.id)?.succeeded)

    const why = { message: expect.stringMatching(/does not allow .* allow\.test\.barred; grant it/) }
    for (const answer of [some, alone]) {
      expect(JSON.parse(answer.body)).toEqual({
        invalid: [],
        error: [{ status: 'error', event: barred, context: why }],
      })
    }
    expect([some.status, alone.status]).toEqual([207, 503])
  }, 120_000)

  test.each(['scram-sha-256', 'scram-sha-512'] as const)(
    'TLS and a login by %s carry events to their calls; a wrong password is told',
    async (sasl) => {
      const kafka = await startKafka({ brokers: 1, tls: true, sasl })
      onTestFinished(() => kafka.close())
      const target = await openCountingTarget({ latencyMs: 1, status: () => 200 })
      onTestFinished(() => target.close())
      const rules = `call: { topic: test.login, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
      const { username, password } = kafka.users.service
      const open = (word: string) =>
        openKafkaService({
          brokers: kafka.brokers,
          name: 'login',
          rules,
          more: [
            'replication: 1',
            `tls: { ca: { file: ${JSON.stringify(kafka.tls?.caFile)} } }`,
            `sasl: { mechanism: ${sasl}, username: ${username}, password: ${JSON.stringify(word)} }`,
          ],
        })
      const service = await open(password)
      await accepts(service)
      const id = '00000000-0000-4000-8000-000000000003'
      const event = { $schema: '/test/1.0.0', meta: { stream: 'test.login', domain: 'wiki.example', id } }
      expect((await service.post(event)).status).toBe(201)
      await until('it is called', () => target.calls.get(id)?.succeeded)

      const stranger = await open('wrong')
      const { body } = await becomes(
        () => stranger.get('/readyz'),
        ({ body }) => /auth|credential/i.test(JSON.stringify(body)),
      )
      expect(JSON.stringify(body)).not.toContain('wrong')
      expect((await stranger.post(event)).status).toBe(503)
    },
    180_000,
  )
})

function letterOf(body: unknown): DeadLetterView | undefined {
  return (body as DeadAnswer).dead[0]
}
