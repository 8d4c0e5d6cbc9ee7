import { expect, test } from 'vitest'
import { withoutSecretMembers, withoutSecretQuery, withoutSecrets } from '../../src/base/secret-name.ts'

test.each([
  ['http://a/b', 'http://a/b'],
  ['http://a/token=x', 'http://a/token=x'],
  ['/b?access_token=x&title=A%20b&api_key=y', '/b?access_token=***&title=A%20b&api_key=***'],
  ['/b?o%5BPassWord%5D=x&flag', '/b?o%5BPassWord%5D=***&flag'],
  ['/b?%74oken=x=y', '/b?%74oken=***'],
  ['/b?', '/b?'],
])('of the URL %s is shown %s', (url, shown) => {
  expect(withoutSecretQuery(url)).toBe(shown)
})

test.each([
  ['{"title":"A","n":12345678901234567890}', '{"title":"A","n":12345678901234567890}'],
  ['{ "password" : "x\\"y" , "n": 1.50 }', '{ "password" : "***" , "n": 1.50 }'],
  ['{"a":[{"b":{"token":5}}],"c":"d"}', '{"a":[{"b":{"token":"***"}}],"c":"d"}'],
  ['{"tokens":["x",{"y":"z"}],"c":"d"}', '{"tokens":["***",{"y":"***"}],"c":"d"}'],
  ['{"secret":{},"c":"d"}', '{"secret":{},"c":"d"}'],
  ['{"secret":{"password":"x","y":"z"},"c":"d"}', '{"secret":{"password":"***","y":"***"},"c":"d"}'],
  ['{"\\u0074oken":"x"}', '{"\\u0074oken":"***"}'],
  ['["token","x",{"a":"\\"token\\":\\"x\\""}]', '["token","x",{"a":"\\"token\\":\\"x\\""}]'],
])('of the JSON %s is shown %s', (json, shown) => {
  expect(withoutSecretMembers(json)).toBe(shown)
})

test.each<[unknown, unknown]>([
  [
    { 'x-api-key': 12345, password: 'x', secret: true, limit: 5 },
    { 'x-api-key': '***', password: '***', secret: '***', limit: 5 },
  ],
  [{ a: [{ token: { value: 'x', list: [1, null] } }] }, { a: [{ token: { value: '***', list: ['***', '***'] } }] }],
  ['action=x&token=y&o%5Bpassword%5D=z', 'action=x&token=***&o%5Bpassword%5D=***'],
  ['title=Why?&token={{wiki.token}}', 'title=Why?&token=***'],
  ['http://tokens.example/b?a=b&token=x', 'http://tokens.example/b?a=b&token=***'],
  [' {"id": {{message.id}}, "token": "x", "\\q": 1}', ' {"id": {{message.id}}, "token": "***", "\\q": 1}'],
  ['[{"password": {{message.x}}}]', '[{"password": {{"***"}}}]'],
  ['{{message.token}}', '{{message.token}}'],
  ['/^(?<token>[a-z]+)$/', '/^(?<token>[a-z]+)$/'],
])('of a rule that says %j is shown %j', (written, shown) => {
  expect(withoutSecrets(written)).toEqual(shown)
})
