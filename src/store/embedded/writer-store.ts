import { existsSync, mkdirSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { messageOf } from '../../base/errors.ts'
import { Commits, type Effect } from '../tables/commit.ts'
import { blob, type Database, int, isDamaged, openDatabase, type Statement } from '../tables/database.ts'
import { DueRows } from '../tables/due.ts'
import type { Group } from '../tables/format.ts'
import { never } from '../tables/format.ts'
import { MetaIds } from '../tables/ids.ts'
import { parseLane } from '../tables/lane-name.ts'
import { Letters } from '../tables/letters.ts'
import { migrate } from '../tables/schema.ts'
import { Standings } from '../tables/standings.ts'
import { Suspects } from '../tables/suspects.ts'
import { Words } from '../tables/words.ts'
import { LaneNames } from './lane-names.ts'
import { lockFolder } from './lock.ts'
import type { Answers, Committed, Inputs, Opened, RecordPage, Sizes } from './protocol.ts'
import { fileIn, recordWidth } from './protocol.ts'
import { Queries } from './queries.ts'
import { readBacklog, recover } from './recovery.ts'
import { RetentionSteps } from './retention.ts'

/** Sizes are told with a commit at most so often. */
const sizesEveryMs = 250
const pageBytes = 8_388_608

interface Opening {
  readonly database: Database
  readonly words: Words
  readonly unlock: () => void
  readonly commits: Commits
  readonly due: DueRows
  readonly letters: Letters
  readonly queries: Queries
  readonly retention: RetentionSteps
  readonly laneNames: LaneNames
  readonly lengths: Statement
  readonly page: Statement
  readonly known: Statement
}

/** The store as its own thread sees it: one connection, one question at a time. */
export class WriterStore {
  #opening: Opening | undefined
  #sizesAt = 0

  readonly answers: Answers = {
    open: (input) => this.#open(input),
    commit: (group) => this.#commit(group),
    probe: () => {
      let hasRoom = false
      const told = this.#timed(({ commits }) => {
        const probed = commits.probe()
        hasRoom = probed.hasRoom
        return probed.effects
      })
      return { ...told, hasRoom }
    },
    read: (input) => this.#read(input),
    take: ({ lane, now, limit }) => this.#opened.due.take(lane, now, limit),
    find: ({ id }) => this.#opened.queries.find(id),
    deliveries: (input) => this.#opened.queries.deliveries(input),
    deadLetters: (input) => this.#opened.queries.deadLetters(input),
    retain: ({ now }) => {
      const { commits, retention } = this.#opened
      return retention.step(now, commits.cursor, (change) => commits.transaction(change))
    },
    lived: () => {
      const { commits, database } = this.#opened
      commits.transaction(() => database.exec("INSERT OR REPLACE INTO meta(key, number) VALUES ('lives', 0)"))
      return undefined
    },
    forget: ({ lanes }) => {
      const { commits, laneNames } = this.#opened
      if (commits.isHolding) return { forgotten: [] }
      return { forgotten: laneNames.forget(lanes, (change) => commits.transaction(change)) }
    },
    close: (input) => this.#close(input),
  }

  get #opened(): Opening {
    if (this.#opening === undefined) throw new Error('the writer was asked before the store was opened')
    return this.#opening
  }

  async #open(input: Inputs['open']): Promise<Opened> {
    makeFolder(resolve(input.path))
    const unlock = await lockFolder(input.path)
    const file = fileIn(input.path)
    try {
      const database = await openDatabase(file)
      try {
        return this.#recover(input, file, database, unlock)
      } catch (error) {
        database.close()
        throw error
      }
    } catch (error) {
      unlock()
      throw isDamaged(error) ? damaged(file, error) : error
    }
  }

  #recover({ now, retention: limits }: Inputs['open'], file: string, database: Database, unlock: () => void): Opened {
    migrate(database, file)
    const words = new Words(database)
    database.exec('BEGIN IMMEDIATE')
    const { mark, cursor, last, lives, interrupted } = recover(database, words, now)
    const standings = new Standings(database, words)
    for (const { pos, rule } of interrupted) standings.interrupted(pos, rule, now)
    database.exec('COMMIT')

    const ids = new MetaIds(database)
    const letters = new Letters(database)
    const suspects = new Suspects(database)
    const due = new DueRows(database, words, suspects, standings)
    const retention = new RetentionSteps(database, limits, ids, letters, standings)
    this.#opening = {
      database,
      words,
      unlock,
      commits: new Commits(database, cursor, { words, ids, letters, suspects, due, standings }),
      due,
      letters,
      queries: new Queries(database, mark, words, ids),
      retention,
      laneNames: new LaneNames(database, words, due),
      lengths: database.prepare(
        'SELECT pos, length(payload) AS length FROM events WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?',
      ),
      page: database.prepare(
        'SELECT pos, stream, accepted, payload FROM events WHERE pos > ? AND pos <= ? ORDER BY pos',
      ),
      known: database.prepare('SELECT pos, rule FROM deliveries WHERE pos BETWEEN ? AND ? ORDER BY pos'),
    }
    return {
      mark,
      cursor,
      last,
      lives,
      names: words.all(),
      backlog: readBacklog(database, words),
      dead: letters.counts(),
      sizes: retention.sizes(),
    }
  }

  #commit(group: Group): Committed {
    return this.#timed(({ commits }) => commits.apply(group))
  }

  #timed(work: (opening: Opening) => readonly Effect[]): Committed {
    const opening = this.#opened
    const began = performance.now()
    const effects = work(opening)
    const ended = performance.now()
    const dead = opening.letters.changes()
    let sizes: Sizes | undefined
    if (dead !== undefined || ended - this.#sizesAt >= sizesEveryMs) {
      this.#sizesAt = ended
      sizes = opening.retention.sizes()
    }
    return { ms: ended - began, sizes, dead, consequences: effects.map((effect) => tell(effect, opening.words)) }
  }

  /** Packed, so that a page is one buffer to hand over, whatever it holds. */
  #read({ after, upTo, limit, withKnown }: Inputs['read']): RecordPage {
    const { lengths, page, known } = this.#opened
    let last = after
    let bytes = 0
    for (const row of lengths.all(after, upTo, limit)) {
      const length = int(row.length)
      if (bytes > 0 && bytes + length > pageBytes) break
      bytes += length
      last = int(row.pos)
    }
    const rows = page.all(after, last)
    const records = new Float64Array(rows.length * recordWidth)
    const payloads = new Uint8Array(bytes)
    let offset = 0
    for (const [index, row] of rows.entries()) {
      const payload = blob(row.payload)
      records.set([int(row.pos), int(row.stream), int(row.accepted), payload.length], index * recordWidth)
      payloads.set(payload, offset)
      offset += payload.length
    }
    const pairs = withKnown ? known.all(after + 1, last) : []
    return {
      records,
      payloads: payloads.buffer,
      known: new Float64Array(pairs.flatMap((row) => [int(row.pos), int(row.rule)])),
    }
  }

  #close({ cursor }: Inputs['close']): undefined {
    if (this.#opening === undefined) return
    const { database, unlock, commits } = this.#opening
    try {
      commits.transaction(() => {
        const set = database.prepare('INSERT OR REPLACE INTO meta(key, number) VALUES (?, ?)')
        set.run('cursor', cursor)
        set.run('clean', 1)
        database.exec("DELETE FROM meta WHERE key = 'running'")
      })
    } finally {
      database.close()
      unlock()
    }
  }
}

