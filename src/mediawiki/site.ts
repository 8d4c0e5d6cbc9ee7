import type { LoginConfig } from '../config/config.ts'
import type { Target } from './wiki.ts'

/** Where a base URL points. */
export interface Base {
  /** Scheme, host and port as browsers spell them. */
  readonly origin: string
  /** Without a slash at its end; empty for the root. */
  readonly path: string
}

/** A wiki or target at its base URL. */
export interface Site {
  readonly base: Base
  /** That of all its targets. */
  readonly name: string
  /** Who answers for a path that the site covers; a query may follow it. */
  targetAt(path: string): Target
}

/** Undefined where calls cannot go there. */
export function readBase(url: string): Base | undefined {
  if (!URL.canParse(url)) return undefined
  const { protocol, username, password, search, hash, origin, pathname } = new URL(url)
  if (protocol !== 'http:' && protocol !== 'https:') return undefined
  if (username !== '' || password !== '' || search !== '' || hash !== '') return undefined
  return { origin, path: withoutSlash(pathname) }
}

export function withoutSlash(url: string): string {
  return url.replace(/\/+$/, '')
}

export function targetSite(base: Base, target: Target): Site {
  return { base, name: target.name, targetAt: () => target }
}

export interface WikiTarget extends Omit<Target, 'answers' | 'api'> {
  readonly login: LoginConfig | undefined
}

/** A wiki's two well-known end points say by themselves how their answers are to be read. */
export function wikiSite(base: Base, { login, ...target }: WikiTarget): Site {
  const apiPath = `${base.path}/api.php`
  const wiki = { ...target, api: { origin: base.origin, path: apiPath, login } }
  const plain: Target = { ...wiki, answers: undefined }
  const api: Target = { ...wiki, answers: 'mediawiki-api' }
  const job: Target = { ...wiki, answers: 'mediawiki-job' }
  const jobPath = `${base.path}/rest.php/eventbus/v0/internal/job/execute`
  return {
    base,
    name: target.name,
    targetAt(path) {
      switch (withoutQuery(path)) {
        case apiPath:
          return api
        case jobPath:
          return job
        default:
          return plain
      }
    },
  }
}

/**
 * Whether a path of the base's origin lies within it: equal, or continued at a slash. A path with dot segments leads
 * elsewhere than it reads, so only the whole of an origin covers that.
 */
export function covers(base: Base, path: string): boolean {
  if (base.path === '') return true
  if (!path.startsWith(base.path)) return false
  const next = path[base.path.length]
  return (next === undefined || next === '/' || next === '?') && !dotSegment.test(withoutQuery(path))
}

const dotSegment = /(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:[/\\]|%2f|%5c|$)/i

function withoutQuery(path: string): string {
  const query = path.indexOf('?')
  return query < 0 ? path : path.slice(0, query)
}
