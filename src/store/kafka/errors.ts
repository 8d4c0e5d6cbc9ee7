import { messageOf } from '../../base/errors.ts'

/** Errors that the next try would meet again, whatever becomes of the brokers; some of them because of the record itself. */
const tooLarge: readonly string[] = ['MESSAGE_TOO_LARGE', 'RECORD_LIST_TOO_LARGE']
const ofRecord: readonly string[] = [...tooLarge, 'INVALID_RECORD', 'INVALID_TIMESTAMP', 'INVALID_TOPIC_EXCEPTION']
const hopeless: readonly string[] = [...ofRecord, 'TOPIC_AUTHORIZATION_FAILED']

/** As long as too few brokers keep up. */
const starved: readonly string[] = ['NOT_ENOUGH_REPLICAS', 'NOT_ENOUGH_REPLICAS_AFTER_APPEND']

/** The next try would be refused too; the message says why, and how to mend it. */
export class RefusedError extends Error {
  /** The record is not at fault. */
  readonly isOurs: boolean

  constructor(cause: unknown, topic: string) {
    super(explain(cause, topic), { cause })
    this.name = 'RefusedError'
    this.isOurs = !ofRecord.includes(typeOf(cause))
  }
}

/** As a broker would say it. */
export function tooLargeFor(topic: string): RefusedError {
  return new RefusedError({ type: 'MESSAGE_TOO_LARGE' }, topic)
}

/** As a broker would say it of its own. */
export function reservedFor(topic: string): RefusedError {
  return new RefusedError({ type: 'INVALID_TOPIC_EXCEPTION' }, topic)
}

/** Of the partitions that an event may be written to. */
export function leaderlessFor(topic: string): RefusedError {
  return new RefusedError({ type: 'LEADER_NOT_AVAILABLE' }, topic)
}

/** As a broker would say it. */
export function noPartition(topic: string, partition: number): Error {
  return new Error(`no broker knows of partition ${partition} of ${topic}`, {
    cause: { type: 'UNKNOWN_TOPIC_OR_PARTITION' },
  })
}

export function isHopeless(error: unknown): boolean {
  return hopeless.includes(typeOf(error))
}

export function isTooLarge(error: unknown): boolean {
  return tooLarge.includes(typeOf(error))
}

/** Its partition takes nothing, and others do. */
export function isStarved(error: unknown): boolean {
  return starved.includes(typeOf(error))
}

/** Kafka's name of the error, or of the first where they are several; empty where it has none. */
export function typeOf(error: unknown): string {
  const first = firstOf(error)
  if (typeof first !== 'object' || first === null) return ''
  if ('type' in first && typeof first.type === 'string') return first.type
  return 'cause' in first ? typeOf(first.cause) : ''
}

/** In a sentence that says how to mend it, where that is known. */
export function explain(error: unknown, topic: string): string {
  if (isTooLarge(error))
    return `it is larger than max.message.bytes of the topic ${topic} allows; raise it there, or lower intake.max_body`
  if (typeOf(error) === 'TOPIC_AUTHORIZATION_FAILED')
    return `Kafka does not allow this user to write to ${topic}; grant it CREATE, WRITE and DESCRIBE there`
  if (typeOf(error) === 'INVALID_TOPIC_EXCEPTION')
    return `the topic ${topic} cannot hold events: it is the service's own or Kafka's, or differs from another in . and _ alone; give the stream another name`
  if (typeOf(error) === 'LEADER_NOT_AVAILABLE')
    return `a partition of the topic ${topic} has no leader: all brokers that have it are away, or have fallen behind`
  if (isStarved(error))
    return `a partition of the topic ${topic} has fewer replicas in sync than its min.insync.replicas asks for: brokers that have it are away, or have fallen behind`
  return messageOf(firstOf(error))
}

function firstOf(error: unknown): unknown {
  if (typeof error !== 'object' || error === null || !('errors' in error)) return error
  return Array.isArray(error.errors) ? error.errors[0] : error
}
