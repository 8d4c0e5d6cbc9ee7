import type { Expression } from './expression.ts'
import { encodeSegment, normalisePath } from './percent.ts'
import { type TemplateContext, TemplateError } from './rule.ts'
import { isSlot, type Part, segmentOf, textOf } from './template.ts'
import { TemplateSyntaxError } from './template-syntax-error.ts'

/** The address of a request, compiled. */
export interface UriTemplate {
  /** Where it stands literally in the rule. */
  readonly literalOrigin: string | undefined
  /** Scheme and authority as far as they are literal; undefined for a hole. Undefined where nothing need be asked. */
  readonly originPattern: readonly (string | undefined)[] | undefined
  /** Where the address is the same for all events. */
  readonly constantPath: string | undefined
  origin(context: TemplateContext): string
  /** Origin, and the path with what the address itself says as query. */
  render(context: TemplateContext): Address
}

export interface Address {
  readonly origin: string
  readonly path: string
}

/** An address without a host, for one of the modules within Wikimedia's service. */
export class InternalUriError extends TemplateSyntaxError {}

/** Throws TemplateSyntaxError. `readsQuery`: a `?` begins a query, as Wikimedia's files have it. */
export function compileUri(parts: readonly Part[], readsQuery: boolean): UriTemplate {
  refuseUser(parts)
  const { before, search } = splitQuery(parts, readsQuery)
  const [first, ...rest] = before
  if (first === undefined) throw notAbsolute('nothing')
  if (isSlot(first)) {
    if (first.operator !== '{{' || first.expression.base === undefined) return dynamicUri(before, search)
    if (typeof rest[0] === 'string' ? !rest[0].startsWith('/') : rest.length > 0 && !isPathSlot(rest[0])) {
      throw new TemplateSyntaxError(
        `expected a slash after {{${first.expression.text}}}, found something else`,
        `write {{${first.expression.text}}}/…`,
      )
    }
    return basedUri(first.expression, rest, search)
  }
  if (first.startsWith('/')) {
    throw new InternalUriError(
      `expected an address that begins with http:// or https://, found ${JSON.stringify(first)}, a module within Wikimedia's service`,
      'call a service over HTTP instead; these modules are not supported by this version yet',
    )
  }
  const scheme = /^https?:\/\//i.exec(first)?.[0]
  if (scheme === undefined) throw notAbsolute(first)
  const { authority, path } = splitAuthority([first.slice(scheme.length), ...rest])
  const [host] = authority
  if (host === undefined || (authority.length === 1 && host === '')) throw notAbsolute(first)
  if (authority.length === 1 && typeof host === 'string') return literalUri(scheme + host, path, search)
  return templatedHostUri(scheme.toLowerCase(), authority, path, search)
}

function literalUri(text: string, path: readonly Part[], search: readonly Part[]): UriTemplate {
  const origin = parseOrigin(text)
  if (origin === undefined) throw portFault(text) ?? notAbsolute(text)
  const renderPath = compilePath('', path, search)
  const constant = typeof renderPath === 'string' ? { origin, path: renderPath } : undefined
  return {
    literalOrigin: origin,
    originPattern: undefined,
    constantPath: constant?.path,
    origin: () => origin,
    render: (context) =>
      constant ?? { origin, path: typeof renderPath === 'string' ? renderPath : renderPath(context) },
  }
}

