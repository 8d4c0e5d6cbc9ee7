/** Whether what goes by this name (of a header, a key) is not for other eyes. */
export function isSecretName(name: string): boolean {
  return /authorization|cookie|token|secret|password|api[-_]?key/i.test(name)
}

const mask = '***'

/** The same JSON value, with texts under secret names masked, however deep they lie. */
export function withoutSecrets(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutSecrets)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name,
      isSecretName(name) && typeof inner === 'string' ? mask : withoutSecrets(inner),
    ]),
  )
}

/** A URL, or the path of one, with values under secret names in its query masked. */
export function withoutSecretQuery(url: string): string {
  const mark = url.indexOf('?') + 1
  return mark === 0 ? url : url.slice(0, mark) + withoutSecretFields(url.slice(mark))
}

/** The same text of a form or a query, with values under secret names masked. */
export function withoutSecretFields(form: string): string {
  return form
    .split('&')
    .map((field) => {
      const [name = ''] = new URLSearchParams(field).keys()
      return isSecretName(name) ? `${field.split('=', 1)[0]}=${mask}` : field
    })
    .join('&')
}

const jsonToken = /("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}[\]]|[^\s{}[\],:"]+/g

/** The same JSON text, with all that lies under secret names masked; the rest of it, however it is written, untouched. */
export function withoutSecretMembers(json: string): string {
  let depth = 0
  let secretDepth = Number.POSITIVE_INFINITY
  return json.replace(jsonToken, (token: string, text?: string, colon?: string) => {
    if (text !== undefined && colon !== undefined) {
      if (secretDepth > depth && isSecretName(String(JSON.parse(text)))) secretDepth = depth
      return token
    }
    if (token === '{' || token === '[') {
      depth++
      return token
    }
    const isEnd = token === '}' || token === ']'
    if (isEnd) depth--
    const shown = isEnd || secretDepth > depth ? token : JSON.stringify(mask)
    if (depth <= secretDepth) secretDepth = Number.POSITIVE_INFINITY
    return shown
  })
}
