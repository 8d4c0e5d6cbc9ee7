import { request } from 'undici'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { DeadAnswer, DeliveryView } from '../../src/api/contract.ts'
import { terminalWith } from '../cli/terminal.ts'
import { hang, openTarget, respond, respondLate, type Script } from '../support/target.ts'
import { becomes } from '../support/until.ts'
import { anEvent, openWorld, type World } from '../support/world.ts'

async function target(script?: Script | ReturnType<typeof respond>) {
  const opened = await openTarget()
  if (script !== undefined) opened.behave(script)
  onTestFinished(() => opened.close())
  return opened
}

async function deliveryOf(world: World, id: string, rule: string): Promise<DeliveryView | undefined> {
  return (await world.event(id))?.rules.find((view) => view.rule === rule)?.delivery
}

function ended(world: World, id: string, rule: string): Promise<DeliveryView | undefined> {
  return becomes(
    () => deliveryOf(world, id, rule),
    (delivery) => delivery?.state === 'done' || delivery?.state === 'dead',
  )
}

describe('an event', () => {
  test('meets each rule that matches it, and no other', async () => {
    const there = await target()
    const world = await openWorld(`
first: { topic: page, exec: { uri: '${there.url}/first/{message.title}' } }
second: { topic: '/^pa/', match: { title: A/B }, exec: { method: post, uri: '${there.url}/second', body: '{{globals.message}}' } }
third: { topic: page, match: { title: other }, exec: { uri: '${there.url}/third' } }
fourth: { topic: other, exec: { uri: '${there.url}/fourth' } }
`)
    const id = await world.post('page', { title: 'A/B' })
    await ended(world, id, 'first')
    await ended(world, id, 'second')
    expect(there.requests.map(({ path }) => path).sort()).toEqual(['/first/A%2FB', '/second'])
    const event = await world.event(id)
    expect(event?.rules.find(({ rule }) => rule === 'third')).toMatchObject({
      matched: false,
      reason: { clause: 'match', path: 'title', wanted: 'other', found: 'A/B' },
    })
  })

  test('is forwarded byte for byte where the whole message is the body', async () => {
    const there = await target()
    const world = await openWorld(`
whole: { topic: page, exec: { method: post, uri: '${there.url}/', body: '{{globals.message}}' } }
`)
    const text =
      '{ "$schema":"/t/1", "meta":{"stream":"page"}, "1":1e2, "0":12345678901234567890, "é":"\\u00e9\\/", "a":{} }'
    const answer = await request(`${world.service.address}/v1/events`, {
      method: 'POST',
      body: `[ ${text} ]`,
      headers: { 'content-type': 'application/json' },
    })
    expect(answer.statusCode).toBe(201)
    await there.waitFor(1)
    expect(there.requests[0]?.body.toString()).toBe(text)
  })
})

