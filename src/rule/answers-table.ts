import type { Path } from '../base/document.ts'
import type { Json } from '../event/event.ts'
import type { Findings } from './findings.ts'
import { isEqual, isMapping } from './json.ts'
import { type Condition, compilePattern } from './match.ts'
import type { AnswerPolicy, RequestOutcome } from './rule.ts'
import type { AnswersText, ConditionsText } from './schema.ts'

type Answer = Parameters<AnswerPolicy['read']>[0]

interface Row {
  readonly is: RequestOutcome | undefined
  readonly fits: (answer: LazyAnswer) => boolean
}

/** Compiles `answers`, and Wikimedia's `ignore` and `retry_on`, which come before it in that order. */
export function compileAnswers(
  text: {
    answers?: AnswersText | undefined
    ignore?: ConditionsText | undefined
    retryOn?: ConditionsText | undefined
  },
  at: Path,
  findings: Findings,
): AnswerPolicy {
  const rows: Row[] = []
  if (text.ignore !== undefined) rows.push(...conditionRows(text.ignore, 'ignored'))
  if (text.retryOn !== undefined) {
    // These say when to come back; that is for the preset to read.
    rows.push({
      is: undefined,
      fits: ({ status, headers }) => status === 429 || (status === 503 && 'retry-after' in headers),
    })
    rows.push(...conditionRows(text.retryOn, 'failed'), { is: 'refused', fits: ({ status }) => status >= 500 })
  }
  if (Array.isArray(text.answers)) rows.push(...tableRows(text.answers, [...at, 'answers'], findings))
  const preset = typeof text.answers === 'string' ? text.answers : undefined
  if (rows.length === 0) return { preset, read: () => undefined }
  return {
    preset,
    read(answer) {
      const lazy = new LazyAnswer(answer)
      for (const row of rows) if (row.fits(lazy)) return row.is
      return undefined
    },
  }
}

function tableRows(table: Exclude<AnswersText, string>, at: Path, findings: Findings): readonly Row[] {
  return table.map((row, index) => {
    const report = (key: string) => (inner: Path, objection: { message: string; remedy: string }) =>
      findings.error([...at, index, key, ...inner], objection.message, objection.remedy)
    const status = row.status === undefined ? undefined : compileStatuses(row.status)
    const headers = row.header === undefined ? undefined : compilePattern(lowerCaseKeys(row.header), report('header'))
    const body = row.body === undefined ? undefined : compilePattern(row.body, report('body'))
    if (status === undefined && headers === undefined && body === undefined && index < table.length - 1) {
      findings.warn(
        [...at, index + 1],
        'expected a row that can be reached, found one after a row that always fits',
        'remove it',
      )
    }
    return {
      is: row.is,
      fits: (answer) =>
        (status === undefined || status(answer.status)) &&
        (headers === undefined || headers.test(answer.headers)) &&
        (body === undefined || bodyFits(body, row.body, answer)),
    }
  })
}

function bodyFits(condition: Condition, pattern: Json | undefined, answer: LazyAnswer): boolean {
  return condition.test(typeof pattern === 'string' ? answer.text : answer.json)
}

function conditionRows(text: ConditionsText, is: RequestOutcome): readonly Row[] {
  const conditions = Array.isArray(text) ? text : [text]
  return conditions.map(({ status, body }) => {
    const test = status === undefined ? undefined : compileStatuses(status)
    return {
      is,
      fits: (answer) =>
        (test === undefined || test(answer.status)) &&
        (body === undefined || isEqual(answer.json ?? answer.text, body)),
    }
  })
}

function compileStatuses(statuses: string | number | readonly (string | number)[]): (status: number) => boolean {
  const list = typeof statuses === 'string' || typeof statuses === 'number' ? [statuses] : statuses
  const fitting = new Set<number>()
  for (const wanted of list.map(String)) {
    for (let status = 100; status < 600; status++) {
      if ([...wanted].every((digit, at) => digit === 'x' || digit === String(status)[at])) fitting.add(status)
    }
  }
  return (status) => fitting.has(status)
}

function lowerCaseKeys(pattern: Json): Json {
  return isMapping(pattern)
    ? Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key.toLowerCase(), value]))
    : pattern
}

/** Decodes a body once, and only if a row asks. */
class LazyAnswer {
  readonly status: number
  readonly headers: Answer['headers']
  readonly #body: Uint8Array
  #text: string | undefined
  #json: { readonly value: Json | undefined } | undefined

  constructor(answer: Answer) {
    this.status = answer.status
    this.headers = answer.headers
    this.#body = answer.body
  }

  get text(): string {
    this.#text ??= Buffer.from(this.#body.buffer, this.#body.byteOffset, this.#body.byteLength).toString('utf8')
    return this.#text
  }

  /** Undefined where the body is no JSON. */
  get json(): Json | undefined {
    this.#json ??= parse(this.text)
    return this.#json.value
  }
}

function parse(text: string): { value: Json | undefined } {
  try {
    const value: Json = JSON.parse(text)
    return { value }
  } catch (error) {
    if (error instanceof SyntaxError) return { value: undefined }
    throw error
  }
}
