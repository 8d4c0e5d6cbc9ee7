import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { formatProblem } from '../../src/base/problem.ts'
import { loadConfig } from '../../src/config/load.ts'
import { printConfig, showConfig } from '../../src/config/print.ts'
import { load } from './world.ts'

describe('without a file', () => {
  test('everything has its default', async () => {
    const { config, origins, problems } = await loadConfig({ env: {}, flags: {} })
    expect(problems).toEqual([])
    expect(config).toEqual({
      listen: { host: '127.0.0.1', port: 8192 },
      store: {
        embedded: {
          path: './data',
          retention: { ageMs: 604_800_000, sizeBytes: 10 * 2 ** 30, deadBytes: 5 * 2 ** 30 },
        },
      },
      rules: ['rules'],
      schemas: { from: [], unknown: 'accept' },
      intake: { maxBodyBytes: 10 * 2 ** 20, allow: undefined },
      admin: { token: undefined },
      stopTimeoutMs: 30_000,
      log: { level: 'info' },
      wikis: [],
      targets: {},
    })
    expect(new Set(origins.values())).toEqual(new Set(['default']))
  })
})

describe('a value', () => {
  const yaml =
    'listen: { port: 1001, host: 10.0.0.1 }\nrules: [a]\nlog: { level: warn }\nstore: { embedded: { path: from-file } }'
  const env = {
    CHANGEPROP_LISTEN_PORT: '1002',
    CHANGEPROP_LOG_LEVEL: 'debug',
    CHANGEPROP_STORE_EMBEDDED_RETENTION_AGE: '2d',
    CHANGEPROP_ADMIN_TOKEN: 'tok',
  }
  const flags = { port: '1003', rules: ['b', '/c'], data: 'from-flag' }

  test('is taken from the flag, else the environment, else the file, else the default', async () => {
    const { config, origins, problems, cwd } = await load(yaml, env, flags)
    expect(problems).toEqual([])
    expect(config).toMatchObject({
      listen: { host: '10.0.0.1', port: 1003 },
      store: { embedded: { path: join(cwd, 'from-flag'), retention: { ageMs: 172_800_000 } } },
      rules: [join(cwd, 'b'), '/c'],
      log: { level: 'debug' },
      admin: { token: 'tok' },
      stopTimeoutMs: 30_000,
    })
    expect(Object.fromEntries(origins)).toMatchObject({
      'listen.host': 'file',
      'listen.port': 'flag',
      'store.embedded.path': 'flag',
      'store.embedded.retention.age': 'environment',
      rules: 'flag',
      'log.level': 'environment',
      'admin.token': 'environment',
      stop_timeout: 'default',
    })
  })

  test('from an empty variable counts as none', async () => {
    const { config, origins } = await load(yaml, { CHANGEPROP_LISTEN_PORT: '' })
    expect([config?.listen.port, origins.get('listen.port')]).toEqual([1001, 'file'])
  })

  test('that is wrong is reported with the variable or flag it came from', async () => {
    const { config, lines, misuse } = await load(
      yaml,
      { CHANGEPROP_STOP_TIMEOUT: 'soon' },
      { port: 'http', logLevel: 'verbos' },
    )
    expect(config).toBeUndefined()
    expect(lines).toEqual([
      'CHANGEPROP_STOP_TIMEOUT stop_timeout: expected a duration such as 500ms, 2s, 5m, 1h or 7d, found "soon"; write for instance 30s',
    ])
    expect(misuse).toMatchObject([
      { file: '--port', message: 'expected a whole number from 0 to 65535, found "http"' },
      { file: '--log-level', message: expect.stringMatching(/^expected "fatal", .*, found "verbos"/) },
    ])
  })

  test('in a variable that is misspelt by a letter is a warning', async () => {
    const { config, lines } = await load(yaml, { CHANGEPROP_LISTEN_PROT: '1', CHANGEPROP_TEST_FIXTURES: 'x' })
    expect(config).toBeDefined()
    expect(lines).toEqual([expect.stringContaining('did you mean CHANGEPROP_LISTEN_PORT?')])
  })
})

