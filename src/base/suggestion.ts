import { distance } from 'fastest-levenshtein'

/** The candidate that was probably meant, or undefined where none is near. */
export function suggest(word: string, candidates: readonly string[]): string | undefined {
  const plain = simplified(word)
  const ranked = candidates
    .map((candidate) => ({
      candidate,
      far: distance(plain, simplified(candidate)),
    }))
    .sort((a, b) => a.far - b.far)
  const nearest = ranked[0]
  return nearest !== undefined && nearest.far <= Math.ceil(word.length * 0.4) ? nearest.candidate : undefined
}

/** `maxBody`, `max-body` and `max_body` are one name, written by three people. */
function simplified(word: string): string {
  return word.toLowerCase().replaceAll(/[-_]/g, '')
}
