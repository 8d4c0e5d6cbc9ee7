import type { SASLOptions } from 'kafkajs'
import type { Logger } from 'pino'
import type { Config, KafkaStoreConfig } from './config/config.ts'
import type { NewEvent } from './event/event.ts'
import { TemplateError } from './rule/rule.ts'
import { compileText, parseTemplate } from './rule/template.ts'
import { createEmbeddedStore } from './store/embedded/embedded-store.ts'
import type { KafkaStoreOptions } from './store/kafka/kafka-store.ts'
import type { Store } from './store/store.ts'

/** The store that the configuration asks for, not open yet, and how much dead letters may take there, in bytes. */
export async function storeOf(
  { store, intake }: Config,
  log: Logger,
): Promise<{ readonly store: Store; readonly deadBytes: number }> {
  if (store.embedded !== undefined) {
    const { path, retention } = store.embedded
    return { store: createEmbeddedStore({ path, retention }), deadBytes: retention.deadBytes }
  }
  // Loaded by those only who use it.
  const { createKafkaStore } = await import('./store/kafka/kafka-store.ts')
  // The work topic keeps dead letters for ever; the brokers say how much there is room for.
  return {
    store: createKafkaStore({
      ...kafkaOptions(store.kafka, intake.maxBodyBytes),
      tell: (level, message) => log[level]({ of: 'kafka' }, message),
    }),
    deadBytes: Number.POSITIVE_INFINITY,
  }
}

/** `largestEvent`: in bytes. */
export function kafkaOptions(config: KafkaStoreConfig, largestEvent: number): Omit<KafkaStoreOptions, 'tell'> {
  const { brokers, service, topicPrefix, consumePrefixes, partitions, replication, streams, tls, sasl, scratch } =
    config
  return {
    client: {
      brokers: [...brokers],
      clientId: service,
      ...(tls === undefined ? {} : { ssl: { ...tls } }),
      ...(sasl === undefined ? {} : { sasl: { ...sasl } as SASLOptions }),
    },
    service,
    prefix: topicPrefix,
    consumePrefixes,
    partitions,
    replication,
    largestEvent,
    scratch,
    partitionKeys: new Map(Object.entries(streams).map(([name, { partitionKey }]) => [name, compileKey(partitionKey)])),
  }
}

/** An event of which the key cannot be rendered has none: any partition will do. */
function compileKey(template: string): (event: NewEvent) => string | undefined {
  const render = compileText(parseTemplate(template), false)
  return ({ stream, bytes, message }) => {
    const record = { id: '', stream, accepted: 0, bytes, message }
    try {
      const value = render({ record, captures: {}, wiki: () => undefined, target: () => undefined })
      if (value === undefined || value === null || value === '') return undefined
      return typeof value === 'string' ? value : JSON.stringify(value)
    } catch (error) {
      if (error instanceof TemplateError) return undefined
      throw error
    }
  }
}