test('all that is wrong is told at once, each at its place', async () => {
  const { config, lines } = await load(`listen: { prot: 1, port: 70000 }
store: { kafka: {}, embedded: { retention: { age: 7x, size: 3 } } }
rules: []
schemas: { unknown: acept, from: ['http://u:p@h/x?y'] }
intake: { max_body: 10MB, allow: [ 127.0.0.1, 10.0.0.0/8 ] }
admin: { token: { evn: X } }
stop_timeout: 30
wikis:
  - { url: 'http://a/w', concurrency: 0, database: a }
  - { url: 'http://a/w', database: b, login: { user: x } }
targets:
  a b: { url: 'ftp://x' }
  s: { url: 'https://x', rate: 5/h }
`)
  expect(config).toBeUndefined()
  expect(
    lines.map((line) =>
      line
        .split(':')
        .slice(0, 3)
        .join(':')
        .concat(line.includes('expected one store') ? ' both' : ''),
    ),
  ).toEqual([
    'c.yaml:1:11 listen.prot',
    'c.yaml:1:26 listen.port',
    'c.yaml:2:10 store.kafka both',
    'c.yaml:2:51 store.embedded.retention.age',
    'c.yaml:2:61 store.embedded.retention.size',
    'c.yaml:3:8 rules',
    'c.yaml:4:21 schemas.unknown',
    'c.yaml:4:35 schemas.from[0]',
    'c.yaml:5:21 intake.max_body',
    'c.yaml:5:36 intake.allow[0]',
    'c.yaml:6:19 admin.token.evn',
    'c.yaml:7:15 stop_timeout',
    'c.yaml:9:39 wikis[0].concurrency',
    'c.yaml:10:39 wikis[1].login',
    'c.yaml:12:3 targets["a b"]',
    'c.yaml:12:15 targets["a b"].url',
    'c.yaml:13:32 targets.s.rate',
  ])
  expect(lines.join('\n')).not.toContain('u:p@')
})

test('what no schema can say is told together with what it does, as far as the rest of the value can be read', async () => {
  const { config, lines } = await load(`intake: { allow: [ 5, nowhere ] }
schemas: { from: [ 5, 'http://h/x?y', folder ], unknown: refuse }
stop_timeout: soon
admin: { token: { env: NOT_THERE } }
wikis:
  - { url: 'http://a/w?x' }
  - { domian: a, url: 'http://b/w?x' }
  - none
  - { domain: 5, url: 'http://c/w', max_pause: 1ms, host: 7 }
  - { database: d, url: 'http://d', concurrency: -1, rate: 0/s, login: { password: { env: NEITHER } } }
targets:
  a: { url: 5, authorization: { env: NOT_THERE_EITHER } }
  b: { url: 'http://b/w?x', hots: x }
`)
  expect(config).toBeUndefined()
  expect(lines.map((line) => /^c\.yaml:(\d+:\d+ [^:]+):/.exec(line)?.[1])).toEqual([
    '1:20 intake.allow[0]',
    '1:23 intake.allow[1]',
    '2:20 schemas.from[0]',
    '2:23 schemas.from[1]',
    '2:39 schemas.from[2]',
    '3:15 stop_timeout',
    '4:17 admin.token',
    '6:5 wikis[0]',
    '6:12 wikis[0].url',
    '7:7 wikis[1].domian',
    '7:23 wikis[1].url',
    '8:5 wikis[2]',
    '9:15 wikis[3].domain',
    '9:48 wikis[3].max_pause',
    '9:59 wikis[3].host',
    '10:50 wikis[4].concurrency',
    '10:60 wikis[4].rate',
    '10:65 wikis[4].login',
    '10:84 wikis[4].login.password',
    '12:13 targets.a.url',
    '12:31 targets.a.authorization',
    '13:13 targets.b.url',
    '13:29 targets.b.hots',
  ])
})

describe('the size of dead letters', () => {
  test.each([
    ['{ size: 1GiB, dead: 2GiB }', '1:53 store.embedded.retention.dead', 'found 2GiB and 1GiB'],
    ['{ dead: 20GiB }', '1:41 store.embedded.retention.dead', 'found 20GiB and 10GiB (the default)'],
    ['{ size: 1GiB }', '1:41 warning: store.embedded.retention.size', 'found 5GiB (the default) and 1GiB'],
  ])('is not to be larger than that of all: %s', async (retention, place, found) => {
    const { config, lines } = await load(`store: { embedded: { retention: ${retention} } }`)
    expect(config === undefined).toBe(!place.includes('warning'))
    expect(lines).toEqual([
      `c.yaml:${place}: expected retention.dead not to be larger than retention.size, ${found}; make the one smaller or the other larger`,
    ])
  })

  test('is told of the variable that it comes from', async () => {
    const { lines } = await load(undefined, { CHANGEPROP_STORE_EMBEDDED_RETENTION_DEAD: '11GiB' })
    expect(lines).toEqual([expect.stringMatching(/^CHANGEPROP_STORE_EMBEDDED_RETENTION_DEAD .*found 11GiB and/)])
  })

  test('is not compared with one that is wrong itself', async () => {
    for (const wrong of ['size: much, dead: 20GiB', 'size: 10, dead: 1GiB', 'dead: much, size: 1GiB']) {
      expect((await load(`store: { embedded: { retention: { ${wrong} } } }`)).lines).toHaveLength(1)
    }
  })
})

