import { type JsonObject, metaOf, parseMessage, type StreamRecord, withEnvelope } from '../../event/event.ts'
import type { Standing } from '../store.ts'
import { murmur2 } from './partition.ts'
import type { Progress } from './position.ts'
import type { Origin } from './row.ts'

/** A partition of the work that is, or was, ours. */
export interface Owned {
  readonly partition: number
  /** Another process's now: for good, since who has it again has another one of these. */
  isLost: boolean
}

/** A partition of a stream that is read by whoever owns a partition of the work. */
export interface Source {
  readonly topic: string
  readonly stream: string
  readonly partition: number
  readonly owned: Owned
  readonly progress: Progress
  /** Short lives in a row, with this one; 0 once it is none. */
  lives: number
  /** Offset of what is written next, as the broker last said; undefined until it has. */
  end: number | undefined
}

/** An event, from its stream or with a row. What costs something is made when it is first asked for. */
export class KafkaRecord implements StreamRecord {
  readonly id: string
  readonly stream: string
  readonly accepted: number
  readonly bytes: Uint8Array
  readonly origin: Origin
  /** Where it was read; undefined where it comes from its row. */
  readonly source: Source | undefined
  /** Where it lies there. */
  readonly offset: number
  /** For which rule it was handed over; undefined where it comes from its stream. */
  readonly rule: string | undefined
  /** And how it stood to others there. */
  readonly standing: Standing | undefined
  readonly owned: Owned
  /** Settlements that have to be kept before it is finished, and the router; where it came from its stream. */
  holds = 1
  isRouted = false
  /** Its position has passed on. */
  isFinished = false
  /** Rules that are through with it, or have a row of it: an owner before us has told so. */
  known: ReadonlySet<string> | undefined
  /** By rule: the partition that was given a row of it. */
  rows: Map<string, Owned> | undefined
  #message: JsonObject | undefined
  #isRead = false

  constructor(
    event: { readonly id: string; readonly stream: string; readonly accepted: number; readonly origin: Origin },
    bytes: Uint8Array,
    owned: Owned,
    source?: Source,
    handed?: { readonly offset: number; readonly rule: string; readonly standing: Standing | undefined },
  ) {
    this.id = event.id
    this.stream = event.stream
    this.accepted = event.accepted
    this.origin = event.origin
    this.bytes = bytes
    this.owned = owned
    this.source = source
    this.offset = handed?.offset ?? event.origin[2]
    this.rule = handed?.rule
    this.standing = handed?.standing
  }

  get message(): JsonObject | undefined {
    if (!this.#isRead) {
      this.#isRead = true
      const message = parseMessage(this.bytes)
      const meta = metaOf(message)
      const isComplete = message === undefined || (meta?.id !== undefined && meta.dt !== undefined)
      this.#message = isComplete ? message : withEnvelope(message, this.id, this.accepted)
    }
    return this.#message
  }
}

/**
 * Ours, of a record in its stream: a UUID of version 7 made of its time and place, so that whoever reads it finds the same
 * one. `time`: the record's, in ms.
 */
export function eventIdOf(time: number, [topic, partition, offset]: Origin): string {
  const stamp = Math.max(0, Math.min(time, 2 ** 48 - 1))
    .toString(16)
    .padStart(12, '0')
  const low = (offset % 2 ** 48).toString(16).padStart(12, '0')
  if (topic !== lastPlace.topic || partition !== lastPlace.partition) lastPlace = placeOf(topic, partition)
  return `${stamp.slice(0, 8)}-${stamp.slice(8)}-${lastPlace.bits}-${low}`
}

interface Place {
  readonly topic: string
  readonly partition: number
  /** As an id has them. */
  readonly bits: string
}

/** Records come many of one partition together. */
let lastPlace = placeOf('', 0)

function placeOf(topic: string, partition: number): Place {
  const place = `${topic}/${partition}`
  const high = (murmur2(place) & 0xfff).toString(16).padStart(3, '0')
  const middle = (0x8000 + (murmur2(`${place}/`) & 0x3fff)).toString(16)
  return { topic, partition, bits: `7${high}-${middle}` }
}

/** Of an event with such an id. */
export function offsetOf(id: string): number {
  return Number.parseInt(id.slice(-12), 16)
}

/** When the event of such an id was accepted, in ms; undefined for an id that is not ours. */
export function acceptedOf(id: string): number | undefined {
  const found = /^([0-9a-f]{8})-([0-9a-f]{4})-7/.exec(id.toLowerCase())
  return found === null ? undefined : Number.parseInt(`${found[1]}${found[2]}`, 16)
}
