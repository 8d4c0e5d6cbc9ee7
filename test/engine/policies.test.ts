import { describe, expect, onTestFinished, test } from 'vitest'
import type { DeliveryView } from '../../src/api/contract.ts'
import { type Behaviour, openTarget, respond, type Script, type TargetRequest } from '../support/target.ts'
import { becomes, until } from '../support/until.ts'
import { anEvent, openWorld, type World } from '../support/world.ts'

async function target(script?: Script | Behaviour) {
  const opened = await openTarget()
  if (script !== undefined) opened.behave(script)
  onTestFinished(() => opened.close())
  return opened
}

async function deliveryOf(world: World, id: string, rule = 'rule'): Promise<DeliveryView | undefined> {
  return (await world.event(id))?.rules.find((view) => view.rule === rule)?.delivery
}

function ended(world: World, id: string, rule = 'rule'): Promise<DeliveryView | undefined> {
  return becomes(
    () => deliveryOf(world, id, rule),
    (delivery) => delivery?.state === 'done' || delivery?.state === 'dead',
  )
}

/** Resolves when it waits for that. */
function waitsFor(world: World, id: string, reason: string): Promise<DeliveryView | undefined> {
  return becomes(
    () => deliveryOf(world, id),
    (delivery) => delivery?.reason === reason,
  )
}

/** A target that answers only when it is let. */
async function gate() {
  let open = () => {}
  let isOpen = new Promise<void>((resolve) => {
    open = resolve
  })
  const there = await target(async () => {
    await isOpen
    return respond(200)
  })
  return {
    there,
    open: () => open(),
    shut() {
      isOpen = new Promise<void>((resolve) => {
        open = resolve
      })
    },
  }
}

const bodies = (requests: readonly TargetRequest[]) => requests.map(({ body }) => JSON.parse(body.toString()).n)

const posting = (url: string, more: string) => `
rule:
  topic: page
  exec: { method: post, uri: '${url}/', headers: { content-type: application/json }, body: '{{globals.message}}' }
${more}`

/** Nothing of the rule is left, and the counts say so. */
async function idle(world: World, name = 'rule') {
  const rule = await becomes(
    () => world.rule(name),
    ({ waiting, running }) => running === 0 && Object.values(waiting).every((count) => count === 0),
  )
  return rule
}

describe('dedup', () => {
  test('one call of a key runs at a time; the next one has the newest event, and covers those between', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}' }"))
    const ids = [await world.post('page', { title: 'A', n: 0 })]
    await there.waitFor(1)
    for (const n of [1, 2, 3]) ids.push(await world.post('page', { title: 'A', n }))
    const other = await world.post('page', { title: 'B', n: 9 })
    await there.waitFor(2)
    open()

    const newest = await ended(world, ids[3] ?? '')
    await ended(world, other)
    expect(bodies(there.requests)).toEqual([0, 9, 3])
    expect(newest).toMatchObject({ state: 'done', reason: 'ok', covers: { count: 2 } })
    for (const id of ids.slice(1, 3)) {
      expect(await deliveryOf(world, id)).toMatchObject({
        state: 'done',
        reason: 'duplicate',
        covered_by: newest?.id,
        attempts: [],
      })
    }
    expect((await idle(world)).done).toBe(5)
  })

  test('two wikis with one title are two keys, unless the rule says otherwise', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}' }"))
    await world.post('page', { title: 'A', n: 1, database: 'one' })
    await world.post('page', { title: 'A', n: 2, database: 'two' })
    await there.waitFor(2)
    open()
    await idle(world)
    await world.rewrite(posting(there.url, "  dedup: { key: '{{message.title}}', across_wikis: true }"))
    await world.post('page', { title: 'A', n: 3, database: 'one' })
    const last = await world.post('page', { title: 'A', n: 4, database: 'two' })
    await ended(world, last)
    expect(bodies(there.requests)).toContain(4)
    expect((await idle(world)).done).toBe(4)
  })

  test('an event without a key is not deduplicated, and the journal says so', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}' }"))
    const ids = [await world.post('page', { n: 1 }), await world.post('page', { n: 2 })]
    for (const id of ids) expect(await ended(world, id)).toMatchObject({ reason: 'ok', attempts: [{ note: 'no key' }] })
  })

  test('a key that cannot be rendered is a dead letter', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  dedup: { key: 'x{{message.title}}' }"))
    const id = await world.post('page', { title: ['a', 'list'] })
    expect(await ended(world, id)).toMatchObject({ state: 'dead', reason: 'key_failed' })
    expect(there.requests).toEqual([])
  })

  test('a newer event takes the place of a retry that waits, at its time', async () => {
    const there = await target(({ index }) => respond(index === 0 ? 500 : 200))
    const world = await openWorld(
      posting(there.url, "  dedup: { key: '{{message.title}}' }\n  retry: { delay: 700ms, jitter: none }"),
    )
    const first = await world.post('page', { title: 'A', n: 1 })
    const failed = await waitsFor(world, first, 'retry')
    const second = await world.post('page', { title: 'A', n: 2 })
    expect(await ended(world, second)).toMatchObject({ reason: 'ok', covers: { count: 1 } })
    expect(await deliveryOf(world, first)).toMatchObject({ reason: 'duplicate' })
    expect(bodies(there.requests)).toEqual([1, 2])
    const took = (await deliveryOf(world, second))?.attempts[0]?.at ?? ''
    expect(Date.parse(took)).toBeGreaterThanOrEqual(Date.parse(failed?.next ?? ''))
  })

  test('a window keeps calls of a key apart', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}', window: 1s }"))
    const first = await ended(world, await world.post('page', { title: 'A', n: 1 }))
    await world.post('page', { title: 'A', n: 2 })
    const third = await ended(world, await world.post('page', { title: 'A', n: 3 }))
    expect(bodies(there.requests)).toEqual([1, 3])
    const [a, b] = [first, third].map((delivery) => Date.parse(delivery?.attempts[0]?.at ?? ''))
    expect((b ?? 0) - (a ?? 0)).toBeGreaterThanOrEqual(1_000)
  })

  test('an event that was sent twice is called once', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}' }"))
    const event = {
      $schema: '/test/1.0.0',
      meta: { stream: 'page', id: '5b9c9a56-31a5-4a8e-9c5d-0b8a2d1c7e10', domain: 'wiki.example' },
      title: 'A',
      n: 1,
    }
    await world.postAll([event])
    await idle(world)
    await until('the first is done', async () => (await world.rule('rule')).done === 1)
    await world.postAll([event])
    await until('the second is done', async () => (await world.rule('rule')).done === 2)
    expect(there.requests.length).toBe(1)
  })

  test('what waits, waits on after a restart, and the newest is called', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}' }\n  retry: { delay: 0s }"), {
      stopTimeoutMs: 100,
    })
    await world.post('page', { title: 'A', n: 0 })
    await there.waitFor(1)
    for (const n of [1, 2]) await world.post('page', { title: 'A', n })
    const last = await world.post('page', { title: 'A', n: 3 })
    await world.restart()
    open()
    await ended(world, last)
    expect(bodies(there.requests).at(-1)).toBe(3)
    expect(bodies(there.requests).includes(1)).toBe(false)
    await idle(world)
  })
})

