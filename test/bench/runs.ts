import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DriverCommand, DriverReport } from './driver.ts'
import { eventObject, idNumber, isBeside } from './event.ts'
import type { LimitCommand, LimitKafka, LimitReport } from './limits.ts'
import { countAsOurs, type Usage, watch } from './measure.ts'
import { monotonicMs, Part } from './part.ts'
import { finished, type Service, type ServiceOptions, startService } from './service.ts'
import type { TargetCommand, TargetReport } from './target.ts'

/** What one repetition of one thing came to. */
export interface Run {
  readonly perSecond: number
  /** CPU and memory over the events that the rate is of. */
  readonly usage: Usage
  readonly events: number
}

export interface CallRun extends Run {
  /** How long the target really took to answer, on average. */
  readonly targetMs: number
}

export interface IntakeRun extends Run {
  readonly p50: number
  readonly p99: number
}

export interface EndToEndRun extends Run {
  /** From the last call to when all were seen to be settled. */
  readonly settleLagMs: number
  readonly turnedAway: number
}

export interface LatencyRun {
  /** From sending an event to the arrival of its call, and to its 201, in ms. */
  readonly p50: number
  readonly p99: number
  readonly answer: { readonly p50: number; readonly p99: number }
  readonly usage: Usage
  readonly events: number
}

export interface LatenessRun {
  /** From when an event was due to the arrival of its call, in ms. */
  readonly least: number
  readonly p50: number
  readonly p99: number
  readonly most: number
  readonly usage: Usage
  readonly events: number
}

type Ended = DriverReport & { readonly events: number }

/** Share of a drain after which it counts as warm; rate and CPU are of what comes after. */
const warmShare = 0.2
const warmUpEvents = 4000
const json = { 'content-type': 'application/json' }
const backlogPost = { connections: 4, batch: 100 }

/** The target and the driver, which serve all runs, and the things one does with them. */
export class Runs {
  readonly targetPort: number
  readonly #target: Part<TargetCommand, TargetReport>
  readonly #driver: Part<DriverCommand, DriverReport>
  readonly #profiles: string | undefined
  readonly #folder = mkdtempSync(join(tmpdir(), 'changeprop-bench-'))
  #posted = 0

