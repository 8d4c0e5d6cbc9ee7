import { describe, expect, test } from 'vitest'
import type { TargetConfig, WikiConfig } from '../../src/config/config.ts'
import type { JsonObject } from '../../src/event/event.ts'
import { createDirectory } from '../../src/mediawiki/directory.ts'

const hour = 3_600_000

function aDirectory(
  wikis: readonly Omit<WikiConfig, 'maxPauseMs'>[],
  targets: Readonly<Record<string, Omit<TargetConfig, 'maxPauseMs'>>> = {},
) {
  return createDirectory({
    wikis: wikis.map((wiki) => ({ maxPauseMs: hour, ...wiki })),
    targets: Object.fromEntries(
      Object.entries(targets).map(([name, target]) => [name, { maxPauseMs: hour, ...target }]),
    ),
  })
}

const farm = { domain: '/^(?<lang>.+)\\.wiki\\.example\\.org$/', url: 'https://{{lang}}.wiki.example.org/w' }

describe('the wiki of an event', () => {
  const directory = aDirectory([
    { database: 'onewiki', url: 'http://one.example/w/', host: 'one.example.org' },
    { database: 'twowiki', domain: 'two.example', url: 'http://two.example' },
    { database: '/^(?<lang>[a-z]+)wiktionary$/', url: 'http://127.0.0.1/{{lang}}/{{ lang }}', host: '{{lang}}.dict' },
    { database: '/^x/', url: 'http://x.example/w' },
    farm,
  ])
  test.each<[string, JsonObject, JsonObject | undefined]>([
    [
      'database',
      { database: 'onewiki' },
      { url: 'http://one.example/w', host: 'one.example.org', database: 'onewiki' },
    ],
    ['wiki_id', { wiki_id: 'onewiki' }, { url: 'http://one.example/w', host: 'one.example.org', database: 'onewiki' }],
    ['wiki', { wiki: 'onewiki' }, { url: 'http://one.example/w', host: 'one.example.org', database: 'onewiki' }],
    [
      'meta.domain',
      { meta: { domain: 'two.example' } },
      { url: 'http://two.example', database: 'twowiki', domain: 'two.example' },
    ],
    [
      'database before meta.domain',
      { database: 'onewiki', meta: { domain: 'two.example' } },
      { url: 'http://one.example/w', host: 'one.example.org', database: 'onewiki' },
    ],
    [
      'meta.domain where no entry knows the database',
      { database: 'unheard', meta: { domain: 'two.example' } },
      { url: 'http://two.example', database: 'twowiki', domain: 'two.example' },
    ],
    [
      'a regex for domains',
      { meta: { domain: 'de.wiki.example.org' } },
      { url: 'https://de.wiki.example.org/w', domain: 'de.wiki.example.org' },
    ],
    [
      'a regex for databases',
      { database: 'dewiktionary' },
      { url: 'http://127.0.0.1/de/de', host: 'de.dict', database: 'dewiktionary' },
    ],
    ['a regex without captures', { database: 'xy' }, { url: 'http://x.example/w', database: 'xy' }],
    ['nothing, where no entry fits', { database: 'unheard', meta: { domain: 'unheard.example' } }, undefined],
    ['nothing, where the event names none', { meta: {} }, undefined],
    ['nothing, where what it names is not text', { database: 7, meta: { domain: ['two.example'] } }, undefined],
    ['nothing, where a key of the language is named', { database: '__proto__' }, undefined],
  ])('is found by %s', (_title, message, root) => {
    expect(directory.wikiOf(message)).toEqual(root)
    expect(directory.wikiOf(message)).toEqual(root)
  })

  test('is an entry with its plain name rather than one with a regex', () => {
    const own = { domain: 'de.wiki.example.org', url: 'https://special.example/w' }
    expect(aDirectory([farm, own]).wikiOf({ meta: { domain: 'de.wiki.example.org' } })?.url).toBe(own.url)
  })

  test.each([
    'evil.example/x',
    'evil.example:80/x',
    'evil.example\\x',
    'evil.example?x',
    'evil.example#x',
    'user@evil',
    'user:pass@evil',
    'a%2eb',
    'a b',
    'ä',
    '.',
    'a..b',
    '',
    'a'.repeat(300),
  ])('is none where %j would become part of its host', (lang) => {
    expect(aDirectory([farm]).wikiOf({ meta: { domain: `${lang}.wiki.example.org` } })).toBeUndefined()
  })

  test('may take several labels of its host from the event', () => {
    const root = aDirectory([farm]).wikiOf({ meta: { domain: 'a-1.b_2.wiki.example.org' } })
    expect(root?.url).toBe('https://a-1.b_2.wiki.example.org/w')
  })

  test.each([
    ['a b', 'http://h.example/a%20b'],
    ['a.b', 'http://h.example/a.b'],
    ['a/../../b', undefined],
    ['a\\b', undefined],
    ['', undefined],
    ['a?b#c', 'http://h.example/a%3Fb%23c'],
    ['..', undefined],
    ['.', undefined],
    ['\ud800', undefined],
  ])('has %j escaped in its path, or does not exist', (name, url) => {
    const directory = aDirectory([{ database: '/^(?<name>[^]*)$/', url: 'http://h.example/{{name}}' }])
    expect(directory.wikiOf({ database: name })?.url).toBe(url)
  })

  test('does not cost memory for each name that was ever asked for', () => {
    const directory = aDirectory([farm])
    for (let index = 0; index < 30_000; index++) directory.wikiOf({ meta: { domain: `n${index}.wiki.example.org` } })
    const message = { meta: { domain: 'n1.wiki.example.org' } }
    const wiki = directory.wikiOf(message)
    expect(directory.resolve('https://n1.wiki.example.org', '/w/api.php', wiki, false)?.answers).toBe('mediawiki-api')
  })
})

