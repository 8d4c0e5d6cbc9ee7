import type { Path } from '../base/document.ts'
import type { Json, JsonObject } from '../event/event.ts'
import { isList, isMapping, member } from './json.ts'

/** The rules within a whole service configuration of Wikimedia's change propagation. */
export interface ServiceFile {
  /** Where the mapping from names to rules is. */
  readonly at: Path
  readonly rules: JsonObject
  /** Options of the module that holds them, beside the rules. */
  readonly optionsAt: Path
  readonly options: JsonObject
}

/** Undefined where the document is no such configuration; an empty list where it is one without rules. */
export function findServiceRules(value: Json): readonly ServiceFile[] | undefined {
  if (!isMapping(value)) return undefined
  const specs = specsOf(value)
  if (specs.length === 0) return undefined
  return specs.flatMap(({ spec, at }) =>
    Object.entries(mappingAt(spec, 'paths')).flatMap(([path, inner]) =>
      listAt(inner, 'x-modules').flatMap((module, index) => {
        const options = mappingAt(module, 'options')
        const { templates } = options
        const isKafka = /(?:^|\/)kafka(?:\.js)?$/.test(String(member(module, 'path')))
        if (!isKafka || !isMapping(templates)) return []
        const optionsAt = [...at, 'paths', path, 'x-modules', index, 'options']
        return [{ at: [...optionsAt, 'templates'], rules: templates, optionsAt, options }]
      }),
    ),
  )
}

function specsOf(value: JsonObject): readonly { spec: Json; at: Path }[] {
  const services = listAt(value, 'services').flatMap((service, index) => {
    const spec = member(member(service, 'conf'), 'spec')
    return hasPaths(spec) ? [{ spec, at: ['services', index, 'conf', 'spec'] }] : []
  })
  if (services.length > 0) return services
  if (hasPaths(value.spec)) return [{ spec: value.spec, at: ['spec'] }]
  return hasPaths(value) ? [{ spec: value, at: [] }] : []
}

/** `paths` leads to modules there; a rule of that name would lead to `topic` and `exec`. */
function hasPaths(spec: Json | undefined): spec is JsonObject {
  return Object.values(mappingAt(spec, 'paths')).some((path) => isList(member(path, 'x-modules')))
}

function mappingAt(value: Json | undefined, key: string): JsonObject {
  const found = member(value, key)
  return isMapping(found) ? found : {}
}

function listAt(value: Json | undefined, key: string): readonly Json[] {
  const found = member(value, key)
  return isList(found) ? found : []
}
