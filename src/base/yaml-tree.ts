import type { AliasEvent, MappingEvent, ScalarEvent, SequenceEvent, Event as YamlEvent } from 'js-yaml'
import {
  boolCoreTag,
  EVENT_ID,
  floatCoreTag,
  getScalarValue,
  intCoreTag,
  NOT_RESOLVED,
  nullCoreTag,
  parseEvents,
  SCALAR_STYLE,
  YAMLException,
} from 'js-yaml'

/** A YAML value and where in the text it stands. Aliases share what they name. */
export interface Tree {
  /** `unknown`: an alias that could not be followed, of which there is a flaw already. */
  readonly kind: 'scalar' | 'sequence' | 'mapping' | 'unknown'
  readonly value: unknown
  /** Offset of the value in the text. */
  readonly start: number
  /** By index or key; empty for scalars. */
  readonly members: ReadonlyMap<string | number, Member>
  /** Values within, itself included, with every alias written out; and how deep they go. */
  readonly size: number
  readonly depth: number
}

export interface Member {
  /** Offset of the key, or of the item. */
  readonly keyStart: number
  readonly tree: Tree
}

/** Something wrong with the text at an offset. */
export interface Flaw {
  readonly offset: number
  readonly message: string
  readonly remedy: string
}

export const maxDepth = 100
/** Values in one file once all aliases and merges are written out: a small text can ask for billions. */
export const maxValues = 200_000

const empty: ReadonlyMap<string | number, Member> = new Map()
const endless: Flaw = {
  offset: 0,
  message: `expected at most ${maxValues} values and ${maxDepth} levels once aliases are written out, found more`,
  remedy: 'use fewer aliases',
}

/** The first document of a text as YAML 1.2 core sees it, and merge keys. Undefined where the text is no YAML at all. */
export function composeTree(text: string): {
  tree: Tree | undefined
  flaws: readonly Flaw[]
} {
  let events: readonly YamlEvent[]
  try {
    events = parseEvents(text, { maxDepth })
  } catch (error) {
    // The parser's own exceptions carry a place; anything else would be its bug, and still is about this text.
    const offset = error instanceof YAMLException ? (error.mark?.position ?? 0) : 0
    const reason = error instanceof YAMLException ? error.reason : String(error)
    return {
      tree: undefined,
      flaws: [
        {
          offset,
          message: `expected YAML, found an error: ${reason}`,
          remedy: 'correct the text here',
        },
      ],
    }
  }
  const composer = new Composer(text, events)
  const tree = composer.document()
  return { tree, flaws: composer.flaws }
}

class Composer {
  readonly flaws: Flaw[] = []
  readonly #text: string
  readonly #events: readonly YamlEvent[]
  readonly #anchors = new Map<string, Tree>()
  #next = 0
  #values = 0
  /** Where to point for a value that is not written at all, as in `key:`. */
  #last = 0

  constructor(text: string, events: readonly YamlEvent[]) {
    this.#text = text
    this.#events = events
  }

  document(): Tree {
    if (this.#events.length === 0) return scalar(null, 0)
    this.#next = 1
    const tree = this.#node(1) ?? scalar(null, 0)
    this.#next++
    if (this.#next < this.#events.length) {
      const after = this.#events
        .slice(this.#next)
        .map(offsetOf)
        .find((offset) => offset >= 0)
      this.#flaw(after ?? 0, 'expected one document, found a second one', 'put it into a file of its own')
    }
    return tree
  }

  /** The next value, or undefined at the end of the collection it would be in. */
  #node(level: number): Tree | undefined {
    const event = this.#events[this.#next]
    if (event === undefined || event.type === EVENT_ID.POP || event.type === EVENT_ID.DOCUMENT) return undefined
    this.#next++
    const offset = offsetOf(event)
    if (offset >= 0) this.#last = offset
    if (event.type === EVENT_ID.ALIAS) return this.#alias(event, level)
    this.#values++
    const tree =
      event.type === EVENT_ID.SCALAR
        ? this.#scalar(event)
        : event.type === EVENT_ID.SEQUENCE
          ? this.#sequence(event, level)
          : this.#mapping(event, level)
    if (event.anchorStart >= 0) this.#anchors.set(this.#text.slice(event.anchorStart, event.anchorEnd), tree)
    return tree
  }

  #alias(event: AliasEvent, level: number): Tree {
    const name = this.#text.slice(event.anchorStart, event.anchorEnd)
    const offset = offsetOf(event)
    const tree = this.#anchors.get(name)
    if (tree === undefined) {
      this.#flaw(
        offset,
        `expected an anchor &${name} that ends before this alias, found none`,
        'define it above, or correct the name',
      )
      return { ...scalar(null, offset), kind: 'unknown' }
    }
    if (!this.#affords(tree.size, level + tree.depth, offset)) return { ...scalar(null, offset), kind: 'unknown' }
    return { ...tree, start: offset }
  }

  #scalar(event: ScalarEvent): Tree {
    const text = getScalarValue(this.#text, event)
    const start = event.valueStart >= 0 ? this.#visible(offsetOf(event)) : this.#last
    const tag = event.tagStart < 0 ? undefined : this.#text.slice(event.tagStart, event.tagEnd)
    const value = tag === undefined && event.style !== SCALAR_STYLE.PLAIN ? text : resolveScalar(text, tag)
    if (value !== undefined) return scalar(value, start)
    this.#flaw(event.tagStart, `expected a value that fits its tag, found ${tag} ${text}`, 'leave the tag out')
    return scalar(text, start)
  }

