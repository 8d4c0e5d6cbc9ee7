import { join } from 'node:path'
import { ServiceError } from '../../base/errors.ts'
import { isBusy, loadDriver } from '../tables/database.ts'

/**
 * Keeps every other process out of the folder. It is a lock of the kernel's, so it ends with the process, however that
 * ends; the empty file stays. A file of its own, so that the data can be looked at with SQLite's tools meanwhile.
 */
export async function lockFolder(folder: string): Promise<() => void> {
  const Driver = await loadDriver()
  const lock = new Driver(join(folder, 'lock'), { timeout: 0 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    lock.close()
    if (!isBusy(error)) throw error
    throw new ServiceError(
      'STORE_LOCKED',
      `another process has the data folder ${folder} open; stop it, or choose another folder`,
    )
  }
  return () => lock.close()
}
