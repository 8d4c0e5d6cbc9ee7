import { readdir, readFile } from 'node:fs/promises'
import { onTestFinished } from 'vitest'
import { until } from './until.ts'

/** Resolves when nothing of a process runs any more: beside load some threads go on for a while. It is awake after the test. */
export async function freeze(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP')
  onTestFinished(() => thaw(pid))
  await until('it stands still', async () => (await statesOf(pid)).every((state) => state === 'T'))
}

export function thaw(pid: number): void {
  process.kill(pid, 'SIGCONT')
}

async function statesOf(pid: number): Promise<readonly (string | undefined)[]> {
  const threads = await readdir(`/proc/${pid}/task`)
  const stats = await Promise.all(threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8')))
  return stats.map((stat) => /^.*\) (.)/.exec(stat)?.[1])
}
