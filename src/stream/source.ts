import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { load } from 'js-yaml'
import { type Dispatcher, request } from 'undici'
import type { JsonObject } from '../event/event.ts'

/** Where schemas lie. */
export interface SchemaSource {
  /**
   * The schema at this path, or undefined where there is none. Rejects where it cannot be known, or is not to be read.
   * The path begins with a slash and leads nowhere but down (`isSchemaPath` sees to that).
   */
  find(path: string): Promise<JsonObject | undefined>
}

/** A file is looked for as named, then with an extension: repositories keep `1.0.0` as a link to `1.0.0.yaml`, or do not. */
const extensions = ['', '.yaml', '.json'] as const
const largestSchemaBytes = 1024 * 1024
/** With all its extensions. EventBus waits 10 s for our answer, and takes none for success: it must be told before that. */
const answerWithinMs = 3_000
/** A base URL that gave no answer is not asked again before this, so that no queue of waiting requests builds up. */
const restMs = 10_000

/** `from` is a folder or a base URL. */
export function openSource(from: string): SchemaSource {
  return /^https?:\/\//i.test(from) ? new UrlSource(from) : new FolderSource(from)
}

class FolderSource implements SchemaSource {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  async find(path: string): Promise<JsonObject | undefined> {
    for (const extension of extensions) {
      const file = join(this.#folder, `${path}${extension}`)
      const text = await readBounded(file)
      if (text !== undefined) return parseSchema(text, file)
    }
    return undefined
  }
}

async function readBounded(path: string): Promise<string | undefined> {
  const file = await openIfThere(path)
  if (file === undefined) return undefined
  try {
    const stat = await file.stat()
    if (stat.isDirectory()) return undefined
    if (stat.size > largestSchemaBytes) throw tooLarge(path)
    return await file.readFile('utf8')
  } finally {
    await file.close()
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r')
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR'))
      return undefined
    throw error
  }
}

class UrlSource implements SchemaSource {
  readonly #base: string
  /** Without a password that may stand in it: producers are told this. */
  readonly #shown: string
  #restsUntil = 0

  constructor(base: string) {
    this.#base = base.replace(/\/+$/, '')
    this.#shown = this.#base.replace(/\/\/[^/@]*@/, '//')
  }

  async find(path: string): Promise<JsonObject | undefined> {
    if (Date.now() < this.#restsUntil) throw new Error(`${this.#shown} gave no answer a moment ago`)
    const signal = AbortSignal.timeout(answerWithinMs)
    for (const extension of extensions) {
      const text = await this.#fetch(`${path}${extension}`, signal)
      if (text !== undefined) return parseSchema(text, `${this.#shown}${path}${extension}`)
    }
    return undefined
  }

  async #fetch(path: string, signal: AbortSignal): Promise<string | undefined> {
    const { statusCode, body } = await this.#request(path, signal)
    if (statusCode === 200) return bodyText(body, `${this.#shown}${path}`)
    await body.dump()
    if (statusCode === 404 || statusCode === 410) return undefined
    if (statusCode >= 500) this.#rest()
    throw new Error(`${this.#shown}${path} answered ${statusCode}`)
  }

  async #request(path: string, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    try {
      return await request(`${this.#base}${path}`, { signal })
    } catch (error) {
      this.#rest()
      throw error
    }
  }

  #rest(): void {
    this.#restsUntil = Date.now() + restMs
  }
}

/** Leaving the loop early destroys the body, and its connection with it. */
async function bodyText(body: AsyncIterable<Buffer>, url: string): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size > largestSchemaBytes) throw tooLarge(url)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseSchema(text: string, place: string): JsonObject {
  const schema: unknown = text.trimStart().startsWith('{') ? JSON.parse(text) : load(text)
  if (!isMapping(schema)) throw new Error(`${place} is expected to hold a JSON Schema, which is a mapping`)
  return schema
}

/** What YAML's core schema and JSON give is JSON all through. */
function isMapping(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function tooLarge(place: string): Error {
  return new Error(`${place} is larger than ${largestSchemaBytes} bytes`)
}
