import { execFile } from 'node:child_process'
import { appendFile, copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** PEM texts, and the files that hold them. A day is all they live. */
export interface TlsKeys {
  /** The authority that signed the others. */
  readonly ca: string
  readonly caFile: string
  /** A client's. */
  readonly cert: string
  readonly certFile: string
  readonly key: string
  readonly keyFile: string
  /** For a server on loopback: key and certificate in one, as Kafka wants them. */
  readonly serverFile: string
}

/** Makes an authority, a server and a client in a folder. */
export async function makeKeys(folder: string): Promise<TlsKeys> {
  const file = (name: string) => join(folder, name)
  const openssl = (...args: readonly string[]) => run('openssl', args, { cwd: folder })
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

  const subject = (name: string) => ['-subj', `/CN=${name}`]
  await openssl('req', '-x509', ...newKey, ...subject('authority'), '-days', '1', '-keyout', 'ca.key', '-out', 'ca.pem')
  await writeFile(file('loopback'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  for (const name of ['server', 'client']) {
    await openssl('req', ...newKey, ...subject(name), '-keyout', `${name}.key`, '-out', `${name}.csr`)
    await openssl(
      ...['x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '1'],
      ...['-extfile', 'loopback', '-out', `${name}.pem`],
    )
  }
  await copyFile(file('server.key'), file('server-with-key.pem'))
  await appendFile(file('server-with-key.pem'), await readFile(file('server.pem')))

  const text = (name: string) => readFile(file(name), 'utf8')
  return {
    ca: await text('ca.pem'),
    caFile: file('ca.pem'),
    cert: await text('client.pem'),
    certFile: file('client.pem'),
    key: await text('client.key'),
    keyFile: file('client.key'),
    serverFile: file('server-with-key.pem'),
  }
}
