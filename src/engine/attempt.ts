import { withoutSecretQuery } from '../base/secret-name.ts'
import { metaOf, type StreamRecord } from '../event/event.ts'
import type { Answer, OutboundRequest, Reply, Send } from '../http/send.ts'
import { type Asked, readAnswer, readNoAnswer, type Verdict } from '../mediawiki/answers.ts'
import { withTitles } from '../mediawiki/api-request.ts'
import type { Denial, Grant, Sessions } from '../mediawiki/session.ts'
import type { Directory } from '../mediawiki/wiki.ts'
import { type RequestOutcome, type Rule, TemplateError, type WikiRoot } from '../rule/rule.ts'
import type { AttemptEntry, DeadReason, Lane, LastAnswer, Progress } from '../store/store.ts'
import type { Call, Delivery } from './delivery.ts'

/** What one execution of the rest of the rule's requests came to. */
export interface AttemptResult {
  /** Outcome of the last request that was made. */
  readonly outcome: RequestOutcome
  /** With the new bits in `finished` and `refused`; failures are counted by whoever settles. */
  readonly progress: Progress
  readonly entries: readonly AttemptEntry[]
  /** The delivery cannot go on, whatever its retries. */
  readonly fatal: DeadReason | undefined
  /** How far the last request got: what `retry: never` needs to know. */
  readonly reached: 'answered' | 'cut_off' | 'not_sent' | 'aborted' | 'called_off'
  readonly answer: LastAnswer | undefined
  /** The last answer proves that nothing of what is still to be done has run. */
  readonly hasNotRun?: boolean
  /** The last answer may have been a success, and with that all would be done. */
  readonly isDoubtful?: boolean
}

/** Made once, used by every attempt. */
export interface AttemptTools {
  readonly send: Send
  readonly sessions: Sessions
  /** The one in force. */
  readonly directory: Directory
  readonly userAgent: string
  /** Cuts off whatever is under way. */
  readonly signal: AbortSignal
  now(): number
  /** Asked before each further request of a list: its target may be another than the last, and paused. */
  mayGoOn(call: Call): boolean
  /** Told each reply and what it seems to come to; says what it comes to. */
  heard(lane: Lane, call: Call, reply: Reply, verdict: Verdict): Verdict
}

/** How much of an answer a dead letter keeps, in bytes. */
const keptOfAnswer = 4096

/** The call was ready to be made, but may not be. */
export class CallError extends Error {
  readonly reason: DeadReason

  constructor(reason: DeadReason, message: string) {
    super(message)
    this.name = 'CallError'
    this.reason = reason
  }
}

/** Renders the next request that is still to be made and finds who answers it. Throws CallError; undefined: none is left. */
export function nextCall(delivery: Delivery, directory: Directory): Call | undefined {
  const { match, progress } = delivery
  const settled = progress.finished | progress.refused
  for (let index = 0; index < match.requests.length; index++) {
    if ((settled >>> index) & 1) continue
    return callOf(delivery, index, directory)
  }
  return undefined
}

function callOf(delivery: Delivery, index: number, directory: Directory): Call {
  const { record, match } = delivery
  const template = match.requests[index]
  if (template === undefined) throw new Error(`request ${index} of rule ${delivery.rule.name} does not exist`)
  let wiki: WikiRoot | undefined
  let isWikiKnown = false
  const wikiOf = () => {
    if (!isWikiKnown && record.message !== undefined) wiki = directory.wikiOf(record.message)
    isWikiKnown = true
    return wiki
  }
  try {
    const context = {
      record,
      captures: match.captures,
      wiki: wikiOf,
      target: (name: string) => directory.targetUrl(name),
    }
    const request = template.render(context)
    const target = directory.resolve(request.origin, request.path, wikiOf(), template.literalOrigin === request.origin)
    if (target === undefined) {
      throw new CallError(
        'host_not_allowed',
        `no wiki or target of the configuration covers ${request.origin}${withoutSecretQuery(request.path)}`,
      )
    }
    const root = wikiOf()
    // Of what was found now: until there is a token, the wiki may have moved, and a token is for this target alone.
    const withToken =
      template.usesToken && root !== undefined
        ? (token: string) => template.render({ ...context, wiki: () => ({ ...root, token }) })
        : undefined
    return { index, request, target, withToken }
  } catch (error) {
    if (error instanceof TemplateError) throw new CallError(error.reason, error.message)
    throw error
  }
}