  #sequence(event: SequenceEvent, level: number): Tree {
    this.#checkTag(event, '!!seq')
    const value: unknown[] = []
    const members = new Map<number, Member>()
    for (;;) {
      const tree = this.#node(level + 1)
      if (tree === undefined) break
      members.set(value.length, { keyStart: tree.start, tree })
      value.push(tree.value)
    }
    this.#next++
    return collection('sequence', value, event.start, members)
  }

  #mapping(event: MappingEvent, level: number): Tree {
    this.#checkTag(event, '!!map')
    const members = new Map<string, Member>()
    const own = new Set<string>()
    for (;;) {
      const keyEvent = this.#events[this.#next]
      const key = this.#node(level + 1)
      if (key === undefined || keyEvent === undefined) break
      const keyStart = key.start
      const tree = this.#node(level + 1) ?? scalar(null, keyStart)
      const name =
        keyEvent.type === EVENT_ID.SCALAR
          ? getScalarValue(this.#text, keyEvent)
          : keyEvent.type === EVENT_ID.ALIAS
            ? key.value
            : undefined
      if (
        name === '<<' &&
        keyEvent.type === EVENT_ID.SCALAR &&
        keyEvent.style === SCALAR_STYLE.PLAIN &&
        keyEvent.tagStart < 0
      ) {
        this.#merge(members, tree, keyStart, level)
      } else if (typeof name !== 'string') {
        this.#flaw(keyStart, 'expected a text as key, found something else', 'write the key as text')
      } else if (own.has(name)) {
        const first = members.get(name)
        const where = first === undefined ? '' : ` (first in line ${lineOf(this.#text, first.keyStart)})`
        this.#flaw(
          keyStart,
          `expected each key once, found ${JSON.stringify(name)} again${where}`,
          'remove or rename one of them',
        )
      } else {
        own.add(name)
        members.set(name, { keyStart, tree })
      }
    }
    this.#next++
    const value = {}
    // Not by assignment: a key `__proto__` is only a key.
    for (const [key, { tree }] of members)
      Object.defineProperty(value, key, {
        value: tree.value,
        enumerable: true,
        writable: true,
        configurable: true,
      })
    return collection('mapping', value, event.start, members)
  }

  /** What a mapping says itself beats what it merges; of what it merges, the first wins. */
  #merge(members: Map<string, Member>, source: Tree, offset: number, level: number): void {
    const sources = source.kind === 'sequence' ? [...source.members.values()].map((member) => member.tree) : [source]
    for (const { kind, members: found, size, depth } of sources) {
      if (kind === 'unknown') continue
      if (kind !== 'mapping') {
        this.#flaw(
          offset,
          'expected a mapping, or a list of mappings, to merge, found something else',
          'name an anchor of a mapping',
        )
      } else if (this.#affords(size, level + depth, offset)) {
        for (const [key, member] of found) if (!members.has(String(key))) members.set(String(key), member)
      }
    }
  }

  #affords(values: number, depth: number, offset: number): boolean {
    if (this.#values + values <= maxValues && depth <= maxDepth) {
      this.#values += values
      return true
    }
    if (!this.flaws.some((flaw) => flaw.message === endless.message)) this.flaws.push({ ...endless, offset })
    return false
  }

  #checkTag(event: SequenceEvent | MappingEvent, allowed: string): void {
    if (event.tagStart < 0) return
    const tag = this.#text.slice(event.tagStart, event.tagEnd)
    if (tag !== allowed && tag !== '!') this.#flaw(event.tagStart, `expected no tag, found ${tag}`, 'leave the tag out')
  }

  #flaw(offset: number, message: string, remedy: string): void {
    this.flaws.push({ offset, message, remedy })
  }

  /** Block scalars begin with their indentation; people look for the first character. */
  #visible(offset: number): number {
    let at = offset
    while (this.#text[at] === ' ') at++
    return at
  }
}

/** Undefined where the text does not fit the tag, or the tag is none of YAML's core. */
function resolveScalar(text: string, tag: string | undefined): unknown {
  const candidates = {
    '!!null': nullCoreTag,
    '!!bool': boolCoreTag,
    '!!int': intCoreTag,
    '!!float': floatCoreTag,
  }
  if (tag === '!' || tag === '!!str') return text
  for (const [name, definition] of Object.entries(candidates)) {
    if (tag !== undefined && tag !== name) continue
    const value: unknown = definition.resolve(text, tag !== undefined, definition.tagName)
    if (value !== NOT_RESOLVED) return value
  }
  return tag === undefined ? text : undefined
}

/** -1 for what has no place of its own. */
function offsetOf(event: YamlEvent): number {
  if (event.type === EVENT_ID.MAPPING || event.type === EVENT_ID.SEQUENCE) return event.start
  if (event.type === EVENT_ID.ALIAS) return event.anchorStart - 1
  if (event.type !== EVENT_ID.SCALAR || event.valueStart < 0) return -1
  const quoted = event.style === SCALAR_STYLE.SINGLE_QUOTED || event.style === SCALAR_STYLE.DOUBLE_QUOTED
  return event.valueStart - (quoted ? 1 : 0)
}

function scalar(value: unknown, start: number): Tree {
  return { kind: 'scalar', value, start, members: empty, size: 1, depth: 1 }
}

function collection(
  kind: 'sequence' | 'mapping',
  value: unknown,
  start: number,
  members: ReadonlyMap<string | number, Member>,
): Tree {
  let size = 1
  let depth = 0
  for (const { tree } of members.values()) {
    size += tree.size
    depth = Math.max(depth, tree.depth)
  }
  return { kind, value, start, members, size, depth: depth + 1 }
}

function lineOf(text: string, offset: number): number {
  return text.slice(0, offset).split(/\r\n|\r|\n/).length
}
