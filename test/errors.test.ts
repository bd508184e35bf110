import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Schema } from "effect"
import { inspect } from "node:util"
import * as errors from "../src/errors.ts"
import { methodReasons } from "../src/services/SandboxService.ts"

/** One example of each reason, with foreign text far longer than a message may be. */
const long = "x".repeat(100_000)
const examples: { readonly [Tag in errors.ReasonTag]: errors.SandboxErrorReason } = {
  NotFound: new errors.NotFound({ kind: "sandbox", id: long }),
  NotActive: new errors.NotActive({ status: long, detail: long }),
  Stopped: new errors.Stopped(),
  Gone: new errors.Gone({ evidence: long }),
  NotRunning: new errors.NotRunning({ detail: long }),
  Unresponsive: new errors.Unresponsive({ detail: long }),
  Superseded: new errors.Superseded({ incarnation: long }),
  Busy: new errors.Busy({ owner: long, retryAfter: Duration.seconds(1) }),
  OutcomeUnknown: new errors.OutcomeUnknown({ detail: long, startedAt: 1, position: { stdout: 1, stderr: 2 } }),
  ProcessEnded: new errors.ProcessEnded({ processId: long, status: long }),
  StopIncomplete: new errors.StopIncomplete({ detail: long }),
  NameInUse: new errors.NameInUse({ name: long }),
  ConfigMismatch: new errors.ConfigMismatch({ fields: [long] }),
  LegacyRecord: new errors.LegacyRecord({ externalSandboxId: long }),
  RecordTooNew: new errors.RecordTooNew({ schemaVersion: 9, supported: 2 }),
  InvalidArgument: new errors.InvalidArgument({ argument: long, problem: long }),
  InvalidConfig: new errors.InvalidConfig({ issue: long }),
  ProviderNotSelected: new errors.ProviderNotSelected({ requested: long, registered: [long] }),
  MissingSetting: new errors.MissingSetting({ names: [long], detail: long }),
  MissingPackage: new errors.MissingPackage({ package: long }),
  UnsupportedCapability: new errors.UnsupportedCapability({ capability: long, detail: long }),
  PortNotExposed: new errors.PortNotExposed({ port: 1, exposed: [2, 3] }),
  WriteFailed: new errors.WriteFailed({ files: [{ path: long, message: long }] }),
  ProcessesRunning: new errors.ProcessesRunning({ processIds: [long] }),
  VolumeFailed: new errors.VolumeFailed({ volume: "v", state: "error" }),
  StepFailed: new errors.StepFailed({ step: long, processId: long, exitCode: 1, detail: long }),
  LeaseTooShort: new errors.LeaseTooShort({ remaining: Duration.seconds(5) }),
  SecretsRequired: new errors.SecretsRequired({ names: [long] }),
  Authentication: new errors.Authentication({ detail: long }),
  Permission: new errors.Permission({ detail: long }),
  Quota: new errors.Quota({ detail: long }),
  RateLimited: new errors.RateLimited({ retryAfter: Duration.seconds(3), detail: long }),
  Unavailable: new errors.Unavailable({ accepted: "unknown", detail: long }),
  Timeout: new errors.Timeout({ clock: "request", duration: Duration.seconds(30), accepted: "unknown" }),
  Store: new errors.Store({ kind: "Locked", detail: long }),
  Unknown: new errors.Unknown({ detail: long })
}

const encode = Schema.encodeUnknownSync(errors.SandboxError)
const decode = Schema.decodeUnknownSync(errors.SandboxError)

