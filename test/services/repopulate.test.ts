/** A sandbox that is made anew is filled before anybody gets it, and recoveries are told of as they happen. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, FileSystem, Layer, Option, Stream } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import { Unavailable, SandboxError } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import type { RecoveryEvent } from "../../src/model/RecoveryEvent.ts"
import { Repopulate } from "../../src/services/Repopulate.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"

/** Puts a file back, and notes for which sandbox. */
const filling = (filled: Array<string>, before: Effect.Effect<void, SandboxError> = Effect.void) =>
  Layer.succeed(Repopulate, ({ id }) =>
    Effect.gen(function* () {
      filled.push(id)
      yield* before
      const fs = yield* FileSystem.FileSystem
      yield* fs.writeFileString("kept.txt", "put back\n")
      // A program of its own runs there too.
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      assert.strictEqual(yield* spawner.string(ChildProcess.make("cat", ["kept.txt"])), "put back\n")
    })
  )

const world = (filled: Array<string>, before?: Effect.Effect<void, SandboxError>, faults: Faults.Plan = []) =>
  Testing.layer({ faults }).pipe(Layer.provide(filling(filled, before)))

const stateless = { persistent: false } as const

const count = (operation: string) =>
  Effect.map(Fake.Cloud, (cloud) => cloud.calls.filter((call) => call.operation === operation).length)

describe("a sandbox that is made anew", () => {
  it.effect("is filled once, before any of twenty commands runs there; a creation is not", () => {
    const filled: Array<string> = []
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(stateless)
      assert.deepStrictEqual(filled, [])
      yield* cloud.vanish(sandboxId)
      const results = yield* Testing.passing(
        Effect.forEach(Array.from({ length: 20 }), () => sandboxes.runCommand(sandboxId, "cat", ["kept.txt"]), {
          concurrency: "unbounded"
        })
      )
      for (const { stdout } of results) assert.strictEqual(stdout, "put back\n")
      assert.deepStrictEqual(filled, [sandboxId])
    }).pipe(Effect.provide(world(filled)))
  })

  it.effect("is nobody's while that fails, and filled by the next use on the same machine", () => {
    const filled: Array<string> = []
    const failing = Effect.suspend(() =>
      filled.length < 3
        ? Effect.fail(
            new SandboxError({
              operation: "fill",
              reason: new Unavailable({ accepted: "unknown", detail: "no way there" })
            })
          )
        : Effect.void
    )
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(stateless)
      yield* cloud.vanish(sandboxId)
      const error = yield* Effect.flip(Testing.passing(sandboxes.runCommand(sandboxId, "true")))
      assert.strictEqual(error.reason._tag, "Unavailable")
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "recreating")
      assert.lengthOf(cloud.machines, 1)
      yield* Effect.flip(Testing.passing(sandboxes.runCommand(sandboxId, "true")))
      const { stdout } = yield* Testing.passing(sandboxes.runCommand(sandboxId, "cat", ["kept.txt"]))
      assert.strictEqual(stdout, "put back\n")
      assert.deepStrictEqual(filled, [sandboxId, sandboxId, sandboxId])
      assert.lengthOf(cloud.machines, 1)
      assert.strictEqual(yield* count("create"), 2)
    }).pipe(Effect.provide(world(filled, failing)))
  })

  it.effect("is filled anew after what fills it has died, or was interrupted as its lease was taken over", () => {
    let runs = 0
    let interrupted = 0
    const filling = Layer.succeed(Repopulate, () =>
      Effect.suspend(() => {
        runs++
        if (runs === 1) return Effect.die("a defect")
        return runs === 2 ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++)) : Effect.void
      })
    )
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox(stateless)
      yield* cloud.vanish(sandboxId)
      const use = Effect.exit(sandboxes.runCommand(sandboxId, "true"))
      const died = yield* Testing.passing(use)
      assert.isTrue(Exit.isFailure(died) && Cause.hasDies(died.cause))
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "recreating")
      const taking = Effect.delay(
        store.acquireSandboxLease(sandboxId, { owner: "another", ttl: "20 seconds", steal: true }),
        "1 minute"
      )
      const [lost] = yield* Testing.passing(Effect.all([use, taking], { concurrency: "unbounded" }))
      const error = Option.getOrThrow(Exit.findErrorOption(lost))
      assert.deepInclude(error.reason, { _tag: "Store", kind: "LeaseLost" })
      assert.isTrue(Exit.isSuccess(yield* Testing.passing(use)))
      assert.deepStrictEqual([runs, interrupted, cloud.machines.length], [3, 1, 1])
    }).pipe(Effect.provide(Testing.layer().pipe(Layer.provide(filling))))
  })

  it.effect("is filled by the next service when the first one dies at it", () => {
    const filled: Array<string> = []
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox(stateless)
      yield* cloud.vanish(sandboxId)
      yield* faults.add(Faults.on("fileSystem", Faults.kill("before")))
      const fiber = yield* Effect.forkChild(sandboxes.runCommand(sandboxId, "true"), { startImmediately: true })
      yield* faults.exhausted
      yield* Fiber.interrupt(fiber)
      const next = yield* Testing.another()
      const { stdout } = yield* Testing.passing(next.runCommand(sandboxId, "cat", ["kept.txt"]))
      assert.strictEqual(stdout, "put back\n")
      assert.deepStrictEqual(filled, [sandboxId, sandboxId])
      assert.lengthOf(cloud.machines, 1)
    }).pipe(Effect.scoped, Effect.provide([world(filled), filling(filled)]))
  })

  it.effect("is not what a resume or a restore of a checkpoint makes: their disk is there", () => {
    const filled: Array<string> = []
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true, recovery: "restore" })
      yield* sandboxes.writeFiles(sandboxId, [{ path: "kept.txt", content: "own\n" }])
      yield* cloud.halt(sandboxId)
      assert.strictEqual((yield* Testing.passing(sandboxes.reconnectToSandbox(sandboxId)))._tag, "Resumed")
      yield* sandboxes.createCheckpoint(sandboxId)
      yield* cloud.vanish(sandboxId)
      const { stdout } = yield* Testing.passing(sandboxes.runCommand(sandboxId, "cat", ["kept.txt"]))
      assert.strictEqual(stdout, "own\n")
      assert.deepStrictEqual(filled, [])
    }).pipe(Effect.provide(world(filled)))
  })
})

