/**
 * Our ids of events: UUIDs of version 7 whose time is the acceptance and whose other bits are the store's own mark (21) and
 * the position (53). So an id is found without an index, and sorts as the log does.
 */
export function formatEventId(mark: number, accepted: number, pos: number): string {
  const time = accepted.toString(16).padStart(12, '0')
  const low = (pos % bits48).toString(16).padStart(12, '0')
  const middle = (0x8000 + (mark % 512) * 32 + Math.floor(pos / bits48)).toString(16)
  const high = Math.floor(mark / 512)
    .toString(16)
    .padStart(3, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7${high}-${middle}-${low}`
}

/** Where such an id points, or undefined where it is not one of this store's. The event may be another, or gone. */
export function parseEventId(
  mark: number,
  id: string,
): { readonly accepted: number; readonly pos: number } | undefined {
  const parts = eventId.exec(id.toLowerCase())
  if (parts === null) return undefined
  const [, high8, high4, markHigh, middle, low] = parts
  const bits = Number.parseInt(middle ?? '', 16) - 0x8000
  const accepted = Number.parseInt(`${high8}${high4}`, 16)
  const pos = (bits % 32) * bits48 + Number.parseInt(low ?? '', 16)
  if (Number.parseInt(markHigh ?? '', 16) * 512 + Math.floor(bits / 32) !== mark) return undefined
  return { accepted, pos }
}

/** Marks are below this. */
export const marks = 2 ** 21

const bits48 = 2 ** 48
const eventId = /^([0-9a-f]{8})-([0-9a-f]{4})-7([0-9a-f]{3})-([89ab][0-9a-f]{3})-([0-9a-f]{12})$/

/** 53 bits of hash of a producer's id; never 0, which stands for "none". Not meant against people who seek collisions. */
export function hashId(id: string): number {
  let a = 0x9e3779b1
  let b = 0x85ebca6b
  for (let index = 0; index < id.length; index += 1) {
    const unit = id.charCodeAt(index)
    a = Math.imul(a ^ unit, 0x27d4eb2d)
    b = Math.imul(b + unit, 0x165667b1) ^ (b >>> 13)
  }
  a = Math.imul(a ^ (a >>> 15) ^ b, 0x2c1b3c6d)
  b = Math.imul(b ^ (b >>> 16) ^ (a >>> 9), 0x297a2d39)
  return ((a ^ (a >>> 14)) >>> 11) * 2 ** 32 + ((b ^ (b >>> 15)) >>> 0) || 1
}
