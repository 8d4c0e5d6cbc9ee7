import Type from 'typebox'
import { durationPattern, ratePattern, sizePattern } from '../base/units.ts'
import { kafkaSchema } from './kafka-schema.ts'
import { closed, secret } from './schema-parts.ts'

/*
 * The one source of the configuration: its validator, the JSON Schema for editors, its documentation and its defaults.
 * `title` says what a value is (in problems too), `description` what it does. Every scalar that is not in a list, and every
 * list of texts (with commas between), can be given by environment as well: `store.embedded.path` is
 * CHANGEPROP_STORE_EMBEDDED_PATH.
 */

const duration = (description: string, rest: { default?: string } = {}) =>
  Type.String({
    title: 'a duration such as 500ms, 2s, 5m, 1h or 7d',
    pattern: durationPattern,
    examples: ['30s'],
    description,
    ...rest,
  })

const sizeWords = { title: 'a size such as 64KiB, 10MiB or 2GiB', examples: ['10MiB'] }
const size = (description: string, rest: { default?: string } = {}) =>
  Type.Union([Type.Integer({ minimum: 0, ...sizeWords }), Type.String({ pattern: sizePattern, ...sizeWords })], {
    ...sizeWords,
    description,
    ...rest,
  })

const hostHeader = (pattern: string, description: string) =>
  Type.String({
    title: 'a host name, with a port where needed',
    pattern,
    maxLength: 255,
    examples: ['wiki.example.org'],
    description,
  })

const url = (description: string) =>
  Type.String({
    title: 'an http or https URL',
    pattern: '^https?://',
    maxLength: 2048,
    examples: ['https://wiki.example.org/w'],
    description,
  })

const maxPause = duration('The longest pause that an answer (Retry-After) may ask for.', { default: '1h' })

const limits = {
  concurrency: Type.Optional(
    Type.Integer({
      title: 'a whole number from 1 up',
      minimum: 1,
      examples: [10],
      description: 'How many calls to it may be in flight at once, those of all rules together.',
    }),
  ),
  rate: Type.Optional(
    Type.String({
      title: 'a rate such as 50/s or 600/min',
      pattern: ratePattern,
      examples: ['50/s'],
      description:
        'How many calls to it may start in a time, those of all rules together. After a pause as many as of one second may start at once.',
    }),
  ),
}

export const loginSchema = Type.Object(
  {
    user: Type.String({
      title: 'a user name',
      minLength: 1,
      maxLength: 255,
      examples: ['Bot@changeprop'],
      description: 'With a bot password: the name of the user, `@`, and that of the bot password.',
    }),
    password: secret('Its password, which Special:BotPasswords makes.'),
  },
  {
    ...closed,
    description:
      'Who to log in as, when a call first needs it; each wiki of a farm has a session of its own. Cookies and tokens are kept in memory only.',
  },
)

const domainOf = (what: string) =>
  Type.Optional(
    Type.String({
      title: 'a name, or a /regex/',
      minLength: 1,
      maxLength: 1000,
      description: `${what}, or a /regex/ that matches all of it for a farm; its named captures can be used in url.`,
    }),
  )

export const wikiSchema = Type.Object(
  {
    database: domainOf("The wiki's database name, as events carry it in `database`, `wiki_id` or `wiki`"),
    domain: domainOf("The wiki's domain, as events carry it in `meta.domain`"),
    url: url('The folder of api.php and rest.php. May use {{name}} for captures of the regex.'),
    host: Type.Optional(
      hostHeader(
        '^([A-Za-z0-9._-]|\\{\\{\\s*\\w+\\s*\\}\\})+(:\\d{1,5})?$',
        'The host header of calls to it, where it is not that of the URL. May use captures as well.',
      ),
    ),
    login: Type.Optional(loginSchema),
    authorization: Type.Optional(
      secret('Value of the authorization header of calls to it, e.g. `Bearer …` with the access token of OAuth 2.'),
    ),
    ...limits,
    max_pause: Type.Optional(maxPause),
  },
  closed,
)

export const targetSchema = Type.Object(
  {
    url: url('Base URL; in rules it is {{targets.NAME.url}}.'),
    host: Type.Optional(
      hostHeader('^[A-Za-z0-9._-]+(:\\d{1,5})?$', 'The host header of calls to it, where it is not that of the URL.'),
    ),
    authorization: Type.Optional(secret('Value of the authorization header of calls to it, e.g. `Bearer …`.')),
    ...limits,
    max_pause: Type.Optional(maxPause),
  },
  closed,
)

