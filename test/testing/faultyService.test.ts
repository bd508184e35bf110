/** What the service makes of faults: its decisions over rows, and its processes over real machines. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Context, Duration, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import { TestClock } from "effect/testing"
import { Authentication, isSandboxError, SandboxError, Store as StoreReason, Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as Local from "../../src/layers/providers/Local.ts"
import * as Memory from "../../src/layers/stores/Memory.ts"
import * as ProcessEvent from "../../src/model/ProcessEvent.ts"
import * as LeaseOwner from "../../src/services/LeaseOwner.ts"
import type { ProcessLog } from "../../src/services/ProcessLog.ts"
import * as Registry from "../../src/services/ProviderRegistry.ts"
import * as Sandbox from "../../src/services/Sandbox.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import type { SandboxProvider } from "../../src/services/SandboxProvider.ts"
import type { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"
import { tempDirectory } from "../support/embedded.ts"
import { scripted, type ScriptedOptions } from "../support/scripted.ts"

type Store = Layer.Layer<SandboxStore | ProcessLog>

/** One service over machines and records that outlive it. */
const service = (provider: SandboxProvider, store: Store) =>
  SandboxService.layer.pipe(
    Layer.provide(Registry.layer([Faults.provider(Effect.succeed(provider))])),
    Layer.provideMerge(Faults.layerStore(store)),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))),
    Layer.fresh
  )

const records = Effect.map(Layer.build(Memory.layer({ namespace: "test" })), Layer.succeedContext)

/** A test over rows with one service. */
const over = <A, E>(
  plan: Faults.Plan,
  test: (context: {
    readonly faults: Faults.Faults["Service"]
    readonly sandboxes: SandboxService["Service"]
    readonly vendor: ReturnType<typeof scripted>
  }) => Effect.Effect<A, E, Testing.Services | Scope.Scope>,
  options: ScriptedOptions = {}
) =>
  Effect.suspend(() => {
    const vendor = scripted(options)
    return Effect.gen(function* () {
      return yield* test({ faults: yield* Faults.Faults, vendor, sandboxes: yield* SandboxService })
    }).pipe(Effect.scoped, Effect.provide(Testing.layerOver(Effect.succeed(vendor.provider), { faults: plan })))
  })

describe("the service", () => {
  it.effect("waits a burst of refusals out, for as long as it was asked to", () =>
    over([Faults.on("create", Faults.rateLimited({ retryAfter: "30 seconds" }), { times: 3 })], (test) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(test.sandboxes.createSandbox(), { startImmediately: true })
        yield* TestClock.adjust("89 seconds")
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* Fiber.join(fiber)).outcome, "created")
        assert.deepStrictEqual(test.faults.unused, [])
      })
    )
  )

  it.effect("makes a vanished machine anew and runs the command there", () =>
    over([Faults.on("start", Faults.vanish, { call: 2 })], (test) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* test.sandboxes.createSandbox()
        yield* test.sandboxes.runCommand(sandboxId, "true")
        assert.strictEqual((yield* test.sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
        assert.strictEqual(test.vendor.count("create"), 2)
        assert.deepStrictEqual(test.faults.unused, [])
      })
    )
  )

  it.effect("never takes an output that was cut for an end", () =>
    over(
      [Faults.on("output", Faults.cut({ atByte: 5 }), { times: 3 })],
      ({ faults, sandboxes }) =>
        Effect.gen(function* () {
          const { sandboxId } = yield* sandboxes.createSandbox()
          const error = yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))
          assert.strictEqual(error.reason._tag, "OutcomeUnknown")
          const seen: Array<string> = []
          const cut = yield* sandboxes.streamCommand(sandboxId, "true").pipe(
            Stream.runForEach((event) => Effect.sync(() => seen.push(event._tag))),
            Effect.flip
          )
          assert.deepStrictEqual([seen, cut.reason._tag], [["stdout", "stdout"], "OutcomeUnknown"])
          const process = yield* sandboxes.runCommandProcess(sandboxId, "true")
          assert.strictEqual((yield* Effect.flip(Testing.passing(process.exit))).reason._tag, "OutcomeUnknown")
          const record = yield* process.snapshot
          assert.deepStrictEqual([record.status, record.exitCode], ["lost", undefined])
          assert.deepStrictEqual(faults.unused, [])
        }),
      { output: ["abcd", "efgh"] }
    )
  )

  it.effect("writes an output that comes in pieces and twice once", () =>
    over(
      [
        Faults.on("output", Faults.split(1)),
        Faults.on("output", Faults.duplicate(3)),
        Faults.on("append", Faults.loseAnswer(), { times: Infinity, when: ({ count }) => count % 2 === 1 })
      ],
      ({ faults, sandboxes }) =>
        Effect.gen(function* () {
          const { sandboxId } = yield* sandboxes.createSandbox()
          const run = yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "true"))
          assert.strictEqual(run.result?.stdout, "abcdefgh")
          const events = yield* Stream.runCollect(sandboxes.readProcessStream(run.processId))
          assert.deepStrictEqual(
            events.map(({ seq }) => seq),
            events.map((_, index) => index + 1)
          )
          assert.strictEqual(events.filter(({ _tag }) => _tag === "exit").length, 1)
          assert.deepStrictEqual(faults.unused, [])
        }),
      { output: ["abcd", "efgh"] }
    )
  )

  it.effect("leaves no orphan of a creation whose answer was lost", () =>
    over([Faults.on("create", Faults.loseAnswer())], ({ sandboxes, vendor }) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(sandboxes.createSandbox())
        assert.strictEqual(error.reason._tag, "Unavailable")
        assert.deepStrictEqual([vendor.rows.size, vendor.calls], [0, ["create", "find", "delete"]])
        const [record] = yield* Stream.runCollect(sandboxes.listSandboxes())
        assert.deepStrictEqual([record?.status, record?.stopPending], ["error", undefined])
      })
    )
  )
})