describe('supersede', () => {
  const more = "  supersede: { signature: '{{message.root.signature}}', time: '{{message.root.dt}}' }"

  test('an older root event is not called once a later one was accepted; an equal one is', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, `${more}\n  throttle: { concurrency: 1 }`))
    const root = (dt: string) => ({ root: { signature: 'T', dt } })
    await world.post('page', { n: 0, title: 'holds the slot' })
    await there.waitFor(1)
    const old = await world.post('page', { n: 1, ...root('2026-01-01T00:00:00Z') })
    const twins = [
      await world.post('page', { n: 2, ...root('2026-01-02T00:00:00Z') }),
      await world.post('page', { n: 3, ...root('2026-01-02T00:00:00Z') }),
    ]
    const elsewhere = await world.post('page', { n: 4, database: 'other', ...root('2026-01-01T00:00:00Z') })
    open()
    expect(await ended(world, old)).toMatchObject({ state: 'done', reason: 'superseded', attempts: [] })
    for (const id of [...twins, elsewhere]) expect(await ended(world, id)).toMatchObject({ reason: 'ok' })
    expect(bodies(there.requests).sort()).toEqual([0, 2, 3, 4])
  })

  test('a later one that was given up supersedes nobody', async () => {
    const there = await target((request) => respond(bodies([request])[0] === 2 ? 404 : 200))
    const world = await openWorld(posting(there.url, more))
    const later = await world.post('page', { n: 2, root: { signature: 'T', dt: '2026-01-02T00:00:00Z' } })
    expect(await ended(world, later)).toMatchObject({ state: 'dead' })
    const earlier = await world.post('page', { n: 1, root: { signature: 'T', dt: '2026-01-01T00:00:00Z' } })
    expect(await ended(world, earlier)).toMatchObject({ reason: 'ok' })
  })
})

describe('supersede by what the rule says', () => {
  const policy = (more: string) =>
    `  delay: 1s\n  supersede: { signature: '{{message.root.signature}}', time: '{{message.root.dt}}'${more} }`
  const root = (dt: string) => ({ root: { signature: 'T', dt } })

  test.each([
    ['superseded', ', across_wikis: true'],
    ['ok', ''],
  ])('an event of another wiki is %s (%s)', async (reason, more) => {
    const there = await target()
    const world = await openWorld(posting(there.url, policy(more)))
    const earlier = await world.post('page', { n: 1, database: 'a', ...root('2026-01-01T00:00:00Z') })
    await world.post('page', { n: 2, database: 'b', ...root('2026-01-02T00:00:00Z') })
    expect(await ended(world, earlier)).toMatchObject({ state: 'done', reason })
  })

  test('a time that cannot be read supersedes nothing, and the journal says so', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, policy('')))
    const found = await ended(world, await world.post('page', { n: 1, ...root('soon') }))
    expect(found).toMatchObject({ reason: 'ok', attempts: [{ note: 'supersede: no time that can be read' }] })
  })

  test('after a reload by another time, those of the one before count no more', async () => {
    const there = await target()
    const by = (field: string) =>
      posting(there.url, `  delay: 1s\n  supersede: { signature: '{{message.s}}', time: '{{message.${field}}}' }`)
    const world = await openWorld(by('a'))
    await ended(world, await world.post('page', { s: 'S', n: 1, a: 2_000_000_000 }))
    await world.rewrite(by('b'))
    const found = await ended(world, await world.post('page', { s: 'S', n: 2, b: 1_000_000_000 }))
    expect(found).toMatchObject({ state: 'done', reason: 'ok' })
  })
})

