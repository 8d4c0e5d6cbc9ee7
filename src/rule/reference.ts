import { schemaTables } from '../base/schema-tables.ts'
import { isObject } from '../base/schema-words.ts'
import { templateFunctions } from './functions.ts'
import { laterKeys, laterThrottleKeys } from './later-keys.ts'
import { ruleSchema } from './schema.ts'

/** The reference page of the rule language, in Markdown, from the schema that files are checked against. */
export function renderRuleReference(): string {
  const later = [...Object.keys(laterKeys), ...Object.keys(laterThrottleKeys).map((key) => `throttle.${key}`)]
  return [
    '# Rules',
    '',
    'Made from the schema by `npm run docs`; not edited by hand.',
    '',
    'A file of rules is a mapping from names to rules. A rule needs `topic` or `topics`, and `exec` or `cases`.',
    '',
    // A case says what a rule says.
    ...(isObject(ruleSchema) ? schemaTables('Keys of a rule', ruleSchema, ['cases']) : []),
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

function code(text: string): string {
  return `\`${text}\``
}
