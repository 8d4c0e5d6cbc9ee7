import type { Clock } from '../base/clock.ts'
import type { Answer, OutboundRequest, Reply, Send } from '../http/send.ts'
import { jsonOf, member, textMember } from './answer-json.ts'
import { readAnswer, readNoAnswer, type Verdict } from './answers.ts'
import { Cookies } from './cookies.ts'
import { inOneLine, unavailable } from './verdict.ts'
import type { Target, WikiApi } from './wiki.ts'

/** What a call to a wiki carries of its session. */
export interface Grant {
  readonly kind: 'granted'
  /** They go to this target only, and never into logs, the journal or dead letters. */
  readonly headers: Readonly<Record<string, string>>
  /** Empty where none was asked for. */
  readonly token: string
  /** Of which login it is: the count of them. */
  readonly login: number
}

/** Why there is no session: as if it were the reply to the call itself, of which nothing has run. It holds no secret. */
export interface Denial {
  readonly kind: 'denied'
  readonly reply: Reply
  readonly verdict: Verdict
}

/** Sessions at wikis, in memory: made when a call first needs one, and kept. */
export interface Sessions {
  /** Undefined where the call needs neither login nor token. */
  prepare(target: Target, usesToken: boolean, signal: AbortSignal): Promise<Grant | Denial> | undefined
  /** For a call that was answered that it `needs` this. Undefined where that cannot be renewed. */
  renew(
    target: Target,
    usesToken: boolean,
    signal: AbortSignal,
    used: Grant,
    needs: 'login' | 'token',
  ): Promise<Grant | Denial> | undefined
}

export interface SessionParts {
  readonly send: Send
  readonly clock: Pick<Clock, 'now'>
  readonly userAgent: string
}

const timeoutMs = 60_000
/**
 * After a login was refused the wiki is not asked again for so long. MediaWiki bears 150 wrong passwords in two days, and
 * then refuses the right one too.
 */
const refusedLoginMs = 20 * 60_000

/** Sessions last as long as the directory that the targets are of: a reload makes new ones. */
export function createSessions(parts: SessionParts): Sessions {
  const sessions = new WeakMap<WikiApi, Session>()
  const sessionOf = (target: Target, api: WikiApi) => {
    const session = sessions.get(api) ?? new Session(api, target.headers, parts)
    sessions.set(api, session)
    return session
  }
  return {
    prepare(target, usesToken, signal) {
      const { api } = target
      if (api === undefined || (api.login === undefined && !usesToken)) return undefined
      return sessionOf(target, api).grant(usesToken, signal)
    },
    renew(target, usesToken, signal, used, needs) {
      const { api } = target
      if (api === undefined || (needs === 'login' ? api.login === undefined : !usesToken)) return undefined
      const session = sessionOf(target, api)
      session.forget(used, needs)
      return session.grant(usesToken, signal)
    },
  }
}

class Session {
  readonly #api: WikiApi
  readonly #headers: Readonly<Record<string, string>>
  readonly #parts: SessionParts
  #cookies = new Cookies()
  #logins = 0
  #isLoggedIn: boolean
  #token: string | undefined
  /** Shared by all calls that come meanwhile. */
  #underWay: Promise<Denial | undefined> | undefined
  #refusal: { readonly denial: Denial; readonly until: number } | undefined

  constructor(api: WikiApi, headers: Readonly<Record<string, string>>, parts: SessionParts) {
    this.#api = api
    this.#headers = headers
    this.#parts = parts
    this.#isLoggedIn = api.login === undefined
  }

