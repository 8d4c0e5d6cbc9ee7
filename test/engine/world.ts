import { onTestFinished } from 'vitest'
import { Engine } from '../../src/engine/engine.ts'
import type { NewEvent } from '../../src/event/event.ts'
import type { Reply } from '../../src/http/send.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'
import { createSessions } from '../../src/mediawiki/session.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleWith } from '../rule/world.ts'
import { openEmbedded, temporaryFolder } from '../store/embedded.ts'
import { WoundClock } from '../support/clock.ts'
import { becomes } from '../support/until.ts'

/**
 * An engine with a clock that is wound by hand, on a real store. Its one rule has the events' `key` as throttle key; each
 * call goes to `/key`, and is answered once the test says so, with 200 or as `statusOf` says.
 */
export async function openEngine(
  throttle: Readonly<Record<string, unknown>>,
  statusOf: (path: string) => number = () => 200,
) {
  const clock = new WoundClock()
  const { store, backlog } = await openEmbedded(await temporaryFolder(), clock)
  const waiting: (() => void)[] = []
  let isAnswering = false
  const calls: string[] = []
  let inFlight = 0
  let most = 0
  const send = async ({ path }: { path: string }): Promise<Reply> => {
    calls.push(path)
    inFlight += 1
    most = Math.max(most, inFlight)
    if (!isAnswering) await new Promise<void>((resolve) => waiting.push(resolve))
    inFlight -= 1
    return { kind: 'answer', status: statusOf(path), headers: {}, body: new Uint8Array(), truncated: false }
  }
  const userAgent = 'test'
  const observer = { attempted() {}, settled() {}, covered() {} }
  const parts = { store, send, sessions: createSessions({ send, clock, userAgent }), clock, observer, userAgent }
  const engine = new Engine({ ...parts, deadBytes: 2 ** 30 }, createDirectory({ wikis: [], targets: {} }))
  const exec = { method: 'post', uri: 'http://a.example/{{message.key}}' }
  const rule = ruleWith({ exec, throttle: { key: '{{message.key}}', ...throttle } })
  const broken: unknown[] = []
  engine.start(ruleSet([rule]), backlog, (error) => broken.push(error))
  onTestFinished(async () => {
    const stopping = engine.stop(0)
    // What still runs is cut off: there are alarms for that, which nobody else rings.
    clock.wind(10_000)
    await stopping
    await store.close()
    await engine.stopped()
    if (broken.length > 0) throw new Error('the engine broke', { cause: broken[0] })
  })
  const answer = () => {
    isAnswering = true
    for (const resolve of waiting.splice(0)) resolve()
  }
  return {
    clock,
    calls,
    most: () => most,
    counts: () => engine.counts('rule'),
    /** From now on each call is answered at once. */
    answer,
    post: (keys: readonly string[]) => store.append(keys.map(anEvent)),
    /** Answers what comes until so many are done, and sweeps meanwhile. */
    async finish(count: number) {
      answer()
      await becomes(
        () => {
          clock.wind(500)
          return engine.counts('rule').done
        },
        (done) => done === count,
      )
    },
  }
}

function anEvent(key: string): NewEvent {
  const message = { $schema: '/test/1.0.0', meta: { stream: 'page' }, key }
  return { stream: 'page', bytes: Buffer.from(JSON.stringify(message)), message }
}
