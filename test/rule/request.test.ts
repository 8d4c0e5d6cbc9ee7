import { describe, expect, test } from 'vitest'
import type { JsonObject } from '../../src/event/event.ts'
import type { WikiRoot } from '../../src/rule/rule.ts'
import { bodyText, contextOf, problemsWith, recordOf, requestOf, requestsOf, ruleWith } from './world.ts'

const json = { 'content-type': 'application/json' }

function pathOf(uri: string, message: JsonObject, keys: JsonObject = {}): string {
  return requestOf({ uri }, message, { keys }).path
}

describe('an address', () => {
  test.each([
    ['Main_Page', 'Main_Page'],
    ['A/B', 'A%2FB'],
    ['What?', 'What%3F'],
    ['100%', '100%25'],
    ['%41', '%2541'],
    ["Don't", 'Don%27t'],
    ['Special:X&y=z#w', 'Special%3AX%26y%3Dz%23w'],
    ['Пётр', '%D0%9F%D1%91%D1%82%D1%80'],
    ['!~*()', '!~*()'],
    ['\ud800', '%EF%BF%BD'],
    ['a\r\nb', 'a%0D%0Ab'],
  ])('holds the title %j encoded exactly once', (title, expected) => {
    const match = { uri: '/^https?:\\/\\/[^/]+\\/wiki\\/(?<title>.+)$/' }
    const uri = `https://wiki.example/wiki/${encodeURIComponent(title.replace('\ud800', '\ufffd'))}`

    expect(pathOf('http://a.example/page/{message.title}/1', { title })).toBe(`/page/${expected}/1`)
    expect(pathOf('http://a.example/{decode(match.uri.title)}', { uri }, { match })).toBe(`/${expected}`)
    expect(pathOf('http://a.example/{match.uri.title}', { uri }, { match: { uri: '/wiki\\/(?<title>.+)/' } })).not.toBe(
      '',
    )
  })

  test.each([
    ['a/b', 'a/b'],
    ['a%2Fb', 'a%2Fb'],
    ['User%3AX', 'User%3AX'],
    ['User:X', 'User%3AX'],
    ['100%', '100%25'],
    ['%FF%41', '%25FFA'],
    ['a?b', 'a%3Fb'],
    ['é', '%C3%A9'],
  ])('takes %j between two braces as a piece of path', (title, expected) => {
    expect(pathOf('http://a.example/{{message.title}}', { title })).toBe(`/${expected}`)
  })

  test.each([
    ['http://a.example', '/'],
    ['http://a.example/', '/'],
    ['http://a.example/v1/models/x:predict', '/v1/models/x%3Apredict'],
    ["http://a.example/it's 100%", '/it%27s%20100%25'],
    ['http://a.example/a%2Fb', '/a%2Fb'],
  ])('that is the same for all events is encoded likewise: %s', (uri, expected) => {
    expect(pathOf(uri, {})).toBe(expected)
  })

  test('is said to stand literally in the rule only where it does', () => {
    const literal = (uri: string) =>
      ruleWith({ exec: { uri } }, { wikis: [{ url: 'https://{{lang}}.wiki.example/w' }], targets: {} }).match({})
        ?.requests[0]?.literalOrigin

    expect(literal('https://A.example:443/x/{message.y}')).toBe('https://a.example')
    expect(literal('http://a.example:8080')).toBe('http://a.example:8080')
    expect(literal('{{wiki.url}}/x')).toBeUndefined()
    expect(literal('https://{{message.host}}/x')).toBeUndefined()
  })

  test('may begin with the URL of a wiki or target, folder and all', () => {
    const hosts = { wikis: [{ url: 'http://w.example:81/w' }], targets: { search: { url: 'https://s.example' } } }
    const around = { wiki: { url: 'http://w.example:81/w/' }, targets: { search: 'https://s.example' }, hosts }
    const at = (uri: string) => {
      const { origin, path } = requestOf({ uri }, { title: 'A/B' }, around)
      return origin + path
    }

    expect(at('{{wiki.url}}/api.php')).toBe('http://w.example:81/w/api.php')
    expect(at('{{wiki.url}}')).toBe('http://w.example:81/w')
    expect(at('{{wiki.url}}/page/{message.title}')).toBe('http://w.example:81/w/page/A%2FB')
    expect(at('{{targets.search.url}}/x')).toBe('https://s.example/x')
  })

  test('of a wiki that is not configured makes the delivery dead', () => {
    const hosts = { wikis: [{ url: 'http://w.example' }], targets: {} }

    expect(() => requestOf({ uri: '{{wiki.url}}/api.php' }, {}, { hosts })).toThrow(
      expect.objectContaining({ reason: 'unknown_wiki' }),
    )
  })

  test.each([
    ['http://a.example/{{message.missing}}', {}],
    ['http://a.example/{message.missing}', {}],
    ['http://a.example/{message.prior_state.page_title}', {}],
    ['http://a.example/{{message.title}}', { title: null }],
    ['http://a.example/{message.title}', { title: ['x'] }],
    ['http://a.example/{message.title}/x', { title: '..' }],
    ['http://a.example/w/{{message.title}}', { title: 'a/../../secret' }],
    ['http://a.example/w/{{message.title}}', { title: '%2e%2E' }],
    ['https://{{message.host}}.wiki.example/', { host: 'evil.example/x?' }],
    ['https://{{message.host}}.wiki.example/', { host: 'user@evil' }],
    ['https://{{message.host}}.wiki.example/', { host: '' }],
    ['{{message.url}}', { url: 'file:///etc/passwd' }],
    ['{{message.url}}', { url: 'not a url' }],
  ])('that would be nonsense or lead elsewhere fails: %s of %j', (uri, message) => {
    const hosts = { wikis: [{ url: 'https://{{lang}}.wiki.example/w' }], targets: {} }

    expect(() => requestOf({ uri }, message, { hosts })).toThrow(expect.objectContaining({ reason: 'template_failed' }))
  })

  test('is the same as ever after one that failed', () => {
    const rule = ruleWith({ exec: { uri: 'http://a.example/x/{message.title}' } })

    expect(() => requestsOf(rule, recordOf({}))).toThrow()
    expect(requestsOf(rule, recordOf({ title: 'A' }))[0]?.path).toBe('/x/A')
  })

  test('from an event is allowed where a configured wiki could cover it', () => {
    const hosts = {
      wikis: [{ url: 'https://{{lang}}.wiki.example/w' }],
      targets: { s: { url: 'http://s.example:9000' } },
    }
    const problems = (uri: string) => problemsWith({ exec: { uri } }, hosts).length

    expect(problems('https://{{message.meta.domain}}/w/api.php')).toBe(0)
    expect(problems('https://{{message.lang}}.wiki.example/w')).toBe(0)
    expect(problems('http://s.example:{{message.port}}/')).toBe(0)
    expect(problems('{{message.url}}')).toBe(0)
    expect(problems('https://{{message.lang}}.other.example/w')).toBe(1)
    expect(problems('http://{{message.lang}}.wiki.example/w')).toBe(1)
    expect(problemsWith({ exec: { uri: '{{message.url}}' } })).toHaveLength(1)
  })

  test.each([
    ['http://a.example/?x=1', 'use query'],
    ['http://a.example/#x', 'expected an address without #'],
    ['/sys/queue/events', 'module within Wikimedia'],
    ['ftp://a.example/', 'begins with http'],
    ['a.example/', 'begins with http'],
    ['http:///x', 'begins with http'],
    ['http://a.example:99999/x', 'expected a port up to 65535, found "99999"'],
    ['http://[::1]:99999', 'expected a port up to 65535, found "99999"'],
    ['http://a.example:port/x', 'expected a port up to 65535, found "port"'],
    ['http://a b:80/x', 'begins with http'],
    ['http://a b/', 'begins with http'],
    ['http://a.example/../x', 'without . and ..'],
    ['http://a.example/{{globals.message}}', 'the whole message'],
    ['{{targets.serch.url}}/x', 'did you mean search?'],
    ['{{targets.search.url}}x', 'expected a slash after'],
  ])('that is wrong is a problem: %s', (uri, expected) => {
    const problems = problemsWith({ exec: { uri } }, { wikis: [], targets: { search: { url: 'http://s.example' } } })

    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(expected)
  })

  test.each([
    'http://user:s3cret@h.example/p',
    'HTTPS://s3cret@h.example',
    'http://user:s3cret@h.example/p?x=1#y',
    'http://user:s3cret@{{message.host}}/p',
    'http://user:s3cret@h.example{/message.title}',
    'http:user:s3cret@h.example/p',
    '//user:s3cret@h.example/p',
    'user:s3cret@h.example/p',
  ])('with a user or password says so, and shows neither: %s', (uri) => {
    const hosts = { wikis: [], targets: { s: { url: 'http://{{host}}' } } }

    expect(problemsWith({ exec: { uri } }, hosts)).toEqual([
      expect.stringMatching(
        /^rules.yaml:1:\d+ rule.exec.uri: expected an address without user .*\(not shown\)((?!s3cret).)*$/,
      ),
    ])
  })

  test('has no user where an @ comes later', () => {
    expect(pathOf('http://a.example/@b', {})).toBe('/%40b')
  })

  test('may name only configured targets, wherever it does', () => {
    const exec = {
      method: 'post',
      uri: 'http://a.example/{{default(message.x, targets.serch.url)}}',
      headers: { x: 'at {{targets.serch.url}}' },
      query: { y: ['{{targets.search.url}}', '{{targets.serch.url}}'] },
      body: { z: { url: '{{targets.nothing-like-it.url}}' } },
    }
    const problems = problemsWith({ exec }, { wikis: [], targets: { search: { url: 'http://s.example' } } })

    const expected = 'expected the name of a configured target, found'
    expect(problems.map((problem) => problem.replace(/^\S+ /, '')).sort()).toEqual([
      `rule.exec.body.z.url: ${expected} nothing-like-it; add it to targets in the configuration`,
      `rule.exec.headers.x: ${expected} serch; did you mean search?`,
      `rule.exec.query.y[1]: ${expected} serch; did you mean search?`,
      `rule.exec.uri: ${expected} serch; did you mean search?`,
    ])
  })

  test('gives its origin without the rest', () => {
    const hosts = { wikis: [{ url: 'http://w.example/w' }], targets: {} }
    const rule = ruleWith({ exec: { uri: '{{wiki.url}}/{{message.missing}}' } }, hosts)
    const context = contextOf(rule, recordOf({}), { wiki: { url: 'http://w.example/w' } })

    expect(rule.match({})?.requests[0]?.origin(context)).toBe('http://w.example')
  })
})