describe('a folder of schemas', () => {
  const places = (unknown: string) => `schemas: { from: [ here, nowhere, c.yaml, 'http://a/b' ], unknown: ${unknown} }`
  const loadBeside = async (unknown: string) => {
    const cwd = await mkdtemp(join(tmpdir(), 'changeprop-config-'))
    onTestFinished(() => rm(cwd, { recursive: true }))
    await mkdir(join(cwd, 'here'))
    await writeFile(join(cwd, 'c.yaml'), places(unknown))
    const { config, problems } = await loadConfig({ file: 'c.yaml', env: {}, flags: {}, cwd })
    return { config, lines: problems.map(formatProblem) }
  }

  test('that is not there is an error where unknown schemas are refused: nothing could be accepted', async () => {
    const { config, lines } = await loadBeside('refuse')
    expect(config).toBeUndefined()
    expect(lines).toEqual([
      'c.yaml:1:26 schemas.from[1]: expected a folder, found nothing at nowhere; create it, or correct the path (relative to the working directory)',
      'c.yaml:1:35 schemas.from[2]: expected a folder, found a file at c.yaml; create it, or correct the path (relative to the working directory)',
    ])
  })

  test('that is not there is a warning where they are accepted', async () => {
    const { config, lines } = await loadBeside('accept')
    expect(config?.schemas.from).toHaveLength(4)
    expect(lines).toEqual([
      expect.stringMatching(/^c.yaml:1:26 warning: schemas.from\[1\]/),
      expect.stringMatching(/^c.yaml:1:35 warning: schemas.from\[2\]/),
    ])
  })

  test('that nobody asked for is not missed', async () => {
    const { config, lines } = await load('schemas: { unknown: refuse }')
    expect([config?.schemas.from, lines]).toEqual([[], []])
  })
})

test('a size beyond all bounds is told in sizes that can be written', async () => {
  const { lines } = await load('store: { embedded: { retention: { dead: 1KiB } } }')
  const expected = 'expected a size from 1MiB to 1048576GiB, found 1KiB; correct the value'
  expect(lines).toEqual([`c.yaml:1:41 store.embedded.retention.dead: ${expected}`])
})

test('a stop that waits for over a year is refused', async () => {
  const { config, lines } = await load('stop_timeout: 25d')
  expect(config).toBeUndefined()
  expect(lines).toEqual(['c.yaml:1:15 stop_timeout: expected a duration from 0s to 1d, found 25d; correct the value'])
})