/**
 * One attempt at one delivery: its remaining requests, in order. `failed`, `throttled` and `unavailable` end it, to be tried
 * again from there; a refused request is noted and the list goes on. Whatever the target does is a result; this rejects
 * only if we are broken.
 */
export async function attempt(delivery: Delivery, first: Call, tools: AttemptTools): Promise<AttemptResult> {
  const begun = tools.now()
  let progress =
    delivery.progress.firstAttemptAt === 0 ? { ...delivery.progress, firstAttemptAt: begun } : delivery.progress
  const entries: AttemptEntry[] = []
  let call: Call | undefined = first
  let verdict: Verdict = { outcome: 'ok', note: '' }
  let answer: LastAnswer | undefined
  let refusal: LastAnswer | undefined
  while (call !== undefined) {
    const at = entries.length === 0 ? begun : tools.now()
    const session = tools.sessions.prepare(call.target, call.withToken !== undefined, tools.signal)
    const { reply, judged } =
      session === undefined
        ? await made(delivery, call, progress, tools)
        : await madeInSession(delivery, call, progress, tools, session)
    const now = tools.now()
    verdict = tools.heard(delivery.lane, call, reply, judged)
    const status = reply.kind === 'answer' ? reply.status : 0
    entries.push({
      at,
      ms: now - at,
      status,
      outcome: verdict.outcome,
      request: call.index,
      note: verdict.note === String(status) ? '' : verdict.note,
    })
    const bit = 1 << call.index
    progress = withRemainder(progress, call.index, verdict)
    if (verdict.outcome === 'ok' || verdict.outcome === 'ignored') {
      progress = { ...progress, finished: progress.finished | bit }
    } else {
      answer = lastAnswer(call, reply)
      if (verdict.outcome !== 'refused') {
        const reached = reachOf(reply)
        const { outcome, hasNotRun = false } = verdict
        const isDoubtful = verdict.isDoubtful === true && isAllElseDone(call.index, delivery)
        return { outcome, progress, entries, fatal: undefined, reached, answer, hasNotRun, isDoubtful }
      }
      refusal = answer
      progress = { ...progress, refused: progress.refused | bit }
    }
    delivery.progress = progress
    try {
      call = nextCall(delivery, tools.directory)
    } catch (error) {
      if (!(error instanceof CallError)) throw error
      const told = { ...noAnswer(), error: error.message }
      return {
        outcome: 'refused',
        progress,
        entries,
        fatal: error.reason,
        reached: 'answered',
        answer: told,
      }
    }
    if (call !== undefined && !tools.mayGoOn(call)) {
      const paused = { outcome: 'unavailable', reached: 'answered', hasNotRun: true } as const
      return { ...paused, progress, entries, fatal: undefined, answer }
    }
  }
  const isRefused = progress.refused !== 0
  const outcome = isRefused ? 'refused' : verdict.outcome
  return {
    outcome,
    progress,
    entries,
    fatal: undefined,
    reached: 'answered',
    answer: refusal ?? answer,
  }
}

interface Made {
  readonly reply: Reply
  readonly judged: Verdict
}

async function made(
  { rule, record }: Delivery,
  call: Call,
  progress: Progress,
  tools: AttemptTools,
  more?: Readonly<Record<string, string>>,
): Promise<Made> {
  const sent = requestOf(call, record, progress, tools.userAgent, more)
  const reply = await tools.send(sent, tools.signal)
  if (reply.kind === 'none') return { reply, judged: readNoAnswer(reply) }
  const asked = { request: sent, doubts: progress.more?.doubts?.[call.index] ?? 0 }
  return { reply, judged: judge(rule, call, reply, tools.now(), asked) }
}

/** A session that turns out to be lost is renewed once, and the call is made again at no cost. */
async function madeInSession(
  delivery: Delivery,
  call: Call,
  progress: Progress,
  tools: AttemptTools,
  session: Promise<Grant | Denial>,
): Promise<Made> {
  let grant = await session
  let renewed = ''
  for (;;) {
    if (grant.kind === 'denied') return { reply: grant.reply, judged: grant.verdict }
    const { headers, token } = grant
    const granted = call.withToken === undefined ? call : { ...call, request: call.withToken(token) }
    const { reply, judged } = await made(delivery, granted, progress, tools, headers)
    const { needs } = judged
    const renewal =
      needs === undefined || renewed !== ''
        ? undefined
        : tools.sessions.renew(call.target, call.withToken !== undefined, tools.signal, grant, needs)
    if (renewal === undefined) return { reply, judged: { ...judged, note: `${renewed}${judged.note}` } }
    renewed = `${judged.note}, and the ${needs} was renewed; `
    grant = await renewal
  }
}

