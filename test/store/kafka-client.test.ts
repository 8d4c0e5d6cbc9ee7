import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { createClient } from '../../src/store/kafka/client.ts'
import { sharedKafka } from '../support/kafka.ts'
import { until } from '../support/until.ts'

const shared = sharedKafka()

test('a connection that has nothing to send arms no timer for a time that is past', async () => {
  const arm = globalThis.setTimeout
  onTestFinished(() => {
    globalThis.setTimeout = arm
  })
  const admin = createClient(shared.client, () => undefined).admin()
  onTestFinished(() => admin.disconnect())
  await admin.connect()
  await admin.describeCluster()

  const armed: (number | undefined)[] = []
  globalThis.setTimeout = Object.assign((...[act, ms, ...more]: Parameters<typeof arm>) => {
    armed.push(ms)
    return arm(act, ms, ...more)
  }, arm)
  await admin.describeCluster()
  // Whatever it armed has had its turn.
  let turns = 0
  await until('some time has passed', () => turns++ > 5)

  expect(armed.filter((ms) => ms !== undefined && !(ms >= 0))).toEqual([])
})

test('a broker that takes longer than a second to accept a connection is waited for', async () => {
  const admin = createClient(
    {
      brokers: [...shared.brokers],
      socketFactory: ({ host, port, onConnect }) => connect({ host, port }, () => setTimeout(onConnect, 1_500)),
    },
    () => undefined,
  ).admin({ retry: { retries: 0 } })
  onTestFinished(() => admin.disconnect())
  await admin.connect()

  expect((await admin.describeCluster()).brokers).toHaveLength(1)
})

test('kafkajs is the one version whose insides are patched', async () => {
  const { dependencies } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'))
  expect(dependencies.kafkajs).toBe('2.2.4')
})
