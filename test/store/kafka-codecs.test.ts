import { randomBytes } from 'node:crypto'
import { Kafka } from 'kafkajs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createClient } from '../../src/store/kafka/client.ts'
import { unpackLz4, unpackSnappy } from '../../src/store/kafka/codecs.ts'
import { Reader } from '../../src/store/kafka/reader.ts'
import { sharedKafka } from '../support/kafka.ts'

describe('on a broker', () => {
  const kafka = sharedKafka()

  test.each(['uncompressed', 'gzip', 'snappy', 'lz4', 'zstd'])('what is %s in the log is read', async (codec) => {
    const topic = `${kafka.prefix()}packed`
    const client = new Kafka(kafka.client)
    const admin = client.admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic, configEntries: [{ name: 'compression.type', value: codec }] }] })
    const producer = client.producer()
    await producer.connect()
    const reader = new Reader({
      kafka: createClient(kafka.client, () => undefined),
      trouble: () => undefined,
      skipped: () => undefined,
    })
    onTestFinished(async () => {
      await Promise.all([admin.disconnect(), producer.disconnect(), reader.close()])
    })
    const noise = randomBytes(150_000).toString('latin1')
    const words = Array.from({ length: 20_000 }, (_, n) => `word ${(n * 7919) % 1009}`).join()
    const batches = [['one'], ['', 'x'.repeat(300_000), 'abc'.repeat(50_000)], [noise, words, noise], [words]]
    for (const batch of batches) await producer.send({ topic, messages: batch.map((value) => ({ value })) })
    const values: string[] = []
    await reader.readToEnd(topic, 0, 0, (messages) => values.push(...messages.map(({ value }) => String(value))))

    expect(values.map((value) => value.length)).toEqual(batches.flat().map((value) => value.length))
    expect(values).toEqual(batches.flat())
  })
})

const bytes = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex')

describe('what Java does not write', () => {
  test.each([
    ['of literals', '03 08 616263', 'abc'],
    ['that goes back a little, into itself', '09 08 616263 09 03', 'abcabcab'.slice(0, 3).repeat(3)],
    ['that goes back with two bytes', '08 0c 61626364 0e 0400', 'abcdabcd'],
    ['that goes back with four bytes', '08 0c 61626364 0f 04000000', 'abcdabcd'],
    ['with a long literal', `40 f0 3f ${'61'.repeat(64)}`, 'a'.repeat(64)],
    ['of nothing', '00', ''],
  ])('a snappy block without a frame, %s', (_, packed, text) => {
    expect(unpackSnappy(bytes(packed)).toString()).toBe(text)
  })

  test.each([
    ['whose blocks go back to one another', '04000000 30 616263 05000000 02 0300 10 64 00000000', 'abcabcabcd'],
    ['with a block as it was', '03000080 616263 00000000', 'abc'],
    ['of nothing', '00000000', ''],
  ])('an lz4 frame %s', (_, blocks, text) => {
    expect(unpackLz4(bytes(`04224d18 40 40 82 ${blocks}`)).toString()).toBe(text)
  })
})

describe('what is broken throws', () => {
  test.each([
    ['ends early', '03 08 6162'],
    ['goes back to before its beginning', '09 08 616263 09 04'],
    ['is shorter than it says', '04 08 616263'],
    ['is empty', ''],
  ])('a snappy block that %s', (_, packed) => {
    expect(() => unpackSnappy(bytes(packed))).toThrow()
  })

  test.each([
    ['is none', '00000000'],
    ['ends within a block', '04224d18 60 40 82 06000080 616263'],
    ['ends before its end', '04224d18 60 40 82 03000080 616263'],
    ['goes back to before its beginning', '04224d18 60 40 82 06000000 10 61 0200 10 61 00000000'],
  ])('an lz4 frame that %s', (_, packed) => {
    expect(() => unpackLz4(bytes(packed))).toThrow()
  })
})
