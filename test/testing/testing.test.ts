import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Stream } from "effect"
import { ProviderRegistry } from "../../src/services/ProviderRegistry.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import { Faults, Testing } from "../../src/testing/index.ts"
import { scripted } from "../support/scripted.ts"

const rows = (options: Testing.Options = {}) =>
  Effect.provide(
    Testing.layerOver(
      Effect.sync(() => scripted({ output: ["0123456789"] }).provider),
      options
    )
  )

describe("Testing.layerOver", () => {
  it.effect("is a service, its store, its providers, the world below them and the faults between", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { provider, store } = yield* Testing.World
      const faults = yield* Faults.Faults
      const counted = faults.count("getSandbox")
      assert.deepStrictEqual(yield* store.getSandbox(sandboxId), yield* (yield* SandboxStore).getSandbox(sandboxId))
      assert.strictEqual(faults.count("getSandbox"), counted + 1)
      const [machine] = yield* Stream.runCollect(provider.find(sandboxId))
      assert.strictEqual(machine?.running, true)
      assert.deepStrictEqual((yield* ProviderRegistry).names, ["scripted"])
    }).pipe(rows())
  )

  it.effect("reads the settings that it is given", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { stdout, truncated } = yield* sandboxes.runCommand(sandboxId, "true")
      assert.include(stdout, "01")
      assert.strictEqual(truncated.stdout, 6)
    }).pipe(rows({ settings: { SANDBOX_MAX_OUTPUT_BYTES: "4" } }))
  )

  it.effect("starts another service over what the dead one left, once its lease has run out", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const id = "00000000-0000-4000-8000-000000000001"
      const creation = yield* Effect.forkChild(sandboxes.createSandbox({}, { sandboxId: id }), {
        startImmediately: true
      })
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(creation)))
      assert.strictEqual(faults.count("create"), 1)
      const next = yield* Testing.another()
      assert.strictEqual((yield* next.getSandbox(id)).status, "creating")
      const before = yield* Clock.currentTimeMillis
      const { ref } = yield* Testing.passing(next.createSandbox({}, { sandboxId: id }), { step: "1 second" })
      assert.isAtLeast((yield* Clock.currentTimeMillis) - before, 29_000)
      assert.strictEqual(ref.externalSandboxId, `scripted:${id}`)
      // The machine that the dead service asked for was found, and no second one made.
      assert.strictEqual(faults.count("create"), 1)
    }).pipe(Effect.scoped, rows({ faults: [Faults.on("create", Faults.kill("after"))] }))
  )
})

describe("Testing.passing", () => {
  it.effect("lets pass what the effect waits for, in order, and no more than it has to", () =>
    Effect.gen(function* () {
      const order: Array<string> = []
      const after = (what: string, seconds: number) =>
        Effect.delay(
          Effect.sync(() => order.push(what)),
          `${seconds} seconds`
        )
      const now = yield* Testing.passing(
        Effect.andThen(
          Effect.all([after("c", 90), after("a", 30), after("b", 31)], { concurrency: "unbounded" }),
          Clock.currentTimeMillis
        )
      )
      assert.deepStrictEqual(order, ["a", "b", "c"])
      assert.isAtMost(now, 120_000)
      assert.strictEqual(yield* Effect.flip(Testing.passing(Effect.fail("no"))), "no")
    })
  )

  it.effect("ends what waits for something that time does not bring", () =>
    Effect.gen(function* () {
      let interrupted = false
      const waits = Effect.onInterrupt(Effect.never, () => Effect.sync(() => (interrupted = true)))
      const exit = yield* Effect.exit(Testing.passing(waits, { limit: "1 hour" }))
      assert.isTrue(Exit.hasDies(exit))
      assert.isTrue(interrupted)
    })
  )
})
