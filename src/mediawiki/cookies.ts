/** A wiki's cookies, by name. They go back to that wiki only, whatever path and domain they name. */
export class Cookies {
  readonly #values = new Map<string, string>()

  /** Takes the value of a `set-cookie` header; several come joined by commas, which also stand in dates. */
  take(header: string | undefined, now: number): void {
    for (const cookie of header?.split(/,\s*(?=[^\s;,=]+=)/) ?? []) {
      const [pair = '', ...attributes] = cookie.split(';')
      const end = pair.indexOf('=')
      const name = pair.slice(0, end).trim()
      if (end <= 0 || name === '') continue
      if (attributes.some((attribute) => hasEnded(attribute.trim(), now))) this.#values.delete(name)
      else this.#values.set(name, pair.slice(end + 1).trim())
    }
  }

  /** Undefined where there are none. */
  header(): string | undefined {
    if (this.#values.size === 0) return undefined
    return [...this.#values].map(([name, value]) => `${name}=${value}`).join('; ')
  }
}

function hasEnded(attribute: string, now: number): boolean {
  const [, name = '', value = ''] = /^(expires|max-age)=(.*)$/i.exec(attribute) ?? []
  return name.toLowerCase() === 'max-age' ? Number(value) <= 0 : name !== '' && Date.parse(value) <= now
}
