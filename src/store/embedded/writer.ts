import { messageOf, ServiceError } from '../../base/errors.ts'
import { isFull } from '../tables/database.ts'
import { serveThread } from '../thread.ts'
import type { Inputs, Outputs } from './protocol.ts'
import { WriterStore } from './writer-store.ts'

/** Entry of the thread that holds the only connection. */
serveThread<Inputs, Outputs>(new WriterStore().answers, (error) => {
  if (error instanceof ServiceError) return { code: error.code, message: error.message }
  const message = messageOf(error)
  return isFull(error) ? { code: 'STORE_FULL', message } : { code: 'STORE_BROKEN', message }
})
