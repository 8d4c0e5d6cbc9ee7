import { randomUUID } from 'node:crypto'

export interface PostedEvent {
  readonly $schema: string
  readonly meta: { readonly stream: string; readonly id: string; readonly dt: string; readonly domain: string }
  readonly page_title: string
}

/** A good event with an id of its own. */
export function anEvent(stream: string, title = 'A page'): PostedEvent {
  const meta = { stream, id: randomUUID(), dt: new Date().toISOString(), domain: 'wiki.example' }
  return { $schema: '/test/page_edited/1.0.0', meta, page_title: title }
}

export function events(count: number, stream: string, title?: string): readonly PostedEvent[] {
  return Array.from({ length: count }, () => anEvent(stream, title))
}
