import { expect, onTestFinished, test } from 'vitest'
import type { DeliveryView } from '../../src/api/contract.ts'
import { openTarget, respond } from '../support/target.ts'
import { becomes } from '../support/until.ts'
import { openWorld, type World } from '../support/world.ts'

const json = { 'content-type': 'application/json; charset=utf-8' }

async function target() {
  const there = await openTarget()
  onTestFinished(() => there.close())
  return there
}

function ended(world: World, id: string): Promise<DeliveryView | undefined> {
  return becomes(
    async () => (await world.event(id))?.rules[0]?.delivery,
    (delivery) => delivery?.state === 'done' || delivery?.state === 'dead',
  )
}

const purging = (url: string, more = '') => `
rule:
  topic: pages
  exec: { method: post, uri: '${url}/api.php', body: { action: purge, format: json, formatversion: 2, titles: '{{message.titles}}' } }
  answers: mediawiki-api
  retry: { limit: 3, delay: 10ms, jitter: none }
${more}`

/** An answer of action=purge in which these were purged, and those not. */
function purged(done: readonly string[], left: readonly string[]): string {
  const pages = [...done.map((title) => ({ ns: 0, title, purged: true })), ...left.map((title) => ({ ns: 0, title }))]
  return JSON.stringify({ batchcomplete: true, purge: pages })
}

const titlesOf = (body: Buffer) => new URLSearchParams(body.toString()).get('titles')

test('of a batch that was refused in part only the rest is sent again, also after a restart', async () => {
  const there = await target()
  there.behave(({ index }) => respond(200, index === 0 ? purged(['A', 'C'], ['B', 'D']) : purged(['B', 'D'], []), json))
  const world = await openWorld(purging(there.url).replace('delay: 10ms', 'delay: 500ms'))
  const id = await world.post('pages', { titles: 'A|B|C|D' })
  await becomes(
    async () => (await world.event(id))?.rules[0]?.delivery,
    (delivery) => delivery?.reason === 'retry',
  )
  await world.restart()
  expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'ok' })
  expect(there.requests.map(({ body }) => titlesOf(body))).toEqual(['A|B|C|D', 'B|D'])
})

test('a replay sends only the rest, too', async () => {
  const there = await target()
  there.behave(respond(200, purged(['A'], ['B']), json))
  const world = await openWorld(purging(there.url).replace('limit: 3', 'limit: 0'))
  const id = await world.post('pages', { titles: 'A|B' })
  expect(await ended(world, id)).toMatchObject({ state: 'dead', reason: 'exhausted' })
  there.behave(respond(200, purged(['B'], []), json))
  await world.ask('POST', '/v1/dead/replay', { all: true })
  await there.waitFor(2)
  expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'ok' })
  expect(there.requests.map(({ body }) => titlesOf(body))).toEqual(['A|B', 'B'])
})

test('another revision of the rule is asked for all its titles, not for what an answer to the earlier one left', async () => {
  const there = await target()
  there.behave(({ index }) => respond(200, index === 0 ? purged(['A'], ['B']) : purged(['C', 'D'], []), json))
  const rules = purging(there.url).replace('delay: 10ms', 'delay: 700ms')
  const world = await openWorld(rules.replace('{{message.titles}}', 'A|B'))
  const id = await world.post('pages')
  await becomes(
    async () => (await world.event(id))?.rules[0]?.delivery,
    (delivery) => delivery?.reason === 'retry',
  )
  await world.rewrite(rules.replace('{{message.titles}}', 'C|D'))
  expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'ok' })
  expect(there.requests.map(({ body }) => titlesOf(body))).toEqual(['A|B', 'C|D'])
})

test('a job’s 500 with error null, which is also core’s success, is tried twice more and then ignored', async () => {
  const there = await target()
  there.behave(respond(500, JSON.stringify({ error: null, status: false }), json))
  const world = await openWorld(`
rule:
  topic: pages
  exec: { method: post, uri: '${there.url}/rest.php/eventbus/v0/internal/job/execute', body: '{{globals.message}}' }
  answers: mediawiki-job
  retry: { limit: 8, delay: 10ms, factor: 1, jitter: none }
`)
  const id = await world.post('pages', {})
  expect(await ended(world, id)).toMatchObject({
    state: 'done',
    reason: 'ignored',
    attempts: [{ outcome: 'failed' }, { outcome: 'failed' }, { outcome: 'ignored' }],
  })
})
