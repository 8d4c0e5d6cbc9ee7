import fc from 'fast-check'
import { expect, test } from 'vitest'
import { eventIdOf, type KafkaRecord, type Owned, type Source } from '../../src/store/kafka/kafka-record.ts'
import type { Told } from '../../src/store/kafka/shard-protocol.ts'
import { type Consequences, type Key, noProgress, type Progress, type Settlement } from '../../src/store/store.ts'
import { seed } from '../support/seed.ts'
import { until } from '../support/until.ts'
import { keyIn, Log, Member, partitions, type Taken, topics } from './kafka-log.ts'
import { anAttempt, anEvent, lane, stream } from './world.ts'

/*
 * Two processes that share the work, whatever becomes of their writes, of what they read, and of them.
 */

const runs = Number(process.env.ROUNDS ?? 1) * 3
/** Of the work, and of the stream. */
const all = [0, 1]
const journalPartitions = Array.from({ length: partitions }, (_, partition) => partition)
const keys = all.map(keyIn)
/** A partition that was claimed late by another process is claimed once more by then. */
const claimedAgainMs = 5_000
/** What was in memory for so long gets a row. */
const inMemoryAtMostMs = 1_000

type Step =
  | { readonly kind: 'post'; readonly partition: number; readonly key: number; readonly count: number }
  | { readonly kind: 'run'; readonly member: number; readonly fails: boolean; readonly lasts: boolean }
  | { readonly kind: 'write'; readonly member: number; readonly how: Member['writes'] }
  | { readonly kind: 'acknowledge'; readonly member: number }
  | { readonly kind: 'stall'; readonly member: number; readonly partition: number }
  | { readonly kind: 'unstall'; readonly member: number }
  | { readonly kind: 'assign'; readonly partition: number; readonly member: number }
  | { readonly kind: 'hear'; readonly member: number }
  | { readonly kind: 'commit' }
  | { readonly kind: 'shelve'; readonly member: number }
  | { readonly kind: 'wait'; readonly member: number }
  | { readonly kind: 'kill'; readonly member: number; readonly written: number }

function aStep(): fc.Arbitrary<Step> {
  const member = fc.integer({ min: 0, max: 1 })
  const partition = fc.constantFrom(...all)
  const is = <Kind extends Step['kind']>(kind: Kind) => fc.constant(kind)
  const how = fc.constantFrom<Member['writes']>('acknowledged', 'unacknowledged', 'held')
  const count = fc.integer({ min: 1, max: 3 })
  return fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: is('post'), partition, key: fc.constantFrom(...all), count }) },
    {
      weight: 6,
      arbitrary: fc.record({
        kind: is('run'),
        member,
        fails: fc.constantFrom(false, false, true),
        lasts: fc.boolean(),
      }),
    },
    { weight: 4, arbitrary: fc.record({ kind: is('write'), member, how }) },
    { weight: 2, arbitrary: fc.record({ kind: is('acknowledge'), member }) },
    { weight: 1, arbitrary: fc.record({ kind: is('stall'), member, partition }) },
    { weight: 1, arbitrary: fc.record({ kind: is('unstall'), member }) },
    { weight: 2, arbitrary: fc.record({ kind: is('assign'), partition, member }) },
    { weight: 3, arbitrary: fc.record({ kind: is('hear'), member }) },
    { weight: 2, arbitrary: fc.record({ kind: is('commit') }) },
    { weight: 1, arbitrary: fc.record({ kind: is('shelve'), member }) },
    { weight: 4, arbitrary: fc.record({ kind: is('wait'), member }) },
    { weight: 1, arbitrary: fc.record({ kind: is('kill'), member, written: fc.integer({ min: 0, max: 6 }) }) },
  )
}

interface Posted {
  readonly id: string
  readonly partition: number
  readonly accepted: number
  readonly key: string
  readonly bytes: Uint8Array
}

/** A delivery that queues, or runs. */
interface Delivery {
  readonly record: KafkaRecord
  readonly key: Key
  readonly progress: Progress
  /** Without one it is its first settlement that lets go of its event. */
  hasRow: boolean
  /** Undefined while it queues. */
  fails: boolean | undefined
}

