import { ServiceError } from '../base/errors.ts'
import { CommandFailure } from './io.ts'

/** What the world has against a start (a port in use, a locked folder) is one line; our own bugs stay exceptions. */
export function startFailure(error: unknown, dataFolder: string | undefined): unknown {
  if (error instanceof ServiceError) {
    const message = folderTrouble(error.message, dataFolder) ?? error.message
    return new CommandFailure(1, `cannot start: ${message} (${error.code})`, { cause: error })
  }
  if (error instanceof Error && 'syscall' in error)
    return new CommandFailure(1, `cannot start: ${addressTrouble(error) ?? error.message}`, { cause: error })
  return error
}

interface SystemError extends NodeJS.ErrnoException {
  readonly address?: string
  readonly port?: number
  readonly hostname?: string
}

function addressTrouble(error: Error): string | undefined {
  const { code, syscall, address = '', port, hostname }: SystemError = error
  if (syscall === 'getaddrinfo') return `there is no address for the host name ${hostname}; choose another with --host`
  if (syscall !== 'listen') return undefined
  const there = `${address.includes(':') ? `[${address}]` : address}:${port}`
  switch (code) {
    case 'EADDRINUSE':
      return `another program listens on ${there}; stop it, or choose another port with --port`
    case 'EADDRNOTAVAIL':
      return `${address} is no address of this machine; choose another with --host`
    case 'EACCES':
      return `this user may not listen on ${there}; choose a port from 1024 up with --port`
    default:
      return undefined
  }
}

/** The store's thread hands on what Node and SQLite say; undefined where that is not about its folder. */
function folderTrouble(message: string, dataFolder: string | undefined): string | undefined {
  const remedy = 'or choose another folder with --data'
  if (/unable to open database file/.test(message) && dataFolder !== undefined)
    return `${dataFolder} cannot be used as data folder; see that it is a folder to which this user may write, ${remedy}`
  const [, code, why, path] = /^(E[A-Z]+): (.*), mkdir '(.*)'$/s.exec(message) ?? []
  if (path === undefined) return undefined
  const first =
    code === 'EACCES' || code === 'EPERM'
      ? 'let this user write to the folder above it'
      : code === 'ENOTDIR'
        ? 'remove the file that is in its way'
        : 'make it yourself'
  return `the folder ${path} cannot be made (${why}); ${first}, ${remedy}`
}
