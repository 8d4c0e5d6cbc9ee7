import type { FetchedMessage } from './client.ts'
import { type KeyValue, pack } from './packed.ts'
import type { Reader } from './reader.ts'
import { isClaim, ownerOf } from './row.ts'
import type { ShardThread } from './shard-protocol.ts'

export interface RootsTopicParts {
  readonly topic: string
  readonly partitions: number
  readonly folder: string
  readonly thread: ShardThread
  readonly reader: Reader
  broken(error: unknown): void
}

/**
 * Hears what the owners of all partitions of the work tell of root events: each writes into the partition with the number of
 * its own, and what counts there is decided as in the work topic.
 */
export class RootsTopic {
  readonly #parts: RootsTopicParts
  /** By partition: who claimed it last. */
  readonly #owners = new Map<number, string | undefined>()

  constructor(parts: RootsTopicParts) {
    this.#parts = parts
  }

  start(): void {
    const { topic, partitions, reader } = this.#parts
    for (let partition = 0; partition < partitions; partition += 1)
      reader.read(topic, partition, 0, (messages) => this.#heard(partition, messages))
  }

  #heard(partition: number, messages: readonly FetchedMessage[]): void {
    const records: KeyValue[] = []
    for (const message of messages) {
      const owner = ownerOf(message)
      if (isClaim(message)) this.#owners.set(partition, owner)
      else if (message.key !== null && owner === (this.#owners.get(partition) ?? owner))
        records.push({ key: message.key, value: message.value })
    }
    if (records.length === 0) return
    const { topic, folder, thread, reader, broken } = this.#parts
    reader.pause(topic, partition)
    const heard = { partition, folder, records: pack(records) }
    thread.ask('heardRoots', heard).then(() => reader.resume(topic, partition), broken)
  }
}
