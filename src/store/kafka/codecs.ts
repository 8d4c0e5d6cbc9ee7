import { decompress as unpackZstd } from 'fzstd'
import kafkajs from 'kafkajs'
import { messageOf } from '../../base/errors.ts'

/*
 * What other producers, or a topic's compression.type, have compressed: kafkajs knows gzip only. We compress nothing. No
 * checksum is compared: that of the whole batch was, by the broker that took it.
 */

export function registerCodecs(): void {
  // Node finds no such names in a module of kafkajs's kind.
  const { CompressionCodecs, CompressionTypes } = kafkajs
  CompressionCodecs[CompressionTypes.Snappy] = () => codecOf('snappy', unpackSnappy)
  CompressionCodecs[CompressionTypes.LZ4] = () => codecOf('lz4', unpackLz4)
  CompressionCodecs[CompressionTypes.ZSTD] = () => codecOf('zstd', unpackZstd)
}

function codecOf(name: string, unpack: (packed: Buffer) => Uint8Array) {
  return {
    async compress(): Promise<never> {
      throw new Error(`nothing is compressed with ${name} here`)
    },
    async decompress(packed: Buffer): Promise<Buffer> {
      try {
        const { buffer, byteOffset, byteLength } = unpack(packed)
        return Buffer.from(buffer, byteOffset, byteLength)
      } catch (cause) {
        const why = messageOf(cause)
        const remedy = 'if it is sound, set compression.type=gzip for what writes to this topic'
        throw new Error(`a batch that is compressed with ${name} cannot be decompressed (${why}); ${remedy}`, { cause })
      }
    },
  }
}

/** Of the frame that Java puts around blocks, each after its length; others write one block without it. */
const snappyFrame = Buffer.from([0x82, ...Buffer.from('SNAPPY'), 0])
const snappyFrameHeader = 16

export function unpackSnappy(packed: Buffer): Buffer {
  if (!packed.subarray(0, snappyFrame.length).equals(snappyFrame)) return unpackSnappyBlock(packed)
  const blocks: Buffer[] = []
  let at = snappyFrameHeader
  while (at < packed.length) {
    const length = packed.readUInt32BE(at)
    blocks.push(unpackSnappyBlock(part(packed, at + 4, length)))
    at += 4 + length
  }
  return Buffer.concat(blocks)
}

function unpackSnappyBlock(packed: Buffer): Buffer {
  let at = 0
  let size = 0
  for (let shift = 0, more = true; more; shift += 7) {
    const byte = packed.readUInt8(at++)
    size += (byte & 0x7f) * 2 ** shift
    more = byte >= 0x80
  }
  const output = new Output(size)
  while (at < packed.length) {
    const tag = packed.readUInt8(at++)
    const upper = tag >> 2
    switch (tag & 3) {
      case 0: {
        // Long ones have their length after the tag, in as many bytes as the tag says.
        const bytes = Math.max(0, upper - 59)
        const length = 1 + (bytes === 0 ? upper : packed.readUIntLE(at, bytes))
        output.add(part(packed, at + bytes, length))
        at += bytes + length
        break
      }
      case 1:
        output.repeat(((tag >> 5) << 8) | packed.readUInt8(at), 4 + (upper & 7))
        at += 1
        break
      case 2:
        output.repeat(packed.readUInt16LE(at), 1 + upper)
        at += 2
        break
      default:
        output.repeat(packed.readUInt32LE(at), 1 + upper)
        at += 4
    }
  }
  if (output.bytes.length !== size) throw new Error(`it has ${output.bytes.length} bytes of ${size}`)
  return output.bytes
}

const lz4Magic = 0x184d2204

/** Frames, one after another; blocks of a frame may go back to what those before them have. */
export function unpackLz4(packed: Buffer): Buffer {
  const output = new Output(packed.length * 3)
  let at = 0
  while (at < packed.length) {
    if (packed.readUInt32LE(at) !== lz4Magic) throw new Error('this is no frame')
    const flags = packed.readUInt8(at + 4)
    const [hasBlockSums, hasSize, hasSum, hasDictionary] = [0x10, 0x08, 0x04, 0x01].map((flag) => (flags & flag) !== 0)
    at += 7 + (hasSize ? 8 : 0) + (hasDictionary ? 4 : 0)
    for (;;) {
      const length = packed.readUInt32LE(at)
      at += 4
      if (length === 0) break
      const block = part(packed, at, length & 0x7fffffff)
      if (length > 0x7fffffff) output.add(block)
      else unpackLz4Block(block, output)
      at += block.length + (hasBlockSums ? 4 : 0)
    }
    if (hasSum) at += 4
  }
  return output.bytes
}

function unpackLz4Block(packed: Buffer, output: Output): void {
  let at = 0
  const lengthOf = (nibble: number) => {
    let length = nibble
    for (let byte = nibble === 15 ? 255 : 0; byte === 255; length += byte) byte = packed.readUInt8(at++)
    return length
  }
  while (at < packed.length) {
    const token = packed.readUInt8(at++)
    const literals = lengthOf(token >> 4)
    output.add(part(packed, at, literals))
    at += literals
    // The last sequence has literals only.
    if (at === packed.length) return
    const distance = packed.readUInt16LE(at)
    at += 2
    output.repeat(distance, 4 + lengthOf(token & 15))
  }
}

/** Grows as it must. */
class Output {
  #buffer: Buffer
  #length = 0

  constructor(size: number) {
    this.#buffer = Buffer.allocUnsafe(size)
  }

  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length)
  }

  add(bytes: Buffer): void {
    this.#reserve(bytes.length)
    bytes.copy(this.#buffer, this.#length)
    this.#length += bytes.length
  }

  /** What lies so far back; it may reach into what this adds itself. */
  repeat(distance: number, length: number): void {
    if (distance === 0 || distance > this.#length) throw new Error('it goes back to before its beginning')
    this.#reserve(length)
    const end = this.#length + length
    while (this.#length < end) {
      const some = Math.min(distance, end - this.#length)
      this.#buffer.copyWithin(this.#length, this.#length - distance, this.#length - distance + some)
      this.#length += some
    }
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(this.#length + more, this.#buffer.length * 2))
    this.bytes.copy(larger)
    this.#buffer = larger
  }
}

function part(bytes: Buffer, from: number, length: number): Buffer {
  if (from + length > bytes.length) throw new Error('its end is missing')
  return bytes.subarray(from, from + length)
}
