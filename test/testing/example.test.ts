/** A user's test, as the README shows it. */
import { assert, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as Fake from "../../src/layers/providers/Fake.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { Faults, Testing } from "../../src/testing/index.ts"

const deploy = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
  return yield* sandboxes.runCommandWithProcessStream(sandboxId, "deploy", ["--all"])
})

it.effect("deploys through 429s, on a machine that vanishes, over a line that breaks", () =>
  Effect.gen(function* () {
    const { result } = yield* Testing.passing(deploy) // minutes of backoff, in milliseconds
    assert.strictEqual(result?.stdout, "deployed --all\n")
    const { machines } = yield* Fake.Cloud
    assert.strictEqual(machines.length, 1)
    const faults = yield* Faults.Faults
    assert.deepStrictEqual(faults.unused, []) // all of it really happened
  }).pipe(
    Effect.provide(
      Testing.layer({
        commands: { deploy: ({ args }) => Stream.make(Fake.stdout(`deployed ${args.join(" ")}\n`)) },
        faults: [
          Faults.on("create", Faults.rateLimited({ retryAfter: "30 seconds" }), { times: 3 }),
          Faults.on("start", Faults.vanish),
          Faults.on("output", Faults.cut({ atByte: 5 })),
          Faults.on("append", Faults.loseAnswer(), { call: 2 })
        ]
      })
    )
  )
)
