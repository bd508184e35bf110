/**
 * What the SDK of Daytona throws, as our reasons. Told by name, status, code and words, never by class: the package has two builds,
 * one of its classes claims to be another, and some of what it throws is no error of its own. What nobody foresaw is `Unknown`.
 *
 * The sources of each row are the vendor's server as last published (0.190), its SDK 0.218 and issues of its users.
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
  Unknown,
  UnsupportedCapability
} from "../../errors.ts"

/** What was asked for: a 404 is about that, and whether a failed request may have been taken up anyway. */
export interface Asked {
  /** What a 404 says is not there; `guest` is what answers inside of a sandbox. */
  readonly about: "sandbox" | "guest" | "snapshot" | "volume"
  readonly id: string
  /** True for what starts or makes something: an answer that got lost does not prove that nothing happened. */
  readonly effects: boolean
  /** Takes the credentials, and other secrets of the request, out of a text. */
  readonly scrub: (text: string) => string
}

const text = (value: unknown, key: string): string | undefined =>
  Predicate.hasProperty(value, key) && Predicate.isString(value[key]) ? value[key] : undefined

const number = (value: unknown, key: string): number | undefined =>
  Predicate.hasProperty(value, key) && Predicate.isNumber(value[key]) ? value[key] : undefined

/** `Retry-After`, which the vendor sends with the name of a limit behind it, in seconds: the longest of them. */
const retryAfterOf = (error: unknown): Duration.Duration | undefined => {
  const headers = Predicate.hasProperty(error, "headers") ? error.headers : undefined
  if (!Predicate.isObject(headers)) return undefined
  const seconds = Object.entries(headers).flatMap(([name, value]) =>
    /^retry-after(-|$)/i.test(name) && /^\d+(\.\d+)?$/.test(String(value)) ? [Number(value)] : []
  )
  return seconds.length === 0 ? undefined : Duration.seconds(Math.min(Math.max(...seconds), 86_400))
}

/** Failures of the network that prove that no request went out; the SDK keeps only the words. */
const notSent = /\b(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL)\b/

const acceptance = (asked: Asked, message: string): "no" | "unknown" =>
  !asked.effects || notSent.test(message) ? "no" : "unknown"

/** The vendor has no code for a toolbox whose sandbox does not run. */
const notStarted = /is the sandbox (started|running)\?|failed to resolve container ip|no ip address found/i

const overQuota = /\bquota\b|\blimits? (is |was )?(exceeded|reached)|exceed(s|ed)? .*\blimit/i

const notThere = (asked: Asked, detail: string): SandboxErrorReason => {
  switch (asked.about) {
    case "sandbox":
      return new Gone({ evidence: `Daytona answers 404 for the sandbox ${asked.id}` })
    case "guest":
      return new NotRunning({ detail })
    case "snapshot":
      return new NotFound({ kind: "checkpoint", id: asked.id })
    case "volume":
      return new NotFound({ kind: "volume", id: asked.id })
  }
}

/** Of what was thrown only the text: the object holds the answer, and that may repeat what was sent. */
const causeOf = (error: unknown, message: string): Error => {
  const name = text(error, "name")
  const cause = new Error(message)
  return name === undefined ? cause : Object.assign(cause, { name })
}

const ofStatus = (status: number, asked: Asked, error: unknown, message: string): SandboxErrorReason => {
  const code = text(error, "code")
  const cause = causeOf(error, message)
  const detail = `${status}${code === undefined ? "" : ` ${code}`}${message === "" ? "" : `: ${message}`}`
  const retryAfter = retryAfterOf(error)
  const wait = retryAfter === undefined ? {} : { retryAfter }
  switch (status) {
    case 400:
      if (notStarted.test(message)) return new NotRunning({ detail: "the toolbox cannot be reached" })
      return overQuota.test(message)
        ? new Quota({ detail, cause })
        : new InvalidArgument({ argument: "request", problem: detail })
    case 401:
      return new Authentication({ detail, cause })
    case 402:
      return new Quota({ detail, cause })
    case 403:
      return overQuota.test(message) ? new Quota({ detail, cause }) : new Permission({ detail, cause })
    case 404:
      return notThere(asked, detail)
    case 405:
    case 412:
    case 413:
    case 415:
      return new InvalidArgument({ argument: "request", problem: detail })
    case 408:
    case 504:
      return new Timeout({ clock: "request", duration: Duration.zero, accepted: acceptance(asked, "") })
    case 409:
    case 423:
      return new Busy({ owner: "daytona", ...wait })
    case 410:
      return new NotRunning({ detail })
    case 422:
      return new UnsupportedCapability({ capability: "this kind of sandbox", detail })
    case 429:
      return new RateLimited({ detail, cause, ...wait })
    default:
      return status >= 500
        ? new Unavailable({ accepted: acceptance(asked, ""), detail, cause, ...wait })
        : new Unknown({ detail, cause })
  }
}

/** Total: every value that the SDK can throw has a reason. */
export const classify = (error: unknown, asked: Asked): SandboxErrorReason => {
  const name = text(error, "name") ?? ""
  // A socket's `ErrorEvent` is no error, but has its words.
  const message = asked.scrub(text(error, "message") ?? String(error)).slice(0, 2_000)
  const status = number(error, "statusCode")
  const cause = causeOf(error, message)
  if (name === "DaytonaConnectionTimeoutError" || (name === "DaytonaTimeoutError" && status === undefined)) {
    return new Timeout({ clock: "request", duration: Duration.zero, accepted: acceptance(asked, "") })
  }
  if (status !== undefined) return ofStatus(status, asked, error, message)
  switch (name) {
    case "DaytonaAuthenticationError":
      return new Authentication({ detail: message, cause })
    case "DaytonaInvalidArgumentError":
    case "RequiredError":
      return new InvalidArgument({ argument: "request", problem: message })
    case "DaytonaConnectionError":
    case "SyntaxError":
      return new Unavailable({ accepted: acceptance(asked, message), detail: message, cause })
    default:
  }
  // A transfer that was cut: the parser's words, or the socket's.
  return /\b(aborted|ECONNRESET|EPIPE)\b|socket hang up|unexpected end of (form|data)|no file data received/i.test(
    `${message} ${text(error, "code") ?? ""}`
  )
    ? new Unavailable({ accepted: acceptance(asked, message), detail: message, cause })
    : new Unknown({ detail: message, cause })
}