/** What a process has in memory. */
class Memory {
  /** By key: who queues or runs without a row. */
  readonly held = new Map<string, Delivery>()
  /** By key: settlements that are not kept yet. */
  readonly settling = new Map<string, number>()
  /** Calls in flight. */
  readonly running = new Set<Delivery>()

  release(delivery: Delivery): void {
    if (this.held.get(delivery.key.text) === delivery) this.held.delete(delivery.key.text)
  }

  count(key: string, by: 1 | -1): void {
    const sum = (this.settling.get(key) ?? 0) + by
    if (sum === 0) this.settling.delete(key)
    else this.settling.set(key, sum)
  }
}

/** What a process reads of one partition of the stream, for as long as it owns it. */
interface Reading {
  source: Source | undefined
  known: ReadonlySet<string>
  next: number
}

class History {
  readonly calls: string[] = []
  readonly #log = new Log()
  readonly #mayRepeat: boolean
  readonly #turn: Key['turn']
  readonly #memories = new Map<Member, Memory>()
  readonly #posted: Posted[][] = all.map(() => [])
  readonly #committed = new Map<number, { readonly offset: number; readonly runs: string }>()
  readonly #members: Member[]
  readonly #killed: Member[] = []
  readonly #readings = new Map<Owned, Reading>()
  /** By partition: whose it is, as the group says. */
  readonly #owners = all.map((partition) => partition % 2)

  constructor(mayRepeat: boolean, turn: Key['turn']) {
    this.#mayRepeat = mayRepeat
    this.#turn = turn
    this.#members = all.map(() => this.#newMember())
  }

  get posted(): readonly Posted[] {
    return this.#posted.flat()
  }

  async do(step: Step): Promise<void> {
    if (step.kind === 'post') this.#post(step)
    else if (step.kind === 'assign') this.#owners[step.partition] = step.member
    else if (step.kind === 'commit') this.#commit()
    else await this.#doAt(step, this.#member(step.member))
    await new Promise(setImmediate)
    this.#readOn()
  }

  async #doAt(step: Exclude<Step, { kind: 'post' | 'assign' | 'commit' }>, member: Member): Promise<void> {
    switch (step.kind) {
      case 'run':
        await this.#run(member, step)
        return
      case 'write':
        member.writes = step.how
        return
      case 'acknowledge':
        member.acknowledge()
        return
      case 'stall':
        member.stalled.add(step.partition)
        return
      case 'unstall':
        member.unstall()
        return
      case 'hear':
        this.#hear(step.member)
        return
      case 'shelve':
        this.#log.clock.wind(inMemoryAtMostMs)
        for (const delivery of this.#memory(member).held.values()) this.#giveRow(member, delivery)
        return
      case 'wait':
        await member.quiet()
        return
      case 'kill':
        await this.#kill(step.member, step.written)
    }
  }

