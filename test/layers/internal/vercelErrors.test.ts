/** What the SDK of Vercel Sandbox throws, as a table. */
import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import type { ReasonTag } from "../../../src/errors.ts"
import { SandboxError } from "../../../src/errors.ts"
import type { Asked } from "../../../src/layers/internal/vercelErrors.ts"
import { classify, madeUp, unanswered } from "../../../src/layers/internal/vercelErrors.ts"

const secret = "planted-secret-7f3a"

const asked = (fields: Partial<Asked> = {}): Asked => ({
  about: "sandbox",
  id: "sbx-name",
  effects: false,
  scrub: (text) => text.replaceAll(secret, "<redacted>"),
  ...fields
})

/** As the SDK's `APIError` is built, without its class. */
const answer = (status: number, code?: string, message?: string, headers: Record<string, string> = {}) =>
  Object.assign(new Error(`Status code ${status} is not ok: ${message}`), {
    response: { status, headers: new Headers(headers) },
    json: { error: { code, message } }
  })

const thrown = (name: string, message: string, cause?: unknown) =>
  Object.assign(new Error(message, { cause }), { name })

const network = (code: string) => thrown("TypeError", "fetch failed", Object.assign(new Error("x"), { code }))

interface Row {
  readonly name: string
  readonly error: unknown
  readonly asked?: Partial<Asked>
  readonly tag: ReasonTag
  readonly retryable: boolean
  /** Whether it proves that nothing was taken up. */
  readonly notAccepted?: boolean
}

const effects = { effects: true } as const

