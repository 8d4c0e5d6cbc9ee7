import { type JsonObject, metaOf } from '../../event/event.ts'

/** Kafka's own hash of a key (murmur2, as in its Java client), so that other producers can choose the same partitions. */
export function murmur2(text: string): number {
  const bytes = Buffer.from(text, 'utf8')
  const multiply = 0x5bd1e995
  const blocks = bytes.length & ~3
  let hash = 0x9747b28c ^ bytes.length
  for (let at = 0; at < blocks; at += 4) {
    let block = Math.imul(bytes.readInt32LE(at), multiply)
    block = Math.imul(block ^ (block >>> 24), multiply)
    hash = Math.imul(hash, multiply) ^ block
  }
  const left = bytes.length - blocks
  if (left >= 3) hash ^= (bytes[blocks + 2] ?? 0) << 16
  if (left >= 2) hash ^= (bytes[blocks + 1] ?? 0) << 8
  if (left >= 1) hash = Math.imul(hash ^ (bytes[blocks] ?? 0), multiply)
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
