import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { stream } from './event.ts'
import { monotonicMs } from './part.ts'

/*
 * The service under test: the built one, started as an operator would.
 */

export interface ServiceOptions {
  /** Holds its configuration, rules and data; what an earlier start left there is found again. */
  readonly folder: string
  readonly rules: string
  /** Where to leave V8's CPU profiles; undefined for none. */
  readonly profiles: string | undefined
  /** `store:` of its configuration, as lines of YAML; left out for the embedded one in `folder`. */
  readonly store?: string
}

export interface Service {
  readonly pid: number
  readonly port: number
  /** From spawning it to its ready line. */
  readonly startMs: number
  /** Puts other rules in force; the calls they cause tell when they are. */
  swapRules(rules: string): void
  /** Waits until so many deliveries of this start have come to `state`, durably; tells when that was seen. */
  settled(deliveries: number, state?: 'done' | 'waiting'): Promise<number>
  /** Waits until it warns of nothing: on Kafka, until it has taken over its part of the work. */
  ready(): Promise<void>
  /** Deliveries of this start that are done; and, on Kafka, events of its part of the streams that are not finished. */
  progress(): Promise<{ readonly done: number; readonly lag: number }>
  /** The end of its log. */
  readonly lines: readonly string[]
  stop(): Promise<void>
  kill(): Promise<void>
}

