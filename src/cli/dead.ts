import { createInterface } from 'node:readline/promises'
import type { CountAnswer, DeadAnswer, DeadLetterView, RulesAnswer, Selection } from '../api/contract.ts'
import { isObject } from '../base/schema-words.ts'
import { CommandFailure, counted, type Format, type Io, writeJson } from './io.ts'
import { type Service, withService } from './service.ts'
import { tellDelivery, when } from './story.ts'

interface AskOptions {
  readonly url: string
}

export interface ListOptions extends AskOptions {
  readonly rule?: string | undefined
  readonly format: Format
}

export interface ShowOptions extends AskOptions {
  readonly ids: readonly string[]
  readonly format: Format
}

export interface SettleOptions extends AskOptions {
  readonly ids: readonly string[]
  readonly rule?: string | undefined
  readonly all?: boolean | undefined
  readonly yes?: boolean | undefined
  /** How many a second; replay only. */
  readonly rate: string
}

/** A page at a time, so that many thousands need no memory. JSON is one object per line. */
export async function listDead({ url, rule, format }: ListOptions, io: Io): Promise<number> {
  const now = Date.now()
  let count = 0
  const isUnknown = await withService(url, io, async (service) => {
    for await (const letter of pages(service, { rule })) {
      count++
      const { id, reason, at, attempts, earlier_attempts: earlier, stream } = letter
      if (format === 'json') io.stdout.write(`${JSON.stringify(letter)}\n`)
      else
        io.stdout.write(
          `${id}  ${reason}  ${when(at, now)}  ${counted(earlier + attempts.length, 'call')}  ${stream}\n`,
        )
    }
    return count === 0 && rule !== undefined && (await lookUp(rule, service)).isUnknown
  })
  if (isUnknown) io.stderr.write(`no rule ${rule} is known\n`)
  else if (format === 'text') io.stdout.write(`${counted(count, 'dead letter')}\n`)
  return isUnknown ? 1 : 0
}

export async function showDead({ url, ids, format }: ShowOptions, io: Io): Promise<number> {
  const letters: DeadLetterView[] = []
  await withService(url, io, async (service) => {
    for await (const letter of named(service, ids)) letters.push(letter)
  })
  if (format === 'json') writeJson(io, { dead: letters })
  else io.stdout.write(letters.map((letter) => tellLetter(letter, Date.now())).join('\n'))
  const missing = ids.filter((id) => !letters.some((letter) => letter.id === id))
  for (const id of missing) io.stderr.write(unknownLetter(id))
  return missing.length === 0 ? 0 : 1
}

/** Says what is unknown and how many are meant, asks where somebody is there to answer, and then does it. */
export async function settleDead(verb: 'replay' | 'discard', options: SettleOptions, io: Io): Promise<number> {
  const wanted = selectionOf(options)
  return withService(options.url, io, async (service) => {
    const { selection, count, noun = 'dead letter', unknown } = await find(wanted, service, verb)
    for (const line of unknown) io.stderr.write(line)
    if (count === 0 && unknown.length > 0) return 1
    const pace = verb === 'replay' ? `, at most ${options.rate}` : ''
    io.stderr.write(`${verb} ${counted(count, noun)}${pace}\n`)
    if (io.stdin.isTTY === true && options.yes !== true && !(await agreed(io))) {
      io.stderr.write('nothing was changed\n')
      return 1
    }
    const answer = await service.post(
      `/v1/dead/${verb}`,
      verb === 'replay' ? { ...selection, rate: options.rate } : selection,
    )
    if (!isCount(answer)) throw unexpected(options.url)
    io.stdout.write(`${verb === 'replay' ? 'replaying' : 'discarded'} ${counted(answer.count, noun)}\n`)
    return unknown.length === 0 ? 0 : 1
  })
}

function selectionOf({ ids, rule, all }: SettleOptions): Selection {
  const chosen = [ids.length > 0, rule !== undefined, all === true].filter((one) => one).length
  if (chosen !== 1)
    throw new CommandFailure(
      2,
      `expected ids, or --rule RULE, or --all; found ${chosen === 0 ? 'none of them' : 'more than one of them'}`,
    )
  if (rule !== undefined) return { rule }
  return ids.length > 0 ? { ids: [...new Set(ids)] } : { all: true }
}

interface Found {
  readonly selection: Selection
  readonly count: number
  /** What they are, where they are not just dead letters. */
  readonly noun?: string
  /** Lines that say what of the selection is not there. */
  readonly unknown: readonly string[]
}

