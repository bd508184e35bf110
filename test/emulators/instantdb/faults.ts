/**
 * Scripted misbehaviour: by endpoint, content and number of requests. A fault acts before the request is executed, after it, or on the
 * bytes of the answer. What the SDK makes of each is asserted in `test/emulators/instantdbFaults.test.ts`.
 */
import type { Call } from "./http.ts"

export const endpoints = [
  "query",
  "transact",
  "subscribe",
  "sse",
  "sse.push",
  "auth.createToken",
  "auth.verifyToken",
  "auth.getUser",
  "auth.deleteUser",
  "auth.signOut",
  "storage.upload",
  "storage.list",
  "storage.delete",
  "storage.deleteMany",
  "storage.downloadUrl",
  "file.download"
] as const
export type Endpoint = (typeof endpoints)[number]

export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body: string
}

export type Fault =
  | { readonly _tag: "Reset"; readonly executed: number }
  | { readonly _tag: "Answer"; readonly executed: boolean; readonly answer: (token: string) => Answer }
  | { readonly _tag: "Late" }
  | { readonly _tag: "Gate"; readonly before?: Promise<void> | undefined; readonly after?: Promise<void> | undefined }
  | { readonly _tag: "Silent"; readonly executed: boolean }
  | { readonly _tag: "Cut"; readonly executed: boolean }
  | { readonly _tag: "Mute" }
  | { readonly _tag: "Torn"; readonly bytes: number }
  | { readonly _tag: "Split" }

const error = (type: string | undefined, message: string, hint: unknown) =>
  JSON.stringify({ ...(type === undefined ? {} : { type, hint }), message, "trace-id": "0" })

interface AnswerOptions {
  /** Whether the request is executed all the same, and only its answer lost. */
  readonly executed?: boolean | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
}

const answer = (status: number, body: string, options: AnswerOptions = {}): Fault => ({
  _tag: "Answer",
  executed: options.executed ?? false,
  answer: () => ({ status, body, headers: options.headers })
})

/** The connection is cut and the request was not executed. The SDK repeats nothing: `TypeError: fetch failed`. */
export const resetBefore: Fault = { _tag: "Reset", executed: 0 }

/** The lost reply: executed, and the connection cut before any header of the answer. For the SDK the same as {@link resetBefore}. */
export const resetAfter: Fault = { _tag: "Reset", executed: 1 }

/** A proxy delivered it twice and lost both answers: a `create` has succeeded and failed, a `merge` is merged twice. */
export const duplicated: Fault = { _tag: "Reset", executed: 2 }

/** An error in the vendor's shape. With `echoToken` message and hint repeat the admin token, as the server's own do. */
export const status = (
  status: number,
  type: string | undefined,
  options: AnswerOptions & { readonly message?: string; readonly hint?: unknown; readonly echoToken?: boolean } = {}
): Fault => ({
  _tag: "Answer",
  executed: options.executed ?? false,
  answer: (token) => {
    const message = options.message ?? type ?? "error"
    return {
      status,
      headers: options.headers,
      body:
        options.echoToken === true
          ? error(type, `${message} (${token})`, {
              ...Object(options.hint),
              args: [{ token }],
              "original-input": token
            })
          : error(type, message, options.hint ?? null)
    }
  }
})

/** 429 of an app's own rules, with seconds to wait in the hint; without them the app-wide one, whose hint is null. No header tells. */
export const rateLimited = (retryAfter?: number): Fault =>
  status(429, "rate-limited", {
    message: "You have exceeded the rate limit for this operation.",
    hint: retryAfter === undefined ? null : { "retry-at": 0, "retry-after": retryAfter, "remaining-tokens": 0 }
  })

/** 429 too: a statement passed 30 s. A write was rolled back. */
export const timeout: Fault = status(429, "timeout", { message: "The query took too long to complete." })

/** 500 `sql-exception`: rolled back, so it can be done again. */
export const deadlock: Fault = status(500, "sql-exception", {
  message: "SQL Exception: deadlock_detected",
  hint: { "debug-uri": "http://127.0.0.1/trace" }
})