  /** It dies while it tells what its calls came to; so many records of that are written. */
  async #kill(index: number, written: number): Promise<void> {
    const member = this.#member(index)
    member.writes = 'held'
    await this.#run(member, { fails: false, lasts: false })
    await member.quiet()
    for (const record of member.held.slice(0, written)) this.#log.append(record)
    member.kill()
    this.#killed.push(member)
    this.#members[index] = this.#newMember()
  }

  #newMember(): Member {
    const member = new Member(this.#log)
    member.commits = false
    member.whenHanded = (record) => {
      member.work.routed(record, 1)
      this.#admit(member, record, record.standing?.key?.text ?? '')
    }
    return member
  }

  #member(index: number): Member {
    const member = this.#members[index]
    if (member === undefined) throw new Error('there are two')
    return member
  }

  #memory(member: Member): Memory {
    let memory = this.#memories.get(member)
    if (memory === undefined) {
      memory = new Memory()
      this.#memories.set(member, memory)
    }
    return memory
  }

  #hear(index: number): void {
    this.#member(index).work.assigned(all.filter((partition) => this.#owners[partition] === index))
  }

  #post({ partition, key, count }: Extract<Step, { kind: 'post' }>): void {
    const list = this.#posted[partition] ?? []
    this.#log.clock.wind(1)
    const accepted = this.#log.clock.now()
    for (let left = count; left > 0; left -= 1) {
      const id = eventIdOf(accepted, [stream, partition, list.length])
      list.push({ id, partition, accepted, key: keys[key] ?? '', bytes: anEvent().bytes })
    }
  }

  /** Each reads what is new in the partitions that it owns. */
  #readOn(): void {
    for (const member of this.#members) {
      this.#dropLost(member)
      for (const partition of all) {
        const owned = member.work.ready(partition)
        if (owned === undefined) continue
        if (!this.#readings.has(owned)) void this.#begin(member, owned)
        this.#read(member, this.#readings.get(owned))
      }
    }
  }

  /** What the rows and the journal know is not settled once more. */
  async #begin(member: Member, owned: Owned): Promise<void> {
    const reading: Reading = { source: undefined, known: new Set(), next: 0 }
    this.#readings.set(owned, reading)
    const { partition } = owned
    const { offset, runs } = this.#committed.get(partition) ?? { offset: 0, runs: '' }
    const rows = await member.thread.ask('rowsOf', { partition, topic: stream, part: partition, from: offset })
    await member.writer.written()
    if (owned.isLost) return
    reading.known = new Set([...rows.map(({ id }) => id), ...this.#told()])
    reading.source = member.source(partition, offset, runs)
    reading.next = offset
    this.#read(member, reading)
  }

  #told(): string[] {
    const records = journalPartitions.flatMap((partition) => this.#log.read(topics.journal, partition))
    const lines = records.flatMap(({ value }) => String(value).split('\n'))
    return lines.flatMap((line) => {
      const told: Told = JSON.parse(line)
      return 'state' in told && told.state === 'done' ? [told.event.id] : []
    })
  }

  #read(member: Member, reading: Reading | undefined): void {
    const source = reading?.source
    if (source === undefined || reading === undefined || source.owned.isLost) return
    for (const { id, accepted, key, bytes } of this.#posted[source.partition]?.slice(reading.next) ?? []) {
      const offset = reading.next
      reading.next += 1
      if (source.progress.isFinished(offset)) source.progress.pass(offset)
      else if (reading.known.has(id)) member.route(offset, { rules: 0, source, accepted, bytes })
      else this.#admit(member, member.route(offset, { source, accepted, bytes }), key)
    }
  }

  /** Into memory, where its key is free, else into a row. */
  #admit(member: Member, record: KafkaRecord, text: string): void {
    const memory = this.#memory(member)
    const key: Key = { text, turn: this.#turn, windowMs: 0 }
    const delivery: Delivery = { record, key, progress: noProgress, hasRow: false, fails: undefined }
    const isFree = !memory.held.has(text) && !memory.settling.has(text)
    if (isFree && member.work.isKeyFree(record, lane.rule, key)) memory.held.set(text, delivery)
    else this.#shelve(member, delivery)
  }

  /** It waits in a row, behind who has its key in memory. */
  #shelve(member: Member, delivery: Delivery): void {
    const holder = this.#memory(member).held.get(delivery.key.text)
    if (holder !== undefined) this.#giveRow(member, holder)
    void this.#settle(member, delivery, { state: 'waiting', reason: 'slot' })
  }

  #giveRow(member: Member, delivery: Delivery): void {
    const isRunning = delivery.fails !== undefined
    void this.#settle(
      member,
      delivery,
      isRunning ? { state: 'running', reason: '' } : { state: 'waiting', reason: 'slot' },
    )
  }

  async #settle(member: Member, delivery: Delivery, part: Partial<Settlement>): Promise<Consequences | undefined> {
    const { record, key, progress, hasRow } = delivery
    const memory = this.#memory(member)
    memory.release(delivery)
    memory.count(key.text, 1)
    delivery.hasRow = true
    const kept = await member.settle(record, { standing: { key }, progress, releasesCursor: !hasRow, ...part })
    memory.count(key.text, -1)
    return kept
  }

  /** What is in flight goes on; what queues is another's to call. */
  #dropLost(member: Member): void {
    const memory = this.#memory(member)
    for (const delivery of memory.held.values()) if (delivery.record.owned.isLost) memory.release(delivery)
  }

  /** Calls in flight end, and others begin. `lasts`: those end another time. */
  async #run(member: Member, { fails, lasts }: { readonly fails: boolean; readonly lasts: boolean }): Promise<void> {
    const memory = this.#memory(member)
    this.#dropLost(member)
    for (const delivery of memory.running) this.#end(member, delivery)
    const queued = [...memory.held.values()]
    const begin = (delivery: Delivery) => void this.#begins(member, delivery, fails, lasts)
    for (const delivery of queued) begin(delivery)
    for (const taken of await member.take()) {
      const delivery = this.#given(taken)
      if (delivery === undefined) continue
      if (memory.held.has(delivery.key.text)) this.#shelve(member, delivery)
      else begin(delivery)
    }
  }

  #given({ record, standing, progress }: Taken): Delivery | undefined {
    const key = standing?.key
    if (record.owned.isLost || key === undefined) return undefined
    return { record, key, progress, hasRow: true, fails: undefined }
  }

  async #begins(member: Member, delivery: Delivery, fails: boolean, lasts: boolean): Promise<void> {
    if (!this.#mayRepeat) {
      const kept = await this.#settle(member, delivery, { state: 'running', reason: '', claimed: true })
      if (kept?.amended?.state === 'elsewhere') return
    }
    this.calls.push(delivery.record.id)
    delivery.fails = fails && this.#mayRepeat
    this.#memory(member).running.add(delivery)
    if (!lasts) this.#end(member, delivery)
  }

  #end(member: Member, delivery: Delivery): void {
    this.#memory(member).running.delete(delivery)
    const { progress, fails } = delivery
    const called = { attempts: [anAttempt()], progress: { ...progress, firstAttemptAt: 1 } }
    void this.#settle(member, delivery, fails === true ? { ...called, state: 'waiting', reason: 'retry' } : called)
  }

  #commit(): void {
    for (const { source } of this.#readings.values()) {
      if (source === undefined || source.owned.isLost) continue
      const owner = this.#owners[source.partition] ?? 0
      if (this.#member(owner).work.ready(source.partition) !== source.owned) continue
      const { offset, runs } = source.progress
      this.#committed.set(source.partition, { offset, runs })
    }
    for (const [partition, source] of this.#log.readers)
      if (this.#member(this.#owners[partition] ?? 0).work.ready(partition) === source.owned) this.#log.commit(source)
  }

  /** Nothing stands in the way any more: until nothing waits or runs, and all that was handed in is kept. */
  async end(): Promise<void> {
    for (const [index, member] of this.#members.entries()) {
      member.writes = 'acknowledged'
      member.unstall()
      this.#hear(index)
    }
    await until(
      'nothing is left to do',
      async () => {
        const { length } = this.#log
        this.#log.clock.wind(claimedAgainMs)
        const settle = async () => {
          for (const member of this.#members) {
            member.acknowledge()
            await member.quiet()
          }
        }
        await settle()
        this.#readOn()
        await settle()
        for (const member of this.#members) await this.#run(member, { fails: false, lasts: false })
        // What was written may be for another to read.
        return length === this.#log.length && this.#isDone()
      },
      10_000,
    )
    expect(this.#members.map(({ broken }) => broken)).toEqual([[], []])
    expect(this.#members.map(({ waiting }) => waiting)).toEqual([{}, {}])
  }

  async #isDone(): Promise<boolean> {
    const page = { rule: undefined, states: [0, 1], limit: 1, cursor: undefined }
    for (const member of this.#members) {
      const { held, running } = this.#memory(member)
      if (member.kept.includes(0) || held.size + running.size > 0) return false
      if ((await member.thread.ask('deliveries', page)).items.length > 0) return false
    }
    return all.every((partition) => {
      const owned = this.#member(this.#owners[partition] ?? 0).work.ready(partition)
      const reading = owned && this.#readings.get(owned)
      return reading?.source !== undefined && reading.next === this.#posted[partition]?.length
    })
  }

  /** How often each settlement was kept, of processes that live. */
  get kept(): readonly number[] {
    return this.#members.flatMap(({ kept }) => kept)
  }

  async dead(): Promise<readonly string[]> {
    const letters = await Promise.all(
      all.map((partition) => this.#member(this.#owners[partition] ?? 0).letters(partition)),
    )
    return letters.flat().map(({ id }) => id)
  }

  async close(): Promise<void> {
    await Promise.all([...this.#members, ...this.#killed].map((member) => member.end()))
  }
}

interface Kind {
  readonly mayRepeat: boolean
  readonly turn: Key['turn']
}

async function promise({ mayRepeat, turn }: Kind, expected: (history: History) => Promise<void> | void): Promise<void> {
  const steps = fc.array(aStep(), { minLength: 80, maxLength: 160, size: 'max' })
  await fc.assert(
    fc.asyncProperty(steps, async (steps) => {
      const history = new History(mayRepeat, turn)
      try {
        for (const index of [0, 1]) await history.do({ kind: 'hear', member: index })
        for (const step of steps) await history.do(step)
        await history.end()
        await expected(history)
      } finally {
        await history.close()
      }
    }),
    { ...seed, numRuns: runs, endOnFailure: true },
  )
}

/** Of events of one partition of the stream with one key: in which order they were called first. */
function firstCalls({ calls, posted }: History): Map<string, string[]> {
  const byKey = new Map<string, string[]>()
  for (const id of new Set(calls)) {
    const event = posted.find((one) => one.id === id)
    const name = `${event?.partition} ${event?.key}`
    byKey.set(name, [...(byKey.get(name) ?? []), id])
  }
  return byKey
}

test(
  'each event is called, in the order of its key, and each settlement is kept once',
  async () => {
    await promise({ mayRepeat: true, turn: 'oldest' }, (history) => {
      const { calls, posted, kept } = history
      expect(posted.filter(({ id }) => !calls.includes(id))).toEqual([])
      for (const ids of firstCalls(history).values()) expect(ids).toEqual([...ids].sort())
      expect(kept.filter((times) => times !== 1)).toEqual([])
    })
  },
  runs * 20_000,
)

test(
  'what must not be repeated is called once, or is dead',
  async () => {
    await promise({ mayRepeat: false, turn: 'oldest' }, async (history) => {
      const { calls, posted, kept } = history
      const dead = await history.dead()
      expect(calls.length).toBe(new Set(calls).size)
      expect(posted.filter(({ id }) => !calls.includes(id) && !dead.includes(id))).toEqual([])
      expect(kept.filter((times) => times !== 1)).toEqual([])
    })
  },
  runs * 20_000,
)

/** Last events of each partition of the stream with one key that are not among `seen`, nor is one of their key that is later. */
function unseen({ posted }: History, seen: readonly string[]): Posted[] {
  const lasts = new Map(posted.map((event) => [`${event.partition} ${event.key}`, event])).values()
  const found = posted.filter(({ id }) => seen.includes(id))
  const isCovered = (last: Posted) => found.some((one) => one.key === last.key && one.accepted > last.accepted)
  return [...lasts].filter((last) => !seen.includes(last.id) && !isCovered(last))
}

test(
  'the last event of each key is called, or one that is later, and each settlement is kept once',
  async () => {
    await promise({ mayRepeat: true, turn: 'newest' }, (history) => {
      const { calls, kept } = history
      expect(unseen(history, calls)).toEqual([])
      expect(kept.filter((times) => times !== 1)).toEqual([])
    })
  },
  runs * 20_000,
)

test(
  'what must not be repeated and is the last of its key is called, or one that is later, or is dead',
  async () => {
    await promise({ mayRepeat: false, turn: 'newest' }, async (history) => {
      const { calls, kept } = history
      const dead = await history.dead()
      expect(calls.length).toBe(new Set(calls).size)
      expect(unseen(history, [...calls, ...dead])).toEqual([])
      expect(kept.filter((times) => times !== 1)).toEqual([])
    })
  },
  runs * 20_000,
)
