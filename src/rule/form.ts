import type { Json } from '../event/event.ts'
import { isList, isMapping } from './json.ts'
import { encodeSegment } from './percent.ts'
import type { TemplateContext } from './rule.ts'
import type { Value } from './value.ts'

/**
 * Compiles a mapping to a form, as bodies and query strings have it: `o[k]` for mappings within, `list[0]` for lists. What
 * the event has nothing for is left out; null is an empty text. The whole message as a value is the text received.
 */
export function compileForm(value: Value): string | ((context: TemplateContext) => string) {
  const pairs = pairsOf(value, '')
  if (pairs.every((pair) => typeof pair === 'string')) return join(pairs)
  return (context) => join(pairs.map((pair) => (typeof pair === 'string' ? pair : pair(context))))
}

/** The same for a value that came out of the event as a whole. */
export function formOf(value: Json | undefined, key = ''): string {
  if (value === undefined) return ''
  if (isList(value)) return join(value.map((item, index) => formOf(item, `${key}[${index}]`)))
  if (isMapping(value)) {
    return join(Object.entries(value).map(([name, inner]) => formOf(inner, key === '' ? name : `${key}[${name}]`)))
  }
  return `${encodeSegment(key)}=${value === null ? '' : encodeSegment(String(value))}`
}

type Pair = string | ((context: TemplateContext) => string)

function pairsOf(value: Value, key: string): readonly Pair[] {
  switch (value.kind) {
    case 'constant':
      return [formOf(value.value, key)]
    case 'message':
      return [({ record }) => formOf(Buffer.from(record.bytes).toString('utf8'), key)]
    case 'render':
      return [(context) => formOf(value.render(context), key)]
    case 'list':
      return value.items.flatMap((item, index) => pairsOf(item, `${key}[${index}]`))
    case 'mapping':
      return value.members.flatMap(([name, inner]) => pairsOf(inner, key === '' ? name : `${key}[${name}]`))
  }
}

function join(pairs: readonly string[]): string {
  return pairs.filter((pair) => pair !== '').join('&')
}
