/** Of a position that is not routed yet. Settlements may come before that; they bring it nowhere near 0. */
const unrouted = 2 ** 30
const smallest = 1_024

/**
 * The cursor: the lowest position that would have to be routed again after a crash. It passes a position when the router is
 * through with it and each delivery that runs from memory has released it. A count per position above it, in a ring that grows.
 */
export class LowWaterMark {
  #counts = new Int32Array(smallest)
  #low: number
  /** Given out: all below this. */
  #end: number

  constructor(cursor: number) {
    this.#low = cursor
    this.#end = cursor
  }

  get cursor(): number {
    return this.#low
  }

  /** Positions that were left out do not exist any more. */
  given(pos: number): void {
    if (pos - this.#low >= this.#counts.length) this.#grow(pos - this.#low + 1)
    for (; this.#end < pos; this.#end += 1) this.#set(this.#end, 0)
    this.#set(pos, unrouted)
    this.#end = pos + 1
    this.#advance()
  }

  routed(pos: number, inMemory: number): void {
    this.#add(pos, inMemory - unrouted)
  }

  /** A delivery that ran from memory has a row, or will have one in the commit that carries the cursor. */
  settled(pos: number): void {
    this.#add(pos, -1)
  }

  #add(pos: number, change: number): void {
    const at = pos & (this.#counts.length - 1)
    const count = (this.#counts[at] ?? 0) + change
    if (pos < this.#low || pos >= this.#end || count < 0) {
      throw new Error(`the event at ${pos} was routed, or released, more often than it was given out`)
    }
    this.#counts[at] = count
    if (count === 0) this.#advance()
  }

  #set(pos: number, count: number): void {
    this.#counts[pos & (this.#counts.length - 1)] = count
  }

  #advance(): void {
    const mask = this.#counts.length - 1
    while (this.#low < this.#end && this.#counts[this.#low & mask] === 0) this.#low += 1
  }

  #grow(span: number): void {
    const counts = new Int32Array(2 ** Math.ceil(Math.log2(span)))
    const mask = this.#counts.length - 1
    for (let pos = this.#low; pos < this.#end; pos += 1)
      counts[pos & (counts.length - 1)] = this.#counts[pos & mask] ?? 0
    this.#counts = counts
  }
}
