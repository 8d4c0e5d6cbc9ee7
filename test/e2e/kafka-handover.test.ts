import { Kafka as KafkaClient } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { DeadAnswer } from '../../src/api/contract.ts'
import { sharedKafka } from '../support/kafka.ts'
import type { Service } from '../support/service.ts'
import { becomes, until } from '../support/until.ts'
import { openCountingTarget } from './counting-target.ts'
import { createFeed } from './feed.ts'
import { isDrained, isWell, openKafkaService } from './kafka-service.ts'
import { createRandom } from './random.ts'

/*
 * What comes from others: producers that write to the same topics, other data centres, and a process that stops.
 */

const limitMs = 60_000

describe('on Kafka', () => {
  const kafka = sharedKafka()

  async function openProducer() {
    const producer = new KafkaClient(kafka.client).producer()
    await producer.connect()
    onTestFinished(() => producer.disconnect())
    return producer
  }

  async function openTarget(latencyMs: number) {
    const target = await openCountingTarget({ latencyMs, status: () => 200 })
    onTestFinished(() => target.close())
    return target
  }

  test('tombstones, empty values and what is no JSON object become dead letters, and the events among them are called', async () => {
    const target = await openTarget(1)
    const name = `unreadable-${createRandom().seed}`
    const rules = `call: { topic: test.mixed, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const service = await openKafkaService({ brokers: kafka.brokers, name, rules })
    await isWell(service)
    const event = (n: number) => {
      const meta = { stream: 'test.mixed', domain: 'wiki.example', id: `00000000-0000-4000-8000-00000000040${n}` }
      return { $schema: '/test/1.0.0', meta }
    }
    const events = [event(0), event(1), event(2)]
    expect((await service.post(events[0])).status).toBe(201)
    const foreign = [null, '', 'no JSON', '["a list"]', '{"cut": ']
    const values = [JSON.stringify(events[1]), ...foreign, JSON.stringify(events[2])]
    const producer = await openProducer()
    await producer.send({
      topic: `${name}.test.mixed`,
      messages: values.map((value) => ({ key: 'page', value })),
    })

    await until(
      'the events are called',
      () => events.every(({ meta }) => target.calls.get(meta.id)?.succeeded),
      limitMs,
    )
    const { dead } = await becomes(
      async () => (await service.get('/v1/dead')).body as DeadAnswer,
      ({ dead }) => dead.length === foreign.length,
    )
    expect(dead.map(({ state, reason }) => `${state} ${reason}`)).toEqual(foreign.map(() => 'dead unreadable'))
    expect(dead.map((letter) => letter.event).sort()).toEqual(foreign.map((value) => value ?? '').sort())
    await until('nothing holds up their stream', () => isDrained(service), limitMs)
  }, 120_000)

  test('a process that consumes the topics of two data centres works on both, and posts to its own', async () => {
    const target = await openTarget(1)
    const name = `consumes-${createRandom().seed}`
    const rules = `call: { topic: test.both, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
    const [own, other] = [`${name}.eqiad.`, `${name}.codfw.`]
    const open = (prefix: string, consumed: readonly string[]) => {
      const more = [`topic_prefix: ${prefix}`, `consume_prefixes: ${JSON.stringify(consumed)}`, 'replication: 1']
      return openKafkaService({ brokers: kafka.brokers, name, rules, more })
    }
    const service = await open(own, [own, other])
    await isWell(service)
    const meta = { stream: 'test.both', domain: 'wiki.example' }
    const [here, there] = ['00000000-0000-4000-8000-000000000501', '00000000-0000-4000-8000-000000000502'].map(
      (id) => ({ $schema: '/test/1.0.0', meta: { ...meta, id } }),
    )
    expect((await service.post(here)).status).toBe(201)
    const admin = new KafkaClient(kafka.client).admin()
    await admin.connect()
    onTestFinished(() => admin.disconnect())
    await admin.createTopics({ topics: [{ topic: `${other}test.both`, numPartitions: 2 }] })
    const producer = await openProducer()
    await producer.send({ topic: `${other}test.both`, messages: [{ value: JSON.stringify(there) }] })

    await until(
      'both are called',
      () => [here, there].every((one) => target.calls.get(one?.meta.id ?? '')?.succeeded),
      limitMs,
    )
    const written = await Promise.all(
      [own, other].map(async (prefix) => {
        const offsets = await admin.fetchTopicOffsets(`${prefix}test.both`)
        return offsets.reduce((sum, { high }) => sum + Number(high), 0)
      }),
    )
    expect(written).toEqual([1, 1])
  }, 120_000)

  // Made anew and filled sooner than it looks there, it may go on where it was: that is not promised.
  test.each(['at once', 'once it was missed'])(
    'of a topic that is deleted and made anew %s nothing is passed over',
    async (when) => {
      const target = await openTarget(1)
      const name = `anew-${createRandom().seed}`
      const call = (stream: string) =>
        `call: { topic: ${stream}, exec: { method: post, uri: '${target.url}/{{message.meta.id}}' } }`
      const topic = `${name}.test.anew`
      const admin = new KafkaClient(kafka.client).admin()
      await admin.connect()
      onTestFinished(() => admin.disconnect())
      const producer = await openProducer()
      let posted = 0
      const fill = async (count: number) => {
        const ids = Array.from({ length: count }, () => `00000000-0000-4000-8000-00000000${6000 + posted++}`)
        const events = ids.map((id) => ({ meta: { stream: 'test.anew', domain: 'wiki.example', id } }))
        await producer.send({ topic, messages: events.map((event) => ({ value: JSON.stringify(event) })) })
        return () => ids.every((id) => target.calls.get(id)?.succeeded)
      }
      const make = () =>
        until('there is no other topic', () => admin.createTopics({ topics: [{ topic }], waitForLeaders: true }))
      await make()
      const isUnwanted = await fill(5)
      const service = await openKafkaService({ brokers: kafka.brokers, name, rules: call('test.else') })
      await isWell(service)
      await service.writeRules(call('test.anew'))
      service.signal('SIGHUP')
      await until('the topic is read from its end', async () => !(await isMissed(service)))
      await producer.send({ topic, messages: [{ value: '{"meta":{"id":"last"}}' }] })
      await until('what comes then is called', () => target.calls.get('last')?.succeeded, limitMs)
      await until('nothing is left', () => isDrained(service), limitMs)
      expect(isUnwanted()).toBe(false)

      await admin.deleteTopics({ topics: [topic] })
      if (when === 'at once') {
        await make()
        await until('it is seen, or missed', async () => hasSkipped(service) || (await isMissed(service)), limitMs)
      } else {
        await until('it is missed', () => isMissed(service), limitMs)
        await make()
      }
      // One of them has the offset of what was called.
      const isCalled = await fill(10)
      await until('all of it is called', isCalled, limitMs)
    },
    120_000,
  )

  test('a process that is stopped hands over what it has, and no call is made twice', async () => {
    const target = await openTarget(20)
    const random = createRandom()
    const name = `stops-${random.seed}`
    const rules = `
call:
  topic: test.stops
  exec: { method: post, uri: '${target.url}/{{message.meta.id}}' }
  throttle: { concurrency: 20 }
`
    const [leaver, heir] = await Promise.all(
      [1, 2].map(() => openKafkaService({ brokers: kafka.brokers, name, rules })),
    )
    if (leaver === undefined || heir === undefined) throw new Error('there are two')
    await Promise.all([isWell(leaver), isWell(heir)])
    const feed = createFeed(heir, 'test.stops', random)
    const posting = feed.post(3_000)
    await until('calls are made', () => target.started > 500, limitMs)
    expect(await leaver.stop()).toBe(0)
    await posting

    const missing = () => [...feed.acknowledged].filter((id) => !target.calls.get(id)?.succeeded).length
    await until('all are called', () => missing() === 0, limitMs)
    await until('nothing is left', () => isDrained(heir), limitMs)
    const repeated = [...target.calls.values()].filter(({ started }) => started > 1).length
    expect(repeated).toBe(0)
  }, 180_000)
})

/** Whether it knows that the topic of its rule is not there. */
async function isMissed(service: Service): Promise<boolean> {
  const { body } = await service.get('/metrics')
  return !String(body).includes('changeprop_stream_lag{stream="test.anew"')
}

/** Whether it has seen that a topic has not what it was to read next. */
function hasSkipped(service: Service): boolean {
  return service.output.includes('are not there any more; it goes on at 0')
}
