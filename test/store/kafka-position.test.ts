import { createRequire } from 'node:module'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { share } from '../../src/store/kafka/membership.ts'
import { pack, unpack } from '../../src/store/kafka/packed.ts'
import { defaultPartitionKey, murmur2, partitionOf } from '../../src/store/kafka/partition.ts'
import { formatMetadata, Progress, parseMetadata } from '../../src/store/kafka/position.ts'
import {
  formatFact,
  formatKey,
  formatRow,
  parseFact,
  parseKey,
  parseRow,
  type WorkRow,
} from '../../src/store/kafka/row.ts'

const murmur2OfKafkajs: (key: string) => number = createRequire(import.meta.url)(
  'kafkajs/src/producer/partitioners/default/murmur2',
)

/** What `Progress` knows, kept as a set of every offset. */
class NaiveProgress {
  readonly #open: number[] = []
  readonly #finished = new Set<number>()
  #end: number

  constructor(offset: number) {
    this.#end = offset
  }

  begin(offset: number): void {
    // What lies between does not exist, and nobody has to wait for it.
    for (let gap = this.#end; gap < offset; gap += 1) this.#finished.add(gap)
    this.#end = Math.max(this.#end, offset + 1)
    this.#open.push(offset)
  }

  end(offset: number): void {
    this.#open.splice(this.#open.indexOf(offset), 1)
    if (!this.#open.includes(offset)) this.#finished.add(offset)
  }

  get offset(): number {
    return Math.min(this.#end, ...this.#open)
  }

  /** Above the lowest that is not finished. */
  finishedUntil(end: number): number[] {
    const all = Array.from({ length: end - this.offset }, (_, index) => this.offset + index)
    return all.filter((offset) => this.#finished.has(offset))
  }

  get open(): readonly number[] {
    return this.#open
  }
}

/** Begin the next record, after a gap; or end one of those that are open, chosen by a share from 0 to 1. */
const step = fc.oneof(
  fc.record({ gap: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 5 })) }),
  fc.record({ end: fc.double({ min: 0, max: 0.999, noNaN: true }) }),
)

describe('how far a partition has come', () => {
  test('is told by the lowest offset that is not finished and the runs above it, in whatever order records end', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 40 }), fc.array(step, { maxLength: 150 }), (first, steps) => {
        const progress = new Progress(first, '')
        const naive = new NaiveProgress(first)
        let next = first
        for (const one of steps) {
          if ('gap' in one) {
            const offset = next + one.gap
            next = offset + 1
            progress.begin(offset)
            naive.begin(offset)
          } else {
            const offset = naive.open[Math.floor(one.end * naive.open.length)]
            if (offset === undefined) continue
            progress.end(offset)
            naive.end(offset)
          }
          expect(progress.offset).toBe(naive.offset)
          const taken = new Progress(progress.offset, progress.runs)
          const known = naive.finishedUntil(next)
          for (let offset = naive.offset; offset < next + 3; offset += 1) {
            expect({ offset, finished: taken.isFinished(offset) }).toEqual({ offset, finished: known.includes(offset) })
          }
        }
      }),
    )
  })

  test('goes on where an owner before had come, and passes what that one finished', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 80 }), (isEnded) => {
        const before = new Progress(100, '')
        for (const index of isEnded.keys()) before.begin(100 + index)
        for (const [index, ended] of isEnded.entries()) if (ended) before.end(100 + index)

        const after = new Progress(before.offset, before.runs)
        const read: number[] = []
        for (let offset = before.offset; offset < 100 + isEnded.length; offset += 1) {
          if (after.isFinished(offset)) after.pass(offset)
          else {
            after.begin(offset)
            read.push(offset)
          }
        }

        expect(read).toEqual([...isEnded.entries()].filter(([, ended]) => !ended).map(([index]) => 100 + index))
        for (const offset of read.reverse()) after.end(offset)
        expect({ offset: after.offset, runs: after.runs, open: after.open }).toEqual({
          offset: 100 + isEnded.length,
          runs: '',
          open: 0,
        })
      }),
    )
  })

  test('waits for a record as often as it was begun, and takes no end that had no beginning', () => {
    const progress = new Progress(5, '')
    progress.begin(5)
    progress.begin(5)
    progress.end(5)
    expect(progress.offset).toBe(5)
    progress.end(5)
    expect(progress.offset).toBe(6)
    expect(() => progress.end(5)).toThrow('the record at 5 was finished more often than it was begun')
  })

  test('tells no more runs than Kafka takes, however many there are, and reads no more until they are fewer', () => {
    const progress = new Progress(0, '')
    const read = 10_000
    for (let offset = 0; offset < read; offset += 1) progress.begin(offset)
    for (let offset = 1; offset < read; offset += 2) progress.end(offset)

    expect(progress.isCrowded).toBe(true)
    expect(
      formatMetadata({ at: Date.now(), runs: progress.runs, lives: 1_000, latest: Date.now() }).length,
    ).toBeLessThan(4_096)
    // What is told is true; the rest is read once more.
    const after = new Progress(progress.offset, progress.runs)
    const told = Array.from({ length: read }, (_, offset) => offset).filter((offset) => after.isFinished(offset))
    expect(told.length).toBeGreaterThan(500)
    expect(told.every((offset) => offset % 2 === 1)).toBe(true)

    for (let offset = 0; offset < read; offset += 2) progress.end(offset)
    expect(progress.isCrowded).toBe(false)
    expect(progress.offset).toBe(read)
  })

  test('is read back as it was written; what others committed is told apart', () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.array(fc.tuple(fc.nat(1e6), fc.nat(1e6))),
        fc.nat(),
        fc.nat(),
        (at, pairs, lives, latest) => {
          const runs = pairs.map(([gap, length]) => `${gap.toString(36)}+${length.toString(36)}`).join(' ')
          const said = { at, runs, lives, latest }
          expect(parseMetadata(formatMetadata(said))).toEqual(said)
        },
      ),
    )
    for (const foreign of ['', 'metadata', ';', '{"a":1}']) expect(parseMetadata(foreign)).toBeUndefined()
  })
})

