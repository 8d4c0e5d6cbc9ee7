import type { Key } from '../store.ts'
import { int, type Row } from './database.ts'

/** The last successful call of a key is remembered at least so long. */
export const successKeptMs = 3_600_000

/** What is remembered of a key's calls. */
export interface Start {
  /** Of the newest delivery that was called. */
  readonly pos: number
  /** When that call began, in ms. */
  readonly at: number
  /** Of the last success: whose it was, hash of its `meta.id`, and when, in ms. */
  readonly ok: { readonly pos: number; readonly hash: number | null; readonly at: number } | undefined
}

/** Undefined where nothing is remembered. */
export function readStart(row: Row | undefined): Start | undefined {
  if (typeof row?.pos !== 'number') return undefined
  const { ok_pos: pos, ok_h: hash, ok_at: at } = row
  const ok = typeof pos === 'number' ? { pos, hash: typeof hash === 'number' ? hash : null, at: int(at) } : undefined
  return { pos: row.pos, at: int(row.at), ok }
}

/** From when on a fresh start may follow, in ms. */
export function windowEnd(start: Start, { windowMs }: Key): number {
  return windowMs === 0 ? 0 : start.at + windowMs
}

/** Whether an event with that hash of its `meta.id`, 0 for none, is that of the last success. */
export function isRepeat({ ok }: Start, hash: number, { windowMs }: Key, now: number): boolean {
  return ok?.hash === hash && hash !== 0 && now < ok.at + Math.max(windowMs, successKeptMs)
}
