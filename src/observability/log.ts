import { type DestinationStream, type Logger, pino } from 'pino'
import type { Config } from '../config/config.ts'

/** Keys whose values never reach the log, at the top and up to three levels down. */
const secretKeys = [
  'authorization',
  'proxy-authorization',
  'cookie',
  'set-cookie',
  'token',
  'password',
  'secret',
  'x-api-key',
]
const secretPaths = secretKeys.flatMap((key) => ['', '*', '*.*', '*.*.*'].map((parents) => `${parents}["${key}"]`))

/** JSON lines, on stderr unless told otherwise: stdout is for what a command answers. */
export function createLogger(level: Config['log']['level'], destination?: DestinationStream): Logger {
  const options = {
    level,
    base: { service: 'changeprop' },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: secretPaths, censor: '***' },
  }
  return pino(options, destination ?? pino.destination({ dest: 2, sync: true }))
}