const table: ReadonlyArray<Row> = [
  { name: "400", error: answer(400, "bad_request", "no"), tag: "InvalidArgument", retryable: false },
  { name: "401", error: answer(401, "unauthorized"), tag: "Authentication", retryable: false },
  { name: "402", error: answer(402, "payment_required"), tag: "Quota", retryable: false },
  { name: "403", error: answer(403, "forbidden"), tag: "Permission", retryable: false },
  { name: "404 of a name", error: answer(404, "not_found"), tag: "Gone", retryable: false },
  {
    name: "404 of the project",
    error: answer(404, "not_found"),
    asked: { about: "project" },
    tag: "Authentication",
    retryable: false
  },
  {
    name: "404 of a session",
    error: answer(404, "not_found"),
    asked: { about: "session" },
    tag: "NotRunning",
    retryable: false
  },
  {
    name: "404 of a command",
    error: answer(404, "not_found"),
    asked: { about: "command" },
    tag: "NotFound",
    retryable: false
  },
  {
    name: "404 of a snapshot",
    error: answer(404, "not_found"),
    asked: { about: "snapshot" },
    tag: "NotFound",
    retryable: false
  },
  { name: "404 without a body", error: answer(404), tag: "Gone", retryable: false },
  { name: "408", error: answer(408), tag: "Timeout", retryable: true, notAccepted: true },
  { name: "408 of a start", error: answer(408), asked: effects, tag: "Timeout", retryable: true, notAccepted: false },
  { name: "409", error: answer(409), tag: "Busy", retryable: true },
  { name: "410", error: answer(410), tag: "NotRunning", retryable: false },
  { name: "410 sandbox_stopped", error: answer(410, "sandbox_stopped"), tag: "NotRunning", retryable: false },
  { name: "410 snapshot_not_found", error: answer(410, "snapshot_not_found"), tag: "Gone", retryable: false },
  { name: "400 snapshot_not_found", error: answer(400, "snapshot_not_found"), tag: "Gone", retryable: false },
  {
    name: "snapshot_not_found of a snapshot",
    error: answer(410, "snapshot_not_found"),
    asked: { about: "snapshot" },
    tag: "NotFound",
    retryable: false
  },
  {
    name: "422 sandbox_stopping",
    error: answer(422, "sandbox_stopping"),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  {
    name: "422 sandbox_snapshotting",
    error: answer(422, "sandbox_snapshotting"),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  { name: "422 of another kind", error: answer(422, "bad"), tag: "InvalidArgument", retryable: false },
  { name: "413", error: answer(413), tag: "InvalidArgument", retryable: false },
  { name: "429", error: answer(429), asked: effects, tag: "RateLimited", retryable: true, notAccepted: true },
  { name: "500", error: answer(500), tag: "Unavailable", retryable: true, notAccepted: true },
  {
    name: "500 of a start",
    error: answer(500),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  {
    name: "503 of a start",
    error: answer(503),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  {
    name: "a success that does not decode",
    error: answer(200),
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  {
    name: "a success of a start that does not decode",
    error: answer(200),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  { name: "a status nobody knows", error: answer(418), tag: "Unknown", retryable: false },
  {
    name: "an answer made up for 502",
    error: Object.assign(answer(499), { json: { error: { message: "x", [madeUp]: 502 } } }),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  {
    name: "an answer made up for 429",
    error: Object.assign(answer(499), { json: { error: { message: "x", [madeUp]: 429 } } }),
    asked: effects,
    tag: "RateLimited",
    retryable: true,
    notAccepted: true
  },
  {
    name: "an answer made up for a reset",
    error: Object.assign(answer(499), { json: { error: { code: unanswered, message: "ECONNRESET", [madeUp]: 0 } } }),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  {
    name: "an answer made up for a refused connection",
    error: Object.assign(answer(499), { json: { error: { code: unanswered, message: "ECONNREFUSED", [madeUp]: 0 } } }),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  {
    name: "ECONNRESET",
    error: network("ECONNRESET"),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  {
    name: "ENOTFOUND",
    error: network("ENOTFOUND"),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  { name: "a cut body", error: thrown("TypeError", "terminated"), tag: "Unavailable", retryable: true },
  {
    name: "a stream error",
    error: Object.assign(thrown("StreamError", "closed"), { code: "sandbox_stream_closed" }),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  { name: "a line that does not decode", error: thrown("ZodError", "[]"), tag: "Unavailable", retryable: true },
  { name: "a line that is no JSON", error: thrown("SyntaxError", "x"), tag: "Unavailable", retryable: true },
  {
    name: "no credentials, here",
    error: thrown("LocalOidcContextError", "x"),
    tag: "Authentication",
    retryable: false
  },
  {
    name: "no credentials, there",
    error: thrown("VercelOidcContextError", "x"),
    tag: "Authentication",
    retryable: false
  },
  { name: "a plain error", error: new Error("No route for port 1"), tag: "Unknown", retryable: false },
  {
    name: "a TypeError of the SDK's own",
    error: new TypeError("x is not a function"),
    tag: "Unknown",
    retryable: false
  },
  { name: "a text", error: "Disposed", tag: "Unknown", retryable: false },
  { name: "nothing", error: undefined, tag: "Unknown", retryable: false },
  { name: "null", error: null, tag: "Unknown", retryable: false },
  { name: "an odd response", error: { response: null, json: 5 }, tag: "Unknown", retryable: false },
  { name: "an odd status", error: { response: { status: "404" } }, tag: "Unknown", retryable: false }
]

describe("the classifier of Vercel", () => {
  for (const row of table) {
    it(row.name, () => {
      const reason = classify(row.error, asked(row.asked))
      assert.strictEqual(reason._tag, row.tag)
      assert.strictEqual(reason.isRetryable, row.retryable)
      if (row.notAccepted !== undefined) {
        assert.strictEqual(new SandboxError({ operation: "x", reason }).provesNotAccepted, row.notAccepted)
      }
    })
  }

  it("tells how long to wait", () => {
    const reason = classify(answer(429, "rate_limited", "slow down", { "retry-after": "7" }), asked())
    assert.isTrue(reason._tag === "RateLimited" && reason.retryAfter !== undefined)
    assert.deepStrictEqual(new SandboxError({ operation: "x", reason }).retryAfter, Duration.seconds(7))
    for (const odd of ["", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"]) {
      const none = classify(answer(429, undefined, undefined, { "retry-after": odd }), asked())
      assert.isUndefined(none._tag === "RateLimited" ? none.retryAfter : "another reason", odd)
    }
  })

  it("repeats no secret that an answer echoes", () => {
    for (const error of [
      answer(403, "forbidden", `token ${secret} is bad`),
      answer(500, secret, secret),
      thrown("TypeError", "fetch failed", Object.assign(new Error(secret), { code: "X" })),
      thrown("StreamError", secret),
      new Error(secret),
      secret
    ]) {
      const reason = classify(error, asked())
      const wrapped = new SandboxError({ operation: "x", reason })
      const cause =
        "cause" in reason && reason.cause instanceof Error ? `${reason.cause.message} ${reason.cause.stack}` : ""
      assert.notInclude(`${JSON.stringify(wrapped)} ${wrapped.message} ${reason.message} ${cause}`, secret)
    }
  })
})
