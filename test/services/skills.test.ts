/** Skills of a config are in a sandbox before anybody gets it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer } from "effect"
import { Base64 } from "effect/encoding"
import { Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import { Repopulate } from "../../src/services/Repopulate.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"

const skill = (name: string, content: string) => ({
  name,
  files: [{ path: "SKILL.md", contentBase64: Base64.encode(content) }]
})
const config = { persistent: false, skills: [skill("pdf", "how to read one")] } as const

const read = Effect.fnUntraced(function* (sandboxId: string) {
  const sandboxes = yield* SandboxService
  return (yield* Testing.passing(
    sandboxes.runCommand(sandboxId, "sh", ["-c", 'cat "$HOME/.codex/skills/pdf/SKILL.md"'])
  )).stdout
})

describe("skills of a config", () => {
  it.effect("are there when a sandbox is made and when it is made anew, before what fills it", () => {
    const seen: Array<string> = []
    const filling = Layer.succeed(Repopulate, ({ workspaceRoot = "" }) =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        seen.push(yield* fs.readFileString(`${workspaceRoot}/.codex/skills/pdf/SKILL.md`))
      })
    )
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(config)
      assert.strictEqual(yield* read(sandboxId), "how to read one")
      assert.deepStrictEqual(seen, [])
      yield* cloud.vanish(sandboxId)
      assert.strictEqual(yield* read(sandboxId), "how to read one")
      assert.deepStrictEqual(seen, ["how to read one"])
    }).pipe(Effect.provide(Testing.layer().pipe(Layer.provide(filling))))
  })

  it.effect("belong to what was asked for", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox(config)
      assert.strictEqual((yield* sandboxes.createSandbox(config, { sandboxId })).outcome, "resumed")
      const other = { ...config, skills: [skill("pdf", "another")] }
      const error = yield* Effect.flip(sandboxes.createSandbox(other, { sandboxId }))
      assert.deepInclude(error.reason, { _tag: "ConfigMismatch", fields: ["skills"] })
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("that are none are refused before the vendor is asked", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const error = yield* Effect.flip(sandboxes.createSandbox({ skills: [skill("../pdf", "")] }))
      assert.strictEqual(error.reason._tag, "InvalidConfig")
      assert.lengthOf(cloud.calls, 0)
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("that cannot be written fail the creation, and leave no machine", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const homeless = { ...config, env: { HOME: "" } }
      const sandboxId = "11111111-2222-4333-8444-555555555555"
      const error = yield* Effect.flip(sandboxes.createSandbox(homeless, { sandboxId }))
      assert.deepInclude(error, { operation: "SandboxService.createSandbox", sandboxId })
      assert.deepInclude(error.reason, { _tag: "InvalidArgument", argument: "CODEX_HOME" })
      const record = yield* sandboxes.getSandbox(sandboxId)
      assert.strictEqual(record.status, "error")
      assert.include(record.error, "CODEX_HOME")
      assert.lengthOf(cloud.machines, 0)
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("are tried again when the way to the new machine fails in passing", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* Testing.passing(sandboxes.createSandbox(config))
      assert.deepStrictEqual(faults.unused, [])
      assert.strictEqual(yield* read(sandboxId), "how to read one")
      assert.lengthOf(cloud.machines, 1)
    }).pipe(
      Effect.provide(
        Testing.layer({
          faults: [
            Faults.on("start", Faults.loseAnswer()),
            Faults.on("writeFiles", Faults.fail(new Unavailable({ accepted: "unknown" })), { times: 2 })
          ]
        })
      )
    )
  )

  it.effect("are written by whoever finishes a creation that was cut off", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const sandboxId = "11111111-2222-4333-8444-555555555555"
      const fiber = yield* Effect.forkChild(sandboxes.createSandbox(config, { sandboxId }))
      yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => cloud.commands.length > 0 }))
      yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "creating")
      assert.lengthOf(cloud.machines, 1)
      yield* Testing.passing(sandboxes.reconnectToSandbox(sandboxId))
      assert.strictEqual(yield* read(sandboxId), "how to read one")
      assert.lengthOf(cloud.machines, 1)
    }).pipe(Effect.provide(Testing.layer()))
  )
})
