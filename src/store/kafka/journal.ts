import type { Kafka } from 'kafkajs'
import type { DeliveryEntry } from '../store.ts'
import type { Outgoing } from './batch-sender.ts'
import type { FetchedMessage } from './client.ts'
import { acceptedOf } from './kafka-record.ts'
import { partitionOf } from './partition.ts'
import type { Reader } from './reader.ts'
import { parseJson } from './row.ts'
import type { Told } from './shard-protocol.ts'
import { withAdmin } from './topics.ts'

const foundAtMost = 100
const clocksApartMs = 60_000
/** Kafka's own limit for what is written with a time to come. */
const aheadAtMostMs = 3_600_000
const coversAtMost = 100
/** Of the lines of one record, in characters: far below what a topic takes, whatever they are. */
const lengthAtMost = 131_072

/** Deliveries told in few records: one record each would cost more than their calls. */
export function formatJournal(topic: string, partitions: number, told: readonly Told[]): Outgoing[] {
  const records: { readonly partition: number; readonly lines: string[]; length: number }[] = []
  const open = new Map<number, (typeof records)[number]>()
  for (const one of told) {
    const partition = partitionOf(one.metaId ?? one.event.id, partitions)
    const line = JSON.stringify(one)
    const found = open.get(partition)
    if (found === undefined || found.length + line.length > lengthAtMost) {
      const record = { partition, lines: [line], length: line.length }
      open.set(partition, record)
      records.push(record)
    } else {
      found.lines.push(line)
      found.length += line.length
    }
  }
  return records.map(({ partition, lines }) => {
    return { topic, partition, key: null, value: Buffer.from(lines.join('\n')) }
  })
}

export interface Found {
  readonly event: Told['event']
  readonly metaId: string | undefined
  readonly deliveries: readonly DeliveryEntry[]
}

/** What became of deliveries, as the journal topic tells it. */
export class Journal {
  readonly #kafka: Kafka
  readonly #reader: Reader
  readonly #topic: string
  readonly #partitions: number

  /** `reader`: one that reads nothing else of the topic. */
  constructor(kafka: Kafka, reader: Reader, topic: string, partitions: number) {
    this.#kafka = kafka
    this.#reader = reader
    this.#topic = topic
    this.#partitions = partitions
  }

  /**
   * By our id or the producer's. Reads what was told since the event was accepted, where the id says when; else all. By the
   * clock of a producer that may have been later than by ours.
   */
  async find(id: string): Promise<readonly Found[]> {
    const time = acceptedOf(id)
    if (time === undefined) return collect(await this.#tellOf(id, [partitionOf(id, this.#partitions)], 0))
    const partitions = Array.from({ length: this.#partitions }, (_, index) => index)
    const since = time - clocksApartMs
    const told = await this.#tellOf(id, partitions, since)
    const accepted = told.length === 0 ? time - aheadAtMostMs : Math.min(...told.map(({ event }) => event.accepted))
    return collect(accepted >= since ? told : await this.#tellOf(id, partitions, accepted - clocksApartMs))
  }

  async #tellOf(id: string, partitions: readonly number[], since: number): Promise<readonly Told[]> {
    const told: Told[] = []
    for (const partition of partitions) {
      const from = since > 0 ? await this.#offsetAt(partition, since) : 0
      await this.#reader.readToEnd(this.#topic, partition, from, (messages) => {
        for (const { value } of messages) told.push(...linesWith(value, id))
      })
    }
    return told.filter(({ metaId, event }) => metaId === id || event.id === id)
  }

  /**
   * Which rules are done with which events, by our id, among what was told since `since`. What an owner before us has done must
   * not be done again, though its position was not committed any more. What else was told may not have become true: a row
   * and the word of it are written to different partitions.
   */
  async ended(since: number): Promise<Map<string, Set<string>>> {
    const ended = new Map<string, Set<string>>()
    const offsets = await withAdmin(this.#kafka, (admin) => admin.fetchTopicOffsetsByTimestamp(this.#topic, since))
    for (const { partition, offset } of offsets) {
      await this.#reader.readToEnd(this.#topic, partition, Number(offset), (messages) => {
        for (const { value } of messages) {
          for (const line of value?.toString().split('\n') ?? []) {
            const told = parseLine(line)
            if (told !== undefined && 'state' in told && told.state === 'done') addTo(ended, told.event.id, told.rule)
          }
        }
      })
    }
    return ended
  }

