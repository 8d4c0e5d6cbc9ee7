import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { int, openDatabase, single } from '../../src/store/tables/database.ts'
import { formatEventId, hashId, parseEventId } from '../../src/store/tables/event-id.ts'
import { MetaIds } from '../../src/store/tables/ids.ts'
import { migrate } from '../../src/store/tables/schema.ts'
import { openEmbedded, temporaryFolder } from './embedded.ts'
import { events, take } from './world.ts'

async function setup() {
  const file = join(await temporaryFolder(), 'changeprop.db')
  const open = async () => {
    const database = await openDatabase(file)
    migrate(database, file)
    return database
  }
  return { file, open }
}

test('every commit is synced, on a file that is opened again too', async () => {
  const { open } = await setup()
  const pragmas = ['synchronous', 'journal_mode', 'auto_vacuum', 'busy_timeout', 'cache_size', 'wal_autocheckpoint']
  for (let time = 0; time < 2; time += 1) {
    const database = await open()
    const values = pragmas.map((pragma) => single(database, `PRAGMA ${pragma}`))
    expect(values).toEqual([2, 'wal', 2, 5000, -16000, 1000])
    database.close()
  }
})

test('a file of a later version is refused, in words', async () => {
  const path = await temporaryFolder()
  await (await openEmbedded(path)).store.close()
  const database = await openDatabase(join(path, 'changeprop.db'))
  database.exec('PRAGMA user_version = 1000')
  database.close()

  await expect(openEmbedded(path)).rejects.toMatchObject({
    code: 'STORE_BROKEN',
    message: expect.stringMatching(/written by a later version .*1000/),
  })
})

test.each([
  ['is no database', (bytes: Buffer) => Buffer.alloc(bytes.length, 'not a database ')],
  ['is damaged', (bytes: Buffer) => bytes.fill(0xff, 100, bytes.length)],
])('a file that %s is refused with its name, and with what to do', async (_what, spoil) => {
  const path = await temporaryFolder()
  const file = join(path, 'changeprop.db')
  const { store } = await openEmbedded(path)
  await store.append(events(50))
  await store.close()
  await writeFile(file, spoil(await readFile(file)))

  await expect(openEmbedded(path)).rejects.toMatchObject({
    code: 'STORE_BROKEN',
    message: expect.stringMatching(
      new RegExp(`^${file} cannot be read \\(.*\\); move it, .* -wal .* starts empty.* lost`),
    ),
  })
})

test('a store that cannot write for a reason other than room is broken: it says so once, and takes nothing more', async () => {
  const path = await temporaryFolder()
  const { store, told } = await openEmbedded(path)
  onTestFinished(() => store.close())
  await store.append(events(1))
  const next = take(store, 2)
  const other = await openDatabase(join(path, 'changeprop.db'))
  other.exec('DROP TABLE events')
  other.close()

  await expect(store.append(events(1))).rejects.toMatchObject({ code: 'STORE_BROKEN' })

  await expect(store.append(events(1))).rejects.toMatchObject({ code: 'STORE_BROKEN' })
  await expect(store.find('event')).rejects.toMatchObject({ code: 'STORE_BROKEN' })
  expect(await next).toHaveLength(1)
  expect(told.broken).toHaveLength(1)
  expect(store.health()).toMatchObject({ accepting: false, writable: false })
})

