import { isUtf8 } from 'node:buffer'
import { readFile } from 'node:fs/promises'
import { buffer } from 'node:stream/consumers'
import { placesIn } from '../base/document.ts'
import { messageOf } from '../base/errors.ts'
import type { Problem } from '../base/problem.ts'
import { describeValue } from '../base/schema-words.ts'
import { metaOf, type StreamRecord, withEnvelope } from '../event/event.ts'
import { splitEvents, splitLimits } from '../event/split.ts'
import { checkCommonFields, isJsonObject } from '../stream/common-fields.ts'
import { CommandFailure, type Io, pathIn } from './io.ts'
import { isJson, offsetOfFlaw } from './json-flaw.ts'

/** Stands for the id that the service would give: the same event always prints the same. */
const sampleId = '00000000-0000-7000-8000-000000000000'

export interface ReadEvents {
  readonly records: readonly StreamRecord[]
  /** Whether they are elements of an array. */
  readonly several: boolean
  /** Warnings are of what the intake would refuse, but rules can be tried with. */
  readonly problems: readonly Problem[]
}

/** The events in a file, or on stdin (`-`). */
export async function readEvents(source: string, io: Io): Promise<ReadEvents> {
  const bytes = source === '-' ? await buffer(io.stdin) : await readEventFile(pathIn(io, source))
  const name = source === '-' ? 'stdin' : 'the file'
  const text = textOf(bytes)
  const several = text.trimStart().startsWith('[')
  const place = placesIn(text)
  const problemAt = (offset: number, message: string, more: Partial<Problem> = {}): Problem => ({
    severity: 'error',
    file: source === '-' ? 'stdin' : source,
    ...place(offset),
    path: '',
    message,
    remedy: 'correct it',
    ...more,
  })

  const split = splitEvents(bytes)
  if (split.kind === 'refused') {
    const { offset, message } = refusalOf(split.why, bytes, text, name)
    return { records: [], several, problems: [problemAt(offset, message)] }
  }
  const offsets = offsetsOf(bytes)
  const accepted = Date.now()
  const records: StreamRecord[] = []
  const problems: Problem[] = []
  for (const [index, { bytes: own, message, flaw }] of split.events.entries()) {
    const path = several ? `event ${index}` : ''
    if (flaw !== undefined || !isJsonObject(message)) {
      const what = 'expected an event that can be read, found'
      const found =
        flaw === undefined ? `${what} ${describeValue(message, false)}` : `${what} one that cannot: ${inSentence(flaw)}`
      problems.push(problemAt(offsets[index] ?? 0, found, { path }))
      continue
    }
    const admission = checkCommonFields(message)
    if (admission.kind !== 'admitted') {
      const why = inSentence(admission.kind === 'invalid' ? admission.text : admission.message)
      const what = `expected an event that the intake takes, found one that it refuses: ${why}`
      problems.push(problemAt(offsets[index] ?? 0, what, { path, severity: 'warning' }))
    }
    const stream = metaOf(message)?.stream
    records.push({
      id: sampleId,
      stream: typeof stream === 'string' ? stream : '',
      accepted,
      bytes: own,
      message: withEnvelope(message, sampleId, accepted),
    })
  }
  return { records, several, problems }
}

async function readEventFile(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    const reason = messageOf(error)
    throw new CommandFailure(2, `expected a readable file after --event, found an error: ${reason}`, { cause: error })
  }
}

function refusalOf(
  why: 'empty' | 'malformed' | 'too_many',
  bytes: Buffer,
  text: string,
  name: string,
): { readonly offset: number; readonly message: string } {
  const expected = 'expected an event as JSON, or an array of events, found'
  if (why === 'empty') return { offset: 0, message: `${expected} none in ${name}` }
  if (why === 'too_many')
    return { offset: 0, message: `expected at most ${splitLimits.events} events, found more in ${name}` }
  if (!isUtf8(bytes)) return { offset: text.indexOf('\ufffd'), message: `expected UTF-8 in ${name}, found other bytes` }
  const offset = offsetOfFlaw(text)
  // One JSON value, but none of these.
  if (offset === text.length && isJson(text)) return { offset: 0, message: `${expected} another value in ${name}` }
  const found =
    offset === text.length ? `the end of ${name}` : JSON.stringify(text.slice(offset).split(/\s/, 1)[0]?.slice(0, 20))
  return { offset, message: `expected JSON in ${name}, found ${found}` }
}

/** Where each event begins, in characters. */
function offsetsOf(bytes: Buffer): readonly number[] {
  // Not of the split that was used: what is nested too deep is no view of the bytes there.
  const split = splitEvents(bytes, { ...splitLimits, depth: Number.POSITIVE_INFINITY })
  if (split.kind === 'refused') return []
  let at = 0
  let offset = 0
  return split.events.map((event) => {
    const start = event.bytes.byteOffset - bytes.byteOffset
    offset += textOf(bytes.subarray(at, start)).length
    at = start
    return offset
  })
}

function textOf(bytes: Buffer): string {
  return bytes.toString('utf8').replace(/^\ufeff/, '')
}

/** Without the full stop and the capital of a sentence of its own. */
function inSentence(text: string): string {
  return text.replace(/\.$/, '').replace(/^[A-Z](?=[a-z])/, (first) => first.toLowerCase())
}
