/** What passes between the server and the endpoints: a call, a reply, a refusal in the vendor's error shape. */
import type { Readable } from "node:stream"

/** An error answer: `{ error: { code, message } }`, the shape of every error of the API. */
export class Refusal extends Error {
  readonly status: number
  readonly code: string
  constructor(status: number, code: string, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

export const refuse = (status: number, code: string, message: string): never => {
  throw new Refusal(status, code, message)
}

export const badRequest = (message: string): never => refuse(400, "bad_request", message)

export const notFound = (what: string): never => refuse(404, "not_found", `${what} not found.`)

export const errorBody = (code: string, message: string) => ({ error: { code, message } })

/** The line with which the vendor ends a stream that cannot go on. */
export const errorLine = (code: string, message: string): string =>
  `${JSON.stringify({ stream: "error", data: { code, message } })}\n`

export interface Call {
  /** What the path's variables hold, decoded. */
  readonly params: ReadonlyArray<string>
  readonly query: URLSearchParams
  readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  /** The decoded JSON body; undefined where there is none. */
  readonly json: unknown
  readonly bytes: Buffer
}

export type Reply =
  | { readonly _tag: "Json"; readonly status: number; readonly body: unknown }
  | { readonly _tag: "Bytes"; readonly stream: Readable }
  | { readonly _tag: "Lines"; readonly lines: (signal: AbortSignal) => AsyncIterable<Buffer> }

export const json = (body: unknown, status = 200): Reply => ({ _tag: "Json", status, body })
