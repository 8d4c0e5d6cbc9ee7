import { expect, test } from 'vitest'
import type { Outgoing } from '../../src/store/kafka/batch-sender.ts'
import { ownerHeader } from '../../src/store/kafka/row.ts'
import type { Settlement, Standing } from '../../src/store/store.ts'
import { until } from '../support/until.ts'
import { keyIn, Log, type Member, start, type Taken, topics } from './kafka-log.ts'
import { anAttempt } from './world.ts'

/*
 * Writes that arrive late or in part, answers that come after what they answer was read, and partitions that move meanwhile:
 * what a broker and a kill bring about once in a long while.
 */

/** Waits for its turn among those of its key. */
function waits(text: string): Partial<Settlement> {
  return { state: 'waiting', reason: 'slot', standing: ordered(text) }
}

function ordered(text: string): Standing {
  return { key: { text, turn: 'oldest', windowMs: 0 } }
}

const claimed = { state: 'running', reason: '', claimed: true } as const
const exhausted = { state: 'dead', reason: 'exhausted', attempts: [anAttempt()] } as const
const ok = { attempts: [anAttempt()] }

/** The call that must not be repeated, and what came of it. */
async function call(member: Member, { record, standing }: Taken, outcome: Partial<Settlement>): Promise<void> {
  await member.settle(record, { ...claimed, standing })
  await member.settle(record, { ...outcome, standing })
}

function only<One>(found: readonly One[]): One {
  const [one, ...others] = found
  if (one === undefined || others.length > 0) throw new Error(`${found.length} instead of one`)
  return one
}

/** What was handed over to a partition, so that it can arrive once more. */
function handedOver(log: Log, partition: number): Outgoing {
  const { key, value } = only(log.work(partition).filter(({ headers }) => headers[ownerHeader] === undefined))
  return { topic: topics.work, partition, key, value }
}

test('what was read before it is acknowledged is settled once, though its partition is lost in between', async () => {
  const member = await start(new Log(), [0, 1])
  const record = member.route(1, { rules: 2 })
  member.writes = 'unacknowledged'
  void member.settle(record, waits(keyIn(1)))
  await until('it is read', () => member.kept[0] === 1)

  member.work.assigned([0])
  member.acknowledge()
  await member.quiet()

  // The other rule has not settled it.
  expect({ kept: member.kept, finished: member.finished }).toEqual({ kept: [1], finished: [] })
})

test.each([0, 1, 2, 3])(
  'who waits for a key gets it, when a process dies with %i records written of what one came to',
  async (written) => {
    const log = new Log()
    const text = keyIn(1)
    const member = await start(log, [0, 1])
    for (const offset of [1, 2]) await member.settle(member.route(offset), waits(text))
    const first = only(await member.take())
    member.writes = 'held'
    void member.settle(first.record, { ...ok, standing: first.standing })
    await until('it is written', () => member.held.length > 0)

    for (const record of member.held.slice(0, written)) log.append(record)
    member.kill()

    const heir = await start(log, [1])
    expect(await heir.take()).toHaveLength(1)
  },
)

test('who waits for a key after such a death is before who is handed over later', async () => {
  const log = new Log()
  const text = keyIn(1)
  const member = await start(log, [0, 1])
  const waiting = [1, 2].map((offset) => member.route(offset))
  for (const record of waiting) await member.settle(record, waits(text))
  const first = only(await member.take())
  member.writes = 'held'
  void member.settle(first.record, { ...ok, standing: first.standing })
  await until('it is written', () => member.held.length > 0)
  for (const record of member.held.slice(0, 1)) log.append(record)
  member.kill()
  const sender = await start(log, [0])
  await sender.settle(sender.route(3), waits(text))

  const heir = await start(log, [1])
  expect(only(await heir.take()).record.id).toBe(waiting[1]?.id)
})

test('what was handed over is there for the next owner, though one before tells too late that it has none', async () => {
  const log = new Log()
  const member = await start(log, [0, 1])
  member.stalled.add(1)
  const record = member.route(1)
  const settled = member.settle(record, waits(keyIn(1)))
  await member.quiet()
  log.append({ ...handedOver(log, 1), value: null, headers: { [ownerHeader]: Buffer.from('who had it before') } })
  member.unstall()
  await settled
  await member.quiet()
  expect(member.finished).toEqual([1])
  member.kill()

  const heir = await start(log, [1])
  expect((await heir.take()).map((taken) => taken.record.id)).toEqual([record.id])
})

test('what has ended is not called again by whoever takes over, when it is handed over once more', async () => {
  const log = new Log()
  const text = keyIn(1)
  const member = await start(log, [0, 1])
  await member.settle(member.route(1), waits(text))
  const again = handedOver(log, 1)
  await call(member, only(await member.take()), ok)
  log.append(again)
  await member.quiet()
  expect(await member.take()).toEqual([])
  member.kill()

  const heir = await start(log, [1])
  log.append(again)
  await heir.quiet()
  expect(await heir.take()).toEqual([])
})

