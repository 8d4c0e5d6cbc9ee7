import type { Answer, OutboundRequest } from '../../src/http/send.ts'

export const now = Date.UTC(2026, 10, 24)

export function anAnswer(status: number, body = '', headers: Record<string, string> = {}, truncated = false): Answer {
  return { kind: 'answer', status, headers, body: new TextEncoder().encode(body), truncated }
}

/** A form, posted to the action API. */
export function aCall(body: OutboundRequest['body'], path = '/api.php'): OutboundRequest {
  const headers = body === null ? {} : { 'content-type': 'application/x-www-form-urlencoded' }
  return {
    method: body === null ? 'GET' : 'POST',
    origin: 'http://wiki.example',
    path,
    headers,
    body,
    timeoutMs: 1_000,
  }
}

/** A request and its answer, as recorded. */
export interface Pair {
  readonly name: string
  readonly request: { readonly method: string; readonly path: string; readonly body?: string | null }
  readonly response: { readonly status: number; readonly headers: Record<string, string>; readonly body: string }
}
