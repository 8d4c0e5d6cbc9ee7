import { messageOf } from '../base/errors.ts'
import { suggest } from '../base/suggestion.ts'
import type { Json } from '../event/event.ts'
import { type TemplateFunction, templateFunctions } from './functions.ts'
import { member } from './json.ts'
import { type TemplateContext, TemplateError, type WikiRoot } from './rule.ts'
import { TemplateSyntaxError } from './template-syntax-error.ts'

export type Step = string | number

/** What stands between the braces of a template, compiled. */
export interface Expression {
  readonly text: string
  /** Undefined where the event has nothing there. Throws TemplateError. */
  readonly evaluate: (context: TemplateContext) => Json | undefined
  /** The whole message, to be forwarded as received. */
  readonly isMessage: boolean
  /** The root of a URL: the event's wiki, or a target by name. */
  readonly base: { readonly kind: 'wiki' } | { readonly kind: 'target'; readonly name: string } | undefined
  /** All paths it reads, each beginning with its root. */
  readonly reads: readonly (readonly Step[])[]
}

export const templateRoots = ['message', 'match', 'globals', 'wiki', 'targets'] as const
const wikiFields = ['url', 'host', 'database', 'domain', 'token'] as const

type Evaluate = Expression['evaluate']
type Node = Omit<Expression, 'text'>

/** Throws TemplateSyntaxError. */
export function compileExpression(text: string): Expression {
  const reader = new Reader(text)
  const node = reader.node()
  reader.expectEnd()
  return { ...node, text }
}

class Reader {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  node(depth = 0): Node {
    if (depth > 20) throw this.#error('expected at most 20 functions within one another', 'write it more simply')
    this.#blanks()
    const next = this.#text[this.#at] ?? ''
    if (next === "'" || next === '"') return constant(this.#quoted())
    if (next === '[') return this.#list()
    const number = this.#take(/-?\d+(?:\.\d+)?(?![\w.])/y)
    if (number !== undefined) return constant(Number(number))
    const name = this.#take(/[\w$@-]+/y)
    if (name === undefined) throw this.#error('expected a name', 'write for instance message.page_title')
    this.#blanks()
    if (this.#text[this.#at] === '(') return this.#call(name, depth)
    if (name === 'true' || name === 'false') return constant(name === 'true')
    if (name === 'null') return constant(null)
    return this.#path(name)
  }

  expectEnd(): void {
    this.#blanks()
    if (this.#at < this.#text.length) throw this.#error('expected its end', 'correct the expression')
  }

  #path(root: string): Node {
    const steps: Step[] = []
    for (;;) {
      if (this.#text[this.#at] === '.') {
        this.#at++
        const step = this.#take(/[^\s.[\](){},'"]+/y)
        if (step === undefined) throw this.#error('expected a name after the dot', 'correct the path')
        steps.push(step)
      } else if (this.#text[this.#at] === '[') {
        this.#at++
        this.#blanks()
        const quote = this.#text[this.#at]
        const index = quote === "'" || quote === '"' ? this.#quoted() : this.#take(/\d{1,9}/y)
        if (index === undefined) throw this.#error('expected an index or a quoted key', 'write for instance tags[0]')
        steps.push(quote === "'" || quote === '"' ? index : Number(index))
        this.#expect(']')
      } else break
    }
    return this.#rooted(root, steps)
  }

  #rooted(root: string, steps: readonly Step[]): Node {
    if (root === 'globals' || root === 'global' || root === '$') {
      const [inner, ...rest] = steps
      if (inner !== 'message' && inner !== 'match') {
        throw this.#error(`expected ${root}.message or ${root}.match`, 'write globals.message for the whole event')
      }
      return this.#rooted(inner, rest)
    }
    const reads = [[root, ...steps]]
    if (root === 'message') {
      return {
        evaluate: along(steps, ({ record }) => record.message),
        isMessage: steps.length === 0,
        base: undefined,
        reads,
      }
    }
    if (root === 'match') {
      return { evaluate: along(steps, ({ captures }) => captures), isMessage: false, base: undefined, reads }
    }
    if (root === 'wiki') return this.#wiki(steps, reads)
    if (root === 'targets') return this.#target(steps, reads)
    if (root === 'request' || root === 'env') {
      throw this.#error('expected a root of templates', 'that root exists only within Wikimedia’s own modules', root)
    }
    const meant = suggest(root, templateRoots)
    throw this.#error(
      `expected one of the roots ${templateRoots.join(', ')}, or a function`,
      meant === undefined ? `write message.${root} for a property of the event` : `did you mean ${meant}?`,
    )
  }

