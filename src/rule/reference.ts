import { describeSchema, isObject, type SchemaObject } from '../base/schema-words.ts'
import { templateFunctions } from './functions.ts'
import { laterKeys, laterThrottleKeys } from './later-keys.ts'
import { ruleSchema } from './schema.ts'

/** The reference page of the rule language, in Markdown, from the schema that files are checked against. */
export function renderRuleReference(): string {
  const later = [...Object.keys(laterKeys), ...Object.keys(laterThrottleKeys).map((key) => `throttle.${key}`)]
  return [
    '# Rules',
    '',
    'A file of rules is a mapping from names to rules. A rule needs `topic` or `topics`, and `exec` or `cases`.',
    '',
    ...(isObject(ruleSchema) ? sections('', ruleSchema) : []),
    '## Templates',
    '',
    'Texts in `uri`, `headers`, `query` and `body` may contain `{{expression}}`. A value that is nothing but one of these keeps its type, and its key is left out where the event has nothing there; within text, nothing there is an error and the delivery is dead (`template_failed`). `{expression}` percent-encodes, `{+expression}` does not, `{/expression}` puts a slash before; the last two may find nothing. A single brace begins a template only before a root that is followed by a path, or before a function; any other is text.',
    '',
    'Roots: `message` (the event, with `meta.id` and `meta.dt` filled in), `match` (what regexes captured: `match.meta.uri.title`, `match.meta.uri[1]`), `globals.message` (the event as received), `wiki.url`, `wiki.host`, `wiki.database`, `wiki.domain` (the configured wiki of the event), `targets.NAME.url`.',
    '',
    '| function | gives |',
    '|---|---|',
    ...[...templateFunctions.values()].map(({ signature, means }) => `| ${code(signature)} | ${means} |`),
    '',
    '## Not supported by this version yet',
    '',
    later.map(code).join(', '),
    '',
  ].join('\n')
}

/** A table of a mapping's keys, then the same for the mappings within. */
function sections(path: string, schema: SchemaObject): readonly string[] {
  const properties = isObject(schema.properties) ? Object.entries(schema.properties) : []
  const title = path === '' ? 'Keys of a rule' : `Keys of \`${path}\``
  const rows = properties.map(([key, inner]) => rowOf(key, inner))
  const below = properties.flatMap(([key, inner]) =>
    // A case says what a rule says.
    (key === 'cases' ? [] : mappingsIn(inner)).flatMap((mapping) =>
      sections(path === '' ? key : `${path}.${key}`, mapping),
    ),
  )
  return [`## ${title}`, '', '| key | value | meaning | default |', '|---|---|---|---|', ...rows, '', ...below]
}

function rowOf(key: string, schema: unknown): string {
  const { description = '', default: fallback } = isObject(schema) ? schema : {}
  return `| ${[code(key), describeSchema(schema), String(description), fallback === undefined ? '' : code(String(fallback))].map(cell).join(' | ')} |`
}

/** The first mapping with keys of its own, at once or in a union or list. */
function mappingsIn(schema: unknown): readonly SchemaObject[] {
  if (!isObject(schema)) return []
  if (isObject(schema.properties)) return [schema]
  const inner = Array.isArray(schema.anyOf) ? schema.anyOf : [schema.items]
  const found = inner.flatMap(mappingsIn)
  return found.slice(0, 1)
}

function code(text: string): string {
  return `\`${text}\``
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}
