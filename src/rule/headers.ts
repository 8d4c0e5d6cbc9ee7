import type { Path } from '../base/document.ts'
import type { JsonObject } from '../event/event.ts'
import { encodeHeader } from './percent.ts'
import { type TemplateContext, TemplateError } from './rule.ts'
import { compileText, isSlot } from './template.ts'
import type { TemplateCompiler } from './value.ts'

/** The headers that a rule sets, compiled. Names are in lower case. */
export interface HeadersTemplate {
  /** Where it is the same for all events. */
  readonly contentType: string | undefined
  readonly names: readonly string[]
  /** With `more` added; the same frozen object each time where no event changes it. */
  compile(more: Readonly<Record<string, string>>): (context: TemplateContext) => Readonly<Record<string, string>>
}

/** The client writes these itself; a rule that did would break the connection. */
const framing = [
  'connection',
  'content-length',
  'expect',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]

export function compileHeaders(headers: JsonObject, at: Path, templates: TemplateCompiler): HeadersTemplate {
  const constants = new Map<string, string>()
  const renders = new Map<string, (context: TemplateContext) => string | undefined>()
  const { findings } = templates
  for (const [written, value] of Object.entries(headers)) {
    const name = written.toLowerCase()
    const path = [...at, written]
    if (!/^[!#$%&'*+.^_`|~\w-]+$/.test(name)) {
      findings.error(
        path,
        `expected the name of a header, found ${JSON.stringify(written)}`,
        'use letters, digits and -',
        'key',
      )
    } else if (framing.includes(name)) {
      findings.objectTo(path, `expected no header that describes the connection, found ${name}`, 'leave it out', 'key')
    } else if (constants.has(name) || renders.has(name)) {
      findings.error(path, `expected each header once, found ${name} again`, 'remove one of them', 'key')
    } else if (value !== null) {
      const render = compileHeader(String(value), path, templates)
      if (typeof render === 'string') constants.set(name, render)
      else renders.set(name, render)
    }
  }
  if (renders.has('content-type')) {
    findings.error([...at, 'content-type'], 'expected a content-type without templates, found one', 'write it out')
  }
  return {
    contentType: constants.get('content-type'),
    names: [...constants.keys(), ...renders.keys()],
    compile(more) {
      const fixed = Object.freeze({ ...more, ...Object.fromEntries(constants) })
      if (renders.size === 0) return () => fixed
      const variable = [...renders]
      return (context) => {
        const all: Record<string, string> = { ...fixed }
        for (const [name, render] of variable) {
          const value = render(context)
          if (value !== undefined) all[name] = value
        }
        return all
      }
    },
  }
}

function compileHeader(
  text: string,
  at: Path,
  templates: TemplateCompiler,
): string | ((context: TemplateContext) => string | undefined) {
  const parts = templates.parts(text, at)
  if (parts === undefined || !parts.some(isSlot)) return encodeHeader(parts?.join('') ?? '')
  if (parts.some((part) => isSlot(part) && part.expression.isMessage)) {
    templates.findings.error(at, 'expected text in a header, found the whole message', 'name a property of the event')
  }
  const render = compileText(parts, true)
  return (context) => {
    const value = render(context)
    if (value === undefined || value === null) return undefined
    if (typeof value !== 'object') return encodeHeader(String(value))
    throw new TemplateError(
      'template_failed',
      text,
      `expected text for a header, the event has a list or mapping for ${text}`,
    )
  }
}
