const illegal = /[^\t -~]/
const illegalRun = /[^\t -~]+/g

/**
 * The same headers, with whatever HTTP does not allow in a value percent-encoded as UTF-8: page titles reach headers, and
 * a line break among them must not begin another header. The given record itself where there is nothing to do.
 */
export function legalHeaders(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  for (const name in headers) {
    const value = headers[name]
    if (value !== undefined && illegal.test(value)) return encodeAll(headers)
  }
  return headers
}

function encodeAll(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, value.replace(illegalRun, percentEncode)]),
  )
}

/** Unlike encodeURIComponent this bears lone surrogates, which JSON can say. */
function percentEncode(text: string): string {
  return Buffer.from(text, 'utf8').toString('hex').toUpperCase().replace(/../g, '%$&')
}
