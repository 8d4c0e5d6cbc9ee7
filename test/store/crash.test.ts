import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, mkdtempSync } from 'node:fs'
import { appendFile, cp, rm, stat, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { metaOf } from '../../src/event/event.ts'
import { createRandom } from '../e2e/random.ts'
import { drain, openEmbedded, startChild, temporaryFolder } from './embedded.ts'
import { appendAndRoute, events, settle, settleFirst, take } from './world.ts'

const rounds = Number(process.env.ROUNDS ?? 3)
const wal = 'changeprop.db-wal'

test('a store killed again and again loses nothing it acknowledged, and repeats nothing that it called durable', async () => {
  const path = await temporaryFolder()
  const random = createRandom()
  const acknowledged = new Set<string>()
  const settled = new Set<string>()
  for (let round = 0; round < rounds; round += 1) {
    const until = acknowledged.size + random.between(500, 8_000)
    const signal = await new Promise<NodeJS.Signals | null>((resolve) => {
      const child = startChild(path, 'work', `run-${round}`, (line) => {
        const [kind, ...names] = line.split(' ')
        if (kind === 'a') for (const name of names) acknowledged.add(name)
        if (kind === 's') for (const name of names) settled.add(name)
        if (acknowledged.size >= until) child.kill('SIGKILL')
      })
      child.on('close', (_code, ended) => resolve(ended))
    })
    expect(signal).toBe('SIGKILL')
  }

  const { store } = await openEmbedded(path)
  onTestFinished(() => store.close())

  const lost: string[] = []
  const undone: string[] = []
  for (const name of acknowledged) {
    const [found] = await store.find(name)
    if (found === undefined) lost.push(name)
    else if (settled.has(name) && found.deliveries[0]?.state !== 'done') undone.push(name)
  }
  const again = (await drain(store)).filter(({ known }) => known === undefined)
  const repeated = again.map(({ record }) => String(metaOf(record.message)?.id)).filter((name) => settled.has(name))
  console.log(
    `seed ${random.seed}: ${rounds} kills, ${acknowledged.size} acknowledged, ${settled.size} settled, ${again.length} to be routed again`,
  )
  expect(settled.size).toBeGreaterThan(0)
  expect({ lost, undone, repeated }).toEqual({ lost: [], undone: [], repeated: [] })
})

test('of rows that take several commits none is lost, when the process dies between two of them', async () => {
  const path = await temporaryFolder()
  const { store } = await openEmbedded(path)
  onTestFinished(() => store.close())
  const count = 3_000
  await store.append(events(count))
  const records = (await take(store, count)).map(({ record }) => record)
  const killed: string[] = []
  // It is asked for as each commit is made up: what was handed in before is durable then.
  store.running(() => {
    killed.push(mkdtempSync(join(tmpdir(), 'changeprop-killed-')))
    cpSync(path, killed.at(-1) ?? '', { recursive: true })
    return []
  })
  const settled = records.map((record) => {
    const durable = settle(store, record, { state: 'waiting', reason: 'slot' })
    store.routed(record, 0)
    return durable
  })
  await Promise.all(settled)

  expect(killed.length).toBeGreaterThan(1)
  for (const folder of killed) {
    onTestFinished(() => rm(folder, { recursive: true, force: true }))
    const { store: next, backlog } = await openEmbedded(folder)
    onTestFinished(() => next.close())
    const rows = backlog.reduce((sum, { waiting }) => sum + (waiting.slot ?? 0), 0)
    const again = (await drain(next)).filter(({ known }) => known === undefined)
    expect(rows + again.length).toBe(count)
  }
})

/** A store with acknowledged batches, as a kill leaves it; some of it beyond the first checkpoint. */
async function setupLog() {
  const path = await temporaryFolder()
  const { store } = await openEmbedded(path)
  onTestFinished(() => store.close())
  const accepted: string[] = []
  for (let batch = 0; batch < 60; batch += 1) {
    const records = await appendAndRoute(store, 1 + (batch % 7))
    accepted.push(...records.map(({ id }) => id))
    if (batch % 5 === 0) await Promise.all(records.map((record) => settleFirst(store, record)))
  }
  /** What a start on the folder finds, after something was done to the log. */
  async function afterwards(harm: (file: string, size: number) => Promise<void>): Promise<string[]> {
    const copy = await temporaryFolder()
    await cp(path, copy, { recursive: true })
    const file = join(copy, wal)
    await harm(file, (await stat(file)).size)
    const opened = await openEmbedded(copy)
    const found: string[] = []
    for (const id of accepted) found.push(...(await opened.store.find(id)).map(({ record }) => record.id))
    await opened.store.append(events(1))
    await opened.store.close()
    return found
  }
  return { accepted, afterwards }
}

test('garbage behind the log, as half a write leaves it, costs nothing that was acknowledged', async () => {
  const { accepted, afterwards } = await setupLog()
  const random = createRandom()
  for (let round = 0; round < rounds; round += 1) {
    const found = await afterwards((file) => appendFile(file, randomBytes(random.between(1, 20_000))))
    expect(found).toEqual(accepted)
  }
})

test('a log cut off at random bytes is opened, and what is left is what was accepted first, without a gap', async () => {
  const { accepted, afterwards } = await setupLog()
  const random = createRandom()
  for (let round = 0; round < rounds; round += 1) {
    const found = await afterwards((file, size) => truncate(file, random.between(0, size)))
    expect(found).toEqual(accepted.slice(0, found.length))
  }
})

test('a second process on the same folder is refused, and told which folder; after a kill the folder is free', async () => {
  const path = await temporaryFolder()
  const holder = await new Promise<ReturnType<typeof startChild>>((resolve) => {
    const child = startChild(path, 'hold', 'holder', () => resolve(child))
  })

  await expect(openEmbedded(path)).rejects.toMatchObject({
    code: 'STORE_LOCKED',
    message: expect.stringContaining(path),
  })

  holder.kill('SIGKILL')
  await once(holder, 'exit')
  const { store } = await openEmbedded(path)
  await store.append(events(1))
  expect(await take(store, 1)).toHaveLength(1)
  await store.close()
})

test('a second store in the same process is refused as well', async () => {
  const path = await temporaryFolder()
  const { store } = await openEmbedded(path)
  onTestFinished(() => store.close())

  await expect(openEmbedded(path)).rejects.toMatchObject({ code: 'STORE_LOCKED' })
})