const everyOperation: ReadonlyArray<Faults.Operation> = [
  ...Faults.providerOperations,
  ...Faults.machineOperations,
  ...Faults.processOperations,
  ...Faults.storeOperations,
  ...Faults.logOperations
]

describe("one fault anywhere in a recorded command", () => {
  /** Which call fails or is not answered; those that do not come that far are left out. */
  const cases = everyOperation.flatMap((operation) =>
    [Faults.fail(), Faults.loseAnswer()].flatMap((fault) => [1, 2].map((call) => ({ call, fault, operation })))
  )

  it.effect(
    "is made good or is a typed failure; nothing runs twice, and the log has no gap",
    () =>
      Effect.gen(function* () {
        let happened = 0
        for (const { call, fault, operation } of cases) {
          // Lost answers of streams do not exist, which the types know, and a list of all operations does not.
          const rule = Faults.on(operation, fault as Faults.FaultOf<"create">, { call })
          const what = `${operation} ${call} ${fault._tag}`
          yield* over(
            [rule],
            ({ faults, sandboxes, vendor }) =>
              Effect.gen(function* () {
                const result = yield* Effect.gen(function* () {
                  const { sandboxId } = yield* Testing.passing(sandboxes.createSandbox())
                  return yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "true"))
                }).pipe(Effect.result)
                if (faults.unused.length > 0) return
                happened++
                assert.isAtMost(vendor.count("start"), 1, what)
                assert.isAtMost(vendor.rows.size, 1, what)
                if (result._tag === "Failure") {
                  const error = result.failure
                  assert.strictEqual(error._tag, "SandboxError", what)
                  if (operation === "create") assert.strictEqual(vendor.rows.size, 0, what)
                  return
                }
                assert.strictEqual(result.success.result?.stdout, "abcdefgh", what)
                const log = yield* Stream.runCollect(sandboxes.readProcessStream(result.success.processId)).pipe(
                  // The fault may only now be due, at the one read that is left.
                  Effect.retry({ times: 1 })
                )
                assert.deepStrictEqual(
                  log.map(({ seq }) => seq),
                  log.map((_, index) => index + 1),
                  what
                )
                assert.strictEqual(log.at(-1)?._tag, "status", what)
              }),
            { output: ["abcd", "efgh"] }
          )
        }
        assert.isAbove(happened, 20)
      }),
    120_000
  )

  it.effect("a lost answer of the process's insert does not cost the command", () =>
    over([Faults.on("insertProcess", Faults.loseAnswer())], ({ sandboxes }) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* sandboxes.createSandbox()
        const run = yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "true"))
        assert.strictEqual(run.result?.exitCode, 0)
      })
    )
  )

  for (const [operation, call] of [
    ["namespace", 1],
    ["getProcess", 1],
    ["read", 1]
  ] as const) {
    it.effect(`a read of ${operation} that fails once is tried again on the store's schedule`, () =>
      over([Faults.on(operation, Faults.fail(), { call })], ({ sandboxes }) =>
        Effect.gen(function* () {
          const { sandboxId } = yield* Testing.passing(sandboxes.createSandbox())
          yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "true"))
        })
      )
    )
  }
})

