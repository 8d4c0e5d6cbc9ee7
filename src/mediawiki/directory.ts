import type { Config, WikiConfig } from '../config/config.ts'
import { metaOf } from '../event/event.ts'
import type { WikiRoot } from '../rule/rule.ts'
import { expand, isFarm, plainNames, regexOf, soleWiki, type WikiKey } from './farm.ts'
import { remember } from './remember.ts'
import { type Base, covers, readBase, type Site, targetSite, type WikiTarget, wikiSite, withoutSlash } from './site.ts'
import { SiteIndex } from './site-index.ts'
import type { Directory, Target } from './wiki.ts'

/** How many names of wikis, and how many origins, are remembered. */
const remembered = 10_000
/** Of a host that stands in a rule and nowhere else. */
const literalMaxPauseMs = 3_600_000

/**
 * Who is who among wikis and targets. A plain name goes before a regex, else the first entry that fits counts. Fixed once
 * made: a changed configuration is another directory, and roots of the old one name no wiki in it.
 */
export function createDirectory({ wikis, targets }: Pick<Config, 'wikis' | 'targets'>): Directory {
  const index = new SiteIndex()
  const urls = new Map<string, string>()
  const taken = new Set<string>()
  for (const [name, { url, host, authorization, limits, maxPauseMs }] of Object.entries(targets)) {
    const headers = headersOf(host, authorization)
    const target = { name, headers, maxPauseMs, limits, answers: undefined, api: undefined }
    index.add('target', targetSite(baseOf(url), target))
    urls.set(name, withoutSlash(url))
    taken.add(name)
  }

  const siteOf = new WeakMap<WikiRoot, Site>()
  const plain = { database: new Map<string, WikiRoot>(), domain: new Map<string, WikiRoot>() }
  const patterns: Record<WikiKey, ((name: string) => WikiRoot | undefined)[]> = { database: [], domain: [] }
  for (const entry of wikis) {
    const site = isFarm(entry) ? undefined : soleSite(entry)
    if (site !== undefined) index.add('wiki', site)
    const sole = soleWiki(entry)
    if (site !== undefined) siteOf.set(sole, site)
    for (const key of ['database', 'domain'] as const) {
      const name = entry[key]
      if (name === undefined) continue
      const regex = regexOf(name)
      if (regex === undefined) {
        if (site !== undefined && !plain[key].has(name)) plain[key].set(name, sole)
        continue
      }
      patterns[key].push((given) => {
        const root = expand(entry, key, regex, given)
        const there = root && (site ?? farmSite(entry, root))
        if (root === undefined || there === undefined) return undefined
        siteOf.set(root, there)
        return root
      })
    }
  }

  /** Targets' names and wikis' are keys of one kind (whom to pause), so they must differ. */
  function soleSite(entry: WikiConfig): Site {
    const { database, domain } = plainNames(entry)
    const said = database ?? domain ?? withoutSlash(entry.url)
    const name = taken.has(said) ? `${said} (${withoutSlash(entry.url)})` : said
    taken.add(name)
    return wikiSite(baseOf(entry.url), wikiTarget(name, entry.host, entry))
  }

  const byPattern = {
    database: remember(remembered, (name) => firstFit(patterns.database, name)),
    domain: remember(remembered, (name) => firstFit(patterns.domain, name)),
  }
  function find(key: WikiKey, name: unknown): WikiRoot | undefined {
    if (typeof name !== 'string') return undefined
    return plain[key].get(name) ?? (patterns[key].length > 0 ? byPattern[key](name) : undefined) ?? undefined
  }

  const normalOrigin = remember(remembered, (spelling) => {
    const base = readBase(spelling)
    return base === undefined || base.path !== '' ? null : base.origin
  })
  const stranger = remember(remembered, (origin): Target => {
    const nothing = { headers: {}, limits: undefined, answers: undefined, api: undefined }
    return { name: origin, maxPauseMs: literalMaxPauseMs, ...nothing }
  })

  return {
    wikiOf: (message) =>
      find('database', message.database) ??
      find('database', message.wiki_id) ??
      find('database', message.wiki) ??
      find('domain', metaOf(message)?.domain),

    nameOf: (wiki) => siteOf.get(wiki)?.name,

    targetUrl: (name) => urls.get(name),

    resolve(spelling, path, wiki, literal) {
      const origin = normalOrigin(spelling)
      if (origin === null) return undefined
      const own = wiki && siteOf.get(wiki)
      if (own !== undefined && own.base.origin === origin && covers(own.base, path)) return own.targetAt(path)
      const site = index.covering(origin, path)
      if (site === 'shared') return stranger(origin)
      return site?.targetAt(path) ?? (literal ? stranger(origin) : undefined)
    },
  }
}

/** One of the wikis of a farm; what was filled in tells it from the others. */
function farmSite(entry: WikiConfig, { url, host }: WikiRoot): Site | undefined {
  const base = readBase(url)
  if (base === undefined) return undefined
  const name = host === undefined ? url : `${url} (${host})`
  return wikiSite(base, wikiTarget(name, host, entry))
}

function wikiTarget(name: string, host: string | undefined, entry: WikiConfig): WikiTarget {
  const { authorization, login, limits, maxPauseMs } = entry
  return { name, headers: headersOf(host, authorization), maxPauseMs, limits, login }
}

function firstFit(patterns: readonly ((name: string) => WikiRoot | undefined)[], name: string): WikiRoot | null {
  for (const expandTo of patterns) {
    const root = expandTo(name)
    if (root !== undefined) return root
  }
  return null
}

function baseOf(url: string): Base {
  const base = readBase(url)
  if (base === undefined) throw new Error('the configuration let something pass as a base URL that is none')
  return base
}

function headersOf(host: string | undefined, authorization?: string): Readonly<Record<string, string>> {
  return {
    ...(host === undefined ? undefined : { host }),
    ...(authorization === undefined ? undefined : { authorization }),
  }
}
