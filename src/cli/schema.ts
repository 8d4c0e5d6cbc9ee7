import { renderConfigReference } from '../config/reference.ts'
import { configSchema } from '../config/schema.ts'
import { renderRuleReference } from '../rule/reference.ts'
import { rulesSchema } from '../rule/schema.ts'
import { type Io, writeJson } from './io.ts'

export async function printSchema(which: 'rules' | 'config', format: 'json' | 'markdown', io: Io): Promise<number> {
  if (format === 'markdown') {
    io.stdout.write(which === 'rules' ? renderRuleReference() : renderConfigReference())
    return 0
  }
  const schema = which === 'rules' ? rulesSchema : configSchema
  writeJson(io, { $schema: 'http://json-schema.org/draft-07/schema#', ...schema })
  return 0
}
