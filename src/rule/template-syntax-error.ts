/** A template that cannot be compiled: what is wrong, and what to do about it. Becomes a Problem. */
export class TemplateSyntaxError extends Error {
  readonly remedy: string

  constructor(message: string, remedy: string) {
    super(message)
    this.name = 'TemplateSyntaxError'
    this.remedy = remedy
  }
}
