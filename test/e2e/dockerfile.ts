/** One instruction, with lines that continue joined. */
export interface Instruction {
  readonly name: string
  readonly text: string
}

export interface Copy {
  /** A stage's name; undefined: from the folder of the Dockerfile. */
  readonly from: string | undefined
  readonly sources: readonly string[]
}

export function parseDockerfile(text: string): readonly Instruction[] {
  const lines = text.split('\n').filter((line) => !line.startsWith('#'))
  const joined = lines.join('\n').replaceAll(/\\\n\s*/g, ' ')
  return joined
    .split('\n')
    .map((line) => /^([A-Z]+)\s+(.*)$/.exec(line.trim()))
    .flatMap((found) => (found === null ? [] : [{ name: found[1] ?? '', text: found[2] ?? '' }]))
}

export function copies(instructions: readonly Instruction[]): readonly Copy[] {
  return instructions
    .filter(({ name }) => name === 'COPY')
    .map(({ text }) => {
      const words = text.split(/\s+/)
      const from = words.find((word) => word.startsWith('--from='))?.slice('--from='.length)
      return { from, sources: words.filter((word) => !word.startsWith('--')).slice(0, -1) }
    })
}

/** The words of an instruction in exec form. */
export function execForm(text: string): readonly string[] {
  const words: unknown = JSON.parse(text.slice(text.indexOf('[')))
  if (!Array.isArray(words)) throw new Error(`not in exec form: ${text}`)
  return words.map(String)
}
