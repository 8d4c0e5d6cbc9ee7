import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { terminalWith } from './terminal.ts'

/*
 * The built command, started as npm starts it: through a symlink. `npm test` builds first.
 */
const built = fileURLToPath(new URL('../../dist/cli/cli.js', import.meta.url))

interface Served {
  readonly url: string
  readonly readyLine: string
  kill(signal: NodeJS.Signals): void
  /** Resolves with the first line of the log that has this text. */
  logged(text: string): Promise<string>
  readonly exit: Promise<number | null>
}

/** Starts `changeprop serve` in a folder with these rules and waits until it says that it is ready. */
async function serve(
  rules: string,
  folder?: string,
  flags: readonly string[] = [],
): Promise<Served & { folder: string }> {
  if (!existsSync(built)) throw new Error('expected dist/cli/cli.js, found none: run npm run build')
  const cwd = folder ?? (await terminalWith({ 'rules/a.yaml': rules })).folder
  if (folder === undefined) await symlink(built, join(cwd, 'changeprop'))
  const child = spawn(process.execPath, [join(cwd, 'changeprop'), 'serve', '--port', '0', ...flags], {
    cwd,
    env: {},
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const exit = once(child, 'exit').then(([code]) => (typeof code === 'number' ? code : null))
  const lines: string[] = []
  const waiting: { text: string; tell: (line: string) => void }[] = []
  createInterface({ input: child.stderr }).on('line', (line) => {
    lines.push(line)
    for (const { text, tell } of waiting) if (line.includes(text)) tell(line)
  })
  const ready = once(createInterface({ input: child.stdout }), 'line').then(([line]) => String(line))
  const readyLine = await Promise.race([
    ready,
    exit.then((code) => Promise.reject(new Error(`exit code ${code}: ${lines.join('\n')}`))),
  ])
  return {
    folder: cwd,
    url: /http:\S+?(?=,)/.exec(readyLine)?.[0] ?? '',
    readyLine,
    kill: (signal) => child.kill(signal),
    logged: (text) => {
      const before = lines.find((line) => line.includes(text))
      return before === undefined ? new Promise((tell) => waiting.push({ text, tell })) : Promise.resolve(before)
    },
    exit,
  }
}

const oneRule = "one: { topic: t, exec: { uri: 'http://127.0.0.1:1/x' } }\n"

test('serve says in one line where it listens, with which store and how many rules; SIGTERM ends it with 0', async () => {
  const served = await serve(oneRule)
  expect(served.readyLine).toMatch(
    /^changeprop listens on http:\/\/127\.0\.0\.1:\d+, embedded store in \S*data, 1 rule$/,
  )
  expect((await fetch(`${served.url}/healthz`)).status).toBe(200)
  served.kill('SIGTERM')
  expect(await served.exit).toBe(0)
})

test('serve takes up changed rules at SIGHUP, and keeps the old ones where the new are wrong', async () => {
  const served = await serve(oneRule)
  const names = async () => {
    const answer = await fetch(`${served.url}/v1/rules`)
    return JSON.stringify(await answer.json())
  }
  await writeFile(join(served.folder, 'rules/a.yaml'), oneRule.replace('one', 'two'))
  served.kill('SIGHUP')
  await served.logged('loaded anew')
  expect(await names()).toContain('"two"')
  await writeFile(join(served.folder, 'rules/a.yaml'), 'three: { topc: t }')
  served.kill('SIGHUP')
  await served.logged('did you mean topic?')
  await served.logged('stay in force')
  expect(await names()).toContain('"two"')
  served.kill('SIGINT')
  expect(await served.exit).toBe(0)
})

test('serve names at SIGHUP what was changed and needs a restart, but not what it was changed to', async () => {
  const config = (token: string, limit: string) =>
    `admin: { token: { file: ${token} } }\nintake: { max_body: 1MiB }\nstop_timeout: ${limit}\n`
  const files = { 'config.yaml': config('token', '1s'), token: 'first', other: 'second', 'rules/a.yaml': oneRule }
  const { folder } = await terminalWith(files)
  await symlink(built, join(folder, 'changeprop'))
  const served = await serve('', folder, ['--config', 'config.yaml'])
  await writeFile(join(folder, 'config.yaml'), config('other', '2s'))
  served.kill('SIGHUP')
  const { level, msg } = JSON.parse(await served.logged('holds only'))
  expect([level, msg]).toEqual(['warn', 'what was changed in admin.token, stop_timeout holds only after a restart'])
  await served.logged('loaded anew')

  await writeFile(join(folder, 'config.yaml'), 'stop_timeout: never\n')
  served.kill('SIGHUP')
  await served.logged('found 1 problem: the rules, wikis and targets loaded before it stay in force')
})

test('serve starts with wrong rules, and says so; but a second process on its data does not start', async () => {
  const served = await serve('one: { topc: t }')
  expect(served.readyLine).toMatch(/, no rules in force: they have problems$/)
  await expect(serve('', served.folder)).rejects.toThrow(/exit code 1: .*cannot start: .*STORE_LOCKED/s)
  served.kill('SIGTERM')
  expect(await served.exit).toBe(0)
})

test('serve that cannot start says what is in its way, and what to do', async () => {
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  onTestFinished(() => {
    other.close()
  })
  const address = other.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const terminal = await terminalWith({ 'rules/a.yaml': oneRule, file: '' })
  await symlink(built, join(terminal.folder, 'changeprop'))
  for (const [flags, line] of [
    [['--port', `${address.port}`], `another program listens on 127.0.0.1:${address.port}; stop it, or`],
    [['--port', '0', '--data', 'file/data'], 'file/data cannot be made (not a directory); remove the file'],
    [['--port', '0', '--data', 'file'], 'file cannot be used as data folder; see that it is a folder'],
  ] as const) {
    const argv = [join(terminal.folder, 'changeprop'), 'serve', ...flags]
    const child = spawn(process.execPath, argv, { cwd: terminal.folder, env: {}, stdio: ['ignore', 'ignore', 'pipe'] })
    const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')])
    expect([code, err]).toEqual([1, expect.stringMatching(/^cannot start: .*$/m)])
    expect(err).toContain(line)
  }
})

test('serve that is asked twice to stop does not wait for running calls, and ends with 1', async () => {
  let tellCalled: () => void = () => undefined
  const calls = new Promise<void>((resolve) => {
    tellCalled = resolve
  })
  // Takes the call and never answers.
  const target = createServer(() => tellCalled())
  target.listen(0, '127.0.0.1')
  await once(target, 'listening')
  onTestFinished(() => {
    target.closeAllConnections()
    target.close()
  })
  const address = target.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const served = await serve(`slow: { topic: t, exec: { uri: 'http://127.0.0.1:${address.port}/x' } }`)
  const event = { $schema: '/t/1.0.0', meta: { stream: 't' } }
  const posted = await fetch(`${served.url}/v1/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(event),
  })
  expect(posted.status).toBe(201)
  await calls
  // Right behind the first it is taken for its echo, as npm makes one; then it counts.
  const asking = setInterval(() => served.kill('SIGINT'), 50)
  expect(await served.exit).toBe(1)
  clearInterval(asking)
})

test('the built command prints its help, and ends with 2 where it is used wrongly', async () => {
  const { folder } = await terminalWith()
  await symlink(built, join(folder, 'changeprop'))
  for (const [argv, expected, part] of [
    [['--help'], 0, 'Usage: changeprop'],
    [['serv'], 2, 'Did you mean serve?'],
  ] as const) {
    const child = spawn(process.execPath, [join(folder, 'changeprop'), ...argv], { stdio: ['ignore', 'pipe', 'pipe'] })
    const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
    expect([code, out + err]).toEqual([expected, expect.stringContaining(part)])
  }
})

test('what a command says arrives whole at a reader that takes its time', async () => {
  const count = 5_000
  const event = { $schema: '/t/1.0.0', meta: { stream: 't' } }
  const { folder } = await terminalWith({
    'rules/a.yaml': "other: { topic: other, exec: { uri: 'http://127.0.0.1:9/' } }",
    'events.json': JSON.stringify(new Array(count).fill(event)),
  })
  await symlink(built, join(folder, 'changeprop'))
  const argv = [join(folder, 'changeprop'), 'try', '--event', 'events.json']
  const child = spawn(process.execPath, argv, { cwd: folder, stdio: ['ignore', 'pipe', 'ignore'] })
  // A pipe holds 64 KiB: the rest waits for whoever reads.
  await once(child.stdout, 'readable')
  await new Promise((resolve) => setImmediate(resolve))
  const [out, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')])
  expect([code, out.trim().split('\n').length]).toEqual([0, count])
})

test('the built command can be run as it lies, as npx does', async () => {
  const child = spawn(built, ['--version'], { stdio: ['ignore', 'pipe', 'inherit'] })
  expect(await text(child.stdout)).toMatch(/^\d+\.\d+\.\d+\n$/)
})