describe("what is interrupted", () => {
  for (const when of ["before it was asked for", "after it was done"] as const) {
    it.effect(`a restore of a stopped sandbox, ${when}, starts nothing that was at rest`, () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const faults = yield* Faults.Faults
        const { machines } = yield* Fake.Cloud
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
        yield* sandboxes.writeFiles(sandboxId, [{ path: "kept", content: "as it was" }])
        const checkpoint = yield* sandboxes.createCheckpoint(sandboxId)
        yield* sandboxes.stopSandbox(sandboxId)
        yield* faults.add(
          when === "before it was asked for"
            ? Faults.on("restoreCheckpoint", Faults.delay("1 hour"))
            : Faults.on("updateSandbox", Faults.delay("1 hour"), { call: 2 })
        )
        const restore = yield* Effect.forkChild(sandboxes.restoreCheckpoint(sandboxId, checkpoint.id), {
          startImmediately: true
        })
        yield* faults.exhausted
        yield* Fiber.interrupt(restore)
        for (const attempt of [
          Effect.asVoid(sandboxes.runCommand(sandboxId, "true")),
          Effect.asVoid(sandboxes.readFile(sandboxId, "kept"))
        ]) {
          assert.strictEqual((yield* Effect.flip(Testing.passing(attempt))).reason._tag, "Stopped")
        }
        // A stop ends what the restore may have started, and it can be tried again.
        yield* sandboxes.stopSandbox(sandboxId)
        assert.deepStrictEqual(
          machines.filter(({ running }) => running),
          []
        )
        yield* sandboxes.restoreCheckpoint(sandboxId, checkpoint.id)
        const bytes = yield* sandboxes.readFile(sandboxId, "kept")
        assert.strictEqual(new TextDecoder().decode(bytes), "as it was")
      }).pipe(Effect.provide(Testing.layer()))
    )
  }

  it.effect("a restore of an active sandbox leaves it usable", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent: true })
      yield* sandboxes.writeFiles(sandboxId, [{ path: "kept", content: "as it was" }])
      const checkpoint = yield* sandboxes.createCheckpoint(sandboxId)
      yield* faults.add(Faults.on("restoreCheckpoint", Faults.delay("1 hour")))
      const restore = yield* Effect.forkChild(sandboxes.restoreCheckpoint(sandboxId, checkpoint.id), {
        startImmediately: true
      })
      yield* faults.exhausted
      yield* Fiber.interrupt(restore)
      const bytes = yield* sandboxes.readFile(sandboxId, "kept")
      assert.strictEqual(new TextDecoder().decode(bytes), "as it was")
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("the making of a scoped sandbox is ended at once and leaves nothing", () =>
    Effect.gen(function* () {
      const { machines } = yield* Fake.Cloud
      const sandboxes = yield* SandboxService
      const fiber = yield* Effect.forkChild(Effect.scoped(Sandbox.scoped()), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.isUndefined(fiber.pollUnsafe())
      // No time passes: it does not wait for the boot.
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(machines, [])
      const records = yield* Stream.runCollect(sandboxes.listSandboxes())
      assert.deepStrictEqual(
        records.map(({ status, stopPending }) => [status, stopPending]),
        [["shutdown", undefined]]
      )
    }).pipe(Effect.provide(Testing.layer({ bootDelay: "1 minute" })))
  )
})

describe("a checkpoint that was made", () => {
  it.effect("is told of though its comment could not be kept", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* faults.add(Faults.on("updateSandbox", Faults.fail(new StoreReason({ kind: "Full" }))))
      const made = yield* sandboxes.createCheckpoint(sandboxId, { comment: "not kept" })
      assert.deepStrictEqual(faults.unused, [])
      assert.deepStrictEqual(yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId)), [made])
      assert.isUndefined((yield* sandboxes.getSandbox(sandboxId)).checkpointComments)
    }).pipe(
      Effect.provide(
        Testing.layerOver(
          Effect.gen(function* () {
            const provider = yield* Fake.make({ cloud: yield* Fake.makeCloud })
            // As Vercel's, which has no place for a comment.
            return { ...provider, capabilities: { ...provider.capabilities, checkpoints: withoutComments } }
          })
        )
      )
    )
  )
})

const withoutComments = { stopsProcesses: false, comments: false }

describe("a program that its sandbox takes with it", () => {
  const commands = { hangs: () => Stream.concat(Stream.make(Fake.stdout("up")), Stream.never) }

  /** The errors of the ways to run it, once all of them are up and what ends their sandbox has happened. */
  const ended = <E, R>(end: (id: string) => Effect.Effect<void, E, R>) =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ timeout: "10 minutes", persistent: true })
      const handle = yield* sandboxes.spawn(sandboxId, ChildProcess.make("hangs", []))
      const fibers = yield* Effect.forEach(
        [
          sandboxes.runCommand(sandboxId, "hangs"),
          Stream.runDrain(sandboxes.streamCommand(sandboxId, "hangs")),
          sandboxes.runCommandWithProcessStream(sandboxId, "hangs"),
          // Only a `PlatformError` can pass here; the failure of the sandbox is its cause.
          Effect.mapError(handle.exitCode, (error) => (isSandboxError(error.reason.cause) ? error.reason.cause : error))
        ],
        (command) => Effect.forkChild(Effect.flip(Effect.asVoid(command)), { startImmediately: true })
      )
      yield* TestClock.adjust("1 second")
      yield* end(sandboxId)
      const errors = yield* Effect.forEach(fibers, (fiber) => Testing.passing(Fiber.join(fiber)))
      return errors.map(({ reason }) => reason)
    }).pipe(Effect.scoped, Effect.provide(Testing.layer({ commands })))

  it.effect("when it is stopped has no exit", () =>
    Effect.gen(function* () {
      const reasons = yield* ended((id) => Effect.flatMap(SandboxService, (sandboxes) => sandboxes.stopSandbox(id)))
      assert.deepStrictEqual(
        reasons.map(({ _tag }) => _tag),
        ["OutcomeUnknown", "OutcomeUnknown", "OutcomeUnknown", "OutcomeUnknown"]
      )
    })
  )

  it.effect("when its time is up ends by that clock", () =>
    Effect.gen(function* () {
      const reasons = yield* ended(() => TestClock.adjust("10 minutes"))
      assert.strictEqual(reasons.length, 4)
      for (const reason of reasons) {
        assert.deepInclude(reason, { _tag: "Timeout", clock: "sandbox", duration: Duration.minutes(10) })
      }
    })
  )
})

