import type { EventsAnswer, EventView } from '../api/contract.ts'
import { isObject } from '../base/schema-words.ts'
import { errorsOf } from './dead.ts'
import { CommandFailure, type Format, type Io, writeJson } from './io.ts'
import { withService } from './service.ts'
import { tellEvent } from './story.ts'

export interface WhyOptions {
  readonly id: string
  readonly url: string
  readonly stream?: string | undefined
  /** Only events accepted within so many ms. */
  readonly since?: number | undefined
  readonly format: Format
}

export async function why({ id, url, stream, since, format }: WhyOptions, io: Io): Promise<number> {
  const now = Date.now()
  const where = {
    stream,
    since: stream === undefined || since === undefined ? undefined : new Date(now - since).toISOString(),
  }
  const answer = await withService(url, io, (service) => service.get(`/v1/events/${encodeURIComponent(id)}`, where))
  if (answer !== undefined && !isEventsAnswer(answer)) {
    throw new CommandFailure(
      1,
      `expected events from ${url}, found another answer; is it changeprop, and of this version? (--url)`,
    )
  }
  const found = answer?.events ?? []
  const events = found.filter(
    (event) =>
      (stream === undefined || event.stream === stream) &&
      (since === undefined || Date.parse(event.accepted) >= now - since),
  )
  if (format === 'json') writeJson(io, { ...answer, events })
  if (events.length === 0) {
    const others = found.length === 0 ? '' : `; ${found.length} with this id are older, or of other streams`
    const hint =
      stream === undefined && found.length === 0
        ? '\n(If the store is Kafka, an event that no rule matched is found only with --stream NAME.)'
        : ''
    io.stderr.write(`no event ${id} is known${others}${hint}\n`)
    return 1
  }
  if (format === 'text') {
    const beside = { note: answer?.note, errors: await errorsIn(events, url, io) }
    io.stdout.write(events.map((event) => tellEvent(event, beside, now)).join('\n'))
  }
  return 0
}

/** Templates that failed are not in the journal of calls. The story does without where the service does not give them out. */
async function errorsIn(events: readonly EventView[], url: string, io: Io): Promise<ReadonlyMap<string, string>> {
  const ids = events.flatMap(({ rules }) =>
    rules.flatMap(({ delivery }) =>
      delivery?.state === 'dead' && /^(?:key|template)_failed$/.test(delivery.reason) ? [delivery.id] : [],
    ),
  )
  if (ids.length === 0) return new Map()
  try {
    return await withService(url, io, (service) => errorsOf(ids, service))
  } catch (error) {
    if (error instanceof CommandFailure) return new Map()
    throw error
  }
}

function isEventsAnswer(answer: unknown): answer is EventsAnswer {
  return (
    isObject(answer) &&
    Array.isArray(answer.events) &&
    answer.events.every((event) => isObject(event) && Array.isArray(event.rules))
  )
}
