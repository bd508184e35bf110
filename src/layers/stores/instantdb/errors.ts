/**
 * What the SDK of InstantDB throws, as our reasons. Told by structure, never by class: the package has two builds, and `instanceof`
 * fails between them. What nobody foresaw is `Unknown`.
 *
 * Nothing that was thrown is kept: the server's hints repeat the admin token and what was sent.
 */
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import type { StoreFailure } from "../../../errors.ts"
import { SandboxError, Store } from "../../../errors.ts"

/** What a failure of a request means. */
export interface Verdict {
  readonly kind: typeof StoreFailure.Type
  /** Fit to be shown. */
  readonly detail: string
  /**
   * Whether a write may have happened all the same: `no` for an answer that says so, and for a request that never went out.
   */
  readonly written: "no" | "unknown"
  readonly retryAfter?: Duration.Duration | undefined
  /** The unique attribute that somebody else holds the value of. */
  readonly taken?: string | undefined
  /** A `create` of what is there, or an `update` of what is not: told by message, as the server gives them no type. */
  readonly step?: "exists" | "absent" | undefined
  /** Attributes that the pushed schema lacks. */
  readonly missing?: ReadonlyArray<string> | undefined
  readonly cause: Error
}

/** Takes the secrets of a client out of a text. */
export type Scrub = (text: string) => string

/** Takes secrets out of texts, also where they stand in JSON or in a URL. */
export const scrubOf = (...secrets: ReadonlyArray<string | undefined>): Scrub => {
  const forms = [
    ...new Set(
      secrets.flatMap((secret) =>
        secret === undefined || secret === ""
          ? []
          : [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]
      )
    )
  ]
  return (text) => forms.reduce((rest, form) => rest.replaceAll(form, "<redacted>"), text)
}

const property = (value: unknown, key: string): unknown => (Predicate.hasProperty(value, key) ? value[key] : undefined)

const text = (value: unknown, key: string): string | undefined => {
  const found = property(value, key)
  return Predicate.isString(found) ? found : undefined
}

const number = (value: unknown, key: string): number | undefined => {
  const found = property(value, key)
  return Predicate.isNumber(found) ? found : undefined
}

/** Codes of the network below `fetch` that prove that no request went out. */
const notSent: ReadonlySet<string> = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"])
/** Codes that prove it only of an attempt to connect: a connection that is in use breaks with them too. */
const notConnected: ReadonlySet<string> = new Set(["EHOSTUNREACH", "ENETUNREACH"])

/** Of what was thrown only its name and its message, scrubbed: the object holds the answer, and that repeats what was sent. */
const causeOf = (error: unknown, scrub: Scrub): Error => {
  const name = text(error, "name")
  const message = scrub(text(error, "message") ?? (Predicate.isString(error) ? error : typeof error)).slice(0, 400)
  const cause = new Error(message)
  delete cause.stack
  return name === undefined ? cause : Object.assign(cause, { name })
}

/** Types whose 400 says that the app, its address or its token is not what it should be. */
const misconfigured: ReadonlySet<string> = new Set(["param-missing", "param-malformed", "session-missing"])

/** Types with which an app takes no writes, or nothing at all. */
const closed: ReadonlySet<string> = new Set([
  "app-read-only",
  "app-disabled",
  "app-creation-disabled",
  "signups-closed"
])

/** The attributes that a strict transaction did not find: `hint.errors[].hint.attributes`. */
const missingOf = (hint: unknown): ReadonlyArray<string> => {
  const errors = property(hint, "errors")
  if (!Array.isArray(errors)) return []
  return errors.flatMap((error) => {
    const attributes = property(property(error, "hint"), "attributes")
    return Array.isArray(attributes) ? attributes.filter(Predicate.isString) : []
  })
}

const messagesOf = (body: unknown): string => {
  const errors = property(property(body, "hint"), "errors")
  const inner = Array.isArray(errors) ? errors.map((error) => text(error, "message") ?? "") : []
  return [text(body, "message") ?? "", ...inner].join("\n")
}

const ofValidation = (body: unknown, base: Omit<Verdict, "kind" | "written">): Verdict => {
  const hint = property(body, "hint")
  const missing = missingOf(hint)
  if (missing.length > 0) return { ...base, kind: "SchemaMissing", written: "no", missing }
  // What says the same of an update that also changes the attribute by which it finds its entity.
  if (property(hint, "data-type") === "lookup") return { ...base, kind: "Conflict", written: "no", step: "absent" }
  if (property(hint, "data-type") === "tx-step") {
    const messages = messagesOf(body)
    if (messages.includes("Creating entities that exist")) {
      return { ...base, kind: "AlreadyExists", written: "no", step: "exists" }
    }
    if (messages.includes("Updating entities that don't exist")) {
      return { ...base, kind: "Conflict", written: "no", step: "absent" }
    }
  }
  return { ...base, kind: "Unknown", written: "no" }
}