describe("a checkpoint", () => {
  const stopped = (persistent: boolean) =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ persistent, timeout: "10 minutes", recovery: "recreate" })
      yield* sandboxes.writeFiles(sandboxId, [{ path: "precious", content: "kept" }])
      // Its lease ends, and this service still holds the connection.
      yield* TestClock.adjust("11 minutes")
      return { sandboxId, sandboxes }
    })

  it.effect("of a sandbox that sleeps wakes it, though the service has not noticed", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes } = yield* stopped(true)
      const { id } = yield* Testing.passing(sandboxes.createCheckpoint(sandboxId))
      yield* sandboxes.restoreCheckpoint(sandboxId, id)
      assert.strictEqual(Buffer.from(yield* sandboxes.readFile(sandboxId, "precious")).toString(), "kept")
    }).pipe(Effect.provide(Testing.layer()))
  )

  it.effect("of a sandbox that is gone is no checkpoint of an empty one", () =>
    Effect.gen(function* () {
      const { sandboxId, sandboxes } = yield* stopped(false)
      const error = yield* Effect.flip(Testing.passing(sandboxes.createCheckpoint(sandboxId)))
      assert.strictEqual(error.reason._tag, "Gone")
      const faults = yield* Faults.Faults
      assert.deepStrictEqual([faults.count("create"), faults.count("createCheckpoint")], [1, 0])
    }).pipe(Effect.provide(Testing.layer()))
  )
})

describe("a process that is begun twice", () => {
  const processId = "00000000-0000-4000-8000-000000000002"

  /** The sandbox of a process that was recorded by a service which died before it could start it. */
  const recordedOnly = Effect.gen(function* () {
    const sandboxes = yield* SandboxService
    const { sandboxId } = yield* sandboxes.createSandbox()
    yield* Effect.forkChild(sandboxes.runCommandWithProcessStream(sandboxId, "true", [], { processId }), {
      startImmediately: true
    })
    yield* (yield* Faults.Faults).exhausted
    return sandboxId
  })

  it.effect("by two callers of one service is started once, whichever answer is lost", () =>
    Effect.forEach(["insertProcess", "getProcess", "start"] as const, (operation) =>
      over([Faults.on(operation, Faults.delay("10 seconds"), { times: 2 })], ({ faults, sandboxes, vendor }) =>
        Effect.gen(function* () {
          const { sandboxId } = yield* sandboxes.createSandbox()
          yield* faults.add(Faults.on("insertProcess", Faults.loseAnswer()))
          const run = sandboxes.runCommandWithProcessStream(sandboxId, "true", [], { processId })
          const runs = yield* Testing.passing(Effect.all([run, run, run], { concurrency: 3 }))
          assert.deepStrictEqual(
            runs.map(({ result }) => result?.exitCode),
            [0, 0, 0],
            operation
          )
          assert.strictEqual(vendor.count("start"), 1, operation)
        })
      )
    )
  )

  it.effect("by a service that comes back late is not started on another machine too", () =>
    over([Faults.on("start", Faults.delay("10 minutes"))], ({ sandboxes, vendor }) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* sandboxes.createSandbox()
        const late = yield* Effect.forkChild(
          sandboxes.runCommandWithProcessStream(sandboxId, "true", [], { processId }),
          { startImmediately: true }
        )
        yield* TestClock.adjust("1 minute")
        const next = yield* Testing.another()
        const run = yield* next.runCommandWithProcessStream(sandboxId, "true", [], { processId })
        assert.strictEqual(run.result?.exitCode, 0)
        assert.strictEqual(vendor.count("start"), 1)
        vendor.vanish()
        // It finds its machine gone, makes another one, and sees that the process is not its own any more.
        assert.strictEqual((yield* Testing.passing(Fiber.join(late))).result?.stdout, run.result?.stdout)
        assert.deepStrictEqual([vendor.count("create"), vendor.count("start")], [2, 1])
      })
    )
  )

  it.effect("is lost if the machine that it was recorded for is not there any more", () =>
    over([Faults.on("start", Faults.kill("before"))], ({ vendor }) =>
      Effect.gen(function* () {
        const sandboxId = yield* recordedOnly
        yield* TestClock.adjust("1 minute")
        vendor.vanish()
        const next = yield* Testing.another()
        yield* Testing.passing(next.runCommand(sandboxId, "true"))
        const error = yield* Effect.flip(
          Testing.passing(next.runCommandWithProcessStream(sandboxId, "true", [], { processId }))
        )
        assert.strictEqual(error.reason._tag, "OutcomeUnknown")
        assert.deepStrictEqual([vendor.count("create"), vendor.count("start")], [2, 1])
      })
    )
  )

  it.effect("is not started by whoever only attaches to it", () =>
    over([Faults.on("start", Faults.kill("before"))], ({ vendor }) =>
      Effect.gen(function* () {
        yield* recordedOnly
        yield* TestClock.adjust("1 minute")
        const next = yield* Testing.another()
        const attached = yield* next.attachProcess(processId)
        assert.strictEqual((yield* Effect.flip(attached.exit)).reason._tag, "OutcomeUnknown")
        assert.strictEqual(vendor.count("start"), 0)
      })
    )
  )

  it.effect("is waited for while its service may live, and started then", () =>
    over([Faults.on("start", Faults.kill("before"))], ({ vendor }) =>
      Effect.gen(function* () {
        const sandboxId = yield* recordedOnly
        const next = yield* Testing.another()
        const run = yield* Testing.passing(next.runCommandWithProcessStream(sandboxId, "true", [], { processId }))
        assert.strictEqual(run.result?.exitCode, 0)
        assert.strictEqual(vendor.count("start"), 1)
      })
    )
  )
})