describe('wikis and targets', () => {
  test('are resolved', async () => {
    const { config, problems } = await load(
      `
wikis:
  - { database: mywiki, url: 'http://127.0.0.1:8080/', host: 'w.example:81' }
  - { domain: '/^(?<lang>\\w+)\\.w\\.example$/', url: 'https://{{lang}}.w.example/{{lang}}/w', host: '{{lang}}.x', max_pause: 5m }
  - { database: limited, url: 'http://l', concurrency: 10, rate: 90/min, authorization: Bearer x, login: { user: B@c, password: { env: PW } } }
targets: { search: { url: 'https://s.example/' }, slow: { url: 'https://t', concurrency: 2 }, paced: { url: 'https://p', rate: 50/s } }`,
      { PW: 'secret' },
    )
    expect(problems).toEqual([])
    expect(config?.wikis).toEqual([
      { database: 'mywiki', url: 'http://127.0.0.1:8080', host: 'w.example:81', maxPauseMs: 3_600_000 },
      {
        domain: '/^(?<lang>\\w+)\\.w\\.example$/',
        url: 'https://{{lang}}.w.example/{{lang}}/w',
        host: '{{lang}}.x',
        maxPauseMs: 300_000,
      },
      {
        database: 'limited',
        url: 'http://l',
        limits: { concurrency: 10, perSecond: 1.5, burst: 1 },
        authorization: 'Bearer x',
        login: { user: 'B@c', password: 'secret' },
        maxPauseMs: 3_600_000,
      },
    ])
    const unlimited = Number.POSITIVE_INFINITY
    expect(config?.targets).toEqual({
      search: { url: 'https://s.example', maxPauseMs: 3_600_000 },
      slow: {
        url: 'https://t',
        limits: { concurrency: 2, perSecond: unlimited, burst: unlimited },
        maxPauseMs: 3_600_000,
      },
      paced: {
        url: 'https://p',
        limits: { concurrency: unlimited, perSecond: 50, burst: 50 },
        maxPauseMs: 3_600_000,
      },
    })
  })

  test.each([
    [`{ url: 'http://a' }`, 'wikis[0]: expected database or domain, found neither'],
    [`{ domain: '/(/', url: 'http://a' }`, 'wikis[0].domain: expected a regular expression, found an error: Invalid'],
    [
      `{ domain: /^a, url: 'http://a' }`,
      'wikis[0].domain: expected a regular expression, found an error: it does not end with a slash',
    ],
    [
      `{ domain: '/^(?<a>b)$/', url: 'http://{{c}}' }`,
      'wikis[0].url: expected only captures of domain, found {{c}} where domain has a',
    ],
    [`{ domain: '/^b$/', url: 'http://{{c}}' }`, 'where domain has no named capture'],
    [`{ domain: b, url: 'http://{{c}}' }`, 'where domain has a plain name'],
    [`{ database: x, domain: '/^(?<a>b)$/', url: 'http://{{a}}' }`, 'where database has a plain name'],
    [`{ domain: '/^(?<a>b)$/', url: 'http://a/{{a' }`, 'wikis[0].url: expected each {{ to be closed'],
    [
      `{ domain: '/^(?<a>b)$/', url: 'http://a', host: '{{c}}' }`,
      'wikis[0].host: expected only captures of domain, found {{c}}',
    ],
    [`{ database: x, url: 'http://a/w?x=1' }`, 'found a query'],
    [`{ database: x, url: 'http://a/w#x' }`, 'found a fragment'],
    [`{ database: x, url: 'http://u:pw@a/w' }`, 'found a user or password (not shown)'],
    [`{ database: x, url: 'http://' }`, 'found one that cannot be read'],
    [`{ database: x, url: /w }`, 'expected an http or https URL'],
    [`{ database: x, url: 'http://a', max_pause: 10ms }`, 'wikis[0].max_pause: expected at least 1s'],
    [`{ database: x, url: 'http://a', max_pause: 367d }`, 'wikis[0].max_pause: expected at most 366d, found 367d'],
    [`{ database: x, url: 'http://a', max_pause: 99999999999999999d }`, 'wikis[0].max_pause: expected at most 366d'],
    [`{ database: x, url: 'http://a', rate: 0/s }`, 'wikis[0].rate: expected a rate above 0, found 0/s'],
    [`{ database: x, url: 'http://a', rate: 0.000001/min }`, 'wikis[0].rate: expected at least one call in 366d'],
    [`{ database: x, url: 'http://a', rate: 1000001/s }`, 'wikis[0].rate: expected at most 1000000/s, found 1000001/s'],
    [`{ database: x, url: 'http://a', host: 'a b' }`, 'wikis[0].host: expected a host name'],
  ])('%s is refused', async (wiki, message) => {
    const { config, lines } = await load(`wikis: [ ${wiki} ]`)
    expect(config).toBeUndefined()
    expect(lines).toEqual([expect.stringContaining(message)])
  })

  test('a target has the same bounds as a wiki', async () => {
    const { lines } = await load(`targets: { a: { url: 'http://a', rate: 0.000001/min, max_pause: 367d } }`)
    expect(lines).toEqual([
      'c.yaml:1:40 targets.a.rate: expected at least one call in 366d, found 0.000001/min; write for instance 50/s; to call nobody, leave the rules out',
      'c.yaml:1:65 targets.a.max_pause: expected at most 366d, found 367d; shorten it',
    ])
  })

  test('of one name twice are refused', async () => {
    const { lines } = await load(`wikis: [ { database: x, url: 'http://a' }, { database: x, url: 'http://b' } ]`)
    expect(lines).toEqual([
      expect.stringContaining(
        'wikis[1].database: expected each database once, found "x" here and in wikis[0].database',
      ),
    ])
  })

  test('by a regex that also fits parts of names get a warning', async () => {
    const { config, lines } = await load(`wikis: [ { domain: /example/, url: 'http://a' } ]`)
    expect(config).toBeDefined()
    expect(lines).toEqual([expect.stringContaining('begin it with ^ and end it with $')])
  })
})