describe('order', () => {
  test('deliveries of a key run one after another; a failing one holds only its key', async () => {
    let failures = 3
    const there = await target((request) => {
      const [n] = bodies([request])
      if (n !== 1 || failures === 0) return respond(200)
      failures -= 1
      return respond(500)
    })
    const world = await openWorld(
      posting(there.url, "  order: { key: '{{message.title}}' }\n  retry: { delay: 20ms, factor: 1, jitter: none }"),
    )
    const ids: string[] = []
    for (const n of [1, 2, 3]) ids.push(await world.post('page', { title: 'A', n }))
    const other = await world.post('page', { title: 'B', n: 9 })
    for (const id of [...ids, other]) expect(await ended(world, id)).toMatchObject({ reason: 'ok' })
    expect(bodies(there.requests).filter((n) => n !== 9)).toEqual([1, 1, 1, 1, 2, 3])
    await idle(world)
  })

  test('followers wait for the key, and go on when the one before is given up', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, "  order: { key: '{{message.title}}' }"))
    await world.post('page', { title: 'A', n: 1 })
    await there.waitFor(1)
    const second = await world.post('page', { title: 'A', n: 2 })
    await becomes(
      () => deliveryOf(world, second),
      (delivery) => delivery?.reason === 'key' && delivery.next === null,
    )
    expect((await world.rule('rule')).waiting).toEqual({ key: 1 })
    there.behave((request) => respond(bodies([request])[0] === 2 ? 404 : 200))
    const third = await world.post('page', { title: 'A', n: 3 })
    open()
    expect(await ended(world, second)).toMatchObject({ state: 'dead', reason: 'refused' })
    expect(await ended(world, third)).toMatchObject({ reason: 'ok' })
    expect(bodies(there.requests)).toEqual([1, 2, 3])
  })

  test('holds after a restart', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, "  order: { key: '{{message.title}}' }\n  retry: { delay: 0s }"), {
      stopTimeoutMs: 100,
    })
    for (const n of [1, 2, 3]) await world.post('page', { title: 'A', n })
    await there.waitFor(1)
    await world.restart()
    open()
    await until('all are done', async () => bodies(there.requests).at(-1) === 3)
    expect([...new Set(bodies(there.requests))]).toEqual([1, 2, 3])
    await idle(world)
  })
})

