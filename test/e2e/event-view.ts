import type { EventsAnswer, EventView } from '../../src/api/contract.ts'
import type { Service } from '../support/service.ts'

/** What the service says became of the newest event with this id; undefined where it knows none. */
export async function eventView(service: Service, id: string): Promise<EventView | undefined> {
  const { status, body } = await service.get(`/v1/events/${id}`)
  if (status === 404) return undefined
  if (!isEventsAnswer(body)) throw new Error(`GET /v1/events/${id} answered ${status}: ${JSON.stringify(body)}`)
  return body.events[0]
}

/** How the event's delivery under that rule stands: state and reason, e.g. `done ok`. */
export async function fate(service: Service, id: string, rule: string): Promise<string> {
  const view = await eventView(service, id)
  const delivery = view?.rules.find((candidate) => candidate.rule === rule)?.delivery
  return delivery === undefined ? 'none' : `${delivery.state} ${delivery.reason}`
}

function isEventsAnswer(body: unknown): body is EventsAnswer {
  return typeof body === 'object' && body !== null && 'events' in body && Array.isArray(body.events)
}