describe('a query', () => {
  test('is written as a form, without what is not there', () => {
    const query = {
      a: 'x y',
      b: '{{message.missing}}',
      c: true,
      d: '{{message.nothing}}',
      e: [1, 'é'],
      f: { g: '{{message.h}}' },
    }

    expect(requestOf({ query }, { nothing: null, h: '&' }).path).toBe(
      '/?a=x%20y&c=true&d=&e%5B0%5D=1&e%5B1%5D=%C3%A9&f%5Bg%5D=%26',
    )
  })

  test('is no question mark where nothing is left of it', () => {
    expect(requestOf({ query: { a: '{{message.missing}}' } }, {}).path).toBe('/')
  })
})

describe('headers', () => {
  test('have lower-case names, and are left out where there is nothing', () => {
    const headers = {
      'X-Number': 7,
      'x-Missing': '{{message.missing}}',
      'X-Dt': '{{date(message.dt)}}',
      'x-none': null,
    }

    expect(requestOf({ headers }, { dt: '1990-02-20T19:31:13Z' }).headers).toEqual({
      'x-number': '7',
      'x-dt': 'Tue, 20 Feb 1990 19:31:13 +0000',
    })
  })

  test('can hold whatever an event says, and nothing can be smuggled in', () => {
    const header = (value: string) => requestOf({ headers: { x: 'a {{message.value}}' } }, { value }).headers.x

    expect(header('b\r\nevil: 1')).toBe('a b%0D%0Aevil: 1')
    expect(header('Пётр')).toBe('a %D0%9F%D1%91%D1%82%D1%80')
  })

  test.each([['a{{message.missing}}'], ['a{message.missing}'], ['{{message.list}}']])(
    'fail where text was meant: %s',
    (x) => {
      expect(() => requestOf({ headers: { x } }, { list: [] })).toThrow(
        expect.objectContaining({ reason: 'template_failed' }),
      )
    },
  )

  test.each([
    [{ 'content-length': '7' }, 'describes the connection'],
    [{ 'a b': 'x' }, 'the name of a header'],
    [{ 'X-A': '1', 'x-a': '2' }, 'each header once'],
    [{ x: '{{globals.message}}' }, 'the whole message'],
    [{ 'content-type': '{{message.type}}' }, 'without templates'],
  ])('that are wrong are a problem: %j', (headers, expected) => {
    expect(problemsWith({ exec: { uri: 'http://a.example/', headers } })[0]).toContain(expected)
  })

  test('are one frozen object where no event changes them', () => {
    const rule = ruleWith({ exec: { uri: 'http://a.example/', headers: { a: 'b' } } })
    const [one, two] = [{ x: 1 }, { x: 2 }].map((message) => requestsOf(rule, recordOf(message))[0]?.headers)

    expect(one).toBe(two)
  })
})

