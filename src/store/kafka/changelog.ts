import type { Outgoing } from './batch-sender.ts'
import { type Packed, unpack } from './packed.ts'
import type { Part } from './part.ts'
import { endHeader, ownerHeader, unknownHeader } from './row.ts'
import type { Change } from './shard-protocol.ts'
import type { Topics } from './topics.ts'

export interface ChangelogOptions {
  /** Beside who its owner is. */
  readonly headers?: NonNullable<Outgoing['headers']>
  /** Of what has no row: that it ended, which is the default, that it is not here any more, or that nothing is known of it. */
  readonly withoutRow?: 'ended' | 'gone' | 'unknown'
}

/** What a change of a part's rows is in the changelog. */
export function changelogOf(
  { work, roots }: Pick<Topics, 'work' | 'roots'>,
  { partition, owner }: Part,
  change: Pick<Change, 'records' | 'roots'>,
  { headers: more = {}, withoutRow = 'ended' }: ChangelogOptions = {},
): Outgoing[] {
  const headers = { [ownerHeader]: Buffer.from(owner), ...more }
  const ofTombstones = {
    ended: { ...headers, [endHeader]: Buffer.alloc(0) },
    gone: headers,
    unknown: { ...headers, [unknownHeader]: Buffer.alloc(0) },
  }
  const of = (topic: string, packed: Packed): Outgoing[] =>
    unpack(packed).map(({ key, value }) => {
      return { topic, partition, key, value, headers: value === null ? ofTombstones[withoutRow] : headers }
    })
  return [...of(work, change.records), ...of(roots, change.roots)]
}