export async function startService({ folder, rules, profiles, store = '' }: ServiceOptions): Promise<Service> {
  const config = join(folder, 'config.yaml')
  const rulesFile = join(folder, 'rules.yaml')
  writeFileSync(config, `stop_timeout: 30s\n${store}`)
  writeFileSync(rulesFile, rules)
  const began = monotonicMs()
  const child = spawn(
    process.execPath,
    [
      ...(profiles === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profiles]),
      new URL('../../dist/cli/cli.js', import.meta.url).pathname,
      'serve',
      ...['--config', config, '--rules', rulesFile, '--data', join(folder, 'data'), '--port', '0'],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const { pid } = child
  if (pid === undefined) throw new Error('the service could not be started')
  let isEnding = false
  const exited = once(child, 'exit')
  // One that outlived the bench would hold its port and its data; `stop` leaves nothing to end here.
  const killWithBench = () => child.kill('SIGKILL')
  process.once('exit', killWithBench)
  const lines: string[] = []
  const port = await new Promise<number>((resolve, reject) => {
    for (const output of [child.stdout, child.stderr]) {
      createInterface({ input: output }).on('line', (line) => {
        if (lines.push(line) > keptLines) lines.shift()
        const found = /listen(?:s|ing) on http:\/\/127\.0\.0\.1:(\d+)/.exec(line)?.[1]
        if (found !== undefined) resolve(Number(found))
      })
    }
    child.once('exit', (code, signal) => {
      const error = new Error(`the service ended by itself with ${code ?? signal}:\n${lines.join('\n')}`)
      reject(error)
      // Once it is ready nobody awaits that promise any more; a bench without its service has no other way to end.
      if (!isEnding) throw error
    })
  })
  const startMs = monotonicMs() - began

  const end = async (signal: NodeJS.Signals, wanted: number | string) => {
    isEnding = true
    child.kill(signal)
    const [code, killedBy]: unknown[] = await exited
    process.off('exit', killWithBench)
    if ((code ?? killedBy) !== wanted) {
      throw new Error(`the service ended with ${code ?? killedBy}, not ${wanted}:\n${lines.join('\n')}`)
    }
  }

  return {
    pid,
    port,
    startMs,
    swapRules(text) {
      writeFileSync(rulesFile, text)
      child.kill('SIGHUP')
    },
    async settled(deliveries, state = 'done') {
      const deadline = monotonicMs() + settleTimeoutMs
      for (;;) {
        const done = countOf(await ask(port, '/metrics'), 'changeprop_deliveries_total', `state="${state}"`)
        if (done >= deliveries) return monotonicMs()
        if (monotonicMs() > deadline) {
          throw new Error(`${done} of ${deliveries} deliveries were ${state} in time:\n${lines.join('\n')}`)
        }
        await sleep(settlePollMs)
      }
    },
    async ready() {
      const deadline = monotonicMs() + settleTimeoutMs
      for (;;) {
        const { warnings } = JSON.parse(await ask(port, '/healthz'))
        if (warnings.length === 0) return
        if (monotonicMs() > deadline) throw new Error(`it was not ready in time: ${warnings.join('; ')}`)
        await sleep(settlePollMs)
      }
    },
    async progress() {
      const text = await ask(port, '/metrics')
      return {
        done: countOf(text, 'changeprop_deliveries_total', 'state="done"'),
        lag: countOf(text, 'changeprop_stream_lag'),
      }
    },
    lines,
    stop: () => end('SIGTERM', 0),
    kill: () => end('SIGKILL', 'SIGKILL'),
  }
}

const keptLines = 30
const settlePollMs = 10
const settleTimeoutMs = 60_000
/** While calls are measured it is asked seldom: an answer costs as much as many calls. */
const progressPollMs = 500

/** Waits until services that share their work are done with so many deliveries, and nothing is left to read. */
export async function finished(services: readonly Service[], deliveries: number): Promise<void> {
  const deadline = monotonicMs() + settleTimeoutMs
  for (;;) {
    const all = await Promise.all(services.map((service) => service.progress()))
    const done = all.reduce((sum, one) => sum + one.done, 0)
    const lag = all.reduce((sum, one) => sum + one.lag, 0)
    if (done >= deliveries && lag === 0) return
    if (monotonicMs() > deadline) {
      const log = services.flatMap(({ lines }) => lines).join('\n')
      throw new Error(`${done} of ${deliveries} deliveries were done in time, ${lag} events not finished:\n${log}`)
    }
    await sleep(progressPollMs)
  }
}

async function ask(port: number, path: string): Promise<string> {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`)
  return answer.text()
}

/** Sum of a metric over all that have this label, in Prometheus' text. */
function countOf(text: string, metric: string, label = ''): number {
  const counts = [...text.matchAll(new RegExp(`^${metric}\\{([^}]*)\\} (\\d+)`, 'gm'))]
  return counts.reduce((sum, [, labels, count]) => sum + (labels?.includes(label) ? Number(count) : 0), 0)
}

/** Rules with which the service stores what is posted and dispatches nothing: they are refused. */
export const refusedRules = 'broken: { topic: bench.nothing, exek: [] }\n'

/** Rules that concern other streams, so that events are routed and cause no delivery. */
export function rulesForOthers(port: number): string {
  return rule('elsewhere', 'bench.elsewhere', 'benchwiki', port, '')
}

/** One rule that calls the target with the event, and `silent` rules of the same topic that match none of the events. */
export function callingRules(port: number, silent = 0, more = ''): string {
  const others = Array.from({ length: silent }, (_, n) => rule(`silent_${n}`, stream, `wiki${n}`, port, ''))
  return [...others, rule('calling', stream, 'benchwiki', port, more)].join('')
}

/** The calling rule with a policy; `{{match.meta.id.key}}` is one of 4,096 keys, `{{message.meta.id}}` another each time. */
export function policyRules(port: number, policy: string): string {
  return callingRules(port, 0, policy).replace(
    'match: { database: benchwiki }',
    "match: { database: benchwiki, meta: { id: '/^(?<key>[0-9a-f]{3})/' } }",
  )
}

/** Two rules of which each has its part of the events: `calling`, and one in 16 for `beside`, which calls another target. */
export function rulesBeside(port: number, otherPort: number | undefined): string {
  const part = (text: string, digits: string) =>
    text.replace('match: { database: benchwiki }', `match: { database: benchwiki, meta: { id: '/^${digits}/' } }`)
  const calling = part(rule('calling', stream, 'benchwiki', port, ''), '[1-9a-f]')
  return otherPort === undefined ? calling : calling + part(rule('beside', stream, 'benchwiki', otherPort, ''), '0')
}

/** The same in one rule of two cases, as a farm has them. */
export function ruleOfTwo(port: number, otherPort: number | undefined): string {
  const calling = (digits: string, to: number) => `
    - match: { meta: { id: '/^${digits}/' } }
      exec: { method: post, uri: 'http://127.0.0.1:${to}/call', headers: { content-type: application/json }, body: '{{globals.message}}' }`
  const cases = [calling('[1-9a-f]', port), ...(otherPort === undefined ? [] : [calling('0', otherPort)])]
  return `calling:\n  topic: ${stream}\n  throttle: { concurrency: 100 }\n  cases:${cases.join('')}\n`
}

function rule(name: string, topic: string, database: string, port: number, more: string): string {
  return `${name}:
  topic: ${topic}
  match: { database: ${database} }
  exec:
    method: post
    uri: http://127.0.0.1:${port}/call
    headers: { content-type: application/json }
    body: '{{globals.message}}'
  throttle: { concurrency: 100 }
${more}`
}
