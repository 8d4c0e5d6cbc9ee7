/** Keys that a later version will read, with what this one therefore does not do. */
export const laterKeys: Readonly<Record<string, string>> = {
  limiters: 'calls are not limited by key',
  blacklist: 'blacklisted pages are not left out',
  consumer_batch_size: 'events are delivered one by one',
  decode_results: 'answers are not decoded',
}

/** Keys of Wikimedia's engine that have nothing to do here, with the reason. */
export const idleKeys: Readonly<Record<string, string>> = {
  reenqueue_delay: 'it was a polling interval, and nothing polls here',
  disable_blacklist: 'there is no blacklist to disable',
  delay_until: 'an event’s own delay_until is kept to anyway; write delay for another',
  disable_delayed_execution: 'delayed events are always kept until they are due',
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
