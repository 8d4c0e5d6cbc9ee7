import { readFile } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { isObject } from '../../src/base/schema-words.ts'
import { configSchema } from '../../src/config/schema.ts'
import { laterKeys } from '../../src/rule/later-keys.ts'
import { ruleSchema } from '../../src/rule/schema.ts'
import { purgeConfig, purgeRule, terminalWith } from './terminal.ts'

const subcommands = ['list', 'show', 'replay', 'discard'].map((name) => `dead ${name}`)
const all = ['serve', 'check', 'try', 'why', 'dead', 'topics', 'config', 'schema', ...subcommands]

test.each(all)('%s --help shows an example and the exit codes, and is no failure', async (command) => {
  const { code, stdout, stderr } = await (await terminalWith()).run([...command.split(' '), '--help'])
  expect([code, stderr]).toEqual([0, ''])
  expect(stdout).toMatch(new RegExp(`Usage: changeprop ${command}`))
  expect(stdout).toMatch(/Example:\n {2}\$ .*changeprop /)
  expect(stdout).toMatch(/\nExit codes: 0 all is well, 1 problems were found, 2 used wrongly\.\n$/)
})

test.each([
  ['help', 'Usage: changeprop [options]'],
  ['--help', '\nExit codes: 0 all is well'],
  ['help serve', 'Usage: changeprop serve'],
  ['help dead', 'Usage: changeprop dead'],
  ['help dead list', 'Usage: changeprop dead list'],
  ['dead help list', 'Usage: changeprop dead list'],
])('%s shows the help, and is no failure', async (line, usage) => {
  const { code, stdout, stderr } = await (await terminalWith()).run(line.split(' '))
  expect([code, stderr]).toEqual([0, ''])
  expect(stdout).toContain(usage)
})

describe('a command line that is wrong', () => {
  test.each([
    ['', 'Usage: changeprop'],
    ['serv', 'Did you mean serve?'],
    ['wy abc', 'Did you mean why?'],
    ['serve --prot 1', 'Did you mean --port?'],
    ['serve now', 'too many arguments'],
    ['serve --port abc', '--port: expected a whole number from 0 to 65535, found "abc"; write for instance 8192\n'],
    ['serve --log-level loud', 'or "trace", found "loud"; correct the value\n'],
    ['serve --data=', '--data: expected a path, found ""; correct the value\n'],
    ['config --port 70000', '--port: expected a whole number from 0 to 65535, found 70000; write for instance 8192\n'],
    ['try --event e.json --rules=', '--rules: expected a path, found ""; correct the value\n'],
    ['check --format xml', 'Allowed choices are text, json'],
    ['try', "required option '--event <file>' not specified"],
    ['try --event nowhere.json --rules r.yaml', 'expected a readable file after --event'],
    ['why', "missing required argument 'event-id'"],
    ['why x --since soon', 'Expected a duration such as 30m, 1h or 7d.'],
    ['why x --url localhost:8192', '--url: expected an http or https URL'],
    ['dead', 'Usage: changeprop dead'],
    ['dead lst', 'Did you mean list?'],
    ['help nope', "error: unknown command 'nope'\n"],
    ['help serv', "error: unknown command 'serv'\n(Did you mean serve?)\n"],
    ['help dead lst', "error: unknown command 'lst'\n(Did you mean list?)\n"],
    ['dead help nope', "error: unknown command 'nope'\n"],
    ['dead show', "missing required argument 'id'"],
    ['dead replay', 'expected ids, or --rule RULE, or --all; found none of them'],
    ['dead replay --all --rule x', 'found more than one of them'],
    ['dead replay --all --rate 5', 'Expected a rate such as 10/s or 30/min.'],
    ['dead replay --all --rate 0/s', 'Expected a rate such as 10/s or 30/min.'],
    ['dead discard --all --rate 5/s', "unknown option '--rate'"],
    ['schema wiki', 'Allowed choices are rules, config'],
  ])('%j is exit code 2, and says what was expected', async (line, message) => {
    const { code, stdout, stderr } = await (
      await terminalWith({ 'r.yaml': purgeRule.replace('{{wiki.url}}', 'http://a') })
    ).run(line.split(' ').filter((word) => word !== ''))
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr).toContain(message)
  })
})