describe("the recoveries of a service", () => {
  it.effect("are told with what set them off and how they ended, to everybody who listens", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(stateless)
      const { sandboxId: kept } = yield* sandboxes.createSandbox({ persistent: true })
      const listen = (events: Array<RecoveryEvent>) =>
        Effect.forkChild(
          Stream.runForEach(sandboxes.recoveries, (event) => Effect.sync(() => events.push(event))),
          { startImmediately: true }
        )
      const [one, other]: [Array<RecoveryEvent>, Array<RecoveryEvent>] = [[], []]
      yield* listen(one)
      yield* listen(other)
      yield* cloud.vanish(sandboxId)
      yield* Testing.passing(sandboxes.runCommand(sandboxId, "true"))
      yield* Testing.passing(sandboxes.reconnectToSandbox(sandboxId))
      yield* cloud.vanish(kept)
      yield* Effect.flip(Testing.passing(sandboxes.runCommand(kept, "true")))
      yield* Testing.passing(Effect.sleep("1 second"))
      const told = one.map((event) => [
        event._tag,
        event.sandboxId === kept ? "kept" : "stateless",
        event.trigger,
        event._tag === "Recovered" ? event.outcome : event._tag === "Failed" ? event.error?.reason._tag : undefined
      ])
      assert.deepStrictEqual(told, [
        ["Started", "stateless", "automatic", undefined],
        ["Recovered", "stateless", "automatic", "Recreated"],
        ["Started", "stateless", "explicit", undefined],
        ["Recovered", "stateless", "explicit", "Connected"],
        ["Started", "kept", "automatic", undefined],
        ["Failed", "kept", "automatic", "Gone"]
      ])
      assert.deepStrictEqual(other, one)
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("are Failed without an error when they are interrupted", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox(stateless)
      const events = yield* Effect.forkChild(Stream.runCollect(Stream.take(sandboxes.recoveries, 2)), {
        startImmediately: true
      })
      yield* cloud.vanish(sandboxId)
      yield* (yield* Faults.Faults).add(Faults.on("create", Faults.hang))
      const fiber = yield* Effect.forkChild(sandboxes.runCommand(sandboxId, "true"), { startImmediately: true })
      yield* (yield* Faults.Faults).exhausted
      yield* Fiber.interrupt(fiber)
      const [, failed] = yield* Testing.passing(Fiber.join(events))
      assert.deepInclude(failed, { _tag: "Failed", trigger: "automatic" })
      assert.notProperty(failed, "error")
    }).pipe(Effect.provide(Testing.layer()))
  )
})
