import { describe, expect, onTestFinished, test } from 'vitest'
import { sharedKafka } from '../support/kafka.ts'
import { openService } from '../support/service.ts'
import { hang, openTarget, respond } from '../support/target.ts'
import { until } from '../support/until.ts'
import { fate } from './event-view.ts'
import { openKafkaService } from './kafka-service.ts'
import { anEvent } from './posted-event.ts'
import { createRandom } from './random.ts'

test('a delivery that was running at six unclean stops is dead (poison), and the others are called all the same', async () => {
  const target = await openTarget()
  onTestFinished(() => target.close())
  const poison = anEvent('test.poison', 'poison')
  const calls = (name: string) => target.requests.filter(({ path }) => path === `/${name}`).length
  target.behave(({ path }) => (path === '/poison' ? hang() : respond(200)))
  const service = await openService({
    rules: `rule: { topic: test.poison, exec: { uri: '${target.url}/{{message.page_title}}' } }`,
  })
  onTestFinished(() => service.close())
  await service.post([poison])

  for (let stop = 1; stop <= 6; stop += 1) {
    await until(`call ${stop} of the poison`, () => calls('poison') >= stop)
    // The mark of what runs rides in the next commit; this is one.
    await service.post([anEvent('test.poison', `other-${stop}`)])
    await until('the other is called', () => calls(`other-${stop}`) > 0)
    await service.kill()
    await service.restart()
  }

  await until('it is dead', async () => (await fate(service, poison.meta.id, 'rule')) === 'dead poison')
  expect(calls('poison')).toBe(6)
})

describe('a delivery of which every process dies at once is found out', () => {
  const kafka = sharedKafka()

  test.each([
    ['on the embedded store', (rules: string) => openService({ rules })],
    [
      'on Kafka',
      (rules: string) => openKafkaService({ brokers: kafka.brokers, name: `dies-${createRandom().seed}`, rules }),
    ],
  ])(
    '%s, and the others are called',
    async (_, open) => {
      const target = await openTarget()
      onTestFinished(() => target.close())
      const poison = anEvent('test.poison', 'poison')
      const calls = (name: string) => target.requests.filter(({ path }) => path === `/${name}`).length
      target.behave(({ path }) => (path === '/poison' ? hang() : respond(200)))
      const service = await open(`rule: { topic: test.poison, exec: { uri: '${target.url}/{{message.page_title}}' } }`)
      onTestFinished(() => service.close())
      await until('it takes events', async () => (await service.get('/readyz')).status === 200)
      await service.post([poison])

      let deaths = 0
      const isDead = async () => (await fate(service, poison.meta.id, 'rule')) === 'dead poison'
      for (;;) {
        const next = await until(
          'it is called once more, or dead',
          async () => (calls('poison') > deaths ? 'call' : (await isDead()) && 'dead'),
          60_000,
        )
        if (next === 'dead') break
        // From then on it comes out of its row, which may be before its stream is read.
        if (deaths <= 3) {
          const { body } = await service.get('/healthz')
          expect(JSON.stringify(body).includes('put on record')).toBe(deaths === 3)
        }
        deaths += 1
        expect(deaths).toBeLessThanOrEqual(9)
        await service.kill()
        await service.restart()
      }
      expect(JSON.stringify((await service.get('/healthz')).body)).toContain('1 dead letter of the rule rule')
      await service.post([anEvent('test.poison', 'other')])
      await until('another is called', () => calls('other') > 0)
      expect(deaths).toBe(9)
    },
    240_000,
  )
})
