import Type from 'typebox'
import { durationPattern, ratePattern } from '../base/units.ts'
import type { Json, JsonObject } from '../event/event.ts'

/*
 * What a rule file may say. The validator, the types that the parser works with, the schema for editors and the reference
 * page all come from here.
 */

const strict = { additionalProperties: false }

const duration = (description: string, fallback?: string) =>
  Type.String({
    title: 'a duration such as 30s',
    description,
    pattern: durationPattern,
    examples: ['30s'],
    ...(fallback === undefined ? {} : { default: fallback }),
  })

const anyMapping = (options: { title: string; description?: string; examples?: unknown[] }) =>
  Type.Unsafe<JsonObject>({ type: 'object', ...options })

const topics = (description: string) => {
  const name = Type.String({ minLength: 1, maxLength: 500, title: 'the name of a stream, or a /regex/' })
  return Type.Union([name, Type.Array(name, { minItems: 1, maxItems: 1_000 })], {
    description,
    examples: ['mediawiki.page_change.v1'],
  })
}

const pattern = anyMapping({ title: 'a pattern', examples: [{ meta: { domain: 'wiki.example' } }] })
const patterns = (description: string) =>
  Type.Union([pattern, Type.Array(pattern, { minItems: 1, maxItems: 1_000 })], {
    title: 'a pattern, or a list of patterns of which one has to fit',
    description,
    examples: [{ meta: { domain: 'wiki.example' } }],
  })

const statuses = (description: string) => {
  const one = Type.Union(
    [
      Type.Integer({ minimum: 100, maximum: 599 }),
      Type.String({ title: 'a status such as 503 or 5xx', pattern: '^[1-5][0-9x][0-9x]$' }),
    ],
    { title: 'a status such as 503 or 5xx' },
  )
  return Type.Union([one, Type.Array(one, { minItems: 1, maxItems: 500 })], { description, examples: ['5xx'] })
}

const scalar = Type.Union([Type.String(), Type.Number(), Type.Boolean(), Type.Null()], { title: 'text or a number' })

const requestKeys = {
  method: Type.Optional(Type.String({ description: 'HTTP method.', default: 'get', examples: ['post'] })),
  uri: Type.String({
    description:
      'Where the call goes: host written out, or `{{wiki.url}}` or `{{targets.NAME.url}}` at its start. Each segment of the path is percent-encoded exactly once.',
    minLength: 1,
    maxLength: 20_000,
    examples: ['{{wiki.url}}/api.php'],
  }),
  headers: Type.Optional(
    Type.Record(Type.String(), scalar, {
      description:
        'Headers. One whose template finds nothing is left out; what is not visible ASCII is percent-encoded.',
      examples: [{ 'cache-control': 'no-cache' }],
    }),
  ),
  query: Type.Optional(
    anyMapping({
      title: 'a mapping',
      description: 'Query string. Keys whose template finds nothing are left out.',
      examples: [{ action: 'query' }],
    }),
  ),
  body: Type.Optional(
    Type.Unsafe<Json>({
      title: 'text, a mapping or a list',
      description:
        'Body. `{{globals.message}}` is the event as received, byte for byte. A mapping becomes JSON with `content-type: application/json`, otherwise a form; text is sent as it is.',
      examples: [{ action: 'purge' }],
    }),
  ),
}

const timeout = duration('How long an attempt at this request may take.', '420s')
const request = Type.Object({ ...requestKeys, timeout: Type.Optional(timeout) }, { ...strict, title: 'a request' })
const serviceRequest = Type.Object(
  { ...requestKeys, timeout: Type.Optional(Type.Integer({ minimum: 0, title: 'milliseconds' })) },
  { title: 'a request' },
)

const listOfRequests = { minItems: 1, maxItems: 30 }
const execText = 'The request to make, or up to 30 of them, made in order; each has its own outcome.'
const exec = Type.Union([request, Type.Array(request, listOfRequests)], { description: execText })
const serviceExec = Type.Union([serviceRequest, Type.Array(serviceRequest, listOfRequests)], { description: execText })

const key = (description: string, examples: readonly string[]) =>
  Type.String({ minLength: 1, maxLength: 2_000, title: 'a template', description, examples: [...examples] })

