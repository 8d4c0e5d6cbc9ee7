/** Keys and values of records in one buffer, so that it passes between threads without being copied. */
export interface Packed {
  /** Per record: length of the key, length of the value or -1 for none. */
  readonly lengths: Float64Array<ArrayBuffer>
  readonly payloads: ArrayBuffer
}

export interface KeyValue {
  readonly key: Uint8Array
  readonly value: Uint8Array | null
}

export function pack(records: readonly KeyValue[]): Packed {
  let bytes = 0
  for (const { key, value } of records) bytes += key.length + (value?.length ?? 0)
  const lengths = new Float64Array(records.length * 2)
  const payloads = new Uint8Array(bytes)
  let offset = 0
  for (const [index, { key, value }] of records.entries()) {
    lengths[index * 2] = key.length
    lengths[index * 2 + 1] = value === null ? -1 : value.length
    payloads.set(key, offset)
    offset += key.length
    if (value === null) continue
    payloads.set(value, offset)
    offset += value.length
  }
  return { lengths, payloads: payloads.buffer }
}

/** Views of the one buffer. */
export function unpack({ lengths, payloads }: Packed): { readonly key: Buffer; readonly value: Buffer | null }[] {
  const records: { key: Buffer; value: Buffer | null }[] = []
  let offset = 0
  const next = (length: number) => {
    const view = Buffer.from(payloads, offset, length)
    offset += length
    return view
  }
  for (let at = 0; at < lengths.length; at += 2) {
    const key = next(lengths[at] ?? 0)
    const length = lengths[at + 1] ?? -1
    records.push({ key, value: length < 0 ? null : next(length) })
  }
  return records
}
