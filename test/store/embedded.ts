import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { createEmbeddedStore } from '../../src/store/embedded/embedded-store.ts'
import type { StoreHealth } from '../../src/store/store.ts'
import type { OpenStore, StoreWorld } from './world.ts'

const gib = 2 ** 30

export const manyBytes = { ageMs: 7 * 86_400_000, sizeBytes: gib, deadBytes: gib }

export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-store-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

export async function openEmbedded(path: string, clock?: Clock, retention = manyBytes): Promise<OpenStore> {
  const store = createEmbeddedStore({ path, retention, ...(clock === undefined ? {} : { clock }) })
  const changes: StoreHealth[] = []
  const broken: Error[] = []
  const told = { changes, broken, commits: 0 }
  const backlog = await store.open({
    woken: () => undefined,
    committed: () => {
      told.commits += 1
    },
    changed: (health) => changes.push(health),
    broken: (error) => broken.push(error),
  })
  return { store, backlog, told }
}

/** A kill is a copy of the folder as it is: nothing that the process would still have done is in it. */
export async function openEmbeddedWorld(): Promise<StoreWorld> {
  let path = await temporaryFolder()
  return {
    open: (clock) => openEmbedded(path, clock),
    async kill() {
      const copy = await temporaryFolder()
      await cp(path, copy, { recursive: true })
      path = copy
    },
  }
}
