/**
 * `make`, asked once per name. Names come from outside, so everything is forgotten rather than that it grows beyond
 * `limit`. Null stands for none.
 */
export function remember<Value extends object | string | null>(
  limit: number,
  make: (name: string) => Value,
): (name: string) => Value {
  const values = new Map<string, Value>()
  return (name) => {
    const known = values.get(name)
    if (known !== undefined) return known
    if (values.size >= limit) values.clear()
    const value = make(name)
    values.set(name, value)
    return value
  }
}
