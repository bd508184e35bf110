/** What can go wrong on the way to Sprites and there: each is injected for the next request of an endpoint. */
import type { Endpoint } from "./routes.ts"

export type Fault =
  /** Another answer; `executed` says whether the request was acted on before. */
  | {
      readonly _tag: "Answer"
      readonly status: number
      readonly body: string
      readonly headers: Readonly<Record<string, string>>
      readonly executed: boolean
      /** Repeats the token, as careless servers do. */
      readonly echoToken: boolean
    }
  /** The connection is reset. */
  | { readonly _tag: "Reset"; readonly executed: boolean }
  /** No answer, until the client leaves. */
  | { readonly _tag: "Hang"; readonly executed: boolean }
  /** Acted on only when the client has given up. */
  | { readonly _tag: "Late" }
  /** NDJSON that ends in the middle of a line, after so many lines, though the work is done. */
  | { readonly _tag: "CutLines"; readonly lines: number; readonly executed: boolean }
  /** NDJSON with this event instead of the work. */
  | { readonly _tag: "ErrorEvent"; readonly message: string }
  /** The last event says nothing of which one it made. */
  | { readonly _tag: "OtherWords" }
  /** Of a command: the connection drops after so many frames of output. The command goes on. */
  | { readonly _tag: "Drop"; readonly frames: number }
  /** Of a command: closed in order, without any frame, though it ran. */
  | { readonly _tag: "CloseEarly" }
  /** Of a command: no binary exit, only the text one, and the connection drops. */
  | { readonly _tag: "TextExit" }
  /** Of a command: neither exit; the connection is closed in order behind the output. */
  | { readonly _tag: "NoExit" }
  /** Of a command: the exit frame has no byte. */
  | { readonly _tag: "EmptyExit" }
  /** Of a command: nothing is read, not even pings are answered. */
  | { readonly _tag: "Deaf" }

export const answer = (
  status: number,
  body: string,
  options: Partial<Omit<Extract<Fault, { readonly _tag: "Answer" }>, "_tag" | "status" | "body">> = {}
): Fault => ({ _tag: "Answer", status, body, headers: {}, executed: false, echoToken: false, ...options })

const json = { "content-type": "application/json" }
const plain = { "content-type": "text/plain; charset=utf-8" }

export const notFound = answer(404, JSON.stringify({ error: "sprite not found" }), { headers: json })
export const unauthorized = answer(401, JSON.stringify({ error: "authentication failed" }), { headers: json })
export const echoing = answer(403, "not allowed for", { headers: plain, echoToken: true })
/** Limits say how long to wait in the body, too. */
export const limited = (error: string, seconds: number): Fault =>
  answer(429, JSON.stringify({ error, message: "slow down", retry_after_seconds: seconds }), {
    headers: { ...json, "retry-after": String(seconds + 1) }
  })
export const notReady = (seconds: number): Fault =>
  answer(503, "process not ready\n", { headers: { ...plain, "retry-after": String(seconds) } })
/** What an edge answers when it has waited long enough; what was asked for may have happened. */
export const gateway = (status: 502 | 504, executed = true): Fault =>
  answer(status, "<html><body>Bad Gateway</body></html>", { headers: { "content-type": "text/html" }, executed })
export const resetBefore: Fault = { _tag: "Reset", executed: false }
export const resetAfter: Fault = { _tag: "Reset", executed: true }
export const hang: Fault = { _tag: "Hang", executed: false }
export const hangAfter: Fault = { _tag: "Hang", executed: true }
export const late: Fault = { _tag: "Late" }
export const cutLines = (lines: number, executed = true): Fault => ({ _tag: "CutLines", lines, executed })
export const errorEvent = (message: string): Fault => ({ _tag: "ErrorEvent", message })
export const otherWords: Fault = { _tag: "OtherWords" }
export const drop = (frames: number): Fault => ({ _tag: "Drop", frames })
export const closeEarly: Fault = { _tag: "CloseEarly" }
export const textExit: Fault = { _tag: "TextExit" }
export const noExit: Fault = { _tag: "NoExit" }
export const emptyExit: Fault = { _tag: "EmptyExit" }
export const deaf: Fault = { _tag: "Deaf" }

export class Faults {
  readonly #waiting = new Map<Endpoint, Array<Fault>>()

  /** For the next request of this endpoint that has none yet. */
  inject(endpoint: Endpoint, ...faults: ReadonlyArray<Fault>): void {
    this.#waiting.set(endpoint, [...(this.#waiting.get(endpoint) ?? []), ...faults])
  }

  take(endpoint: Endpoint): Fault | undefined {
    return this.#waiting.get(endpoint)?.shift()
  }

  /** How many no request has met. */
  get pending(): number {
    return [...this.#waiting.values()].reduce((sum, faults) => sum + faults.length, 0)
  }
}
