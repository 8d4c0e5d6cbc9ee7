import type { Kafka } from 'kafkajs'
import { metaIdOf } from '../../event/event.ts'
import type { Within } from '../store.ts'
import { acceptedOf, eventIdOf, KafkaRecord, offsetOf } from './kafka-record.ts'
import type { Reader } from './reader.ts'
import type { Origin } from './row.ts'
import { type Topics, withAdmin } from './topics.ts'

const foundAtMost = 100

export interface SearchParts {
  readonly kafka: Kafka
  /** One that reads nothing else of these topics. */
  readonly reader: Reader
  readonly topics: Topics
}

/**
 * Looks for an event where it lies: the journal says nothing of what no rule matched. Our own id tells its place; for
 * another, all that was accepted since then is read. Newest first.
 */
export async function searchStream(parts: SearchParts, id: string, within: Within): Promise<readonly KafkaRecord[]> {
  const { kafka, reader, topics } = parts
  const found: KafkaRecord[] = []
  const add = (time: number, origin: Origin, value: Uint8Array) => {
    const event = { id: eventIdOf(time, origin), stream: within.stream, accepted: time, origin }
    found.push(new KafkaRecord(event, Uint8Array.from(value), { partition: origin[1], isLost: true }))
  }
  const accepted = acceptedOf(id)
  for (const [topic, { count }] of await reader.topics()) {
    if (topics.streamOf(topic) !== within.stream) continue
    let isOurs = false
    for (let partition = 0; accepted !== undefined && partition < count; partition += 1) {
      const origin = [topic, partition, offsetOf(id)] as const
      if (eventIdOf(accepted, origin) !== id.toLowerCase()) continue
      isOurs = true
      await reader.one(topic, partition, origin[2], (value, time) => {
        if (eventIdOf(time, origin) === id.toLowerCase()) add(time, origin, value)
      })
    }
    // A producer's may be of the same version.
    if (isOurs) continue
    const offsets = await withAdmin(kafka, (admin) => admin.fetchTopicOffsetsByTimestamp(topic, within.since))
    for (const { partition, offset } of offsets) {
      await reader.readToEnd(topic, partition, Number(offset), (messages) => {
        for (const { offset, timestamp, value } of messages) {
          // A record is searched as text first: most are others.
          if (value?.includes(id) !== true || metaIdOf(value) !== id) continue
          add(Number(timestamp), [topic, partition, Number(offset)], value)
        }
      })
    }
  }
  return found.sort((a, b) => b.accepted - a.accepted).slice(0, foundAtMost)
}
