/** Recorded processes as the service follows them: taken over once, ended once, read without haste, and lost only when they are. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Deferred, Effect, Exit, Fiber, Layer, Option, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { NotFound, SandboxError, Unavailable, Unknown } from "../../src/errors.ts"
import * as Memory from "../../src/layers/stores/Memory.ts"
import * as Registry from "../../src/services/ProviderRegistry.ts"
import type { Machine, SandboxProvider } from "../../src/services/SandboxProvider.ts"
import { ProcessLog } from "../../src/services/ProcessLog.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import { scripted } from "../support/scripted.ts"

/** A provider whose machines do some things in another way. */
const dressed = (provider: SandboxProvider, dress: (machine: Machine) => Partial<Machine>): SandboxProvider => {
  const put = (machine: Machine): Machine => ({ ...machine, ...dress(machine) })
  return {
    ...provider,
    create: (request) => Effect.map(provider.create(request), put),
    connect: (ref, options) => Effect.map(provider.connect(ref, options), put)
  }
}

const stores = Memory.layer({ namespace: "test" })

/** A service over a store that others may share; it ends with the Scope. */
const serviceOver = (provider: SandboxProvider, shared: Context.Context<Layer.Success<typeof stores>>) =>
  Effect.map(
    Layer.build(
      SandboxService.layer.pipe(
        Layer.provide(Registry.layer([Effect.succeed(provider)])),
        Layer.provide(Layer.succeedContext(shared)),
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))),
        Layer.fresh
      )
    ),
    Context.get(SandboxService)
  )

const failure = (operation: string, reason: Unavailable | NotFound) => new SandboxError({ operation, reason })

describe("a followed process", () => {
  it.effect("is taken over once by those who attach at once", () =>
    Effect.gen(function* () {
      let resumed = 0
      const provider = dressed(scripted().provider, (machine) => ({
        start: (command) =>
          Effect.map(machine.start(command), (process) => ({ ...process, output: Stream.never, exit: Effect.never })),
        findProcess: (processId) =>
          Effect.succeedSome({ processId, externalId: processId, incarnation: machine.ref.incarnation }),
        resume: (external) =>
          Effect.gen(function* () {
            resumed++
            // Long enough for the others to come.
            for (let turn = 0; turn < 50; turn++) yield* Effect.yieldNow
            const process = yield* machine.start({
              processId: external.processId,
              command: "true",
              args: [],
              stdin: false,
              lifetime: "recorded"
            })
            return { ...process, external }
          }).pipe(Effect.catchTag("PlatformError", Effect.die))
      }))
      const shared = yield* Layer.build(stores)
      const first = yield* Scope.make()
      const one = yield* Scope.provide(serviceOver(provider, shared), first)
      const { sandboxId } = yield* one.createSandbox()
      const { processId } = yield* one.runCommandProcess(sandboxId, "true")
      yield* Scope.close(first, Exit.void)
      const other = yield* serviceOver(provider, shared)
      assert.strictEqual((yield* other.getProcessSnapshot(processId)).status, "detached")
      const handles = yield* Effect.all(
        Array.from({ length: 3 }, () => other.attachProcess(processId)),
        { concurrency: "unbounded" }
      )
      for (const handle of handles) assert.deepStrictEqual(yield* handle.exit, { _tag: "Exited", code: 0 })
      assert.strictEqual(resumed, 1)
      // Nothing is there twice.
      const events = yield* Stream.runCollect(other.readProcessStream(processId))
      assert.lengthOf(
        events.filter(({ _tag }) => _tag === "stdout"),
        1
      )
    }).pipe(Effect.scoped)
  )

  it.effect("that has ended is not detached by a service that goes away just then", () =>
    Effect.gen(function* () {
      const ending = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const provider = dressed(scripted().provider, (machine) => ({
        start: (command) =>
          Effect.acquireRelease(machine.start(command), () =>
            Effect.andThen(Deferred.succeed(ending, undefined), Deferred.await(go))
          )
      }))
      const shared = yield* Layer.build(stores)
      const first = yield* Scope.make()
      const one = yield* Scope.provide(serviceOver(provider, shared), first)
      const { sandboxId } = yield* one.createSandbox()
      const { processId } = yield* one.runCommandProcess(sandboxId, "true")
      yield* Deferred.await(ending)
      const closing = yield* Effect.forkChild(Scope.close(first, Exit.void), { startImmediately: true })
      for (let turn = 0; turn < 10; turn++) yield* Effect.yieldNow
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(closing)
      const other = yield* serviceOver(provider, shared)
      assert.strictEqual((yield* other.getProcessSnapshot(processId)).status, "exited")
      const events = yield* Stream.runCollect(other.readProcessStream(processId))
      const statuses = events.flatMap((event) => (event._tag === "status" ? [event.status] : []))
      assert.deepStrictEqual(statuses, ["running", "exited"])
    }).pipe(Effect.scoped)
  )

  it.effect("that somebody has taken over ends as they say, also for who cannot read its output any more", () =>
    Effect.gen(function* () {
      const cleared = yield* Deferred.make<void>()
      const provider = dressed(scripted().provider, (machine) => ({
        start: (command) =>
          Effect.map(machine.start(command), (process) => ({
            ...process,
            output: Stream.fromEffect(
              Effect.andThen(
                Deferred.await(cleared),
                new SandboxError({ operation: "output", reason: new Unknown({ detail: "ENOENT" }) })
              )
            )
          }))
      }))
      const shared = yield* Layer.build(stores)
      const service = yield* serviceOver(provider, shared)
      const { sandboxId } = yield* service.createSandbox()
      const handle = yield* service.runCommandProcess(sandboxId, "true")
      const { processId } = handle
      const store = Context.get(shared, SandboxStore)
      const log = Context.get(shared, ProcessLog)
      const { lease } = yield* store.acquireProcessLease(processId, { owner: "another", ttl: "1 minute", steal: true })
      const { seq } = yield* log.lastPosition(processId)
      yield* log.append(
        processId,
        lease?.epoch ?? 0,
        [
          {
            _tag: "exit",
            at: 0,
            seq: seq + 1,
            sandboxId: handle.sandboxId,
            processId,
            exit: { _tag: "Exited", code: 0 }
          }
        ],
        { status: "exited", exitCode: 0 }
      )
      const exit = yield* Effect.forkChild(handle.exit, { startImmediately: true })
      yield* Deferred.succeed(cleared, undefined)
      assert.deepStrictEqual(yield* Fiber.join(exit), { _tag: "Exited", code: 0 })
    }).pipe(Effect.scoped)
  )

  it.effect("whose way only ever breaks is tried on the schedule, not without pause", () =>
    Effect.gen(function* () {
      let resumed = 0
      const broken = <A extends Effect.Success<ReturnType<Machine["start"]>>>(process: A): A => ({
        ...process,
        output: Stream.fail(failure("output", new Unavailable({ accepted: "no" })))
      })
      const provider = dressed(scripted().provider, (machine) => ({
        start: (command) => Effect.map(machine.start(command), broken),
        resume: (external) => {
          // A loop without a pause must not go on for ever.
          if (++resumed > 1_000) return Effect.fail(failure("resume", new NotFound({ kind: "process", id: "spun" })))
          return machine
            .start({ processId: external.processId, command: "true", args: [], stdin: false, lifetime: "recorded" })
            .pipe(
              Effect.map((process) => broken({ ...process, external })),
              Effect.catchTag("PlatformError", Effect.die)
            )
        }
      }))
      const service = yield* serviceOver(provider, yield* Layer.build(stores))
      const { sandboxId } = yield* service.createSandbox()
      const handle = yield* service.runCommandProcess(sandboxId, "true")
      for (let turn = 0; turn < 2_000; turn++) yield* Effect.yieldNow
      // No time has passed yet.
      assert.isAtMost(resumed, 1)
      const exit = yield* Effect.forkChild(Effect.exit(handle.exit), { startImmediately: true })
      for (let minute = 0; minute < 60 && exit.pollUnsafe() === undefined; minute++) yield* TestClock.adjust("1 minute")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(exit)))
      assert.isAtMost(resumed, 20)
      assert.isAtLeast(resumed, 2)
    }).pipe(Effect.scoped)
  )

  it.effect("of a machine that its own start made anew is not lost with the old one", () =>
    Effect.gen(function* () {
      const vendor = scripted()
      const service = yield* serviceOver(vendor.provider, yield* Layer.build(stores))
      const { sandboxId } = yield* service.createSandbox()
      yield* service.runCommand(sandboxId, "true")
      vendor.vanish()
      const handle = yield* service.runCommandProcess(sandboxId, "true")
      assert.deepStrictEqual(yield* handle.exit, { _tag: "Exited", code: 0 })
      assert.strictEqual(vendor.count("create"), 2)
      const { incarnation, status } = yield* handle.snapshot
      assert.strictEqual(status, "exited")
      assert.strictEqual(incarnation, [...vendor.rows.values()][0]?.incarnation)
    }).pipe(Effect.scoped)
  )
})

