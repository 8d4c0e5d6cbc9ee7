const space = /[ \t\r\n]*/y
const string = /"[ !#-[\]-\uffff]*(?:\\(?:["\\/bfnrt]|u[\da-fA-F]{4})[ !#-[\]-\uffff]*)*"/y
const literal = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y

/** Where a text stops being JSON: V8 does not always say. Its length where it ends too early. */
export function offsetOfFlaw(text: string): number {
  const open: ('{' | '[')[] = []
  let at = 0
  let next: 'key' | 'colon' | 'value' | 'comma' = 'value'
  let mayClose = false

  function passes(pattern: RegExp): boolean {
    pattern.lastIndex = at
    const found = pattern.exec(text)
    if (found !== null) at = pattern.lastIndex
    return found !== null
  }

  for (;;) {
    passes(space)
    const char = text[at]
    if (char === undefined) return at
    const inner = open.at(-1)
    if (mayClose && inner !== undefined && char === (inner === '{' ? '}' : ']')) {
      open.pop()
      at++
      next = 'comma'
    } else if (next === 'comma') {
      if (inner === undefined || char !== ',') return at
      at++
      next = inner === '{' ? 'key' : 'value'
      mayClose = false
    } else if (next === 'colon') {
      if (char !== ':') return at
      at++
      next = 'value'
    } else if (next === 'key') {
      if (!passes(string)) return at
      next = 'colon'
      mayClose = false
    } else if (char === '{' || char === '[') {
      open.push(char)
      at++
      next = char === '{' ? 'key' : 'value'
      mayClose = true
    } else {
      if (!passes(string) && !passes(literal)) return at
      next = 'comma'
      mayClose = true
    }
  }
}

export function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