test('a move that is repeated reopens no dead letter', async () => {
  const log = new Log()
  const [old, another] = [keyIn(0), keyIn(1)]
  const mover = await start(log, [0])
  await mover.settle(mover.route(1), waits(old))
  const owner = await start(log, [1])
  // After a reload it has another key. Its process dies between the hand-over and the removal.
  const moved = only(await mover.take())
  mover.writes = 'unacknowledged'
  void mover.settle(moved.record, waits(another))
  await owner.quiet()
  mover.kill()
  await call(owner, only(await owner.take()), exhausted)

  const heir = await start(log, [0])
  await heir.settle(only(await heir.take()).record, waits(another))
  await owner.quiet()

  expect(await owner.take()).toEqual([])
  expect(await owner.letters(1)).toHaveLength(1)
})

test('a partition may be lost while the first thousand of what was handed over are taken up', async () => {
  const log = new Log()
  const sender = await start(log, [0])
  const handOver = (offset: number) => sender.settle(sender.route(offset), waits(keyIn(1)))
  await Promise.all(Array.from({ length: 1_500 }, (_, offset) => handOver(offset)))
  const member = await start(log, [])
  member.writes = 'unacknowledged'
  member.work.assigned([1])
  member.acknowledge()
  await until('the first thousand are taken up', () => member.unanswered > 0)

  member.work.assigned([])
  member.acknowledge()
  await member.quiet()

  expect(member.broken).toEqual([])
})

test('what is handed over once more, by who has lost its source and got it back, is settled as often', async () => {
  const member = await start(new Log(), [0, 1])
  const handOver = () => member.settle(member.route(1), waits(keyIn(1)))
  member.stalled.add(1)
  void handOver()
  await member.quiet()
  member.work.assigned([1])
  member.work.assigned([0, 1])
  await member.owned(0)
  const again = handOver()
  await member.quiet()

  member.unstall()
  await again
  member.work.assigned([])
  await member.quiet()

  expect(member.kept).toEqual([1, 1])
})

test('what was handed over again of a dead letter is not called, though only that was left of it', async () => {
  const log = new Log()
  const text = keyIn(1)
  const member = await start(log, [0, 1])
  await member.settle(member.route(1), waits(text))
  const again = handedOver(log, 1)
  await call(member, only(await member.take()), exhausted)
  member.kill()
  log.append(again)

  const heir = await start(log, [1])
  await heir.quiet()
  expect(await heir.take()).toEqual([])
  heir.kill()
  log.compact(1)
  const next = await start(log, [1])
  expect(await next.take()).toEqual([])
  expect(await next.letters(1)).toHaveLength(1)
})

/** One process owns the partition of a dead letter; another has read the letter, and may reopen or discard it. */
async function openWithLetter() {
  const log = new Log()
  const owner = await start(log, [0, 1])
  await owner.settle(owner.route(1), exhausted)
  const letter = only(await owner.letters(0))
  const other = await start(log, [2])
  return { log, owner, other, letter }
}

const reopened = { state: 'waiting', reason: 'due' } as const

test('a letter that another process replays is replayed once, though its broker got that twice', async () => {
  const { log, owner, other, letter } = await openWithLetter()
  await other.settle(letter, reopened)
  const again = handedOver(log, 0)
  await owner.quiet()
  await call(owner, only(await owner.take()), ok)

  log.append(again)
  await owner.quiet()

  expect(await owner.take()).toEqual([])
})

test('what must not be repeated is not, though of its end the work topic alone was told', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const record = member.route(1)
  await member.settle(record, claimed)
  member.writes = 'held'
  void member.settle(record, ok)
  await until('it is written', () => member.held.length > 0)
  log.append(only(member.held.filter(({ topic }) => topic === topics.work)))
  member.kill()

  const heir = await start(log, [0])
  const kept = await heir.settle(heir.route(1), claimed)

  expect(kept?.amended?.state).toBe('elsewhere')
})

test('a letter that another process has discarded is not reopened without its event', async () => {
  const { owner, other, letter } = await openWithLetter()
  const own = only(await owner.letters(0))
  await other.settle(letter, { reason: 'discarded' })
  await owner.quiet()

  const kept = await owner.settle(own, reopened)

  expect(kept?.amended?.state).toBe('elsewhere')
  expect(await owner.take()).toEqual([])
})

test('a delivery whose call ends while it is given a row leaves none', async () => {
  const log = new Log()
  const member = await start(log, [0])
  const record = member.route(1)

  const kept = await Promise.all([member.settle(record, { state: 'running', reason: '' }), member.settle(record, ok)])
  member.kill()

  expect(kept).toEqual([undefined, undefined])
  expect(await (await start(log, [0])).take()).toEqual([])
})
