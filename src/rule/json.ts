import type { Json } from '../event/event.ts'

/**
 * What a value has under a key or index; undefined where it has nothing. Only own members count: an event that says
 * `constructor` is no way into the engine.
 */
export function member(value: Json | undefined, key: string | number): Json | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  if (isList(value)) return value[typeof key === 'number' ? key : indexOf(key)]
  const found = value[key]
  return found !== undefined && (!isInherited(key) || Object.hasOwn(value, key)) ? found : undefined
}

export function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value)
}

export function isMapping(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function isEqual(a: Json | undefined, b: Json | undefined): boolean {
  if (a === b) return true
  if (isList(a)) return isList(b) && a.length === b.length && a.every((item, index) => isEqual(item, b[index]))
  if (!isMapping(a) || !isMapping(b)) return false
  const keys = Object.keys(a)
  return keys.length === Object.keys(b).length && keys.every((key) => isEqual(a[key], member(b, key)))
}

/** JSON text that is the same for equal values, whatever the order of their keys. */
export function canonical(value: Json): string {
  if (isList(value)) return `[${value.map(canonical).join(',')}]`
  if (!isMapping(value)) return JSON.stringify(value)
  const pairs = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${pairs.map(([key, inner]) => `${JSON.stringify(key)}:${canonical(inner)}`).join(',')}}`
}

/** An object with own keys only, even one named `__proto__`. */
export function mapping(entries: Iterable<readonly [string, Json]>): { readonly [key: string]: Json } {
  return Object.fromEntries(entries)
}

function indexOf(key: string): number {
  return /^\d{1,9}$/.test(key) ? Number(key) : -1
}

function isInherited(key: string | number): boolean {
  return key in Object.prototype
}
