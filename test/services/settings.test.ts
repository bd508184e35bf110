import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Option, Redacted } from "effect"
import * as SandboxSettings from "../../src/services/SandboxSettings.ts"

const read = <A>(setting: SandboxSettings.Setting<A>, values: Record<string, string>) =>
  SandboxSettings.get(setting).pipe(
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(values))
  )

const token = SandboxSettings.secret({
  name: "TEST_TOKEN",
  aliases: ["OTHER_TOKEN"],
  fallback: "none",
  description: "t"
})
const flag = SandboxSettings.boolean({ name: "TEST_FLAG", fallback: "true", description: "f" })

describe("SandboxSettings", () => {
  it.effect("trims, and takes blank for unset", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* read(SandboxSettings.provider, { SANDBOX_PROVIDER: "  local \n" }),
        Option.some("local")
      )
      assert.deepStrictEqual(yield* read(SandboxSettings.provider, { SANDBOX_PROVIDER: " \t" }), Option.none())
      assert.deepStrictEqual(yield* read(SandboxSettings.provider, {}), Option.none())
    })
  )

  it.effect("reads booleans in any case", () =>
    Effect.gen(function* () {
      for (const value of ["TRUE", "Yes", "on", "1", "y"]) {
        assert.deepStrictEqual(yield* read(flag, { TEST_FLAG: value }), Option.some(true))
      }
      for (const value of ["False", "NO", "Off", "0", "n"]) {
        assert.deepStrictEqual(yield* read(flag, { TEST_FLAG: value }), Option.some(false))
      }
    })
  )

  it.effect("reads durations as text and as milliseconds", () =>
    Effect.gen(function* () {
      for (const value of ["90 seconds", "90000"]) {
        const parsed = yield* read(SandboxSettings.commandTimeout, { SANDBOX_COMMAND_TIMEOUT: value })
        assert.strictEqual(Duration.toMillis(Option.getOrThrow(parsed)), 90_000)
      }
    })
  )

  it.effect("names a malformed one and shows its value", () =>
    Effect.gen(function* () {
      for (const [setting, values, name] of [
        [SandboxSettings.maxOutputBytes, { SANDBOX_MAX_OUTPUT_BYTES: "many" }, "SANDBOX_MAX_OUTPUT_BYTES"],
        [SandboxSettings.maxOutputBytes, { SANDBOX_MAX_OUTPUT_BYTES: "-1" }, "SANDBOX_MAX_OUTPUT_BYTES"],
        [SandboxSettings.commandTimeout, { SANDBOX_COMMAND_TIMEOUT: "-5 seconds" }, "SANDBOX_COMMAND_TIMEOUT"],
        [SandboxSettings.commandTimeout, { SANDBOX_COMMAND_TIMEOUT: "0" }, "SANDBOX_COMMAND_TIMEOUT"],
        [SandboxSettings.store, { SANDBOX_STORE: "redis" }, "SANDBOX_STORE"],
        [flag, { TEST_FLAG: "perhaps" }, "TEST_FLAG"]
      ] as const) {
        const error = yield* Effect.flip(read<unknown>(setting, values))
        assert.strictEqual(error.reason._tag, "MissingSetting")
        assert.include(error.message, name)
        for (const value of Object.values(values)) assert.include(error.message, value)
      }
    })
  )

  it.effect("keeps a secret redacted, and falls back to its other names", () =>
    Effect.gen(function* () {
      const value = Option.getOrThrow(yield* read(token, { TEST_TOKEN: " ", OTHER_TOKEN: " hunter2 " }))
      assert.notInclude(String(value) + JSON.stringify(value), "hunter2")
      assert.strictEqual(Redacted.value(value), "hunter2")
    })
  )

  it.effect("says which setting is missing", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(SandboxSettings.required(token)).pipe(
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({}))
      )
      assert.include(error.message, "TEST_TOKEN")
    })
  )
})
