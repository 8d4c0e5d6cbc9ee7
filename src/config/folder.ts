import { stat } from 'node:fs/promises'
import { isAbsolute } from 'node:path'
import type { Path } from '../base/document.ts'
import { messageOf } from '../base/errors.ts'
import type { Objection } from './sites.ts'

/** Whether a path that was written at `at` leads to a folder. */
export async function checkFolder(
  path: string,
  at: Path,
  locate: (path: string) => string,
): Promise<readonly Objection[]> {
  const found = await foundInstead(locate(path))
  if (found === undefined) return []
  const message = `expected a folder, found ${found} at ${path}`
  const place = isAbsolute(path) ? '' : ' (relative to the working directory)'
  return [{ path: at, message, remedy: `create it, or correct the path${place}` }]
}

async function foundInstead(path: string): Promise<string | undefined> {
  try {
    return (await stat(path)).isDirectory() ? undefined : 'a file'
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return 'nothing'
    return `an error (${messageOf(error)})`
  }
}