const sample = Type.Object(
  {
    rate: Type.Number({
      exclusiveMinimum: 0,
      maximum: 1,
      description: 'The share of keys that is taken, from 0 to 1.',
      examples: [0.1],
    }),
    key: Type.Optional(key('Events of one key are all taken, or none. Absent: taken.', ['{{message.meta.uri}}'])),
    hash_template: Type.Optional(key('Wikimedia’s spelling of `key`.', ['{message.meta.uri}'])),
  },
  {
    ...strict,
    title: 'a mapping such as {rate: 0.1, key: "{{message.meta.uri}}"}',
    description: 'Only a stable share of keys is taken, by MurmurHash3.',
    examples: ["{rate: 0.1, key: '{{message.meta.uri}}'}"],
  },
)

const clauses = {
  match: Type.Optional(
    patterns(
      'The event must fit this pattern. Text, numbers and booleans fit what is equal; `/regex/` fits text in which it is found; a list fits a list that has something for each item; `undefined` fits what is not there. Default: everything.',
    ),
  ),
  match_not: Type.Optional(
    patterns('The event must not fit this pattern, or any of these. Default: nothing is excluded.'),
  ),
}

const casesText = 'Alternatives, each with its own match, match_not and exec; the first that fits is used.'
const cases = Type.Array(Type.Object({ ...clauses, exec }, strict), {
  minItems: 1,
  maxItems: 100,
  description: casesText,
})
const serviceCases = Type.Array(Type.Object({ ...clauses, exec: serviceExec, sample: Type.Optional(sample) }), {
  minItems: 1,
  description: casesText,
})

const answers = Type.Union(
  [
    Type.Literal('http'),
    Type.Literal('mediawiki-api'),
    Type.Literal('mediawiki-job'),
    Type.Array(
      Type.Object(
        {
          status: Type.Optional(statuses('Statuses of this row; `5xx` stands for all that begin with 5.')),
          header: Type.Optional(
            anyMapping({ title: 'a pattern', description: 'A pattern for headers, their names in lower case.' }),
          ),
          body: Type.Optional(
            Type.Unsafe<Json>({
              title: 'a pattern',
              description: 'A pattern for the body: for its JSON, or as a `/regex/` for its text.',
            }),
          ),
          is: Type.Union(
            [
              Type.Literal('ok'),
              Type.Literal('ignored'),
              Type.Literal('throttled'),
              Type.Literal('unavailable'),
              Type.Literal('failed'),
              Type.Literal('refused'),
            ],
            {
              description:
                'What the answer comes to: `failed` is tried again and counts, `throttled` and `unavailable` are tried again and do not, `refused` is given up, `ignored` counts as done.',
            },
          ),
        },
        strict,
      ),
      { minItems: 1, maxItems: 100, title: 'a table of answers' },
    ),
  ],
  {
    description:
      'How answers are read: a preset, or a table whose first fitting row decides, before the preset of the wiki or target. Default: that of the wiki or target.',
    examples: ['mediawiki-api'],
  },
)

export const retryDefaults = {
  limit: 8,
  delay: '5s',
  factor: 3,
  max_delay: '1h',
  max_age: '7d',
  jitter: 'full',
} as const

const retry = Type.Union(
  [
    Type.Literal('never'),
    Type.Object(
      {
        limit: Type.Optional(
          Type.Integer({
            minimum: 0,
            maximum: 1_000,
            description: 'Retries after the first attempt.',
            default: retryDefaults.limit,
          }),
        ),
        delay: Type.Optional(duration('Wait before the first retry.', retryDefaults.delay)),
        factor: Type.Optional(
          Type.Number({
            minimum: 1,
            maximum: 100,
            description: 'Each further wait is longer by this factor.',
            default: retryDefaults.factor,
          }),
        ),
        max_delay: Type.Optional(duration('No wait is longer than this.', retryDefaults.max_delay)),
        max_age: Type.Optional(
          duration(
            'Given up when the first attempt is longer ago than this; asked after an attempt.',
            retryDefaults.max_age,
          ),
        ),
        jitter: Type.Optional(
          Type.Union([Type.Literal('full'), Type.Literal('none')], {
            description: '`full`: a wait is anything from nothing to the delay. `none`: exactly the delay.',
            default: retryDefaults.jitter,
          }),
        ),
      },
      strict,
    ),
  ],
  {
    title: 'a mapping such as {limit: 5, delay: 10s}, or never',
    description: 'When failed calls are repeated. `never`: the call is not repeated, not even after a crash.',
    examples: ['{limit: 5, delay: 10s}'],
  },
)

const maxConcurrency = 10_000
const concurrency = Type.Integer({
  minimum: 1,
  maximum: maxConcurrency,
  description: 'How many deliveries of this rule run at once.',
  default: 50,
  examples: [50],
})