describe("a restore that failed halfway", () => {
  for (const persistent of [true, false]) {
    it.effect(`is tried again, never replaced by an empty machine: ${persistent ? "persistent" : "stateless"}`, () =>
      Effect.gen(function* () {
        const vendor = scripted({ persistent })
        let restores = 0
        const provider: SandboxProvider = {
          ...vendor.provider,
          capabilities: {
            ...vendor.provider.capabilities,
            checkpoints: { stopsProcesses: false, comments: true }
          },
          checkpoints: Option.some({
            list: (sandboxId) => Stream.succeed({ id: "one", sandboxId, createdAt: 0 }),
            restore: (_id, request) => {
              // Its outcome is unknown: the record says that it is under way.
              if (++restores === 1) return Effect.fail(failure("restore", new Unavailable({ accepted: "unknown" })))
              return vendor.provider.create(request)
            },
            remove: () => Effect.void
          })
        }
        const service = yield* serviceOver(provider, yield* Layer.build(stores))
        const { sandboxId } = yield* service.createSandbox({ recovery: "restore" })
        yield* service.runCommand(sandboxId, "true")
        vendor.vanish()
        const failed = yield* Effect.flip(service.runCommand(sandboxId, "true"))
        assert.strictEqual(failed._tag === "SandboxError" ? failed.reason._tag : failed._tag, "Unavailable")
        assert.strictEqual(restores, 1)
        const again = yield* service.reconnectToSandbox(sandboxId)
        assert.strictEqual(again._tag, "Restored")
        assert.strictEqual(restores, 2)
        // The first one, and the one that the second restore made.
        assert.strictEqual(vendor.count("create"), 2)
      }).pipe(Effect.scoped)
    )
  }
})