/** An `InstantAPIError` that came with a status. */
const ofAnswer = (status: number, body: unknown, scrub: Scrub, cause: Error): Verdict => {
  const type = text(body, "type")
  const hint = property(body, "hint")
  const message = text(body, "message")
  // Without a type the message is a proxy's page.
  const said = type === undefined || message === undefined ? "" : `: ${scrub(message)}`
  const base = { detail: `${status}${type === undefined ? "" : ` ${scrub(type)}`}${said}`.slice(0, 400), cause }
  switch (type) {
    case "record-not-unique":
      return {
        ...base,
        kind: "AlreadyExists",
        written: "no",
        taken: `${text(hint, "etype") ?? ""}.${text(hint, "label") ?? ""}`
      }
    case "validation-failed":
      return ofValidation(body, base)
    case "record-not-found":
      // Of an app that does not exist the token does not, either.
      return ["app", "app-admin-token"].includes(text(hint, "record-type") ?? "")
        ? { ...base, kind: "Misconfigured", written: "no" }
        : { ...base, kind: "Unknown", written: "no" }
    case "permission-denied":
    case "permission-evaluation-failed":
      return { ...base, kind: "ReadOnly", written: "no" }
    case "rate-limited": {
      const seconds = number(hint, "retry-after")
      const retryAfter = seconds === undefined ? undefined : Duration.seconds(Math.min(Math.max(seconds, 0), 86_400))
      return { ...base, kind: "Unavailable", written: "no", retryAfter }
    }
    case "timeout":
      // A statement passed 30 s, and everything was rolled back.
      return { ...base, kind: "Unavailable", written: "no" }
    case "sql-exception":
      // Mostly a deadlock, rolled back; but a connection that breaks in a commit is one too.
      return { ...base, kind: "Locked", written: "unknown" }
    default:
  }
  if (type !== undefined && misconfigured.has(type)) return { ...base, kind: "Misconfigured", written: "no" }
  if (type !== undefined && closed.has(type)) return { ...base, kind: "ReadOnly", written: "no" }
  if (status === 429) return { ...base, kind: "Unavailable", written: "no" }
  if (status === 401 || status === 403 || status === 404) return { ...base, kind: "Misconfigured", written: "no" }
  if (status === 408 || status >= 500) return { ...base, kind: "Unavailable", written: "unknown" }
  // A success of another status, which the SDK takes for an error.
  if (status >= 200 && status < 400) return { ...base, kind: "Unavailable", written: "unknown" }
  return { ...base, kind: "Unknown", written: "no" }
}

const networkCode = (error: unknown): string | undefined =>
  text(property(error, "cause"), "code") ?? text(error, "code")

const wasSent = (error: unknown, code: string | undefined): boolean => {
  if (code === undefined) return true
  return !notSent.has(code) && !(notConnected.has(code) && text(property(error, "cause"), "syscall") === "connect")
}

/** Total: every value that the SDK can throw has a verdict. */
export const classify = (error: unknown, scrub: Scrub): Verdict => {
  const cause = causeOf(error, scrub)
  const status = number(error, "status")
  if (status !== undefined) return ofAnswer(status, property(error, "body"), scrub, cause)
  const name = text(error, "name") ?? ""
  switch (name) {
    case "TypeError": {
      const code = networkCode(error)
      // Anything but these two is a defect, of the SDK's or ours.
      if (cause.message !== "fetch failed" && cause.message !== "terminated") break
      const detail = code ?? cause.message
      const written = wasSent(error, code) ? "unknown" : "no"
      return { kind: "Unavailable", detail, written, cause }
    }
    case "SyntaxError":
      return { kind: "Unavailable", detail: "an answer that is no JSON", written: "unknown", cause }
    case "AbortError":
    case "TimeoutError":
      return { kind: "Unavailable", detail: "no answer in time", written: "unknown", cause }
    case "TransactionValidationError":
    case "QueryValidationError":
      // The SDK checks before it sends.
      return { kind: "Unknown", detail: `${name}: ${cause.message}`, written: "no", cause }
    default:
  }
  if (cause.message.startsWith("Admin token required")) {
    return { kind: "Misconfigured", detail: "the client has no admin token", written: "no", cause }
  }
  return { kind: "Unknown", detail: cause.message, written: "unknown", cause }
}

/** Where a failure happened, for the error. */
export interface Where {
  readonly sandboxId?: string
  readonly processId?: string
}

/** The verdict as the error of a store's operation. */
export const toSandboxError = (operation: string, where: Where, verdict: Verdict): SandboxError =>
  new SandboxError({
    operation,
    ...where,
    reason: new Store({
      kind: verdict.kind,
      detail: verdict.detail,
      cause: verdict.cause,
      ...(verdict.retryAfter === undefined ? {} : { retryAfter: verdict.retryAfter }),
      ...(verdict.missing === undefined ? {} : { missing: verdict.missing })
    })
  })
