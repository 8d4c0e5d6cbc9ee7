import { formatPath, type Path } from '../base/document.ts'
import { messageOf } from '../base/errors.ts'
import { runaway } from '../base/regex-safety.ts'

/** Something wrong at a path, in words. */
export interface Objection {
  readonly path: Path
  readonly message: string
  readonly remedy: string
  readonly warning?: boolean
}

interface WikiEntry {
  readonly database?: string
  readonly domain?: string
  readonly url?: string
  readonly host?: string
}

/** What a schema cannot say about the list of wikis; null stands for an entry that cannot be read. */
export function checkWikis(wikis: readonly (WikiEntry | null)[], at: Path): readonly Objection[] {
  const seen = new Map<string, Path>()
  return wikis.flatMap((wiki, index) => {
    if (wiki === null) return []
    const path = [...at, index]
    const names = (['database', 'domain'] as const).flatMap((key) => {
      const name = wiki[key]
      return name === undefined ? [] : [{ key, name, regex: readRegex(name) }]
    })
    const repeated = names.flatMap(({ key, name }): readonly Objection[] => {
      const before = seen.get(`${key} ${name}`)
      seen.set(`${key} ${name}`, [...path, key])
      if (before === undefined) return []
      const message = `expected each ${key} once, found ${JSON.stringify(name)} here and in ${formatPath(before)}`
      return [{ path: [...path, key], message, remedy: 'remove one of them: the first counts' }]
    })
    const broken = names.flatMap(({ key, regex }): readonly Objection[] => {
      if (regex === undefined) return []
      if ('error' in regex)
        return [
          {
            path: [...path, key],
            message: `expected a regular expression, found an error: ${regex.error}`,
            remedy: 'correct it',
          },
        ]
      if (regex.anchored) return []
      const message =
        'expected a regular expression for all of the name, found one that also fits a part of longer names'
      return [{ path: [...path, key], message, remedy: 'begin it with ^ and end it with $', warning: true }]
    })
    const nameless: Objection = {
      path,
      message: 'expected database or domain, found neither',
      remedy: 'add the one that events of this wiki carry',
    }
    return [
      ...(names.length === 0 ? [nameless] : []),
      ...repeated,
      ...broken,
      ...checkCaptures(wiki.url ?? '', names, [...path, 'url']),
      ...checkCaptures(wiki.host ?? '', names, [...path, 'host']),
      ...(wiki.url === undefined ? [] : checkUrl(filled(wiki.url), [...path, 'url'])),
    ]
  })
}

/** What a schema cannot say about a base URL. */
export function checkUrl(text: string, path: Path): readonly Objection[] {
  const remedy = 'write for instance https://wiki.example.org/w'
  if (text.includes('{{')) {
    return [{ path, message: 'expected each {{ to be closed by }}, found one that is not', remedy: 'add }}' }]
  }
  if (!URL.canParse(text))
    return [{ path, message: 'expected an absolute http or https URL, found one that cannot be read', remedy }]
  const url = new URL(text)
  const { protocol, username, password } = url
  if (protocol !== 'http:' && protocol !== 'https:')
    return [{ path, message: `expected an http or https URL, found ${protocol}`, remedy }]
  const found = [
    username !== '' || password !== '' ? 'a user or password (not shown)' : '',
    text.includes('?') ? 'a query' : '',
    text.includes('#') ? 'a fragment' : '',
  ].filter((part) => part !== '')
  return found.length === 0
    ? []
    : [
        {
          path,
          message: `expected a URL of scheme, host, port and path only, found ${found.join(' and ')}`,
          remedy: 'leave it out',
        },
      ]
}

type Regex = { readonly captures: readonly string[]; readonly anchored: boolean } | { readonly error: string }

/** Undefined for a plain name. */
function readRegex(name: string): Regex | undefined {
  if (!name.startsWith('/')) return undefined
  if (name.length < 3 || !name.endsWith('/')) return { error: 'it does not end with a slash' }
  const source = name.slice(1, -1)
  try {
    const danger = runaway(new RegExp(source))
    if (danger !== undefined) return { error: `its time is not bounded: ${danger}` }
    // With an empty alternative it matches anything, and so tells its groups.
    const groups = new RegExp(`(?:${source})|`).exec('')?.groups ?? {}
    return { captures: Object.keys(groups), anchored: source.startsWith('^') && source.endsWith('$') }
  } catch (error) {
    return { error: messageOf(error) }
  }
}

function checkCaptures(
  text: string,
  names: readonly { key: string; regex: Regex | undefined }[],
  path: Path,
): readonly Objection[] {
  const used = [...text.matchAll(/\{\{(.*?)\}\}/g)].map((found) => (found[1] ?? '').trim())
  return [...new Set(used)].flatMap((capture) =>
    names.flatMap(({ key, regex }): readonly Objection[] => {
      if (regex !== undefined && ('error' in regex || regex.captures.includes(capture))) return []
      const known =
        regex === undefined
          ? 'a plain name'
          : regex.captures.length === 0
            ? 'no named capture'
            : regex.captures.join(', ')
      const message = `expected only captures of ${key}, found {{${capture}}} where ${key} has ${known}`
      return [{ path, message, remedy: `write (?<${capture}>…) in ${key}, or leave {{${capture}}} out` }]
    }),
  )
}

/** A URL with its captures filled in by something harmless. */
function filled(url: string): string {
  return url.replaceAll(/\{\{.*?\}\}/g, 'x')
}