describe('a body', () => {
  const post = (
    body: JsonObject[string],
    headers: JsonObject = {},
    message: JsonObject = { a: 'x y', o: { k: [1] } },
  ) => requestOf({ method: 'post', headers, body }, message)

  test('that is a mapping is a form', () => {
    const { body, headers } = post({ t: '{{message.a}}', o: '{{message.o}}', gone: '{{message.missing}}', n: 1 })

    expect(body).toBe('t=x%20y&o%5Bk%5D%5B0%5D=1&n=1')
    expect(headers).toEqual({ 'content-type': 'application/x-www-form-urlencoded' })
  })

  test('that is a mapping is JSON where the content type says so', () => {
    expect(post({ t: '{{message.a}}', gone: '{{message.missing}}', s: { x: 1 } }, json).body).toBe(
      '{"t":"x y","s":{"x":1}}',
    )
    expect(
      post({ gone: '{{message.missing}}' }, { 'content-type': 'application/vnd.x+json; charset=utf-8' }).body,
    ).toBe('{}')
  })

  test('that is a list is JSON, with null for what is not there', () => {
    const { body, headers } = post(['{{message.missing}}', { a: '{{message.a}}' }])

    expect(body).toBe('[null,{"a":"x y"}]')
    expect(headers).toEqual(json)
  })

  test('that is text is sent as it is', () => {
    expect(post('a={message.a}')).toMatchObject({ body: 'a=x%20y', headers: {} })
    expect(post('{"a": "{{message.a}}"}', json).body).toBe('{"a": "x y"}')
  })

  test('that is one expression follows its value', () => {
    expect(post('{{message.o}}').body).toBe('o=1'.replace('o=', 'k%5B0%5D='))
    expect(post('{{message.o}}', json).body).toBe('{"k":[1]}')
    expect(post('{{message.a}}').body).toBe('x y')
    expect(post('{{message.missing}}').body).toBeNull()
  })

  test('is not there without one', () => {
    expect(requestOf({ method: 'post' }, {}).body).toBeNull()
  })

  const odd = Buffer.from(
    '{"meta": {"id":"x"},\t"big": 12345678901234567890, "dup": 1, "dup": 2, "u": "\\u2028\u2028\\/"}\n',
  )
  const oddRecord = recordOf(JSON.parse(odd.toString()), odd)

  test('that is the whole message is the received bytes themselves', () => {
    for (const body of ['{{globals.message}}', '{{ message }}', '{{$.message}}']) {
      const [request] = requestsOf(ruleWith({ exec: { method: 'post', uri: 'http://a.example/', body } }), oddRecord)

      expect(request?.body).toBe(odd)
      expect(request?.headers).toEqual(json)
    }
  })

  test('keeps the content type that the rule names for the whole message', () => {
    const rule = ruleWith({
      exec: {
        method: 'post',
        uri: 'http://a.example/',
        headers: { 'Content-Type': 'x/y' },
        body: '{{globals.message}}',
      },
    })

    expect(requestsOf(rule, oddRecord)[0]?.headers).toEqual({ 'content-type': 'x/y' })
  })

  test('that contains the whole message contains the received bytes', () => {
    const body = {
      before: '{{message.big}}',
      event: '{{globals.message}}',
      list: ['{{globals.message}}', 1],
      gone: '{{message.none}}',
    }
    const [request] = requestsOf(
      ruleWith({ exec: { method: 'post', uri: 'http://a.example/', headers: json, body } }),
      oddRecord,
    )
    const before = JSON.stringify(JSON.parse(odd.toString()).big)

    expect(request && bodyText(request)).toBe(`{"before":${before},"event":${odd},"list":[${odd},1]}`)
  })

  test('that is a form or text contains the received text', () => {
    const form = ruleWith({
      exec: { method: 'post', uri: 'http://a.example/', body: { event: '{{globals.message}}' } },
    })
    const text = ruleWith({ exec: { method: 'post', uri: 'http://a.example/', body: 'x{{globals.message}}y' } })

    expect(requestsOf(form, oddRecord)[0]?.body).toBe(`event=${encodeURIComponent(odd.toString())}`)
    expect(requestsOf(text, oddRecord)[0]?.body).toBe(`x${odd}y`)
  })

  test('is refused with get, and with a type that a mapping cannot have', () => {
    expect(problemsWith({ exec: { uri: 'http://a.example/', body: 'x' } })[0]).toContain('expected no body with get')
    const exec = { method: 'post', uri: 'http://a.example/', headers: { 'content-type': 'text/plain' }, body: { a: 1 } }
    expect(problemsWith({ exec })[0]).toContain('expected a text as body of type text/plain')
  })
})