  async #offsetAt(partition: number, time: number): Promise<number> {
    const offsets = await withAdmin(this.#kafka, (admin) => admin.fetchTopicOffsetsByTimestamp(this.#topic, time))
    return Number(offsets.find((one) => one.partition === partition)?.offset ?? 0)
  }
}

export function addTo(sets: Map<string, Set<string>>, name: string, one: string): void {
  sets.set(name, (sets.get(name) ?? new Set()).add(one))
}

/** A record is searched as text first: most have nothing to do with it. */
function linesWith(value: FetchedMessage['value'], id: string): Told[] {
  const asWritten = JSON.stringify(id)
  if (value === null || !value.includes(asWritten)) return []
  return value
    .toString()
    .split('\n')
    .filter((line) => line.includes(asWritten))
    .flatMap((line) => parseLine(line) ?? [])
}

/** Undefined for what is not ours. */
function parseLine(line: string): Told | undefined {
  const told = parseJson(line)
  return isTold(told) ? told : undefined
}

/** As far as one has to look to tell it from what formatJournal did not write. */
function isTold(told: unknown): told is Told {
  if (!isObject(told) || typeof told.rule !== 'string' || !isObject(told.event)) return false
  const { id, accepted, origin } = told.event
  if (typeof id !== 'string' || typeof accepted !== 'number' || !Array.isArray(origin)) return false
  if ('state' in told) return typeof told.state === 'string' && Array.isArray(told.attempts)
  return isObject(told.covers) && typeof told.covers.count === 'number' && Array.isArray(told.covers.ids)
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

interface Story {
  last: Extract<Told, { state: string }> | undefined
  readonly covers: { count: number; ids: string[] }
}

/** The last that was told of each delivery holds: all that is told of one event lies in one partition. Newest events first. */
function collect(told: readonly Told[]): Found[] {
  const events = new Map<string, { readonly about: Told; readonly stories: Map<string, Story> }>()
  for (const one of told) {
    const found = events.get(one.event.id) ?? { about: one, stories: new Map<string, Story>() }
    events.set(one.event.id, found)
    const story = found.stories.get(one.rule) ?? { last: undefined, covers: { count: 0, ids: [] } }
    found.stories.set(one.rule, story)
    // Who takes it up may have told of it sooner than who handed it over.
    if ('state' in one) story.last = one.isHandedOver === true ? (story.last ?? one) : one
    else {
      story.covers.count += one.covers.count
      story.covers.ids.push(...one.covers.ids.slice(0, coversAtMost - story.covers.ids.length))
    }
  }
  return [...events.values()]
    .sort(
      (a, b) => b.about.event.accepted - a.about.event.accepted || b.about.event.origin[2] - a.about.event.origin[2],
    )
    .slice(0, foundAtMost)
    .map(({ about: { event, metaId }, stories }) => ({
      event,
      metaId,
      deliveries: [...stories.values()].flatMap(({ last, covers }) =>
        last === undefined ? [] : [entryOf(last, covers)],
      ),
    }))
}

function entryOf(told: Extract<Told, { state: string }>, covers: DeliveryEntry['covers']): DeliveryEntry {
  const { event, metaId, rule, revision, state, reason, at, until, attempts, earlierAttempts = 0, coveredBy } = told
  return {
    id: `${event.id}/${rule}`,
    rule,
    revision,
    state,
    reason,
    at,
    next: until,
    attempts,
    earlierAttempts,
    eventId: event.id,
    metaId,
    stream: event.stream,
    accepted: event.accepted,
    coveredBy,
    covers,
  }
}
