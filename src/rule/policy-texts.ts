import { formatDuration, formatRate } from '../base/units.ts'
import type { Dedup, Expire, Limits, PolicyTexts, Supersede, Throttle } from './rule.ts'
import type { RuleText, SampleText } from './schema.ts'

/** What a rule for MediaWiki's jobs says where it says nothing. */
export const impliedKeys = {
  dedup: '{{message.sha1}}',
  signature: '{{message.root_event.signature}}',
  time: '{{message.root_event.dt}}',
} as const

interface Compiled {
  readonly throttle: Throttle
  readonly dedup: Dedup | undefined
  readonly supersede: Supersede | undefined
  readonly expire: Expire | undefined
}

/** Policies as they are in force, in the words in which our own files would say it. */
export function policyTexts(
  { throttle, delay, dedup, supersede, order, sample, cases = [] }: Partial<RuleText>,
  compiled: Compiled,
): PolicyTexts {
  const samples = cases.map((one) => ('sample' in one ? sampleText(one.sample) : sampleText(sample)))
  return {
    throttle: throttleText(throttle?.key, compiled.throttle),
    delay: delay ?? null,
    dedup: compiled.dedup === undefined ? null : dedupText(dedup, compiled.dedup),
    supersede: compiled.supersede === undefined ? null : supersedeText(supersede, compiled.supersede),
    order: order === undefined ? null : { key: order.key },
    expire: compiled.expire === undefined ? null : expireText(compiled.expire),
    sample: cases.some((one) => 'sample' in one) ? samples : sampleText(sample),
  }
}

function throttleText(key: string | undefined, { total, perKey }: Throttle): PolicyTexts['throttle'] {
  if (key === undefined) return limitsText(total)
  return { ...limitsText(perKey), key, total: limitsText(total) }
}

function limitsText({ concurrency, perSecond, burst }: Limits): PolicyTexts['throttle'] {
  return Number.isFinite(perSecond) ? { concurrency, rate: formatRate(perSecond), burst } : { concurrency }
}

function dedupText(dedup: RuleText['dedup'], { windowMs, acrossWikis }: Dedup): PolicyTexts['dedup'] {
  const { key } = dedup || { key: impliedKeys.dedup }
  return { key, window: windowMs === 0 ? null : formatDuration(windowMs), across_wikis: acrossWikis }
}

function supersedeText(supersede: RuleText['supersede'], { acrossWikis }: Supersede): PolicyTexts['supersede'] {
  const { signature, time } = supersede || impliedKeys
  return { signature, time, across_wikis: acrossWikis }
}

function expireText({ ageMs, rootAgeMs }: Expire): PolicyTexts['expire'] {
  const text = (ms: number) => (Number.isFinite(ms) ? formatDuration(ms) : null)
  return { age: text(ageMs), root_age: text(rootAgeMs) }
}

function sampleText(sample: SampleText | undefined): { rate: number; key: string } | null {
  return sample === undefined ? null : { rate: sample.rate, key: sample.key ?? sample.hash_template ?? '' }
}
