/** Whether what goes by this name (of a header, a key) is not for other eyes. */
export function isSecretName(name: string): boolean {
  return /authorization|cookie|token|secret|password|api[-_]?key/i.test(name)
}

const mask = '***'

/** The same JSON value, with all that lies under secret names masked, in its texts too. */
export function withoutSecrets(value: unknown, isSecret = false): unknown {
  if (Array.isArray(value)) return value.map((item) => withoutSecrets(item, isSecret))
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([name, inner]) => [name, withoutSecrets(inner, isSecret || isSecretName(name))]),
    )
  }
  if (isSecret) return mask
  return typeof value === 'string' ? withoutSecretParts(value) : value
}

/** What a rule sends may be written as one text: JSON, maybe with templates in it, a form, or an address with a query. */
function withoutSecretParts(text: string): string {
  if (/^\s*(?:\{(?!\{)|\[)/.test(text)) return withoutSecretMembers(text)
  return /^[^=]*\?/.test(text) ? withoutSecretQuery(text) : withoutSecretFields(text)
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
      return field.includes('=') && isSecretName(name) ? `${field.split('=', 1)[0]}=${mask}` : field
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
      if (secretDepth > depth && isSecretName(nameIn(text))) secretDepth = depth
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

/** A text with templates in it need not be JSON in every place. */
function nameIn(json: string): string {
  try {
    return String(JSON.parse(json))
  } catch {
    return json
  }
}
