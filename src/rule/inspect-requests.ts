import { Ajv } from 'ajv'
import type { Path } from '../base/document.ts'
import type { Json } from '../event/event.ts'
import type { Findings } from './findings.ts'
import type { Hosts } from './hosts.ts'
import { isList, isMapping, mapping, member } from './json.ts'
import { once } from './once.ts'
import { compileRequest } from './request.ts'
import { type PartialRequestText, partialRequestSchema, type RuleText } from './schema.ts'
import { TemplateCompiler } from './value.ts'

const partialRequest = once(() => new Ajv({ strict: false }).compile<PartialRequestText>(partialRequestSchema))

/**
 * Looks into the requests of a rule whose `exec` or `cases` have keys of the wrong type or name: what is wrong within the
 * other keys is to be told at once too.
 */
export function inspectRequests(
  rule: { readonly exec?: Json; readonly cases?: Json },
  usable: Partial<RuleText> | undefined,
  at: Path,
  findings: Findings,
  hosts: Hosts,
): void {
  const validate = partialRequest()
  const inspect = (exec: Json | undefined, place: Path) => {
    for (const [index, request] of (isList(exec) ? exec : [exec]).entries()) {
      if (!isMapping(request)) continue
      const readable = mapping(Object.entries(request).filter(([key, value]) => validate({ [key]: value })))
      if (!validate(readable)) continue
      const { method, uri = 'http://localhost/', headers, query, body } = readable
      const text = { method, uri, headers, query, body, timeoutMs: 1 }
      compileRequest(text, isList(exec) ? [...place, index] : place, hosts, new TemplateCompiler(findings))
    }
  }
  if (usable?.exec === undefined) inspect(rule.exec, [...at, 'exec'])
  if (usable?.cases !== undefined || !isList(rule.cases)) return
  for (const [index, one] of rule.cases.entries()) inspect(member(one, 'exec'), [...at, 'cases', index, 'exec'])
}
