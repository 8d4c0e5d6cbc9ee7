import { readFile, stat } from 'node:fs/promises'
import { messageOf } from '../base/errors.ts'
import { isObject } from '../base/schema-words.ts'

const maxBytes = 64 * 1024

/** A secret, or in words what was expected and found instead. */
export type SecretResult = { readonly secret: string } | { readonly message: string; readonly remedy: string }

/** Whether a text, which came from `source`, is fit for what it is for. */
export type SecretCheck = (text: string, source: string) => SecretResult

/** Reads a secret: text, `{ env: NAME }` or `{ file: PATH }`. */
export async function readSecret(
  value: unknown,
  env: NodeJS.ProcessEnv,
  locate: (path: string) => string,
  check: SecretCheck = fitForHeader,
): Promise<SecretResult> {
  const checked: SecretCheck = (text, source) =>
    text === ''
      ? { message: `expected a secret in ${source}, found nothing`, remedy: 'put the secret there' }
      : check(text, source)
  if (typeof value === 'string') return checked(value, 'the text')
  if (isObject(value) && typeof value.env === 'string') {
    const text = env[value.env]
    if (text !== undefined && text !== '') return checked(text, `the environment variable ${value.env}`)
    return {
      message: `expected a secret in the environment variable ${value.env}, found nothing`,
      remedy: `set ${value.env}`,
    }
  }
  if (isObject(value) && typeof value.file === 'string') {
    const path = locate(value.file)
    try {
      const { size } = await stat(path)
      if (size > maxBytes)
        return {
          message: `expected a secret of at most ${maxBytes} bytes in ${value.file}, found ${size}`,
          remedy: 'name another file',
        }
      return checked((await readFile(path, 'utf8')).replace(/\r?\n$/, ''), value.file)
    } catch (error) {
      const reason = messageOf(error)
      return {
        message: `expected a secret in the file ${value.file}, found that it cannot be read (${reason})`,
        remedy: 'correct the path, or its permissions',
      }
    }
  }
  return {
    message: 'expected a secret (text, { env: NAME } or { file: PATH }), found something else',
    remedy: 'write one of these',
  }
}

function fitForHeader(text: string, source: string): SecretResult {
  // Anything else would break the header it ends in, at the first call instead of here.
  if (!/^[\x20-\x7e]+$/.test(text) || text.trim() !== text) {
    const message = `expected visible ASCII characters without spaces around them in ${source}, found others (not shown)`
    return { message, remedy: 'remove line breaks, spaces and other characters' }
  }
  return { secret: text }
}

/** A password may be of any characters, but for those that only a mistake brings there. */
export function fitForLogin(text: string, source: string): SecretResult {
  if (/^\P{Cc}+$/u.test(text)) return { secret: text }
  const message = `expected one line in ${source}, found line breaks or other control characters (not shown)`
  return { message, remedy: 'remove them' }
}
