import type { FastifyInstance } from 'fastify'
import Type, { type Static } from 'typebox'
import { ServiceError } from '../base/errors.ts'
import { withoutSecrets } from '../base/secret-name.ts'
import { parseRate, ratePattern } from '../base/units.ts'
import type { RuleSet } from '../rule/rule.ts'
import { deliveryStates, type Store } from '../store/store.ts'
import type {
  CountAnswer,
  DeadAnswer,
  DeliveriesAnswer,
  EventsAnswer,
  GoneRuleSummary,
  Operations,
  RuleSummary,
  RulesAnswer,
  Selection,
} from './contract.ts'
import { compileOperatorCheck } from './operator.ts'
import { asItRuns, listDelivery, noteOn, summarizeGone, summarizeRule, viewDeadLetter, viewEvent } from './view.ts'

export interface AdminParts {
  readonly store: Pick<Store, 'find' | 'deliveries' | 'deadLetters'>
  readonly rules: () => RuleSet | undefined
  readonly operations: Operations
  /** Undefined: only who is on this machine may ask. */
  readonly token: string | undefined
}

const dayMs = 86_400_000
const exact = { additionalProperties: false }
const page = {
  limit: Type.Integer({ minimum: 1, maximum: 1_000, default: 100 }),
  cursor: Type.Optional(Type.String({ maxLength: 1_000 })),
}
const name = Type.String({ minLength: 1, maxLength: 1_000 })

const EventQuery = Type.Object(
  {
    bytes: Type.Boolean({ default: false }),
    stream: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 1_000,
        description: 'On Kafka: where to look for an event of which nothing is remembered, since no rule matched it.',
      }),
    ),
    since: Type.Optional(
      Type.String({ format: 'date-time', description: 'With `stream`: accepted then or later; a day ago by default.' }),
    ),
  },
  exact,
)
const EventParams = Type.Object({ id: Type.String({ minLength: 1, maxLength: 100 }) })
const RuleParams = Type.Object({ name })
const DeliveriesQuery = Type.Object(
  { rule: Type.Optional(name), state: Type.Optional(Type.Enum([...deliveryStates])), ...page },
  exact,
)
const DeadQuery = Type.Object(
  { rule: Type.Optional(name), id: Type.Optional(Type.Array(name, { minItems: 1, maxItems: 1_000 })), ...page },
  exact,
)
const SelectionFields = {
  ids: Type.Optional(Type.Array(name, { minItems: 1, maxItems: 100_000 })),
  rule: Type.Optional(name),
  all: Type.Optional(Type.Literal(true)),
}
const rate = Type.String({
  title: 'a rate such as 10/s or 30/min',
  pattern: ratePattern,
  default: '10/s',
  examples: ['10/s'],
})
const selection = { ...exact, title: 'a mapping with ids, rule or all', examples: [{ rule: 'purge_page' }] }
const ReplayBody = Type.Object({ ...SelectionFields, rate }, selection)
const DiscardBody = Type.Object(SelectionFields, selection)

const ofBody = { 413: 'More than 8 MiB', 415: 'Not application/json' }

