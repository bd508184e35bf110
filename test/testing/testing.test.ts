import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, FileSystem, Option, Stream } from "effect"
import type { PlatformError } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import { TestClock } from "effect/testing"
import type * as JustBash from "just-bash"
import type { SandboxError } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as Build from "../../src/layers/providers/fake/build.ts"
import * as ProcessEvent from "../../src/model/ProcessEvent.ts"
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
      const { ref } = yield* Testing.passing(next.createSandbox({}, { sandboxId: id }))
      assert.isAtLeast((yield* Clock.currentTimeMillis) - before, 29_000)
      assert.strictEqual(ref.externalSandboxId, `scripted:${id}`)
      // The machine that the dead service asked for was found, and no second one made.
      assert.strictEqual(faults.count("create"), 1)
    }).pipe(Effect.scoped, rows({ faults: [Faults.on("create", Faults.kill("after"))] }))
  )
})

describe("Testing.passing", () => {
  it.effect("lets pass what the effect waits for, in order, and no more", () =>
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
      assert.strictEqual(now, 90_000)
      assert.strictEqual(yield* Effect.flip(Testing.passing(Effect.fail("no"))), "no")
    })
  )

  it.effect("is at once where an hour passes, and where every second of it does", () =>
    Effect.gen(function* () {
      const started = yield* TestClock.withLive(Clock.currentTimeMillis)
      yield* Testing.passing(Effect.sleep("1 hour"))
      yield* Testing.passing(Effect.repeat(Effect.sleep("1 second"), { times: 3599 }))
      assert.strictEqual(yield* Clock.currentTimeMillis, 7_200_000)
      assert.isBelow((yield* TestClock.withLive(Clock.currentTimeMillis)) - started, 10_000)
    })
  )

  it.effect("waits for fibers that only yield", () =>
    Effect.gen(function* () {
      const yields = Effect.repeat(Effect.yieldNow, { times: 1000 })
      assert.isTrue(Option.isSome(yield* Testing.passing(Effect.timeoutOption(yields, "1 minute"))))
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    })
  )

  it.effect("does not overtake files, child processes and real timers with a deadline", () =>
    Effect.gen(function* () {
      const files = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const directory = yield* files.makeTempDirectoryScoped()
      const work = Effect.gen(function* () {
        for (let i = 0; i < 50; i++) {
          yield* files.writeFileString(`${directory}/${i}`, "text")
          yield* files.readFileString(`${directory}/${i}`)
        }
        yield* TestClock.withLive(Effect.sleep(50))
        return yield* spawner.string(ChildProcess.make("sh", ["-c", "sleep 0.2; echo late"]))
      })
      const within = Testing.passing(Effect.timeoutOption(work, "1 minute"), { patience: "20 seconds" })
      assert.deepStrictEqual(yield* within, Option.some("late\n"))
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("overtakes real work that is silent for longer than it has patience", () =>
    Effect.gen(function* () {
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const work = spawner.exitCode(ChildProcess.make("sleep", ["60"]))
      const within = Testing.passing(Effect.timeoutOption(work, "1 minute"), { patience: "50 millis" })
      assert.deepStrictEqual(yield* within, Option.none())
      assert.strictEqual(yield* Clock.currentTimeMillis, 60_000)
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("does not overtake scripts, nor what loads their interpreter, with a deadline", () =>
    Effect.gen(function* () {
      const loads = () =>
        new Promise<typeof JustBash>((resolve) =>
          // What a test runner loads shows nothing in Node: neither does a timer that keeps nothing alive.
          setTimeout(() => resolve(import("just-bash")), 100).unref()
        )
      const provider = yield* Build.make({}, loads)
      const script = "for i in $(seq 200); do echo $i | cat | grep -c 1; done | wc -l; sleep 30; echo slept"
      const { stdout, took } = yield* Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const { sandboxId } = yield* sandboxes.createSandbox()
        const before = yield* Clock.currentTimeMillis
        const run = sandboxes.runCommand(sandboxId, "sh", ["-c", script])
        const { stdout } = yield* Testing.passing(Effect.timeout(run, "1 minute"))
        return { stdout, took: (yield* Clock.currentTimeMillis) - before }
      }).pipe(Effect.provide(Testing.layerOver(Effect.succeed(provider))))
      assert.deepStrictEqual([stdout.replaceAll(" ", ""), took], ["200\nslept\n", 30_000])
    })
  )

  it.effect("sees who sleeps since before it", () =>
    Effect.gen(function* () {
      const sleeper = yield* Effect.forkChild(Effect.sleep("1 hour"), { startImmediately: true })
      yield* Testing.passing(Fiber.join(sleeper))
      assert.strictEqual(yield* Clock.currentTimeMillis, 3_600_000)
    }).pipe(rows())
  )

  it.effect("ends what waits for something that time does not bring, or for longer than its limit", () =>
    Effect.gen(function* () {
      let interrupted = 0
      const counted = <A, E, R>(self: Effect.Effect<A, E, R>) =>
        Effect.onInterrupt(self, () => Effect.sync(() => void interrupted++))
      const never = yield* Effect.exit(Testing.passing(counted(Effect.never), { patience: "20 millis" }))
      const late = yield* Effect.exit(Testing.passing(counted(Effect.sleep("61 minutes")), { limit: "1 hour" }))
      assert.include(String(Exit.isFailure(never) && Cause.squash(never.cause)), "time does not bring")
      assert.include(String(Exit.isFailure(late) && Cause.squash(late.cause)), "still waiting after 1h")
      assert.strictEqual(interrupted, 2)
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    })
  )
})

/** Says eight bytes in two pieces, a second apart, and ends with 7. */
const slow: Fake.Command = () =>
  Stream.fromIterable(["abcd", "efgh"]).pipe(
    Stream.mapEffect((text) => Effect.as(Effect.sleep("1 second"), Fake.stdout(text))),
    Stream.concat(Stream.succeed(Fake.exit(7)))
  )

const faked = (faults: Faults.Plan, options: Testing.FakeOptions = {}) =>
  Effect.provide(Testing.layer({ commands: { slow }, persistent: false, faults, ...options }))

describe("Testing.layer", () => {
  it.effect("runs registered commands and scripts in machines that the test can look into", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { exitCode, stdout } = yield* Testing.passing(sandboxes.runCommand(sandboxId, "slow"))
      assert.deepStrictEqual([exitCode, stdout], [7, "abcdefgh"])
      yield* sandboxes.writeFiles(sandboxId, [{ path: "a", content: "text" }])
      const cloud = yield* Fake.Cloud
      assert.strictEqual(cloud.commands.length, 1)
      assert.deepStrictEqual(Object.keys(yield* cloud.files(sandboxId)), ["a"])
      assert.deepStrictEqual((yield* Faults.Faults).injected, [])
    }).pipe(faked([]))
  )

  it.effect("waits a burst of refusals out in virtual time", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const before = yield* Clock.currentTimeMillis
      yield* Testing.passing(sandboxes.createSandbox())
      assert.approximately((yield* Clock.currentTimeMillis) - before, 100_000, 10_000)
      assert.deepStrictEqual((yield* Faults.Faults).unused, [])
    }).pipe(faked([Faults.on("create", Faults.rateLimited({ retryAfter: "30 seconds" }), { times: 3 })]))
  )

  it.effect("makes a vanished machine anew", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const first = yield* sandboxes.getSandbox(sandboxId)
      const { exitCode } = yield* Testing.passing(sandboxes.runCommand(sandboxId, "slow"))
      const second = yield* sandboxes.getSandbox(sandboxId)
      assert.strictEqual(exitCode, 7)
      assert.notStrictEqual(second.incarnation, first.incarnation)
      assert.deepStrictEqual(
        (yield* Fake.Cloud).machines.map(({ incarnation }) => incarnation),
        [second.incarnation]
      )
      assert.deepStrictEqual((yield* Faults.Faults).unused, [])
    }).pipe(faked([Faults.on("start", Faults.vanish)]))
  )

  it.effect("a machine that vanishes in mid-output never ends the command well", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const error = yield* Effect.flip(Testing.passing(sandboxes.runCommand(sandboxId, "slow")))
      assert.strictEqual(error.reason._tag, "OutcomeUnknown")
      assert.deepStrictEqual((yield* Faults.Faults).unused, [])
    }).pipe(faked([Faults.on("output", Faults.at({ byte: 4 }, Faults.vanish))]))
  )

  it.effect("a cut output fails typed when it cannot be read again, and is whole when it can", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const error = yield* Effect.flip(Testing.passing(sandboxes.runCommand(sandboxId, "slow")))
      assert.strictEqual(error.reason._tag, "OutcomeUnknown")
      const run = yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "slow"))
      assert.deepInclude(run.result, { exitCode: 7, stdout: "abcdefgh" })
      assert.deepStrictEqual((yield* Faults.Faults).unused, [])
    }).pipe(faked([Faults.on("output", Faults.cut({ atByte: 6 }), { times: 2 })]))
  )

  it.effect("what is retried while it says that it can be is done once, though its answer was lost", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const { sandboxId } = yield* sandboxes.createSandbox()
      const isRetryable = (error: SandboxError | PlatformError.PlatformError) =>
        error._tag === "SandboxError" && error.isRetryable
      const reasonOf = <A>(effect: Effect.Effect<A, SandboxError | PlatformError.PlatformError>) =>
        effect.pipe(
          Effect.retry({ while: isRetryable, times: 3 }),
          Effect.flip,
          Effect.map((error) => error.reason._tag),
          Testing.passing
        )
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "slow")), "OutcomeUnknown")
      assert.strictEqual(yield* reasonOf(Stream.runDrain(sandboxes.streamCommand(sandboxId, "slow"))), "OutcomeUnknown")
      assert.strictEqual(cloud.commands.length, 2)
      assert.strictEqual(yield* reasonOf(sandboxes.createCheckpoint(sandboxId)), "OutcomeUnknown")
      assert.strictEqual((yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))).length, 1)
      const process = yield* sandboxes.runCommandProcess(sandboxId, "copy", [], { stdin: "open" })
      assert.strictEqual(yield* reasonOf(process.write("a")), "OutcomeUnknown")
      yield* process.closeInput
      yield* Testing.passing(process.exit)
      const lines = yield* Stream.runCollect(ProcessEvent.lines(process.events))
      assert.deepStrictEqual(lines, ["a"])
      assert.deepStrictEqual((yield* Faults.Faults).unused, [])
    }).pipe(
      faked(
        [
          Faults.on("start", Faults.loseAnswer(), { times: 2 }),
          Faults.on("createCheckpoint", Faults.loseAnswer()),
          Faults.on("write", Faults.loseAnswer())
        ],
        { commands: { slow, copy: ({ stdin }) => Stream.map(stdin, Fake.stdout) } }
      )
    )
  )

  it.effect("a lost answer of a creation leaves no orphan, one of a start starts nothing twice", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const cloud = yield* Fake.Cloud
      const error = yield* Effect.flip(Testing.passing(sandboxes.createSandbox()))
      assert.strictEqual(error.reason._tag, "Unavailable")
      assert.deepStrictEqual(cloud.machines, [])
      const { sandboxId } = yield* sandboxes.createSandbox()
      const run = yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "slow"))
      assert.deepInclude(run.result, { exitCode: 7, stdout: "abcdefgh" })
      assert.strictEqual(cloud.commands.length, 1)
      assert.deepStrictEqual((yield* Faults.Faults).unused, [])
    }).pipe(faked([Faults.on(["create"], Faults.loseAnswer()), Faults.on("start", Faults.loseAnswer())]))
  )

  it.effect("lost appends are written once", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { processId } = yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "slow"))
      const events = yield* Stream.runCollect(sandboxes.readProcessStream(processId))
      assert.deepStrictEqual(
        events.map(({ seq }) => seq),
        events.map((_, index) => index + 1)
      )
      const bytes = events.filter(ProcessEvent.isOutput).map((event) => event.bytes)
      assert.strictEqual(Buffer.concat(bytes).toString(), "abcdefgh")
      assert.isAbove((yield* Faults.Faults).injected.length, 2)
    }).pipe(
      faked([Faults.on("append", Faults.loseAnswer(), { times: Infinity, when: ({ count }) => count % 2 === 1 })])
    )
  )

  it.effect("a recorded command outlives its service: the next one follows it to its end", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "slow")
      yield* Testing.passing(faults.exhausted)
      const next = yield* Testing.another()
      const process = yield* next.attachProcess(processId)
      assert.deepStrictEqual(yield* Testing.passing(process.exit), { _tag: "Exited", code: 7 })
      const events = yield* Stream.runCollect(next.readProcessStream(processId))
      const bytes = events.filter(ProcessEvent.isOutput).map((event) => event.bytes)
      assert.strictEqual(Buffer.concat(bytes).toString(), "abcdefgh")
      assert.strictEqual((yield* Fake.Cloud).commands.length, 1)
    }).pipe(Effect.scoped, faked([Faults.on("output", Faults.at({ byte: 4 }, Faults.kill("before")))]))
  )

  for (const seed of ["one", "two", "three", "four"]) {
    it.effect(`under faults by chance (${seed}) a command has its whole output or a typed failure, and one run`, () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const cloud = yield* Fake.Cloud
        let ended = 0
        for (let i = 0; i < 20; i++) {
          const result = yield* Effect.gen(function* () {
            const { sandboxId } = yield* Testing.passing(sandboxes.createSandbox())
            yield* cloud.forget
            return yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "slow"))
          }).pipe(Effect.result)
          assert.isAtMost(cloud.commands.length, 1)
          if (result._tag === "Failure") {
            assert.strictEqual(result.failure._tag, "SandboxError")
            continue
          }
          ended++
          assert.deepInclude(result.success.result, { exitCode: 7, stdout: "abcdefgh" })
        }
        assert.isAbove(ended, 5)
        assert.isAbove((yield* Faults.Faults).injected.length, 5)
      }).pipe(
        faked([
          Faults.seeded({
            seed,
            rates: { fail: 0.05, rateLimited: 0.05, loseAnswer: 0.05, delay: 0.1, cut: 0.1, duplicate: 0.2 },
            maxByte: 10,
            operations: [...Faults.providerOperations, ...Faults.machineOperations, "output", "append"]
          })
        ])
      )
    )
  }
})
