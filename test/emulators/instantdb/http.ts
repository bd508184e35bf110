/** What passes between the server and the endpoints: a call, a reply, a refusal in the vendor's error shape. */
import type { IncomingHttpHeaders, ServerResponse } from "node:http"

/**
 * An error of the API: `{ type, message, hint, "trace-id" }`, without a type where nothing was found at the URL. Statuses, types and keys
 * of hints are the vendor's; of the messages only the parts that tests compare are.
 */
export class Refusal extends Error {
  readonly status: number
  readonly type: string | undefined
  readonly hint: unknown
  constructor(status: number, type: string | undefined, message: string, hint?: unknown) {
    super(message)
    this.status = status
    this.type = type
    this.hint = hint
  }
}

export const refuse = (status: number, type: string, message: string, hint: unknown = null): never => {
  throw new Refusal(status, type, message, hint)
}

/** 400 `validation-failed`. The hint echoes the input, as the server's does. */
export const invalid = (
  dataType: string,
  input: unknown,
  message: string,
  more: Readonly<Record<string, unknown>> = {}
): never =>
  refuse(400, "validation-failed", `Validation failed for ${dataType}: ${message}`, {
    "data-type": dataType,
    input,
    errors: [{ message, ...more }]
  })

let traces = 0

export const errorBody = (type: string | undefined, message: string, hint: unknown = null) => ({
  ...(type === undefined ? {} : { type, hint }),
  message,
  "trace-id": (++traces).toString(16).padStart(32, "0")
})

export interface Call {
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  /** The variable part of the path. */
  readonly param: string
  /** The decoded JSON body; undefined where there is none. */
  readonly json: unknown
  readonly bytes: Buffer
}

export type Reply =
  | { readonly _tag: "Json"; readonly status: number; readonly body: unknown }
  | { readonly _tag: "Bytes"; readonly bytes: Buffer; readonly type: string }
  /** Server-sent events: the endpoint writes to the response, whose head is already sent, until it closes. */
  | { readonly _tag: "Events"; readonly open: (response: ServerResponse) => void }

export const json = (body: unknown): Reply => ({ _tag: "Json", status: 200, body })

export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

export const isString = (value: unknown): value is string => typeof value === "string"

/** The members of a body that is an object; of anything else none. */
export const fields = (value: unknown): Readonly<Record<string, unknown>> => (isRecord(value) ? value : {})

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

export const isUuid = (value: unknown): value is string => typeof value === "string" && uuid.test(value)
