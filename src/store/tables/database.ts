/** What a column can hold. */
export type Value = null | number | bigint | string | Uint8Array
export type Row = Readonly<Record<string, Value | undefined>>

export interface Statement {
  run(...values: readonly Value[]): unknown
  get(...values: readonly Value[]): Row | undefined
  all(...values: readonly Value[]): Row[]
}

/** The part of `node:sqlite` that is the same in all drivers we may meet. */
export interface Database {
  readonly isTransaction: boolean
  exec(sql: string): void
  prepare(sql: string): Statement
  close(): void
}

type Driver = new (path: string, options?: { readonly timeout?: number }) => Database

/** Below this, a checkpoint beside a write can lose commits. */
const soundSqlite = [3, 51, 3]
/** `node:sqlite` needs no flag from here on. */
const unflaggedNode = [22, 13, 0]

const pageLimitOfWal = 1000
const walBytesKept = 67_108_864
/** Negative: KiB. */
const cacheSize = -16_000
const readerCacheSize = -1_000
const busyTimeoutMs = 5000

let loaded: Promise<Driver> | undefined

/** The driver built into Node where it is sound, else the one from npm. */
export function loadDriver(): Promise<Driver> {
  loaded ??= findDriver()
  return loaded
}

/**
 * Opens the one read-write connection. `synchronous` is set on every open, because some builds fall back to NORMAL for a
 * file that exists already; what was set is read back, because a pragma that is not understood is ignored in silence.
 */
export async function openDatabase(path: string): Promise<Database> {
  const Driver = await loadDriver()
  const database = new Driver(path)
  try {
    // Before the first page is written, or it never takes effect.
    database.exec('PRAGMA auto_vacuum = INCREMENTAL')
    set(database, 'busy_timeout', busyTimeoutMs, busyTimeoutMs)
    set(database, 'journal_mode', 'WAL', 'wal')
    set(database, 'synchronous', 'FULL', 2)
    if (process.platform === 'darwin') set(database, 'fullfsync', 1, 1)
    set(database, 'wal_autocheckpoint', pageLimitOfWal, pageLimitOfWal)
    set(database, 'journal_size_limit', walBytesKept, walBytesKept)
    set(database, 'cache_size', cacheSize, cacheSize)
    set(database, 'temp_store', 'MEMORY', 2)
  } catch (error) {
    database.close()
    throw error
  }
  return database
}

/**
 * What opens another connection to a file that `openDatabase` has open in this process, for reading. The driver from npm lets go
 * of a connection that has statements only when they are collected: so none is opened before it is needed.
 */
export async function readerOf(path: string): Promise<() => Database> {
  const Driver = await loadDriver()
  return () => {
    const database = new Driver(path)
    database.exec(`PRAGMA query_only = ON; PRAGMA cache_size = ${readerCacheSize}`)
    return database
  }
}

/** A pragma's or query's only value. */
export function single(database: Database, sql: string): Value {
  const row = database.prepare(sql).get()
  return row === undefined ? null : (Object.values(row)[0] ?? null)
}

export function int(value: Value | undefined): number {
  if (typeof value === 'number') return value
  throw new Error(`the store expected a number in a column and found ${kind(value)}`)
}

/** How many attempts there were before these rows of the table, which are in order. */
export function earlierThan(attempts: readonly Row[]): number {
  const [oldest] = attempts
  return oldest === undefined ? 0 : int(oldest.n) - 1
}

export function text(value: Value | undefined): string {
  if (typeof value === 'string') return value
  throw new Error(`the store expected text in a column and found ${kind(value)}`)
}

export function blob(value: Value | undefined): Uint8Array {
  if (value instanceof Uint8Array) return value
  throw new Error(`the store expected bytes in a column and found ${kind(value)}`)
}

/** SQLite's extended result code, or 0 where the error is not SQLite's. */
export function sqliteCode(error: unknown): number {
  if (!(error instanceof Error)) return 0
  if ('sqliteExtendedCode' in error && typeof error.sqliteExtendedCode === 'number') return error.sqliteExtendedCode
  return 'errcode' in error && typeof error.errcode === 'number' ? error.errcode : 0
}

const sqliteBusy = 5
const sqliteCorrupt = 11
const sqliteFull = 13
const sqliteNotADatabase = 26
/** A write was refused, for instance by a quota. Nothing of the group is in the log then, unlike after a failed sync. */
const ioErrorWrite = 778
const ioErrorShmSize = 4874

export function isBusy(error: unknown): boolean {
  return (sqliteCode(error) & 0xff) === sqliteBusy
}

export function isDamaged(error: unknown): boolean {
  return [sqliteCorrupt, sqliteNotADatabase].includes(sqliteCode(error) & 0xff)
}

export function isFull(error: unknown): boolean {
  if (error instanceof Error && 'code' in error && error.code === 'ENOSPC') return true
  const code = sqliteCode(error)
  return (code & 0xff) === sqliteFull || code === ioErrorWrite || code === ioErrorShmSize
}

function set(database: Database, pragma: string, value: string | number, wanted: string | number): void {
  database.exec(`PRAGMA ${pragma} = ${value}`)
  const found = single(database, `PRAGMA ${pragma}`)
  if (found !== wanted) throw new Error(`SQLite would not set ${pragma} to ${value}: it says ${String(found)}`)
}

async function findDriver(): Promise<Driver> {
  const builtIn = process.versions.sqlite
  if (builtIn !== undefined && isAtLeast(builtIn, soundSqlite) && isAtLeast(process.versions.node, unflaggedNode)) {
    const found: unknown = process.getBuiltinModule('node:sqlite')
    if (offersDriver(found)) return found.DatabaseSync
  }
  const { DatabaseSync } = await import('@photostructure/sqlite')
  return DatabaseSync
}

function offersDriver(found: unknown): found is { readonly DatabaseSync: Driver } {
  return (
    typeof found === 'object' && found !== null && 'DatabaseSync' in found && typeof found.DatabaseSync === 'function'
  )
}

function isAtLeast(version: string, wanted: readonly number[]): boolean {
  const parts = version.split('.').map(Number)
  for (const [index, least] of wanted.entries()) {
    const part = parts[index] ?? 0
    if (part !== least) return part > least
  }
  return true
}

function kind(value: Value | undefined): string {
  return value === null ? 'null' : typeof value
}