describe("a caller of a service that dies", () => {
  for (const operation of ["start", "append"] as const) {
    for (const how of ["before", "after"] as const) {
      it.effect(`${how} ${operation} is interrupted, as it dies with it`, () =>
        Effect.gen(function* () {
          const sandboxes = yield* SandboxService
          const { sandboxId } = yield* sandboxes.createSandbox()
          const exit = yield* Testing.passing(Effect.exit(sandboxes.runCommandProcess(sandboxId, "true")))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), String(exit))
        }).pipe(Effect.provide(Testing.layer({ faults: [Faults.on(operation, Faults.kill(how))] })))
      )
    }
  }
})

describe("who waits for the end of a process", () => {
  const slow = () =>
    Stream.concat(
      Stream.make(Fake.stdout("a")),
      Stream.fromEffect(Effect.as(Effect.sleep("10 minutes"), Fake.stdout("b")))
    )

  it.effect("that another service had hears of it, though the way to the machine was cut when it was taken over", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { store } = yield* Testing.World
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "slow")
      const attached = yield* (yield* Testing.another()).attachProcess(processId)
      yield* faults.add(Faults.on("findProcess", Faults.fail()))
      // The first service loses it to one that does nothing with it.
      yield* store.acquireProcessLease(processId, { owner: "nobody", ttl: "30 seconds", steal: true })
      const exit = yield* Testing.passing(attached.exit)
      assert.deepStrictEqual(exit, { _tag: "Exited", code: 0 })
      assert.deepStrictEqual(faults.unused, [])
    }).pipe(Effect.provide(Testing.layer({ commands: { slow } })))
  )

  it.effect("that another service had hears that it cannot be taken over", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { processId } = yield* sandboxes.runCommandProcess(sandboxId, "slow")
      const { store } = yield* Testing.World
      const attached = yield* (yield* Testing.another()).attachProcess(processId)
      yield* faults.add(Faults.on("findProcess", Faults.fail(new Authentication({}))))
      yield* store.acquireProcessLease(processId, { owner: "nobody", ttl: "30 seconds", steal: true })
      const errors = yield* Effect.all([Effect.flip(attached.exit), Effect.flip(Stream.runDrain(attached.events))], {
        concurrency: 2
      }).pipe((both) => Testing.passing(both))
      assert.deepStrictEqual(
        errors.map(({ reason }) => reason._tag),
        ["Authentication", "Authentication"]
      )
    }).pipe(Effect.provide(Testing.layer({ commands: { slow } })))
  )

  it.effect("and attaches while a stop marks it lost does not make that fail", () =>
    Effect.gen(function* () {
      const first = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* first.createSandbox()
      const { processId } = yield* first.runCommandProcess(sandboxId, "slow")
      yield* faults.kill
      yield* TestClock.adjust("1 minute")
      const sandboxes = yield* Testing.another()
      yield* faults.add(Faults.on("lastPosition", Faults.delay("10 seconds")))
      const stop = yield* Effect.forkChild(sandboxes.stopSandbox(sandboxId), { startImmediately: true })
      yield* Testing.passing(faults.exhausted)
      const { exit } = yield* sandboxes.attachProcess(processId)
      yield* Testing.passing(Fiber.join(stop))
      assert.strictEqual((yield* Effect.flip(exit)).reason._tag, "OutcomeUnknown")
    }).pipe(Effect.provide(Testing.layer({ commands: { slow } })))
  )

  it.effect("that its service has let go of takes it up again", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const faults = yield* Faults.Faults
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* faults.add(Faults.on("append", Faults.fail(new StoreReason({ kind: "Full" })), { call: 2 }))
      const process = yield* sandboxes.runCommandProcess(sandboxId, "slow")
      const first = yield* Effect.forkChild(Effect.flip(process.exit), { startImmediately: true })
      assert.strictEqual((yield* Testing.passing(Fiber.join(first))).reason._tag, "Store")
      assert.deepStrictEqual(yield* Testing.passing(process.exit, { limit: "1 hour" }), { _tag: "Exited", code: 0 })
      const events = yield* Stream.runCollect(sandboxes.readProcessStream(process.processId))
      const text = Buffer.concat(events.filter(ProcessEvent.isOutput).map(({ bytes }) => bytes)).toString()
      assert.strictEqual(text, "ab")
    }).pipe(Effect.provide(Testing.layer({ commands: { slow } })))
  )
})

