import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePorts } from './free-ports.ts'
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

/** One call to the end point that runs jobs, as PHP saw it. Times are ms since 1970; they and `status` are NaN while it runs. */
export interface JobCall {
  /** The event's `meta.id`. */
  readonly id: string
  readonly type: string
  readonly startedAt: number
  readonly endedAt: number
  readonly status: number
  /** Pages that were parsed in it. */
  readonly parsed: readonly string[]
}

/** A real MediaWiki on SQLite, in which anybody may edit, move, delete and upload. */
export interface Wiki {
  /** The folder of api.php and rest.php. */
  readonly url: string
  readonly database: string
  /** Calls the action API by POST; rejects with its words where it says no. */
  api(params: Readonly<Record<string, string>>): Promise<ApiAnswer>
  edit(title: string, text: string): Promise<void>
  move(from: string, to: string): Promise<void>
  delete(title: string): Promise<void>
  upload(name: string, content: Buffer): Promise<void>
  /** `page_touched`, to the second, as ISO time. */
  touched(title: string): Promise<string>
  categoryMembers(category: string): Promise<readonly string[]>
  /** Runs statements in it, as a maintenance script does, and gives back what they print. */
  php(statements: string): Promise<string>
  /** Since the last `forgetJobCalls`, in order of their starts. */
  jobCalls(): Promise<readonly JobCall[]>
  forgetJobCalls(): Promise<void>
  /** While it is on, the end point that runs jobs answers 503. */
  refuseJobs(isOn: boolean): Promise<void>
  readOnly(isOn: boolean): Promise<void>
  /** From the next request on, EventBus posts there. */
  sendEventsTo(intakeUrl: string): Promise<void>
  close(): Promise<void>
}

const database = 'testwiki'
const inJson = { format: 'json', formatversion: '2' }
/** The token of those who are not logged in never changes. */
export const anonymousToken = '+\\'

/**
 * With the extension's folder: all its events and jobs are sent, but nobody hears them before `sendEventsTo`. Without: a stock
 * wiki. `furtherSettings` are PHP.
 */
