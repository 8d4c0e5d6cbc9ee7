/*
 * The one event that everything here posts, stores or sends: a revision-create of about 1 kB, in Wikimedia's form. Only
 * `meta.id` differs from one to the next. The ids look random, because an index over random ids is what costs a store most.
 */

export const stream = 'bench.revision-create'

const idDigits = 8
const placeholder = '#'.repeat(idDigits)

const event = {
  $schema: '/mediawiki/revision/create/2.0.0',
  meta: {
    uri: 'http://bench.example/wiki/A_page_of_the_bench',
    request_id: '855dda0f80b36146ee4f3f73',
    id: `${placeholder}-0000-4000-8000-000000000000`,
    dt: '2026-11-24T02:40:08Z',
    domain: 'bench.example',
    stream,
  },
  database: 'benchwiki',
  page_id: 1417,
  page_title: 'A_page_of_the_bench',
  page_namespace: 0,
  rev_id: 170_913,
  rev_parent_id: 170_899,
  rev_timestamp: '2026-11-24T02:40:08Z',
  rev_sha1: '8k98x6n6ftpz5moylo05ewoxykyrgp4',
  rev_minor_edit: false,
  rev_len: 2013,
  rev_content_model: 'wikitext',
  rev_content_format: 'text/x-wiki',
  rev_content_changed: true,
  performer: {
    user_id: 12,
    user_text: 'Somebody who edits',
    user_groups: ['autoconfirmed', '*', 'user'],
    user_is_bot: false,
    user_registration_dt: '2021-03-01T10:11:12Z',
    user_edit_count: 5102,
  },
  page_is_redirect: false,
  comment: 'A summary of some words, as people write them; and one more half-sentence',
  parsedcomment: 'A summary of some words, as people write them; and one more half-sentence',
  dt: '2026-11-24T02:40:08Z',
  rev_slots: {
    main: {
      rev_slot_content_model: 'wikitext',
      rev_slot_sha1: '8k98x6n6ftpz5moylo05ewoxykyrgp4',
      rev_slot_size: 2013,
      rev_slot_origin_rev_id: 170_913,
    },
  },
}

const text = JSON.stringify(event)
const idMark = Buffer.from('"id":"')

/** What of `meta.id` differs, for the n-th event: another number for every n below 2^32, in no order. */
export function idNumber(n: number): number {
  let hash = Math.imul(n ^ (n >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** One in 16 events, by the first digit of its id: what goes to the target beside. */
export function isBeside(n: number): boolean {
  return idNumber(n) >>> 28 === 0
}

/** The id number of the event in a request, found by its bytes. */
export function readIdNumber(bytes: Buffer, from: number): number {
  const at = bytes.indexOf(idMark, from) + idMark.length
  return Number.parseInt(bytes.toString('latin1', at, at + idDigits), 16)
}

/** Text of one event, or of an array of several, with ids still to be written in. */
export function bodyText(events: number): string {
  return events === 1 ? text : `[${Array.from({ length: events }, () => text).join(',')}]`
}

/** Where in `bytes` ids are to be written. */
export function idPlaces(bytes: Buffer): readonly number[] {
  const places: number[] = []
  for (let at = bytes.indexOf(placeholder); at !== -1; at = bytes.indexOf(placeholder, at + 1)) places.push(at)
  return places
}

/** Makes the events in `bytes` the n-th and those after it. */
export function writeIds(bytes: Buffer, places: readonly number[], n: number): void {
  let next = n
  for (const place of places) {
    const id = idNumber(next++)
    for (let digit = 0; digit < idDigits; digit++) {
      const value = (id >>> (28 - 4 * digit)) & 15
      bytes[place + digit] = value < 10 ? 48 + value : 87 + value
    }
  }
}

/** The n-th event as an object. */
export function eventObject(n: number): typeof event {
  const id = `${idNumber(n).toString(16).padStart(idDigits, '0')}${event.meta.id.slice(idDigits)}`
  return { ...event, meta: { ...event.meta, id } }
}
