import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openService } from '../support/service.ts'
import { until } from '../support/until.ts'
import { openWiki, type Wiki, wikiAbsent } from '../support/wiki.ts'
import { eventView, fate } from './event-view.ts'
import { anEvent } from './posted-event.ts'

const password = 'abcdefgh0123456789abcdefgh012345'
const stream = 'test.login'

describe.skipIf(wikiAbsent)('a call that needs a login and a token', () => {
  let wiki: Wiki
  beforeAll(async () => {
    wiki = await openWiki()
    await wiki.php(`
		$password = MediaWiki\\MediaWikiServices::getInstance()->getPasswordFactory()->newFromPlaintext( '${password}' );
		$given = [ 'username' => 'Admin', 'appId' => 'changeprop', 'grants' => [ 'basic', 'createeditmovepage', 'protect' ] ];
		BotPassword::newUnsaved( $given )->save( 'insert', $password );
`)
  })
  afterAll(() => wiki?.close())

  test('is made as that user, and a lost session costs no attempt; no secret is told', async () => {
    const service = await openService({
      rules: `
protect:
  topic: ${stream}
  exec:
    method: post
    uri: '{{wiki.url}}/api.php'
    body:
      { action: protect, format: json, formatversion: 2, title: Page, protections: edit=sysop, token: '{{wiki.token}}', assert: user }
`,
      config: `wikis: [ { database: ${wiki.database}, url: '${wiki.url}', login: { user: Admin@changeprop, password: ${password} } } ]\n`,
    })
    onTestFinished(() => service.close())
    await wiki.edit('Page', 'text')
    const first = { ...anEvent(stream), database: wiki.database }
    await service.post(first)
    await until('the page is protected', async () => (await fate(service, first.meta.id, 'protect')) === 'done ok')

    await wiki.php(`
		ObjectCache::getInstance( CACHE_DB )->deleteObjectsExpiringBefore( '99990101000000', null, INF );
`)
    const second = { ...anEvent(stream), database: wiki.database }
    await service.post(second)
    await until('it is protected again', async () => (await fate(service, second.meta.id, 'protect')) === 'done ok')
    const delivery = (await eventView(service, second.meta.id))?.rules[0]?.delivery
    expect(delivery?.attempts.map(({ outcome, note }) => [outcome, note])).toEqual([
      ['ok', expect.stringMatching(/renewed/)],
    ])
    expect(service.output).not.toContain(password)
  })
})
