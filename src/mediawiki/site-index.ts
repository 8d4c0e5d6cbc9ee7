import { covers, type Site } from './site.ts'

interface Place {
  readonly of: 'target' | 'wiki'
  readonly site: Site
  /** Several wikis live at this very URL, and only an event could tell them apart. */
  isShared: boolean
}

/** Finds who answers at a URL where the event does not say it. */
export class SiteIndex {
  /** By origin; the longest base path first. */
  readonly #places = new Map<string, Place[]>()

  /** At equal URLs a target goes before a wiki. */
  add(of: Place['of'], site: Site): void {
    const { origin, path } = site.base
    const places = this.#places.get(origin) ?? []
    this.#places.set(origin, places)
    const same = places.find((place) => place.site.base.path === path)
    if (same?.of === of) {
      same.isShared = true
      return
    }
    const place: Place = { of, site, isShared: false }
    if (same === undefined) places.push(place)
    else if (of === 'target') places[places.indexOf(same)] = place
    places.sort((a, b) => b.site.base.path.length - a.site.base.path.length)
  }

  /** The site whose URL covers the path longest; `shared` where that URL is several wikis'. */
  covering(origin: string, path: string): Site | 'shared' | undefined {
    const places = this.#places.get(origin)
    if (places === undefined) return undefined
    for (const place of places) if (covers(place.site.base, path)) return place.isShared ? 'shared' : place.site
    return undefined
  }
}
