import type { ValidateFunction } from 'ajv'
import type { Problem } from './problem.ts'
import { explainErrors } from './schema-errors.ts'
import { composeTree, type Tree } from './yaml-tree.ts'

/** The way to a value: keys of mappings and indexes of lists. */
export type Path = readonly (string | number)[]

/** A YAML file whose every node knows where it stands. */
export interface Document {
  readonly file: string
  readonly value: unknown
  /** 1-based place of the node's value, or with `key` of its key; that of the nearest existing ancestor where there is none. */
  locate(path: Path, part?: 'key' | 'value'): { line: number; column: number }
}

const maxLength = 16 * 1024 * 1024

/**
 * Reads YAML 1.2 (so `yes` is a text), with anchors, aliases and merge keys. An empty text has the value null. Whatever is
 * wrong with the text is a problem; where only some of it is (a key twice), there is a document as well, so that all
 * problems can be reported at once. Never throws.
 */
export function parseDocument(
  file: string,
  text: string,
): { document: Document | undefined; problems: readonly Problem[] } {
  if (text.length > maxLength) {
    const message = `expected at most ${maxLength} characters, found ${text.length}`
    return {
      document: undefined,
      problems: [
        {
          severity: 'error',
          file,
          line: 1,
          column: 1,
          path: '',
          message,
          remedy: 'split the file',
        },
      ],
    }
  }
  const plain = text.startsWith('\ufeff') ? text.slice(1) : text
  const { tree, flaws } = composeTree(plain)
  const place = placesIn(plain)
  const problems = flaws.map(({ offset, message, remedy }) => ({
    severity: 'error' as const,
    file,
    ...place(offset),
    path: '',
    message,
    remedy,
  }))
  if (tree === undefined) return { document: undefined, problems }
  return {
    document: {
      file,
      value: tree.value,
      locate: (path, part = 'value') => place(offsetIn(tree, path, part)),
    },
    problems,
  }
}

/**
 * Checks the value at `at` against a compiled JSON Schema (compile it with `allErrors`). Each error becomes one problem: what
 * was expected, what was found, and what to do; a union that fits in none of its branches is one problem. A schema's `title`
 * is used as what was expected (say `a duration such as 30s`), its first `examples` entry in the remedy.
 */
export function checkDocument(document: Document, validate: ValidateFunction, at: Path = []): readonly Problem[] {
  const value = valueAt(document.value, at)
  if (validate(value)) return []
  const problems = explainErrors(validate.errors ?? [], validate.schema, value).map(({ path, part, message, remedy }) =>
    problemAt(document, [...at, ...path], message, remedy, { part }),
  )
  return problems.sort((a, b) => a.line - b.line || a.column - b.column)
}

export function problemAt(
  document: Document,
  path: Path,
  message: string,
  remedy: string,
  options: { severity?: 'error' | 'warning'; part?: 'key' | 'value' } = {},
): Problem {
  const { severity = 'error', part = 'value' } = options
  return {
    severity,
    file: document.file,
    ...document.locate(path, part),
    path: formatPath(path),
    message,
    remedy,
  }
}

/** `purge_page.exec[0].headers["x-tag"]` */
export function formatPath(path: Path): string {
  return path
    .map((step) => (typeof step === 'string' && /^[\w$@-]+$/.test(step) ? `.${step}` : `[${JSON.stringify(step)}]`))
    .join('')
    .replace(/^\./, '')
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (inner, step) => (isIndexable(inner) && Object.hasOwn(inner, step) ? inner[step] : undefined),
    value,
  )
}

function isIndexable(value: unknown): value is Record<string | number, unknown> {
  return typeof value === 'object' && value !== null
}

function offsetIn(root: Tree, path: Path, part: 'key' | 'value'): number {
  let tree = root
  let keyStart = root.start
  for (const step of path) {
    const member = tree.members.get(tree.kind === 'sequence' ? Number(step) : String(step))
    if (member === undefined) break
    tree = member.tree
    keyStart = member.keyStart
  }
  return part === 'key' ? keyStart : tree.start
}

/** Line and column of offsets, both from 1. */
export function placesIn(text: string): (offset: number) => { line: number; column: number } {
  const starts = [0, ...Array.from(text.matchAll(/\r\n|\r|\n/g), (found) => found.index + found[0].length)]
  return (offset) => {
    const line = starts.findLastIndex((start) => start <= offset)
    return { line: line + 1, column: offset - (starts[line] ?? 0) + 1 }
  }
}