  async grant(usesToken: boolean, signal: AbortSignal): Promise<Grant | Denial> {
    while (!this.#isLoggedIn || (usesToken && this.#token === undefined)) {
      this.#underWay ??= this.#fetch(usesToken, signal).finally(() => {
        this.#underWay = undefined
      })
      const denial = await this.#underWay
      if (denial !== undefined) return denial
    }
    const token = usesToken ? (this.#token ?? '') : ''
    return { kind: 'granted', headers: headersWith(this.#cookies), token, login: this.#logins }
  }

  /** Unless it has been renewed since. */
  forget(used: Grant, needs: 'login' | 'token'): void {
    if (used.login !== this.#logins) return
    if (needs === 'login') this.#logOut()
    else if (used.token === this.#token) this.#token = undefined
  }

  #logOut(): void {
    this.#isLoggedIn = false
    this.#token = undefined
  }

  async #fetch(usesToken: boolean, signal: AbortSignal): Promise<Denial | undefined> {
    if (!this.#isLoggedIn) {
      const denial = await this.#logIn(signal)
      if (denial !== undefined) return denial
    }
    if (!usesToken || this.#token !== undefined) return undefined
    const first = await this.#fetchToken(signal)
    if (first?.verdict.needs !== 'login' || this.#api.login === undefined) return first
    this.#logOut()
    return (await this.#logIn(signal)) ?? (await this.#fetchToken(signal))
  }

  async #logIn(signal: AbortSignal): Promise<Denial | undefined> {
    const { login } = this.#api
    if (login === undefined) return undefined
    if (this.#refusal !== undefined && this.#parts.clock.now() < this.#refusal.until) return this.#refusal.denial
    const cookies = new Cookies()
    const asked = await this.#ask({ action: 'query', meta: 'tokens', type: 'login' }, cookies, signal)
    if (asked.kind === 'denied') return asked
    const lgtoken = tokenIn(asked.content, 'logintoken')
    if (lgtoken === undefined) return denied(asked.answer, failed('no login token'))
    const given = { action: 'login', lgname: login.user, lgpassword: login.password, lgtoken }
    const answered = await this.#ask(given, cookies, signal)
    if (answered.kind === 'denied') return answered
    const result = member(answered.content, 'login')
    if (textMember(result, 'result') !== 'Success') return this.#refused(answered.answer, result)
    this.#cookies = cookies
    this.#logins += 1
    this.#isLoggedIn = true
    return undefined
  }

  /** The wiki knows who wants in, and says no: that is for people to mend, and the same question would be answered the same. */
  #refused(answer: Answer, result: unknown): Denial {
    const reason = member(result, 'reason')
    const said = [textMember(result, 'result'), textMember(reason, 'text') ?? textMember(result, 'reason')]
    const note = inOneLine(said.filter((part) => part !== undefined).join(': ')) || 'no result'
    if (said[0] === 'NeedToken' || said[0] === 'WrongToken' || textMember(reason, 'code') === 'sessionlost') {
      return denied(answer, failed(note))
    }
    const now = this.#parts.clock.now()
    const denial = denied(answer, unavailable(answer, now, note))
    this.#refusal = { denial, until: now + refusedLoginMs }
    return denial
  }

  /** As somebody who is logged in, or an answer to a session that is lost would be the token of anybody. */
  async #fetchToken(signal: AbortSignal): Promise<Denial | undefined> {
    const isUser = this.#api.login !== undefined
    if (!isUser) this.#cookies = new Cookies()
    const given = { action: 'query', meta: 'tokens', type: 'csrf', ...(isUser ? { assert: 'user' } : {}) }
    const asked = await this.#ask(given, this.#cookies, signal)
    if (asked.kind === 'denied') return asked
    this.#token = tokenIn(asked.content, 'csrftoken')
    return this.#token === undefined ? denied(asked.answer, failed('no token')) : undefined
  }

  async #ask(
    given: Readonly<Record<string, string>>,
    cookies: Cookies,
    signal: AbortSignal,
  ): Promise<{ readonly kind: 'answered'; readonly answer: Answer; readonly content: unknown } | Denial> {
    const { send, clock, userAgent } = this.#parts
    const { origin, path } = this.#api
    const body = new URLSearchParams({ ...given, ...usual }).toString()
    const headers = { 'user-agent': userAgent, ...formHeaders, ...this.#headers, ...headersWith(cookies) }
    const request: OutboundRequest = { method: 'POST', origin, path, headers, body, timeoutMs }
    const reply = await send(request, signal)
    if (reply.kind === 'none') return denied(reply, readNoAnswer(reply))
    const now = clock.now()
    const verdict = readAnswer('mediawiki-api', reply, now, { request })
    if (verdict.outcome === 'refused') return denied(reply, unavailable(reply, now, verdict.note))
    if (verdict.outcome !== 'ok') return denied(reply, verdict)
    cookies.take(reply.headers['set-cookie'], now)
    return { kind: 'answered', answer: reply, content: jsonOf(reply.body) }
  }
}

const usual = { format: 'json', formatversion: '2', errorformat: 'plaintext', errorlang: 'en' }
const formHeaders = { 'content-type': 'application/x-www-form-urlencoded' }

function headersWith(cookies: Cookies): Readonly<Record<string, string>> {
  const cookie = cookies.header()
  return cookie === undefined ? {} : { cookie }
}

function tokenIn(content: unknown, name: string): string | undefined {
  return textMember(member(member(content, 'query'), 'tokens'), name)
}

function failed(note: string): Verdict {
  return { outcome: 'failed', note }
}

/** Of the answer itself nothing is kept but what it came to: it may hold a token. */
function denied(reply: Reply, verdict: Verdict): Denial {
  const note = `login: ${verdict.note}`
  return {
    kind: 'denied',
    reply: reply.kind === 'none' ? { ...reply, sent: false } : { ...reply, headers: {}, body: Buffer.from(note) },
    verdict: { ...verdict, note, hasNotRun: true },
  }
}
