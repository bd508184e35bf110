/** A store that does not answer. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Fiber, Layer, Schedule } from "effect"
import { TestClock } from "effect/testing"
import * as Memory from "../../src/layers/stores/Memory.ts"
import { storeCalls } from "../../src/services/internal/storeCalls.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import { newSandboxId, sandboxRecord } from "../../src/testing/internal/stores.ts"

/** The calls of a store in which this one is as given. */
const callsOf = (insertSandbox: SandboxStore["Service"]["insertSandbox"]) =>
  Effect.map(Layer.build(Memory.layer({ namespace: "test" })), (context) =>
    storeCalls({ ...Context.get(context, SandboxStore), insertSandbox }, Schedule.recurs(0), Duration.seconds(30))
  )

describe("a store that does not answer", () => {
  for (const [name, deaf] of [
    ["", Effect.never],
    [", nor hears that it is not waited for", Effect.uninterruptible(Effect.never)]
  ] as const) {
    it.effect(`has its deadline, also where nothing interrupts the wait${name}`, () =>
      Effect.gen(function* () {
        const store = yield* callsOf(() => deaf)
        const call = yield* Effect.forkChild(Effect.uninterruptible(Effect.flip(store.insertSandbox(sandboxRecord()))))
        yield* TestClock.adjust("29 seconds")
        assert.strictEqual(call.pollUnsafe(), undefined)
        yield* TestClock.adjust("1 second")
        assert.deepInclude((yield* Fiber.join(call)).reason, { _tag: "Store", kind: "OutcomeUnknown" })
      }).pipe(Effect.scoped)
    )
  }

  it.effect("hears that its caller was interrupted, before the caller goes on", () =>
    Effect.gen(function* () {
      const begun = yield* Deferred.make<void>()
      let ended = false
      const store = yield* callsOf(() =>
        Effect.andThen(Deferred.succeed(begun, undefined), Effect.never).pipe(
          Effect.onInterrupt(() =>
            Effect.andThen(
              Effect.yieldNow,
              Effect.sync(() => void (ended = true))
            )
          )
        )
      )
      const call = yield* Effect.forkChild(store.insertSandbox(sandboxRecord()))
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(call)
      assert.isTrue(ended)
    }).pipe(Effect.scoped)
  )

  it.effect("and one that does is what it is", () =>
    Effect.gen(function* () {
      const context = yield* Layer.build(Memory.layer({ namespace: "test" }))
      const store = storeCalls(Context.get(context, SandboxStore), Schedule.recurs(0), Duration.seconds(30))
      const record = yield* store.insertSandbox(sandboxRecord())
      assert.deepStrictEqual(yield* store.getSandbox(record.id), record)
      const { reason } = yield* Effect.flip(store.getSandbox(newSandboxId()))
      assert.strictEqual(reason._tag, "NotFound")
    }).pipe(Effect.scoped)
  )
})