describe('time', () => {
  test('a delay may be an instant that the event names', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  delay: '{{message.not_before}}'"))
    const id = await world.post('page', { n: 1, not_before: '2999-01-01T00:00:00Z' })
    const waiting = await becomes(
      () => deliveryOf(world, id),
      (delivery) => delivery !== undefined,
    )
    expect(waiting).toMatchObject({ state: 'waiting', reason: 'due', next: '2999-01-01T00:00:00.000Z' })
    expect(await ended(world, await world.post('page', { n: 2 }))).toMatchObject({ reason: 'ok' })
  })

  test('one whose root event is older than root_age expires', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, '  expire: { root_age: 1h }'))
    const root = (dt: string) => ({ root_event: { signature: 's', dt } })
    const old = await world.post('page', { n: 1, ...root('2020-01-01T00:00:00Z') })
    const recent = await world.post('page', { n: 2, ...root(new Date().toISOString()) })
    expect(await ended(world, old)).toMatchObject({ state: 'done', reason: 'expired' })
    expect(await ended(world, recent)).toMatchObject({ state: 'done', reason: 'ok' })
  })

  test('a delayed event is not called before its time, also after a restart, and holds no slot', async () => {
    const there = await target()
    const world = await openWorld(`${posting(there.url, '  delay: 1s\n  throttle: { concurrency: 1 }')}
prompt: { topic: page, exec: { uri: '${there.url}/prompt' } }
`)
    const id = await world.post('page', { n: 1 })
    await ended(world, id, 'prompt')
    expect(await deliveryOf(world, id)).toMatchObject({ state: 'waiting', reason: 'due' })
    await world.restart()
    const delivery = await ended(world, id)
    const accepted = Date.parse((await world.event(id))?.accepted ?? '')
    expect(Date.parse(delivery?.attempts[0]?.at ?? '')).toBeGreaterThanOrEqual(accepted + 1_000)
  })

  test("an event's own delay_until is kept, and one that cannot be read is noted", async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, ''))
    const at = Math.ceil(Date.now() / 1_000) + 1
    const later = await world.post('page', { n: 1, delay_until: new Date(at * 1_000).toISOString() })
    const unix = await world.post('page', { n: 2, delay_until: at })
    const odd = await world.post('page', { n: 3, delay_until: 'soon' })
    expect(await ended(world, odd)).toMatchObject({
      reason: 'ok',
      attempts: [{ note: expect.stringMatching(/delay/) }],
    })
    for (const id of [later, unix]) {
      const delivery = await ended(world, id)
      expect(Date.parse(delivery?.attempts[0]?.at ?? '')).toBeGreaterThanOrEqual(at * 1_000)
    }
  })

  test('what is too old is not called', async () => {
    const there = await target(respond(404))
    const world = await openWorld(posting(there.url, '  expire: 1h'))
    const old = { dt: new Date(Date.now() - 7_200_000).toISOString() }
    const event = {
      $schema: '/test/1.0.0',
      meta: { stream: 'page', id: '5b9c9a56-31a5-4a8e-9c5d-0b8a2d1c7e11', ...old },
    }
    await world.postAll([event])
    expect(await ended(world, event.meta.id)).toMatchObject({ state: 'done', reason: 'expired' })
    expect(there.requests).toEqual([])
  })

  test('a dead letter that is replayed is called however old it is', async () => {
    const there = await target(respond(404))
    const world = await openWorld(posting(there.url, '  expire: 1s'))
    const id = await world.post('page', { n: 1 })
    expect(await ended(world, id)).toMatchObject({ state: 'dead', reason: 'refused' })
    const accepted = Date.parse((await world.event(id))?.accepted ?? '')
    await until('it is too old', () => Date.now() > accepted + 1_000)
    there.behave(respond(200))
    await world.ask('POST', '/v1/dead/replay', { all: true })
    await there.waitFor(2)
    expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'ok' })
  })

  test('a sample takes the same share of keys each time', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  sample: { rate: 0.5, key: '{{message.title}}' }"))
    const post = async () => {
      const ids: string[] = []
      for (let n = 0; n < 20; n++) ids.push(await world.post('page', { title: `T${n}`, n }))
      const reasons: (string | undefined)[] = []
      for (const id of ids) reasons.push((await ended(world, id))?.reason)
      return reasons
    }
    const first = await post()
    expect(new Set(first)).toEqual(new Set(['ok', 'sampled']))
    expect(await post()).toEqual(first)
  })
})

describe('throttle', () => {
  test('a key has its own concurrency, and the rule one over all', async () => {
    const { there, open } = await gate()
    const world = await openWorld(
      posting(there.url, "  throttle: { key: '{{message.database}}', concurrency: 1, total: { concurrency: 2 } }"),
    )
    for (const n of [1, 2, 3]) await world.post('page', { database: 'noisy', n })
    for (const [index, database] of ['a', 'b'].entries()) await world.post('page', { database, n: 10 + index })
    await there.waitFor(2)
    await until('the others wait', async () => {
      const { waiting, running } = await world.rule('rule')
      return running === 2 && Object.values(waiting).reduce((sum, count) => sum + count, 0) === 3
    })
    expect(bodies(there.requests).sort()).toEqual([1, 10])
    open()
    await idle(world)
    expect(there.maxInFlight).toBe(2)
    expect(bodies(there.requests).filter((n) => n < 10)).toEqual([1, 2, 3])
  })

  test('another wiki waits for no more than a few calls of a noisy one', async () => {
    const { there, open } = await gate()
    const world = await openWorld(
      posting(there.url, "  throttle: { key: '{{message.database}}', total: { concurrency: 4 } }"),
    )
    const noise = 100_000
    for (let from = 0; from < noise; from += 10_000) {
      await world.postAll(
        Array.from({ length: 10_000 }, (_, at) => ({
          $schema: '/test/1.0.0',
          meta: { stream: 'page', domain: 'noisy.example' },
          database: 'noisy',
          n: from + at,
        })),
      )
    }
    await there.waitFor(4)
    const quiet = await world.post('page', { database: 'quiet', n: -1 })
    await until('it is routed', async () => {
      const { waiting, running } = await world.rule('rule')
      return Object.values(waiting).reduce((sum, count) => sum + count, running) === noise + 1
    })
    open()
    await ended(world, quiet)
    // Four are running, then the two wikis take turns; but its row has to be fetched, which takes as long as some quick calls.
    expect(bodies(there.requests).indexOf(-1)).toBeLessThan(100)
  })

  test("a target's concurrency holds for the later requests of a delivery too", async () => {
    const first = await target()
    const { there: second, open } = await gate()
    const limits = { concurrency: 2, perSecond: Number.POSITIVE_INFINITY, burst: 1 }
    const world = await openWorld(
      `rule: { topic: page, exec: [{ uri: '${first.url}/' }, { uri: '{{targets.second.url}}/' }] }`,
      { targets: { second: { url: second.url, maxPauseMs: 1_000, limits } } },
    )
    for (let n = 0; n < 6; n += 1) await world.post('page', { n })
    await first.waitFor(6)
    await second.waitFor(2)
    await until('the others wait for the target', async () => (await world.rule('rule')).waiting.target === 4)
    open()
    await idle(world)
    expect(second.requests.length).toBe(6)
    expect(second.maxInFlight).toBe(2)
  })

  test('what waits for the rate of its rule says so, and is called as soon as that allows', async () => {
    const there = await target()
    const world = await openWorld(
      `${posting(there.url, '  throttle: { rate: 1/s, burst: 1 }')}\nlater:\n  topic: later\n  exec: { uri: '${there.url}/later' }\n  delay: 4s`,
    )
    await ended(world, await world.post('page', { n: 0 }))
    await Promise.all([world.post('later'), world.post('page', { n: 1 }), world.post('page', { n: 2 })])
    await becomes(
      () => world.rule('rule'),
      ({ waiting: { rate = 0, ...others } }) => rate > 0 && Object.values(others).every((count) => count === 0),
    )
    await there.waitFor(4)
    expect(there.requests.map(({ path }) => path)).toEqual(['/', '/', '/', '/later'])
  })

  test('a rate is kept to, and waiting for it holds no slot', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, '  throttle: { rate: 20/s, burst: 2 }'))
    const ids: string[] = []
    for (let n = 0; n < 12; n++) ids.push(await world.post('page', { n }))
    // When they began, not when they arrived: the first has to connect.
    const began: number[] = []
    for (const id of ids) began.push(Date.parse((await ended(world, id))?.attempts[0]?.at ?? ''))
    expect(bodies(there.requests).sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, n) => n))
    // Two at once, and ten more at 50 ms each.
    expect(Math.max(...began) - Math.min(...began)).toBeGreaterThanOrEqual(450)
  })
})