describe('check', () => {
  test('finds nothing wrong with rules and a configuration that are right', async () => {
    const terminal = await terminalWith({ 'rules/a.yaml': purgeRule, 'c.yaml': purgeConfig })
    expect(await terminal.run(['check', '--config', 'c.yaml'])).toEqual({
      code: 0,
      stdout: 'checked: 1 rule; 0 errors, 0 warnings\n',
      stderr: '',
    })
  })

  test('tells all problems of rules and configuration at once, on stderr, with a count as last line', async () => {
    const terminal = await terminalWith({
      'a.yaml':
        'one:\n  topc: x\n  exec: { uri: "http://a" }\ntwo: { topic: x, exec: { uri: "http://a", timeout: soon } }',
      'c.yaml': 'listen: { prot: 1 }\nstop_timeout: 30',
    })
    const { code, stdout, stderr } = await terminal.run(['check', 'a.yaml', '--config', 'c.yaml'])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^c\.yaml:1:11 listen\.prot: .*did you mean port\?$/m)
    expect(stderr).toMatch(/^c\.yaml:2:15 stop_timeout: /m)
    expect(stderr).toMatch(/a\.yaml:2:3 .*topc.*did you mean topic\?/)
    expect(stderr).toMatch(/a\.yaml:4:\d+ two\.exec.*timeout/)
    expect(stdout).toBe(`checked: rules; ${stderr.trimEnd().split('\n').length} errors, 0 warnings\n`)
  })

  test('answers in JSON as well', async () => {
    const terminal = await terminalWith({
      'c.yaml': 'listen: { prot: 1 }',
      'rules/a.yaml': 'a: { topic: x, exec: { uri: "http://a/b" } }',
    })
    const { code, stdout, stderr } = await terminal.run(['check', '--config', 'c.yaml', '--format', 'json'])
    expect([code, stderr]).toEqual([1, ''])
    expect(JSON.parse(stdout)).toEqual({
      rules: 1,
      errors: 1,
      warnings: 0,
      problems: [
        {
          severity: 'error',
          file: 'c.yaml',
          line: 1,
          column: 11,
          path: 'listen.prot',
          message: 'expected a known key, found "prot"',
          remedy: 'did you mean port?',
        },
      ],
    })
  })

  test('does not judge rules by hosts that are themselves in doubt', async () => {
    const terminal = await terminalWith({
      'rules/a.yaml': purgeRule,
      'c.yaml': "wikis: [ { domian: x, url: 'http://a' } ]",
    })
    const { code, stdout, stderr } = await terminal.run(['check', '--config', 'c.yaml'])
    expect([code, stdout]).toEqual([
      1,
      'checked: rules not checked: correct the configuration first; 1 error, 0 warnings\n',
    ])
    expect(stderr.split('\n')).toHaveLength(2)
  })

  test('warns without failing', async () => {
    const terminal = await terminalWith({
      'rules/a.yaml': 'a: { topic: x, exec: { uri: "http://a/b" } }',
      'c.yaml': "wikis: [ { domain: /x/, url: 'http://a' } ]",
    })
    const { code, stdout, stderr } = await terminal.run(['check', '--config', 'c.yaml'])
    expect([code, stdout]).toEqual([0, 'checked: 1 rule; 0 errors, 1 warning\n'])
    expect(stderr).toContain('warning')
  })
})

describe('config', () => {
  test('prints each value with its origin, and no secret', async () => {
    const terminal = await terminalWith({
      'c.yaml': "admin: { token: hush }\ntargets: { a: { url: 'http://a', authorization: hush } }",
    })
    const argv = ['config', '--config', 'c.yaml', '--data', '/d', '--rules', 'x', '--rules', 'y']
    const { code, stdout, stderr } = await terminal.run(argv, { env: { CHANGEPROP_LISTEN_PORT: '8200' } })
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout).toContain('port: 8200 # environment')
    expect(stdout).toContain('path: "/d" # flag')
    expect(stdout).toContain('token: "***" # file')
    expect(stdout).toContain('host: "127.0.0.1" # default')
    expect(stdout).toMatch(/x".*\n?.*y"/)
    expect(stdout).not.toContain('hush')
    const json = await terminal.run([...argv, '--format', 'json'])
    expect(JSON.parse(json.stdout)).toMatchObject({
      'admin.token': { value: '***', origin: 'file' },
      'store.embedded.path': { value: '/d', origin: 'flag' },
    })
    expect(json.stdout).not.toContain('hush')
  })

  test('with problems is exit code 1', async () => {
    const env = { CHANGEPROP_LISTEN_PORT: 'x' }
    const { code, stdout, stderr } = await (await terminalWith()).run(['config'], { env })
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toContain('CHANGEPROP_LISTEN_PORT listen.port: expected a whole number')
  })
})

