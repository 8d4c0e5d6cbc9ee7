import type { ErrorObject } from 'ajv'
import { Ajv } from 'ajv'
import type { Json, JsonObject } from '../event/event.ts'
import type { Admission } from './admission.ts'

/** An event whose common fields are in order; admitted, if its own schema agrees. */
export interface CommonFields {
  readonly kind: 'admitted'
  readonly stream: string
  readonly message: JsonObject
  /** The path of its own schema. */
  readonly schema: string
}

/** What is read of every event, whatever its stream; Event Platform's names. */
interface PlatformEvent {
  readonly $schema: string
  readonly meta: { readonly stream: string }
}

/** The alphabet of Kafka's topics, whatever the store is: a stream is to keep its name when it moves there. */
const streamName = '^[A-Za-z0-9_][A-Za-z0-9._-]*$'

/** No part is empty or begins with a dot, so that a path leads nowhere but down. */
const schemaPath = /^(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$/
const longestSchemaPath = 255

const dateTime = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:?\d\d)$/

export const commonSchema = {
  type: 'object',
  required: ['$schema', 'meta'],
  properties: {
    $schema: { type: 'string' },
    meta: {
      type: 'object',
      required: ['stream'],
      properties: {
        stream: { type: 'string', maxLength: 200, pattern: streamName },
        id: { type: 'string', pattern: '^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' },
        dt: { type: 'string', format: 'date-time' },
        domain: { type: 'string', minLength: 1, maxLength: 255 },
      },
    },
  },
}

/** All errors at once: there are few places to look at, so there are few errors. */
const ajv = new Ajv({ allErrors: true })
// ajv-formats' own check takes the text apart, which is dear for something that each event has.
ajv.addFormat('date-time', (text: string) => dateTime.test(text) && !Number.isNaN(Date.parse(text)))
const fits = ajv.compile<PlatformEvent>(commonSchema)

export function checkCommonFields(message: Json): CommonFields | Exclude<Admission, { kind: 'admitted' }> {
  if (!isJsonObject(message))
    return { kind: 'error', stream: undefined, message: 'The event is not a JSON object.', ours: false }
  if (message.$schema === undefined) {
    return {
      kind: 'error',
      stream: streamOf(message),
      message: 'Field $schema is missing from the event.',
      ours: false,
    }
  }
  if (!fits(message)) return invalid(streamOf(message), fits.errors ?? [])
  const { $schema, meta } = message
  if (!isSchemaPath($schema)) {
    const expected = `$schema is expected to be a path such as /mediawiki/job/1.0.0, of at most ${longestSchemaPath} characters.`
    return { kind: 'error', stream: meta.stream, message: expected, ours: false }
  }
  return { kind: 'admitted', stream: meta.stream, message, schema: $schema }
}

export function isSchemaPath(text: string): boolean {
  return text.length <= longestSchemaPath && schemaPath.test(text)
}

/** Schemas have versions; a folder of them may hold other files too, whose names begin with no digit. */
export function isVersioned(path: string): boolean {
  return /\/\d[^/]*$/.test(path)
}

export function invalid(stream: string | undefined, errors: readonly ErrorObject[]): Admission & { kind: 'invalid' } {
  const text = errors.map(({ instancePath, message }) => `${instancePath || 'the event'} ${message}`).join(', ')
  return { kind: 'invalid', stream, errors, text }
}

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function streamOf({ meta }: JsonObject): string | undefined {
  const stream = isJsonObject(meta) ? meta.stream : undefined
  return typeof stream === 'string' ? stream : undefined
}