describe('what has not met the gates', () => {
  /** Twenty dead letters fill their share, so that what follows is set aside; all is well from `mend` on. */
  async function setAside(more: string, titles: readonly string[]) {
    let isMended = false
    const there = await target(() => respond(isMended ? 200 : 404))
    const world = await openWorld(posting(there.url, more), { deadBytes: 2_000 })
    await world.postAll(Array.from({ length: 60 }, (_, n) => anEvent('page', { title: `before ${n}`, n: -1 })))
    await until('new ones are set aside', async () => {
      const id = await world.post('page', { title: 'probe', n: -1 })
      const delivery = await becomes(
        () => deliveryOf(world, id),
        (found) => found !== undefined,
      )
      return delivery?.reason === 'parked'
    })
    const ids: string[] = []
    for (const [n, title] of titles.entries()) ids.push(await world.post('page', { title, n }))
    await waitsFor(world, ids.at(-1) ?? '', 'parked')
    isMended = true
    await world.ask('POST', '/v1/dead/replay', { rule: 'rule', rate: '100000/s' })
    const reasons: (string | undefined)[] = []
    for (const id of ids) reasons.push((await ended(world, id))?.reason)
    return { calls: bodies(there.requests).filter((n) => n >= 0), reasons }
  }

  test('because it was parked meets them when it is replayed: its key keeps its order', async () => {
    const { calls } = await setAside("  order: { key: '{{message.title}}' }", ['A', 'A', 'A', 'A', 'A', 'A'])
    expect(calls).toEqual([0, 1, 2, 3, 4, 5])
  })

  test('because it was parked meets them when it is replayed: the share is asked', async () => {
    const titles = Array.from({ length: 20 }, (_, n) => `title ${n}`)
    const { reasons } = await setAside("  sample: { rate: 0.5, key: '{{message.title}}' }", titles)
    expect(new Set(reasons)).toEqual(new Set(['ok', 'sampled']))
  })

  test('because its key cannot be rendered is dead again when it is replayed', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  dedup: { key: '{{message.title}}' }"))
    const id = await world.post('page', { title: ['a'] })
    const first = await ended(world, id)
    expect(first).toMatchObject({ state: 'dead', reason: 'key_failed' })
    await world.ask('POST', '/v1/dead/replay', { rule: 'rule' })
    const again = await becomes(
      () => deliveryOf(world, id),
      (delivery) => delivery?.state === 'dead' && delivery.at !== first?.at,
    )
    expect(again?.reason).toBe('key_failed')
    expect(there.requests).toEqual([])
  })
})

