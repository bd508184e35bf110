/**
 * What comes of a request to Sprites, as our reasons. The API has three families of bodies: the control plane's JSON (`error`,
 * `errors`, and for limits the time to wait), that of files (`error` with a `code` as the system calls it), and plain text from
 * whatever else there is in a machine. The status decides, the body tells more where it reads. What nobody foresaw is `Unknown`.
 *
 * The sources of each row are the vendor's documentation and traces of its API (2025-11 to 2026-10).
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { SandboxErrorReason } from "../../errors.ts"
import {
  Authentication,
  Busy,
  InvalidArgument,
  NotFound,
  Permission,
  Quota,
  RateLimited,
  Timeout,
  Unavailable,
  Unknown
} from "../../errors.ts"

/** What was asked for: a 404 is about that, and whether a failed request may have been taken up anyway. */
export interface Asked {
  /** What a 404 says is not there, if it is not the sprite. */
  readonly about: "sprite" | "guest" | "checkpoint"
  readonly id: string
  /** True for what starts or makes something: an answer that got lost does not prove that nothing happened. */
  readonly effects: boolean
  /** Takes the token, and other secrets of the request, out of a text. */
  readonly scrub: (text: string) => string
}

/** What a request met instead of what it asked for. */
export type Failure =
  | {
      readonly _tag: "Answer"
      readonly status: number
      readonly body: string
      readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
    }
  /** No answer. */
  | { readonly _tag: "Lost"; readonly error: unknown }
  /** An answer that is none of what the API has. */
  | { readonly _tag: "Undecodable"; readonly error: unknown }
  /** An answer that says in its middle that the work has failed. */
  | { readonly _tag: "Told"; readonly message: string }

const Body = Schema.fromJsonString(
  Schema.Struct({
    error: Schema.optionalKey(Schema.Unknown),
    errors: Schema.optionalKey(Schema.Unknown),
    message: Schema.optionalKey(Schema.Unknown),
    code: Schema.optionalKey(Schema.Unknown),
    retry_after_seconds: Schema.optionalKey(Schema.Unknown)
  })
)
const decodeBody = Schema.decodeUnknownOption(Body)

interface Told {
  readonly error: string | undefined
  readonly message: string | undefined
  readonly code: string | undefined
  readonly retryAfter: unknown
}

const text = (value: unknown): string | undefined => (Predicate.isString(value) && value !== "" ? value : undefined)

const told = (body: string): Told =>
  Option.match(decodeBody(body), {
    onNone: () => ({
      error: undefined,
      // Pages of a proxy tell nothing.
      message: body.trimStart().startsWith("<") ? undefined : text(body.trim()),
      code: undefined,
      retryAfter: undefined
    }),
    onSome: ({ code, error, errors, message, retry_after_seconds }) => ({
      error: text(error),
      message: text(message) ?? (Array.isArray(errors) ? text(errors.map(String).join("; ")) : undefined),
      code: text(code),
      retryAfter: retry_after_seconds
    })
  })

/** The code of a failed file operation, such as `ENOENT`; none for any other failure. */
export const fileCodeOf = (failure: Failure): string | undefined =>
  failure._tag === "Answer" && failure.status >= 400 && failure.status < 500 ? told(failure.body).code : undefined

/** In seconds: the body's first, then the header's; the vendor sends no dates. */
const retryAfterOf = (inBody: unknown, header: string | ReadonlyArray<string> | undefined) => {
  const seconds = Predicate.isNumber(inBody)
    ? inBody
    : Predicate.isString(header) && /^\d+(\.\d+)?$/.test(header)
      ? Number(header)
      : -1
  return seconds >= 0 ? { retryAfter: Duration.seconds(Math.min(seconds, 86_400)) } : {}
}

/** Codes of the network: these prove that no request went out. */
const notSent: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT"
])

/** The code of a network failure, wherever it is wrapped. */
const networkCode = (error: unknown, depth = 0): string | undefined => {
  if (depth > 6) return undefined
  if (Predicate.hasProperty(error, "code") && Predicate.isString(error.code)) return error.code
  const inner = (["reason", "cause", "error"] as const).map((key) =>
    Predicate.hasProperty(error, key) ? networkCode(error[key], depth + 1) : undefined
  )
  return inner.find(Predicate.isNotUndefined)
}

const acceptance = (asked: Asked): "no" | "unknown" => (asked.effects ? "unknown" : "no")

/** Of what was thrown only the text: the object may hold the request. */
const causeOf = (error: unknown, asked: Asked): Error =>
  new Error(asked.scrub(Predicate.isError(error) ? error.message : String(error)).slice(0, 500))

const ofAnswer = (failure: Extract<Failure, { readonly _tag: "Answer" }>, asked: Asked): SandboxErrorReason => {
  const { headers, status } = failure
  const { code, error, message, retryAfter } = told(failure.body)
  const words = [code, error, message].filter(Predicate.isNotUndefined)
  const detail = asked.scrub(`${status}${words.length === 0 ? "" : ` ${words.join(": ")}`}`).slice(0, 500)
  const wait = retryAfterOf(retryAfter, headers["retry-after"])
  switch (status) {
    case 400:
    case 405:
    case 413:
    case 414:
    case 422:
    case 431:
      return new InvalidArgument({ argument: "request", problem: detail })
    case 401:
      return new Authentication({ detail })
    case 402:
      return new Quota({ detail })
    case 403:
      return new Permission({ detail })
    case 404:
      // One answer, which the vendor is known to give in error: whoever asked looks again before anything is gone.
      if (asked.about === "sprite" || error === "sprite not found")
        return new NotFound({ kind: "machine", id: asked.id })
      return asked.about === "checkpoint" ? new NotFound({ kind: "checkpoint", id: asked.id }) : new Unknown({ detail })
    case 408:
      return new Timeout({ clock: "request", duration: Duration.zero, accepted: acceptance(asked) })
    case 409:
      return new Busy({ owner: "sprites" })
    case 429:
      // Both kinds end by waiting: the one of creations, and the one of sprites that run at once, which fall asleep.
      return new RateLimited({ detail, ...wait })
    case 503:
      // From inside of the machine: it is not ready, and has taken nothing up.
      return new Unavailable({ accepted: "no", detail, ...wait })
    default:
      return status >= 500 ? new Unavailable({ accepted: acceptance(asked), detail, ...wait }) : new Unknown({ detail })
  }
}

/** Total: whatever a request meets has a reason. */
export const classify = (failure: Failure, asked: Asked): SandboxErrorReason => {
  switch (failure._tag) {
    case "Answer":
      return ofAnswer(failure, asked)
    case "Lost": {
      const code = networkCode(failure.error)
      const unsent = code !== undefined && notSent.has(code)
      return new Unavailable({
        accepted: unsent ? "no" : acceptance(asked),
        detail: code ?? "the connection was lost",
        cause: causeOf(failure.error, asked)
      })
    }
    case "Undecodable":
      return new Unavailable({
        accepted: acceptance(asked),
        detail: "an answer that does not decode",
        cause: causeOf(failure.error, asked)
      })
    case "Told":
      return new Unknown({ detail: asked.scrub(failure.message).slice(0, 500) })
  }
}
