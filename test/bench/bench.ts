import { execFileSync } from 'node:child_process'
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { cpus, release, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  bareCalls,
  besideTrouble,
  drains,
  endToEnd,
  fullStore,
  manyRules,
  ofFewKeys,
  ofPolicies,
  repetitions,
  waiting,
} from './groups-calls.ts'
import { appends, intake } from './groups-intake.ts'
import { onKafka } from './groups-kafka.ts'
import { latency, lateness, starts } from './groups-time.ts'
import { Runs } from './runs.ts'
import { asMs, median } from './table.ts'

/*
 * Prints what the built service can do on this machine, each figure beside its limit in the same run: absolute figures
 * are the machine's, compare the ratios. It asserts nothing. Linux only: CPU and memory are read from /proc.
 */

interface Group {
  readonly what: string
  /** Left out of a whole run unless `--big` is given: it takes minutes, and gigabytes of disk. */
  readonly bigOnly?: boolean
  readonly run: (runs: Runs, big: boolean) => Promise<void>
}

const groups: Readonly<Record<string, Group>> = {
  a: { what: 'undici alone', run: bareCalls },
  c: { what: 'intake, beside fastify alone (b) and the store alone (h)', run: intake },
  d: { what: 'drain of 50k at 0, 10 and 50 ms', run: drains },
  end: { what: 'end to end', run: endToEnd },
  e: { what: 'drain with 100k and 1M events stored', bigOnly: true, run: fullStore },
  f: { what: '1, 30 and 300 rules', run: manyRules },
  g: { what: 'memory while deliveries wait', run: waiting },
  h: { what: "the store's own append loop", run: appends },
  p: { what: 'policies, each against none', run: ofPolicies },
  keys: { what: 'dedup on 100k events of 1,000 keys', run: ofFewKeys },
  trouble: { what: 'a good target beside a bad one', run: besideTrouble },
  kafka: { what: 'on Kafka, beside kafkajs and undici alone', bigOnly: true, run: onKafka },
  latency: { what: 'from post to call at 1,000/s', run: latency },
  lateness: { what: 'delayed deliveries; with --big 1M of them', run: lateness },
  start: { what: 'start-up time; with --big on 1M events', run: starts },
}

const help = `npm run bench -- [--only GROUP,…] [--big] [--profile FOLDER]

${Object.entries(groups)
  .map(([name, { what, bigOnly }]) => `  ${name.padEnd(8)} ${what}${bigOnly ? ' (--big)' : ''}`)
  .join('\n')}

--profile has the service leave V8's CPU profiles in FOLDER; it is slower then.`

/** How long the disk under the runs takes to make 64 KiB durable, in ms. */
function syncMs(): number {
  const folder = mkdtempSync(join(tmpdir(), 'changeprop-bench-'))
  const file = openSync(join(folder, 'sync'), 'w')
  const block = Buffer.alloc(64 * 1024, 1)
  const took = Array.from({ length: 50 }, () => {
    const began = performance.now()
    writeSync(file, block)
    fdatasyncSync(file)
    return performance.now() - began
  })
  closeSync(file)
  rmSync(folder, { recursive: true })
  return median(took)
}

function printFacts(): void {
  const fileSystem = execFileSync('df', ['--output=fstype', tmpdir()], { encoding: 'utf8' }).trim().split('\n')[1]
  const cores = cpus()
  const memory = `${(totalmem() / 2 ** 30).toFixed(0)} GiB`
  console.log(
    `${cores.length} × ${cores[0]?.model ?? 'unknown CPU'}, ${memory}, Linux ${release()}, Node ${process.version}`,
  )
  console.log(`Data in ${tmpdir()} on ${fileSystem}; 64 KiB are durable after ${asMs(syncMs())} ms (median of 50).`)
  console.log(`Median [least–most] of ${repetitions} repetitions; each share is to the limit measured right before.`)
  console.log(
    '"Store" is the busiest thread beside the main one, where there is a store. "Others" is CPU that other programs',
  )
  console.log('or the hypervisor took meanwhile, the most in any repetition: above 0.1 cores, measure again.')
}

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    big: { type: 'boolean', default: false },
    profile: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
const wanted = values.only?.split(',') ?? Object.keys(groups).filter((name) => values.big || !groups[name]?.bigOnly)
const unknown = wanted.filter((name) => groups[name] === undefined)

if (values.help) console.log(help)
else if (unknown.length > 0) {
  console.error(`no such group: ${unknown.join(', ')}\n\n${help}`)
  process.exitCode = 2
} else {
  printFacts()
  const runs = await Runs.open(values.profile)
  for (const name of wanted) {
    const group = groups[name]
    if (group === undefined) continue
    const began = performance.now()
    console.error(`${name}: ${group.what}`)
    await group.run(runs, values.big)
    console.error(`  ${((performance.now() - began) / 1000).toFixed(0)} s`)
  }
  await runs.close()
}
