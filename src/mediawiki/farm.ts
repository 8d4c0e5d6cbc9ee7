import type { WikiConfig } from '../config/config.ts'
import type { WikiRoot } from '../rule/rule.ts'
import { withoutSlash } from './site.ts'

/** What an entry of the configuration looks at in an event. */
export type WikiKey = 'database' | 'domain'

/** Longer names belong to no wiki; this also bounds what a regex has to read. */
const longestName = 255

/** Undefined for a plain name. The configuration has made sure that a regex is one. */
export function regexOf(name: string): RegExp | undefined {
  return name.startsWith('/') ? new RegExp(name.slice(1, -1)) : undefined
}

/** Whether an entry stands for several wikis, told apart by what the regex captured. */
export function isFarm(entry: WikiConfig): boolean {
  return entry.url.includes('{{') || (entry.host?.includes('{{') ?? false)
}

/**
 * The wiki that an entry makes of a name. Undefined where its regex does not fit, or what was captured cannot be part of
 * a URL: events are foreign, and none of them may send calls, and credentials, to a host of its own.
 */
export function expand(entry: WikiConfig, key: WikiKey, regex: RegExp, name: string): WikiRoot | undefined {
  if (name.length > longestName) return undefined
  const found = regex.exec(name)
  if (found === null) return undefined
  const captures: Captures = found.groups ?? {}
  const url = fillUrl(entry.url, captures)
  const host = entry.host === undefined ? '' : fill(entry.host, captures, inHost)
  if (url === undefined || host === undefined) return undefined
  const { database, domain } = plainNames(entry)
  const names = key === 'database' ? { database: name, domain } : { database, domain: name }
  return rootOf(url, host === '' ? undefined : host, names)
}

/** The one wiki of an entry with neither captures nor regex. */
export function soleWiki(entry: WikiConfig): WikiRoot {
  return rootOf(entry.url, entry.host, plainNames(entry))
}

interface Names {
  readonly database: string | undefined
  readonly domain: string | undefined
}

export function plainNames({ database, domain }: WikiConfig): Names {
  return {
    database: database?.startsWith('/') ? undefined : database,
    domain: domain?.startsWith('/') ? undefined : domain,
  }
}

function rootOf(url: string, host: string | undefined, { database, domain }: Names): WikiRoot {
  return {
    url: withoutSlash(url),
    ...(host === undefined ? undefined : { host }),
    ...(database === undefined ? undefined : { database }),
    ...(domain === undefined ? undefined : { domain }),
  }
}

type Captures = Readonly<Record<string, string | undefined>>

const reference = /\{\{\s*(.*?)\s*\}\}/g

/** Where the host ends is decided by the entry as written, before anything is filled in. */
function fillUrl(url: string, captures: Captures): string | undefined {
  const end = url.indexOf('/', url.indexOf('//') + 2)
  const host = fill(end < 0 ? url : url.slice(0, end), captures, inHost)
  const path = end < 0 ? '' : fill(url.slice(end), captures, inPath)
  return host === undefined || path === undefined ? undefined : host + path
}

/** Undefined where a capture is missing or does not pass. */
function fill(text: string, captures: Captures, pass: (value: string) => string | undefined): string | undefined {
  let isWhole = true
  const filled = text.replaceAll(reference, (_all, name: string) => {
    const value = Object.hasOwn(captures, name) ? captures[name] : undefined
    const passed = value === undefined ? undefined : pass(value)
    if (passed === undefined) isWhole = false
    return passed ?? ''
  })
  return isWhole ? filled : undefined
}

/** One or more labels of a host name, whole. */
function inHost(value: string): string | undefined {
  return /^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$/.test(value) ? value : undefined
}

/** One segment of a path. JSON can say lone surrogates, UTF-8 cannot. */
function inPath(value: string): string | undefined {
  return /^\.{0,2}$|[/\\]|\p{Surrogate}/u.test(value) ? undefined : encodeURIComponent(value)
}
