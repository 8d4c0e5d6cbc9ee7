/** Where calls may go besides hosts that stand literally in rules: what of the configuration rules are checked against. */
export interface Hosts {
  readonly wikis: readonly { readonly url: string }[]
  readonly targets: Readonly<Record<string, { readonly url: string }>>
}

/** Pieces of text, with undefined for holes that any text may fill. */
type Pattern = readonly (string | undefined)[]

/** Whether a configured wiki or target could have an origin such as this. The engine asks again, of each call. */
export function couldBeCovered(origin: Pattern, hosts: Hosts): boolean {
  const urls = [...hosts.wikis, ...Object.values(hosts.targets)].map(({ url }) => url)
  return urls.some((url) => canMeet(symbols(origin), symbols(originOf(url))))
}

function originOf(url: string): Pattern {
  const origin = /^[a-z]+:\/\/(?:\{\{[^}]*\}\}|[^/{])*/i.exec(url)?.[0] ?? url
  return origin
    .toLowerCase()
    .split(/(\{\{[^}]*\}\})/)
    .map((piece) => (piece.startsWith('{{') ? undefined : piece))
}

function symbols(pattern: Pattern): readonly (string | undefined)[] {
  return pattern.flatMap((piece) => (piece === undefined ? [undefined] : [...piece]))
}

/** Whether one text fits both. */
function canMeet(a: Pattern, b: Pattern): boolean {
  // Row by row: after the first i symbols of `a`, which lengths of `b` can be used up.
  let row = new Set([0])
  const spread = (lengths: Set<number>) => {
    for (const length of lengths) if (length < b.length && b[length] === undefined) lengths.add(length + 1)
    return lengths
  }
  row = spread(row)
  for (const symbol of a) {
    const next = new Set<number>()
    for (const length of row) {
      if (symbol === undefined) {
        for (let used = length; used <= b.length; used++) next.add(used)
      } else if (b[length] === undefined && length < b.length) {
        next.add(length).add(length + 1)
      } else if (b[length] === symbol) next.add(length + 1)
    }
    row = spread(next)
  }
  return row.has(b.length)
}
