import { resolve } from 'node:path'
import { formatProblem, hasErrors, type Problem } from '../base/problem.ts'

/** All that a command may touch of its process, so that tests can run it without one. */
export interface Io {
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WritableStream
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean }
  readonly env: NodeJS.ProcessEnv
  /** What relative paths are relative to; the working directory where left out. */
  readonly cwd?: string
}

export type Format = 'text' | 'json'

/** A command cannot do what it was asked; the message tells people why and what to do. `code` is the exit code. */
export class CommandFailure extends Error {
  readonly code: 1 | 2

  constructor(code: 1 | 2, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'CommandFailure'
    this.code = code
  }
}

export function pathIn(io: Io, path: string): string {
  return io.cwd === undefined ? path : resolve(io.cwd, path)
}

export function writeProblems(io: Io, problems: readonly Problem[]): void {
  for (const problem of problems) io.stderr.write(`${formatProblem(problem)}\n`)
}

/** `2 errors, 1 warning` */
export function countProblems(problems: readonly Problem[]): string {
  const errors = problems.filter((problem) => problem.severity === 'error').length
  return `${counted(errors, 'error')}, ${counted(problems.length - errors, 'warning')}`
}

/** `1 rule`, `2 rules` */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

export function exitCodeOf(problems: readonly Problem[]): 0 | 1 {
  return hasErrors(problems) ? 1 : 0
}

export function writeJson(io: Io, value: unknown): void {
  io.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
}
