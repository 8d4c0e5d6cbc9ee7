import { isAscii, isUtf8 } from 'node:buffer'
import type { Json } from './event.ts'

/** One element of a posted body. */
export interface PostedEvent {
  /** Exactly as posted, without the whitespace around it: a view of the body. */
  readonly bytes: Uint8Array
  /** The same, parsed; anything that JSON can say. */
  readonly message: Json
  /** Why it cannot be an event, whatever it says; bytes and message are what could be read of it. */
  readonly flaw?: string
}

export type Split =
  | { readonly kind: 'events'; readonly events: readonly PostedEvent[] }
  /** `message` is a sentence in ASCII that repeats nothing of what was posted. */
  | {
      readonly kind: 'refused'
      readonly why: 'empty' | 'malformed' | 'too_many'
      readonly message: string
    }

export interface SplitLimits {
  /** How many arrays and objects may lie in one another, the posted array included. */
  readonly depth: number
  readonly events: number
}

/** 50,000 events of 200 bytes are as much as a body of 10 MiB holds; smaller ones are nobody's events. */
export const splitLimits: SplitLimits = { depth: 64, events: 50_000 }

/**
 * A posted body → its events: an array's elements, or the one object it is. Depth and number are checked before anything
 * is built; an element that is nested too deep, or no UTF-8, has a flaw and harms none of the others. A byte order mark is
 * passed over; it belongs to no event.
 */
export function splitEvents(body: Buffer, limits: SplitLimits = splitLimits): Split {
  const ascii = isAscii(body)
  const isText = ascii || isUtf8(body)
  const bytes = body.toString('latin1')
  const start = skipWhitespace(bytes, bytes.startsWith(byteOrderMark) ? byteOrderMark.length : 0)
  if (start === bytes.length) return refuse('empty', 'Request body was empty. Must provide JSON encoded events.')

  const cut = cutElements(bytes, start, limits)
  if (cut === 'too_many') return refuse('too_many', `The request body has more than ${limits.events} events.`)
  if (cut === 'too_deep') return splitDeep(body, bytes, start, limits)
  const parsed = parse(ascii ? bytes : body.toString('utf8', start))
  if (!parsed.ok) return refuse('malformed', isText ? parsed.message : 'The request body is not valid UTF-8.')
  return pair(body, cut, parsed.value, isText)
}

/** Splits what is left of a body when all that lies too deep is taken out; what is not as it was then has that flaw. */
function splitDeep(body: Buffer, bytes: string, start: number, limits: SplitLimits): Split {
  const shallow = withoutDeep(body, bytes, start, limits.depth)
  const split = splitEvents(shallow, limits)
  if (split.kind === 'refused') return split
  const flaw = `It is nested deeper than ${limits.depth} levels, the posted array included.`
  const events = split.events.map((event): PostedEvent => {
    const from = event.bytes.byteOffset - shallow.byteOffset
    const bytes = body.subarray(from, from + event.bytes.length)
    return bytes.equals(event.bytes) ? { ...event, bytes } : { ...event, flaw }
  })
  return { kind: 'events', events }
}

/** A copy in which an empty text, and spaces, stand for each array and object that lies too deep. */
function withoutDeep(body: Buffer, bytes: string, start: number, most: number): Buffer {
  const copy = Buffer.from(body)
  const end = bytes.length
  let depth = 0
  let from = start
  for (let at = start; at < end; at++) {
    const byte = bytes.charCodeAt(at)
    if (byte === quote) {
      at = endOfString(bytes, at + 1)
      if (at === -1) break
    } else if (byte === openBracket || byte === openBrace) {
      depth++
      if (depth === most + 1) from = at
    } else if (byte === closeBracket || byte === closeBrace) {
      if (depth === most + 1) {
        copy[from] = quote
        copy[from + 1] = quote
        for (let blank = from + 2; blank <= at; blank++) copy[blank] = space
      }
      depth--
    }
  }
  // What is never closed is no JSON, and need not be read to know that.
  return depth > most ? copy.subarray(0, from) : copy
}

