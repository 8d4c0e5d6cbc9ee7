import { describe, expect, onTestFinished, test } from 'vitest'
import { openService, type Service } from '../support/service.ts'
import { openTarget, respond, type ScriptedTarget, type TargetRequest } from '../support/target.ts'
import { until } from '../support/until.ts'
import { eventBusAbsent, eventBusFolder, openWiki, type Wiki, wikiAbsent } from '../support/wiki.ts'
import { fate } from './event-view.ts'

interface World {
  readonly wiki: Wiki
  readonly service: Service
  readonly target: ScriptedTarget
}

async function setup(eventBus: string | undefined, rules: (target: string) => string): Promise<World> {
  const target = await openTarget()
  onTestFinished(() => target.close())
  const wiki = await openWiki(eventBus)
  onTestFinished(() => wiki.close())
  const service = await openService({
    rules: rules(target.url),
    config: `wikis: [ { database: ${wiki.database}, url: '${wiki.url}' } ]\n`,
  })
  onTestFinished(() => service.close())
  await wiki.sendEventsTo(`${service.url}/v1/events`)
  return { wiki, service, target }
}

/** As EventBus made it. */
interface WikiEvent {
  readonly meta: { readonly id: string; readonly stream: string }
  readonly page_title?: string
  readonly type?: string
  readonly prior_state?: { readonly page_title?: string }
}

function isWikiEvent(value: unknown): value is WikiEvent {
  return typeof value === 'object' && value !== null && 'meta' in value
}

function parsed({ body }: TargetRequest): WikiEvent {
  const value: unknown = JSON.parse(body.toString())
  if (!isWikiEvent(value)) throw new Error(`not an event: ${body.toString()}`)
  return value
}

function eventsAt(target: ScriptedTarget, path: string): readonly WikiEvent[] {
  return target.requests.filter((request) => request.path === path).map(parsed)
}

/** MediaWiki counts `page_touched` in whole seconds: a purge within the second of the edit cannot be seen. */
async function secondHasPassed(since: string): Promise<void> {
  await until('the next second begins', () => Date.now() >= Date.parse(since) + 1_000)
}

const tell = (target: string, path: string) => `{ method: post, uri: '${target}/${path}', body: '{{globals.message}}' }`