describe('the key of a wiki', () => {
  test('is the same before and after it is configured: a dead letter is not called after a newer event', async () => {
    const there = await target()
    const wikis: { database: string; url: string; maxPauseMs: number }[] = []
    const rules = posting('{{wiki.url}}', "  dedup: { key: '{{message.title}}' }")
    const world = await openWorld(rules, { wikis })
    const older = await world.post('page', { n: 1, title: 'A', database: 'w' })
    expect(await ended(world, older)).toMatchObject({ state: 'dead', reason: 'unknown_wiki' })
    wikis.push({ database: 'w', url: there.url, maxPauseMs: 3_600_000 })
    await world.rewrite(rules)
    await ended(world, await world.post('page', { n: 2, title: 'A', database: 'w' }))
    await world.ask('POST', '/v1/dead/replay', { rule: 'rule' })
    const replayed = await becomes(
      () => deliveryOf(world, older),
      (delivery) => delivery?.state === 'done',
    )
    expect(replayed?.reason).toBe('duplicate')
    expect(bodies(there.requests)).toEqual([2])
  })

  test('is the same when its address changes: an order holds', async () => {
    const { there, open } = await gate()
    const wikis: { database: string; url: string; host?: string; maxPauseMs: number }[] = [
      { database: 'w', url: there.url, maxPauseMs: 3_600_000 },
    ]
    const rules = posting('{{wiki.url}}', "  order: { key: '{{message.title}}' }")
    const world = await openWorld(rules, { wikis })
    await world.post('page', { n: 0, title: 'A', database: 'w' })
    await there.waitFor(1)
    await world.post('page', { n: 1, title: 'A', database: 'w' })
    wikis[0] = { ...wikis[0], database: 'w', url: there.url, host: 'w.example', maxPauseMs: 3_600_000 }
    await world.rewrite(rules)
    const last = await world.post('page', { n: 2, title: 'A', database: 'w' })
    await waitsFor(world, last, 'key')
    open()
    await ended(world, last)
    expect(bodies(there.requests)).toEqual([0, 1, 2])
  })
})

describe('a reload that changes a key', () => {
  const retry = '\n  retry: { delay: 1s, jitter: none }'
  const dedup = "  dedup: { key: '{{message.title}}' }"
  const order = "  order: { key: '{{message.title}}' }"

  test('from order to dedup leaves nobody waiting for the order that was', async () => {
    const there = await target(({ index }) => respond(index === 0 ? 500 : 200))
    const world = await openWorld(posting(there.url, `${order}${retry}`))
    const first = await world.post('page', { title: 'A', n: 1 })
    await waitsFor(world, first, 'retry')
    const second = await world.post('page', { title: 'A', n: 2 })
    await waitsFor(world, second, 'key')
    await world.rewrite(posting(there.url, `${dedup}${retry}`))

    expect(await ended(world, second)).toMatchObject({ state: 'done', reason: 'ok' })
    await idle(world)
  })

  test('from dedup to order makes nobody wait for what is deduplicated', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, dedup))
    await world.post('page', { title: 'A', n: 1 })
    await there.waitFor(1)
    await world.rewrite(posting(there.url, order))
    await world.post('page', { title: 'A', n: 2 })
    await there.waitFor(2)
    open()
    await idle(world)
    expect(bodies(there.requests)).toEqual([1, 2])
  })

  test('or only how it is spaced, which is none, keeps the order', async () => {
    const there = await target(({ index }) => respond(index === 0 ? 500 : 200))
    const world = await openWorld(posting(there.url, `${order}${retry}`))
    const first = await world.post('page', { title: 'A', n: 1 })
    await waitsFor(world, first, 'retry')
    await world.rewrite(posting(there.url, `  order: { key: '{{ message.title }}' }${retry}`))
    await ended(world, await world.post('page', { title: 'A', n: 2 }))
    expect(bodies(there.requests)).toEqual([1, 1, 2])
  })

  test.each([
    ['another', "  dedup: { key: '{{message.page}}' }"],
    ['none', ''],
  ])('to %s lets a dead letter that is replayed go by that', async (_what, policies) => {
    let isMended = false
    const there = await target((request) => respond(bodies([request])[0] === 1 && !isMended ? 404 : 200))
    const world = await openWorld(posting(there.url, dedup))
    const first = await world.post('page', { title: 'A', page: 1, n: 1 })
    expect(await ended(world, first)).toMatchObject({ state: 'dead' })
    await ended(world, await world.post('page', { title: 'A', page: 2, n: 2 }))
    await world.rewrite(posting(there.url, policies))
    isMended = true
    await world.ask('POST', '/v1/dead/replay', { all: true })

    const again = await becomes(
      () => deliveryOf(world, first),
      (delivery) => delivery?.state === 'done',
    )
    expect(again?.reason).toBe('ok')
  })

  test('keeps fresh starts of the new one a window apart', async () => {
    const there = await target()
    const delayed = (key: string) => posting(there.url, `  delay: 1s\n  dedup: { key: '${key}', window: 1h }`)
    const world = await openWorld(delayed('{{message.title}}'))
    const first = await world.post('page', { title: 'A', page: 1, n: 1 })
    const second = await world.post('page', { title: 'B', page: 1, n: 2 })
    await world.rewrite(delayed('{{message.page}}'))

    const fates = await becomes(
      () => Promise.all([first, second].map((id) => deliveryOf(world, id))),
      (all) => all.every((one) => one?.state === 'done' || one?.reason === 'key'),
    )
    // The newest was called, or both were due one after the other and the second waits for the window.
    expect(there.requests.length).toBe(1)
    expect(fates.filter((one) => one?.reason === 'ok').length).toBe(1)
  })
})

