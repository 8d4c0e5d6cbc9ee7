/** Percent-decodes; throws URIError where an escape is malformed. */
export const percentDecode = decodeURIComponent

/** As encodeURIComponent, for any text at all: half of a surrogate pair becomes U+FFFD. */
export function percentEncode(text: string): string {
  try {
    return encodeURIComponent(text)
  } catch (error) {
    if (!(error instanceof URIError)) throw error
    return encodeURIComponent(Buffer.from(text, 'utf8').toString('utf8'))
  }
}

/**
 * The path of a URI, each segment encoded exactly once, wherever it came from: escapes are decoded first, those that cannot
 * be are taken for text.
 */
export function normalisePath(path: string): string {
  if (/^[\w./~!*()-]*$/.test(path)) return path
  return path.split('/').map(normaliseSegment).join('/')
}

/** A value as one segment, or a part of one; MediaWiki and proxies disagree about a bare apostrophe. */
export function encodeSegment(text: string): string {
  return percentEncode(text).replaceAll("'", '%27')
}

function normaliseSegment(segment: string): string {
  return encodeSegment(segment.replace(utf8Escapes, decodeOrKeep))
}

/** Escapes of one character in UTF-8. */
const utf8Escapes =
  /%[0-7][\da-f]|%[cd][\da-f]%[89ab][\da-f]|%e[\da-f](?:%[89ab][\da-f]){2}|%f[0-7](?:%[89ab][\da-f]){3}/gi

function decodeOrKeep(escapes: string): string {
  try {
    return decodeURIComponent(escapes)
  } catch (error) {
    if (!(error instanceof URIError)) throw error
    return escapes
  }
}

/** A header's value may hold visible ASCII; anything else, line breaks above all, is percent-encoded. */
export function encodeHeader(text: string): string {
  return /^[\t\x20-\x7e]*$/.test(text) ? text.trim() : text.trim().replace(/[^\t\x20-\x7e]+/g, percentEncode)
}