  private constructor(
    target: Part<TargetCommand, TargetReport>,
    targetPort: number,
    driver: Part<DriverCommand, DriverReport>,
    profiles: string | undefined,
  ) {
    this.#target = target
    this.targetPort = targetPort
    this.#driver = driver
    this.#profiles = profiles
    // Also where a run failed: what it stored may be gigabytes.
    process.once('exit', () => rmSync(this.#folder, { recursive: true, force: true }))
  }

  static async open(profiles: string | undefined): Promise<Runs> {
    const target = new Part<TargetCommand, TargetReport>('./target.ts')
    const driver = new Part<DriverCommand, DriverReport>('./driver.ts')
    for (const { pid } of [target, driver]) countAsOurs(pid)
    return new Runs(target, (await target.next()).port, driver, profiles)
  }

  async close(): Promise<void> {
    await Promise.all([this.#target.stop(), this.#driver.stop()])
  }

  /** A folder for a service's configuration and data, empty, on the disk that all runs use. */
  newFolder(): string {
    return mkdtempSync(join(this.#folder, 'service-'))
  }

  /** Runs `use` with a service that is ended afterwards; its folder stays. */
  async withService<Result>(
    options: Omit<ServiceOptions, 'profiles'>,
    use: (service: Service) => Promise<Result>,
    end: 'stop' | 'kill' = 'stop',
  ): Promise<Result> {
    const service = await startService({ ...options, profiles: this.#profiles })
    const result = await use(service)
    await service[end]()
    return result
  }

  /** The same in a folder of its own, which goes with it. */
  async withFreshService<Result>(
    rules: string,
    use: (service: Service) => Promise<Result>,
    end?: 'stop' | 'kill',
  ): Promise<Result> {
    const folder = this.newFolder()
    const result = await this.withService({ folder, rules }, use, end)
    rmSync(folder, { recursive: true })
    return result
  }

  async post(
    port: number,
    how: Pick<DriverCommand, 'connections' | 'batch' | 'events'>,
    perSecond?: number,
  ): Promise<Ended> {
    const from = this.#posted
    this.#posted += how.events
    const report = await this.#driver.ask({ port, ...how, from, perSecond })
    return { ...report, events: how.events }
  }

  /** When profiling, tells which part of the profile was watched: V8 and `monotonicMs` read the same clock. */
  #watch(...pids: readonly number[]): () => Usage {
    const end = watch(...pids)
    const from = monotonicMs()
    return () => {
      const usage = end()
      if (this.#profiles !== undefined) console.error(`  watched ${pids} from ${from} to ${monotonicMs()}`)
      return usage
    }
  }

  /** Lets the target answer in this way from now on, and forget what it counted. */
  async #begin(latencyMs: number, marks: readonly number[], more: { status?: number; note?: boolean } = {}) {
    const { status = 200, note = false } = more
    await this.#target.ask({ kind: 'begin', latencyMs, status, marks, note })
  }

  /** Watches from a fifth of the calls on, to the last. */
  async #calls(pids: readonly number[], calls: number, latencyMs: number, start: () => void): Promise<CallRun> {
    const warm = Math.floor(calls * warmShare)
    await this.#begin(latencyMs, [warm, calls])
    start()
    const from = await this.#target.next()
    const end = this.#watch(...pids)
    const to = await this.#target.next()
    const usage = end()
    const events = calls - warm
    return { perSecond: (events / (to.at - from.at)) * 1000, usage, events, targetMs: to.meanLatencyMs }
  }

  async #withLimit<Result>(
    name: string,
    use: (limit: Part<LimitCommand, LimitReport>) => Promise<Result>,
  ): Promise<Result> {
    const limit = new Part<LimitCommand, LimitReport>('./limits.ts', name)
    const result = await use(limit)
    await limit.stop()
    return result
  }

  /** What undici alone does: `request` is a Pool's, `dispatch` that of 100 Clients. */
  callLimit(how: 'request' | 'dispatch', calls: number, latencyMs = 0): Promise<CallRun> {
    return this.#withLimit(how, async (limit) => {
      const run = await this.#calls([limit.pid], calls, latencyMs, () =>
        limit.send({ port: this.targetPort, requests: calls }),
      )
      await limit.next()
      return run
    })
  }

  /** What fastify alone does; with `kafka`, fastify and kafkajs. */
  intakeLimit(how: { connections: number; batch: number; events: number }, kafka?: LimitKafka): Promise<IntakeRun> {
    return this.#withLimit(kafka === undefined ? 'intake' : 'produce', async (limit) => {
      const command = { port: 0, requests: 0 }
      const { port } = await limit.ask(kafka === undefined ? command : { ...command, kafka })
      return this.intake(limit.pid, port, how)
    })
  }

  async intake(
    pid: number,
    port: number,
    how: { connections: number; batch: number; events: number },
  ): Promise<IntakeRun> {
    await this.post(port, { ...how, events: warmUpEvents })
    const end = this.#watch(pid)
    const { first, last, p50, p99, events } = await this.post(port, how)
    return { perSecond: (events / (last - first)) * 1000, usage: end(), events, p50, p99 }
  }

  /** Stores events while the rules are refused, then puts `rules` in force and watches the calls. */
  async drain(service: Service, rules: string, events: number, latencyMs: number): Promise<CallRun> {
    await this.post(service.port, { ...backlogPost, events })
    const run = await this.#calls([service.pid], events, latencyMs, () => service.swapRules(rules))
    await service.settled(events)
    return run
  }

  /** The same where one in 16 events goes elsewhere: the calls of the others are watched, and their settling is not awaited. */
  async drainBeside(service: Service, rules: string, events: number, latencyMs: number): Promise<CallRun> {
    const from = this.#posted
    await this.post(service.port, { ...backlogPost, events })
    let calls = 0
    for (let n = from; n < from + events; n++) if (!isBeside(n)) calls++
    return this.#calls([service.pid], calls, latencyMs, () => service.swapRules(rules))
  }

