import Type from 'typebox'
import { closed, secret } from './schema-parts.ts'

/** Topics are named by letters, digits, `.`, `_` and `-`, and are 249 long at most. */
const namePart = (least: 0 | 1) => ({
  pattern: least === 0 ? '^[A-Za-z0-9._-]*$' : '^[A-Za-z0-9._-]+$',
  maxLength: 100,
})

const prefix = {
  title: 'a prefix of topics, of letters, digits, ., _ and -',
  ...namePart(0),
  examples: ['eqiad.'],
}

export const tlsSchema = Type.Object(
  {
    ca: Type.Optional(
      secret(
        "Certificates, in PEM, of the authorities that the brokers' are signed by. Left out, those that Node knows.",
      ),
    ),
    cert: Type.Optional(secret('Our own certificate, in PEM, where brokers ask for one.')),
    key: Type.Optional(secret('Its private key, in PEM and without a passphrase.')),
  },
  closed,
)

export const streamsSchema = Type.Record(
  Type.String(),
  Type.Object(
    {
      partition_key: Type.String({
        title: 'a template such as {{message.page_id}}',
        pattern: '\\{\\{',
        maxLength: 1000,
        examples: ['{{message.page_id}}'],
        description:
          'Events of an equal key go to the same partition, and so keep their order. May use `message` only. Left out: the wiki, and the page or the job.',
      }),
    },
    closed,
  ),
  { propertyNames: { title: 'the name of a stream', pattern: '^[A-Za-z0-9_][A-Za-z0-9._-]*$' } },
)

export const kafkaSchema = Type.Object(
  {
    brokers: Type.Optional(
      Type.Array(
        Type.String({
          title: 'a broker as host:port',
          pattern: '^[A-Za-z0-9._-]+:\\d{1,5}$',
          maxLength: 260,
          examples: ['kafka1:9092'],
        }),
        {
          minItems: 1,
          uniqueItems: true,
          examples: [['kafka1:9092', 'kafka2:9092']],
          description: 'Some brokers of the cluster; they tell of the others. Required.',
        },
      ),
    ),
    service: Type.Optional(
      Type.String({
        title: 'a name of letters, digits, ., _ and -',
        ...namePart(1),
        default: 'changeprop',
        examples: ['changeprop'],
        description:
          'Processes of one name share the work: it begins the names of the topics they keep for themselves, and of their consumer groups.',
      }),
    ),
    topic_prefix: Type.Optional(
      Type.String({
        ...prefix,
        default: '',
        description: "What begins the names of this data centre's topics: the events posted here go there.",
      }),
    ),
    consume_prefixes: Type.Optional(
      Type.Array(Type.String(prefix), {
        minItems: 1,
        uniqueItems: true,
        examples: [['eqiad.', 'codfw.']],
        description: 'Prefixes of the topics whose events are worked on. Left out, topic_prefix alone.',
      }),
    ),
    partitions: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 10_000,
        default: 12,
        examples: [12],
        description:
          'Partitions of each topic that is created: at most so many processes share its work. Never changed later.',
      }),
    ),
    replication: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 32_767,
        default: 3,
        examples: [3],
        description: 'On how many brokers each topic that is created is kept.',
      }),
    ),
    streams: Type.Optional({
      ...streamsSchema,
      default: {},
      description: 'What differs for a stream, by its name without a prefix.',
    }),
    tls: Type.Optional(
      Type.Union([Type.Boolean(), tlsSchema], {
        title: 'true, false or a mapping of ca, cert and key',
        default: false,
        description: 'Whether to speak TLS with the brokers, and with which certificates.',
      }),
    ),
    sasl: Type.Optional(
      Type.Object(
        {
          mechanism: Type.Optional(
            Type.Union([Type.Literal('plain'), Type.Literal('scram-sha-256'), Type.Literal('scram-sha-512')], {
              examples: ['scram-sha-512'],
              description: 'How to log in. `plain` sends the password itself: only with tls.',
            }),
          ),
          username: Type.Optional(
            Type.String({
              title: 'a user name',
              minLength: 1,
              maxLength: 255,
              examples: ['changeprop'],
              description: 'Who to log in as.',
            }),
          ),
          password: Type.Optional(secret('The password.')),
        },
        { ...closed, description: 'How to log in to the brokers, where they ask for it: all three keys.' },
      ),
    ),
    scratch: Type.Optional(
      Type.String({
        title: 'a path',
        minLength: 1,
        examples: ['/var/lib/changeprop'],
        description:
          'A folder for what is derived from the topics, relative to the working directory. Nothing in it needs to be kept: it is made anew from them. One process at a time. Left out, a temporary folder, removed at the end.',
      }),
    ),
  },
  {
    ...closed,
    description: 'Apache Kafka: many processes share the work. Instead of embedded.',
  },
)
