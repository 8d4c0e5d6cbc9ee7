import { readdirSync, readFileSync } from 'node:fs'

/*
 * CPU and memory as Linux counts them. `cores` is CPU time per wall time; 1 is one core fully used.
 */

export interface Usage {
  /** CPU by thread, in ms: the main one, the busiest other one (the store's, where there is one), the rest. */
  readonly mainMs: number
  readonly storeMs: number
  readonly restMs: number
  /** Highest anonymous resident memory, in MiB. */
  readonly anonMiB: number
  /** Cores that other programs used meanwhile, and that the hypervisor gave to somebody else. */
  readonly othersCores: number
  readonly stolenCores: number
}

/** The processes that belong to this bench beside the one observed. */
const ours = new Set<number>([process.pid])

export function countAsOurs(pid: number): void {
  ours.add(pid)
}

const anonEveryMs = 100
const msPerTick = 10

/** Begins to watch processes; the answer ends it and tells what all together used in between. */
export function watch(...pids: readonly number[]): () => Usage {
  for (const pid of pids) ours.add(pid)
  const before = { threads: pids.map(threadMs), machine: machineMs(), ours: oursMs(), at: performance.now() }
  let anonMiB = sum(pids.map(anonymousMiB))
  const timer = setInterval(() => {
    anonMiB = Math.max(anonMiB, sum(pids.map(anonymousMiB)))
  }, anonEveryMs)
  return () => {
    clearInterval(timer)
    const wallMs = performance.now() - before.at
    const machine = machineMs()
    const used = pids.map((pid, index) => usedSince(before.threads[index], pid))
    return {
      mainMs: sum(used.map(({ mainMs }) => mainMs)),
      storeMs: sum(used.map(({ storeMs }) => storeMs)),
      restMs: sum(used.map(({ restMs }) => restMs)),
      anonMiB: Math.max(anonMiB, sum(pids.map(anonymousMiB))),
      othersCores: Math.max(0, machine.busy - before.machine.busy - (oursMs() - before.ours)) / wallMs,
      stolenCores: (machine.stolen - before.machine.stolen) / wallMs,
    }
  }
}

function usedSince(before: ReadonlyMap<number, number> | undefined, pid: number) {
  const used = [...threadMs(pid)].map(([tid, ms]) => ({ tid, ms: ms - (before?.get(tid) ?? 0) }))
  const mainMs = used.find(({ tid }) => tid === pid)?.ms ?? 0
  const others = used.filter(({ tid }) => tid !== pid).map(({ ms }) => ms)
  const storeMs = Math.max(0, ...others)
  return { mainMs, storeMs, restMs: sum(others) - storeMs }
}

function sum(figures: readonly number[]): number {
  return figures.reduce((total, figure) => total + figure, 0)
}

export function anonymousMiB(pid: number): number {
  const kib = /^RssAnon:\s+(\d+)/m.exec(read(`/proc/${pid}/status`) ?? '')?.[1]
  return Number(kib ?? 0) / 1024
}

function threadMs(pid: number): Map<number, number> {
  const threads = new Map<number, number>()
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const onCpuNs = read(`/proc/${pid}/task/${tid}/schedstat`)?.split(' ')[0]
    if (onCpuNs !== undefined) threads.set(Number(tid), Number(onCpuNs) / 1e6)
  }
  return threads
}

/** What the bench's processes have used so far. One that ended no longer counts, so watch while none ends. */
function oursMs(): number {
  let ticks = 0
  for (const pid of ours) {
    // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th field after it.
    const fields = read(`/proc/${pid}/stat`)?.split(') ')[1]?.split(' ')
    if (fields === undefined) ours.delete(pid)
    else ticks += Number(fields[11]) + Number(fields[12])
  }
  return ticks * msPerTick
}

function machineMs(): { readonly busy: number; readonly stolen: number } {
  const line = readFileSync('/proc/stat', 'utf8').split('\n')[0] ?? ''
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = line.split(/\s+/).slice(1).map(Number)
  return { busy: (user + nice + system + irq + softirq) * msPerTick, stolen: steal * msPerTick }
}

/** A file of /proc, or undefined where its thread or process is gone. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const gone = error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH')
    if (gone) return undefined
    throw error
  }
}