const limits = {
  concurrency: Type.Optional(concurrency),
  rate: Type.Optional(
    Type.String({
      title: 'a rate such as 50/s or 600/min',
      pattern: ratePattern,
      description: 'How many calls start in a time. Default: any number.',
      examples: ['50/s'],
    }),
  ),
  burst: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 1_000_000,
      description: 'How many may start at once after a while without any. Default: as many as in a second, at least 1.',
      examples: [10],
    }),
  ),
}

const throttle = Type.Object(
  {
    ...limits,
    key: Type.Optional(
      key('Each key has these limits for itself, and keys take turns. Default: the limits are those of the rule.', [
        '{{message.meta.domain}}',
      ]),
    ),
    total: Type.Optional(
      Type.Object(limits, {
        ...strict,
        title: 'a mapping',
        description: 'With `key`: limits over all keys together. Default: `concurrency: 50`.',
      }),
    ),
  },
  {
    ...strict,
    title: 'a mapping such as {concurrency: 10}',
    description: 'How many calls at once, and how many in a time. What waits holds no slot and no memory.',
    examples: ["{concurrency: 2, rate: 50/s, key: '{{message.meta.domain}}', total: {concurrency: 20}}"],
  },
)

const dedup = Type.Union(
  [
    Type.Literal(false),
    Type.Object(
      {
        key: key('Of events with one key, a call that starts covers all that were accepted before it.', [
          '{{message.page_id}}',
        ]),
        window: Type.Optional(
          duration('Calls of one key start at least so far apart; retries are exempt. Default: no window.'),
        ),
        across_wikis: Type.Optional(
          Type.Boolean({ description: 'Whether one key of two wikis is the same key.', default: false }),
        ),
      },
      strict,
    ),
  ],
  {
    title: 'a mapping such as {key: "{{message.page_id}}"}, or false',
    description:
      'One call of a key and wiki runs at a time; the newest event’s content is sent, and the older ones are done with it (`duplicate`). An absent key means: not deduplicated. Default: none; for `answers: mediawiki-job` the key `{{message.sha1}}`.',
    examples: ["{key: '{{message.page_id}}', window: 1h}"],
  },
)

const supersede = Type.Union(
  [
    Type.Literal(false),
    Type.Object(
      {
        signature: key('What the event is about. Absent: it supersedes nothing, and is not superseded.', [
          '{{message.root_event.signature}}',
        ]),
        time: key(
          'When that was: ISO, or unix seconds. Where that cannot be read it is as with no signature, and the journal says so.',
          ['{{message.root_event.dt}}'],
        ),
        across_wikis: Type.Optional(
          Type.Boolean({ description: 'Whether one signature of two wikis is the same.', default: false }),
        ),
      },
      strict,
    ),
  ],
  {
    title: 'a mapping with signature and time, or false',
    description:
      'An event is not called (`superseded`) once one of the same signature and wiki with a later time was accepted that is neither dead nor discarded. Remembered for 7 days. Default: none; for `answers: mediawiki-job` by `root_event`.',
    examples: ["{signature: '{{message.root_event.signature}}', time: '{{message.root_event.dt}}'}"],
  },
)

const expire = Type.Union(
  [
    duration('From the event’s time.'),
    Type.Object(
      {
        age: Type.Optional(duration('From the event’s time. Default: never.')),
        root_age: Type.Optional(duration('From the time of its `root_event`. Default: never.')),
      },
      { ...strict, minProperties: 1 },
    ),
  ],
  {
    title: 'a duration such as 1d, or a mapping with age and root_age',
    description: 'Not called any more (`expired`) when older than this. Default: never.',
    examples: ['1d'],
  },
)

const statusConditions = (description: string) => {
  const condition = Type.Object(
    {
      status: Type.Optional(statuses('Statuses.')),
      body: Type.Optional(
        Type.Unsafe<Json>({ title: 'a value', description: 'A body, as JSON or text, that is equal.' }),
      ),
    },
    strict,
  )
  return Type.Union([condition, Type.Array(condition, { minItems: 1 })], {
    description,
    examples: [{ status: ['5xx', 404] }],
  })
}

