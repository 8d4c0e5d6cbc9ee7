import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openService, type Service } from '../support/service.ts'
import { until } from '../support/until.ts'
import { eventBusAbsent, eventBusFolder, type JobCall, openWiki, type Wiki } from '../support/wiki.ts'
import { eventView } from './event-view.ts'
import { createRandom } from './random.ts'
import { isIdle, ruleCounts } from './rule-counts.ts'

const pages = 500
/** Fewer than PHP has workers, so that PHP sees it when there are more. */
const concurrency = 4
const rounds = Number(process.env.ROUNDS ?? 10)
const drainLimitMs = 120_000

const rules = (policies = '', throttle = `concurrency: ${concurrency}`) => `
run_jobs:
  topic: '/^mediawiki\\.job\\./'
  exec: { method: post, uri: '{{wiki.url}}/rest.php/eventbus/v0/internal/job/execute', body: '{{globals.message}}' }
  answers: mediawiki-job
  throttle: { ${throttle} }
  ${policies}
`

describe.skipIf(eventBusAbsent)(`a template on ${pages} pages of a wiki whose only job queue is changeprop`, () => {
  let wiki: Wiki

  beforeAll(async () => {
    expect(eventBusFolder, 'CHANGEPROP_TEST_EVENTBUS is not set').toBeDefined()
    wiki = await openWiki(eventBusFolder)
    await wiki.edit('Template:Fan', 'as it was')
    await wiki.php(`
		$content = ContentHandler::makeContent( '{{Fan}}', Title::newFromText( 'Page' ) );
		$factory = MediaWiki\\MediaWikiServices::getInstance()->getWikiPageFactory();
		$user = User::newSystemUser( 'Importer' );
		for ( $i = 1; $i <= ${pages}; $i++ ) {
			$factory->newFromTitle( Title::newFromText( "Page $i" ) )
				->doUserEditContent( $content, $user, 'import', EDIT_NEW | EDIT_SUPPRESS_RC );
		}
`)
  })
  afterAll(() => wiki?.close())

  async function setup(...policies: Parameters<typeof rules>): Promise<Service> {
    const service = await openService({
      rules: rules(...policies),
      config: `wikis: [ { database: ${wiki.database}, url: '${wiki.url}' } ]\n`,
    })
    onTestFinished(() => service.close())
    await wiki.sendEventsTo(`${service.url}/v1/events`)
    await wiki.forgetJobCalls()
    return service
  }

  const edit = (category: string) => wiki.edit('Template:Fan', `[[Category:${category}]]`)

  async function inCategory(category: string): Promise<number> {
    return (await wiki.categoryMembers(category)).length
  }

  async function drained(service: Service, category: string): Promise<void> {
    await until(
      `all pages are in ${category}`,
      async () => (await isIdle(service, 'run_jobs')) && (await inCategory(category)) === pages,
      drainLimitMs,
    )
  }

  /** Pages whose links or whose cache are older than that. */
  async function stale(since: number): Promise<string> {
    return wiki.php(`
		$since = wfTimestamp( TS_MW, ${Math.floor(since / 1_000)} );
		$dbr = wfGetDB( DB_REPLICA );
		echo implode( ', ', $dbr->selectFieldValues( 'page', 'page_title',
			[ 'page_namespace' => 0, "page_title LIKE 'Page%'",
				"page_touched < $since OR page_links_updated IS NULL OR page_links_updated < $since" ] ) );
`)
  }

  const timeout = 2 * drainLimitMs

  test('an edit of it brings every page up to date, each parsed once, and never more calls at once than the rule allows', {
    timeout,
  }, async () => {
    const service = await setup()
    const since = Date.now()

    await edit('Once')
    await drained(service, 'Once')

    expect(await stale(since)).toBe('')
    const calls = await wiki.jobCalls()
    expect(timesParsed(calls)).toEqual(new Map([[1, pages]]))
    expect(mostAtOnce(calls)).toBeLessThanOrEqual(concurrency)
  })

  test('edited twice while its jobs are refused, all pages show the second edit', { timeout }, async () => {
    const service = await setup('retry: { limit: 50, delay: 500ms, max_delay: 2s }')
    await wiki.refuseJobs(true)
    onTestFinished(() => wiki.refuseJobs(false))
    const first = Date.now()
    await edit('Held first')
    await until('2.5 s have passed', () => Date.now() >= first + 2_500)
    const second = Date.now()
    await edit('Held second')
    await until('a job of the second edit was refused', async () =>
      (await wiki.jobCalls()).some(({ status, startedAt }) => status === 503 && startedAt > second),
    )

    await wiki.refuseJobs(false)
    await drained(service, 'Held second')

    expect(await inCategory('Held first')).toBe(0)
    expect(await stale(second)).toBe('')
    expect(timesParsed(await wiki.jobCalls())).toEqual(new Map([[1, pages]]))
  })

  test('edited twice while its jobs run, all pages show the second edit', { timeout }, async () => {
    // However quick the wiki is, not all pages can be done within 2.5 s.
    const service = await setup('', `concurrency: ${concurrency}, rate: 100/s`)
    const first = Date.now()
    await edit('Running first')
    await until('2.5 s have passed', () => Date.now() >= first + 2_500)
    await until('some pages show the first edit', async () => (await inCategory('Running first')) > 0)
    const second = Date.now()

    await edit('Running second')
    await drained(service, 'Running second')

    expect(await inCategory('Running first')).toBe(0)
    expect(await stale(second)).toBe('')
  })

  test('read-only for a while, it is asked once in 5 s, no attempt is spent, and all goes on afterwards', {
    timeout,
  }, async () => {
    const service = await setup('retry: { limit: 0 }')
    await edit('Read-only')
    await until('some pages show the edit', async () => (await inCategory('Read-only')) > 0)
    await wiki.readOnly(true)
    onTestFinished(() => wiki.readOnly(false))
    const refused = async () =>
      (await wiki.jobCalls()).filter(({ status }) => status === 423).sort((a, b) => a.startedAt - b.startedAt)
    const { underWay, probes } = await until('it was asked whether it still is', async () => {
      const calls = await refused()
      const [found] = calls
      if (found === undefined) return false
      const underWay = calls.filter(({ startedAt }) => startedAt < found.startedAt + 5_000)
      const probes = calls.slice(underWay.length)
      return probes.length >= 2 && { underWay, probes }
    })

    await wiki.readOnly(false)
    await drained(service, 'Read-only')

    expect(underWay.length).toBeLessThanOrEqual(concurrency)
    for (const [index, { startedAt }] of probes.entries()) {
      const before = probes[index - 1] ?? underWay.at(-1)
      expect(startedAt - (before?.startedAt ?? Number.NaN)).toBeGreaterThanOrEqual(5_000)
    }
    for (const { id } of await refused()) {
      const delivery = (await eventView(service, id))?.rules[0]?.delivery
      expect(`${delivery?.state} ${delivery?.reason}`).toBe('done ok')
      expect(new Set(delivery?.attempts.slice(0, -1).map(({ outcome }) => outcome))).toEqual(new Set(['throttled']))
    }
    expect((await ruleCounts(service, 'run_jobs')).dead).toBe(0)
  })

  test(`killed ${rounds} times while its jobs run, all pages are right, and only calls in flight are repeated`, {
    timeout: rounds * timeout,
  }, async () => {
    const service = await setup()
    const random = createRandom()
    console.log(`seed ${random.seed}`)
    for (let round = 1; round <= rounds; round += 1) {
      await wiki.forgetJobCalls()
      const moment = random.between(10, pages)
      const since = Date.now()
      await edit(`Killed ${round}`)
      await until('some jobs have run', async () => (await wiki.jobCalls()).length >= moment, drainLimitMs)

      await service.kill()
      await service.restart()
      await wiki.sendEventsTo(`${service.url}/v1/events`)
      await drained(service, `Killed ${round}`)

      expect(await inCategory(`Killed ${round - 1}`)).toBe(0)
      expect(await stale(since)).toBe('')
      const repeated = repeats(await wiki.jobCalls())
      console.log(`killed after ${moment} calls: ${repeated} repeated`)
      // Running, or answered and not settled yet.
      expect(repeated).toBeLessThanOrEqual(2 * concurrency)
    }
    expect((await ruleCounts(service, 'run_jobs')).dead).toBe(0)
  })
})

/** How many pages were parsed how often by calls that succeeded. */
function timesParsed(calls: readonly JobCall[]): Map<number, number> {
  const times = countOf(calls.filter(({ status }) => status === 200).flatMap(({ parsed }) => parsed))
  return countOf(times.values())
}

/** Calls of events whose call had succeeded already, or was cut off. */
function repeats(calls: readonly JobCall[]): number {
  const needed = calls.filter(({ status }) => status !== 200 && !Number.isNaN(status)).length
  return calls.length - needed - new Set(calls.map(({ id }) => id)).size
}

function mostAtOnce(calls: readonly JobCall[]): number {
  return Math.max(
    ...calls.map(
      ({ startedAt }) => calls.filter((other) => other.startedAt <= startedAt && other.endedAt > startedAt).length,
    ),
  )
}

function countOf<Value>(values: Iterable<Value>): Map<Value, number> {
  const counts = new Map<Value, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return counts
}