describe.skipIf(eventBusAbsent)('a MediaWiki with EventBus (its folder named by CHANGEPROP_TEST_EVENTBUS)', () => {
  test('an edit, a move and a delete reach the rules that ask for them', async () => {
    expect(eventBusFolder, 'CHANGEPROP_TEST_EVENTBUS is not set').toBeDefined()
    const { wiki, service, target } = await setup(
      eventBusFolder,
      (url) => `
edits:
  topic: mediawiki.revision-create
  match: { page_namespace: 0, database: testwiki }
  exec: ${tell(url, 'edit')}
moves:
  topic: mediawiki.page-move
  exec: ${tell(url, 'move')}
deletes:
  topic: mediawiki.page-delete
  exec: ${tell(url, 'delete')}
talk:
  topic: mediawiki.revision-create
  match: { page_namespace: 1 }
  exec: ${tell(url, 'talk')}
`,
    )

    await wiki.edit('Zürich/Straße', 'one')
    await wiki.move('Zürich/Straße', 'Bern')
    await wiki.delete('Bern')

    const [deleted] = await until('the delete arrives', () => {
      const events = eventsAt(target, '/delete')
      return events.length > 0 && events
    })
    const [moved] = await until('the move arrives', () => {
      const events = eventsAt(target, '/move')
      return events.length > 0 && events
    })
    const edited = await until('the edit arrives', () =>
      eventsAt(target, '/edit').find((event) => event.page_title === 'Zürich/Straße'),
    )
    expect(moved?.page_title).toBe('Bern')
    expect(moved?.prior_state?.page_title).toBe('Zürich/Straße')
    expect(deleted?.page_title).toBe('Bern')
    for (const [rule, event] of [
      ['edits', edited],
      ['moves', moved],
      ['deletes', deleted],
    ] as const) {
      await until(
        `the journal says that ${rule} was done`,
        async () => (await fate(service, event?.meta.id ?? '', rule)) === 'done ok',
      )
    }
    expect(eventsAt(target, '/talk')).toEqual([])
    expect(await fate(service, edited.meta.id, 'talk')).toBe('none')
  })

  test('its jobs run on the wiki again, signatures intact, and their work is seen there', async () => {
    expect(eventBusFolder, 'CHANGEPROP_TEST_EVENTBUS is not set').toBeDefined()
    const { wiki, service, target } = await setup(
      eventBusFolder,
      (url) => `
run_jobs:
  topic: '/^mediawiki\\.job\\./'
  exec:
    - ${tell(url, 'job')}
    - { method: post, uri: '{{wiki.url}}/rest.php/eventbus/v0/internal/job/execute', body: '{{globals.message}}' }
`,
    )
    const pages = ['Aare', 'Limmat', 'Reuss', 'Rhein', 'Rhône', 'Ticino']
    await wiki.edit('Template:River', 'A river.')
    for (const page of pages) await wiki.edit(page, '{{River}}')

    await wiki.edit('Template:River', 'A river. <includeonly>[[Category:Rivers]]</includeonly>')

    await until(
      'the jobs put every page into the category',
      async () => (await wiki.categoryMembers('Rivers')).length === pages.length,
    )
    const refresh = eventsAt(target, '/job').filter((event) => event.type === 'refreshLinks')
    expect(refresh.length).toBeGreaterThan(0)
    for (const { meta } of refresh) {
      await until(
        'the journal says that the job was run',
        async () => (await fate(service, meta.id, 'run_jobs')) === 'done ok',
      )
    }
  })

  test('an edited page is purged through api.php', async () => {
    expect(eventBusFolder, 'CHANGEPROP_TEST_EVENTBUS is not set').toBeDefined()
    const { wiki, target } = await setup(
      eventBusFolder,
      (url) => `
purge_edited_page:
  topic: mediawiki.revision-create
  match: { page_namespace: 0 }
  exec:
    - ${tell(url, 'gate')}
    - method: post
      uri: '{{wiki.url}}/api.php'
      body: { action: purge, format: json, formatversion: 2, titles: '{{message.page_title}}' }
`,
    )
    let touchedByEdit = ''
    target.behave(async () => {
      touchedByEdit = await wiki.touched('Zug')
      await secondHasPassed(touchedByEdit)
      return respond(200)
    })

    await wiki.edit('Zug', 'a page')

    await until(
      'the purge touches the page',
      async () => touchedByEdit !== '' && (await wiki.touched('Zug')) > touchedByEdit,
    )
  })
})

describe.skipIf(wikiAbsent)('a stock MediaWiki', () => {
  test('a posted event purges its page through api.php', async () => {
    const { wiki, service } = await setup(
      undefined,
      () => `
purge_edited_page:
  topic: test.page_edited
  exec:
    method: post
    uri: '{{wiki.url}}/api.php'
    body: { action: purge, format: json, formatversion: 2, titles: '{{message.page_title}}' }
  answers: mediawiki-api
`,
    )
    await wiki.edit("Who's / what? 100%", 'a page')
    const touchedByEdit = await wiki.touched("Who's / what? 100%")
    await secondHasPassed(touchedByEdit)
    const id = '0198c0de-0000-4000-8000-000000000001'

    const { status } = await service.post({
      $schema: '/test/page_edited/1.0.0',
      meta: { stream: 'test.page_edited', id, dt: new Date().toISOString(), domain: 'wiki.example' },
      database: wiki.database,
      page_title: "Who's / what? 100%",
    })

    expect(status).toBe(201)
    await until(
      'the journal says that the purge was done',
      async () => (await fate(service, id, 'purge_edited_page')) === 'done ok',
    )
    expect(Date.parse(await wiki.touched("Who's / what? 100%"))).toBeGreaterThan(Date.parse(touchedByEdit))
  })
})
