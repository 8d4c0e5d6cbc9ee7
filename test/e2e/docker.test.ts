import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { openService } from '../support/service.ts'
import { copies, execForm, type Instruction, parseDockerfile } from './dockerfile.ts'

const run = promisify(execFile)
const instructions = parseDockerfile(readFileSync('Dockerfile', 'utf8'))

function only(name: string): Instruction {
  const [first, ...more] = instructions.filter((instruction) => instruction.name === name)
  if (first === undefined || more.length > 0) throw new Error(`the Dockerfile should have one ${name}`)
  return first
}

/** Runs the image's own question of health, outside any image. */
async function askHealth(port: string): Promise<'healthy' | 'ill'> {
  const [, ...args] = execForm(only('HEALTHCHECK').text)
  return run(process.execPath, args, { env: { ...process.env, CHANGEPROP_LISTEN_PORT: port } }).then(
    () => 'healthy',
    () => 'ill',
  )
}

test('everything that the Dockerfile copies from the repository is there, and reaches the builder', () => {
  const sources = copies(instructions)
    .filter(({ from }) => from === undefined)
    .flatMap((copy) => copy.sources)
  const ignored = readFileSync('.dockerignore', 'utf8').split('\n')
  const isIgnored = (source: string) =>
    ignored.includes(source) || (source.startsWith('.') && ignored.includes('.*') && !ignored.includes(`!${source}`))

  expect(sources).toContain('src')
  expect(sources.filter((source) => !existsSync(source))).toEqual([])
  expect(sources.filter(isIgnored)).toEqual([])
})

test('everything that it copies from its first stage is there after a build', () => {
  const sources = copies(instructions)
    .filter(({ from }) => from !== undefined)
    .flatMap((copy) => copy.sources)

  expect(sources).toContain('/app/dist')
  expect(sources.filter((source) => !existsSync(source.replace(/^\/app\//, '')))).toEqual([])
})

test('the scripts that it runs stand in package.json', () => {
  const manifest: unknown = JSON.parse(readFileSync('package.json', 'utf8'))
  const scripts = instructions
    .filter(({ name }) => name === 'RUN')
    .flatMap(({ text }) => [...text.matchAll(/npm run (?:--\S+ )*([\w:]+)/g)].map((found) => found[1]))

  expect(scripts).toContain('build')
  for (const script of scripts) expect(manifest).toHaveProperty(['scripts', script ?? ''])
})

test('it runs the built program, as somebody without rights, and keeps its data in a volume that belongs to that user', async () => {
  const [program, file = '', command = '', flag, folder = ''] = execForm(only('CMD').text)

  expect(program).toBe('node')
  expect(existsSync(file)).toBe(true)
  const { stdout } = await run(process.execPath, [file, command, '--help'])
  expect(stdout).toContain(flag)
  expect(only('USER').text).not.toMatch(/^(root|0)\b/)
  expect(only('VOLUME').text).toBe(folder)
  const owner = `--owner=${only('USER').text}`
  expect(instructions.some(({ name, text }) => name === 'RUN' && text.includes(owner) && text.endsWith(folder))).toBe(
    true,
  )
})

test('its question of health is answered yes while the service runs, and no when it does not', async () => {
  const service = await openService({ rules: '{}' })
  onTestFinished(() => service.close())
  const { port } = new URL(service.url)

  expect(await askHealth(port)).toBe('healthy')
  await service.stop()
  expect(await askHealth(port)).toBe('ill')
})

test('the image listens on all of its addresses, at the port that it exposes', async () => {
  const environment = instructions.filter(({ name }) => name === 'ENV').map(({ text }) => text)
  const [setting] = environment
    .flatMap((text) => text.split(/\s+/))
    .filter((word) => word.startsWith('CHANGEPROP_LISTEN_HOST='))
  const service = await openService({ rules: '{}', env: { CHANGEPROP_LISTEN_HOST: setting?.split('=')[1] ?? '' } })
  onTestFinished(() => service.close())

  expect(service.output).toMatch(/listens on http:\/\/0\.0\.0\.0:/)
  expect(only('EXPOSE').text).toBe('8192')
})