const sharedKeys = {
  topic: Type.Optional(
    topics('The streams whose events the rule is asked about: names, or `/regex/` found in the name.'),
  ),
  topics: Type.Optional(topics('The same as `topic`.')),
  exclude_topics: Type.Optional(topics('Streams that are not meant although `topic` names them.')),
  schema: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 500,
      description: 'The `$schema` of the event; a semver range may stand at its end. Default: any.',
      examples: ['/mediawiki/page/change/^1.0.0'],
    }),
  ),
  ...clauses,
  answers: Type.Optional(answers),
  retry: Type.Optional(retry),
  discard_canary_events: Type.Optional(
    Type.Boolean({
      description: 'Whether events whose `meta.domain` is `canary` are passed over.',
      default: true,
      examples: [false],
    }),
  ),
  retry_limit: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 1_000,
      description:
        'Wikimedia’s spelling of `retry.limit`; where it or its two neighbours are used, the defaults are Wikimedia’s.',
      default: 2,
    }),
  ),
  retry_delay: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 31 * 86_400_000,
      description: 'Wikimedia’s spelling of `retry.delay`, in milliseconds.',
      default: 60_000,
    }),
  ),
  retry_factor: Type.Optional(
    Type.Number({ minimum: 1, maximum: 100, description: 'Wikimedia’s spelling of `retry.factor`.', default: 6 }),
  ),
  retry_on: Type.Optional(
    statusConditions(
      'Wikimedia’s spelling: which answers are `failed`, in place of all 5xx. Others of 5xx are refused.',
    ),
  ),
  ignore: Type.Optional(statusConditions('Wikimedia’s spelling: which answers are `ignored`.')),
  delay: Type.Optional(
    Type.String({
      title: 'a duration such as 2s, or a template that names an instant',
      minLength: 1,
      maxLength: 2_000,
      description:
        'Wait so long from the event’s time, or until an instant that a template names (ISO or unix seconds; absent: no wait). Default: until the event’s own `delay_until`, where it has one.',
      examples: ['2s'],
    }),
  ),
  dedup: Type.Optional(dedup),
  supersede: Type.Optional(supersede),
  order: Type.Optional(
    Type.Object(
      {
        key: key('Deliveries of one key run one after another, in order of acceptance. Absent: in no order.', [
          '{{message.page_id}}',
        ]),
      },
      {
        ...strict,
        title: 'a mapping such as {key: "{{message.page_id}}"}',
        description:
          'Deliveries of one key and wiki run one after another; a failing one holds only its key. Where over 1,000 wait for it, it is given up. Not together with `dedup`, unless both have the same key and there is no window.',
        examples: ["{key: '{{message.page_id}}'}"],
      },
    ),
  ),
  expire: Type.Optional(expire),
  claim_ttl: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      maximum: 366 * 86_400,
      description: 'Wikimedia’s spelling of `expire.age`, in seconds.',
      examples: [864_000],
    }),
  ),
  root_claim_ttl: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      maximum: 366 * 86_400,
      description: 'Wikimedia’s spelling of `expire.root_age`, in seconds.',
      examples: [864_000],
    }),
  ),
  sample: Type.Optional(sample),
}

const ownKeys = {
  ...sharedKeys,
  exec: Type.Optional(exec),
  cases: Type.Optional(cases),
  throttle: Type.Optional(throttle),
  concurrency: Type.Optional({ ...concurrency, description: 'Wikimedia’s spelling of `throttle.concurrency`.' }),
}

const serviceKeys = {
  ...sharedKeys,
  cases: Type.Optional(serviceCases),
  exec: Type.Optional(serviceExec),
  throttle: ownKeys.throttle,
  concurrency: Type.Optional(
    Type.Union([Type.Integer({ minimum: 1, maximum: maxConcurrency }), Type.String({ pattern: '^[1-9][0-9]{0,3}$' })]),
  ),
}

export const ruleNamePattern = '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}$'

/** One rule of our own files. */
export const ruleSchema = Type.Object(ownKeys, { ...strict, title: 'a rule' })

/** A whole file of ours, for editors. */
export const rulesSchema = Type.Record(Type.String({ pattern: ruleNamePattern }), ruleSchema, {
  title: 'Rules of changeprop',
  description: 'A mapping from names of rules to rules.',
})

/** One rule of Wikimedia's files, in which unknown keys are left to the parser. */
export const serviceRuleSchema = Type.Object(serviceKeys, { title: 'a rule' })

/** What of a request can be read on its own, where other keys of it are wrong. */
export const partialRequestSchema = Type.Partial(Type.Object(requestKeys, strict))

export type PartialRequestText = Type.Static<typeof partialRequestSchema>
export type RuleText = Type.Static<typeof ruleSchema> | Type.Static<typeof serviceRuleSchema>
export type ExecText = NonNullable<RuleText['exec']>
export type AnswersText = NonNullable<RuleText['answers']>
export type ConditionsText = NonNullable<RuleText['ignore']>
export type SampleText = Type.Static<typeof sample>
