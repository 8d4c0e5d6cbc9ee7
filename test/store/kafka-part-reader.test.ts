import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openPart } from '../../src/store/kafka/part-reader.ts'
import { fileOf } from '../../src/store/kafka/shard-protocol.ts'
import { type Database, openDatabase } from '../../src/store/tables/database.ts'
import { migrate } from '../../src/store/tables/schema.ts'

/*
 * The tables of a partition, read beside whoever writes them.
 */

const key = { text: 'key', turn: 'oldest', windowMs: 0 } as const
const candidate = { pos: 9, metaId: () => undefined, now: 0 }

async function aPart() {
  const folder = mkdtempSync(join(tmpdir(), 'changeprop-part-'))
  const file = fileOf(folder, 0)
  const database = await openDatabase(file)
  migrate(database, file)
  database.exec('CREATE TABLE origins(pos INTEGER PRIMARY KEY, id TEXT, rule INTEGER)')
  const reader = await openPart(folder, 0)
  onTestFinished(() => {
    database.close()
    return rm(folder, { recursive: true, force: true })
  })
  return { database, reader }
}

function addRow(database: Database, pos: number): void {
  database.exec(`INSERT INTO origins VALUES (${pos}, 'event ${pos}', 0)`)
}

const turn = () => new Promise(setImmediate)

test('of one turn all is read of one state, and of the next what was written meanwhile', async () => {
  const { database, reader } = await aPart()
  expect(reader.has('event 1', 0)).toBe(false)
  addRow(database, 1)
  expect(reader.has('event 1', 0)).toBe(false)
  await turn()
  expect(reader.has('event 1', 0)).toBe(true)
  await turn()
  reader.close()
})

test('it can be closed within a turn in which it was read', async () => {
  const { reader } = await aPart()
  expect(reader.isKeyFree(0, key, candidate)).toBe(true)
  reader.close()
  await turn()
})

test('a question that cannot be answered leaves the next turn as it was', async () => {
  const { database, reader } = await aPart()
  const metaId = () => {
    throw new Error('it cannot be read')
  }
  database.exec(
    "INSERT INTO starts(rule, key, pos, at, ok_pos, ok_h, ok_at, expires) VALUES (0, 'key', 1, 0, 1, 7, 0, 9)",
  )
  expect(() => reader.isKeyFree(0, { ...key, turn: 'newest' }, { ...candidate, metaId })).toThrow('it cannot be read')
  await turn()
  addRow(database, 1)
  expect(reader.has('event 1', 0)).toBe(true)
  await turn()
  reader.close()
})