describe('who answers', () => {
  const directory = aDirectory(
    [
      { database: 'onewiki', url: 'http://one.example/w', host: 'one.example.org' },
      { database: 'awiki', url: 'http://shared.example:8080/w', host: 'a.example.org' },
      { database: 'bwiki', url: 'http://shared.example:8080/w', host: 'b.example.org' },
      { database: 'inner', url: 'http://one.example/w/inner' },
      farm,
    ],
    {
      search: { url: 'https://search.example', authorization: 'Bearer s' },
      index: { url: 'https://search.example/index/', authorization: 'Bearer i', host: 'index' },
    },
  )
  const one = directory.wikiOf({ database: 'onewiki' })
  const b = directory.wikiOf({ database: 'bwiki' })
  const de = directory.wikiOf({ meta: { domain: 'de.wiki.example.org' } })

  test.each([
    ['the wiki of the event', 'http://shared.example:8080', '/w/api.php', b, 'bwiki', { host: 'b.example.org' }],
    [
      'nobody in particular where only the event could tell',
      'http://shared.example:8080',
      '/w/api.php',
      undefined,
      'http://shared.example:8080',
      {},
    ],
    [
      'nobody in particular where the event names another wiki',
      'http://shared.example:8080',
      '/w/api.php',
      one,
      'http://shared.example:8080',
      {},
    ],
    ['the only wiki there', 'http://one.example', '/w/api.php', undefined, 'onewiki', { host: 'one.example.org' }],
    ['the wiki whose URL is longest', 'http://one.example', '/w/inner/api.php', undefined, 'inner', {}],
    [
      'the own wiki before a longer URL',
      'http://one.example',
      '/w/inner/api.php',
      one,
      'onewiki',
      { host: 'one.example.org' },
    ],
    ['a wiki at its very URL', 'http://one.example', '/w?x=/', undefined, 'onewiki', { host: 'one.example.org' }],
    [
      'another spelling of the origin',
      'HTTP://ONE.example:80',
      '/w/x',
      undefined,
      'onewiki',
      { host: 'one.example.org' },
    ],
    ['a target', 'https://search.example', '/x', undefined, 'search', { authorization: 'Bearer s' }],
    [
      'a target of a longer URL',
      'https://search.example',
      '/index/x',
      undefined,
      'index',
      { authorization: 'Bearer i', host: 'index' },
    ],
    [
      'a target with an explicit port',
      'https://search.example:443',
      '/',
      undefined,
      'search',
      { authorization: 'Bearer s' },
    ],
    ['a wiki of a farm', 'https://de.wiki.example.org', '/w/api.php', de, 'https://de.wiki.example.org/w', {}],
  ] as const)('is %s', (_title, origin, path, wiki, name, headers) => {
    expect(directory.resolve(origin, path, wiki, false)).toMatchObject({ name, headers, maxPauseMs: hour })
  })

  test.each([
    ['another scheme', 'https://one.example', '/w/api.php', one],
    ['another port', 'http://one.example:8080', '/w/api.php', one],
    ['another host', 'http://two.example', '/w/api.php', one],
    ['a longer host', 'http://one.example.evil.example', '/w/api.php', one],
    ['a path beside it', 'http://one.example', '/wiki', one],
    ['a path above it', 'http://one.example', '/', one],
    ['a path in another case', 'http://one.example', '/W/api.php', one],
    ['a path that leaves it', 'http://one.example', '/w/../private', one],
    ['a path that leaves it in disguise', 'http://one.example', '/w/%2E%2e%2fprivate', one],
    ['a path that leaves it at the end', 'http://one.example', '/w/x/..?y', one],
    ['a wiki of a farm that the event does not name', 'https://de.wiki.example.org', '/w/api.php', one],
    ['a user in the origin', 'http://one.example@evil.example', '/w/api.php', one],
    ['a path in the origin', 'http://one.example/w', '/w/api.php', one],
    ['no origin', 'nonsense', '/w/api.php', one],
    ['another protocol', 'ftp://one.example', '/w/api.php', one],
  ] as const)('is nobody for %s', (_title, origin, path, wiki) => {
    expect(directory.resolve(origin, path, wiki, false)).toBeUndefined()
  })

  test('is the host itself, without credentials, where it stands in the rule', () => {
    const target = directory.resolve('http://elsewhere.example:81', '/x', one, true)
    expect(target).toEqual({ name: 'http://elsewhere.example:81', headers: {}, maxPauseMs: hour })
  })

  test('has the limits, the credentials and the login of its entry, and of no other', () => {
    const limits = { concurrency: 10, perSecond: 50, burst: 50 }
    const login = { user: 'Bot@c', password: 'secret' }
    const directory = aDirectory(
      [
        { ...farm, limits, login, authorization: 'Bearer w' },
        { database: 'plain', url: 'http://plain.example/w' },
      ],
      { search: { url: 'https://search.example', limits } },
    )
    const at = (lang: string, path = '/w/api.php') => {
      const wiki = directory.wikiOf({ meta: { domain: `${lang}.wiki.example.org` } })
      return directory.resolve(`https://${lang}.wiki.example.org`, path, wiki, false)
    }
    const api = { origin: 'https://de.wiki.example.org', path: '/w/api.php', login }
    expect(at('de')).toMatchObject({ limits, api, headers: { authorization: 'Bearer w' } })
    expect(at('de', '/w/rest.php')?.api).toBe(at('de')?.api)
    expect(at('de')?.api).not.toBe(at('fr')?.api)
    const plain = directory.resolve('http://plain.example', '/w/api.php', undefined, false)
    expect(plain).toMatchObject({ limits: undefined, api: { login: undefined }, headers: {} })
    const search = directory.resolve('https://search.example', '/', undefined, false)
    expect(search).toMatchObject({ limits, api: undefined })
  })

  test('is the configured target also where its host stands in the rule', () => {
    expect(directory.resolve('https://search.example', '/x', undefined, true)?.name).toBe('search')
  })

  test('does not leave a wiki for a title with dots', () => {
    expect(directory.resolve('http://one.example', '/w/rest.php/v1/page/A...b/html', one, false)?.name).toBe('onewiki')
    expect(directory.resolve('http://one.example', '/w/api.php?titles=../x', one, false)?.name).toBe('onewiki')
  })

  test.each([
    ['/w/api.php', 'mediawiki-api'],
    ['/w/api.php?action=purge', 'mediawiki-api'],
    ['/w/rest.php/eventbus/v0/internal/job/execute', 'mediawiki-job'],
    ['/w/rest.php/v1/page/A', undefined],
    ['/w/index.php?x=/api.php', undefined],
    ['/w/x/api.php', undefined],
  ])('of a wiki has answers at %s read as %s', (path, answers) => {
    expect(directory.resolve('http://one.example', path, one, false)?.answers).toBe(answers)
  })

  test('is not read as MediaWiki where nobody knows which wiki it is, nor where it is a target', () => {
    expect(directory.resolve('http://shared.example:8080', '/w/api.php', undefined, false)?.answers).toBeUndefined()
    expect(directory.resolve('https://search.example', '/api.php', undefined, false)?.answers).toBeUndefined()
  })

  test('is a target rather than a wiki at the same URL, unless the event names the wiki', () => {
    const both = aDirectory([{ database: 'w', url: 'http://h.example/w' }], { t: { url: 'http://h.example/w/' } })
    expect(both.resolve('http://h.example', '/w/x', undefined, false)?.name).toBe('t')
    expect(both.resolve('http://h.example', '/w/x', both.wikiOf({ database: 'w' }), false)?.name).toBe('w')
  })

  test('has a name of its own', () => {
    const alike = aDirectory([{ database: 'x', url: 'http://wiki.example' }], { x: { url: 'http://target.example' } })
    const names = ['http://wiki.example', 'http://target.example'].map(
      (origin) => alike.resolve(origin, '/', undefined, false)?.name,
    )
    expect(new Set(names).size).toBe(2)
  })

  test('does not know the roots of another directory', () => {
    const other = aDirectory([{ database: 'onewiki', url: 'http://gone.example/w' }])
    expect(
      directory.resolve('http://gone.example', '/w/api.php', other.wikiOf({ database: 'onewiki' }), false),
    ).toBeUndefined()
  })
})

test('a target is known by its name, with its URL as templates need it', () => {
  const directory = aDirectory([], { search: { url: 'https://search.example/v1/' } })
  expect(directory.targetUrl('search')).toBe('https://search.example/v1')
  expect(directory.targetUrl('constructor')).toBeUndefined()
})
