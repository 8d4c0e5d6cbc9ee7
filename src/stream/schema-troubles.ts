/** Told when a schema cannot be had, and why; and with undefined when that is over. */
export type TellTrouble = (schema: string, why: string | undefined) => void

/** Producers name schemas as they like: of so many at one time the operator is told. */
const mostTold = 100
/** Who asks for it no more may never hear that it is there again. */
const toldForMs = 600_000

/** Which schemas cannot be had, for the operator: said once for each, not for every event. */
export class SchemaTroubles {
  readonly #until = new Map<string, number>()
  readonly #tell: TellTrouble
  readonly #now: () => number

  constructor(tell: TellTrouble, now: () => number) {
    this.#tell = tell
    this.#now = now
  }

  /** `why` is undefined where the schema was had, or is plainly nowhere. */
  note(schema: string, why: string | undefined): void {
    const isKnown = this.#until.has(schema)
    if (why === undefined) {
      if (this.#until.delete(schema)) this.#tell(schema, undefined)
      return
    }
    if (!isKnown && this.#current().length >= mostTold) return
    this.#until.set(schema, this.#now() + toldForMs)
    if (!isKnown) this.#tell(schema, why)
  }

  warnings(): readonly string[] {
    const [first, ...others] = this.#current()
    if (first === undefined) return []
    const more = others.length === 0 ? '' : ` and ${others.length} more`
    return [`no schema can be had at ${first}${more}: events that name it are answered 503; the log says why`]
  }

  #current(): readonly string[] {
    for (const [schema, until] of this.#until) if (this.#now() >= until) this.#until.delete(schema)
    return [...this.#until.keys()]
  }
}