/** Node's own recursive mkdir never returns where a parent exists and takes no folders, as /proc. */
function makeFolder(path: string): void {
  if (existsSync(path)) return
  const parent = dirname(path)
  if (parent !== path) makeFolder(parent)
  mkdirSync(path)
}

function damaged(file: string, cause: unknown): Error {
  return new Error(
    `${file} cannot be read (${messageOf(cause)}); move it, with what lies beside it under its name and -wal or -shm, out of the folder: without it the service starts empty, and what waited and the dead letters are lost; with a copy in its place only what came after the copy is lost, and calls of that time are made again`,
    { cause },
  )
}

/** In words, for the service's thread. */
function tell({ index, amended, moved, due }: Effect, words: Words): Committed['consequences'][number] {
  return {
    index,
    amended:
      amended === undefined
        ? undefined
        : amended.until === null
          ? { state: 'done', reason: 'duplicate' }
          : { state: 'waiting', reason: words.waitReason(amended.reason), until: orInfinity(amended.until) },
    moved: moved.map(({ from, to, count }) => {
      const reason = words.of('reason', to)
      return { from: words.waitReason(from), to: reason === 'duplicate' ? reason : words.waitReason(to), count }
    }),
    due: due.map(({ lane, until }) => ({ lane: parseLane(words.of('lane', lane)), until })),
  }
}

function orInfinity(until: number): number {
  return until === never ? Number.POSITIVE_INFINITY : until
}
