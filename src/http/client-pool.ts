import type { buildConnector } from 'undici'
import { Client } from 'undici'

/** One client, which is one connection at a time, kept alive between calls. Whoever took it has it alone. */
export class Connection {
  readonly client: Client
  /** When it was given back, by the sender's clock. */
  freeSince = 0

  constructor(client: Client) {
    this.client = client
  }
}

/**
 * The connections to one origin. There are as many as calls were ever in flight at once, less those that stood idle; the
 * one given back last is taken first, so that the others can go.
 */
export class ClientPool {
  readonly #origin: string
  readonly #connect: buildConnector.connector
  readonly #all = new Set<Connection>()
  readonly #free: Connection[] = []

  constructor(origin: string, connect: buildConnector.connector) {
    this.#origin = origin
    this.#connect = connect
  }

  get isEmpty(): boolean {
    return this.#all.size === 0
  }

  /** Throws where the origin is none. */
  take(): Connection {
    return this.#free.pop() ?? this.#open()
  }

  give(connection: Connection, now: number): void {
    connection.freeSince = now
    this.#free.push(connection)
  }

  /** For one in an unknown state: its socket is destroyed, with whatever is on it. */
  drop(connection: Connection): void {
    connection.client.destroy(null, () => this.#all.delete(connection))
  }

  /** Drops what has been free since before `time`. */
  dropIdle(time: number): void {
    let count = 0
    for (const connection of this.#free) {
      if (connection.freeSince >= time) break
      count += 1
      this.drop(connection)
    }
    if (count > 0) this.#free.splice(0, count)
  }

  /** Resolves when every socket is gone, also of those dropped before. */
  async close(): Promise<void> {
    this.#free.length = 0
    await Promise.all([...this.#all].map((connection) => connection.client.destroy()))
  }

  #open(): Connection {
    const connection = new Connection(
      new Client(this.#origin, {
        connect: this.#connect,
        pipelining: 1,
        // A call has one time limit from beginning to end, and the sender keeps it: cheaper than undici's two timers, and
        // a dripping target cannot stretch it.
        headersTimeout: 0,
        bodyTimeout: 0,
      }),
    )
    this.#all.add(connection)
    return connection
  }
}
