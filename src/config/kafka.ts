import { createPrivateKey, X509Certificate } from 'node:crypto'
import type { Path } from '../base/document.ts'
// The one thing of rules that a configuration knows: a partition key is written as keys in rules are.
import { isSlot, parseTemplate } from '../rule/template.ts'
import { TemplateSyntaxError } from '../rule/template-syntax-error.ts'
import type { SecretCheck } from './secret.ts'
import type { Objection } from './sites.ts'

/** What a schema cannot say about the list of brokers. */
export function checkBrokers(brokers: readonly (string | null)[], at: Path): readonly Objection[] {
  return brokers.flatMap((broker, index): readonly Objection[] => {
    const port = Number(broker?.split(':')[1])
    if (broker === null || (port >= 1 && port <= 65_535)) return []
    const message = `expected a port from 1 to 65535, found ${port} in ${JSON.stringify(broker)}`
    return [{ path: [...at, index], message, remedy: 'write the port that the broker listens on, often 9092' }]
  })
}

/** Whether a text is a template that can be rendered from an event alone. */
export function checkPartitionKey(text: string, path: Path): readonly Objection[] {
  try {
    const reads = parseTemplate(text).flatMap((part) => (isSlot(part) ? part.expression.reads : []))
    if (reads.length === 0) {
      const message = `expected a template that reads the event, found one that is always the same`
      return [{ path, message, remedy: 'write for instance {{message.page_id}}' }]
    }
    const other = reads.find(([root, next]) => root !== 'message' && !(root === 'globals' && next === 'message'))
    if (other === undefined) return []
    const remedy = 'a partition is chosen before rules are asked: use {{message.…}}'
    return [{ path, message: `expected only message, found ${other.join('.')}`, remedy }]
  } catch (error) {
    if (!(error instanceof TemplateSyntaxError)) throw error
    return [{ path, message: error.message, remedy: error.remedy }]
  }
}

/** One certificate or several, in PEM. */
export const certificates: SecretCheck = (text, source) => {
  const each = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? []
  const broken = each.findIndex((pem) => !isReadable(() => new X509Certificate(pem)))
  if (each.length > 0 && broken < 0) return { secret: text }
  const found = each.length === 0 ? 'none' : `one that cannot be read, the ${broken + 1}. of ${each.length}`
  return {
    message: `expected certificates in PEM (-----BEGIN CERTIFICATE-----) in ${source}, found ${found}`,
    remedy: each.length === 0 ? 'write { file: PATH } where they are in a file' : 'export it anew',
  }
}

/** A private key, in PEM and not encrypted. */
export const privateKey: SecretCheck = (text, source) => {
  if (isReadable(() => createPrivateKey(text))) return { secret: text }
  const found = text.includes('ENCRYPTED') ? 'one with a passphrase' : 'none (not shown)'
  const remedy = text.includes('ENCRYPTED')
    ? 'remove the passphrase: openssl pkey -in KEY -out NEW'
    : 'write { file: PATH } where it is in a file'
  return { message: `expected a private key in PEM in ${source}, found ${found}`, remedy }
}

/** What is wrong with a certificate and its key, each of them sound or left out. */
export function checkKeyPair(cert: string | undefined, key: string | undefined, at: Path): readonly Objection[] {
  if (cert !== undefined && key !== undefined) {
    if (new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) return []
    const message = 'expected the private key of cert, found that of another'
    return [{ path: [...at, 'key'], message, remedy: 'name the two that belong together' }]
  }
  if (cert === undefined && key === undefined) return []
  const [there, missing] = cert === undefined ? ['key', 'cert'] : ['cert', 'key']
  return [{ path: at, message: `expected cert and key together, found ${there} alone`, remedy: `add ${missing}` }]
}

function isReadable(read: () => unknown): boolean {
  try {
    read()
    return true
  } catch {
    // That it cannot be read is the answer; OpenSSL's words for it help nobody.
    return false
  }
}
