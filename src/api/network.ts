import ipaddr from 'ipaddr.js'
import { ServiceError } from '../base/errors.ts'

export type NetworkTest = (address: string | undefined) => boolean

/** Networks in CIDR notation, or single addresses. An IPv4 address counts as such however the socket spells it. */
export function compileNetworks(networks: readonly string[]): NetworkTest {
  const ranges = networks.map(parseNetwork)
  return (address) => {
    if (address === undefined || !ipaddr.isValid(address)) return false
    const found = ipaddr.process(address)
    return ranges.some(([range, bits]) => found.kind() === range.kind() && found.match(range, bits))
  }
}

export const isLoopback: NetworkTest = compileNetworks(['127.0.0.0/8', '::1/128'])

function parseNetwork(text: string): [ipaddr.IPv4 | ipaddr.IPv6, number] {
  if (ipaddr.isValidCIDR(text)) {
    const [range, bits] = ipaddr.parseCIDR(text)
    const isMapped = range instanceof ipaddr.IPv6 && range.isIPv4MappedAddress() && bits >= 96
    return isMapped ? [range.toIPv4Address(), bits - 96] : [range, bits]
  }
  if (!ipaddr.isValid(text)) {
    throw new ServiceError('CONFIG_INVALID', `intake.allow: expected networks such as 10.0.0.0/8, got ${text}`)
  }
  const address = ipaddr.process(text)
  return [address, address.kind() === 'ipv4' ? 32 : 128]
}
