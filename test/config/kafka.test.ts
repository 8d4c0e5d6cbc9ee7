import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, onTestFinished, test } from 'vitest'
import { printConfig, showConfig } from '../../src/config/print.ts'
import { makeKeys } from '../support/tls-keys.ts'
import { load } from './world.ts'

const run = promisify(execFile)
const kafka = (rest = '') => `store: { kafka: { brokers: [ 'k1:9092' ]${rest} } }`

async function keys() {
  const folder = await mkdtemp(join(tmpdir(), 'changeprop-keys-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  return { folder, ...(await makeKeys(folder)) }
}

describe('a store on Kafka', () => {
  test('needs its brokers only', async () => {
    const { config, problems } = await load(kafka())
    expect(problems).toEqual([])
    expect(config?.store).toStrictEqual({
      kafka: {
        brokers: ['k1:9092'],
        service: 'changeprop',
        topicPrefix: '',
        consumePrefixes: [''],
        partitions: 12,
        replication: 3,
        streams: {},
      },
    })
  })

  test('takes all the rest as it is given', async () => {
    const yaml = `store:
  kafka:
    brokers: [ 'k1:9092', '10.0.0.2:19092' ]
    service: cp
    topic_prefix: eqiad.
    consume_prefixes: [ eqiad., codfw. ]
    partitions: 24
    replication: 1
    streams: { page.edited: { partition_key: '{{message.database}}:{{message.page_id}}' } }
    tls: true
    sasl: { mechanism: plain, username: u, password: { env: PW } }
    scratch: here`
    const { config, problems, cwd } = await load(yaml, { PW: 'naïve word' })
    expect(problems).toEqual([])
    expect(config?.store).toStrictEqual({
      kafka: {
        brokers: ['k1:9092', '10.0.0.2:19092'],
        service: 'cp',
        topicPrefix: 'eqiad.',
        consumePrefixes: ['eqiad.', 'codfw.'],
        partitions: 24,
        replication: 1,
        streams: { 'page.edited': { partitionKey: '{{message.database}}:{{message.page_id}}' } },
        tls: {},
        sasl: { mechanism: 'plain', username: 'u', password: 'naïve word' },
        scratch: join(cwd, 'here'),
      },
    })
  })

  test('consumes what it produces where nothing else is said', async () => {
    expect((await load(kafka(', topic_prefix: eqiad.'))).config?.store.kafka?.consumePrefixes).toEqual(['eqiad.'])
  })

  test('comes from the environment as well, lists with commas', async () => {
    const { config, problems, origins } = await load(undefined, {
      CHANGEPROP_STORE_KAFKA_BROKERS: 'k1:9092, k2:9093',
      CHANGEPROP_STORE_KAFKA_CONSUME_PREFIXES: ',codfw.',
      CHANGEPROP_STORE_KAFKA_REPLICATION: '2',
      CHANGEPROP_STORE_KAFKA_TLS: 'true',
      CHANGEPROP_STORE_KAFKA_SASL_MECHANISM: 'scram-sha-256',
      CHANGEPROP_STORE_KAFKA_SASL_USERNAME: 'true',
      CHANGEPROP_STORE_KAFKA_SASL_PASSWORD: 'word',
    })
    expect(problems).toEqual([])
    expect(config?.store.kafka).toMatchObject({
      brokers: ['k1:9092', 'k2:9093'],
      consumePrefixes: ['', 'codfw.'],
      replication: 2,
      tls: {},
      sasl: { mechanism: 'scram-sha-256', username: 'true', password: 'word' },
    })
    expect(origins.get('store.kafka.brokers')).toBe('environment')
  })

  test('takes --data for its scratch folder', async () => {
    const { config, problems } = await load(kafka(), {}, { data: '/d' })
    expect([config?.store.kafka?.scratch, problems]).toEqual(['/d', []])
    const { misuse } = await load(kafka(), {}, { data: '' })
    expect(misuse).toMatchObject([{ file: '--data' }])
  })

  test.each([
    ['store: { kafka: { service: x } }', '1:10 store.kafka: expected the key brokers, found none; add for instance'],
    ['store: { kafka: {} }', '1:10 store.kafka: expected the key brokers, found none'],
    [
      'store: { kafka: { borkers: [ k:1 ] } }',
      '1:19 store.kafka.borkers: expected a known key, found "borkers"; did you mean brokers?',
    ],
    ['store: { kafka: { brokers: [] } }', '1:28 store.kafka.brokers: expected a list that is not empty'],
    ['store: { kafka: { brokers: k:1 } }', '1:28 store.kafka.brokers: expected a list that is not empty, found "k:1"'],
    [
      'store: { kafka: { brokers: [ kafka1 ] } }',
      '1:30 store.kafka.brokers[0]: expected a broker as host:port, found "kafka1"; write for instance kafka1:9092',
    ],
    [
      "store: { kafka: { brokers: [ 'k:1', 'kafka://k:1' ] } }",
      '1:37 store.kafka.brokers[1]: expected a broker as host:port',
    ],
    [
      "store: { kafka: { brokers: [ 'k:1', 'k:70000' ] } }",
      'brokers[1]: expected a port from 1 to 65535, found 70000 in "k:70000"',
    ],
    [
      "store: { kafka: { brokers: [ 'k:1', 'k:1' ] } }",
      '1:28 store.kafka.brokers: expected a value that must NOT have duplicate',
    ],
    [kafka(', service: a b'), 'store.kafka.service: expected a name of letters, digits, ., _ and -, found "a b"'],
    [kafka(', topic_prefix: eqiad/'), 'store.kafka.topic_prefix: expected a prefix of topics'],
    [kafka(', consume_prefixes: []'), 'store.kafka.consume_prefixes: expected a list that is not empty'],
    [kafka(', partitions: 0'), 'store.kafka.partitions: expected a whole number from 1 to 10000, found 0'],
    [kafka(', replication: many'), 'store.kafka.replication: expected a whole number from 1 to 32767, found "many"'],
    [
      kafka(', streams: { s: { partitionkey: x } }'),
      'store.kafka.streams.s.partitionkey: expected a known key, found "partitionkey"; did you mean partition_key?',
    ],
    [
      kafka(', streams: { s: { partition_key: page_id } }'),
      'partition_key: expected a template such as {{message.page_id}}, found "page_id"',
    ],
    [kafka(", streams: { s: { partition_key: '{{message.a' } }"), 'streams.s.partition_key: expected }} after'],
    [
      kafka(", streams: { s: { partition_key: '{{match.a}}' } }"),
      'partition_key: expected only message, found match.a; a partition is',
    ],
    [
      kafka(`, streams: { s: { partition_key: '{{"x"}}' } }`),
      'partition_key: expected a template that reads the event',
    ],
    [kafka(', tls: yes'), 'store.kafka.tls: expected true, false or a mapping of ca, cert and key, found "yes"'],
    [kafka(', tls: { cafile: x }'), 'store.kafka.tls.cafile: expected a known key'],
    [
      kafka(', tls: { ca: /etc/ca.pem }'),
      /store.kafka.tls.ca: expected certificates in PEM .* in the text, found none; write { file: PATH }/,
    ],
    [
      kafka(', tls: { ca: { file: nowhere } }'),
      'store.kafka.tls.ca: expected a secret in the file nowhere, found that it cannot be read',
    ],
    [
      kafka(', tls: { key: hush }'),
      /store.kafka.tls.key: expected a private key in PEM in the text, found none \(not shown\)/,
    ],
    [
      kafka(', sasl: {}'),
      /1:\d+ store.kafka.sasl: expected mechanism, username and password, found no mechanism, no username, no password/,
    ],
    [
      kafka(', tls: true, sasl: { mechanism: plain, username: u }'),
      'store.kafka.sasl: expected mechanism, username and password, found no password; add password',
    ],
    [
      kafka(', sasl: { mechanism: scram-sha-521, username: u, password: hush }'),
      'store.kafka.sasl.mechanism: expected "plain", "scram-sha-256" or "scram-sha-512", found "scram-sha-521"; did you mean scram-sha-512?',
    ],
    [
      kafka(', sasl: { mechanism: scram-sha-512, username: u, password: { env: NONE } }'),
      'store.kafka.sasl.password: expected a secret in the environment variable NONE',
    ],
    [
      kafka(', sasl: { mechanism: scram-sha-512, username: u, password: "hush\\nhush" }'),
      'store.kafka.sasl.password: expected one line in the text',
    ],
    [
      kafka().replace('kafka:', 'embedded: {}, kafka:'),
      '1:24 store.kafka: expected one store, found embedded and kafka; leave one of them out',
    ],
  ])('%s is refused in one line', async (yaml, expected) => {
    const { config, lines } = await load(yaml)
    expect(config).toBeUndefined()
    expect(lines).toEqual([
      typeof expected === 'string' ? expect.stringContaining(expected) : expect.stringMatching(expected),
    ])
    expect(lines.join()).not.toContain('hush')
  })

  test('that the environment asks for is refused beside the embedded one of the file', async () => {
    const { lines } = await load('store: { embedded: { path: x } }', { CHANGEPROP_STORE_KAFKA_BROKERS: 'k:1' })
    expect(lines).toEqual([
      'CHANGEPROP_STORE_KAFKA_BROKERS store.kafka: expected one store, found embedded and kafka; leave one of them out, wherever it is set',
    ])
  })

  test('is told of the variable that is wrong, or without effect', async () => {
    const wrong = await load(undefined, { CHANGEPROP_STORE_KAFKA_BROKERS: 'k1:9092,k2' })
    expect(wrong.lines).toEqual([
      'CHANGEPROP_STORE_KAFKA_BROKERS store.kafka.brokers[1]: expected a broker as host:port, found "k2"; write for instance kafka1:9092',
    ])
    const idle = await load(kafka(), { CHANGEPROP_STORE_EMBEDDED_PATH: 'x' })
    expect(idle.config).toBeDefined()
    expect(idle.lines).toEqual([expect.stringMatching(/^CHANGEPROP_STORE_EMBEDDED_PATH warning: .*it has no effect$/)])
    const lonely = await load(undefined, { CHANGEPROP_STORE_KAFKA_SERVICE: 'x' })
    expect(lonely.lines).toEqual([
      expect.stringMatching(/^CHANGEPROP_STORE_KAFKA_SERVICE store.kafka: expected the key brokers/),
    ])
  })

  test('that sends its password as it is gets a warning', async () => {
    const { config, lines } = await load(kafka(', sasl: { mechanism: plain, username: u, password: hush }'))
    expect(config).toBeDefined()
    expect(lines).toEqual([expect.stringMatching(/warning: store.kafka.sasl.mechanism: expected tls beside plain/)])
  })
})

describe('the keys of TLS', () => {
  test('are read, whole chains too', async () => {
    const { ca, cert, key, caFile, certFile, keyFile } = await keys()
    const { config, problems } = await load(
      kafka(`, tls: { ca: { env: CA }, cert: { file: ${certFile} }, key: { file: ${keyFile} } }`),
      { CA: `${ca}${cert}` },
    )
    expect(problems).toEqual([])
    expect(config?.store.kafka?.tls).toStrictEqual({ ca: `${ca}${cert}`, cert: cert.trimEnd(), key: key.trimEnd() })
    expect((await load(kafka(`, tls: { ca: { file: ${caFile} } }`))).problems).toEqual([])
  })

  test('are refused where they are broken, do not belong together, or one is left out', async () => {
    const { ca, folder, certFile, keyFile } = await keys()
    await run('openssl', ['pkey', '-in', keyFile, '-aes256', '-passout', 'pass:x', '-out', join(folder, 'locked')])
    const line = async (tls: string, env = {}) => (await load(kafka(`, tls: { ${tls} }`), env)).lines.join('\n')
    const cert = `cert: { file: ${certFile} }`

    expect(await line(cert)).toMatch(/store.kafka.tls: expected cert and key together, found cert alone; add key$/)
    expect(await line(`${cert}, key: { file: ${folder}/server.key } `)).toMatch(
      /store.kafka.tls.key: expected the private key of cert, found that of another; name the two that belong together$/,
    )
    expect(await line(`${cert}, key: { file: ${folder}/locked }`)).toMatch(
      /tls.key: expected .*, found one with a passphrase; remove/,
    )
    const broken = ca.replace(/\n..../, '\nMMMM')
    expect(await line('ca: { env: CA }', { CA: `${ca}${broken}` })).toMatch(
      /tls.ca: .* found one that cannot be read, the 2. of 2; export it anew$/,
    )
  })
})

describe('the printed configuration', () => {
  const yaml = kafka(`, topic_prefix: a., streams: { s: { partition_key: '{{message.x}}' } }, scratch: /s`)

  test('is a configuration, and knows one store', async () => {
    const first = await load(yaml)
    if (first.config === undefined) throw new Error('no config')
    const printed = printConfig(first.config, first.origins)
    expect(printed).not.toContain('embedded')
    expect((await load(printed)).config).toEqual(first.config)
    const embedded = await load(undefined)
    if (embedded.config === undefined) throw new Error('no config')
    expect(printConfig(embedded.config, embedded.origins)).not.toContain('kafka')
  })

  test('shows no secret', async () => {
    const { key, certFile, keyFile } = await keys()
    const { config, origins } = await load(
      kafka(
        `, tls: { cert: { file: ${certFile} }, key: { file: ${keyFile} } }, sasl: { mechanism: plain, username: me, password: hush }`,
      ),
    )
    if (config === undefined) throw new Error('no config')
    const printed = printConfig(config, origins) + JSON.stringify(showConfig(config, origins))
    expect(printed).not.toContain('hush')
    expect(printed).not.toContain(key.split('\n')[1])
    expect(printed).toContain('"key":"***"')
    expect(printed).toContain('username: "me" # file')
  })
})
