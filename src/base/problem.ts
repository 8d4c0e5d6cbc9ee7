/** Something a person wrote that cannot be used, or probably does not mean what it says. */
export interface Problem {
  readonly severity: 'error' | 'warning'
  readonly file: string
  /** 1-based; 1:1 where the whole file is meant, 0:0 where it is no file but a variable. */
  readonly line: number
  readonly column: number
  /** Where in the document, e.g. `purge_page.retry.limit`; empty for the whole. */
  readonly path: string
  /** What was expected and what was found, in one sentence without a full stop. */
  readonly message: string
  /** What to do about it. */
  readonly remedy: string
}

export function formatProblem(problem: Problem): string {
  const { file, line, column, severity, path, message, remedy } = problem
  const where = path === '' ? '' : `${path}: `
  const place = line === 0 ? file : `${file}:${line}:${column}`
  return `${place} ${severity === 'warning' ? 'warning: ' : ''}${where}${message}; ${remedy}`
}

/** In the order in which a person meets them: within a file from top to bottom. */
export function inReadingOrder(problems: readonly Problem[]): readonly Problem[] {
  const files = [...new Set(problems.map(({ file }) => file))]
  return problems.toSorted(
    (a, b) => files.indexOf(a.file) - files.indexOf(b.file) || a.line - b.line || a.column - b.column,
  )
}

export function hasErrors(problems: readonly Problem[]): boolean {
  return problems.some((problem) => problem.severity === 'error')
}