export const configSchema = Type.Object(
  {
    listen: Type.Optional(
      Type.Object(
        {
          host: Type.Optional(
            Type.String({
              title: 'an address or host name',
              minLength: 1,
              maxLength: 255,
              default: '127.0.0.1',
              description: 'Where to listen.',
            }),
          ),
          port: Type.Optional(
            Type.Integer({
              minimum: 0,
              maximum: 65_535,
              default: 8192,
              examples: [8192],
              description: 'Port to listen on; 0 takes a free one.',
            }),
          ),
        },
        { ...closed, description: 'The address of the service.' },
      ),
    ),
    store: Type.Optional(
      Type.Object(
        {
          embedded: Type.Optional(
            Type.Object(
              {
                path: Type.Optional(
                  Type.String({
                    title: 'a path',
                    minLength: 1,
                    default: './data',
                    description: 'The data folder, relative to the working directory. One process at a time.',
                  }),
                ),
                retention: Type.Optional(
                  Type.Object(
                    {
                      age: Type.Optional(
                        duration('How long an event is kept after all its deliveries ended.', { default: '7d' }),
                      ),
                      size: Type.Optional(
                        size(
                          'What all that is kept may take on disk. Finished events leave early for it; live work never does: then intake answers 503.',
                          { default: '10GiB' },
                        ),
                      ),
                      dead: Type.Optional(size('What dead letters may take of it.', { default: '5GiB' })),
                    },
                    { ...closed, description: 'How long, and how much, is kept.' },
                  ),
                ),
              },
              { ...closed, description: 'The embedded store: one data folder, one process.' },
            ),
          ),
          kafka: Type.Optional(kafkaSchema),
        },
        {
          ...closed,
          description: 'Where events and deliveries are kept: embedded, or kafka where anything is said of it.',
        },
      ),
    ),
    rules: Type.Optional(
      Type.Array(Type.String({ title: 'a path', minLength: 1 }), {
        default: ['rules'],
        minItems: 1,
        examples: [['rules']],
        description: 'Rule files, or folders of them, relative to the working directory.',
      }),
    ),
    schemas: Type.Optional(
      Type.Object(
        {
          from: Type.Optional(
            Type.Array(Type.String({ title: 'a folder or a base URL', minLength: 1 }), {
              default: [],
              description:
                'Where JSON Schemas of events are found by their `$schema`: folders, relative to the working directory, or base URLs; tried in order.',
            }),
          ),
          unknown: Type.Optional(
            Type.Union([Type.Literal('accept'), Type.Literal('refuse')], {
              default: 'accept',
              description: 'What to do with an event whose schema is not found.',
            }),
          ),
        },
        { ...closed, description: 'Schemas that events are checked against, beyond the common fields.' },
      ),
    ),
    intake: Type.Optional(
      Type.Object(
        {
          max_body: Type.Optional(size('The largest request body that the intake reads.', { default: '10MiB' })),
          allow: Type.Optional(
            Type.Array(
              Type.String({
                title: 'a network such as 10.0.0.0/8 or fd00::/8',
                minLength: 1,
                examples: ['10.0.0.0/8'],
              }),
              {
                description: 'Networks that may post events. Left out, everybody may; an empty list allows nobody.',
              },
            ),
          ),
        },
        { ...closed, description: 'Who may post events, and how large.' },
      ),
    ),
    admin: Type.Optional(
      Type.Object(
        {
          token: Type.Optional(
            secret("The bearer token of the operator's routes. Left out, they answer on loopback only."),
          ),
        },
        { ...closed, description: "The operator's routes." },
      ),
    ),
    stop_timeout: Type.Optional(duration('How long a stop waits for running calls.', { default: '30s' })),
    log: Type.Optional(
      Type.Object(
        {
          level: Type.Optional(
            Type.Union(
              [
                Type.Literal('fatal'),
                Type.Literal('error'),
                Type.Literal('warn'),
                Type.Literal('info'),
                Type.Literal('debug'),
                Type.Literal('trace'),
              ],
              { default: 'info', description: 'The least important lines that are written.' },
            ),
          ),
        },
        { ...closed, description: 'The log: JSON lines on stderr.' },
      ),
    ),
    wikis: Type.Optional(
      Type.Array(wikiSchema, {
        default: [],
        description:
          'Which wikis there are, and where. Events do not tell; the first entry that matches an event counts.',
      }),
    ),
    targets: Type.Optional(
      Type.Record(Type.String(), targetSchema, {
        propertyNames: { title: 'a name of letters, digits, _ and -', pattern: '^[A-Za-z_][A-Za-z0-9_-]*$' },
        default: {},
        description: 'Other hosts that calls may go to, by name. A host written out in a rule is allowed by that.',
      }),
    ),
  },
  {
    ...closed,
    title: 'a configuration of changeprop',
    description:
      'Everything has a default. A value given by a command line flag beats the environment, which beats this file. Relative paths are relative to the working directory.',
  },
)