describe('a share of the partitions', () => {
  const groups = fc
    .record({
      partitions: fc.integer({ min: 1, max: 60 }),
      members: fc.uniqueArray(fc.string({ minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 12 }),
    })
    .chain(({ partitions, members }) =>
      fc.record({
        partitions: fc.constant(Array.from({ length: partitions }, (_, index) => index)),
        // What they say they have may overlap, and may not exist any more.
        had: fc
          .tuple(...members.map(() => fc.uniqueArray(fc.nat(partitions + 3), { maxLength: partitions })))
          .map((owned) => new Map(members.map((member, index) => [member, owned[index] ?? []]))),
      }),
    )

  test('is everybody’s: each partition once, and nobody has over one more than another', () => {
    fc.assert(
      fc.property(groups, ({ partitions, had }) => {
        const shares = share(partitions, had)
        expect([...shares.keys()].sort()).toEqual([...had.keys()].sort())
        expect([...shares.values()].flat().sort((a, b) => a - b)).toEqual(partitions)
        const sizes = [...shares.values()].map((own) => own.length)
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1)
      }),
    )
  })

  test('stays where it is while members stay, and moves no more than it must when one comes or goes', () => {
    fc.assert(
      fc.property(groups, fc.boolean(), ({ partitions, had }, comes) => {
        const before = share(partitions, had)
        expect(share(partitions, before)).toEqual(before)

        const members = new Map(before)
        const leaver = [...before.keys()][0] ?? ''
        if (comes) members.set(' new', [])
        else if (members.size > 1) members.delete(leaver)
        const after = share(partitions, members)
        const moved = [...members].flatMap(([member, own]) =>
          own.filter((one) => after.get(member)?.includes(one) !== true),
        )
        // Who comes is given its share and no more; who goes leaves the others what they have.
        expect(moved.length).toBe(comes ? (after.get(' new')?.length ?? 0) : 0)
      }),
    )
  })
})

