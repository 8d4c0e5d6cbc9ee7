/** Any value that JSON can say. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }
export type JsonObject = { readonly [key: string]: Json }

/** An event that was checked and may be stored. */
export interface NewEvent {
  readonly stream: string
  /** Exactly as received. MediaWiki signs jobs; a re-encoded body is refused. May be a view of a larger buffer. */
  readonly bytes: Uint8Array
  /** The same, parsed. Read only: it is shared. */
  readonly message: JsonObject
}

/** An event in the log: its bytes, and what we know beside them. */
export interface StreamRecord {
  /** Ours, a UUIDv7. The producer's is `meta.id`; two records may share that one. */
  readonly id: string
  readonly stream: string
  /** When it was accepted, in ms by our clock. */
  readonly accepted: number
  readonly bytes: Uint8Array
  /**
   * The bytes, parsed, with `meta.id` and `meta.dt` filled in from the envelope where the producer left them out; parsed
   * when first asked for. Undefined where they are not a JSON object (other producers of a shared log may write anything).
   */
  readonly message: JsonObject | undefined
}

/** Event time: the earlier of `meta.dt` and acceptance, in ms. A clock that runs ahead must not delay anything. */
export function eventTime(record: StreamRecord): number {
  const dt = metaOf(record.message)?.dt
  const said = typeof dt === 'string' ? Date.parse(dt) : Number.NaN
  return Number.isNaN(said) ? record.accepted : Math.min(said, record.accepted)
}

/** Undefined where they are not a JSON object: other producers of a log may write anything. */
export function parseMessage(bytes: Uint8Array): JsonObject | undefined {
  try {
    const buffer = bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const value: Json = JSON.parse(buffer.toString('utf8'))
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : undefined
  } catch {
    return undefined
  }
}

/** The producer's id of an event; undefined where it gave none. */
export function metaIdOf(bytes: Uint8Array): string | undefined {
  const id = metaOf(parseMessage(bytes))?.id
  return typeof id === 'string' ? id : undefined
}

/** The producer's `meta.id` of a record, if there is one; read from what is parsed already. */
export function givenIdOf({ id, message }: StreamRecord): string | undefined {
  const given = metaOf(message)?.id
  return typeof given === 'string' && given !== id ? given : undefined
}

export function metaOf(message: JsonObject | undefined): JsonObject | undefined {
  const meta = message?.meta
  return typeof meta === 'object' && meta !== null && !Array.isArray(meta) ? (meta as JsonObject) : undefined
}

/** A view of `message` in which `meta.id` and `meta.dt` are present. The given object is not changed. */
export function withEnvelope(message: JsonObject, id: string, accepted: number): JsonObject {
  const meta = metaOf(message)
  if (meta?.id !== undefined && meta.dt !== undefined) return message
  return {
    ...message,
    meta: { id, dt: new Date(accepted).toISOString(), ...meta },
  }
}
