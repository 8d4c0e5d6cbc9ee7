/** Undefined where it is not JSON. */
export function jsonOf(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** Undefined where there is none, or the content has no members. */
export function member(content: unknown, name: string): unknown {
  if (typeof content !== 'object' || content === null) return undefined
  return Object.getOwnPropertyDescriptor(content, name)?.value
}

export function textMember(content: unknown, name: string): string | undefined {
  const value = member(content, name)
  return typeof value === 'string' ? value : undefined
}

export function listMember(content: unknown, name: string): readonly unknown[] | undefined {
  const value = member(content, name)
  return Array.isArray(value) ? value : undefined
}