describe("an input that fails in the middle", () => {
  const cat = ({ stdin }: Fake.CommandCall) => Stream.map(stdin, Fake.stdout)
  const torn = new Unavailable({ accepted: "unknown", detail: "the upload was torn" })
  const stdin = Stream.concat(
    Stream.make(new TextEncoder().encode("half")),
    Stream.fail(new SandboxError({ operation: "test", reason: torn }))
  )

  it.effect("fails a plain command, which would wait for the rest for ever", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      for (const command of [
        sandboxes.runCommand(sandboxId, "cat", [], { stdin }),
        Stream.runDrain(sandboxes.streamCommand(sandboxId, "cat", [], { stdin }))
      ]) {
        const error = yield* Effect.flip(Testing.passing(Effect.asVoid(command), { limit: "1 hour" }))
        assert.strictEqual(error.reason, torn)
      }
    }).pipe(Effect.provide(Testing.layer({ commands: { cat } })))
  )

  it.effect("kills a recorded one, whose record says why", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const { processId, result } = yield* Testing.passing(
        sandboxes.runCommandWithProcessStream(sandboxId, "cat", [], { stdin }),
        { limit: "1 hour" }
      )
      assert.deepInclude(result, { exitCode: 137, signal: "SIGKILL", stdout: "half" })
      const record = yield* sandboxes.getProcessSnapshot(processId)
      assert.strictEqual(record.status, "killed")
      assert.include(record.streamAbortReason, "the upload was torn")
    }).pipe(Effect.provide(Testing.layer({ commands: { cat } })))
  )

  it.effect("does not matter to a command that does not wait for it", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const late = Stream.concat(Stream.fromEffectDrain(Effect.sleep("1 hour")), stdin)
      const { stdout } = yield* sandboxes.runCommand(sandboxId, "build", [], { stdin: late })
      assert.strictEqual(stdout, "built")
      // It has ended before all of this is written.
      const chunk = new Uint8Array(100_000)
      const large = Stream.fromIterable(Array.from({ length: 100 }, () => chunk))
      for (let run = 0; run < 5; run++) {
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "slow", [], { stdin: large })).stdout, "built")
      }
    }).pipe(
      Effect.provide(
        Testing.layer({
          commands: {
            build: Fake.constant({ stdout: "built" }),
            slow: ({ stdin }) => Stream.concat(Stream.drain(Stream.take(stdin, 1)), Stream.make(Fake.stdout("built")))
          }
        })
      )
    )
  )
})

describe("a process of an observer", () => {
  it.effect("can be reported on after it was nearly marked lost", () =>
    over([], ({ faults, sandboxes, vendor }) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* sandboxes.createSandbox()
        const { id } = yield* sandboxes.startObservedProcess(sandboxId, { command: "elsewhere" })
        vendor.vanish()
        yield* faults.add(Faults.on("append", Faults.fail(new StoreReason({ kind: "Full" }))))
        assert.strictEqual((yield* Effect.flip(sandboxes.runCommand(sandboxId, "true"))).reason._tag, "Store")
        yield* sandboxes.appendObservedProcessChunk(id, { type: "stdout", data: "still here" })
        assert.strictEqual((yield* sandboxes.finishObservedProcess(id)).status, "exited")
        assert.deepStrictEqual(faults.unused, [])
      })
    )
  )
})

describe("a report of an observer", () => {
  it.effect("that comes while the process is marked lost is told that it has ended", () =>
    over([], ({ faults, sandboxes, vendor }) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* sandboxes.createSandbox()
        const { id } = yield* sandboxes.startObservedProcess(sandboxId, { command: "elsewhere" })
        yield* faults.add(Faults.on("append", Faults.delay("10 seconds")))
        const report = yield* Effect.forkChild(
          Effect.flip(sandboxes.appendObservedProcessChunk(id, { type: "stdout", data: "late" })),
          { startImmediately: true }
        )
        yield* faults.exhausted
        vendor.vanish()
        yield* sandboxes.runCommand(sandboxId, "true")
        const { reason } = yield* Testing.passing(Fiber.join(report))
        assert.strictEqual(reason._tag, "ProcessEnded")
      })
    )
  )
})

describe("the lease of a sandbox", () => {
  it.effect("is given back by whoever is interrupted while it is taken", () =>
    over([], ({ faults, sandboxes }) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* sandboxes.createSandbox()
        yield* faults.add(Faults.on("acquireSandboxLease", Faults.delay("10 seconds")))
        const stop = yield* Effect.forkChild(sandboxes.stopSandbox(sandboxId), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        yield* Testing.passing(Fiber.interrupt(stop))
        const { lease, status } = yield* sandboxes.getSandbox(sandboxId)
        assert.deepStrictEqual([lease?.epoch, lease?.expiresAt, status], [3, 0, "active"])
      })
    )
  )
})

