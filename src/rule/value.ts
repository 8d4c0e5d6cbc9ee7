import type { Path } from '../base/document.ts'
import type { Json } from '../event/event.ts'
import type { Expression } from './expression.ts'
import type { Findings } from './findings.ts'
import { isList, isMapping } from './json.ts'
import { compileText, isSlot, type Part, parseTemplate, type Render } from './template.ts'
import { TemplateSyntaxError } from './template-syntax-error.ts'

/** A value with templates in it, compiled. What is the same for all events is in one piece. */
export type Value =
  | { readonly kind: 'constant'; readonly value: Json }
  /** The whole event, to be forwarded as received. */
  | { readonly kind: 'message' }
  | { readonly kind: 'render'; readonly render: Render }
  | { readonly kind: 'list'; readonly items: readonly Value[] }
  | { readonly kind: 'mapping'; readonly members: readonly (readonly [string, Value])[] }

/** Compiles templates of one request: problems go to the findings, expressions are remembered for whoever checks them. */
export class TemplateCompiler {
  readonly expressions: { readonly at: Path; readonly expression: Expression }[] = []
  /** Whether a text did not compile, so that the expressions are not all that there are. */
  hasFailed = false
  readonly findings: Findings

  constructor(findings: Findings) {
    this.findings = findings
  }

  /** Undefined where the text is no template; that is a problem by then. */
  parts(text: string, at: Path): readonly Part[] | undefined {
    return this.attempt(at, () => {
      const parts = parseTemplate(text)
      for (const part of parts) if (isSlot(part)) this.expressions.push({ at, expression: part.expression })
      return parts
    })
  }

  /** Turns a TemplateSyntaxError into a problem. */
  attempt<Result>(at: Path, compile: () => Result): Result | undefined {
    try {
      return compile()
    } catch (error) {
      if (!(error instanceof TemplateSyntaxError)) throw error
      this.hasFailed = true
      this.findings.error(at, error.message, error.remedy)
      return undefined
    }
  }

  value(value: Json, at: Path): Value {
    if (typeof value === 'string') return this.#text(value, at)
    if (isList(value)) {
      const items = value.map((item, index) => this.value(item, [...at, index]))
      return items.every(isConstant)
        ? { kind: 'constant', value: items.map((item) => item.value) }
        : { kind: 'list', items }
    }
    if (isMapping(value)) {
      // A key without a value stands for nothing; YAML says null there.
      const members = Object.entries(value)
        .filter(([, inner]) => inner !== null)
        .map(([key, inner]) => [key, this.value(inner, [...at, key])] as const)
      const constants = members.flatMap(([key, inner]) => (isConstant(inner) ? [[key, inner.value] as const] : []))
      if (constants.length < members.length) return { kind: 'mapping', members }
      return { kind: 'constant', value: Object.fromEntries(constants) }
    }
    return { kind: 'constant', value }
  }

  #text(text: string, at: Path): Value {
    const parts = this.parts(text, at)
    const [only] = parts ?? []
    if (parts === undefined || only === undefined) return { kind: 'constant', value: text }
    if (parts.length === 1 && !isSlot(only)) return { kind: 'constant', value: only }
    if (parts.length === 1 && isSlot(only) && only.operator === '{{' && only.expression.isMessage)
      return { kind: 'message' }
    return { kind: 'render', render: compileText(parts, false) }
  }
}

function isConstant(value: Value): value is { readonly kind: 'constant'; readonly value: Json } {
  return value.kind === 'constant'
}