describe('a place', () => {
  test('is that which kafkajs and the Java client find for a key', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ unit: 'binary' }), fc.string({ maxLength: 3 })),
        fc.integer({ min: 1, max: 500 }),
        (key, count) => {
          expect(murmur2(key)).toBe(murmur2OfKafkajs(key) >>> 0)
          expect(partitionOf(key, count)).toBe((murmur2OfKafkajs(key) & 0x7fffffff) % count)
        },
      ),
    )
  })

  test.each([
    [{ database: 'aawiki', page_id: 7, meta: { uri: 'x' } }, 'aawiki\u001f7'],
    [{ wiki_id: 'aawiki', page: { page_id: 0, page_title: 'A' } }, 'aawiki\u001f0'],
    [{ meta: { domain: 'a.example', uri: 'https://a.example/A' } }, 'a.example\u001fhttps://a.example/A'],
    // A job's uri is the same for all of its wiki.
    [{ database: 'aawiki', type: 'purge', params: {}, sha1: 'ab', meta: { uri: 'x' } }, 'aawiki\u001fab'],
    [{ database: 'aawiki', type: 'purge', params: {}, meta: { uri: 'x' } }, undefined],
    [{ database: 'aawiki' }, undefined],
  ])('of %j is found by %j', (message, key) => {
    expect(defaultPartitionKey(message)).toBe(key)
  })
})

const bytes = fc.uint8Array({ maxLength: 40 })
const place = fc.string({ unit: 'grapheme', maxLength: 12 })

describe('records of the work', () => {
  test('are the same after they passed between threads', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ key: bytes, value: fc.option(bytes) })), (records) => {
        const found = unpack(pack(records)).map(({ key, value }) => ({
          key: Uint8Array.from(key),
          value: value === null ? null : Uint8Array.from(value),
        }))
        expect(found).toEqual(records)
      }),
    )
  })

  test('have keys that are read back, and are not taken for others’', () => {
    fc.assert(
      fc.property(place, place, fc.nat(), (rule, other, time) => {
        for (const key of [
          { kind: 'delivery', id: other, rule },
          { kind: 'start', rule, key: other },
          { kind: 'root', rule, signature: other, time },
          { kind: 'owner' },
        ] as const) {
          expect(parseKey(formatKey(key))).toEqual(key)
        }
      }),
    )
    for (const foreign of ['', 'x', '{}', '[]', '["delivery"]', '["root","a","b","c"]', '["other","a","b"]']) {
      expect(parseKey(Buffer.from(foreign))).toBeUndefined()
    }
  })

  test('have values that are read back, with the event byte for byte', () => {
    fc.assert(
      fc.property(place, bytes, fc.option(fc.nat()), (text, event, until) => {
        const row: WorkRow = {
          id: text,
          rule: text,
          lane: text,
          stream: text,
          accepted: 1,
          origin: [text, 2, 3],
          state: 'waiting',
          reason: 'retry',
          until,
          at: 4,
          revision: text,
          progress: { failures: 1, firstAttemptAt: 2, finished: 0, refused: 0 },
          claimed: false,
          attempts: [],
        }
        const found = parseRow(formatRow(row, event))
        expect(found?.row).toEqual(row)
        expect(Uint8Array.from(found?.event ?? [])).toEqual(event)

        const numbers = [1, null, 3]
        const starters = [[1, { id: text }] as const]
        const asJson = starters.map(([pos, starter]) => [pos, JSON.stringify(starter)] as const)
        expect(parseFact(formatFact(numbers, asJson))).toEqual({ numbers, starters })
      }),
    )
    for (const foreign of ['', 'abc', '\u0005\0\0\0{}']) expect(parseRow(Buffer.from(foreign))).toBeUndefined()
    expect(parseFact(Buffer.from('{}'))).toBeUndefined()
  })
})
