import { expect, onTestFinished, test } from 'vitest'
import { openService } from '../support/service.ts'
import { until } from '../support/until.ts'
import { openDelayingTarget } from './delaying-target.ts'
import { isIdle, ruleCounts } from './rule-counts.ts'

/** A million, due over ten minutes, in a full run; else 20,000 over five seconds. */
const isFull = Number(process.env.ROUNDS ?? 1) >= 20
const count = isFull ? 1_000_000 : 20_000
const spreadMs = isFull ? 600_000 : 5_000
/** From the first post until the first is due: they are posted, counted and restarted meanwhile, if the machine is quick enough. */
const leadMs = isFull ? 240_000 : 6_000
const limitMs = leadMs + spreadMs + 600_000
const perPost = 500
const mebibyte = 1024 * 1024

test(
  `${count} delayed deliveries outlive a kill, none is called early, and memory does not grow with them`,
  async () => {
    const target = await openDelayingTarget(count)
    onTestFinished(() => target.close())
    const service = await openService({
      rules: `
later:
  topic: test.delay
  exec: { method: post, uri: '${target.url}/{{message.n}}/{{message.due}}' }
`,
    })
    onTestFinished(() => service.close())
    const begun = Date.now() + leadMs

    async function post(from: number, to: number): Promise<number> {
      for (let first = from; first < to; first += perPost) {
        const events = Array.from({ length: perPost }, (_, index) => {
          const n = first + index
          // Spread so that neighbours in time come from all over the log.
          const due = begun + Math.floor((((n * 7_919) % count) / count) * spreadMs)
          const meta = { stream: 'test.delay', domain: 'wiki.example' }
          return { $schema: '/test/delayed/1.0.0', meta, n, due, delay_until: new Date(due).toISOString() }
        })
        expect((await service.post(events)).status).toBe(201)
      }
      await until(
        'all of them wait, or were called',
        async () => {
          const { waiting, running, done } = await ruleCounts(service, 'later')
          return Object.values(waiting).reduce((sum, some) => sum + some, running + done) >= to
        },
        limitMs,
      )
      return (await service.anonymousBytes()) / mebibyte
    }

    const withTenth = await post(0, count / 10)
    const withAll = await post(count / 10, count)
    await service.kill()
    await until('the connections of the dead process are closed', () => target.connections === 0)
    const calledBefore = target.called
    await service.restart()
    const restarted = (await service.anonymousBytes()) / mebibyte
    await until('each was called', () => target.called === count, limitMs)
    await until('nothing is left', () => isIdle(service, 'later'))

    console.log(
      `${count} delayed: ${withTenth.toFixed(0)} MiB with a tenth waiting, ${withAll.toFixed(0)} MiB with all ` +
        `(${(withAll / withTenth).toFixed(2)} times), ${restarted.toFixed(0)} MiB after a kill with ${calledBefore} called; ` +
        `${target.early} early; late by p50 ${target.lateness(0.5)} ms, p99 ${target.lateness(0.99)} ms, ` +
        `at most ${target.lateness(1)} ms; ${target.repeated} repeated`,
    )
    expect(target.early).toBe(0)
    // What was in flight at the kill may be called again, and nothing else.
    expect(target.repeated).toBeLessThanOrEqual(calledBefore === 0 ? 0 : 100)
    // An object for each would take more than the rest of the process.
    expect(withAll).toBeLessThan(3 * withTenth)
  },
  limitMs + 300_000,
)
