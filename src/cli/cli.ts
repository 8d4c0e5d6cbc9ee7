#!/usr/bin/env node
import { readFileSync, realpathSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { suggest } from '../base/suggestion.ts'
import { parseDuration, parseRate } from '../base/units.ts'
import { CommandFailure, type Io } from './io.ts'

/*
 * Names, arguments and exit codes of the commands; what each does is in a file of its own, which is loaded only when asked
 * for: `check` needs neither a server nor a store.
 */

const exitCodes = '\nExit codes: 0 all is well, 1 problems were found, 2 used wrongly.'

/** Runs one command line (without node and script) and answers with its exit code. Rejects only if we are broken. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  let code = 0
  const program = commands(io, (result) => {
    code = result
  })
  try {
    await program.parseAsync([...argv], { from: 'user' })
    return code
  } catch (error) {
    // It has printed its message, or the help, already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    if (!(error instanceof CommandFailure)) throw error
    io.stderr.write(`${error.message}\n`)
    return error.code
  }
}

function commands(io: Io, exit: (code: number) => void): Command {
  const program = new Command('changeprop')
    .description('Change propagation for wikis: events in, rules decide, HTTP calls out, nothing lost.')
    .version(versionOf())
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: (text) => io.stderr.write(text) })
    .showHelpAfterError('(--help tells more)')
    .addHelpText('after', exitCodes)

  program
    .command('serve')
    .description(
      'run the service: embedded store in ./data, rules in ./rules, http://127.0.0.1:8192, unless told otherwise',
    )
    .addOption(configOption())
    .addOption(rulesOption())
    .option('--data <dir>', 'the data folder; on Kafka the scratch folder')
    .option('--host <host>', 'where to listen')
    .option('--port <port>', 'port to listen on; 0 takes a free one')
    .option('--log-level <level>', 'fatal, error, warn, info, debug or trace')
    .addHelpText('after', example('changeprop serve --config config/embedded.yaml --rules rules', signals))
    .action(async (options: ServeOptions) => exit(await (await import('./serve.ts')).serve(options, io)))

  program
    .command('check')
    .description('validate rules and configuration: every problem at once, on stderr')
    .argument('[path...]', 'rule files or folders (default: those of the configuration)')
    .addOption(configOption())
    .addOption(formatOption())
    .addHelpText('after', example('changeprop check rules --config config/embedded.yaml'))
    .action(async (paths: string[], options) =>
      exit(await (await import('./check.ts')).check({ ...options, paths }, io)),
    )

  program
    .command('try')
    .description(
      'offline, calls nothing: which rules match an event, else why not; what their gates say, and the requests they would send',
    )
    .requiredOption('--event <file>', 'the event as JSON, or an array of events; - reads stdin')
    .addOption(rulesOption())
    .addOption(configOption())
    .addOption(formatOption())
    .addHelpText('after', example('changeprop try --event event.json --rules rules/purge.yaml', ownHeaders))
    .action(async (options) => exit(await (await import('./try.ts')).tryRules(options, io)))

  program
    .command('why')
    .description('what became of an event; exit code 1 when the service does not know it')
    .argument('<event-id>', 'its meta.id, or the id the service gave it')
    .addOption(urlOption())
    .option('--stream <stream>', 'only events of this stream; on Kafka also those that no rule matched')
    .option('--since <duration>', 'only events accepted within this time, e.g. 1h', asDuration)
    .addOption(formatOption())
    .addHelpText('after', example('changeprop why 4dd0a1c2-33f3-4a5d-8a7c-0c8a4cbbd1e2 --since 1d', tokenHelp))
    .action(async (id: string, options) => exit(await (await import('./why.ts')).why({ ...options, id }, io)))

  const dead = program
    .command('dead')
    .description('work on dead letters: deliveries that were given up')
    .addHelpText('after', example('changeprop dead replay --rule purge_page --rate 5/s', tokenHelp))
  dead
    .command('list')
    .description('list them, oldest first')
    .option('--rule <rule>', 'only those of this rule')
    .addOption(urlOption())
    .addOption(formatOption())
    .addHelpText('after', example('changeprop dead list --rule purge_page'))
    .action(async (options) => exit(await (await import('./dead.ts')).listDead(options, io)))
  dead
    .command('show')
    .description('show all that is kept of some: event, attempts, last answer')
    .argument('<id...>', 'as `dead list` prints them')
    .addOption(urlOption())
    .addOption(formatOption())
    .addHelpText('after', example('changeprop dead show 0199c0de-0000-7000-8000-000000000000/purge_page'))
    .action(async (ids: string[], options) => exit(await (await import('./dead.ts')).showDead({ ...options, ids }, io)))
  for (const verb of ['replay', 'discard'] as const) {
    const command = dead
      .command(verb)
      .description(verb === 'replay' ? 'try them again, at a pace' : 'give them up for good')
      .argument('[id...]', 'as `dead list` prints them')
      .option('--rule <rule>', 'all of this rule')
      .option('--all', 'all there are')
      .option('--yes', 'do not ask')
      .addOption(urlOption())
      .addHelpText('after', example(`changeprop dead ${verb} --rule purge_page`))
      .action(async (ids: string[], options) =>
        exit(await (await import('./dead.ts')).settleDead(verb, { rate: '10/s', ...options, ids }, io)),
      )
    if (verb === 'replay') command.option('--rate <rate>', 'how many a second, e.g. 10/s or 30/min', asRate, '10/s')
  }

  program
    .command('topics')
    .description('on Kafka: check the topics that the service has for itself, or create what is missing')
    .option('--check', 'say what is missing or wrong, and how to mend it')
    .option('--create', 'create what is missing, then check')
    .addOption(configOption())
    .addHelpText('after', example('changeprop topics --create --config config/kafka.yaml'))
    .action(async (options) => exit(await (await import('./topics.ts')).topics(options, io)))

  program
    .command('config')
    .description(
      'the configuration in force, each value with its origin: default, file, environment or flag; secrets are masked',
    )
    .addOption(configOption())
    .addOption(rulesOption())
    .option('--data <dir>', 'the data folder; on Kafka the scratch folder')
    .option('--host <host>', 'where to listen')
    .option('--port <port>', 'port to listen on')
    .option('--log-level <level>', 'fatal, error, warn, info, debug or trace')
    .addOption(formatOption())
    .addHelpText('after', example('CHANGEPROP_LISTEN_PORT=8200 changeprop config --config config/embedded.yaml'))
    .action(async (options) => exit(await (await import('./config.ts')).printConfiguration(options, io)))

  program
    .command('schema')
    .description('JSON Schema of the YAML files, for editors; or the reference made from it')
    .addArgument(new Command().createArgument('<which>', 'of which files').choices(['rules', 'config']))
    .addOption(new Option('--format <format>', 'how it is written').choices(['json', 'markdown']).default('json'))
    .addHelpText('after', example('changeprop schema rules > rules.schema.json'))
    .action(async (which: 'rules' | 'config', { format }: { format: 'json' | 'markdown' }) =>
      exit(await (await import('./schema.ts')).printSchema(which, format, io)),
    )

  addHelp(program)
  addHelp(dead)
  return program
}

/** In place of commander's own, which does not say that it knows no such command. */
function addHelp(program: Command): void {
  program
    .helpCommand(false)
    .command('help')
    .description('display help for command')
    .argument('[command...]')
    .action((names: string[]) => {
      let command = program
      for (const name of names) {
        const inner = command.commands.find((one) => one.name() === name)
        if (inner === undefined) refuse(name, command)
        command = inner
      }
      command.help()
    })
}

function refuse(name: string, command: Command): never {
  const meant = suggest(
    name,
    command.commands.map((one) => one.name()),
  )
  command.error(`error: unknown command '${name}'${meant === undefined ? '' : `\n(Did you mean ${meant}?)`}`)
}

type ServeOptions = Parameters<typeof import('./serve.ts').serve>[0]

const signals =
  '\nSIGTERM and SIGINT stop it gracefully (a second one at once); SIGHUP reloads rules, wikis and targets.'
const ownHeaders =
  '\nHeaders that the service adds to every call (user-agent, x-request-id, x-triggered-by) are not shown.'
const tokenHelp = '\nThe token, where the service has one, is read from CHANGEPROP_ADMIN_TOKEN.'

function example(line: string, more = ''): string {
  return `\nExample:\n  $ ${line}\n${more}${exitCodes}`
}

function configOption(): Option {
  return new Option('--config <file>', 'configuration file (YAML)')
}

function rulesOption(): Option {
  const collect = (path: string, before: string[] | undefined) => [...(before ?? []), path]
  return new Option('--rules <path>', 'rule file or folder; can be repeated').argParser(collect)
}

function formatOption(): Option {
  return new Option('--format <format>', 'how to print').choices(['text', 'json']).default('text')
}

function urlOption(): Option {
  return new Option('--url <url>', 'where the service is').default('http://127.0.0.1:8192')
}

function asDuration(text: string): number {
  const ms = parseDuration(text)
  if (ms === undefined) throw new InvalidArgumentError('Expected a duration such as 30m, 1h or 7d.')
  return ms
}

function asRate(text: string): string {
  const rate = parseRate(text)
  if (rate === undefined || rate <= 0) throw new InvalidArgumentError('Expected a rate such as 10/s or 30/min.')
  return text
}

function versionOf(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  const found: unknown = JSON.parse(text)
  return typeof found === 'object' && found !== null && 'version' in found ? String(found.version) : 'unknown'
}

// Started as a program, perhaps through the symlink that npm makes.
const script = process.argv[1]
if (script !== undefined && realpathSync(script) === realpathSync(fileURLToPath(import.meta.url))) {
  // A reader that has seen enough (`| head`) is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    process.exit(0)
  })
  const { stdout, stderr, stdin, env } = process
  const code = await run(process.argv.slice(2), { stdout, stderr, stdin, env })
  // A pipe takes what was written when its reader does.
  for (const output of [stdout, stderr]) await new Promise((resolve) => output.write('', resolve))
  process.exit(code)
}
