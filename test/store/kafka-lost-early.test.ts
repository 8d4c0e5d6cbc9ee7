import { expect, test } from 'vitest'
import { loadDriver } from '../../src/store/tables/database.ts'
import { until } from '../support/until.ts'
import { Log, Member } from './kafka-log.ts'

test('a partition may be lost before its tables are first read, while the driver for that is loaded', async () => {
  const member = new Member(new Log())
  const { thread } = member
  const ask = thread.ask.bind(thread)
  let isRestored = false
  let isDropped = false
  thread.ask = async (question, input, transfer) => {
    const answer = await ask(question, input, transfer)
    if (question === 'restored')
      setImmediate(() => {
        isRestored = true
        member.work.assigned([])
      })
    if (question === 'drop') isDropped = true
    return answer
  }
  member.work.assigned([1])
  await until('it is restored, and dropped', () => isRestored && isDropped)
  await member.quiet()
  // Whoever waited for the driver before us goes on before us.
  await loadDriver()
  await new Promise(setImmediate)

  expect(member.broken).toEqual([])
})
