import type { Path } from '../base/document.ts'
import type { Json } from '../event/event.ts'
import type { Findings } from './findings.ts'
import { compileForm, formOf } from './form.ts'
import { isList, isMapping } from './json.ts'
import type { TemplateContext } from './rule.ts'
import type { Value } from './value.ts'

export type Payload = Uint8Array | string | null

/** A body, compiled. */
export interface BodyTemplate {
  readonly render: (context: TemplateContext) => Payload
  /** What the body is, where the rule does not say so itself. */
  readonly contentType: string | undefined
}

const json = 'application/json'
const form = 'application/x-www-form-urlencoded'

/**
 * How a body is written follows from the content type that the rule names: JSON, or a form. Without one, mappings are forms
 * and lists JSON, a text is sent as it is, and the whole message as the bytes that were received.
 */
export function compileBody(
  value: Value,
  contentType: string | undefined,
  method: string,
  at: Path,
  findings: Findings,
): BodyTemplate {
  if (value.kind === 'message') return { render: ({ record }) => record.bytes, contentType: json }
  if (value.kind === 'constant' && !isList(value.value) && !isMapping(value.value)) {
    const text = value.value === null ? null : String(value.value)
    return { render: () => text, contentType: undefined }
  }
  const media = contentType?.split(';')[0]?.trim().toLowerCase()
  const isJson = media === json || media?.endsWith('+json') === true
  if (value.kind === 'render') {
    return { render: (context) => payloadOf(value.render(context), isJson), contentType: undefined }
  }
  if (isJson) return { render: compileJson(value), contentType: undefined }
  const isListed = value.kind === 'list' || (value.kind === 'constant' && isList(value.value))
  if (media === undefined && (isListed || (method !== 'POST' && method !== 'PUT'))) {
    return { render: compileJson(value), contentType: json }
  }
  if (media !== undefined && media !== form) {
    findings.error(
      at,
      `expected a text as body of type ${media}, found a ${isListed ? 'list' : 'mapping'}`,
      `write ${json} or ${form} as content-type, or the body as text`,
    )
  }
  const fields = compileForm(value)
  return {
    render: typeof fields === 'string' ? () => fields : fields,
    contentType: media === undefined ? form : undefined,
  }
}

/** A body that is one expression: what it is shows only when there is an event. */
function payloadOf(value: Json | undefined, isJson: boolean): Payload {
  if (value === undefined) return null
  if (isJson && typeof value !== 'string') return JSON.stringify(value)
  if (isList(value)) return JSON.stringify(value)
  if (isMapping(value)) return formOf(value)
  return value === null ? null : String(value)
}

/** Writes JSON text, into which the received bytes of an event are put untouched. */
function compileJson(value: Value): (context: TemplateContext) => Payload {
  const write = writerOf(value)
  if (typeof write === 'string') return () => write
  return (context) => {
    const paper = new Paper()
    write(context, paper)
    return paper.payload()
  }
}

/** Constant text, or what writes it; false where the event has nothing there, and nothing was written. */
type Writer = string | ((context: TemplateContext, paper: Paper) => boolean)

function writerOf(value: Value): Writer {
  switch (value.kind) {
    case 'constant':
      return JSON.stringify(value.value)
    case 'message':
      return ({ record }, paper) => paper.bytes(record.bytes)
    case 'render':
      return (context, paper) => {
        const found = value.render(context)
        return found !== undefined && paper.text(JSON.stringify(found))
      }
    case 'list': {
      const items = value.items.map(writerOf)
      return (context, paper) => {
        items.forEach((item, index) => {
          paper.text(index === 0 ? '[' : ',')
          if (!paper.write(item, context)) paper.text('null')
        })
        return paper.text(']')
      }
    }
    case 'mapping': {
      const members = value.members.map(([key, inner]) => ({ key: `${JSON.stringify(key)}:`, inner: writerOf(inner) }))
      return (context, paper) => {
        let separator = '{'
        for (const { key, inner } of members) {
          const before = paper.mark()
          paper.text(separator + key)
          if (paper.write(inner, context)) separator = ','
          else paper.backTo(before)
        }
        return paper.text(separator === '{' ? '{}' : '}')
      }
    }
  }
}

/** Text, with pieces of bytes in it. */
class Paper {
  #text = ''
  readonly #pieces: Uint8Array[] = []

  text(text: string): boolean {
    this.#text += text
    return true
  }

  bytes(bytes: Uint8Array): boolean {
    this.#pieces.push(Buffer.from(this.#text, 'utf8'), bytes)
    this.#text = ''
    return true
  }

  write(writer: Writer, context: TemplateContext): boolean {
    return typeof writer === 'string' ? this.text(writer) : writer(context, this)
  }

  /** Only for what is taken back before any bytes follow. */
  mark(): string {
    return this.#text
  }

  backTo(text: string): void {
    this.#text = text
  }

  payload(): Payload {
    if (this.#pieces.length === 0) return this.#text
    return Buffer.concat([...this.#pieces, Buffer.from(this.#text, 'utf8')])
  }
}
