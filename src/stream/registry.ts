import type { ValidateFunction } from 'ajv'
import { messageOf } from '../base/errors.ts'
import type { Json, JsonObject } from '../event/event.ts'
import type { Admission } from './admission.ts'
import { type CommonFields, checkCommonFields, invalid, isSchemaPath, isVersioned } from './common-fields.ts'
import { compileSchema } from './compile.ts'
import { SchemaTroubles, type TellTrouble } from './schema-troubles.ts'
import { openSource, type SchemaSource } from './source.ts'

export interface Registry {
  /** Answers at once, without a promise, whenever the event's schema is at hand. Never rejects, never changes the event. */
  admit(message: Json): Admission | Promise<Admission>
  /** What keeps events out for no fault of theirs, in sentences. */
  warnings(): readonly string[]
}

export interface RegistryOptions {
  /** Folders or base URLs, asked in this order. */
  readonly from: readonly string[]
  /** Events whose schema is nowhere: stored with only their common fields checked, or not stored. */
  readonly unknown: 'accept' | 'refuse'
  readonly now?: () => number
  readonly tell?: TellTrouble
}

/** A schema that was nowhere, or could not be had, is looked for again after this long. */
const absentForMs = 60_000
const failedForMs = 10_000

/** Producers can name as many schemas as they like; what is remembered of them, and looked for at one time, is bounded. */
const rememberedSchemas = 2_000
const rememberedMisses = 1_000
const loadsAtOnce = 256

/** Why there is no validator. */
interface Miss {
  readonly kind: 'miss'
  readonly until: number
  /** What went wrong; undefined where the schema is simply nowhere. */
  readonly trouble: string | undefined
}

interface Compiled {
  readonly kind: 'compiled'
  readonly validate: ValidateFunction
}

export function createRegistry({ from, unknown, now = Date.now, tell = () => undefined }: RegistryOptions): Registry {
  const sources = from.map(openSource)
  /** Schemas are versioned and do not change: a compiled one is never looked for again. */
  const compiled = new Map<string, Compiled>()
  const misses = new Map<string, Miss>()
  const loads = new Map<string, Promise<Compiled | Miss>>()
  const troubles = new SchemaTroubles(tell, now)

  function withoutSchema(event: CommonFields, trouble: string | undefined): Admission {
    if (trouble !== undefined) return { kind: 'error', stream: event.stream, message: trouble, ours: true }
    if (unknown === 'accept') return event
    return { kind: 'error', stream: event.stream, message: `There is no schema at ${event.schema}.`, ours: false }
  }

  async function load(path: string): Promise<Compiled | Miss> {
    const found = await compileFrom(sources, path, now)
    if (found.kind === 'compiled') {
      misses.delete(path)
      remember(compiled, path, found, rememberedSchemas)
    } else {
      remember(misses, path, found, rememberedMisses)
    }
    troubles.note(path, found.kind === 'compiled' ? undefined : found.trouble)
    loads.delete(path)
    return found
  }

  async function admitLoading(event: CommonFields): Promise<Admission> {
    let loading = loads.get(event.schema)
    if (loading === undefined) {
      if (loads.size >= loadsAtOnce) return withoutSchema(event, 'Too many schemas are being looked for at once.')
      loading = load(event.schema)
      loads.set(event.schema, loading)
    }
    const found = await loading
    return found.kind === 'compiled' ? judge(event, found.validate) : withoutSchema(event, found.trouble)
  }

  return {
    admit(message) {
      const event = checkCommonFields(message)
      if (event.kind !== 'admitted') return event
      const known = compiled.get(event.schema)
      if (known !== undefined) return judge(event, known.validate)
      if (sources.length === 0) return withoutSchema(event, undefined)
      const miss = misses.get(event.schema)
      if (miss !== undefined && now() < miss.until) return withoutSchema(event, miss.trouble)
      return admitLoading(event)
    },
    warnings: () => troubles.warnings(),
  }
}

function judge(event: CommonFields, validate: ValidateFunction): Admission {
  return validate(event.message) === true ? event : invalid(event.stream, validate.errors ?? [])
}

/** Whatever is wrong with a schema, or on the way to it, becomes what the producers of its events are told. */
async function compileFrom(
  sources: readonly SchemaSource[],
  path: string,
  now: () => number,
): Promise<Compiled | Miss> {
  try {
    const schema = await find(sources, path)
    if (schema === undefined) return { kind: 'miss', until: now() + absentForMs, trouble: undefined }
    const validate = await compileSchema(schema, (other) => find(sources, other))
    return { kind: 'compiled', validate }
  } catch (error) {
    const why = messageOf(error)
    return { kind: 'miss', until: now() + failedForMs, trouble: `The schema ${path} cannot be used: ${why}` }
  }
}

/** There is none at a path that could lead elsewhere, or names no version. */
async function find(sources: readonly SchemaSource[], path: string): Promise<JsonObject | undefined> {
  if (!isSchemaPath(path) || !isVersioned(path)) return undefined
  for (const source of sources) {
    const found = await source.find(path)
    if (found !== undefined) return found
  }
  return undefined
}

function remember<Item>(map: Map<string, Item>, key: string, item: Item, most: number): void {
  map.delete(key)
  map.set(key, item)
  if (map.size <= most) return
  for (const oldest of map.keys()) {
    map.delete(oldest)
    return
  }
}
