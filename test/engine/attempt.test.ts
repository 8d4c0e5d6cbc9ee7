import { expect, onTestFinished, test } from 'vitest'
import type { DeliveryView } from '../../src/api/contract.ts'
import { openTarget, respond, type TargetRequest } from '../support/target.ts'
import { becomes } from '../support/until.ts'
import { openWorld, type World } from '../support/world.ts'

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

/** Neither a failure nor a success: what the end point of jobs says where a job returned nothing. */
const doubtful = respond(500, '{"error":null}', { 'content-type': 'application/json' })

const inOrder = (url: string, ...paths: readonly string[]) => `
rule:
  topic: jobs
  exec:
${paths.map((path) => `    - { method: post, uri: '${url}/${path}', body: '{{globals.message}}' }`).join('\n')}
  answers: mediawiki-job
  retry: { limit: 0 }
`

const pathsOf = (requests: readonly TargetRequest[]) => requests.map(({ path }) => path)

test('a doubtful answer does not end a list of which more is to be done: a replay finds it', async () => {
  const there = await target()
  there.behave(({ index }) => (index === 0 ? doubtful : respond(200)))
  const world = await openWorld(inOrder(there.url, 'first', 'second'))
  const id = await world.post('jobs')
  expect(await ended(world, id)).toMatchObject({ state: 'dead', reason: 'exhausted' })
  await world.ask('POST', '/v1/dead/replay', { all: true })
  await there.waitFor(3)
  expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'ok' })
  expect(pathsOf(there.requests)).toEqual(['/first', '/first', '/second'])
})

test('a doubtful answer does not hide that another request was refused', async () => {
  const there = await target()
  there.behave(({ path }) => (path === '/first' ? respond(400) : doubtful))
  const world = await openWorld(inOrder(there.url, 'first', 'second'))
  const id = await world.post('jobs')
  expect(await ended(world, id)).toMatchObject({ state: 'dead' })
})

test('a doubtful answer to the last request that was left ends it well', async () => {
  const there = await target()
  there.behave(({ path }) => (path === '/first' ? respond(200) : doubtful))
  const world = await openWorld(inOrder(there.url, 'first', 'second'))
  const id = await world.post('jobs')
  expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'ignored' })
})

test('a dead letter keeps no secret of the query', async () => {
  const there = await target()
  there.behave(() => respond(400))
  const world = await openWorld(
    `rule: { topic: jobs, exec: { method: post, uri: '${there.url}/x', query: { access_token: hush, n: '1' } } }`,
  )
  await ended(world, await world.post('jobs'))
  expect(there.requests).toMatchObject([{ path: '/x?access_token=hush&n=1' }])
  const { body } = await world.ask('GET', '/v1/dead')
  expect(body).toMatchObject({ dead: [{ answer: { request: `POST ${there.url}/x?access_token=***&n=1` } }] })
})
