import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { onTestFinished } from 'vitest'
import { run } from '../../src/cli/cli.ts'

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface Terminal {
  readonly folder: string
  /** Runs one command line in the folder. With `answers`, somebody sits at the terminal and types them. */
  run(argv: readonly string[], options?: { env?: NodeJS.ProcessEnv; stdin?: string; answers?: string }): Promise<Ran>
}

/** A fresh folder with these files, and a terminal in it. */
export async function terminalWith(files: Readonly<Record<string, string>> = {}): Promise<Terminal> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-cli-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), content)
  }
  return {
    folder,
    async run(argv, { env = {}, stdin = '', answers } = {}) {
      const stdout = new PassThrough()
      const stderr = new PassThrough()
      const written = Promise.all([text(stdout), text(stderr)])
      const input = Object.assign(Readable.from([answers ?? stdin]), { isTTY: answers !== undefined })
      const code = await run(argv, { stdout, stderr, stdin: input, env, cwd: folder })
      stdout.end()
      stderr.end()
      const [out, err] = await written
      return { code, stdout: out, stderr: err }
    },
  }
}

/** A rule that purges pages of one wiki, and the event it is about. */
export const purgeRule = `
purge:
  topic: mediawiki.page_change.v1
  match: { meta: { domain: '/^(?<lang>\\w+)\\.w\\.example$/' } }
  match_not: { performer: { is_bot: true } }
  exec:
    method: post
    uri: '{{wiki.url}}/api.php'
    headers: { authorization: hush-rule, content-type: application/json }
    body: { title: '{{message.page.page_title}}', lang: '{{match.meta.domain.lang}}' }
`
export const purgeConfig = `
wikis: [ { domain: '/^(?<lang>\\w+)\\.w\\.example$/', url: 'http://{{lang}}.w.example/w', host: cache.example } ]
`

export function pageChange(changes: { domain?: string | undefined; stream?: string; isBot?: boolean } = {}): string {
  const { domain, stream, isBot } = {
    domain: 'en.w.example',
    stream: 'mediawiki.page_change.v1',
    isBot: false,
    ...changes,
  }
  return JSON.stringify({
    $schema: '/mediawiki/page/change/1.0.0',
    meta: { stream, domain },
    performer: { is_bot: isBot },
    page: { page_title: 'A "b"' },
  })
}