describe("a machine that was booted elsewhere", () => {
  it.effect("is not written down over one that was made meanwhile", () =>
    over([], ({ faults, sandboxes, vendor }) =>
      Effect.gen(function* () {
        const { sandboxId } = yield* sandboxes.createSandbox()
        const late = yield* Testing.another()
        for (const row of vendor.rows.values()) row.incarnation = "elsewhere"
        yield* faults.add(Faults.on("acquireSandboxLease", Faults.delay("10 seconds")))
        const run = yield* Effect.forkChild(late.runCommand(sandboxId, "true"), { startImmediately: true })
        yield* faults.exhausted
        vendor.vanish()
        yield* Testing.passing(sandboxes.runCommand(sandboxId, "true"))
        const { incarnation } = yield* sandboxes.getSandbox(sandboxId)
        const { id } = yield* sandboxes.startObservedProcess(sandboxId, { command: "on the new machine" })
        assert.strictEqual((yield* Testing.passing(Fiber.join(run))).exitCode, 0)
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).incarnation, incarnation)
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(id)).status, "running")
        assert.strictEqual(vendor.count("create"), 2)
      })
    )
  )
})

describe("a read that fails in passing", () => {
  it.effect("of a log goes on behind the last event that was delivered, as often as it makes headway", () =>
    over(
      [],
      ({ faults, sandboxes }) =>
        Effect.gen(function* () {
          const { sandboxId } = yield* sandboxes.createSandbox()
          const { processId } = yield* Testing.passing(sandboxes.runCommandWithProcessStream(sandboxId, "true"))
          const whole = yield* Stream.runCollect(sandboxes.readProcessStream(processId))
          // More often than the schedule has retries: it begins anew with what arrives.
          const times = whole.length - 1
          assert.isAbove(times, 10)
          yield* faults.add(Faults.on("read", Faults.at({ item: 2 }, Faults.fail()), { times }))
          const events = yield* Testing.passing(
            Stream.runCollect(sandboxes.readProcessStream(processId, { follow: true }))
          )
          assert.deepStrictEqual(events, whole)
          assert.deepStrictEqual(faults.unused, [])
        }),
      { output: [..."abcdefghij"] }
    )
  )

  it.effect("of a list goes on behind the last record, without one that came meanwhile", () =>
    over([], ({ faults, sandboxes }) =>
      Effect.gen(function* () {
        const made = yield* Effect.forEach([1, 2, 3, 4], () => sandboxes.createSandbox())
        yield* faults.add(Faults.on("listSandboxes", Faults.at({ item: 3 }, Faults.fail()), { times: 1 }))
        const fiber = yield* Effect.forkChild(Stream.runCollect(sandboxes.listSandboxes()), { startImmediately: true })
        yield* faults.exhausted
        yield* TestClock.adjust("1 millis")
        yield* sandboxes.createSandbox()
        const listed = yield* Testing.passing(Fiber.join(fiber))
        assert.deepStrictEqual(listed.map(({ id }) => id).toSorted(), made.map(({ sandboxId }) => sandboxId).toSorted())
      })
    )
  )

  it.effect("for longer than the schedule lasts is that failure", () =>
    over([Faults.on("getProcess", Faults.fail(), { times: Infinity })], ({ sandboxes }) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Testing.passing(sandboxes.getProcessSnapshot(crypto.randomUUID())))
        assert.strictEqual(error.reason._tag, "Store")
      })
    )
  )
})

