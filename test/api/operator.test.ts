import fastify from 'fastify'
import { expect, test } from 'vitest'
import { compileOperatorCheck } from '../../src/api/operator.ts'

interface Caller {
  readonly remoteAddress?: string
  readonly host?: string
}

/** The code with which such a caller without a token is sent away; undefined where it may come in. */
async function refusal({ remoteAddress = '127.0.0.1', host = 'localhost:8192' }: Caller): Promise<unknown> {
  const check = compileOperatorCheck(undefined)
  const app = fastify()
  app.get('/', async (request) => {
    check(request)
    return {}
  })
  const { body } = await app.inject({ url: '/', remoteAddress, headers: { host } })
  return JSON.parse(body).code
}

test.each(['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1'])('%s is this machine', async (remoteAddress) => {
  expect(await refusal({ remoteAddress })).toBe(undefined)
})

test.each(['10.0.0.1', '::ffff:10.0.0.1', 'fe80::1', '0.0.0.0'])('%s is another machine', async (remoteAddress) => {
  expect(await refusal({ remoteAddress })).toBe('FORBIDDEN')
})

test.each(['localhost', 'localhost:8192', '127.0.0.1:8192', '[::1]:8192'])(
  '%s is a name for this machine',
  async (host) => {
    expect(await refusal({ host })).toBe(undefined)
  },
)

test.each(['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', '10.0.0.1:8192'])(
  '%s is a name with which a web page could make a browser here ask for it',
  async (host) => {
    expect(await refusal({ host })).toBe('FORBIDDEN')
  },
)
