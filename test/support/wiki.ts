import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { until } from './until.ts'

const run = promisify(execFile)

/** Where Debian's package puts MediaWiki's code; it is shared by all wikis, each of which has a folder of its own besides. */
const code = '/usr/share/mediawiki'

/** The unpacked EventBus extension, named by whoever runs the tests. */
export const eventBusFolder = process.env.CHANGEPROP_TEST_EVENTBUS

/** For `skipIf`: true only where there is nothing to test with and nobody promised it. In CI the tests run, and fail. */
export const wikiAbsent = !existsSync(code) && process.env.CI === undefined
export const eventBusAbsent = wikiAbsent || (eventBusFolder === undefined && process.env.CI === undefined)

export type ApiAnswer = Readonly<Record<string, unknown>>

/** A real MediaWiki on SQLite, in which anybody may edit, move and delete. */
export interface Wiki {
  /** The folder of api.php and rest.php. */
  readonly url: string
  readonly database: string
  /** Calls the action API by POST; rejects with its words where it says no. */
  api(params: Readonly<Record<string, string>>): Promise<ApiAnswer>
  edit(title: string, text: string): Promise<void>
  move(from: string, to: string): Promise<void>
  delete(title: string): Promise<void>
  /** `page_touched`, to the second, as ISO time. */
  touched(title: string): Promise<string>
  categoryMembers(category: string): Promise<readonly string[]>
  /** From the next request on, EventBus posts there. */
  sendEventsTo(intakeUrl: string): Promise<void>
  close(): Promise<void>
}

const database = 'testwiki'

/** With the extension's folder: all its events and jobs are sent, but nobody hears them before `sendEventsTo`. Without: a stock wiki. */
export async function openWiki(eventBus?: string): Promise<Wiki> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-wiki-'))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  await install(folder, url)
  await appendFile(join(folder, 'LocalSettings.php'), settings(folder, eventBus))
  // The discard port: a wiki to which nobody listens.
  await writeFile(intakeFile(folder), 'http://127.0.0.1:9/')
  const server = serve(folder, port)

  const api = async (params: Readonly<Record<string, string>>): Promise<ApiAnswer> => {
    const body = new URLSearchParams({
      format: 'json',
      formatversion: '2',
      ...params,
    })
    const response = await fetch(`${url}/api.php`, { method: 'POST', body })
    const answer: unknown = await response.json()
    if (!isRecord(answer)) throw new Error(`the wiki answered ${response.status} without an object`)
    if (answer.error !== undefined) throw new Error(`the wiki said no: ${JSON.stringify(answer.error)}`)
    return answer
  }
  // The token of those who are not logged in never changes.
  const write = async (params: Readonly<Record<string, string>>): Promise<void> => {
    await api({ token: '+\\', ...params })
  }
  const close = async (): Promise<void> => {
    await server.close()
    await rm(folder, { recursive: true, force: true })
  }

  try {
    await until('the wiki answers', async () => {
      server.assertRunning()
      return fetch(`${url}/api.php?action=query&meta=siteinfo&format=json`).then(
        (response) => response.ok,
        () => false,
      )
    })
  } catch (error) {
    await close()
    throw error
  }

  return {
    url,
    database,
    api,
    edit: (title, text) => write({ action: 'edit', title, text }),
    move: (from, to) => write({ action: 'move', from, to }),
    delete: (title) => write({ action: 'delete', title }),
    async touched(title) {
      const answer = await api({
        action: 'query',
        prop: 'info',
        titles: title,
      })
      const touched = field(first(field(field(answer, 'query'), 'pages')), 'touched')
      if (typeof touched !== 'string') throw new Error(`the wiki has no page ${title}`)
      return touched
    },
    async categoryMembers(category) {
      const answer = await api({
        action: 'query',
        list: 'categorymembers',
        cmtitle: `Category:${category}`,
        cmlimit: '500',
      })
      const members = field(field(answer, 'query'), 'categorymembers')
      return Array.isArray(members) ? members.map((member) => String(field(member, 'title'))).sort() : []
    },
    sendEventsTo: (intakeUrl) => writeFile(intakeFile(folder), intakeUrl),
    close,
  }
}

async function install(folder: string, url: string): Promise<void> {
  await run('php', [
    `${code}/maintenance/install.php`,
    ...['--confpath', folder, '--dbtype', 'sqlite', '--dbpath', join(folder, 'data'), '--dbname', database],
    ...['--server', url, '--scriptpath', '', '--pass', 'not-a-secret-anywhere', 'Test wiki', 'Admin'],
  ])
}

/** Goes after what the installer wrote, and so has the last word. */
function settings(folder: string, eventBus: string | undefined): string {
  const stock = `
$wgJobRunRate = 0;
$wgMainCacheType = CACHE_DB;
$wgCacheDirectory = ${php(join(folder, 'cache'))};
$wgUploadDirectory = ${php(join(folder, 'images'))};
$wgRateLimits = [];
$wgEnableEmail = false;
$wgGroupPermissions['*']['move'] = true;
$wgGroupPermissions['*']['delete'] = true;
`
  if (eventBus === undefined) return stock
  return `${stock}
wfLoadExtension( 'EventBus', ${php(join(eventBus, 'extension.json'))} );
$wgEnableEventBus = 'TYPE_ALL';
$wgEventServices = [
	'changeprop' => [ 'url' => file_get_contents( ${php(intakeFile(folder))} ), 'timeout' => 10 ],
];
$wgEventServiceDefault = 'changeprop';
$wgJobTypeConf['default'] = [
	'class' => '\\\\MediaWiki\\\\Extension\\\\EventBus\\\\Adapters\\\\JobQueue\\\\JobQueueEventBus', 'readOnlyReason' => false,
];
`
}

/** PHP reads its settings anew for each request, and so this file. */
function intakeFile(folder: string): string {
  return join(folder, 'intake-url')
}

function php(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}

interface PhpServer {
  assertRunning(): void
  close(): Promise<void>
}

/** PHP and the workers that it forks end when the shell's input does: at the latest when the test's process is gone, however it went. */
const untilInputEnds = '{ php -S "$1" -t "$2"; kill -KILL 0; } & read -r _; kill -KILL 0'

function serve(folder: string, port: number): PhpServer {
  const child = spawn('sh', ['-c', untilInputEnds, 'sh', `127.0.0.1:${port}`, code], {
    env: { ...process.env, MW_CONFIG_FILE: join(folder, 'LocalSettings.php'), PHP_CLI_SERVER_WORKERS: '4' },
    stdio: ['pipe', 'ignore', 'pipe'],
    // A process group of its own, for the shell to kill.
    detached: true,
  })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-4_000)
  })
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  return {
    assertRunning() {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`PHP's server did not start: ${said}`)
    },
    async close() {
      child.stdin.end()
      await ended
    },
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no free port')
  return address.port
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function field(value: unknown, name: string): unknown {
  return isRecord(value) ? value[name] : undefined
}

function first(value: unknown): unknown {
  return Array.isArray(value) ? value[0] : undefined
}
