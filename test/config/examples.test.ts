import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { terminalWith } from '../cli/terminal.ts'

const folder = 'config/examples'
const names = readdirSync(folder)
const files = Object.fromEntries(names.map((name) => [`${folder}/${name}`, readFileSync(`${folder}/${name}`, 'utf8')]))
const configurations = names.filter((name) => !name.endsWith('-rules.yaml'))

test.each(configurations)(`${folder}/%s and its rules pass changeprop check`, async (name) => {
  const terminal = await terminalWith(files)

  expect(
    await terminal.run(['check', '--config', `${folder}/${name}`], { env: { CHANGEPROP_ADMIN_TOKEN: 'token' } }),
  ).toEqual({
    code: 0,
    stdout: expect.stringMatching(/^checked: [1-9]\d* rules?; 0 errors, 0 warnings\n$/),
    stderr: '',
  })
})
