import { type JsonObject, metaOf } from '../../event/event.ts'

/** Most keys are so short that their bytes need no memory of their own. */
const scratch = Buffer.alloc(1_024)
const utf8AtMost = 3

/** Kafka's own hash of a key (murmur2, as in its Java client), so that other producers can choose the same partitions. */
export function murmur2(text: string): number {
  const bytes = text.length * utf8AtMost > scratch.length ? Buffer.from(text, 'utf8') : scratch
  const length = bytes === scratch ? scratch.write(text) : bytes.length
  const byte = (at: number) => bytes[at] ?? 0
  const multiply = 0x5bd1e995
  const blocks = length & ~3
  let hash = 0x9747b28c ^ length
  for (let at = 0; at < blocks; at += 4) {
    let block = byte(at) | (byte(at + 1) << 8) | (byte(at + 2) << 16) | (byte(at + 3) << 24)
    block = Math.imul(block, multiply)
    block = Math.imul(block ^ (block >>> 24), multiply)
    hash = Math.imul(hash, multiply) ^ block
  }
  const left = length - blocks
  if (left >= 3) hash ^= byte(blocks + 2) << 16
  if (left >= 2) hash ^= byte(blocks + 1) << 8
  if (left >= 1) hash = Math.imul(hash ^ byte(blocks), multiply)
  hash = Math.imul(hash ^ (hash >>> 13), multiply)
  return (hash ^ (hash >>> 15)) >>> 0
}

export function partitionOf(key: string, partitions: number): number {
  return (murmur2(key) & 0x7fffffff) % partitions
}

/**
 * By default what one wiki says of one page keeps its order: wiki and page, or for a job its `sha1`. A job's `meta.uri` is a
 * placeholder, the same for all of a wiki. Undefined where the event names nothing: then any partition will do.
 */
export function defaultPartitionKey(message: JsonObject): string | undefined {
  const meta = metaOf(message)
  const wiki = first(message.database, message.wiki_id, message.wiki, meta?.domain)
  const isJob = message.type !== undefined && message.params !== undefined
  const page = objectOf(message.page)
  const about = isJob
    ? first(message.sha1)
    : first(message.page_id, page?.page_id, message.page_title, page?.page_title, meta?.uri)
  return about === undefined ? undefined : `${wiki ?? ''}\u001f${about}`
}

function first(...values: readonly unknown[]): string | undefined {
  const found = values.find((value) => typeof value === 'string' || typeof value === 'number')
  return found === undefined ? undefined : String(found)
}

function objectOf(value: unknown): JsonObject | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : undefined
}