export async function openWiki(eventBus?: string, furtherSettings = ''): Promise<Wiki> {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-wiki-'))
  const [port = 0] = await freePorts(1)
  const url = `http://127.0.0.1:${port}`
  await install(folder, url)
  await appendFile(join(folder, 'LocalSettings.php'), settings(folder, eventBus) + furtherSettings)
  // The discard port: a wiki to which nobody listens.
  await writeFile(intakeFile(folder), 'http://127.0.0.1:9/')
  const server = serve(folder, port)

  const api = (params: Readonly<Record<string, string>>) => post(new URLSearchParams({ ...inJson, ...params }))
  const post = async (body: URLSearchParams | FormData): Promise<ApiAnswer> => {
    const response = await fetch(`${url}/api.php`, { method: 'POST', body })
    const answer: unknown = await response.json()
    if (!isRecord(answer)) throw new Error(`the wiki answered ${response.status} without an object`)
    if (answer.error !== undefined) throw new Error(`the wiki said no: ${JSON.stringify(answer.error)}`)
    return answer
  }
  const write = async (params: Readonly<Record<string, string>>): Promise<void> => {
    await api({ token: anonymousToken, ...params })
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
    async upload(name, content) {
      const form = new FormData()
      const fields = { ...inJson, action: 'upload', filename: name, ignorewarnings: '1', token: anonymousToken }
      for (const [key, value] of Object.entries(fields)) form.set(key, value)
      form.set('file', new Blob([new Uint8Array(content)]), name)
      await post(form)
    },
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
    async php(statements) {
      const script = join(folder, 'script.php')
      await writeFile(script, maintenanceScript(statements))
      const { stdout } = await run('php', [script], { env: environment(folder) })
      return stdout
    },
    async jobCalls() {
      const log = await readFile(jobLog(folder), 'utf8').catch(() => '')
      return jobCallsOf(log)
    },
    forgetJobCalls: () => rm(jobLog(folder), { force: true }),
    refuseJobs: (isOn) => toggle(jobsRefusedFile(folder), isOn),
    readOnly: (isOn) => toggle(readOnlyFile(folder), isOn),
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
$wgGroupPermissions['*']['upload'] = true;
$wgEnableUploads = true;
$wgReadOnlyFile = ${php(readOnlyFile(folder))};
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
${jobLogging(folder)}
`
}

/** Two lines per call, appended whole: one when it starts, one when it ends, however it ends. */
function jobLogging(folder: string): string {
  return `
if ( str_ends_with( $_SERVER['REQUEST_URI'] ?? '', '/eventbus/v0/internal/job/execute' ) ) {
	$jobCall = json_decode( file_get_contents( 'php://input' ), true );
	$logJob = static function ( array $line ) use ( $jobCall ) {
		$line += [ 'id' => $jobCall['meta']['id'], 'at' => microtime( true ) * 1000 ];
		file_put_contents( ${php(jobLog(folder))}, json_encode( $line ) . "\n", FILE_APPEND );
	};
	$parsedPages = [];
	$wgHooks['ParserAfterTidy'][] = static function ( Parser $parser ) use ( &$parsedPages ) {
		$parsedPages[] = $parser->getTitle()->getPrefixedText();
	};
	$logJob( [ 'type' => $jobCall['type'] ] );
	register_shutdown_function( static function () use ( $logJob, &$parsedPages ) {
		$logJob( [ 'status' => http_response_code(), 'parsed' => $parsedPages ] );
	} );
	if ( file_exists( ${php(jobsRefusedFile(folder))} ) ) {
		http_response_code( 503 );
		exit;
	}
}
`
}

interface JobLogLine {
  readonly id: string
  readonly at: number
  readonly type?: string
  readonly status?: number
  readonly parsed?: readonly string[]
}

/** The last line may be half written. */
function jobCallsOf(log: string): readonly JobCall[] {
  const calls: JobCall[] = []
  const indexes = new Map<string, number>()
  for (const text of log.split('\n').slice(0, -1)) {
    const line: JobLogLine = JSON.parse(text)
    const { id, at, type, status, parsed } = line
    const index = indexes.get(id)
    const call = index === undefined ? undefined : calls[index]
    if (type !== undefined) {
      indexes.set(id, calls.length)
      calls.push({ id, type, startedAt: at, endedAt: Number.NaN, status: Number.NaN, parsed: [] })
    } else if (index !== undefined && call !== undefined && status !== undefined && parsed !== undefined) {
      calls[index] = { ...call, endedAt: at, status, parsed }
    }
  }
  return calls
}

function maintenanceScript(statements: string): string {
  return `<?php
require_once '${code}/maintenance/Maintenance.php';
class StatementsOfATest extends Maintenance {
	public function execute() {
${statements}
	}
}
$maintClass = StatementsOfATest::class;
require_once RUN_MAINTENANCE_IF_MAIN;
`
}

async function toggle(file: string, isOn: boolean): Promise<void> {
  if (isOn) await writeFile(file, 'for a test')
  else await rm(file, { force: true })
}

function jobLog(folder: string): string {
  return join(folder, 'job-calls')
}

function jobsRefusedFile(folder: string): string {
  return join(folder, 'jobs-refused')
}

function readOnlyFile(folder: string): string {
  return join(folder, 'read-only')
}

function environment(folder: string): NodeJS.ProcessEnv {
  return { ...process.env, MW_CONFIG_FILE: join(folder, 'LocalSettings.php'), PHP_CLI_SERVER_WORKERS: '8' }
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
    env: environment(folder),
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

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function field(value: unknown, name: string): unknown {
  return isRecord(value) ? value[name] : undefined
}

function first(value: unknown): unknown {
  return Array.isArray(value) ? value[0] : undefined
}
