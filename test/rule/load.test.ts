import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { loadRules } from '../../src/rule/load.ts'
import { renderRuleReference } from '../../src/rule/reference.ts'
import { ruleSet } from '../../src/rule/rule-set.ts'
import { ruleSchema } from '../../src/rule/schema.ts'
import { meanings } from '../../src/store/reasons.ts'
import { noHosts, ruleOf } from './world.ts'

async function folderWith(files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'rules-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), text)
  }
  return folder
}

const rule = (name: string, topic = 'page') => `${name}: { topic: '${topic}', exec: { uri: 'http://a.example/' } }\n`

test('rules come from files and folders, sorted by name within a folder', async () => {
  const folder = await folderWith({
    'b.yaml': rule('b2') + rule('b1'),
    'a.yml': rule('a'),
    'sub/c.yaml': rule('c'),
    'x.txt': '{',
  })
  const single = await folderWith({ 'z.conf': rule('z') })

  const { rules, problems } = await loadRules([join(single, 'z.conf'), folder], noHosts)

  expect(problems).toEqual([])
  expect(rules?.rules.map(({ name }) => name)).toEqual(['z', 'a', 'b2', 'b1', 'c'])
  expect(rules?.get('b1')).toMatchObject({ file: join(folder, 'b.yaml'), line: 2 })
  expect(rules?.get('none')).toBeUndefined()
})

test('with any error there are no rules at all, and every problem of every file', async () => {
  const folder = await folderWith({
    'a.yaml': rule('a'),
    'b.yaml': 'b: { topic: x }',
    'c.yaml': 'c: {',
    'd.yaml': 'd: 1',
  })

  const { rules, problems } = await loadRules([folder], noHosts)

  expect(rules).toBeUndefined()
  expect(new Set(problems.map(({ file }) => file)).size).toBe(3)
})

test('warnings do not stop rules from loading', async () => {
  const folder = await folderWith({
    'a.yaml': 'a: { topic: x, match_not: {}, exec: { uri: "http://a.example/" } }',
    'b.yaml': '',
  })

  const { rules, problems } = await loadRules([folder], noHosts)

  expect(rules?.rules).toHaveLength(1)
  expect(problems.map(({ severity }) => severity)).toEqual(['warning', 'warning'])
})

test('a name that two files use is a problem that says where both are', async () => {
  const folder = await folderWith({ 'a.yaml': rule('same'), 'b.yaml': rule('other') + rule('same') })

  const { rules, problems } = await loadRules([folder], noHosts)

  expect(rules).toBeUndefined()
  expect(problems).toMatchObject([{ file: join(folder, 'b.yaml'), line: 2, path: 'same' }])
  expect(problems[0]?.message).toContain(`${join(folder, 'a.yaml')}:1`)
})

test('a path that is not there is a problem', async () => {
  const { rules, problems } = await loadRules(['/does/not/exist.yaml'], noHosts)

  expect(rules).toBeUndefined()
  expect(problems).toMatchObject([{ file: '/does/not/exist.yaml', severity: 'error' }])
})

test('a topic is asked of its rules only, in the order of the rules, and worked out once', () => {
  const rules = ruleSet([ruleOf(rule('a')), ruleOf(rule('b', '/^pa/')), ruleOf(rule('c', 'other'))])

  expect(rules.forTopic('page').map(({ name }) => name)).toEqual(['a', 'b'])
  expect(rules.forTopic('page')).toBe(rules.forTopic('page'))
  expect(rules.forTopic('none')).toEqual([])
})

test('topics without number do not fill the memory', () => {
  const rules = ruleSet([ruleOf(rule('a', '/^pa/'))])
  const first = rules.forTopic('page')

  for (let index = 0; index < 10_000; index++) rules.forTopic(`topic${index}`)

  expect(rules.forTopic('page')).not.toBe(first)
  expect(rules.forTopic('page')).toEqual(first)
})

test('the rules we ship load without a word, those for a wiki with its configuration', async () => {
  const hosts = { wikis: [{ url: 'http://127.0.0.1:8080' }], targets: {} }

  expect(await loadRules(['rules'], noHosts)).toMatchObject({ problems: [] })
  expect(await loadRules(['config/examples/wiki-rules.yaml'], hosts)).toMatchObject({ problems: [] })
})

test('a call of the sample rule that failed is made again within ten seconds, as the README says', async () => {
  const { rules } = await loadRules(['rules'], noHosts)

  expect(rules?.get('tell_about_edit')?.retry).toMatchObject({ maxDelayMs: 10_000 })
})

test('the reference names every key, with a description of each', () => {
  const reference = renderRuleReference()

  for (const key of Object.keys(ruleSchema.properties))
    expect(reference).toMatch(new RegExp(`^\\| \`${key}\` \\| .+ \\| .+ \\|`, 'm'))
  expect(reference).not.toMatch(/^\| `[\w]+` \| [^|]+ \|\s+\|/m)
})

test('the reference says what each reason means, in the words of why', () => {
  const reference = renderRuleReference()

  for (const [state, reasons] of Object.entries(meanings))
    for (const [reason, meaning] of Object.entries(reasons))
      expect(reference).toContain(`${state} (\`${reason}\`): ${meaning}`)
})