async function find(selection: Selection, service: Service, verb: 'replay' | 'discard'): Promise<Found> {
  if ('ids' in selection) {
    const ids: string[] = []
    for await (const { id } of named(service, selection.ids)) ids.push(id)
    const unknown = selection.ids.filter((id) => !ids.includes(id))
    return { selection: { ids }, count: ids.length, unknown: unknown.map(unknownLetter) }
  }
  if ('all' in selection) return { selection, count: await countPages(service, {}), unknown: [] }
  const { rule, isUnknown } = await lookUp(selection.rule, service)
  if (rule?.gone === false) return { selection, count: rule.dead + (rule.waiting.parked ?? 0), unknown: [] }
  if (verb === 'discard' && rule !== undefined) {
    const waiting = Object.values(rule.waiting).reduce((sum, count) => sum + count, 0)
    return { selection, count: rule.dead + waiting, noun: 'dead or waiting event', unknown: [] }
  }
  // Of what waits for a rule that is gone nothing says whether it is parked, so they are counted one by one.
  const count = await countPages(service, selection)
  return { selection, count, unknown: isUnknown && count === 0 ? [`no rule ${selection.rule} is known\n`] : [] }
}

/** A rule in force, or one that is gone but has deliveries. While the rules are invalid none is in force, and none unknown. */
async function lookUp(name: string, service: Service) {
  const answer = await service.get('/v1/rules')
  if (!isRules(answer)) throw unexpected('the service')
  const rule = answer.rules.find((one) => one.name === name)
  return { rule, isUnknown: rule === undefined && answer.note === undefined }
}

async function countPages(service: Service, filter: { rule?: string }): Promise<number> {
  let count = 0
  for await (const _letter of pages(service, filter)) count++
  return count
}

function unknownLetter(id: string): string {
  return `no dead letter ${id} is known\n`
}

async function agreed(io: Io): Promise<boolean> {
  const lines = createInterface({ input: io.stdin, output: io.stderr })
  try {
    return /^y(es)?$/i.test((await lines.question('go on? [y/N] ')).trim())
  } finally {
    lines.close()
  }
}

/** They go into the URL, which has to fit into the head of a request. */
const idsAtOnce = 50

async function* named(service: Service, ids: readonly string[]): AsyncGenerator<DeadLetterView> {
  for (let at = 0; at < ids.length; at += idsAtOnce) yield* pages(service, { id: ids.slice(at, at + idsAtOnce) })
}

/** What dead letters keep of their end, by id: of as many as the service gives out at once. */
export async function errorsOf(ids: readonly string[], service: Service): Promise<ReadonlyMap<string, string>> {
  const answer = await service.get('/v1/dead', { id: ids.slice(0, idsAtOnce) })
  const letters = isDead(answer) ? answer.dead : []
  return new Map(letters.flatMap(({ id, answer }) => (answer?.error === undefined ? [] : [[id, answer.error]])))
}

async function* pages(
  service: Service,
  filter: { rule?: string | undefined; id?: readonly string[] },
): AsyncGenerator<DeadLetterView> {
  let cursor: string | undefined
  do {
    const answer = await service.get('/v1/dead', { ...filter, cursor })
    if (!isDead(answer)) throw unexpected('the service')
    yield* answer.dead
    cursor = answer.cursor ?? undefined
  } while (cursor !== undefined)
}

function tellLetter(letter: DeadLetterView, now: number): string {
  const { id, rule, revision, event_id, meta_id, stream, accepted, answer, event } = letter
  const lines = [
    `Dead letter ${id}`,
    `  rule ${rule} (revision ${revision})`,
    `  event ${meta_id ?? event_id} of ${stream}, accepted ${when(accepted, now)}`,
    ...tellDelivery(letter, now).map((line) => `  ${line}`),
  ]
  if (answer !== null) {
    const untold = letter.reason === 'interrupted' ? 'one had begun; what came of it was not kept' : 'none was made'
    lines.push('', `  last call: ${answer.request === '' ? untold : answer.request}`)
    if (answer.error !== undefined) lines.push(`  ${answer.error}`)
    if (answer.status !== 0)
      lines.push(
        `  answer ${answer.status}`,
        ...Object.entries(answer.headers).map(([name, value]) => `    ${name}: ${value}`),
      )
    if (answer.body !== '')
      lines.push(
        '',
        ...answer.body.split('\n').map((line) => `    ${line}`),
        ...(answer.truncated ? ['    … (cut off here)'] : []),
      )
  }
  lines.push('', '  event as received', `    ${event}`)
  return `${lines.join('\n')}\n`
}

function unexpected(url: string): CommandFailure {
  return new CommandFailure(1, `expected another answer from ${url}; is it changeprop, and of this version? (--url)`)
}

function isDead(answer: unknown): answer is DeadAnswer {
  return isObject(answer) && Array.isArray(answer.dead)
}

function isCount(answer: unknown): answer is CountAnswer {
  return isObject(answer) && typeof answer.count === 'number'
}

function isRules(answer: unknown): answer is RulesAnswer {
  return isObject(answer) && Array.isArray(answer.rules)
}