describe("SandboxError", () => {
  for (const reason of Object.values(examples)) {
    it(`${reason._tag} has a bounded message and crosses a wire`, () => {
      const error = new errors.SandboxError({ operation: "test", sandboxId: "id", reason })
      assert.isAbove(reason.message.length, 5)
      assert.isAtMost(error.message.length, 1000)
      assert.include(error.message, reason.message)
      const back = decode(JSON.parse(JSON.stringify(encode(error))))
      assert.strictEqual(back.reason._tag, reason._tag)
      assert.strictEqual(back.message, error.message)
      assert.strictEqual(back.isRetryable, error.isRetryable)
      assert.deepStrictEqual(back.retryAfter, error.retryAfter)
    })
  }

  for (const reason of Object.values(examples)) {
    it(`${reason._tag} is printed as an error, with its cause once`, () => {
      const error = new errors.SandboxError({ operation: "test", sandboxId: "id", reason })
      const text = inspect(error)
      assert.strictEqual(text.split("\n    at ")[0], `SandboxError: ${error.message}`)
      assert.include(text, "\n    at ")
      assert.include(text, "operation: 'test'")
      assert.strictEqual(text.split(`[cause]: ${reason._tag}: `).length, 2)
      assert.notInclude(text, "reason:")
      assert.strictEqual(inspect(reason).split("\n    at ")[0], `${reason._tag}: ${reason.message}`)
      assert.isTrue(Cause.pretty(Cause.fail(error)).startsWith(`SandboxError: ${error.message}`))
      const { cause, message } = JSON.parse(JSON.stringify(error))
      assert.deepStrictEqual({ cause, message }, { cause: undefined, message: error.message })
    })
  }

  it("prints the fields of its reason and what that was caused by", () => {
    const cause = new Error("socket hang up")
    const text = inspect(errors.fail("test", new errors.Unavailable({ accepted: "no", detail: "d", cause })))
    assert.include(text, "accepted: 'no'")
    assert.strictEqual(text.split("[cause]: Error: socket hang up").length, 2)
  })

  it("says what can be done", () => {
    assert.include(examples.Stopped.message, "reconnectToSandbox")
    assert.include(examples.PortNotExposed.message, "ports of the config")
    assert.include(examples.PortNotExposed.message, "2, 3")
  })

  it("retries only what can pass by itself", () => {
    const retryable = Object.values(examples)
      .filter((reason) => reason.isRetryable)
      .map((reason) => reason._tag)
    assert.deepStrictEqual(retryable.sort(), [
      "Busy",
      "RateLimited",
      "StopIncomplete",
      "Store",
      "Timeout",
      "Unavailable"
    ])
    assert.isFalse(new errors.Timeout({ clock: "command", duration: Duration.seconds(1), accepted: "no" }).isRetryable)
    assert.isFalse(new errors.Store({ kind: "Corrupt" }).isRetryable)
  })

  it("knows which failures prove that nothing was accepted", () => {
    const proves = (reason: errors.SandboxErrorReason) => errors.fail("test", reason).provesNotAccepted
    assert.isTrue(proves(new errors.Unavailable({ accepted: "no" })))
    assert.isFalse(proves(new errors.Unavailable({ accepted: "unknown" })))
    assert.isFalse(proves(examples.Timeout))
    assert.isFalse(proves(examples.Unknown))
    assert.isTrue(proves(examples.RateLimited))
    assert.isTrue(proves(examples.Gone))
  })

  it.effect("is caught by its reason", () =>
    Effect.gen(function* () {
      const caught = yield* Effect.fail(errors.fail("test", new errors.Gone({ evidence: "404" }))).pipe(
        Effect.catchReason("SandboxError", "Gone", (reason) => Effect.succeed(reason.evidence))
      )
      assert.strictEqual(caught, "404")
    })
  )
})

describe("methodReasons", () => {
  it("names each reason at most once a method, and every reason somewhere but those of programs", () => {
    const named = new Set<string>(["StepFailed"])
    for (const [method, reasons] of Object.entries(methodReasons)) {
      assert.strictEqual(new Set(reasons).size, reasons.length, method)
      for (const reason of reasons) named.add(reason)
    }
    assert.deepStrictEqual(
      Object.keys(examples).filter((tag) => !named.has(tag)),
      []
    )
  })
})
