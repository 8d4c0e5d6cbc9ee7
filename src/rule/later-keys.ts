/** Keys that a later version will read, with what this one therefore does not do. */
export const laterKeys: Readonly<Record<string, string>> = {
  dedup: 'duplicates are delivered',
  supersede: 'superseded events are delivered',
  delay: 'events are not delayed',
  delay_until: 'events are not delayed',
  order: 'deliveries of one key may overtake one another',
  expire: 'old events are delivered',
  claim_ttl: 'old events are delivered',
  root_claim_ttl: 'events with an old root event are delivered',
  sample: 'all events are delivered',
  limiters: 'calls are not limited by key',
  blacklist: 'blacklisted pages are not left out',
  consumer_batch_size: 'events are delivered one by one',
  decode_results: 'answers are not decoded',
}

/** Keys of `throttle` that a later version will read. */
export const laterThrottleKeys: Readonly<Record<string, string>> = {
  key: 'keys do not take turns',
  rate: 'the rate is not limited',
  burst: 'bursts are not limited',
  total: 'there is no limit over all keys',
}

/** Keys of Wikimedia's engine that have nothing to do here, with the reason. */
export const idleKeys: Readonly<Record<string, string>> = {
  reenqueue_delay: 'it was a polling interval, and nothing polls here',
  disable_blacklist: 'there is no blacklist to disable',
  disable_delayed_execution: 'events are not delayed anyway',
  report: 'its engine never used it either',
  consumer: 'there is no Kafka consumer to configure',
}

/** The same for requests. */
export const idleExecKeys: Readonly<Record<string, string>> = {
  agentOptions: 'connections are kept alive anyway',
  encoding: 'bodies are forwarded as bytes anyway',
  followRedirect: 'redirects are never followed',
  gzip: 'answers are not decompressed',
}
