import { type Document, type Path, problemAt } from '../base/document.ts'
import type { Problem } from '../base/problem.ts'

/** Whose file it is: ours, or a whole service configuration of Wikimedia's, in which much is there that we do not do. */
export type Dialect = 'own' | 'service'

/** Collects what is wrong with the rules of one document. */
export class Findings {
  readonly problems: Problem[] = []
  readonly dialect: Dialect
  readonly #document: Document

  constructor(document: Document, dialect: Dialect) {
    this.#document = document
    this.dialect = dialect
  }

  error(at: Path, message: string, remedy: string, part: 'key' | 'value' = 'value'): void {
    this.problems.push(problemAt(this.#document, at, message, remedy, { part }))
  }

  warn(at: Path, message: string, remedy: string, part: 'key' | 'value' = 'value'): void {
    this.problems.push(problemAt(this.#document, at, message, remedy, { part, severity: 'warning' }))
  }

  /** An error in our files; a warning in Wikimedia's, which are to load as they are. */
  objectTo(at: Path, message: string, remedy: string, part: 'key' | 'value' = 'value'): void {
    if (this.dialect === 'own') this.error(at, message, remedy, part)
    else this.warn(at, message, remedy, part)
  }

  line(at: Path): number {
    return this.#document.locate(at, 'key').line
  }
}
