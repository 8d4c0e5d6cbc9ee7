import type { Lane } from '../store.ts'

/** A lane as one text, since both of its parts may hold any character. */
export function formatLane({ rule, key }: Lane): string {
  return JSON.stringify([rule, key])
}

export function parseLane(text: string): Lane {
  const parts: unknown = JSON.parse(text)
  if (Array.isArray(parts) && typeof parts[0] === 'string' && typeof parts[1] === 'string') {
    return { rule: parts[0], key: parts[1] }
  }
  throw new Error(`the store holds a lane that it cannot read: ${text}`)
}