describe('a delivery that fails', () => {
  test('is tried again until it succeeds, and each attempt is on record', async () => {
    let calls = 0
    const there = await target(() => respond(++calls < 3 ? 500 : 200))
    const world = await openWorld(`
rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { limit: 3, delay: 10ms } }
`)
    const id = await world.post('page')
    const delivery = await ended(world, id, 'rule')
    expect(delivery).toMatchObject({ state: 'done', reason: 'ok' })
    expect(delivery?.attempts.map(({ status, outcome }) => [status, outcome])).toEqual([
      [500, 'failed'],
      [500, 'failed'],
      [200, 'ok'],
    ])
  })

  test('has in its dead letter no meta_id that its producer did not give', async () => {
    const there = await target(respond(404))
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' } }`)
    await world.postAll([{ $schema: '/test/1.0.0', meta: { stream: 'page' } }])
    const dead = await becomes(
      async () => ((await world.ask('GET', '/v1/dead')).body as DeadAnswer).dead,
      ({ length }) => length === 1,
    )
    expect(dead).toMatchObject([{ reason: 'refused', meta_id: null, event_id: expect.any(String) }])
  })

  test('becomes a dead letter with the last answer when its retries are used up, and can be replayed', async () => {
    const there = await target(respond(500, 'out of order'))
    const world = await openWorld(`
rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { limit: 1, delay: 10ms } }
`)
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'dead', reason: 'exhausted' })
    const { body } = await world.ask('GET', '/v1/dead?rule=rule')
    expect(body).toMatchObject({
      dead: [{ reason: 'exhausted', meta_id: id, answer: { status: 500, body: 'out of order' } }],
    })

    there.behave(respond(200))
    expect(await world.ask('POST', '/v1/dead/replay', { rule: 'rule' })).toMatchObject({ body: { count: 1 } })
    const replayed = await becomes(
      () => deliveryOf(world, id, 'rule'),
      (delivery) => delivery?.state === 'done',
    )
    expect(replayed?.attempts).toHaveLength(3)
    expect(await world.rule('rule')).toMatchObject({ dead: 0, waiting: {} })
  })

  test('that is refused is dead at once, but the calls after it are made all the same, and a replay makes only the refused one', async () => {
    let isMended = false
    const there = await target(({ path }) => respond(path === '/b' && !isMended ? 404 : 200))
    const world = await openWorld(`
rule:
  topic: page
  exec: [{ uri: '${there.url}/a' }, { uri: '${there.url}/b' }, { uri: '${there.url}/c' }]
`)
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'dead', reason: 'refused' })
    expect(there.requests.map(({ path }) => path)).toEqual(['/a', '/b', '/c'])
    isMended = true
    await world.ask('POST', '/v1/dead/replay', { rule: 'rule' })
    await becomes(
      () => deliveryOf(world, id, 'rule'),
      (delivery) => delivery?.state === 'done',
    )
    expect(there.requests.map(({ path }) => path)).toEqual(['/a', '/b', '/c', '/b'])
  })

  test('in the middle of its calls goes on from there', async () => {
    let isDown = true
    const there = await target(({ path }) => {
      const isFirst = path === '/b' && isDown
      if (isFirst) isDown = false
      return respond(isFirst ? 500 : 200)
    })
    const world = await openWorld(`
rule:
  topic: page
  exec: [{ uri: '${there.url}/a' }, { uri: '${there.url}/b' }, { uri: '${there.url}/c' }]
  retry: { delay: 10ms }
`)
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
    expect(there.requests.map(({ path }) => path)).toEqual(['/a', '/b', '/b', '/c'])
  })

  test('is reopened once, however many ask for it at one time', async () => {
    const there = await target(respond(404))
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' } }`)
    const id = await world.post('page')
    await ended(world, id, 'rule')
    there.behave(respond(200))
    const answers = await Promise.all([1, 2, 3].map(() => world.ask('POST', '/v1/dead/replay', { rule: 'rule' })))
    expect(answers.map(({ body }) => (body as { count: number }).count).sort()).toEqual([0, 0, 1])
    await becomes(
      () => deliveryOf(world, id, 'rule'),
      (delivery) => delivery?.state === 'done',
    )
    expect(there.requests).toHaveLength(2)
    expect((await world.rule('rule')).waiting).toEqual({})
  })

  test('can be discarded, and is on record as that', async () => {
    const there = await target(respond(404))
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' } }`)
    const id = await world.post('page')
    await ended(world, id, 'rule')
    expect(await world.ask('POST', '/v1/dead/discard', { rule: 'rule' })).toMatchObject({ body: { count: 1 } })
    expect(await deliveryOf(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'discarded' })
  })
})

describe('slow rules', () => {
  test('twenty of them on one stream do not keep a rule on another from its events', async () => {
    const slow = await target(hang())
    const quick = await target()
    const rules = Array.from(
      { length: 20 },
      (_, n) => `slow${n}: { topic: slow, exec: { uri: '${slow.url}/' }, throttle: { concurrency: 2 } }`,
    )
    const world = await openWorld(`${rules.join('\n')}\nquick: { topic: quick, exec: { uri: '${quick.url}/' } }`, {
      stopTimeoutMs: 100,
    })
    const events = Array.from({ length: 1_000 }, () => anEvent('slow'))
    await world.postAll([...events, anEvent('quick')])
    await world.postAll([...events, anEvent('quick')])
    await quick.waitFor(2)
    const waiting = await world.rule('slow0')
    // Most of what the slow rules have to do is still there: the quick one was not served after them.
    expect((waiting.waiting.slot ?? 0) + waiting.running).toBeGreaterThan(1_900)
  })
})

