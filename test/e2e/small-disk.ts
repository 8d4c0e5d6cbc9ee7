import { execFile } from 'node:child_process'
import { mkdtemp, open, rm, rmdir, stat, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Mounting is root's. In CI the test runs, and fails where it cannot. */
export const smallDiskAbsent = process.getuid?.() !== 0 && process.env.CI === undefined

/** A file system of a few MiB, in memory. */
export interface SmallDisk {
  readonly folder: string
  /** Takes up all the room there is, to the last block. */
  fill(): Promise<void>
  /** Of what was filled, so many bytes are free again. */
  leave(bytes: number): Promise<void>
  free(): Promise<void>
  close(): Promise<void>
}

export async function openSmallDisk(mebibytes: number): Promise<SmallDisk> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-disk-'))
  await run('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'changeprop-test', folder])
  const ballast = join(folder, 'ballast')
  return {
    folder,
    async fill() {
      const file = await open(ballast, 'a')
      try {
        for (const size of [256 * 1024, 4096]) {
          while (await fits(() => file.write(Buffer.alloc(size))));
        }
      } finally {
        await file.close()
      }
    },
    leave: async (bytes) => truncate(ballast, (await stat(ballast)).size - bytes),
    free: () => rm(ballast),
    async close() {
      await run('umount', [folder])
      await rmdir(folder)
    },
  }
}

async function fits(write: () => Promise<{ readonly bytesWritten: number }>): Promise<boolean> {
  try {
    return (await write()).bytesWritten > 0
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOSPC') return false
    throw error
  }
}