  #wiki(steps: readonly Step[], reads: Node['reads']): Node {
    const [step] = steps
    const expected = `expected wiki.${wikiFields.join(', wiki.')}`
    const field = wikiFields.find((name) => name === step)
    if (field === undefined || steps.length !== 1) throw this.#error(expected, 'write one of these')
    const text = `wiki.${field}`
    const otherwise = field === 'token' ? '' : undefined
    const evaluate = (context: TemplateContext) => wikiOf(context, text)[field] ?? otherwise
    return { evaluate, isMessage: false, base: field === 'url' ? { kind: 'wiki' } : undefined, reads }
  }

  #target(steps: readonly Step[], reads: Node['reads']): Node {
    const [name, field] = steps
    if (typeof name !== 'string' || field !== 'url' || steps.length !== 2) {
      throw this.#error('expected targets.NAME.url', 'write the name of a configured target between the dots')
    }
    const evaluate = (context: TemplateContext) => {
      const url = context.target(name)
      if (url !== undefined) return url
      throw new TemplateError('template_failed', `targets.${name}.url`, `no target ${name} is configured`)
    }
    return { evaluate, isMessage: false, base: { kind: 'target', name }, reads }
  }

  #call(name: string, depth: number): Node {
    const found = templateFunctions.get(name)
    if (found === undefined) {
      const known = [...templateFunctions.keys()]
      const meant = suggest(name, known)
      const remedy = meant === undefined ? `use one of ${known.join(', ')}` : `did you mean ${meant}?`
      throw this.#error('expected a function of templates', remedy, name)
    }
    const start = this.#at - name.length
    this.#at++
    const args = this.#items(')', depth)
    if (args.length < found.min || args.length > found.max) {
      throw this.#error(`expected ${found.signature}`, 'correct the arguments', `${args.length} arguments`)
    }
    const text = this.#text.slice(Math.max(0, start), this.#at).trim()
    return {
      evaluate: applied(
        found,
        args.map(({ evaluate }) => evaluate),
        text,
      ),
      isMessage: false,
      base: undefined,
      reads: args.flatMap(({ reads }) => reads),
    }
  }

  #list(): Node {
    this.#at++
    const items = this.#items(']', 0)
    const evaluates = items.map(({ evaluate }) => evaluate)
    return {
      evaluate: (context) => evaluates.map((evaluate) => evaluate(context) ?? null),
      isMessage: false,
      base: undefined,
      reads: items.flatMap(({ reads }) => reads),
    }
  }

  #items(close: string, depth: number): readonly Node[] {
    const items: Node[] = []
    this.#blanks()
    while (this.#text[this.#at] !== close) {
      if (items.length > 0) this.#expect(',')
      items.push(this.node(depth + 1))
      this.#blanks()
      if (this.#at >= this.#text.length) throw this.#error(`expected ${close}`, `add ${close}`)
    }
    this.#at++
    return items
  }

  #quoted(): string {
    const quote = this.#text[this.#at] ?? ''
    const end = this.#text.indexOf(quote, this.#at + 1)
    if (end < 0) throw this.#error('expected the closing quote', `add ${quote}`)
    const text = this.#text.slice(this.#at + 1, end)
    this.#at = end + 1
    return text
  }

  #expect(character: string): void {
    this.#blanks()
    if (this.#text[this.#at] !== character) throw this.#error(`expected ${character}`, `add ${character}`)
    this.#at++
  }

  /** The regex must be sticky. */
  #take(regex: RegExp): string | undefined {
    regex.lastIndex = this.#at
    const found = regex.exec(this.#text)?.[0]
    this.#at += found?.length ?? 0
    return found
  }

  #blanks(): void {
    this.#take(/\s+/y)
  }

  /** What was found is the whole expression, unless more can be said. */
  #error(message: string, remedy: string, found = JSON.stringify(this.#text.slice(0, 80))): TemplateSyntaxError {
    return new TemplateSyntaxError(`${message}, found ${found}`, remedy)
  }
}

function constant(value: Json): Node {
  return { evaluate: () => value, isMessage: false, base: undefined, reads: [] }
}

function along(steps: readonly Step[], root: Evaluate): Evaluate {
  const [one, two] = steps
  if (one === undefined) return root
  if (two === undefined) return (context) => member(root(context), one)
  if (steps.length === 2) return (context) => member(member(root(context), one), two)
  return (context) => steps.reduce<Json | undefined>(member, root(context))
}

function applied(found: TemplateFunction, args: readonly Evaluate[], text: string): Evaluate {
  return (context) => {
    const values = args.map((evaluate) => evaluate(context))
    try {
      return found.apply(values)
    } catch (error) {
      throw new TemplateError('template_failed', text, `${text}: ${messageOf(error)}`)
    }
  }
}

function wikiOf(context: TemplateContext, expression: string): WikiRoot {
  const wiki = context.wiki()
  if (wiki !== undefined) return wiki
  throw new TemplateError('unknown_wiki', expression, 'no wiki is configured for this event')
}
