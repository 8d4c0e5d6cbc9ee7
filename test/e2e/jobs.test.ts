import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openService, type Service } from '../support/service.ts'
import { openTarget, type ScriptedTarget } from '../support/target.ts'
import { until } from '../support/until.ts'
import { type ApiAnswer, anonymousToken, eventBusAbsent, eventBusFolder, openWiki, type Wiki } from '../support/wiki.ts'
import { isIdle, ruleCounts } from './rule-counts.ts'

const reboundSeconds = 3
/** On a busy machine SQLite is locked now and then: MediaWiki fails, and a third or fourth attempt comes late. */
const retriesMs = 150_000

/** What makes MediaWiki hand more of its work to jobs. */
const settings = `
$wgRCWatchCategoryMembership = true;
$wgDeleteRevisionsBatchSize = 2;
$wgUseRCPatrol = false;
$wgUpdateRowsPerJob = 3;
$wgUseCdn = true;
$wgCdnReboundPurgeDelay = ${reboundSeconds};
$wgEventRelayerConfig['cdn-url-purges'] = [
	'class' => '\\\\MediaWiki\\\\Extension\\\\EventBus\\\\Adapters\\\\EventRelayer\\\\CdnPurgeEventRelayer', 'stream' => 'resource-purge',
];
`

describe.skipIf(eventBusAbsent)(
  'a MediaWiki that sends all its jobs, with the rules of config/examples',
  {
    timeout: 2 * retriesMs,
  },
  () => {
    let wiki: Wiki
    let cdn: ScriptedTarget
    let service: Service

    beforeAll(async () => {
      expect(eventBusFolder, 'CHANGEPROP_TEST_EVENTBUS is not set').toBeDefined()
      cdn = await openTarget()
      wiki = await openWiki(eventBusFolder, settings)
      service = await openService({
        rules: (await readExample('wiki-rules.yaml')) + (await readExample('cdn-rules.yaml')),
        config: `
wikis: [ { database: ${wiki.database}, url: '${wiki.url}' } ]
targets: { cdn: { url: '${cdn.url}' } }
`,
      })
      await wiki.sendEventsTo(`${service.url}/v1/events`)
    })
    afterAll(async () => {
      await service?.close()
      await wiki?.close()
      await cdn?.close()
    })

    async function withWhatWaits(error: unknown): Promise<never> {
      const counts = await ruleCounts(service, 'run_jobs')
      const { body } = await service.get('/v1/deliveries?rule=run_jobs&state=waiting')
      throw new Error(`${String(error)}: ${JSON.stringify([counts, body])}`.slice(0, 6_000))
    }

    /** For what a job is to do, as late as that may come. */
    function happens<Value>(what: string, ask: () => Promise<Value | undefined | false> | Value | undefined | false) {
      return until(what, ask, retriesMs).catch(withWhatWaits)
    }

    /** `page_touched` when nothing more is to be done, in a second that is over. */
    async function settledTouch(title: string): Promise<string> {
      await until('the jobs so far are done', () => isIdle(service, 'run_jobs'), retriesMs).catch(withWhatWaits)
      const touched = await wiki.touched(title)
      await until('the next second begins', () => Date.now() >= Date.parse(touched) + 1_000)
      return touched
    }

    const query = (params: Readonly<Record<string, string>>) => wiki.api({ action: 'query', ...params })

    test('an edited template puts the pages that use it into its category, and recent changes tell of it', async () => {
      const pages = ['Aare', 'Inn', 'Limmat', 'Reuss', 'Rhein', 'Rhône', 'Ticino']
      await wiki.edit('Template:River', 'A river.')
      for (const page of pages) await wiki.edit(page, '{{River}}')

      await wiki.edit('Template:River', 'A river. <includeonly>[[Category:Rivers]]</includeonly>')

      await happens(
        'all pages are in the category',
        async () => (await wiki.categoryMembers('Rivers')).length === pages.length,
      )
      await wiki.edit('Doubs', 'A river. [[Category:Rivers]]')
      await happens('recent changes tell that a page was put into the category', async () =>
        textOf(await query({ list: 'recentchanges', rctype: 'categorize', rcprop: 'title|comment' })).includes('Doubs'),
      )
    })

    test('a new page touches those that link to it', async () => {
      await wiki.edit('Linking', 'See [[Lake]].')
      const touched = await settledTouch('Linking')

      await wiki.edit('Lake', 'Here it is.')

      await happens('the page that links is touched', async () => (await wiki.touched('Linking')) > touched)
    })

    test('a deletion in batches goes on to its end, and the links of the page go with it', async () => {
      for (const text of ['one', 'two', 'three', 'four', 'five [[Lake]]']) await wiki.edit('Old', text)
      const backlinks = async () => textOf(await query({ list: 'backlinks', bltitle: 'Lake' }))
      await happens('the link is known', async () => (await backlinks()).includes('Old'))

      await wiki.delete('Old')

      await happens('the page is gone', async () => textOf(await query({ titles: 'Old' })).includes('"missing":true'))
      await happens('its link is gone', async () => !(await backlinks()).includes('Old'))
    })

    test('a redirect to a page that was moved is led to where that is now', async () => {
      await wiki.edit('Peak', 'high')
      await wiki.edit('Summit', '#REDIRECT [[Peak]]')

      await wiki.move('Peak', 'Mountain')
      await wiki.php("DoubleRedirectJob::fixRedirects( 'move', Title::newFromText( 'Peak' ) );")

      await happens('the redirect leads there', async () =>
        textOf(await query({ prop: 'revisions', titles: 'Summit', rvprop: 'content', rvslots: 'main' })).includes(
          '[[Mountain]]',
        ),
      )
    })

    test('an edit that is undone is marked as reverted', async () => {
      await wiki.edit('Disputed', 'true')
      const { edit } = await wiki.api({ action: 'edit', title: 'Disputed', text: 'false', token: anonymousToken })
      const undone = /"newrevid":(\d+)/.exec(JSON.stringify(edit))?.[1] ?? ''
      await wiki.api({ action: 'edit', title: 'Disputed', undo: undone, token: anonymousToken })

      await happens('it is marked', async () =>
        textOf(await query({ prop: 'revisions', revids: undone, rvprop: 'tags' })).includes('mw-reverted'),
      )
    })

    test('an uploaded file touches the pages that show it', async () => {
      await wiki.edit('Gallery', '[[File:Dot.png]]')
      const touched = await settledTouch('Gallery')

      await wiki.upload('Dot.png', dot)

      await happens('the page is touched', async () => (await wiki.touched('Gallery')) > touched)
    })

    test('a CDN is told of the URLs of an edited page, and again when the job that was delayed for it is due', async () => {
      const purges = () =>
        cdn.requests.filter(({ body }) => body.toString().includes(`${wiki.url}/index.php/Ephemeral"`))
      const edited = Date.now()

      await wiki.edit('Ephemeral', 'soon gone')

      await happens('the first purge', () => purges().length >= 1)
      const purgedAgain = await happens('the second purge', () => purges().length >= 2 && Date.now())
      // MediaWiki counts in whole seconds.
      expect(purgedAgain).toBeGreaterThanOrEqual((Math.floor(edited / 1_000) + reboundSeconds) * 1_000)
    })

    test('a job that is delayed runs when it is due', async () => {
      await wiki.edit('Delayed', 'a page')
      const before = await settledTouch('Delayed')
      const due = Math.floor(Date.now() / 1_000) + 4

      await wiki.php(`
		$title = Title::newFromText( 'Delayed' );
		MediaWiki\\MediaWikiServices::getInstance()->getJobQueueGroup()->push( new HTMLCacheUpdateJob( $title, [
			'pages' => [ $title->getArticleID() => [ 0, 'Delayed' ] ], 'jobReleaseTimestamp' => ${due},
		] ) );
`)

      const touched = await happens('the page is touched', async () => {
        const now = await wiki.touched('Delayed')
        return now > before && now
      })
      expect(Date.parse(touched)).toBeGreaterThanOrEqual(due * 1_000)
    })

    test('every job of every type was run', async () => {
      await until(
        'nothing waits or runs',
        async () => {
          const { waiting, running } = await ruleCounts(service, 'run_jobs')
          return running === 0 && Object.values(waiting).every((count) => count === 0)
        },
        retriesMs,
      )

      const calls = await wiki.jobCalls()
      const lastStatus = new Map(calls.map(({ id, status }) => [id, status]))
      expect(new Set(lastStatus.values())).toEqual(new Set([200]))
      expect((await ruleCounts(service, 'run_jobs')).dead).toBe(0)
      // Now and then there is a recentChangesUpdate as well.
      expect([...new Set(calls.map(({ type }) => type))]).toEqual(
        expect.arrayContaining([
          'categoryMembershipChange',
          'cdnPurge',
          'deletePage',
          'fixDoubleRedirect',
          'htmlCacheUpdate',
          'refreshLinks',
          'revertedTagUpdate',
        ]),
      )
    })
  },
)

const dot = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
)

const textOf = (answer: ApiAnswer) => JSON.stringify(answer)

function readExample(name: string): Promise<string> {
  return readFile(`config/examples/${name}`, 'utf8')
}
