import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { onTestFinished } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { createEmbeddedStore } from '../../src/store/embedded/embedded-store.ts'
import type { LaneBacklog, Routable, Store, StoreHealth } from '../../src/store/store.ts'
import { manyBytes } from './limits.ts'
import { anEvent, type OpenStore, type StoreWorld } from './world.ts'

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
  const backlog: LaneBacklog[] = []
  const found = await store.open({
    committed: () => {
      told.commits += 1
    },
    changed: (health) => changes.push(health),
    broken: (error) => broken.push(error),
    rows: (change) => backlog.push(change),
    lost: () => undefined,
    shared: () => undefined,
  })
  backlog.push(...found)
  return { store, backlog, told }
}

/** A store's process, to be killed. `line` is called with each line it says. */
export function startChild(
  path: string,
  mode: 'work' | 'hold',
  run: string,
  line: (text: string) => void,
): ChildProcess {
  const program = new URL('./child.ts', import.meta.url).pathname
  const child = spawn(process.execPath, ['--import', 'tsx', program, path, mode, run], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  createInterface({ input: child.stdout }).on('line', line)
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill('SIGKILL')) await once(child, 'exit')
  })
  return child
}

/** Everything that `next` still has, up to an event that is appended for the purpose. */
export async function drain(store: Store): Promise<Routable[]> {
  const last = anEvent()
  await store.append([last])
  const drained: Routable[] = []
  for (;;) {
    const page = await store.next(500)
    for (const routable of page) {
      if (Buffer.from(routable.record.bytes).equals(last.bytes)) return drained
      drained.push(routable)
    }
    if (page.length === 0) throw new Error('the store closed before it gave the last event')
  }
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
