import { schemaTables } from '../base/schema-tables.ts'
import { isObject } from '../base/schema-words.ts'
import { meaningOf, meanings } from '../store/reasons.ts'
import { templateFunctions } from './functions.ts'
import { laterKeys } from './later-keys.ts'
import { ruleSchema } from './schema.ts'

/** In which order a delivery is asked, in the words that `why` and the metrics use. */
const gates = [
  '## From event to call',
  '',
  'An event is matched with each rule of its stream once; what matches is a delivery. Then these gates are asked, in this order; all but `sampled` are asked again each time it wakes up, and by the rule as it is then. The first that does not let it pass decides.',
  '',
  '| gate | key | what it says |',
  '|---|---|---|',
  `| too old? | \`expire\` | ${means('done', 'expired')}. A dead letter that was replayed is not asked |`,
  `| in the share? | \`sample\` | ${means('done', 'sampled')} |`,
  `| made pointless by a later root event? | \`supersede\` | ${means('done', 'superseded')} |`,
  `| due? | \`delay\`, the event’s \`delay_until\` | ${means('waiting', 'due')}. An instant that cannot be read is none, and the journal says so |`,
  `| its key’s turn? | \`dedup\`, \`order\` | ${means('waiting', 'key')}. Or ${means('done', 'duplicate')}. Where the event has nothing for a part of the key, it has none, and the journal says so |`,
  `| does the target take calls? | configuration | ${means('waiting', 'target')}. It is paused where it asked for time, is read-only, refuses connections, or fails too often |`,
  `| is there a slot, and a token of the rate? | \`throttle\` | ${means('waiting', 'slot')}. Or ${means('waiting', 'rate')} |`,
  '',
  'What these gates need of the event is rendered when it is routed, unless it is too old or not in the share by then: where that fails, say because a key is a list, the delivery is dead (`key_failed`), even if it is not due yet. So is its first request: where it cannot be made, or no wiki or target of the configuration is its own, the delivery is dead at once. What a later root event makes pointless waits on, and is told so when its turn comes.',
  '',
  'Then the requests are made, in order. `failed` ones are tried again by `retry` (waiting, `retry`), which spends an attempt; `throttled` and `unavailable` ones pause the target and spend none (waiting, `target`); a `refused` one makes the delivery dead. What waits holds no slot and takes no memory, and nobody else waits for it, but for deliveries of its key under `order`.',
  '',
  'A target is left alone after five refused connections in a row, or when half of at least 20 answers within 10 seconds are failures; then one call at a time probes it, after a pause that grows from 0.1 to 5 seconds. After a probe that succeeds, two calls may be in flight, and twice as many with each further answer.',
  '',
  '## What became of it',
  '',
  'What `why`, `try` and the metrics call it, and what that means.',
  '',
  ...Object.entries(meanings).flatMap(([state, reasons]) =>
    Object.keys(reasons).map((reason) => `- ${means(state, reason)}`),
  ),
  '',
]

/** Each line is shown by a test of the engine's policies, or of the store's standings. */
const together = [
  '## Policies together',
  '',
  '| policies | what follows |',
  '|---|---|',
  '| `dedup`, an event that comes again | With the `meta.id` of its key’s last call that came to `ok` or `ignored` it is done (`duplicate`), for the time of `window` and at least 1 h. One that comes while that call still runs is called after it |',
  '| `dedup`, `delay` | No debounce: of those that are due the newest is called, though newer ones are not due yet; these are called when they are. A call covers all older ones, due or not. To have fewer calls, use `window` |',
  '| `dedup`, `retry` | An event that comes while a retry of its key waits is called in its stead, at its time, with attempts at 0; the older one is done (`duplicate`). One that is due later than the retry leaves it alone |',
  '| `dedup.window`, `retry` | The window runs from the first attempt; retries are made within it. A newer event waits for its end, and for the retry’s time where that is later |',
  '| `order`, `retry`, `delay` | The others of a key wait for the first of them: for its time, its target and its retries. When it is dead, the next is called. Where its attempt fails while over 1,000 wait, it is dead at once (`exhausted`). A dead letter that is replayed waits for the one whose turn it is, and then goes before all that was accepted after it |',
  '| `throttle.key`, an event without it | All events without a key share the limits of one key |',
  '| `supersede`, `retry` | Asked before each attempt: when a later root event was accepted that is neither dead nor discarded, the retry is not made (`superseded`) |',
  '| `expire`, `delay`, `retry` | An age is that of the event, not of its delivery: what waits for its time or for a retry until it is too old is done (`expired`), not called and no dead letter. A constant `delay` that is not shorter is refused |',
  '| `dedup`, `order`, `supersede`, a reload | Who changes the template of a key or `across_wikis`, or writes `order` for `dedup`, has new keys: nothing that went before under the old one covers, holds up or supersedes what comes. What waits, and a dead letter that is replayed, gets its key anew when its turn comes; what was held by `order`, when the one before it has moved or ended |',
  '| `dedup.window`, a reload or a replay | What waits for the end of a window keeps its time, though the window is changed. A dead letter that is replayed is called at once, within the window of its key |',
  '| `dedup`, `retry: never` | A call that a crash cut off may have been carried out: it covers what is older, as any call does |',
  '| `supersede`, what counts | A later event counts though it ended `no_match`, or `expired` when its turn came; not while it is dead or parked, nor where it was `expired` or `sampled` when it came |',
  '| `sample`, `dedup` | What is left out (`sampled`) covers nothing. Where one event of a key may be left out and another not, the newest may never be called: give both the same key |',
  '',
]