function basedUri(base: Expression, rest: readonly Part[], search: readonly Part[]): UriTemplate {
  const renderPath = compilePath('', rest, search)
  const address = (context: TemplateContext) => {
    const url = textOf(base.evaluate(context), base)
    return baseOf(url) ?? fail(base.text, `expected an http or https address, found ${JSON.stringify(url)}`)
  }
  return {
    literalOrigin: undefined,
    originPattern: undefined,
    constantPath: undefined,
    origin: (context) => address(context).origin,
    render(context) {
      const { origin, path } = address(context)
      const tail = typeof renderPath === 'string' ? renderPath : renderPath(context)
      return { origin, path: rest.length > 0 ? path + tail : path === '' ? tail : path + tail.replace(/^\//, '') }
    },
  }
}

function templatedHostUri(
  scheme: string,
  authority: readonly Part[],
  path: readonly Part[],
  search: readonly Part[],
): UriTemplate {
  const renderPath = compilePath('', path, search)
  const origin = (context: TemplateContext) => {
    let text = ''
    for (const part of authority)
      text += isSlot(part) ? textOf(part.expression.evaluate(context), part.expression) : part
    return (
      parseOrigin(scheme + text) ??
      fail(nameOf(authority), `expected a host and maybe a port, found ${JSON.stringify(text)}`)
    )
  }
  return {
    literalOrigin: undefined,
    originPattern: [scheme, ...authority.map((part) => (isSlot(part) ? undefined : part.toLowerCase()))],
    constantPath: undefined,
    origin,
    render: (context) => ({
      origin: origin(context),
      path: typeof renderPath === 'string' ? renderPath : renderPath(context),
    }),
  }
}

/** Even the scheme comes from the event. */
function dynamicUri(parts: readonly Part[], search: readonly Part[]): UriTemplate {
  const renderSearch = compilePath('', [], search)
  const render = (context: TemplateContext): Address => {
    let text = ''
    for (const part of parts) text += isSlot(part) ? textOf(part.expression.evaluate(context), part.expression) : part
    const found = /^(https?:\/\/[^/]+)(\/.*)?$/is.exec(text)
    const origin = parseOrigin(found?.[1] ?? '')
    if (origin === undefined) {
      return fail(nameOf(parts), `expected an http or https address, found ${JSON.stringify(text.slice(0, 200))}`)
    }
    const query = typeof renderSearch === 'string' ? renderSearch : renderSearch(context)
    return { origin, path: checked(normalisePath(found?.[2] ?? '/'), nameOf(parts)) + query.slice(1) }
  }
  return {
    literalOrigin: undefined,
    originPattern: [undefined],
    constantPath: undefined,
    origin: (context) => render(context).origin,
    render,
  }
}

/** A path, each part of it encoded exactly once, and what the address says as query. */
function compilePath(
  start: string,
  path: readonly Part[],
  search: readonly Part[],
): string | ((context: TemplateContext) => string) {
  const pieces = path.map((part) => (isSlot(part) ? part : normalisePath(part)))
  const query = search.map((part) => part)
  if (!pieces.some(isSlot) && !query.some(isSlot)) {
    const text = start + pieces.join('')
    if (hasDotSegment(text)) {
      throw new TemplateSyntaxError(`expected a path without . and .. in it, found ${text}`, 'write the path out')
    }
    return (text || '/') + query.join('')
  }
  const name = nameOf(path)
  return (context) => {
    let text = start
    for (const piece of pieces) {
      text += isSlot(piece) ? segmentOf(piece, piece.expression.evaluate(context), normalisePath) : piece
    }
    let tail = ''
    for (const part of query) {
      tail += isSlot(part) ? encodeSegment(textOf(part.expression.evaluate(context), part.expression)) : part
    }
    return (checked(text, name) || '/') + tail
  }
}

/** Data must not lead a request out of the folder that the rule names; proxies and servers resolve these. */
function checked(path: string, expression: string): string {
  return hasDotSegment(path)
    ? fail(expression, `expected a path without . and .. in it, found ${path.slice(0, 200)}`)
    : path
}

function hasDotSegment(path: string): boolean {
  return path.includes('/.') && /\/\.\.?(?:\/|$)/.test(path)
}

function splitAuthority(parts: readonly Part[]): { authority: readonly Part[]; path: readonly Part[] } {
  for (const [index, part] of parts.entries()) {
    if (isPathSlot(part)) return { authority: parts.slice(0, index), path: parts.slice(index) }
    const slash = isSlot(part) ? -1 : part.indexOf('/')
    if (isSlot(part) || slash < 0) continue
    const rest = parts.slice(index + 1)
    const head = part.slice(0, slash)
    return {
      authority: [...parts.slice(0, index), ...(head === '' && index > 0 ? [] : [head])],
      path: [part.slice(slash), ...rest],
    }
  }
  return { authority: parts, path: [] }
}

function splitQuery(parts: readonly Part[], readsQuery: boolean): { before: readonly Part[]; search: readonly Part[] } {
  for (const [index, part] of parts.entries()) {
    if (isSlot(part)) continue
    if (part.includes('#')) {
      throw new TemplateSyntaxError(
        `expected an address without #, found ${JSON.stringify(part)}`,
        'leave the fragment out, or write %23',
      )
    }
    const mark = part.indexOf('?')
    if (mark < 0) continue
    if (!readsQuery) {
      throw new TemplateSyntaxError(
        `expected an address without ?, found ${JSON.stringify(part)}`,
        'use query, or write %3F within a path',
      )
    }
    const head = part.slice(0, mark)
    return {
      before: [...parts.slice(0, index), ...(head === '' ? [] : [head])],
      search: [part.slice(mark), ...parts.slice(index + 1)],
    }
  }
  return { before: parts, search: [] }
}

/** Asked first, so that no other problem shows the password. */
function refuseUser(parts: readonly Part[]): void {
  const text = parts.map((part) => (isSlot(part) ? (isPathSlot(part) ? '/' : '') : part)).join('')
  if (!/^(?:[a-z][a-z\d+.-]*:\/*|\/\/)?[^/?#]*@/i.test(text)) return
  throw new TemplateSyntaxError(
    'expected an address without user and password, found one with them (not shown)',
    'leave them out; say who calls by authorization, under headers or with a target of the configuration',
  )
}

function isPathSlot(part: Part | undefined): boolean {
  return part !== undefined && isSlot(part) && part.operator === '{/'
}

const bases = new Map<string, Address | undefined>()
const maxBases = 2_000

/** A wiki's or target's URL without a slash at its end. A farm has many, each asked for again and again. */
function baseOf(url: string): Address | undefined {
  if (!bases.has(url)) {
    if (bases.size >= maxBases) bases.clear()
    const parsed = URL.canParse(url) ? new URL(url) : undefined
    const isHttp = parsed?.protocol === 'http:' || parsed?.protocol === 'https:'
    bases.set(
      url,
      parsed !== undefined && isHttp ? { origin: parsed.origin, path: parsed.pathname.replace(/\/+$/, '') } : undefined,
    )
  }
  return bases.get(url)
}

/** As browsers write it: host in lower case, no default port. Undefined where there is more than scheme, host and port. */
function parseOrigin(text: string): string | undefined {
  if (!/^https?:\/\/[^./?#\\@\s][^/?#\\@\s]*$/i.test(text) || !URL.canParse(text)) return undefined
  return new URL(text).origin
}

function nameOf(parts: readonly Part[]): string {
  return parts.flatMap((part) => (isSlot(part) ? [part.expression.text] : [])).join(', ')
}

function notAbsolute(found: string): TemplateSyntaxError {
  return new TemplateSyntaxError(
    `expected an address that begins with http:// or https:// and a host, found ${JSON.stringify(found)}`,
    'write for instance https://wiki.example/w/api.php, or {{wiki.url}}/api.php',
  )
}

function portFault(origin: string): TemplateSyntaxError | undefined {
  const port = /^https?:\/\/(?:[^:]+|\[.+\]):([^:\]]+)$/i.exec(origin)?.[1]
  if (port === undefined || (/^\d+$/.test(port) && Number(port) <= 65_535)) return undefined
  return new TemplateSyntaxError(`expected a port up to 65535, found ${JSON.stringify(port)}`, 'correct the port')
}

function fail(expression: string, message: string): never {
  throw new TemplateError('template_failed', expression, message)
}
