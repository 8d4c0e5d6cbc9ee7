import { configSchema } from '../config/schema.ts'
import { rulesSchema } from '../rule/schema.ts'
import { type Io, writeJson } from './io.ts'

export async function printSchema(which: 'rules' | 'config', io: Io): Promise<number> {
  const schema = which === 'rules' ? rulesSchema : configSchema
  writeJson(io, { $schema: 'http://json-schema.org/draft-07/schema#', ...schema })
  return 0
}
