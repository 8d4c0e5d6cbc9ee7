import { expect, test } from 'vitest'
import { until } from '../support/until.ts'
import { Log, Member } from './kafka-log.ts'

test('a partition may be lost before its tables are first read, while the driver for that is loaded', async () => {
  const member = new Member(new Log())
  const { thread } = member
  const ask = thread.ask.bind(thread)
  let isTakenUp = false
  let isDropped = false
  thread.ask = async (question, input, transfer) => {
    const answer = await ask(question, input, transfer)
    if (question === 'takeUp')
      setImmediate(() => {
        isTakenUp = true
        member.work.assigned([])
      })
    if (question === 'drop') isDropped = true
    return answer
  }
  member.work.assigned([1])
  await until('it is taken up, and dropped', () => isTakenUp && isDropped)
  await member.quiet()
  await new Promise((resolve) => setTimeout(resolve, 500))

  expect(member.broken).toEqual([])
})
