import { successKeptMs } from '../tables/starts.ts'
import type { Outgoing } from './batch-sender.ts'
import type { Reader } from './reader.ts'
import { parseJson } from './row.ts'
import { isRememberedBriefly, type KeyEnd, type KeyStart, type ShardThread } from './shard-protocol.ts'

export interface KeysTopicParts {
  readonly topic: string
  readonly thread: ShardThread
  readonly reader: Reader
}

/** Of the lines of one record, in characters. */
const lengthAtMost = 131_072
const askedAtMost = 4

/**
 * What is remembered of keys for an hour, many in one record: a call of each that ended well and never had a row. Whoever
 * writes it says what was so; a later call of a key holds.
 */
export class KeysTopic {
  readonly #parts: KeysTopicParts

  constructor(parts: KeysTopicParts) {
    this.#parts = parts
  }

  /** `places`: of the ends, in their order. */
  format(partition: number, ends: readonly KeyEnd[], places: readonly number[]): Outgoing[] {
    const records: Outgoing[] = []
    let lines: string[] = []
    let length = 0
    const close = () => {
      if (lines.length > 0)
        records.push({ topic: this.#parts.topic, partition, key: null, value: Buffer.from(lines.join('\n')) })
      lines = []
      length = 0
    }
    for (const [index, end] of ends.entries()) {
      if (!isRememberedBriefly(end)) continue
      const line = formatStart(end, places[index] ?? 0)
      if (length + line.length > lengthAtMost) close()
      lines.push(line)
      length += line.length
    }
    close()
    return records
  }

  /** Resolves when the thread has all that is remembered of a partition's keys. `now`: in ms. */
  async restore(partition: number, now: number): Promise<void> {
    const { topic, thread, reader } = this.#parts
    const from = await reader.offsetAt(topic, partition, now - successKeptMs)
    const failures: unknown[] = []
    const asked: Promise<void>[] = []
    let open = 0
    await reader.readToEnd(topic, partition, from, (messages) => {
      const lines = messages.flatMap(({ value }) => value?.toString().split('\n') ?? [])
      open += 1
      if (open === askedAtMost) reader.pause(topic, partition)
      const answered = () => {
        open -= 1
        if (open === askedAtMost - 1) reader.resume(topic, partition)
      }
      const starts = lines.flatMap((line) => parseStart(line) ?? [])
      const remembered = thread.ask('remember', { partition, starts }).then(answered, (error: unknown) => {
        failures.push(error)
        answered()
      })
      asked.push(remembered)
    })
    await Promise.all(asked)
    if (failures.length > 0) throw failures[0]
  }
}

/** A KeyStart. */
export function formatStart({ rule, key, hash, began, at, starter }: KeyEnd, pos: number): string {
  const numbers = [pos, began, at, hash].join()
  return `[${JSON.stringify(rule)},${JSON.stringify(key)},${numbers},${starter}]`
}

/** Undefined for what is not ours. */
export function parseStart(line: string): KeyStart | undefined {
  const found = parseJson(line)
  if (!Array.isArray(found)) return undefined
  const [rule, key, pos, began, at, hash, starter]: unknown[] = found
  if (typeof rule !== 'string' || typeof key !== 'string' || typeof starter !== 'object' || starter === null)
    return undefined
  if (typeof pos !== 'number' || typeof began !== 'number' || typeof at !== 'number' || typeof hash !== 'number')
    return undefined
  return { rule, key, pos, began, at, hash, starter: JSON.stringify(starter) }
}