function means(state: string, reason: string): string {
  return `${state} (\`${reason}\`): ${meaningOf(state, reason)}`
}

/** What the schema names as the first example of each key, as it stands in a file. */
export function examplesOfKeys(): readonly string[] {
  const schemas: Readonly<Record<string, unknown>> = ruleSchema.properties
  return Object.entries(schemas).flatMap(([key, schema]) => {
    const [example] = isObject(schema) && Array.isArray(schema.examples) ? schema.examples : []
    if (example === undefined) return []
    return [`${key}: ${typeof example === 'string' ? example : JSON.stringify(example)}`]
  })
}

/** The reference page of the rule language, in Markdown, from the schema that files are checked against. */
export function renderRuleReference(): string {
  return [
    '# Rules',
    '',
    'Made from the schema by `npm run docs`; not edited by hand.',
    '',
    'A file of rules is a mapping from names to rules. A rule needs `topic` or `topics`, and `exec` or `cases`.',
    '',
    // A case says what a rule says.
    ...(isObject(ruleSchema) ? schemaTables('Keys of a rule', ruleSchema, ['cases']) : []),
    '## An example of each key',
    '',
    '```yaml',
    ...examplesOfKeys(),
    '```',
    '',
    ...gates,
    ...together,
    '## Templates',
    '',
    'Texts in `uri`, `headers`, `query` and `body`, and keys of policies, may contain `{{expression}}`. A value that is nothing but one of these keeps its type, and its key is left out where the event has nothing there; within text, nothing there is an error and the delivery is dead (`template_failed`). `{expression}` percent-encodes, `{+expression}` does not, `{/expression}` puts a slash before; the last two may find nothing. A single brace begins a template only before a root that is followed by a path, or before a function; any other is text.',
    '',
    'In a key of a policy, a part for which the event has nothing, or an empty text, means that there is no key; a list or mapping is an error (`key_failed`).',
    '',
    'Roots: `message` (the event, with `meta.id` and `meta.dt` filled in), `match` (what regexes captured: `match.meta.uri.title`, `match.meta.uri[1]`), `globals.message` (the event as received), `wiki.url`, `wiki.host`, `wiki.database`, `wiki.domain` (the configured wiki of the event), `wiki.token` (a CSRF token of it; not in `uri`, nor in keys), `targets.NAME.url`.',
    '',
    '| function | gives |',
    '|---|---|',
    ...[...templateFunctions.values()].map(({ signature, means }) => `| ${code(signature)} | ${means} |`),
    '',
    '## Not supported by this version yet',
    '',
    'A rule that asks for one of these is refused. In Wikimedia’s files that is a warning: the key has no effect, and a rule that calls a module is left out.',
    '',
    ...Object.entries(laterKeys).map(([key, lost]) => `- ${code(key)}: ${lost}`),
    '- modules within Wikimedia’s service, that is a `uri` such as `/sys/queue/events`: only services are called, over HTTP',
    '',
  ].join('\n')
}

function code(text: string): string {
  return `\`${text}\``
}
