import semver from 'semver'

/** How many `$schema` texts a rule remembers having judged. Producers use a handful; a hostile one could use any number. */
const maxRemembered = 1_000
const maxLength = 1_000

/**
 * Whether an event's `$schema` is what a rule wants: the text itself, or a path with a semver range at its end, such as
 * `/mediawiki/page/change/^1.0.0`.
 */
export function compileSchemaTest(wanted: string): (schema: string) => boolean {
  const slash = wanted.lastIndexOf('/')
  const path = wanted.slice(0, slash + 1)
  const range = rangeOf(wanted.slice(slash + 1))
  if (range === undefined) return (schema) => schema === wanted
  const judged = new Map<string, boolean>()
  return (schema) => {
    if (schema.length > maxLength) return false
    const known = judged.get(schema)
    if (known !== undefined) return known
    const fits = schema.startsWith(path) && !schema.includes('/', path.length) && range.test(schema.slice(path.length))
    if (judged.size >= maxRemembered) judged.clear()
    judged.set(schema, fits)
    return fits
  }
}

/** Whether a rule's `schema` ends in a version, or a range of them. */
export function namesVersions(wanted: string): boolean {
  return rangeOf(wanted.slice(wanted.lastIndexOf('/') + 1)) !== undefined
}

function rangeOf(text: string): semver.Range | undefined {
  return text.trim() === '' || semver.validRange(text) === null ? undefined : new semver.Range(text)
}
