import { metaOf, type StreamRecord } from '../../src/event/event.ts'
import { createEmbeddedStore } from '../../src/store/embedded/embedded-store.ts'
import { manyBytes } from './limits.ts'
import { aSettlement, lane, stream } from './world.ts'

/*
 * A process to be killed: appends, routes and settles as fast as it can, and says on its standard output what it was told is
 * durable: `a ID…` events, `s ID` deliveries that ended. With `hold` it opens the store, says so, and does nothing.
 */

const [path = '', mode = '', run = ''] = process.argv.slice(2)
const store = createEmbeddedStore({ path, retention: manyBytes })
const say = (line: string) => process.stdout.write(`${line}\n`)

let made = 0

async function appendForEver(batch: number): Promise<void> {
  for (;;) {
    const events = Array.from({ length: batch }, () => {
      made += 1
      const message = { meta: { id: `${run}-${made}` }, text: 'x'.repeat(made % 2_000) }
      return { stream, bytes: Buffer.from(JSON.stringify(message)), message }
    })
    await store.append(events)
    say(`a ${events.map(({ message }) => message.meta.id).join(' ')}`)
  }
}

function finish(record: StreamRecord, releasesCursor: boolean): void {
  const name = String(metaOf(record.message)?.id)
  store.settle(aSettlement(record, { releasesCursor }), () => say(`s ${name}`))
}

async function routeForEver(): Promise<void> {
  for (;;) {
    for (const { record, known } of await store.next(500)) {
      const isNew = known === undefined
      store.routed(record, isNew ? 1 : 0)
      if (!isNew) continue
      if (record.bytes.length % 3 === 0) {
        const wait = { state: 'waiting', reason: 'slot', until: Date.now(), releasesCursor: true } as const
        store.settle(aSettlement(record, wait))
      } else finish(record, true)
    }
  }
}

async function takeForEver(): Promise<void> {
  for (;;) {
    const { deliveries } = await store.take(lane, Date.now(), 100)
    for (const { record } of deliveries) finish(record, false)
    if (deliveries.length === 0) await new Promise((resolve) => setImmediate(resolve))
  }
}

await store.open({
  committed: () => undefined,
  changed: () => undefined,
  broken: (error) => {
    throw error
  },
  rows: () => undefined,
  lost: () => undefined,
  shared: () => undefined,
})
say('open')
if (mode === 'hold') setInterval(() => undefined, 1_000)
else await Promise.all([1, 1, 3, 10, 40].map(appendForEver).concat(routeForEver(), takeForEver()))