describe('dead letters that fill their share', () => {
  test('have new deliveries of their rule set aside, untried, until an operator acts; other rules go on', async () => {
    let isMended = false
    const there = await target(({ path }) => respond(path === '/bad' && !isMended ? 404 : 200))
    const world = await openWorld(
      `
bad: { topic: page, exec: { uri: '${there.url}/bad' } }
good: { topic: page, exec: { uri: '${there.url}/good' } }
`,
      { deadBytes: 2_000 },
    )
    await world.postAll(Array.from({ length: 20 }, () => anEvent('page')))
    await becomes(
      () => world.rule('bad'),
      ({ dead }) => dead === 20,
    )
    const parked = await becomes(
      async () => {
        const id = await world.post('page')
        await ended(world, id, 'good')
        return deliveryOf(world, id, 'bad')
      },
      (delivery) => delivery?.reason === 'parked',
    )
    expect(parked).toMatchObject({ state: 'waiting', attempts: [], next: null })

    isMended = true
    await world.ask('POST', '/v1/dead/replay', { rule: 'bad', rate: '1000/s' })
    await becomes(
      () => world.rule('bad'),
      ({ dead, running, waiting }) => dead === 0 && running === 0 && Object.keys(waiting).length === 0,
    )
  })
})

test('a rule that comes later leaves alone what was routed before, and says so', async () => {
  const there = await target()
  const rule = (name: string) => `${name}: { topic: page, exec: { uri: '${there.url}/${name}' } }\n`
  const world = await openWorld(rule('first'))
  const id = await world.post('page')
  await ended(world, id, 'first')
  await world.rewrite(rule('first') + rule('later'))
  const view = await becomes(
    () => world.event(id),
    (found) => found?.routed === true,
  )
  expect(view?.rules[1]).toMatchObject({ rule: 'later', matched: true, computed_now: true })
})

test('what runs is told as running, from its row and from memory', async () => {
  let open = () => {}
  const isOpen = new Promise<void>((resolve) => {
    open = resolve
  })
  const there = await target(async ({ index }) => {
    if (index === 0) return respond(500)
    await isOpen
    return respond(200)
  })
  const world = await openWorld(
    `rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { delay: 10ms, jitter: none } }`,
  )
  const retried = await world.post('page')
  await there.waitFor(2)
  const fresh = await world.post('page')
  await there.waitFor(3)
  for (const [id, attempts] of [
    [retried, 1],
    [fresh, 0],
  ] as const) {
    const delivery = await deliveryOf(world, id, 'rule')
    expect([delivery?.state, delivery?.reason, delivery?.attempts.length]).toEqual(['running', '', attempts])
  }
  open()
  await ended(world, fresh, 'rule')
})

