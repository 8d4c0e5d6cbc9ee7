import type { OutboundRequest } from '../http/send.ts'

const formType = 'application/x-www-form-urlencoded'
/** With which a request to the action API says which pages it is about. */
const pageParameters = new Set(['titles', 'pageids', 'revids', 'generator'])

/** What a request asks of the action API, as far as it is a query and a form. Where both name something the form wins. */
export function parametersOf(request: OutboundRequest): ReadonlyMap<string, string> {
  return new Map([...new URLSearchParams(splitPath(request.path).query), ...new URLSearchParams(formOf(request))])
}

/** The same request for these titles only. Itself where it does not say in query or form which pages it is about. */
export function withTitles(request: OutboundRequest, titles: readonly string[]): OutboundRequest {
  const { base, query } = splitPath(request.path)
  const form = formOf(request)
  const otherQuery = withoutPages(query)
  const otherForm = withoutPages(form)
  const pages = new URLSearchParams({ titles: joinValues(titles) }).toString()
  if (otherForm !== form) {
    return { ...request, path: join('?', base, otherQuery), body: join('&', otherForm, pages) }
  }
  return otherQuery === query ? request : { ...request, path: join('?', base, join('&', otherQuery, pages)) }
}

/** Empty where the body is none. */
function formOf({ headers, body }: OutboundRequest): string {
  if (body === null || headers['content-type']?.toLowerCase().startsWith(formType) !== true) return ''
  return typeof body === 'string' ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8')
}

function splitPath(path: string): { readonly base: string; readonly query: string } {
  const mark = path.indexOf('?')
  return mark < 0 ? { base: path, query: '' } : { base: path.slice(0, mark), query: path.slice(mark + 1) }
}

function withoutPages(form: string): string {
  const kept = form.split('&').filter((pair) => {
    const [name] = new URLSearchParams(pair).keys()
    return name === undefined || !pageParameters.has(name)
  })
  return kept.join('&')
}

/** Only a title that is invalid has a `|` in it, and for such MediaWiki takes another separator, which it finds in front. */
function joinValues(values: readonly string[]): string {
  return values.some((value) => value.includes('|')) ? `\u001f${values.join('\u001f')}` : values.join('|')
}

function join(separator: string, ...parts: readonly string[]): string {
  return parts.filter((part) => part !== '').join(separator)
}
