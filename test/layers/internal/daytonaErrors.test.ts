/** What the SDK of Daytona throws, as a table; made by the SDK's own classes where it has some. */
import { assert, describe, it } from "@effect/vitest"
import * as Sdk from "@daytonaio/sdk"
import { Duration } from "effect"
import type { ReasonTag } from "../../../src/errors.ts"
import { SandboxError } from "../../../src/errors.ts"
import type { Asked } from "../../../src/layers/internal/daytonaErrors.ts"
import { classify } from "../../../src/layers/internal/daytonaErrors.ts"

const secret = "planted-secret-7f3a"

const asked = (fields: Partial<Asked> = {}): Asked => ({
  about: "sandbox",
  id: "an-id",
  effects: false,
  scrub: (text) => text.replaceAll(secret, "<redacted>"),
  ...fields
})

const answer = (status: number, message = "no", code?: string) => new Sdk.DaytonaError(message, status, undefined, code)

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

const noIp =
  "bad request: failed to resolve container IP after 3 attempts: no IP address found. Is the Sandbox started?"

const table: ReadonlyArray<Row> = [
  { name: "400", error: new Sdk.DaytonaValidationError("no", 400), tag: "InvalidArgument", retryable: false },
  { name: "400 of a toolbox", error: answer(400, noIp), tag: "NotRunning", retryable: false },
  { name: "400 for a quota", error: answer(400, "Total CPU quota exceeded"), tag: "Quota", retryable: false },
  { name: "401", error: new Sdk.DaytonaAuthenticationError("no", 401), tag: "Authentication", retryable: false },
  {
    name: "401 without a status",
    error: new Sdk.DaytonaAuthenticationError("no"),
    tag: "Authentication",
    retryable: false
  },
  { name: "402", error: answer(402), tag: "Quota", retryable: false },
  { name: "403", error: new Sdk.DaytonaAuthorizationError("no", 403), tag: "Permission", retryable: false },
  { name: "404 of a sandbox", error: new Sdk.DaytonaNotFoundError("no", 404), tag: "Gone", retryable: false },
  { name: "404 in a guest", error: answer(404), asked: { about: "guest" }, tag: "NotRunning", retryable: false },
  { name: "404 of a snapshot", error: answer(404), asked: { about: "snapshot" }, tag: "NotFound", retryable: false },
  { name: "404 of a volume", error: answer(404), asked: { about: "volume" }, tag: "NotFound", retryable: false },
  { name: "405", error: answer(405), tag: "InvalidArgument", retryable: false },
  { name: "408", error: new Sdk.DaytonaTimeoutError("no", 408), tag: "Timeout", retryable: true, notAccepted: true },
  { name: "408 of a start", error: answer(408), asked: effects, tag: "Timeout", retryable: true, notAccepted: false },
  {
    name: "408 of the daemon",
    error: new Sdk.DaytonaProcessExecutionTimeoutError("no", 408),
    asked: effects,
    tag: "Timeout",
    retryable: true,
    notAccepted: false
  },
  { name: "409", error: new Sdk.DaytonaConflictError("no", 409), tag: "Busy", retryable: true },
  { name: "410", error: new Sdk.DaytonaGoneError("no", 410), tag: "NotRunning", retryable: false },
  { name: "412", error: answer(412), tag: "InvalidArgument", retryable: false },
  { name: "413", error: answer(413), tag: "InvalidArgument", retryable: false },
  { name: "418", error: answer(418), tag: "Unknown", retryable: false },
  {
    name: "422",
    error: new Sdk.DaytonaUnprocessableEntityError("no", 422),
    tag: "UnsupportedCapability",
    retryable: false
  },
  { name: "423", error: answer(423), tag: "Busy", retryable: true },
  {
    name: "429",
    error: new Sdk.DaytonaRateLimitError("no", 429),
    tag: "RateLimited",
    retryable: true,
    notAccepted: true
  },
  {
    name: "500",
    error: new Sdk.DaytonaInternalServerError("no", 500),
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  { name: "501", error: answer(501), tag: "Unavailable", retryable: true },
  {
    name: "502 of a creation",
    error: answer(502),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  { name: "503", error: answer(503), tag: "Unavailable", retryable: true },
  { name: "504", error: new Sdk.DaytonaTimeoutError("no", 504), tag: "Timeout", retryable: true },
  {
    name: "a file that is not there",
    error: new Sdk.DaytonaFileNotFoundError("no", 404),
    asked: { about: "guest" },
    tag: "NotRunning",
    retryable: false
  },
  {
    name: "the SDK's deadline",
    error: new Sdk.DaytonaConnectionTimeoutError("no"),
    asked: effects,
    tag: "Timeout",
    retryable: true,
    notAccepted: false
  },
  { name: "a wait that ran out", error: new Sdk.DaytonaTimeoutError("no"), tag: "Timeout", retryable: true },
  {
    name: "no connection",
    error: new Sdk.DaytonaConnectionError("connect ECONNREFUSED 127.0.0.1:1"),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: true
  },
  {
    name: "a lost one",
    error: new Sdk.DaytonaConnectionError("socket hang up"),
    asked: effects,
    tag: "Unavailable",
    retryable: true,
    notAccepted: false
  },
  {
    name: "a wrong argument",
    error: new Sdk.DaytonaInvalidArgumentError("no"),
    tag: "InvalidArgument",
    retryable: false
  },
  {
    name: "a missing argument",
    error: Object.assign(new Error("no"), { name: "RequiredError" }),
    tag: "InvalidArgument",
    retryable: false
  },
  {
    name: "a truncated download",
    error: Object.assign(new Error("aborted"), { code: "ECONNRESET" }),
    tag: "Unavailable",
    retryable: true
  },
  { name: "half a form", error: new Error("Unexpected end of form"), tag: "Unavailable", retryable: true },
  {
    name: "a socket's event",
    error: { type: "error", message: "Unexpected server response: 502" },
    tag: "Unknown",
    retryable: false
  },
  {
    name: "a state of a wait",
    error: new Sdk.DaytonaError("failed to start with status: error"),
    tag: "Unknown",
    retryable: false
  },
  { name: "a RangeError", error: new RangeError("Maximum call stack size exceeded"), tag: "Unknown", retryable: false },
  { name: "undefined", error: undefined, tag: "Unknown", retryable: false },
  { name: "text", error: "no", tag: "Unknown", retryable: false }
]

describe("what Daytona's SDK throws", () => {
  for (const { asked: fields, error, name, notAccepted, retryable, tag } of table) {
    it(name, () => {
      const reason = classify(error, asked(fields))
      assert.strictEqual(reason._tag, tag)
      assert.strictEqual(reason.isRetryable, retryable)
      if (notAccepted !== undefined) {
        assert.strictEqual(new SandboxError({ operation: "test", reason }).provesNotAccepted, notAccepted)
      }
    })
  }

  it("takes the longest of the waits that the headers ask for, whatever their scope", () => {
    const limited = (headers: Record<string, string>) =>
      classify(Object.assign(new Sdk.DaytonaRateLimitError("no", 429), { headers }), asked())
    const wait = (headers: Record<string, string>) => {
      const reason = limited(headers)
      return "retryAfter" in reason && reason.retryAfter !== undefined
        ? Duration.toSeconds(reason.retryAfter)
        : undefined
    }
    assert.strictEqual(wait({ "retry-after-authenticated": "7" }), 7)
    assert.strictEqual(wait({ "Retry-After-sandbox-create": "3", "Retry-After-anonymous": "9" }), 9)
    assert.strictEqual(wait({ "retry-after": "2" }), 2)
    assert.strictEqual(wait({ "retry-after": "tomorrow" }), undefined)
    assert.strictEqual(wait({}), undefined)
  })

  it("shows no secret, whatever the vendor repeats", () => {
    for (const status of [400, 401, 402, 403, 404, 409, 418, 422, 429, 500]) {
      const error = new SandboxError({ operation: "test", reason: classify(answer(status, `no ${secret}`), asked()) })
      assert.notInclude(JSON.stringify(error), secret)
      assert.notInclude(error.message, secret)
    }
  })
})
