/** A lane's key on disk: its target, and its throttle key where the rule has such. */
export function laneKey(target: string, throttleKey: string | undefined): string {
  return throttleKey === undefined ? target : `${target}${separator}${throttleKey}`
}

export function targetOf(key: string): string {
  const at = key.indexOf(separator)
  return at < 0 ? key : key.slice(0, at)
}

export function throttleKeyOf(key: string): string | undefined {
  const at = key.indexOf(separator)
  return at < 0 ? undefined : key.slice(at + 1)
}

/** The unit separator of ASCII; no target's name has it. */
const separator = '\u001f'