test('serve does not start with a configuration that has problems, and tells those of flags with them', async () => {
  const terminal = await terminalWith({ 'c.yaml': 'store: { kafka: {} }' })
  const { code, stdout, stderr } = await terminal.run(['serve', '--config', 'c.yaml'])
  expect([code, stdout]).toEqual([1, ''])
  const kafka = 'expected the key brokers, found none; add for instance brokers: [kafka1:9092]'
  expect(stderr).toBe(`c.yaml:1:10 store.kafka: ${kafka}\n`)
  const both = await terminal.run(['serve', '--config', 'c.yaml', '--port', 'x'])
  expect([both.code, both.stderr.split('\n').map((line) => line.split(':')[0])]).toEqual([2, ['c.yaml', '--port', '']])
})

describe('schema', () => {
  test.each(['rules', 'config'])('%s prints a JSON Schema', async (which) => {
    const { code, stdout } = await (await terminalWith()).run(['schema', which])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ $schema: 'http://json-schema.org/draft-07/schema#', type: 'object' })
  })

  test.each([
    ['rules', 'json', 'config/rules.schema.json'],
    ['config', 'json', 'config/config.schema.json'],
    ['rules', 'markdown', 'rules/README.md'],
    ['config', 'markdown', 'config/README.md'],
  ])('the shipped %s page (%s) is what the command prints; else: npm run docs', async (which, format, file) => {
    const { stdout } = await (await terminalWith()).run(['schema', which, '--format', format])
    expect(await readFile(new URL(`../../${file}`, import.meta.url), 'utf8')).toBe(stdout)
  })

  test.each<['rules' | 'config', unknown]>([
    ['rules', ruleSchema],
    ['config', configSchema],
  ])('the %s page has a row for each key of the schema, also of alternatives', async (which, schema) => {
    const { stdout } = await (await terminalWith()).run(['schema', which, '--format', 'markdown'])
    const rows = rowsOf(stdout)
    expect(keysOf(schema).filter((key) => !rows.has(key))).toEqual([])
  })

  test('the rules page lists what is not supported yet, and the README points there', async () => {
    const { stdout } = await (await terminalWith()).run(['schema', 'rules', '--format', 'markdown'])
    const [, list] = stdout.split('\n## Not supported by this version yet\n')
    for (const [key, lost] of Object.entries(laterKeys)) expect(list).toContain(`- \`${key}\`: ${lost}\n`)
    expect(list).toContain('/sys/')
    const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
    expect(readme).toContain(
      '**What this version does not do** is listed in [rules/README.md](rules/README.md#not-supported-by-this-version-yet)',
    )
  })

  test('config describes every key', async () => {
    const { stdout } = await (await terminalWith()).run(['schema', 'config'])
    const undescribed = (schema: Record<string, unknown>, path: string): readonly string[] =>
      Object.entries(Object(schema.properties)).flatMap(([key, inner]) => [
        ...(Object(inner).description === undefined ? [`${path}${key}`] : []),
        ...undescribed(Object(inner), `${path}${key}.`),
        ...undescribed(Object(Object(inner).items), `${path}${key}[].`),
      ])
    expect(undescribed(JSON.parse(stdout), '')).toEqual([])
  })
})

/** The keys that a page has a row for, each with its path. */
function rowsOf(page: string): ReadonlySet<string> {
  const rows = page.split(/^## /m).flatMap((part) => {
    const path = /^Keys of `(.*)`/.exec(part)?.[1]
    return [...part.matchAll(/^\| `(\w+)` \| .* \| .* \| .* \|$/gm)].map(([, key]) => join(path, `${key}`))
  })
  return new Set(rows)
}

/** The keys that a schema knows; a case says what a rule says. */
function keysOf(schema: unknown, path?: string): readonly string[] {
  if (!isObject(schema)) return []
  const { properties, patternProperties, items, additionalProperties, anyOf } = schema
  const alike = [
    ...Object.values(Object(patternProperties)),
    ...Object.values(Object(anyOf)),
    items,
    additionalProperties,
  ]
  const own = Object.entries(Object(properties)).flatMap(([key, inner]) => [
    join(path, key),
    ...(key === 'cases' ? [] : keysOf(inner, join(path, key))),
  ])
  return [...own, ...alike.flatMap((inner) => keysOf(inner, path))]
}

function join(path: string | undefined, key: string): string {
  return path === undefined ? key : `${path}.${key}`
}