/** The operator's routes. Errors are for the enclosing server to answer. */
export function addAdmin(app: FastifyInstance, { store, rules, operations, token }: AdminParts): void {
  const check = compileOperatorCheck(token)
  app.addHook('onRequest', async (request) => check(request))

  app.get<{ Params: Static<typeof EventParams>; Querystring: Static<typeof EventQuery> }>(
    '/v1/events/:id',
    {
      schema: { params: EventParams, querystring: EventQuery },
      config: {
        about: about('What became of an event, by our id or the `meta.id` of its producer', { 404: 'Unknown' }),
      },
    },
    async (request): Promise<EventsAnswer> => {
      const { id } = request.params
      const { stream, since } = request.query
      const from = since === undefined ? Date.now() - dayMs : Date.parse(since)
      const found = await store.find(id, stream === undefined ? undefined : { stream, since: from })
      if (found.length === 0) throw new ServiceError('NOT_FOUND', `There is no event with the id ${id}.`)
      const inForce = rules()
      const running = operations.running()
      return {
        events: found.map((entry) => viewEvent(entry, inForce, running, request.query.bytes)),
        ...noteOn(inForce),
      }
    },
  )

  app.get(
    '/v1/rules',
    { config: { about: about('The rules in force, and those that are gone but have deliveries left') } },
    async (): Promise<RulesAnswer> => {
      const inForce = rules()
      const known = inForce?.rules.map((rule) => summarizeRule(rule, operations)) ?? []
      return { rules: [...known, ...summarizeGone(inForce, operations)], ...noteOn(inForce) }
    },
  )

  app.get<{ Params: Static<typeof RuleParams> }>(
    '/v1/rules/:name',
    { schema: { params: RuleParams }, config: { about: about('One rule, with what it says', { 404: 'Unknown' }) } },
    async (request): Promise<(RuleSummary & { readonly written: unknown }) | GoneRuleSummary> => {
      const { name } = request.params
      const rule = rules()?.get(name)
      if (rule !== undefined) return { ...summarizeRule(rule, operations), written: withoutSecrets(rule.written) }
      const gone = summarizeGone(rules(), operations).find((one) => one.name === name)
      if (gone === undefined) throw new ServiceError('NOT_FOUND', `There is no rule named ${name}.`)
      return gone
    },
  )

  app.get<{ Querystring: Static<typeof DeliveriesQuery> }>(
    '/v1/deliveries',
    { schema: { querystring: DeliveriesQuery }, config: { about: about('Deliveries, newest first') } },
    async (request): Promise<DeliveriesAnswer> => {
      const { items, cursor } = await store.deliveries(request.query)
      const running = operations.running()
      return { deliveries: items.map((one) => listDelivery(asItRuns(one, running))), cursor: cursor ?? null }
    },
  )

  app.get<{ Querystring: Static<typeof DeadQuery> }>(
    '/v1/dead',
    {
      schema: { querystring: DeadQuery },
      config: { about: about('Dead letters, oldest first; `id` (repeatable) for certain ones') },
    },
    async (request): Promise<DeadAnswer> => {
      const { id, ...filter } = request.query
      const { items, cursor } = await store.deadLetters(id === undefined ? filter : { ...filter, ids: id })
      return { dead: items.map(viewDeadLetter), cursor: cursor ?? null }
    },
  )

  app.post<{ Body: Static<typeof ReplayBody> }>(
    '/v1/dead/replay',
    {
      schema: { body: ReplayBody },
      config: {
        about: about('Try dead letters again: `ids`, those of a `rule`, or `all`; no faster than `rate`', ofBody),
      },
    },
    async (request): Promise<CountAnswer> => {
      const perSecond = parseRate(request.body.rate)
      if (perSecond === undefined || perSecond === 0) {
        const found = JSON.stringify(request.body.rate)
        throw new ServiceError('BAD_REQUEST', `rate: expected a rate above 0, found ${found}; write for instance 10/s`)
      }
      return operations.replay(selectionOf(request.body), perSecond)
    },
  )

  app.post<{ Body: Static<typeof DiscardBody> }>(
    '/v1/dead/discard',
    {
      schema: { body: DiscardBody },
      config: { about: about('Throw dead letters away: `ids`, those of a `rule`, or `all`', ofBody) },
    },
    async (request): Promise<CountAnswer> => operations.discard(selectionOf(request.body)),
  )
}

function selectionOf({ ids, rule, all }: Static<typeof DiscardBody>): Selection {
  const selections: Selection[] = []
  if (ids !== undefined) selections.push({ ids })
  if (rule !== undefined) selections.push({ rule })
  if (all !== undefined) selections.push({ all })
  const [selection] = selections
  if (selection === undefined || selections.length > 1) {
    const found = selections.flatMap((one) => Object.keys(one)).join(' and ') || 'none'
    throw new ServiceError(
      'BAD_REQUEST',
      `the body: expected one of ids, rule and all, found ${found}; say which dead letters are meant`,
    )
  }
  return selection
}

function about(summary: string, more: Readonly<Record<number, string>> = {}) {
  return {
    summary,
    answers: {
      200: 'As asked',
      400: 'The request cannot be understood',
      401: 'The token is missing or wrong',
      403: 'Without a token: not from this machine',
      ...more,
    },
    access: 'operator',
  } as const
}
