import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { expect, test } from 'vitest'
import { createLogger } from '../../src/observability/log.ts'

test('secrets are masked wherever they are in a line, and nothing else is', async () => {
  const stream = new PassThrough()
  const log = createLogger('info', stream)
  const headers = { authorization: 'hush-1', cookie: 'hush-2', 'set-cookie': 'hush-3', accept: 'text/plain' }
  log.info(
    {
      token: 'hush-4',
      headers,
      req: { headers },
      config: { admin: { token: 'hush-5' } },
      targets: { a: { b: { password: 'hush-6' } } },
    },
    'hello',
  )
  stream.end()
  const line = await text(stream)
  expect(line).not.toContain('hush')
  expect(JSON.parse(line)).toMatchObject({
    level: 'info',
    service: 'changeprop',
    msg: 'hello',
    headers: { authorization: '***', accept: 'text/plain' },
  })
})

test('a line below the level is not written', async () => {
  const stream = new PassThrough()
  const log = createLogger('warn', stream)
  log.info('not this')
  log.warn({ err: new Error('this went wrong') }, 'but this')
  stream.end()
  const lines = (await text(stream)).trimEnd().split('\n')
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { level: 'warn', msg: 'but this', err: { message: 'this went wrong' } },
  ])
})
