import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf } from '../../base/errors.ts'
import { deadReasons, doneReasons, type Lane, waitReasons } from '../store.ts'
import { type Database, openDatabase } from '../tables/database.ts'
import { Numbers } from '../tables/numbers.ts'
import { migrate } from '../tables/schema.ts'
import { Words } from '../tables/words.ts'
import { serveThread } from '../thread.ts'
import { Roots } from './roots.ts'
import { Shard } from './shard.ts'
import { fileOf, type ShardAnswers, type ShardInputs, type ShardOutputs } from './shard-protocol.ts'

/** Entry of the thread that keeps the rows of the partitions that this process owns. */

/** Nothing of it has to be there again: the brokers have it. */
const scratch = 'PRAGMA synchronous = OFF; PRAGMA cache_size = -4000'

interface Shared {
  readonly words: Words
  readonly numbers: Numbers
  readonly roots: Roots
}

const shards = new Map<number, { readonly shard: Shard; readonly file: string }>()
const opened = new Set<number>()
let shared: Shared | undefined
let turn = 0

async function openScratch(file: string): Promise<Database> {
  const database = await openDatabase(file)
  database.exec(scratch)
  return database
}

/** With the tables of the embedded store. */
async function openTables(file: string): Promise<Database> {
  const database = await openScratch(file)
  migrate(database, file)
  return database
}

/** By all partitions: they have the same rules and reasons, and each is to know the root events of the others. */
async function openShared(folder: string): Promise<Shared> {
  if (shared !== undefined) return shared
  mkdirSync(folder, { recursive: true })
  const words = new Words(await openTables(join(folder, 'words.db')))
  for (const reason of ['', ...waitReasons, ...doneReasons, ...deadReasons]) words.intern('reason', reason)
  const numbers = new Numbers(words.all())
  const roots = new Roots(await openScratch(join(folder, 'roots.db')), words, numbers)
  shared = { words, numbers, roots }
  return shared
}

function of(partition: number): Shard {
  const found = shards.get(partition)
  if (found === undefined) throw new Error(`partition ${partition} is not open`)
  return found.shard
}

function drop(partition: number): void {
  const found = shards.get(partition)
  opened.delete(partition)
  if (found === undefined) return
  shards.delete(partition)
  found.shard.close()
  for (const end of ['', '-wal', '-shm']) rmSync(`${found.file}${end}`, { force: true })
}

const answers: ShardAnswers = {
  async open({ partition, folder }) {
    drop(partition)
    const { words, numbers, roots } = await openShared(folder)
    const file = fileOf(folder, partition)
    for (const end of ['', '-wal', '-shm']) rmSync(`${file}${end}`, { force: true })
    shards.set(partition, { shard: new Shard(partition, await openTables(file), words, numbers, roots), file })
    return undefined
  },
  numberOf({ rule }) {
    if (shared === undefined) throw new Error('no partition is open')
    const number = shared.numbers.of('rule', rule)
    for (const name of shared.numbers.takeFresh()) shared.words.learn(name)
    return number
  },
  restore({ partition, records }) {
    of(partition).replay.restore(records)
    return undefined
  },
  remember({ partition, starts }) {
    of(partition).replay.remember(starts)
    return undefined
  },
  restored({ partition, now, hasMoved }) {
    const restored = of(partition).restored(now, hasMoved)
    opened.add(partition)
    return restored
  },
  absolve: ({ partition }) => of(partition).absolve(),
  settle: ({ batches }) => batches.map(({ partition, ...batch }) => of(partition).settle(batch)),
  remove: ({ partition, settle }) => of(partition).remove(settle),
  arrive: ({ partition, records }) => of(partition).arrive(records),
  reassert: ({ partition, keys }) => of(partition).changes.reassert(keys),
  rowsOf: ({ partition, topic, part, from }) => of(partition).listing.rowsOf(topic, part, from),
  take: ({ lane, now, limit }) => take(lane, now, limit),
  deliveries,
  letters: ({ partition, rule, ids, limit, after }) => of(partition).listing.letters(rule, ids, limit, after),
  forget: ({ partition, now }) => of(partition).forget(now),
  async heardRoots({ partition, folder, records }) {
    const { roots } = await openShared(folder)
    roots.heard(partition, records)
    return undefined
  },
  drop({ partition }) {
    const left = opened.has(partition) ? of(partition).left() : []
    drop(partition)
    return left
  },
}

function all(): Shard[] {
  return [...opened].sort((a, b) => a - b).map(of)
}

/** Partitions take turns at being first. */
function take(lane: Lane, now: number, limit: number): ShardOutputs['take'] {
  const asked = all()
  turn += 1
  const rows: ShardOutputs['take']['rows'][number][] = []
  let nextUntil = Number.POSITIVE_INFINITY
  for (let index = 0; index < asked.length; index += 1) {
    const taken = asked[(index + turn) % asked.length]?.take(lane, now, limit - rows.length)
    if (taken === undefined) continue
    rows.push(...taken.rows)
    nextUntil = Math.min(nextUntil, taken.nextUntil)
  }
  return { rows, nextUntil }
}

/** Newest first, all partitions together. The cursor: `<place>.<partition>` of the last. */
function deliveries({ rule, states, limit, cursor }: ShardInputs['deliveries']): ShardOutputs['deliveries'] {
  const [place = Number.MAX_SAFE_INTEGER, last = -1] = cursor?.split('.').map(Number) ?? []
  const found = [...opened].flatMap((partition) => {
    const shard = of(partition)
    const before = partition < last ? place + 1 : place
    return shard.listing.deliveries(rule, states, limit + 1, before).map((one) => ({ ...one, partition }))
  })
  const page = found.sort((a, b) => b.pos - a.pos || b.partition - a.partition).slice(0, limit)
  const end = page.at(-1)
  return {
    items: page.map(({ entry }) => entry),
    cursor: found.length > limit && end !== undefined ? `${end.pos}.${end.partition}` : undefined,
  }
}

serveThread<ShardInputs, ShardOutputs>(answers, (error) => ({
  code: 'STORE_BROKEN',
  message: messageOf(error),
}))
