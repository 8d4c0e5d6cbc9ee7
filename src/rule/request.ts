import type { Path } from '../base/document.ts'
import { suggest } from '../base/suggestion.ts'
import type { Json, JsonObject } from '../event/event.ts'
import { compileBody } from './body.ts'
import type { Expression } from './expression.ts'
import type { Findings } from './findings.ts'
import { compileForm } from './form.ts'
import { compileHeaders } from './headers.ts'
import { couldBeCovered, type Hosts } from './hosts.ts'
import type { RequestTemplate, TemplateContext } from './rule.ts'
import { compileUri, InternalUriError, type UriTemplate } from './uri.ts'
import type { TemplateCompiler } from './value.ts'

/** One request of `exec`, with durations in ms. */
export interface RequestText {
  readonly method: string | undefined
  readonly uri: string
  readonly headers: JsonObject | undefined
  readonly query: JsonObject | undefined
  readonly body: Json | undefined
  readonly timeoutMs: number
}

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PURGE']

/** Compiles a request; undefined where that cannot be done, which is a problem by then. */
export function compileRequest(
  text: RequestText,
  at: Path,
  hosts: Hosts,
  templates: TemplateCompiler,
): RequestTemplate | undefined {
  const { findings, expressions } = templates
  const before = expressions.length
  const method = (text.method ?? 'GET').toUpperCase()
  if (!methods.includes(method)) {
    const meant = suggest(method, methods)?.toLowerCase()
    const remedy = meant === undefined ? `use one of ${methods.join(', ').toLowerCase()}` : `did you mean ${meant}?`
    findings.error([...at, 'method'], `expected an HTTP method, found ${JSON.stringify(text.method)}`, remedy)
  }
  const uri = addressOf(text.uri, [...at, 'uri'], hosts, templates)
  const headers = compileHeaders(text.headers ?? {}, [...at, 'headers'], templates)
  const query = text.query === undefined ? '' : compileForm(templates.value(text.query, [...at, 'query']))
  const isBodiless = method === 'GET' || method === 'HEAD'
  if (text.body !== undefined && text.body !== null && isBodiless) {
    findings.error(
      [...at, 'body'],
      `expected no body with ${method.toLowerCase()}, found one`,
      'use post, or leave the body out',
      'key',
    )
  }
  const body =
    text.body === undefined
      ? undefined
      : compileBody(templates.value(text.body, [...at, 'body']), headers.contentType, method, [...at, 'body'], findings)
  const own = expressions.slice(before)
  for (const { at, expression } of own) checkTargets(expression, at, hosts, findings)
  const usesToken = own.some(({ expression }) => readsToken(expression))
  if (uri === undefined) return undefined
  const needed =
    body?.contentType === undefined || headers.contentType !== undefined ? {} : { 'content-type': body.contentType }
  return template(method, uri, query, headers.compile(needed), body?.render, text.timeoutMs, usesToken)
}

function readsToken({ reads }: Expression): boolean {
  return reads.some(([root, field]) => root === 'wiki' && field === 'token')
}

function checkTargets({ reads }: Expression, at: Path, hosts: Hosts, findings: Findings): void {
  const known = Object.keys(hosts.targets)
  for (const [root, name] of reads) {
    if (root !== 'targets' || known.includes(String(name))) continue
    const meant = suggest(String(name), known)
    const remedy = meant === undefined ? 'add it to targets in the configuration' : `did you mean ${meant}?`
    findings.error(at, `expected the name of a configured target, found ${name}`, remedy)
  }
}

function template(
  method: string,
  uri: UriTemplate,
  query: string | ((context: TemplateContext) => string),
  headers: (context: TemplateContext) => Readonly<Record<string, string>>,
  body: ((context: TemplateContext) => Uint8Array | string | null) | undefined,
  timeoutMs: number,
  usesToken: boolean,
): RequestTemplate {
  const constantPath = uri.constantPath !== undefined && query === '' ? uri.constantPath : undefined
  return {
    method,
    literalOrigin: uri.literalOrigin,
    usesToken,
    origin: (context) => uri.origin(context),
    render(context) {
      const { origin, path } = uri.render(context)
      return {
        method,
        origin,
        path: constantPath ?? withQuery(path, typeof query === 'string' ? query : query(context)),
        headers: headers(context),
        body: body === undefined ? null : body(context),
        timeoutMs,
      }
    },
  }
}

function withQuery(path: string, query: string): string {
  return query === '' ? path : `${path}${path.includes('?') ? '&' : '?'}${query}`
}

function addressOf(text: string, at: Path, hosts: Hosts, templates: TemplateCompiler): UriTemplate | undefined {
  const { findings } = templates
  const isService = findings.dialect === 'service'
  const parts = templates.parts(text, at)
  if (parts === undefined) return undefined
  const uri = templates.attempt(at, () => {
    try {
      return compileUri(parts, isService)
    } catch (error) {
      if (!isService || !(error instanceof InternalUriError)) throw error
      findings.warn(at, `${error.message}; the rule is left out`, error.remedy)
      return undefined
    }
  })
  for (const part of parts) {
    const expression = typeof part === 'string' ? undefined : part.expression
    if (expression?.isMessage) {
      findings.error(at, 'expected text in an address, found the whole message', 'name a property of the event')
    }
    if (expression !== undefined && readsToken(expression)) {
      findings.error(at, 'expected no secret in an address, found wiki.token', 'put it into the body')
    }
    if (expression?.base?.kind === 'wiki' && hosts.wikis.length === 0) {
      findings.warn(
        at,
        'expected a configured wiki for {{wiki.url}}, found none',
        'add it to wikis in the configuration',
      )
    }
  }
  if (uri?.originPattern !== undefined && !couldBeCovered(uri.originPattern, hosts)) {
    findings.error(
      at,
      'expected a host that stands in the rule or that a configured wiki or target covers, found one that only the event names',
      'add it to wikis or targets in the configuration, or write the host out',
    )
  }
  return uri
}
