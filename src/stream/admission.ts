import type { ErrorObject } from 'ajv'
import type { JsonObject } from '../event/event.ts'

/** Whether an event may be stored. */
export type Admission =
  | { readonly kind: 'admitted'; readonly stream: string; readonly message: JsonObject }
  /** The event is not as its schema says. */
  | {
      readonly kind: 'invalid'
      readonly stream: string | undefined
      readonly errors: readonly ErrorObject[]
      readonly text: string
    }
  /** It could not be checked. `ours`: for a fault that is not the producer's, so posting it again later makes sense. */
  | { readonly kind: 'error'; readonly stream: string | undefined; readonly message: string; readonly ours: boolean }
