import type { Outgoing } from './batch-sender.ts'
import { type Packed, unpack } from './packed.ts'
import type { Part } from './part.ts'
import { endHeader, ownerHeader } from './row.ts'
import type { Change } from './shard-protocol.ts'
import type { Topics } from './topics.ts'

export interface ChangelogOptions {
  /** Beside who its owner is. */
  readonly headers?: NonNullable<Outgoing['headers']>
  /** What has no row any more has ended. The default. */
  readonly saysEnds?: boolean
}

/** What a change of a part's rows is in the changelog. */
export function changelogOf(
  { work, roots }: Pick<Topics, 'work' | 'roots'>,
  { partition, owner }: Part,
  change: Pick<Change, 'records' | 'roots'>,
  { headers: more = {}, saysEnds = true }: ChangelogOptions = {},
): Outgoing[] {
  const headers = { [ownerHeader]: Buffer.from(owner), ...more }
  const ofEnds = saysEnds ? { ...headers, [endHeader]: Buffer.alloc(0) } : headers
  const of = (topic: string, packed: Packed): Outgoing[] =>
    unpack(packed).map(({ key, value }) => {
      return { topic, partition, key, value, headers: value === null ? ofEnds : headers }
    })
  return [...of(work, change.records), ...of(roots, change.roots)]
}
