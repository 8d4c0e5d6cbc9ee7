import { Agent, request } from 'undici'
import { messageOf } from '../base/errors.ts'
import { isObject } from '../base/schema-words.ts'
import { CommandFailure, type Io } from './io.ts'

/** A running service, asked over HTTP with the operator's token. */
export interface Service {
  /** The answer's body, or undefined where the service says that there is no such thing. Throws CommandFailure where the service cannot be asked, or says no. */
  get(path: string, query?: Readonly<Record<string, string | readonly string[] | undefined>>): Promise<unknown>
  post(path: string, body: unknown): Promise<unknown>
}

/** Long enough for a service that is busy, short enough for a person who waits. */
const timeoutMs = 30_000
const maxAnswerBytes = 256 * 1024 * 1024

/** Asks the service at `url`; what `work` opened is closed when it is done. */
export async function withService<T>(url: string, io: Io, work: (service: Service) => Promise<T>): Promise<T> {
  const base = baseOf(url)
  const token = io.env.CHANGEPROP_ADMIN_TOKEN
  const agent = new Agent({
    connect: { timeout: timeoutMs },
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    maxResponseSize: maxAnswerBytes,
  })
  const ask = async (method: 'GET' | 'POST', path: string, body?: unknown): Promise<unknown> => {
    const headers = {
      accept: 'application/json',
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(token === undefined || token === '' ? {} : { authorization: `Bearer ${token}` }),
    }
    const options = { method, headers, dispatcher: agent, body: body === undefined ? null : JSON.stringify(body) }
    const { status, text } = await request(`${base}${path}`, options)
      .then(async (answer) => ({ status: answer.statusCode, text: await answer.body.text() }))
      .catch((error: unknown) => {
        throw new CommandFailure(1, `cannot ask ${base}: ${messageOf(error)}; is the service running there? (--url)`, {
          cause: error,
        })
      })
    const answer = parse(text)
    if (status === 404) {
      const isOurs = isObject(answer) && answer.code === 'NOT_FOUND'
      if (!isOurs) throw new CommandFailure(1, elsewhere(base, path))
      if (method === 'GET') return undefined
    }
    if (status < 200 || status > 299) throw new CommandFailure(1, refusal(base, status, answer))
    if (answer === undefined)
      throw new CommandFailure(1, `expected JSON from ${base}, found something else; is it changeprop? (--url)`)
    return answer
  }
  try {
    return await work({
      get: (path, query = {}) => ask('GET', withQuery(path, query)),
      post: (path, body) => ask('POST', path, body),
    })
  } finally {
    await agent.close()
  }
}

function baseOf(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed?.protocol !== 'http:' && parsed?.protocol !== 'https:') {
    throw new CommandFailure(
      2,
      `--url: expected an http or https URL such as http://127.0.0.1:8192, found ${JSON.stringify(url)}`,
    )
  }
  return `${parsed.origin}${parsed.pathname.replace(/\/+$/, '')}`
}

function withQuery(path: string, query: Readonly<Record<string, string | readonly string[] | undefined>>): string {
  const params = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (typeof value === 'string') params.append(name, value)
    else for (const one of value ?? []) params.append(name, one)
  }
  return params.size === 0 ? path : `${path}?${params}`
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function elsewhere(base: string, path: string): string {
  const [route] = path.split('?', 1)
  return `expected ${base} to know ${route}, found that it does not; is it changeprop, and all of the URL right? (--url)`
}

function refusal(base: string, status: number, answer: unknown): string {
  const { code, detail } = isObject(answer) ? answer : {}
  const said = typeof detail === 'string' ? `: ${detail}` : ''
  const remedy = status === 401 ? ' Put the token into CHANGEPROP_ADMIN_TOKEN.' : ''
  return `${base} answered ${status}${typeof code === 'string' ? ` (${code})` : ''}${said}${remedy}`
}
