import { expect, test } from 'vitest'
import { ServiceError } from '../../src/base/errors.ts'
import { CommandFailure } from '../../src/cli/io.ts'
import { startFailure } from '../../src/cli/start-failure.ts'

const systemError = (code: string, syscall: string, more: object) =>
  Object.assign(new Error(`${syscall} ${code}`), { code, syscall, ...more })
const broken = (message: string) => new ServiceError('STORE_BROKEN', message)

test.each([
  [
    systemError('EADDRINUSE', 'listen', { address: '127.0.0.1', port: 8192 }),
    'another program listens on 127.0.0.1:8192; stop it, or choose another port with --port',
  ],
  [
    systemError('EADDRINUSE', 'listen', { address: '::1', port: 8192 }),
    'another program listens on [::1]:8192; stop it, or choose another port with --port',
  ],
  [
    systemError('EADDRNOTAVAIL', 'listen', { address: '203.0.113.5', port: 80 }),
    '203.0.113.5 is no address of this machine; choose another with --host',
  ],
  [
    systemError('EACCES', 'listen', { address: '0.0.0.0', port: 80 }),
    'this user may not listen on 0.0.0.0:80; choose a port from 1024 up with --port',
  ],
  [
    systemError('ENOTFOUND', 'getaddrinfo', { hostname: 'nowhere.invalid' }),
    'there is no address for the host name nowhere.invalid; choose another with --host',
  ],
  [systemError('EMFILE', 'open', {}), 'open EMFILE'],
  [
    broken("EACCES: permission denied, mkdir '/srv/data'"),
    'the folder /srv/data cannot be made (permission denied); let this user write to the folder above it, or choose another folder with --data (STORE_BROKEN)',
  ],
  [
    broken("ENOTDIR: not a directory, mkdir '/srv/it's'"),
    "the folder /srv/it's cannot be made (not a directory); remove the file that is in its way, or choose another folder with --data (STORE_BROKEN)",
  ],
  [
    broken("EROFS: read-only file system, mkdir '/srv/data'"),
    'the folder /srv/data cannot be made (read-only file system); make it yourself, or choose another folder with --data (STORE_BROKEN)',
  ],
  [
    broken('Failed to open database: unable to open database file'),
    'data cannot be used as data folder; see that it is a folder to which this user may write, or choose another folder with --data (STORE_BROKEN)',
  ],
  [broken('a damaged file'), 'a damaged file (STORE_BROKEN)'],
])('%s is told in one line, with what to do', (error, line) => {
  const failure = startFailure(error, 'data')
  expect(failure).toBeInstanceOf(CommandFailure)
  expect(failure).toMatchObject({ code: 1, message: `cannot start: ${line}`, cause: error })
})

test('a bug of ours stays what it is', () => {
  const bug = new TypeError('x is not a function')
  expect(startFailure(bug, 'data')).toBe(bug)
})