describe('one entry for a farm', () => {
  test('serves each of its wikis by one rule, and what one of them asks for holds up no other', async () => {
    const there = await target(({ path }) =>
      path.startsWith('/de') ? respond(503, '', { 'retry-after': '600' }) : respond(200),
    )
    const farm = { domain: '/^(?<lang>\\w+)\\.wiki\\.example$/', url: `${there.url}/{{lang}}`, maxPauseMs: 3_600_000 }
    const world = await openWorld(posting('{{wiki.url}}', ''), { wikis: [farm] })
    const post = (lang: string) => {
      const event = anEvent('page', { n: lang })
      return world
        .postAll([{ ...event, meta: { ...event.meta, domain: `${lang}.wiki.example` } }])
        .then(() => event.meta.id)
    }
    const german = await post('de')
    await waitsFor(world, german, 'target')
    await ended(world, await post('fr'))
    expect(there.requests.map(({ path }) => path)).toEqual(['/de/', '/fr/'])
  })
})

describe('limits of a target', () => {
  test('hold across rules', async () => {
    const { there, open } = await gate()
    const limits = { concurrency: 2, perSecond: Number.POSITIVE_INFINITY, burst: 1 }
    const rule = (name: string) => `${name}: { topic: page, exec: { uri: '{{targets.there.url}}/${name}' } }\n`
    const targets = { there: { url: there.url, maxPauseMs: 1_000, limits } }
    const world = await openWorld(`${rule('one')}${rule('other')}`, { targets })
    for (let n = 0; n < 4; n += 1) await world.post('page', { n })
    await there.waitFor(2)
    open()
    for (const name of ['one', 'other']) await idle(world, name)
    expect([there.requests.length, there.maxInFlight]).toEqual([8, 2])
  })
})

describe('the breaker', () => {
  test('stops calls to a target that fails, spends no attempt while it is open, and heals', async () => {
    let isWell = false
    const there = await target(() => respond(isWell ? 200 : 500))
    const world = await openWorld(posting(there.url, '  retry: { limit: 2, delay: 10ms, factor: 1, jitter: none }'))
    const ids: string[] = []
    for (let n = 0; n < 60; n++) ids.push(await world.post('page', { n }))
    await until('the target is known to fail', async () => ((await world.rule('rule')).waiting.target ?? 0) > 0)
    isWell = true
    await idle(world)
    const fates = await Promise.all(ids.map(async (id) => (await ended(world, id))?.state))
    expect(fates.filter((state) => state === 'done').length).toBeGreaterThan(20)
  })
})

