/** What passes between the server and the endpoints: a call, a reply, and refusals in the three shapes that the API has. */
import type { Readable } from "node:stream"

export interface Call {
  readonly params: ReadonlyArray<string>
  readonly query: URLSearchParams
  readonly json: Readonly<Record<string, unknown>>
  readonly bytes: Buffer
}

export type Reply =
  | { readonly _tag: "Json"; readonly status: number; readonly body: unknown }
  | { readonly _tag: "Text"; readonly status: number; readonly text: string }
  | { readonly _tag: "Empty" }
  | { readonly _tag: "Bytes"; readonly stream: Readable }
  /** NDJSON: the answer begins before the work does. */
  | { readonly _tag: "Lines"; readonly lines: () => AsyncIterable<object> }

export const json = (body: unknown, status = 200): Reply => ({ _tag: "Json", status, body })
export const text = (body: string, status: number): Reply => ({ _tag: "Text", status, text: `${body}\n` })
export const empty: Reply = { _tag: "Empty" }
export const lines = (make: () => AsyncIterable<object>): Reply => ({ _tag: "Lines", lines: make })

/** A refusal. */
export class Refusal extends Error {
  readonly reply: Reply
  constructor(reply: Reply) {
    super("refused")
    this.reply = reply
  }
}

/** The control plane's. */
export const refuse = (status: number, error: string): never => {
  throw new Refusal(json({ error }, status))
}

/** What validation answers. */
export const invalid = (...errors: ReadonlyArray<string>): never => {
  throw new Refusal(json({ errors }, 400))
}

/** The machine's, outside of files. */
export const refuseText = (status: number, message: string): never => {
  throw new Refusal(text(message, status))
}

const statuses: Readonly<Record<string, number>> = {
  ENOENT: 404,
  EACCES: 403,
  EPERM: 403,
  EEXIST: 409,
  ENOTEMPTY: 409
}

/** The machine's, of files. */
export const refuseFile = (error: unknown, path: string): never => {
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "EIO"
  const message = error instanceof Error ? error.message : String(error)
  throw new Refusal(json({ error: message, code, path }, statuses[code] ?? 400))
}

/** A Go duration in ms. */
export const durationOf = (text: string): number => {
  const units: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 }
  if (text === "0") return 0
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|h|m|s)/g)]
  if (parts.map(([whole]) => whole).join("") !== text || parts.length === 0) {
    return refuseText(400, `invalid duration: ${text}`)
  }
  return parts.reduce((sum, [, amount, unit = "s"]) => sum + Number(amount) * (units[unit] ?? 0), 0)
}