/** A 5xx of the server. With `executed` its answer alone was lost. */
export const serverError = (code: 500 | 502 | 503 | 504 = 500, options: AnswerOptions = {}): Fault =>
  status(code, "unknown", { message: "Something went wrong.", ...options })

/** A proxy's page where JSON belongs: an `InstantAPIError` without a type, whose message is the page. With 200 a `SyntaxError`. */
export const html = (status = 502, options: AnswerOptions = {}): Fault =>
  answer(status, "<!doctype html><title>Bad Gateway</title>", {
    ...options,
    headers: { "content-type": "text/html", ...options.headers }
  })

/** A success whose body is no JSON, executed: a `SyntaxError`. */
export const invalidJson: Fault = answer(200, '{"tx-id":', { executed: true })

/** A success of another status than 200, executed: an error for the SDK. */
export const otherSuccess: Fault = answer(201, "{}", { executed: true })

/** An error whose body is JSON `null`. */
export const nullBody = (status = 503): Fault => answer(status, "null")

/** Any answer. */
export const raw = answer

/** Executed only when the client has given up and its connection is closed. */
export const late: Fault = { _tag: "Late" }

/** Waits for promises of the test, before or after it is executed. */
export const gate = (gates: { readonly before?: Promise<void>; readonly after?: Promise<void> }): Fault => ({
  _tag: "Gate",
  ...gates
})

/** Never answered, until the client leaves: executed or not. The SDK has no deadline of its own. */
export const silent = (options: { readonly executed: boolean }): Fault => ({ _tag: "Silent", ...options })

/** For `sse.push`: the request's connection and those of all streams are cut, the messages executed or not. */
export const cut = (options: { readonly executed: boolean }): Fault => ({ _tag: "Cut", ...options })

/** For `sse` and `subscribe`: the connection opens and nothing ever comes. The SDK gives up on `sse` after 10 s, on `subscribe` never. */
export const mute: Fault = { _tag: "Mute" }

/** The body is cut after so many bytes, the connection with it. */
export const torn = (bytes: number): Fault => ({ _tag: "Torn", bytes })

/** Of a downloaded file: every character of more than one byte is cut between two chunks. The stream reader makes U+FFFD of it. */
export const split: Fault = { _tag: "Split" }

type When = (call: Call) => boolean

interface Script {
  readonly endpoint: Endpoint | "*"
  readonly fault: Fault
  readonly when: When
  skip: number
  times: number
}

export interface InjectOptions {
  /** How many requests it meets; default 1. */
  readonly times?: number | undefined
  /** How many matching requests pass before. */
  readonly skip?: number | undefined
  /** Only requests of which this says so; `call.json` is the decoded body. */
  readonly when?: When | undefined
}

/** The scripts in the order in which they were given; a request meets the first that wants it. */
export class Faults {
  readonly #scripts: Array<Script> = []
  #choose: ((endpoint: Endpoint, call: Call) => Fault | undefined) | undefined

  /** `"*"` is every endpoint. */
  inject(endpoint: Endpoint | "*", fault: Fault, { skip = 0, times = 1, when = () => true }: InjectOptions = {}): void {
    this.#scripts.push({ endpoint, fault, skip, times, when })
  }

  /** Asked for every request that no script wanted: for faults by chance, say. Undefined takes it away. */
  choose(fault: ((endpoint: Endpoint, call: Call) => Fault | undefined) | undefined): void {
    this.#choose = fault
  }

  take(endpoint: Endpoint, call: Call): Fault | undefined {
    for (const script of this.#scripts) {
      if (script.times === 0 || (script.endpoint !== "*" && script.endpoint !== endpoint)) continue
      if (!script.when(call)) continue
      if (script.skip > 0) {
        script.skip -= 1
        continue
      }
      script.times -= 1
      return script.fault
    }
    return this.#choose?.(endpoint, call)
  }

  /** How many requests would still meet a fault: 0 when the script was played to its end. */
  get pending(): number {
    return this.#scripts.reduce((sum, { times }) => sum + times, 0)
  }

  clear(): void {
    this.#scripts.length = 0
    this.#choose = undefined
  }
}