test('a request has a method in upper case, get by default, and 420 seconds', () => {
  expect(requestOf({}, {})).toMatchObject({ method: 'GET', timeoutMs: 420_000 })
  expect(requestOf({ method: 'purge', timeout: '2s' }, {})).toMatchObject({ method: 'PURGE', timeoutMs: 2_000 })
  expect(problemsWith({ exec: { uri: 'http://a.example/', method: 'pots' } })[0]).toContain('did you mean post?')
})

describe('a token of the wiki', () => {
  const wikis = [{ url: 'http://w.example' }]
  const exec = (more: JsonObject) => ({ method: 'post', uri: '{{wiki.url}}/api.php', ...more })
  const bodies: readonly JsonObject[] = [
    { body: { token: '{{wiki.token}}' } },
    { body: 'token={wiki.token}' },
    { body: { token: "{{default(wiki.token, '')}}" } },
    { query: { token: '{{wiki.token}}' } },
    { headers: { 'x-token': '{{wiki.token}}' } },
  ]

  test.each(bodies)('is asked for by a request that says it: %j', (more) => {
    const uses = (request: JsonObject) =>
      ruleWith({ exec: [request, exec({})] }, { wikis, targets: {} })
        .match({})
        ?.requests.map((each) => each.usesToken)

    expect(uses(exec(more))).toEqual([true, false])
  })

  test('is put where it says, and empty as long as there is none', () => {
    const body = { action: 'edit', token: '{{wiki.token}}' }
    const textFor = (wiki: WikiRoot) => requestOf(exec({ body }), {}, { wiki, hosts: { wikis, targets: {} } }).body

    expect(textFor({ url: 'http://w.example', token: 'a+\\' })).toBe('action=edit&token=a%2B%5C')
    expect(textFor({ url: 'http://w.example' })).toBe('action=edit&token=')
  })

  test('does not belong into an address', () => {
    const problems = problemsWith({ exec: { uri: '{{wiki.url}}/x/{{wiki.token}}' } }, { wikis, targets: {} })

    expect(problems).toEqual([expect.stringContaining('expected no secret in an address, found wiki.token')])
  })
})