test('no question of the service scans what is stored', async () => {
  const { open } = await setup()
  const database = await open()
  onTestFinished(() => database.close())
  const plans: [query: string, uses: RegExp][] = [
    [
      'SELECT until FROM deliveries WHERE state = 0 AND lane = 1 AND (until, pos) > (1, 2) ORDER BY until, pos LIMIT 5',
      /waiting \(lane=\? AND \(until,pos\)>/,
    ],
    [
      'SELECT pos FROM deliveries WHERE rule = 1 AND state = 3 AND state <> 2 AND pos > 5 ORDER BY pos LIMIT 5',
      /unfinished \(rule=\? AND state=\? AND pos/,
    ],
    ['SELECT pos FROM deliveries WHERE rule = 1 AND pos <= 5 ORDER BY pos DESC LIMIT 5', /by_rule \(rule=\? AND pos/],
    [
      'SELECT pos, rule FROM deliveries WHERE (pos, rule) < (5, 1) ORDER BY pos DESC, rule DESC LIMIT 5',
      /PRIMARY KEY \(\(pos,rule\)</,
    ],
    [
      'SELECT ids.pos FROM runs CROSS JOIN ids ON ids.run = runs.run WHERE ids.h = 7',
      /ids USING PRIMARY KEY \(run=\? AND h=\?\)/,
    ],
    [
      'UPDATE deliveries SET state = 0 WHERE rule = 1 AND state = 1 AND state <> 2 AND claimed = 0',
      /unfinished \(rule=\? AND state=\?\)/,
    ],
  ]
  for (const [query, uses] of plans) {
    const plan = database
      .prepare(`EXPLAIN QUERY PLAN ${query}`)
      .all()
      .map((row) => String(row.detail))
    expect(plan.join('\n')).toMatch(uses)
    expect(plan.join('\n')).not.toMatch(/TEMP B-TREE/)
  }
})

test('our ids say where an event lies, and sort as the log does', () => {
  const made = [[1, 0], [1_700_000_000_000, 1], [1_700_000_000_000, 2], [1_700_000_000_001, 2 ** 53 - 1]] as const // biome-ignore format: a table
  for (const mark of [0, 1, 511, 512, 2 ** 21 - 1]) {
    const formatted = made.map(([accepted, pos]) => formatEventId(mark, accepted, pos))
    expect(formatted).toEqual([...formatted].sort())
    for (const [index, id] of formatted.entries()) {
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      expect(parseEventId(mark, id)).toEqual({ accepted: made[index]?.[0], pos: made[index]?.[1] })
      expect(parseEventId(mark ^ 1, id)).toBeUndefined()
    }
  }
})

test('events are found by hash across runs, moved and unmoved, after a start, and not after removal', async () => {
  const { open } = await setup()
  const database = await open()
  onTestFinished(() => database.close())
  const insert = database.prepare("INSERT INTO events(pos, h, stream, accepted, payload) VALUES (?, ?, 0, 0, x'00')")
  const hashOf = (pos: number) => hashId(`event ${pos % 60_000}`)
  let ids = new MetaIds(database)
  const count = 100_000
  for (let pos = 1; pos <= count; pos += 1_000) {
    database.exec('BEGIN')
    for (let each = pos; each < pos + 1_000; each += 1) insert.run(each, hashOf(each))
    const moved = ids.move(1_000)
    database.exec('COMMIT')
    moved?.()
    for (let each = pos; each < pos + 1_000; each += 1) ids.add(each, hashOf(each))
  }
  const expectAll = () => {
    for (const pos of [1, 2, 32_768, 32_769, 50_000, 59_999, 99_999, 100_000]) {
      const twin = pos > 60_000 ? pos - 60_000 : pos + 60_000
      const wanted = [pos, ...(twin <= count ? [twin] : [])].sort((a, b) => a - b)
      expect(ids.lookup(hashOf(pos)).sort((a, b) => a - b)).toEqual(wanted)
    }
  }
  expect(int(single(database, 'SELECT count(*) FROM runs'))).toBeGreaterThan(0)
  expectAll()

  ids = new MetaIds(database)
  expectAll()

  for (const pos of [2, 50_000, 100_000]) {
    ids.remove(pos, hashOf(pos))
    ids.forget(pos)
    expect(ids.lookup(hashOf(pos))).not.toContain(pos)
  }
})

test('a folder that cannot be made is refused at once, and not tried for ever', async () => {
  await expect(openEmbedded('/proc/no/such/folder')).rejects.toMatchObject({ code: 'STORE_BROKEN' })
})