/** What the table "Policies together" of the reference says, where no test above does. */
describe('together', () => {
  const dedup = "  dedup: { key: '{{message.title}}' }"

  test('dedup: an event that comes again while its call runs is called after it', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, dedup))
    const event = anEvent('page', { title: 'A', n: 1 })
    await world.postAll([event])
    await there.waitFor(1)
    await world.postAll([event])
    await until('it waits', async () => (await world.rule('rule')).waiting.slot === 1)
    open()
    expect((await idle(world)).done).toBe(2)
    expect(bodies(there.requests)).toEqual([1, 1])
  })

  test('dedup and delay: what is due is called although a newer one is not, and covers the older ones, due or not', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, dedup))
    const later = Math.ceil(Date.now() / 1_000) + 3_600
    const older = await world.post('page', { title: 'A', n: 1, delay_until: later })
    const due = await world.post('page', { title: 'A', n: 2, delay_until: Math.ceil(Date.now() / 1_000) + 1 })
    const newer = await world.post('page', { title: 'A', n: 3, delay_until: later })
    expect(await ended(world, due)).toMatchObject({ reason: 'ok', covers: { count: 1 } })
    expect(await deliveryOf(world, older)).toMatchObject({ state: 'done', reason: 'duplicate' })
    expect(await deliveryOf(world, newer)).toMatchObject({ state: 'waiting', reason: 'due' })
    expect(bodies(there.requests)).toEqual([2])
  })

  test('window and retry: a retry is made within the window, which runs from the first attempt', async () => {
    const there = await target(({ index }) => respond(index === 0 ? 500 : 200))
    const window = "  dedup: { key: '{{message.title}}', window: 1h }\n  retry: { delay: 100ms, jitter: none }"
    const world = await openWorld(posting(there.url, window))
    const first = await ended(world, await world.post('page', { title: 'A', n: 1 }))
    expect(first).toMatchObject({ reason: 'ok', attempts: [{}, {}] })
    const second = await world.post('page', { title: 'A', n: 2 })
    const waits = await waitsFor(world, second, 'key')
    expect(Date.parse(waits?.next ?? '')).toBe(Date.parse(first?.attempts[0]?.at ?? '') + 3_600_000)
    expect(bodies(there.requests)).toEqual([1, 1])
  })

  test('order: a dead letter that is replayed waits for the one whose turn it is, and goes before what was accepted after it', async () => {
    let open = () => {}
    const isOpen = new Promise<void>((resolve) => {
      open = resolve
    })
    const there = await target(async ({ index }) => {
      if (index === 0) return respond(404)
      await isOpen
      return respond(200)
    })
    const world = await openWorld(posting(there.url, "  order: { key: '{{message.title}}' }"))
    const first = await world.post('page', { title: 'A', n: 1 })
    expect(await ended(world, first)).toMatchObject({ state: 'dead' })
    await world.post('page', { title: 'A', n: 2 })
    await there.waitFor(2)
    const third = await world.post('page', { title: 'A', n: 3 })
    await world.ask('POST', '/v1/dead/replay', { all: true })
    expect(await deliveryOf(world, first)).toMatchObject({ state: 'waiting', reason: 'key' })
    open()
    await ended(world, third)
    expect(bodies(there.requests)).toEqual([1, 2, 1, 3])
  })

  test('dedup and delay: what has no key says so, though it waited', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, `${dedup}\n  delay: 300ms`))
    expect(await ended(world, await world.post('page', { n: 0 }))).toMatchObject({ attempts: [{ note: 'no key' }] })
  })

  test('order and delay: what is not due holds those behind it', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, "  order: { key: '{{message.title}}' }"))
    const later = Math.ceil(Date.now() / 1_000) + 1
    await world.post('page', { title: 'A', n: 1, delay_until: later })
    await ended(world, await world.post('page', { title: 'A', n: 2 }))
    expect(bodies(there.requests)).toEqual([1, 2])
  })

  test('order and retry: one that fails while over 1,000 wait for it is given up, and the next is called', async () => {
    const there = await target((request) => respond(bodies([request])[0] === 0 ? 500 : 200))
    const world = await openWorld(
      posting(
        there.url,
        "  order: { key: '{{message.title}}' }\n  retry: { limit: 1000, delay: 500ms, factor: 1, jitter: none }",
      ),
    )
    const events = Array.from({ length: 1_002 }, (_, n) => anEvent('page', { title: 'A', n }))
    await world.postAll(events)
    const given = await ended(world, events[0]?.meta.id ?? '')
    expect(given).toMatchObject({ state: 'dead', reason: 'exhausted' })
    expect(given?.attempts.at(-1)?.note).toBe('more than 1,000 deliveries of its key wait for it')
    expect(await ended(world, events[1]?.meta.id ?? '')).toMatchObject({ state: 'done', reason: 'ok' })
  })

  test('throttle: all events without a key share the limits of one', async () => {
    const { there, open } = await gate()
    const world = await openWorld(posting(there.url, "  throttle: { key: '{{message.database}}', concurrency: 1 }"))
    for (const n of [1, 2]) await world.post('page', { n })
    await world.post('page', { database: 'a', n: 3 })
    await there.waitFor(2)
    await until('the other waits', async () => (await world.rule('rule')).waiting.slot === 1)
    open()
    await idle(world)
    expect(bodies(there.requests.slice(0, 2)).sort()).toEqual([1, 3])
    expect(there.requests.length).toBe(3)
  })

  test('supersede and retry: a retry is not made once a later root event was accepted', async () => {
    const there = await target(({ index }) => respond(index === 0 ? 500 : 200))
    const supersede = "  supersede: { signature: '{{message.root.signature}}', time: '{{message.root.dt}}' }"
    const world = await openWorld(posting(there.url, `${supersede}\n  retry: { delay: 2s, jitter: none }`))
    const first = await world.post('page', { n: 1, root: { signature: 'T', dt: '2026-01-01T00:00:00Z' } })
    await waitsFor(world, first, 'retry')
    await world.post('page', { n: 2, root: { signature: 'T', dt: '2026-01-02T00:00:00Z' } })
    expect(await ended(world, first)).toMatchObject({ state: 'done', reason: 'superseded' })
    expect(bodies(there.requests)).toEqual([1, 2])
  })

  test('expire: what waits for its time, or for a retry, until it is too old is not called', async () => {
    const there = await target(respond(500))
    const world = await openWorld(posting(there.url, '  expire: 2s\n  retry: { delay: 2500ms, jitter: none }'))
    const failing = await world.post('page', { n: 1 })
    const delayed = await world.post('page', { n: 2, delay_until: Math.ceil(Date.now() / 1_000) + 3 })
    for (const id of [failing, delayed]) {
      expect(await ended(world, id)).toMatchObject({ state: 'done', reason: 'expired' })
    }
    expect(bodies(there.requests)).toEqual([1])
  })

  test('sample and dedup: what is left out covers nobody', async () => {
    const there = await target()
    const world = await openWorld(posting(there.url, `${dedup}\n  sample: { rate: 0.5, key: '{{message.k}}' }`))
    const later = Math.ceil(Date.now() / 1_000) + 1
    const taken = await world.post('page', { title: 'A', n: 1, k: 'en.wikipedia.org-rpiwQuPlA', delay_until: later })
    const left = await world.post('page', { title: 'A', n: 2, k: 'en.wikipedia.org-N0ryO6Lrp' })
    expect(await ended(world, left)).toMatchObject({ state: 'done', reason: 'sampled' })
    expect(await ended(world, taken)).toMatchObject({ state: 'done', reason: 'ok' })
    expect(bodies(there.requests)).toEqual([1])
  })
})
