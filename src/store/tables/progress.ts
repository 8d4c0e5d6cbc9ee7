import type { Progress } from '../store.ts'
import type { Value } from './database.ts'

/** From its column, which was written by us. */
export function readMore(column: Value | undefined): Pick<Progress, 'more'> {
  return typeof column === 'string' ? { more: JSON.parse(column) } : {}
}
