/** What the API answers, in its three families of bodies, and what it becomes. */
import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import type { ReasonTag } from "../../../src/errors.ts"
import { classify, type Asked, type Failure, fileCodeOf } from "../../../src/layers/internal/spritesErrors.ts"

const asked = (fields: Partial<Asked> = {}): Asked => ({
  about: "guest",
  id: "box",
  effects: true,
  scrub: (text) => text.replaceAll("hunter2", "<redacted>"),
  ...fields
})

const answer = (status: number, body = "", headers: Record<string, string> = {}): Failure => ({
  _tag: "Answer",
  status,
  body,
  headers
})
const json = (status: number, body: object, headers?: Record<string, string>) =>
  answer(status, JSON.stringify(body), headers)
const lost = (error: unknown): Failure => ({ _tag: "Lost", error })
const html = "<html><body>Bad Gateway</body></html>"

interface Row {
  readonly name: string
  readonly failure: Failure
  readonly asked?: Partial<Asked>
  readonly tag: ReasonTag
  readonly accepted?: "no" | "unknown"
  readonly retryAfter?: number
  readonly says?: string
}

const table: ReadonlyArray<Row> = [
  // The control plane.
  { name: "401", failure: json(401, { error: "authentication failed" }), tag: "Authentication" },
  { name: "402", failure: json(402, { error: "pay" }), tag: "Quota" },
  { name: "403", failure: json(403, { error: "no" }), tag: "Permission" },
  { name: "404 of the sprite", failure: json(404, { error: "sprite not found" }), tag: "NotFound", says: "machine" },
  { name: "404 without words", failure: answer(404), asked: { about: "sprite" }, tag: "NotFound", says: "machine" },
  {
    name: "400 with errors",
    failure: json(400, { errors: ["name is bad", "and long"] }),
    tag: "InvalidArgument",
    says: "name is bad; and long"
  },
  { name: "409", failure: json(409, { error: "sprite name already exists" }), tag: "Busy" },
  { name: "422", failure: json(422, { errors: ["x"] }), tag: "InvalidArgument" },
  {
    name: "429 of creations, with the body's time before the header's",
    failure: json(429, { error: "sprite_creation_rate_limited", retry_after_seconds: 7 }, { "retry-after": "9" }),
    tag: "RateLimited",
    retryAfter: 7
  },
  {
    name: "429 of running sprites, with the header's time",
    failure: json(429, { error: "concurrent_sprite_limit_exceeded", limit: 3 }, { "retry-after": "9" }),
    tag: "RateLimited",
    retryAfter: 9,
    says: "concurrent_sprite_limit_exceeded"
  },
  // Files.
  { name: "a file's code", failure: json(403, { error: "denied", code: "EACCES", path: "/x" }), tag: "Permission" },
  // Plain text from the machine.
  { name: "404 of a route", failure: answer(404, "404 page not found\n"), tag: "Unknown", says: "page not found" },
  { name: "404 of a session", failure: answer(404, "session not found: 20"), tag: "Unknown" },
  {
    name: "404 of a checkpoint",
    failure: answer(404, "checkpoint not found"),
    asked: { about: "checkpoint" },
    tag: "NotFound",
    says: "checkpoint"
  },
  {
    name: "404 of the sprite where a checkpoint was asked for",
    failure: json(404, { error: "sprite not found" }),
    asked: { about: "checkpoint" },
    tag: "NotFound",
    says: "machine"
  },
  { name: "408", failure: answer(408, "stop timed out"), tag: "Timeout", accepted: "unknown" },
  { name: "500", failure: answer(500, "boom"), tag: "Unavailable", accepted: "unknown", says: "boom" },
  {
    name: "503, which has taken nothing up",
    failure: answer(503, "process not ready", { "retry-after": "2" }),
    tag: "Unavailable",
    accepted: "no",
    retryAfter: 2
  },
  // The edge.
  { name: "502 of a proxy", failure: answer(502, html), tag: "Unavailable", accepted: "unknown" },
  {
    name: "502 of a question",
    failure: answer(502, html),
    asked: { effects: false },
    tag: "Unavailable",
    accepted: "no"
  },
  { name: "504 without words", failure: answer(504), tag: "Unavailable", accepted: "unknown" },
  { name: "431 of a long url", failure: answer(431), tag: "InvalidArgument" },
  { name: "a status that nobody foresaw", failure: answer(418, "teapot"), tag: "Unknown", says: "teapot" },
  { name: "a redirect", failure: answer(302), tag: "Unknown" },
  // No answer.
  {
    name: "a refused connection",
    failure: lost({ reason: { cause: { cause: { code: "ECONNREFUSED" } } } }),
    tag: "Unavailable",
    accepted: "no"
  },
  {
    name: "a reset",
    failure: lost(new TypeError("fetch failed", { cause: { code: "ECONNRESET" } })),
    tag: "Unavailable",
    accepted: "unknown",
    says: "ECONNRESET"
  },
  { name: "anything thrown", failure: lost("nothing"), tag: "Unavailable", accepted: "unknown" },
  { name: "nothing thrown", failure: lost(undefined), tag: "Unavailable", accepted: "unknown" },
  {
    name: "an answer of another kind",
    failure: { _tag: "Undecodable", error: new Error("no JSON") },
    tag: "Unavailable",
    accepted: "unknown"
  },
  {
    name: "work that says it failed",
    failure: { _tag: "Told", message: "failed to start overlay service tree" },
    tag: "Unknown",
    says: "overlay"
  }
]

describe("what Sprites answers", () => {
  for (const row of table) {
    it(row.name, () => {
      const reason = classify(row.failure, asked(row.asked))
      assert.strictEqual(reason._tag, row.tag)
      if (row.accepted !== undefined) assert.strictEqual("accepted" in reason && reason.accepted, row.accepted)
      if (row.retryAfter !== undefined) {
        assert.deepStrictEqual("retryAfter" in reason && reason.retryAfter, Duration.seconds(row.retryAfter))
      }
      if (row.says !== undefined) assert.include(reason.message, row.says)
      assert.notInclude(reason.message, "<html>")
    })
  }

  it("repeats no secret, and no more of a text than a message holds", () => {
    for (const failure of [
      json(403, { error: "token hunter2 is not allowed" }),
      answer(500, `hunter2 ${"x".repeat(100_000)}`),
      lost(new Error("cannot reach https://there?token=hunter2")),
      { _tag: "Told", message: "hunter2" } as const
    ]) {
      const reason = classify(failure, asked())
      const shown = JSON.stringify([reason, reason.message, "cause" in reason ? String(reason.cause) : ""])
      assert.notInclude(shown, "hunter2")
      assert.isBelow(shown.length, 3_000)
    }
  })

  it("tells a file's trouble by its code, and by nothing else", () => {
    assert.strictEqual(fileCodeOf(json(404, { error: "x", code: "ENOENT" })), "ENOENT")
    assert.isUndefined(fileCodeOf(json(404, { error: "sprite not found" })))
    assert.isUndefined(fileCodeOf(json(500, { error: "x", code: "EIO" })))
    assert.isUndefined(fileCodeOf(answer(404, "404 page not found")))
    assert.isUndefined(fileCodeOf(lost(new Error("x"))))
  })
})
