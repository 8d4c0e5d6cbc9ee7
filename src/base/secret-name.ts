/** Whether what goes by this name (of a header, a key) is not for other eyes. */
export function isSecretName(name: string): boolean {
  return /authorization|cookie|token|secret|password|api-?key/i.test(name)
}

/** The same JSON value, with texts under secret names masked, however deep they lie. */
export function withoutSecrets(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutSecrets)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name,
      isSecretName(name) && typeof inner === 'string' ? '***' : withoutSecrets(inner),
    ]),
  )
}
