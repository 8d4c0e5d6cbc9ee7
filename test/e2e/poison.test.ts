import { expect, onTestFinished, test } from 'vitest'
import { openService } from '../support/service.ts'
import { hang, openTarget, respond } from '../support/target.ts'
import { until } from '../support/until.ts'
import { fate } from './event-view.ts'
import { anEvent } from './posted-event.ts'

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
