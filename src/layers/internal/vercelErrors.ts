/**
 * What the SDK of Vercel Sandbox throws, as our reasons. Told by structure, never by class: the package has two builds, and
 * `instanceof` fails between them. What nobody foresaw is `Unknown`.
 *
 * The sources of each row are the vendor's documentation and traces of its API (2026-08 to 2026-10, SDK 3.5).
 */
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import type { SandboxErrorReason } from "../../errors.ts"
import {
  Authentication,
  Busy,
  Gone,
  InvalidArgument,
  NotFound,
  NotRunning,
  Permission,
  Quota,
  RateLimited,
  Timeout,
  Unavailable,
  Unknown
} from "../../errors.ts"

/** What was asked for: a 404 is about that, and whether a failed request may have been taken up anyway. */
export interface Asked {
  /** What a 404 says is not there. */
  readonly about: "project" | "sandbox" | "session" | "command" | "snapshot"
  readonly id: string
  /** True for what starts or makes something: an answer that got lost does not prove that nothing happened. */
  readonly effects: boolean
  /** Takes the token, and other secrets of the request, out of a text. */
  readonly scrub: (text: string) => string
}

/** The code of an answer that our `fetch` made up for a request that got none. */
export const unanswered = "effect_sandbox_unanswered"

/** The field of such an answer, and of one that the SDK must not retry, which holds the real status; 0 for none. */
export const madeUp = "effectSandboxStatus"

/** An answer as the SDK's `APIError` carries it. */
interface Answer {
  readonly status: number
  readonly code: string | undefined
  readonly message: string | undefined
  readonly retryAfter: Duration.Duration | undefined
}

const text = (value: unknown, key: string): string | undefined =>
  Predicate.hasProperty(value, key) && Predicate.isString(value[key]) ? value[key] : undefined

const number = (value: unknown, key: string): number | undefined =>
  Predicate.hasProperty(value, key) && Predicate.isNumber(value[key]) ? value[key] : undefined

const property = (value: unknown, key: string): unknown => (Predicate.hasProperty(value, key) ? value[key] : undefined)

/** `Retry-After` in seconds; the vendor sends no dates. */
const retryAfterOf = (response: unknown): Duration.Duration | undefined => {
  const headers = property(response, "headers")
  if (!(headers instanceof Headers)) return undefined
  const seconds = headers.get("retry-after") ?? ""
  return /^\d+(\.\d+)?$/.test(seconds) ? Duration.seconds(Math.min(Number(seconds), 86_400)) : undefined
}

const answerOf = (error: unknown): Answer | undefined => {
  const response = property(error, "response")
  const status = number(response, "status")
  if (status === undefined) return undefined
  const body = property(property(error, "json"), "error")
  return {
    status: number(body, madeUp) ?? status,
    code: text(body, "code"),
    message: text(body, "message"),
    retryAfter: retryAfterOf(response)
  }
}

/** Codes of the network below `fetch`: true if they prove that no request went out. */
const notSent: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT"
])

/** A network failure by the code of its cause, or none. */
export const networkCode = (error: unknown): string | undefined =>
  text(property(error, "cause"), "code") ?? text(error, "code")

const acceptance = (asked: Asked, code: string | undefined): "no" | "unknown" =>
  !asked.effects || (code !== undefined && notSent.has(code)) ? "no" : "unknown"

const notThere = (asked: Asked): SandboxErrorReason => {
  switch (asked.about) {
    case "project":
      // Never `Gone`: in a project that is not there every name is missing, and nothing may be made anew for that.
      return new Authentication({ detail: `Vercel answers 404 for the project ${asked.id} itself` })
    case "sandbox":
      return new Gone({ evidence: `Vercel answers 404 for the name ${asked.id}` })
    case "session":
      return new NotRunning({ detail: "Vercel does not know the session any more" })
    case "command":
      return new NotFound({ kind: "process", id: asked.id })
    case "snapshot":
      return new NotFound({ kind: "checkpoint", id: asked.id })
  }
}

