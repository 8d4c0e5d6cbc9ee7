import { schemaTables } from '../base/schema-tables.ts'
import { isObject } from '../base/schema-words.ts'
import { configSchema } from './schema.ts'

/** The reference page of the configuration, in Markdown, from the schema that files are checked against. */
export function renderConfigReference(): string {
  return [
    '# Configuration',
    '',
    'Made from the schema by `npm run docs`; not edited by hand.',
    '',
    'A YAML file, given with `--config`. A single value, or a list of texts with commas between them, can also come from the environment, which goes before the file: `CHANGEPROP_LISTEN_PORT` is `listen.port`. Flags go before both. `changeprop config` shows what came of it, each value with its origin. Secrets are text, `{ env: NAME }` or `{ file: PATH }`. Relative paths are relative to the working directory. Durations are written `500ms 2s 5m 1h 7d`, sizes `512KiB 10MiB 5GiB`.',
    '',
    ...(isObject(configSchema) ? schemaTables('Top level', configSchema) : []),
  ].join('\n')
}
