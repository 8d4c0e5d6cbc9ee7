/**
 * A lane's key on disk: its target, whether what is in it was tried there before, in vain, and its throttle key where the
 * rule has such.
 */
export function laneKey(target: string, isTried: boolean, throttleKey: string | undefined): string {
  const way = isTried ? `${target}${triedMark}` : target
  return throttleKey === undefined ? way : `${way}${separator}${throttleKey}`
}

export function targetOf(key: string): string {
  const way = wayOf(key)
  return way.endsWith(triedMark) ? way.slice(0, -triedMark.length) : way
}

export function isOfTried(key: string): boolean {
  return wayOf(key).endsWith(triedMark)
}

/** Of the same target and throttle key, the lane of what was tried for that of what was not; and back. */
export function otherOf(key: string): string {
  return laneKey(targetOf(key), !isOfTried(key), throttleKeyOf(key))
}

export function throttleKeyOf(key: string): string | undefined {
  const at = key.indexOf(separator)
  return at < 0 ? undefined : key.slice(at + 1)
}

function wayOf(key: string): string {
  const at = key.indexOf(separator)
  return at < 0 ? key : key.slice(0, at)
}

/** The unit and the record separator of ASCII; no target's name has them. */
const separator = '\u001f'
const triedMark = '\u001e'