/** Of what was thrown only the text: the object holds the answer, and that may repeat what was sent. */
const causeOf = (error: unknown, asked: Asked): Error => {
  const name = text(error, "name")
  const cause = new Error(asked.scrub(text(error, "message") ?? String(error)))
  return name === undefined ? cause : Object.assign(cause, { name })
}

const ofAnswer = (answer: Answer, asked: Asked, error: unknown): SandboxErrorReason => {
  const { code, retryAfter, status } = answer
  const cause = causeOf(error, asked)
  const wait = retryAfter === undefined ? {} : { retryAfter }
  const detail = asked.scrub(
    `${status}${code === undefined ? "" : ` ${code}`}${answer.message === undefined ? "" : `: ${answer.message}`}`
  )
  // By code first: the vendor gives some of them with several statuses.
  switch (code) {
    case "snapshot_not_found":
      return asked.about === "snapshot"
        ? new NotFound({ kind: "checkpoint", id: asked.id })
        : new Gone({ evidence: `Vercel answers ${status} snapshot_not_found` })
    case "sandbox_stopped":
      return new NotRunning({ detail: "its session has ended" })
    case "sandbox_stopping":
    case "sandbox_snapshotting":
      return new Unavailable({ accepted: "no", detail, cause, ...wait })
    case unanswered:
      return new Unavailable({
        accepted: acceptance(asked, answer.message),
        detail: answer.message ?? "no answer",
        cause
      })
    default:
  }
  // A success that does not decode, or is of another type than it must be: a proxy's, or one that was cut.
  if (status >= 200 && status < 300) {
    return new Unavailable({
      accepted: acceptance(asked, undefined),
      detail: `${status}, an answer that does not decode`,
      cause
    })
  }
  switch (status) {
    case 400:
    case 413:
    case 422:
      return new InvalidArgument({ argument: "request", problem: detail })
    case 401:
      return new Authentication({ detail, cause })
    case 402:
      return new Quota({ detail, cause })
    case 403:
      return new Permission({ detail, cause })
    case 404:
      return notThere(asked)
    case 408:
      return new Timeout({ clock: "request", duration: Duration.zero, accepted: acceptance(asked, undefined) })
    case 409:
      return new Busy({ owner: "vercel" })
    case 410:
      return new NotRunning({ detail: "its session has ended" })
    case 429:
      return new RateLimited({ detail, cause, ...wait })
    default:
      return status >= 500
        ? new Unavailable({
            accepted: acceptance(asked, undefined),
            detail,
            cause,
            ...wait
          })
        : new Unknown({ detail, cause })
  }
}

/** Names of the errors with which the SDK says that it found no credentials; their classes are not exported. */
const credentialErrors: ReadonlySet<string> = new Set(["LocalOidcContextError", "VercelOidcContextError"])

/** Total: every value that the SDK can throw has a reason. */
export const classify = (error: unknown, asked: Asked): SandboxErrorReason => {
  const answer = answerOf(error)
  if (answer !== undefined) return ofAnswer(answer, asked, error)
  const name = text(error, "name") ?? ""
  const cause = causeOf(error, asked)
  const { message } = cause
  if (credentialErrors.has(name)) return new Authentication({ detail: message, cause })
  // A stream that was cut: the command runs on.
  if (name === "StreamError") return new Unavailable({ accepted: acceptance(asked, undefined), detail: message, cause })
  if (name === "ZodError" || name === "SyntaxError") {
    return new Unavailable({
      accepted: acceptance(asked, undefined),
      detail: "an answer that does not decode",
      cause
    })
  }
  if (name === "TypeError" && (message === "fetch failed" || message === "terminated")) {
    const code = networkCode(error)
    return new Unavailable({ accepted: acceptance(asked, code), detail: code ?? message, cause })
  }
  return new Unknown({ detail: message, cause })
}