/** Whether every other request has succeeded. */
function isAllElseDone(index: number, { match, progress }: Delivery): boolean {
  return match.requests.every((_, other) => other === index || (progress.finished >>> other) & 1)
}

function reachOf(reply: Reply): AttemptResult['reached'] {
  if (reply.kind === 'answer') return 'answered'
  // A stop is no fault of the call, whether it was on its way or not yet.
  if (reply.error === 'aborted') return reply.sent ? 'aborted' : 'called_off'
  return reply.sent ? 'cut_off' : 'not_sent'
}

function judge(rule: Rule, call: Call, reply: Answer, now: number, asked: Asked): Verdict {
  const verdict = readAnswer(rule.answers.preset ?? call.target.answers ?? 'http', reply, now, asked)
  const own = rule.answers.read(reply)
  if (own === undefined || own === verdict.outcome) return verdict
  const { note, pauseMs } = verdict
  return {
    outcome: own,
    note: `${note}, which the rule reads as ${own}`,
    ...(pauseMs === undefined ? {} : { pauseMs }),
  }
}

/** The request as it is sent: only for the titles that are still to be done, where an answer has told them. */
function requestOf(
  call: Call,
  record: StreamRecord,
  progress: Progress,
  userAgent: string,
  more?: Readonly<Record<string, string>>,
): OutboundRequest {
  const titles = progress.more?.titles?.[call.index]
  const { method, origin, path, body, timeoutMs } =
    titles === undefined ? call.request : withTitles(call.request, titles)
  return { method, origin, path, headers: { ...headersOf(call, record, userAgent), ...more }, body, timeoutMs }
}

/** Keeps what an answer left to be done, and how often it left us in doubt, until the request has succeeded. */
function withRemainder(progress: Progress, index: number, verdict: Verdict): Progress {
  const { outcome, titles, isDoubtful } = verdict
  const { more } = progress
  if (outcome === 'ok' || outcome === 'ignored') {
    if (more === undefined) return progress
    const { [index]: _, ...otherTitles } = more.titles ?? {}
    const { [index]: __, ...otherDoubts } = more.doubts ?? {}
    return { ...progress, more: { ...more, titles: otherTitles, doubts: otherDoubts } }
  }
  if (titles === undefined && isDoubtful === undefined) return progress
  return {
    ...progress,
    more: {
      ...more,
      ...(titles === undefined ? {} : { titles: { ...more?.titles, [index]: titles } }),
      ...(isDoubtful ? { doubts: { ...more?.doubts, [index]: (more?.doubts?.[index] ?? 0) + 1 } } : {}),
    },
  }
}

/** The rule's headers, those of the target, and those that let an edit be followed through all it causes. */
function headersOf(call: Call, record: StreamRecord, userAgent: string): Record<string, string> {
  const headers: Record<string, string> = {
    'user-agent': userAgent,
    ...call.request.headers,
    ...call.target.headers,
  }
  const { message } = record
  const meta = metaOf(message)
  const requestId = meta?.request_id
  if (typeof requestId === 'string') headers['x-request-id'] = requestId
  const before = message?.triggered_by
  const cause = typeof before === 'string' ? `${before},` : typeof requestId === 'string' ? `req:${requestId},` : ''
  headers['x-triggered-by'] = `${cause}${record.stream}:${typeof meta?.uri === 'string' ? meta.uri : ''}`
  return headers
}

export function noAnswer(): LastAnswer {
  return { status: 0, headers: {}, body: '', truncated: false, request: '' }
}

/** Headers of an answer that could carry a session or a token are not kept. */
const secretHeaders = new Set(['set-cookie', 'authorization', 'www-authenticate', 'proxy-authenticate'])

function lastAnswer(call: Call, reply: Reply): LastAnswer {
  const { method, origin, path } = call.request
  const request = `${method.toUpperCase()} ${origin}${withoutSecretQuery(path)}`
  if (reply.kind === 'none')
    return {
      ...noAnswer(),
      request,
      error: `${reply.error}: ${reply.message}`,
    }
  const headers = Object.fromEntries(Object.entries(reply.headers).filter(([name]) => !secretHeaders.has(name)))
  const kept = reply.body.subarray(0, keptOfAnswer)
  const truncated = reply.truncated || reply.body.length > keptOfAnswer
  return {
    status: reply.status,
    headers,
    body: Buffer.from(kept).toString('utf8'),
    truncated,
    request,
  }
}
