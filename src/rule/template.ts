import type { Json } from '../event/event.ts'
import { compileExpression, type Expression } from './expression.ts'
import { encodeSegment, percentEncode } from './percent.ts'
import { type TemplateContext, TemplateError } from './rule.ts'
import { TemplateSyntaxError } from './template-syntax-error.ts'

/** Between two braces a value stands as it is; between one it is percent-encoded, unless `+` stands before it. */
export type Operator = '{{' | '{' | '{+' | '{/'

export interface Slot {
  readonly operator: Operator
  readonly expression: Expression
}

/** A text with templates in it, taken apart. */
export type Part = string | Slot

export function isSlot(part: Part): part is Slot {
  return typeof part !== 'string'
}

const longest = 100_000
const functionNames = 'date|decode|default|merge|strip|filter|timeuuid'
/** What follows a lone brace that begins a template: a root with a path, or a function. Any other lone brace is text. */
const lone = new RegExp(
  String.raw`^\{\s*([+/]?)\s*(?=(?:message|match|globals?|\$|wiki|targets)\s*[.[]|(?:${functionNames})\()`,
)

/** Throws TemplateSyntaxError. */
export function parseTemplate(text: string): readonly Part[] {
  if (text.length > longest) {
    throw new TemplateSyntaxError(`expected at most ${longest} characters, found ${text.length}`, 'shorten the text')
  }
  const parts: Part[] = []
  let literal = ''
  for (let at = 0; at < text.length; ) {
    const found = slotAt(text, at)
    if (found === undefined) {
      literal += text[at]
      at++
      continue
    }
    if (literal !== '') parts.push(literal)
    literal = ''
    parts.push(found.slot)
    at = found.end
  }
  if (literal !== '' || parts.length === 0) parts.push(literal)
  return parts
}

function slotAt(text: string, at: number): { slot: Slot; end: number } | undefined {
  if (text[at] !== '{') return undefined
  if (text[at + 1] === '{') {
    const end = closing(text, at + 2, '}}')
    if (end < 0) {
      throw new TemplateSyntaxError(
        `expected }} after ${JSON.stringify(text.slice(at, at + 60))}, found none`,
        'add }}',
      )
    }
    const inside = text.slice(at + 2, end).trim()
    if (inside === '')
      throw new TemplateSyntaxError('expected an expression, found {{}}', 'write for instance {{message.rev_id}}')
    return { slot: { operator: '{{', expression: compileExpression(inside) }, end: end + 2 }
  }
  const opening = lone.exec(text.slice(at, at + 200))
  const end = opening === null ? -1 : closing(text, at + opening[0].length, '}')
  if (opening === null || end < 0) return undefined
  const operator = opening[1] === '+' ? '{+' : opening[1] === '/' ? '{/' : '{'
  return {
    slot: { operator, expression: compileExpression(text.slice(at + opening[0].length, end).trim()) },
    end: end + 1,
  }
}

/** Where an expression ends; braces within its quoted texts do not count. */
function closing(text: string, from: number, close: string): number {
  let quote = ''
  for (let at = from; at < text.length; at++) {
    const character = text[at] ?? ''
    if (quote === '' && text.startsWith(close, at)) return at
    if (quote === '' && (character === "'" || character === '"')) quote = character
    else if (character === quote) quote = ''
  }
  // An apostrophe in the text after a forgotten end is no quote.
  return text.indexOf(close, from)
}

/** What a text comes to: the value itself where all of it is one `{{expression}}`, text otherwise. */
export type Render = (context: TemplateContext) => Json | undefined

/**
 * Compiles a text that is no address. `strict`: where nothing is found for a slot within text, that is an error even with a
 * single brace. Within text `{{…}}` is always strict; a request that says `undefined` was never meant.
 */
export function compileText(parts: readonly Part[], strict: boolean): Render {
  const [only] = parts
  if (only === undefined || (parts.length === 1 && !isSlot(only))) return () => only ?? ''
  if (parts.length === 1 && isSlot(only)) {
    if (only.operator === '{{') return only.expression.evaluate
    if (only.operator === '{') return loneValue(only.expression)
  }
  const renders = parts.map((part) => (isSlot(part) ? compileSlot(part, strict) : part))
  return (context) => {
    let text = ''
    for (const render of renders) text += typeof render === 'string' ? render : render(context)
    return text
  }
}

function loneValue(expression: Expression): Render {
  return (context) => {
    const value = expression.evaluate(context)
    if (value === undefined || value === null) return ''
    if (typeof value === 'number' || typeof value === 'boolean') return value
    return percentEncode(textOf(value, expression))
  }
}

function compileSlot({ operator, expression }: Slot, strict: boolean): (context: TemplateContext) => string {
  const encode = operator === '{' || operator === '{/' ? percentEncode : String
  const prefix = operator === '{/' ? '/' : ''
  const isOptional = operator === '{+' || operator === '{/' || (operator === '{' && !strict)
  if (expression.isMessage && operator === '{{') return ({ record }) => Buffer.from(record.bytes).toString('utf8')
  return (context) => {
    const value = expression.evaluate(context)
    if (isOptional && (value === undefined || value === null)) return ''
    return prefix + encode(textOf(value, expression))
  }
}

/** A value as a part of a path: its own slashes are encoded, or with two braces and `{+` kept. */
export function segmentOf(slot: Slot, value: Json | undefined, normalise: (text: string) => string): string {
  const { operator, expression } = slot
  if ((operator === '{+' || operator === '{/') && (value === undefined || value === null)) return ''
  const text = textOf(value, expression)
  if (operator === '{{' || operator === '{+') return normalise(text)
  return operator === '{/' ? `/${encodeSegment(text)}` : encodeSegment(text)
}

/** A value within text. Throws TemplateError where there is none, or it is a list or mapping. */
export function textOf(value: Json | undefined, expression: Expression): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  const found =
    value === undefined ? 'nothing there' : value === null ? 'null' : Array.isArray(value) ? 'a list' : 'a mapping'
  throw new TemplateError(
    'template_failed',
    expression.text,
    `expected text for ${expression.text}, the event has ${found}`,
  )
}
