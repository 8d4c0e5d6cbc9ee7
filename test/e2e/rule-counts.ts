import type { RuleSummary, RulesAnswer } from '../../src/api/contract.ts'
import type { Service } from '../support/service.ts'

/** How the deliveries of a rule stand. */
export async function ruleCounts(service: Service, name: string): Promise<RuleSummary> {
  const { body } = await service.get('/v1/rules')
  const rule = isRulesAnswer(body) ? body.rules.find((candidate) => candidate.name === name) : undefined
  if (rule === undefined || rule.gone) throw new Error(`no rule ${name} in ${JSON.stringify(body)}`)
  return rule
}

/** Whether nothing of the rule runs, and nothing waits but for its time. */
export async function isIdle(service: Service, name: string): Promise<boolean> {
  const { waiting, running } = await ruleCounts(service, name)
  const { due = 0, ...others } = waiting
  return running === 0 && Object.values(others).every((count) => count === 0)
}

function isRulesAnswer(body: unknown): body is RulesAnswer {
  return typeof body === 'object' && body !== null && 'rules' in body && Array.isArray(body.rules)
}
