import { messageOf } from '../base/errors.ts'
import { createClient } from '../store/kafka/client.ts'
import { Topics } from '../store/kafka/topics.ts'
import { kafkaOptions } from '../store-of.ts'
import { readConfiguration } from './configuration.ts'
import { CommandFailure, counted, type Io, writeProblems } from './io.ts'

export interface TopicsOptions {
  readonly config?: string | undefined
  readonly check?: true
  readonly create?: true
}

/** Sees to the topics that the service needs for itself; those of streams are made when the first event of one is posted. */
export async function topics({ config: file, check, create }: TopicsOptions, io: Io): Promise<number> {
  if ((check === undefined) === (create === undefined)) {
    throw new CommandFailure(2, 'expected one of --check and --create')
  }
  const { config, problems } = await readConfiguration(file, {}, io)
  writeProblems(io, problems)
  if (config === undefined) return 1
  if (config.store.kafka === undefined) {
    throw new CommandFailure(
      1,
      'expected store.kafka in the configuration, found the embedded store, which has no topics',
    )
  }
  const options = kafkaOptions(config.store.kafka, config.intake.maxBodyBytes)
  const told: string[] = []
  const kafka = createClient(options.client, (_, message) => told.push(message))
  const own = new Topics(options)
  try {
    if (create === true) {
      const made = await own.create(kafka)
      for (const topic of made) io.stdout.write(`created ${topic}\n`)
    }
    const found = await own.check(kafka)
    const wrong = [...found.missing, ...found.wrong]
    for (const problem of wrong) io.stderr.write(`${problem}\n`)
    if (wrong.length === 0)
      io.stdout.write(
        `${own.work}, ${own.roots}, ${own.handed}, ${own.journal} and ${own.keys} are as they should be\n`,
      )
    else io.stdout.write(`${counted(wrong.length, 'problem')}\n`)
    return wrong.length === 0 ? 0 : 1
  } catch (error) {
    const hints = [...new Set(told)].slice(-3).map((line) => `\n  ${line}`)
    const brokers = config.store.kafka.brokers.join(', ')
    throw new CommandFailure(1, `Kafka at ${brokers} does not do it: ${messageOf(error)}${hints.join('')}`, {
      cause: error,
    })
  }
}