function pair(body: Buffer, cut: readonly number[], value: Json, isText: boolean): Split {
  if (typeof value !== 'object' || value === null) {
    return refuse('malformed', 'The request body is neither a JSON object nor an array of them.')
  }
  const messages: readonly Json[] = Array.isArray(value) ? value : isEmpty(value) ? [] : [value]
  if (messages.length === 0) return refuse('empty', 'Request body was empty. Must provide JSON encoded events.')
  if (messages.length * 2 !== cut.length) throw new Error(`${messages.length} events, but ${cut.length / 2} boundaries`)
  const events = messages.map((message, index): PostedEvent => {
    const bytes = body.subarray(cut[2 * index], cut[2 * index + 1])
    return isText || isUtf8(bytes) ? { bytes, message } : { bytes, message, flaw: 'It is not valid UTF-8.' }
  })
  return { kind: 'events', events }
}

/**
 * Where each element begins and ends, in pairs, right for any valid JSON; what it says of anything else is not used. One
 * pass over one byte per character (no byte of a longer UTF-8 sequence looks like one of JSON's own), since a string's end
 * is found faster there than in a buffer.
 */
function cutElements(bytes: string, start: number, limits: SplitLimits): number[] | 'too_many' | 'too_deep' {
  const cut: number[] = []
  const isArray = bytes.charCodeAt(start) === openBracket
  const most = 2 * limits.events
  const end = bytes.length
  let depth = 0
  let from = start + 1
  for (let at = start; at < end; at++) {
    const byte = bytes.charCodeAt(at)
    if (byte === quote) {
      at = endOfString(bytes, at + 1)
      if (at === -1) return cut
    } else if (byte === comma) {
      if (depth !== 1 || !isArray) continue
      if (cut.length === most) return 'too_many'
      cut.push(skipWhitespace(bytes, from), trimmedEnd(bytes, at))
      from = at + 1
    } else if (byte === openBracket || byte === openBrace) {
      depth++
      if (depth > limits.depth) return 'too_deep'
    } else if (byte === closeBracket || byte === closeBrace) {
      depth--
      if (depth > 0) continue
      if (!isArray) return [start, at + 1]
      const first = skipWhitespace(bytes, from)
      if (first >= at) return cut
      if (cut.length === most) return 'too_many'
      cut.push(first, trimmedEnd(bytes, at))
      return cut
    }
  }
  return cut
}

/** The index of the closing quote; -1 where there is none. A quote after an odd number of backslashes is no end. */
function endOfString(bytes: string, from: number): number {
  let at = bytes.indexOf('"', from)
  while (at > from && bytes.charCodeAt(at - 1) === backslash) {
    let before = at - 2
    while (before >= from && bytes.charCodeAt(before) === backslash) before--
    if ((at - before) % 2 === 1) return at
    at = bytes.indexOf('"', at + 1)
  }
  return at
}

function skipWhitespace(bytes: string, from: number): number {
  let at = from
  while (isWhitespace(bytes.charCodeAt(at))) at++
  return at
}

function trimmedEnd(bytes: string, from: number): number {
  let end = from
  while (isWhitespace(bytes.charCodeAt(end - 1))) end--
  return end
}

/** NaN, which is beyond the end, is none. */
function isWhitespace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
}

type Parsed = { readonly ok: true; readonly value: Json } | { readonly ok: false; readonly message: string }

function parse(text: string): Parsed {
  try {
    return { ok: true, value: JSON.parse(text) }
  } catch (error) {
    // V8's message quotes the text; only the place may go into a status line.
    const place = error instanceof Error ? /at position \d+/.exec(error.message)?.[0] : undefined
    return {
      ok: false,
      message: place === undefined ? 'The request body is not JSON.' : `The request body is not JSON ${place}.`,
    }
  }
}

function isEmpty(value: object): boolean {
  for (const _ in value) return false
  return true
}

function refuse(why: 'empty' | 'malformed' | 'too_many', message: string): Split {
  return { kind: 'refused', why, message }
}

/** U+FEFF in UTF-8, one character per byte. */
const byteOrderMark = '\u00ef\u00bb\u00bf'

const space = 0x20
const quote = 0x22
const backslash = 0x5c
const comma = 0x2c
const openBracket = 0x5b
const closeBracket = 0x5d
const openBrace = 0x7b
const closeBrace = 0x7d