describe("a service that dies", () => {
  const sandboxId = "00000000-0000-4000-8000-000000000001"

  it.effect(
    "at any call of a creation leaves a sandbox that the next service finishes, and one machine",
    () =>
      Effect.gen(function* () {
        let deaths = 0
        for (const operation of everyOperation) {
          for (const when of ["before", "after"] as const) {
            for (const call of [1, 2]) {
              const what = `${when} ${operation} ${call}`
              yield* over([Faults.on(operation, Faults.kill(when), { call })], ({ faults, sandboxes, vendor }) =>
                Effect.gen(function* () {
                  const exit = yield* Effect.exit(Testing.passing(sandboxes.createSandbox({}, { sandboxId })))
                  if (faults.unused.length > 0) return
                  deaths++
                  assert.isTrue(Exit.isFailure(exit) || vendor.rows.size === 1, what)
                  const next = yield* Testing.another()
                  yield* Testing.passing(next.createSandbox({}, { sandboxId }))
                  assert.strictEqual((yield* next.runCommand(sandboxId, "true")).exitCode, 0, what)
                  assert.strictEqual((yield* next.getSandbox(sandboxId)).status, "active", what)
                  assert.strictEqual(vendor.rows.size, 1, what)
                })
              )
            }
          }
        }
        assert.isAbove(deaths, 15)
      }),
    120_000
  )

  it.live("in the middle of an output and of its writing loses and doubles none of it", () =>
    Effect.gen(function* () {
      const root = yield* tempDirectory
      const local = yield* Local.make({ root, isolation: "none" })
      const store = yield* records
      const faults = yield* Faults.make([Faults.on("output", Faults.at({ byte: 1000 }, Faults.kill("before")))])
      /** The services are of this test, which knows that the one before is dead. */
      const owner = { ...LeaseOwner.LeaseOwner.defaultValue(), isDead: () => Effect.succeed(true) }
      const build = Layer.build(
        service(local, store).pipe(Layer.provide(Layer.succeed(LeaseOwner.LeaseOwner, owner)))
      ).pipe(
        Effect.map((context) => Context.get(context, SandboxService)),
        Effect.provideService(Faults.Faults, faults)
      )
      const first = yield* Scope.make()
      const one = yield* Scope.provide(build, first)
      yield* one.createSandbox({}, { sandboxId })
      const script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 7"
      const { processId } = yield* one.runCommandProcess(sandboxId, "sh", ["-c", script], { mode: "background" })
      yield* faults.exhausted
      yield* Scope.close(first, Exit.void)
      yield* faults.add(Faults.on("append", Faults.kill("after"), { call: 2 }))
      const second = yield* Scope.make()
      const two = yield* Scope.provide(build, second)
      yield* two.attachProcess(processId)
      yield* faults.exhausted
      yield* Scope.close(second, Exit.void)
      const three = yield* build
      const { exit } = yield* three.attachProcess(processId)
      assert.deepStrictEqual(yield* exit, { _tag: "Exited", code: 7 })
      const events = yield* Stream.runCollect(three.readProcessStream(processId))
      const text = Buffer.concat(events.filter(ProcessEvent.isOutput).map(({ bytes }) => bytes)).toString()
      assert.strictEqual(text, Array.from({ length: 2000 }, (_, i) => `line ${i}\n`).join(""))
      assert.deepStrictEqual(
        faults.injected.map(({ kind, operation }) => [operation, kind]),
        [
          ["output", "Kill"],
          ["append", "Kill"]
        ]
      )
      yield* three.stopSandbox(sandboxId, { delete: true })
    }).pipe(Effect.scoped, Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))
  )

  it.live(
    "at any call of a recorded command leaves a process that ran at most once and whose log is whole",
    () =>
      Effect.gen(function* () {
        const root = yield* tempDirectory
        const local = yield* Local.make({ root, isolation: "none" })
        const owner = { ...LeaseOwner.LeaseOwner.defaultValue(), isDead: () => Effect.succeed(true) }
        const store = yield* records
        const maker = yield* Layer.build(service(local, store)).pipe(
          Effect.provideService(Faults.Faults, yield* Faults.make())
        )
        const sandboxes = Context.get(maker, SandboxService)
        yield* sandboxes.createSandbox({}, { sandboxId })
        yield* Effect.addFinalizer(() => Effect.orDie(sandboxes.stopSandbox(sandboxId, { delete: true })))
        let deaths = 0
        const script = "echo run >> $0; i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; exit 7"
        for (const operation of everyOperation) {
          for (const when of ["before", "after"] as const) {
            const what = `${when} ${operation}`
            const processId = crypto.randomUUID()
            const faults = yield* Faults.make([Faults.on(operation, Faults.kill(when))])
            const build = Layer.build(
              service(local, store).pipe(Layer.provide(Layer.succeed(LeaseOwner.LeaseOwner, owner)))
            ).pipe(
              Effect.map((context) => Context.get(context, SandboxService)),
              Effect.provideService(Faults.Faults, faults)
            )
            const run = (sandboxes: SandboxService["Service"]) =>
              sandboxes.runCommandWithProcessStream(sandboxId, "sh", ["-c", script, processId], { processId })
            const first = yield* Scope.make()
            yield* Scope.provide(build, first).pipe(
              Effect.flatMap(run),
              // What waits for a fiber that died waits for ever, as it would in a program that is no more.
              Effect.raceFirst(Effect.andThen(faults.exhausted, Effect.interrupt)),
              Effect.exit
            )
            yield* Scope.close(first, Exit.void)
            if (faults.unused.length > 0) continue
            deaths++
            yield* Effect.gen(function* () {
              const next = yield* build
              const result = yield* Effect.result(run(next))
              const stdout = Array.from({ length: 300 }, (_, i) => `line ${i}\n`).join("")
              assert.deepInclude(result._tag === "Success" ? result.success.result : {}, { exitCode: 7, stdout }, what)
              assert.strictEqual(Buffer.from(yield* next.readFile(sandboxId, processId)).toString(), "run\n", what)
              const events = yield* Stream.runCollect(next.readProcessStream(processId))
              assert.deepStrictEqual(
                events.map(({ seq }) => seq),
                events.map((_, index) => index + 1),
                what
              )
            }).pipe(Effect.scoped)
          }
        }
        assert.isAbove(deaths, 12)
      }).pipe(Effect.scoped, Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({})))),
    120_000
  )
})
