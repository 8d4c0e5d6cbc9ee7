import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'

const lookEveryMs = 10_000

/**
 * What `/healthz` warns of is told in the log, too: once as it comes, and once when it is over. Numbers in it may change
 * meanwhile. The answer ends it.
 */
export function logWarnings(
  log: Pick<Logger, 'warn' | 'info'>,
  clock: Clock,
  warnings: () => readonly string[],
): () => void {
  let told = new Map<string, string>()
  let cancel = clock.at(clock.now() + lookEveryMs, look)

  function look(): void {
    const now = new Map(warnings().map((text) => [withoutNumbers(text), text]))
    for (const [name, text] of now) if (!told.has(name)) log.warn(text)
    for (const [name, text] of told) if (!now.has(name)) log.info(`no longer: ${text}`)
    told = now
    cancel = clock.at(clock.now() + lookEveryMs, look)
  }

  return () => cancel()
}

/** Those of addresses and names are what tells one warning from another. */
function withoutNumbers(text: string): string {
  return text.replace(/(?<=^|\s)\d[\d.,]*(?=\s|$)/g, '#')
}