describe('waiting', () => {
  test('for a retry holds no slot: with one slot, others go on at once', async () => {
    const there = await target(({ path }) => respond(path === '/bad' ? 500 : 200))
    const world = await openWorld(`
rule: { topic: page, exec: { uri: '${there.url}/{message.title}' }, throttle: { concurrency: 1 }, retry: { delay: 1h, jitter: none } }
`)
    await world.postAll(Array.from({ length: 20 }, () => anEvent('page', { title: 'bad' })))
    await there.waitFor(20)
    const id = await world.post('page', { title: 'good' })
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done' })
    expect((await world.rule('rule')).waiting).toEqual({ retry: 20 })
  })

  test('for a target that asked for time spends no attempt, and no call is made before that time', async () => {
    const times: number[] = []
    const there = await target(() => {
      times.push(Date.now())
      return times.length === 1 ? respond(429, '', { 'retry-after': '1' }) : respond(200)
    })
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { limit: 0 } }`)
    const first = await world.post('page')
    await there.waitFor(1)
    await becomes(
      () => deliveryOf(world, first, 'rule'),
      (delivery) => delivery?.reason === 'target',
    )
    const second = await world.post('page')
    expect(await ended(world, first, 'rule')).toMatchObject({ state: 'done' })
    expect(await ended(world, second, 'rule')).toMatchObject({ state: 'done' })
    expect(times).toHaveLength(3)
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(1_000)
  })

  test('for a dead target hides neither another target of the same rule nor another rule, and ends when it is back', async () => {
    const gone = await openTarget()
    const { port } = gone
    await gone.close()
    const there = await target()
    const world = await openWorld(
      `
farm: { topic: page, exec: { uri: '{{wiki.url}}/purge' }, throttle: { concurrency: 5 }, retry: { limit: 2, delay: 50ms } }
`,
      {
        wikis: [
          { database: 'downwiki', url: `http://127.0.0.1:${port}`, maxPauseMs: 1_000 },
          { database: 'upwiki', url: there.url, maxPauseMs: 1_000 },
        ],
      },
    )
    await world.postAll(Array.from({ length: 200 }, () => anEvent('page', { database: 'downwiki' })))
    await becomes(
      () => world.rule('farm'),
      ({ waiting }) => (waiting.target ?? 0) > 100,
    )
    const id = await world.post('page', { database: 'upwiki' })
    expect(await ended(world, id, 'farm')).toMatchObject({ state: 'done' })
    expect(await world.rule('farm')).toMatchObject({ dead: 0 })

    const back = await openTarget(undefined, port)
    onTestFinished(() => back.close())
    await back.waitFor(200)
    await becomes(
      () => world.rule('farm'),
      ({ waiting, running }) => running === 0 && Object.keys(waiting).length === 0,
    )
    expect(await world.rule('farm')).toMatchObject({ done: 201, dead: 0 })
  })
})

describe('the limits of a rule', () => {
  test('never more than `concurrency` calls are in flight, and all are made', async () => {
    const there = await target(respondLate(5))
    const world = await openWorld(`
rule: { topic: page, exec: { uri: '${there.url}/' }, throttle: { concurrency: 7 } }
`)
    for (let i = 0; i < 5; i++) await world.postAll(Array.from({ length: 100 }, () => anEvent('page')))
    await there.waitFor(500)
    await becomes(
      () => world.rule('rule'),
      ({ done }) => done === 500,
    )
    expect(there.maxInFlight).toBeLessThanOrEqual(7)
    expect(there.requests).toHaveLength(500)
  })

  test('what finds no room in memory is called all the same, once', async () => {
    const there = await target(respondLate(20))
    const world = await openWorld(`
slow: { topic: page, exec: { uri: '${there.url}/{message.n}' }, throttle: { concurrency: 200 } }
`)
    for (let i = 0; i < 8; i++) {
      expect(await world.postAll(Array.from({ length: 1_000 }, (_, n) => anEvent('page', { n: i * 1_000 + n })))).toBe(
        201,
      )
    }
    await becomes(
      () => world.rule('slow'),
      ({ done }) => done === 8_000,
    )
    expect(new Set(there.requests.map(({ path }) => path)).size).toBe(8_000)
    expect(there.requests).toHaveLength(8_000)
    expect((await world.rule('slow')).waiting).toEqual({})
  })
})

describe('retry: never', () => {
  test('a call that is cut off is not repeated: it is a dead letter', async () => {
    const there = await target(hang())
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/', timeout: 200ms }, retry: never }`)
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'dead', reason: 'interrupted' })
    expect(there.requests).toHaveLength(1)
  })

  test('an answer that says "not now" postpones it', async () => {
    let calls = 0
    const there = await target(() => (++calls === 1 ? respond(429, '', { 'retry-after': '1' }) : respond(200)))
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' }, retry: never }`)
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done' })
    expect(there.requests).toHaveLength(2)
  })
})

