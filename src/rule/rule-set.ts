import type { Rule, RuleSet } from './rule.ts'

/** Rules of named streams are a few per topic; topics that no rule concerns may be without number. */
const maxTopics = 10_000

/** Which rules a topic concerns is worked out once per topic. */
export function ruleSet(rules: readonly Rule[]): RuleSet {
  const byName = new Map(rules.map((rule) => [rule.name, rule]))
  const byTopic = new Map<string, readonly Rule[]>()
  return {
    rules,
    get: (name) => byName.get(name),
    forTopic(topic) {
      const known = byTopic.get(topic)
      if (known !== undefined) return known
      const concerned = Object.freeze(rules.filter((rule) => rule.concernsTopic(topic)))
      if (byTopic.size >= maxTopics) byTopic.clear()
      byTopic.set(topic, concerned)
      return concerned
    },
  }
}