  /** Drains what is stored already, from when each of the services that share it has taken over its part. */
  async drainShared(services: readonly Service[], rules: string, events: number): Promise<CallRun> {
    await Promise.all(services.map((service) => service.ready()))
    const pids = services.map(({ pid }) => pid)
    const calls = this.#calls(pids, events, 0, () => {
      for (const service of services) service.swapRules(rules)
    })
    const [run] = await Promise.all([calls, finished(services, events)])
    return run
  }

  /** The same by kafkajs and undici alone. */
  kafkaLimit(events: number, kafka: LimitKafka): Promise<CallRun> {
    return this.#withLimit('kafka', async (limit) => {
      const start = () => limit.send({ port: this.targetPort, requests: events, kafka })
      const run = await this.#calls([limit.pid], events, 0, start)
      await limit.next()
      return run
    })
  }

  /** Runs `use` with another target, which answers in this way. */
  async withOtherTarget<Result>(
    how: { readonly latencyMs: number; readonly status: number },
    use: (port: number) => Promise<Result>,
  ): Promise<Result> {
    const other = new Part<TargetCommand, TargetReport>('./target.ts')
    countAsOurs(other.pid)
    const { port } = await other.next()
    await other.ask({ kind: 'begin', ...how, marks: [], note: false })
    const result = await use(port)
    await other.stop()
    return result
  }

  /** The same where a call may be for several events: until all have come to their end. */
  async drainToEnd(service: Service, rules: string, events: number): Promise<Run> {
    await this.post(service.port, { ...backlogPost, events })
    return this.#toEnd(service, rules, events)
  }

  /** The same with events that the driver cannot make; tells how many calls were made, too. */
  async drainObjects(service: Service, rules: string, events: number, more: (n: number) => object) {
    await this.#postObjects(service.port, events, more)
    const run = await this.#toEnd(service, rules, events)
    const { count } = await this.#target.ask({ kind: 'end' })
    return { ...run, calls: count }
  }

  async #toEnd(service: Service, rules: string, events: number): Promise<Run> {
    await this.#begin(0, [])
    const end = this.#watch(service.pid)
    const began = monotonicMs()
    service.swapRules(rules)
    const ended = await service.settled(events)
    return { perSecond: (events / (ended - began)) * 1000, usage: end(), events }
  }

  /** Delivers events that are due one after another over `overMs`, the first after `afterMs`: time enough to post them all. */
  async lateness(service: Service, events: number, afterMs: number, overMs: number): Promise<LatenessRun> {
    await this.#begin(0, [events], { note: true })
    const end = this.#watch(service.pid)
    const called = this.#target.next()
    const from = this.#posted
    const begin = Date.now() + afterMs
    const dueAt = (n: number) => begin + Math.floor(((n - from) / events) * overMs)
    await this.#postObjects(service.port, events, (n) => ({ delay_until: new Date(dueAt(n)).toISOString() }))
    if (Date.now() > begin) throw new Error('the first events were due before the last were posted')
    await called
    const usage = end()
    const toMonotonic = monotonicMs() - Date.now()
    const { arrivals } = await this.#target.ask({ kind: 'end' })
    const due = new Map<number, number>()
    for (let n = from; n < from + events; n++) due.set(idNumber(n), dueAt(n) + toMonotonic)
    const late: number[] = []
    for (let i = 0; i < arrivals.length; i += 2) late.push((arrivals[i + 1] ?? 0) - (due.get(arrivals[i] ?? 0) ?? 0))
    late.sort((a, b) => a - b)
    const quantile = (share: number) => late[Math.floor(share * (late.length - 1))] ?? Number.NaN
    return { least: quantile(0), p50: quantile(0.5), p99: quantile(0.99), most: quantile(1), usage, events }
  }

  /** Arrays of 100, one at a time. */
  async #postObjects(port: number, events: number, more: (n: number) => object): Promise<void> {
    const from = this.#posted
    this.#posted += events
    for (let n = from; n < from + events; n += backlogPost.batch) {
      const array = Array.from({ length: backlogPost.batch }, (_, at) => ({ ...eventObject(n + at), ...more(n + at) }))
      for (;;) {
        const url = `http://127.0.0.1:${port}/v1/events`
        const { status } = await fetch(url, { method: 'POST', headers: json, body: JSON.stringify(array) })
        if (status === 201) break
        if (status !== 503) throw new Error(`expected 201, got ${status}`)
      }
    }
  }

  /** Posts while the calls are made: from the first post to the last call. */
  async endToEnd(
    service: Service,
    how: { connections: number; batch: number; events: number },
    status = 200,
  ): Promise<EndToEndRun> {
    await this.#begin(0, [], { status })
    const state = status === 200 ? 'done' : 'waiting'
    await this.post(service.port, { ...how, events: warmUpEvents })
    await service.settled(warmUpEvents, state)
    await this.#begin(0, [how.events], { status })
    const end = this.#watch(service.pid)
    const called = this.#target.next()
    const { first, turnedAway, events } = await this.post(service.port, how)
    const { at } = await called
    const usage = end()
    const settledAt = await service.settled(warmUpEvents + events, state)
    return { perSecond: (events / (at - first)) * 1000, usage, events, settleLagMs: settledAt - at, turnedAway }
  }

  /** Puts events through that are all called; for filling a store. */
  async load(service: Service, events: number): Promise<void> {
    await this.#begin(0, [events])
    const called = this.#target.next()
    await this.post(service.port, { ...backlogPost, events })
    await called
    await service.settled(events)
  }

  async latency(pid: number, port: number, perSecond: number, seconds: number): Promise<LatencyRun> {
    const warm = 2 * perSecond
    const events = warm + seconds * perSecond
    await this.#begin(10, [events], { note: true })
    const end = this.#watch(pid)
    const called = this.#target.next()
    const posted = await this.post(port, { connections: 64, batch: 1, events }, perSecond)
    await called
    const usage = end()
    const { arrivals } = await this.#target.ask({ kind: 'end' })
    const arrived = new Map<number, number>()
    for (let i = 0; i < arrivals.length; i += 2) arrived.set(arrivals[i] ?? 0, arrivals[i + 1] ?? 0)
    const took: number[] = []
    for (let i = 2 * warm; i < posted.sent.length; i += 2) {
      const at = arrived.get(posted.sent[i] ?? 0)
      if (at === undefined) throw new Error('an event that was posted was not called')
      took.push(at - (posted.sent[i + 1] ?? 0))
    }
    took.sort((a, b) => a - b)
    const quantile = (share: number) => took[Math.floor(share * (took.length - 1))] ?? Number.NaN
    return { p50: quantile(0.5), p99: quantile(0.99), answer: { p50: posted.p50, p99: posted.p99 }, usage, events }
  }

  /** The embedded store alone, appended to as the intake does; ids make it keep its lookup, or there are none. */
  appendLimit(
    ids: 'with lookup' | 'without lookup',
    how: { connections: number; batch: number; events: number },
  ): Promise<Run> {
    const folder = this.newFolder()
    return this.#withLimit('append', async (limit) => {
      const append = { folder, batch: how.batch, loops: how.connections, ids: ids === 'with lookup' }
      const command = { port: 0, append }
      await limit.ask({ ...command, requests: warmUpEvents / how.batch })
      const end = this.#watch(limit.pid)
      const began = monotonicMs()
      await limit.ask({ ...command, requests: how.events / how.batch })
      return { perSecond: (how.events / (monotonicMs() - began)) * 1000, usage: end(), events: how.events }
    })
  }

  relayLatency(perSecond: number, seconds: number): Promise<LatencyRun> {
    return this.#withLimit('relay', async (limit) => {
      const { port } = await limit.ask({ port: this.targetPort, requests: 0 })
      return this.latency(limit.pid, port, perSecond, seconds)
    })
  }
}