describe('where a call may go', () => {
  test('not to a host that only the event names', async () => {
    const there = await target()
    const world = await openWorld(`rule: { topic: page, exec: { uri: '{{message.base}}/x' } }`, {
      targets: { other: { url: 'http://127.0.0.1:1', maxPauseMs: 1_000 } },
    })
    const id = await world.post('page', { base: there.url })
    const delivery = await ended(world, id, 'rule')
    expect(delivery?.state).toBe('dead')
    expect(there.requests).toHaveLength(0)
  })

  test('an event of a wiki that is not configured is a dead letter that says so', async () => {
    const world = await openWorld(`rule: { topic: page, exec: { uri: '{{wiki.url}}/api.php' } }`, {
      wikis: [{ database: 'onewiki', url: 'http://127.0.0.1:1', maxPauseMs: 1_000 }],
    })
    const id = await world.post('page', { database: 'otherwiki' })
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'dead', reason: 'unknown_wiki' })
  })

  test('an event without what the address needs is a dead letter, not a call to /undefined', async () => {
    const there = await target()
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/{{message.page.title}}' } }`)
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'dead', reason: 'template_failed' })
    expect(there.requests).toHaveLength(0)
  })
})

describe('other rules', () => {
  test('what waits follows the revision in force when it starts', async () => {
    const there = await target(({ path }) => respond(path === '/old' ? 500 : 200))
    const world = await openWorld(`
rule: { topic: page, exec: { uri: '${there.url}/old' }, retry: { delay: 1s, jitter: none } }
`)
    const kept = await world.post('page', { title: 'kept' })
    const left = await world.post('page', { title: 'left' })
    await there.waitFor(2)
    await world.rewrite(`rule: { topic: page, match: { title: kept }, exec: { uri: '${there.url}/new' } }`)
    expect(await ended(world, kept, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
    expect(await ended(world, left, 'rule')).toMatchObject({ state: 'done', reason: 'no_match' })
    expect(there.requests.map(({ path }) => path).sort()).toEqual(['/new', '/old', '/old'])
  })

  test('a list of requests that changed is made whole: places in it say nothing any more', async () => {
    const there = await target(({ path }) => respond(path === '/b' ? 500 : 200))
    const world = await openWorld(`
rule: { topic: page, exec: [{ uri: '${there.url}/a' }, { uri: '${there.url}/b' }], retry: { delay: 1s, jitter: none } }
`)
    const id = await world.post('page')
    await there.waitFor(2)
    await world.rewrite(`rule: { topic: page, exec: [{ uri: '${there.url}/new' }] }`)
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
    expect(there.requests.map(({ path }) => path)).toEqual(['/a', '/b', '/new'])
  })

  test('deliveries of a rule that is gone wait for one of that name', async () => {
    const there = await target(respond(500))
    const rule = `rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { limit: 50, delay: 10ms } }`
    const world = await openWorld(rule)
    const id = await world.post('page')
    await there.waitFor(1)
    await world.rewrite('{}')
    await becomes(
      () => world.ask('GET', '/healthz'),
      ({ body }) => JSON.stringify(body).includes('1 delivery of the rule rule, which is gone'),
    )
    const held = await becomes(
      () => deliveryOf(world, id, 'rule'),
      (delivery) => delivery?.reason === 'rule_gone',
    )
    expect(held).toMatchObject({ state: 'waiting', next: null })
    there.behave(respond(200))
    await world.rewrite(rule)
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
  })

  test('what waits for a rule that is gone is discarded with it, due or not', async () => {
    const there = await target(() => respond(500))
    const kept = `kept: { topic: other, exec: { uri: '${there.url}/' } }`
    const world = await openWorld(`
${kept}
rule:
  topic: page
  order: { key: '{{message.title}}' }
  retry: { delay: 1h, jitter: none }
  exec: { uri: '${there.url}/' }
`)
    const ids: string[] = []
    for (const title of ['A', 'A', 'B']) ids.push(await world.post('page', { title }))
    ids.push(await world.post('page', { title: 'C', delay_until: Math.ceil(Date.now() / 1_000) + 3_600 }))
    await becomes(
      () => world.rule('rule'),
      ({ waiting }) => waiting.retry === 2 && waiting.key === 1 && waiting.due === 1,
    )
    expect((await world.ask('POST', '/v1/dead/discard', { rule: 'rule' })).body).toEqual({ count: 0 })
    await world.rewrite(kept)
    expect((await world.ask('POST', '/v1/dead/discard', { rule: 'rule' })).body).toEqual({ count: 4 })
    for (const id of ids) {
      expect(await deliveryOf(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'discarded' })
    }
    expect((await world.ask('GET', '/v1/rules')).body).toMatchObject({ rules: [{ name: 'kept' }] })
    expect(there.requests).toHaveLength(2)
  })

  test('that are wrong at the start make nobody say that they are gone: what waits, waits for them to be mended', async () => {
    const there = await target(respond(500))
    const rule = `rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { limit: 50, delay: 10s, jitter: none } }`
    const world = await openWorld(rule)
    const id = await world.post('page')
    await becomes(
      () => deliveryOf(world, id, 'rule'),
      (delivery) => delivery?.reason === 'retry',
    )
    await world.rewrite('rule: { topic: page, exce: { uri: x } }')
    await world.restart()
    const { body } = await world.ask('GET', `/v1/events/${id}`)
    const note = expect.stringMatching(/problems in the rules: nothing is dispatched/)
    const delivery = expect.objectContaining({ state: 'waiting', reason: 'retry', next: null })
    expect(body).toEqual({
      note,
      events: [expect.objectContaining({ rules: [expect.objectContaining({ delivery })] })],
    })
    expect((await world.ask('GET', '/v1/rules')).body).toMatchObject({ note, rules: [{ waiting: { retry: 1 } }] })
    const unrouted = await world.post('page')
    const { code, stdout } = await (await terminalWith()).run(['why', unrouted, '--url', world.service.address])
    expect(code).toBe(0)
    expect(stdout).toContain('problems in the rules: nothing is dispatched')
    expect(stdout).not.toContain('No rule is about this stream')

    there.behave(respond(200))
    await world.rewrite(rule.replace('delay: 10s', 'delay: 10ms'))
    expect(await ended(world, unrouted, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
    expect(await world.ask('GET', `/v1/events/${unrouted}`)).not.toHaveProperty('body.note')
  })

  test('that are wrong change nothing, and health says so', async () => {
    const there = await target()
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' } }`)
    await world.rewrite('rule: { topic: page, exce: { uri: x } }')
    const { body } = await world.ask('GET', '/healthz')
    expect(JSON.stringify(body)).toContain('the last reload found')
    const id = await world.post('page')
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done' })
  })
})

describe('a stop', () => {
  test('waits for calls in flight, which are not repeated', async () => {
    const there = await target(respondLate(300))
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' } }`)
    const id = await world.post('page')
    await there.waitFor(1)
    await world.restart()
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
    expect(there.requests).toHaveLength(1)
  })

  test('cuts off at stop_timeout what still runs; that spends no attempt and is made again', async () => {
    const there = await target(hang())
    const world = await openWorld(`rule: { topic: page, exec: { uri: '${there.url}/' }, retry: { limit: 0 } }`, {
      stopTimeoutMs: 100,
    })
    const id = await world.post('page')
    await there.waitFor(1)
    there.behave(respond(200))
    await world.restart()
    expect(await ended(world, id, 'rule')).toMatchObject({ state: 'done', reason: 'ok' })
    expect(there.requests).toHaveLength(2)
  })

  test('loses nothing of what waits in memory or in rows', async () => {
    const there = await target(respondLate(50))
    const world = await openWorld(
      `rule: { topic: page, exec: { uri: '${there.url}/{message.n}' }, throttle: { concurrency: 20 } }`,
    )
    await world.postAll(Array.from({ length: 300 }, (_, n) => anEvent('page', { n })))
    await there.waitFor(50)
    await world.restart()
    await there.waitFor(300)
    await becomes(
      () => world.rule('rule'),
      ({ running, waiting }) => running === 0 && Object.keys(waiting).length === 0,
    )
    expect(new Set(there.requests.map(({ path }) => path)).size).toBe(300)
    expect(there.requests).toHaveLength(300)
  })
})