describe('a secret', () => {
  test('is text, or comes from the environment or a file', async () => {
    const yaml =
      "admin: { token: { file: token } }\ntargets:\n  a: { url: 'http://a', authorization: { env: SECRET_A } }\n  b: { url: 'http://b', authorization: Bearer b }"
    const { config, problems } = await load(yaml, { SECRET_A: 'Bearer a' }, {}, { token: 'tok\n' })
    expect(problems).toEqual([])
    expect([config?.admin.token, config?.targets.a?.authorization, config?.targets.b?.authorization]).toEqual([
      'tok',
      'Bearer a',
      'Bearer b',
    ])
  })

  test.each([
    [
      '{ env: NOT_THERE }',
      'c.yaml:1:17 admin.token: expected a secret in the environment variable NOT_THERE, found nothing; set NOT_THERE',
    ],
    ['{ file: not-there }', /expected a secret in the file not-there, found that it cannot be read \(ENOENT/],
    ['{ file: empty }', /expected a secret in empty, found nothing/],
    [
      '{ file: lines }',
      /expected visible ASCII characters without spaces around them in lines, found others \(not shown\)/,
    ],
    ['"one two"', /expected a token without spaces \(not shown\)/],
    ['{ env: A, file: b }', /expected a known key/],
    ['12345', /expected a secret .*, found a number \(not shown\)/],
  ])('%s is refused where it should be', async (token, expected) => {
    const { config, lines } = await load(`admin: { token: ${token} }`, {}, {}, { empty: '\n', lines: 'hush\nhush' })
    expect(config).toBeUndefined()
    expect(lines).toEqual([typeof expected === 'string' ? expected : expect.stringMatching(expected)])
    expect(lines.join()).not.toMatch(/hush|one two|12345/)
  })

  test('is never printed', async () => {
    const yaml = `targets: { a: { url: 'http://a', authorization: hush-1 } }
wikis: [ { database: a, url: 'http://a', authorization: hush-3, login: { user: B, password: hush-4 } } ]
admin: { token: { file: token } }`
    const { config, origins } = await load(yaml, {}, {}, { token: 'hush-2' })
    if (config === undefined) throw new Error('no config')
    const printed = printConfig(config, origins) + JSON.stringify(showConfig(config, origins))
    expect(printed).not.toContain('hush')
    expect(printed).toContain('***')
  })
})

test('a file that cannot be read, or is no YAML, is a problem', async () => {
  const missing = await loadConfig({ file: '/nonexistent/c.yaml', env: {}, flags: {} })
  expect([missing.config, missing.problems.map(({ file, message }) => [file, message.slice(0, 24)])]).toEqual([
    undefined,
    [['/nonexistent/c.yaml', 'expected a readable file']],
  ])
  expect((await load('listen: [')).lines).toEqual([expect.stringMatching(/^c.yaml:1:10 expected YAML/)])
})

test('an empty file changes nothing', async () => {
  const { config, problems } = await load('# nothing yet\n')
  expect([config?.listen.port, problems]).toEqual([8192, []])
})

test('the printed configuration is a configuration, and says where each value came from', async () => {
  const yaml =
    "listen: { port: 1001 }\nwikis: [ { database: mywiki, url: 'http://127.0.0.1:8080', host: wiki.example.org, concurrency: 3, rate: 7/min } ]\ntargets: { a: { url: 'http://a', rate: 5/s } }\nintake: { allow: [ 10.0.0.0/8 ] }"
  const first = await load(yaml, { CHANGEPROP_LISTEN_HOST: '::1' })
  if (first.config === undefined) throw new Error('no config')
  const printed = printConfig(first.config, first.origins)
  expect(printed).toMatch(/^ {2}port: 1001 # file$/m)
  expect(printed).toMatch(/^ {2}host: "::1" # environment$/m)
  expect(printed).toMatch(/^stop_timeout: "30s" # default$/m)
  expect((await load(printed)).config).toEqual(first.config)
})

test.each(['embedded', 'kafka'])('the shipped configuration for %s is a good one', async (store) => {
  const { config, problems } = await loadConfig({ file: `config/${store}.yaml`, env: {}, flags: {} })
  expect(problems).toEqual([])
  expect(config?.wikis).toHaveLength(2)
  expect(Object.keys(config?.store ?? {})).toEqual([store])
})
