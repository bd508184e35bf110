import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Duration, Effect, Fiber, Layer, Redacted, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import {
  Authentication,
  OutcomeUnknown,
  RateLimited,
  type SandboxError,
  type SandboxErrorReason,
  Unavailable,
  Unknown
} from "../../src/errors.ts"
import * as Ids from "../../src/model/Ids.ts"
import * as Memory from "../../src/layers/stores/Memory.ts"
import type { ProcessLog } from "../../src/services/ProcessLog.ts"
import * as Registry from "../../src/services/ProviderRegistry.ts"
import * as RecoveryPolicy from "../../src/services/RecoveryPolicy.ts"
import { methodReasons, SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import { counting, Counts } from "../support/counting.ts"
import { type Scripted, scripted } from "../support/scripted.ts"

const env = (values: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromUnknown(values))

const store: Layer.Layer<SandboxStore | ProcessLog | Counts, SandboxError> = counting(
  Memory.layer({ namespace: "test" })
)

/** The service over scripted providers; the store stays visible. */
const service = (...providers: ReadonlyArray<Scripted>) =>
  SandboxService.layer.pipe(
    Layer.provide(
      Registry.layer(
        providers.map((one) => Effect.succeed(one.provider)),
        { default: "scripted" }
      )
    ),
    Layer.provideMerge(store),
    Layer.provide(env({}))
  )

const unavailable = new Unavailable({ accepted: "no", detail: "down" })

const reasonOf = <A, R>(effect: Effect.Effect<A, SandboxError | { readonly _tag: string }, R>) =>
  Effect.map(Effect.flip(effect), (error) => ("reason" in error ? (error as SandboxError).reason._tag : error._tag))

/** Runs an effect that waits, letting the clock pass until it is done. */
const withTime = <A, E, R>(effect: Effect.Effect<A, E, R>, step: Duration.Input = "1 minute") =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
    for (let turn = 0; turn < 200 && fiber.pollUnsafe() === undefined; turn++) {
      yield* TestClock.adjust(step)
      yield* Effect.yieldNow
    }
    return yield* Fiber.join(fiber)
  })

/** Two services on one store. */
const twoServices = Effect.fnUntraced(function* (vendor: ReturnType<typeof scripted>) {
  const shared = yield* Layer.build(store)
  const build = SandboxService.layer.pipe(
    Layer.provide(Registry.layer([Effect.succeed(vendor.provider)])),
    Layer.provide(Layer.succeedContext(shared)),
    Layer.provide(env({})),
    Layer.fresh
  )
  const one = Effect.map(Layer.build(build), (context) => Context.get(context, SandboxService))
  return [yield* one, yield* one] as const
})

describe("the warm path", () => {
  const vendor = scripted()
  it.effect("costs one vendor call a command, no read of the store and no probe", () =>
    Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.runCommand(sandboxId, "true")
      const counts = yield* Counts
      counts.reset()
      vendor.calls.length = 0
      for (let i = 0; i < 10; i++) yield* sandboxes.runCommand(sandboxId, "true")
      assert.deepStrictEqual(
        vendor.calls,
        Array.from({ length: 10 }, () => "start")
      )
      assert.strictEqual(counts.reads() + counts.writes(), 0)
    }).pipe(Effect.provide(service(vendor)))
  )
})

describe("a machine that vanished", () => {
  it.effect("of a stateless sandbox is made anew once and the command runs, under the same id", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.runCommand(sandboxId, "true")
      const before = yield* sandboxes.getSandbox(sandboxId)
      vendor.vanish()
      const result = yield* sandboxes.runCommand(sandboxId, "true")
      assert.strictEqual(result.exitCode, 0)
      assert.strictEqual(vendor.count("create"), 2)
      const record = yield* sandboxes.getSandbox(sandboxId)
      assert.strictEqual(record.status, "active")
      assert.notStrictEqual(record.incarnation, before.incarnation)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("is made anew once for twenty commands at once", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.runCommand(sandboxId, "true")
      vendor.vanish()
      yield* Effect.forEach(Array.from({ length: 20 }), () => sandboxes.runCommand(sandboxId, "true"), {
        concurrency: "unbounded"
      })
      assert.strictEqual(vendor.count("create"), 2)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("is made anew once by two services on one store", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const [one, other] = yield* twoServices(vendor)
      assert.notStrictEqual(one, other)
      const { sandboxId } = yield* one.createSandbox()
      yield* one.runCommand(sandboxId, "true")
      yield* other.runCommand(sandboxId, "true")
      vendor.vanish()
      yield* withTime(
        Effect.all([one.runCommand(sandboxId, "true"), other.runCommand(sandboxId, "true")], { concurrency: 2 })
      )
      assert.strictEqual(vendor.count("create"), 2)
    }).pipe(Effect.scoped)
  })

  it.effect("of a persistent sandbox is never replaced: it is Gone and the record says shutdown", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.runCommand(sandboxId, "true")
      vendor.vanish()
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "true")), "Gone")
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "shutdown")
      assert.strictEqual(vendor.count("create"), 1)
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "true")), "Stopped")
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("with recovery none is not replaced either", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ recovery: "none" })
      vendor.vanish()
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "true")), "Gone")
      assert.strictEqual(vendor.count("create"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("needs its secrets again before the vendor is asked", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox({ env: { TOKEN: Redacted.make("s3cret") } })
      vendor.vanish()
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "true")), "SecretsRequired")
      assert.strictEqual(vendor.count("create"), 1)
      assert.notInclude(JSON.stringify(yield* sandboxes.getSandbox(sandboxId)), "s3cret")
    }).pipe(Effect.provide(service(vendor)))
  })
})

describe("a machine that does not run", () => {
  it.effect("is booted, and reconnect tells what survived", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Connected")
      vendor.halt()
      assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
      vendor.halt()
      yield* sandboxes.runCommand(sandboxId, "true")
      assert.strictEqual(vendor.count("boot"), 2)
      assert.strictEqual(vendor.count("create"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("because another service stopped it is not revived by a warm one", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const [warm, other] = yield* twoServices(vendor)
      const { sandboxId } = yield* warm.createSandbox()
      yield* warm.runCommand(sandboxId, "true")
      yield* other.stopSandbox(sandboxId)
      assert.strictEqual(yield* reasonOf(warm.runCommand(sandboxId, "true")), "Stopped")
      assert.strictEqual(vendor.count("boot"), 0)
      assert.strictEqual((yield* warm.reconnectToSandbox(sandboxId))._tag, "Resumed")
      yield* warm.runCommand(sandboxId, "true")
    }).pipe(Effect.scoped)
  })
})

describe("schedules", () => {
  const attempts = (
    reasons: ReadonlyArray<SandboxErrorReason>,
    options: {
      readonly layer?: RecoveryPolicy.RecoverySchedule
      readonly provider?: RecoveryPolicy.RecoverySchedule
      readonly call?: RecoveryPolicy.RecoverySchedule
    }
  ) => {
    const vendor = scripted(options.provider === undefined ? {} : { recovery: { start: options.provider } })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.failNext("start", ...reasons)
      const exit = yield* withTime(
        Effect.exit(
          sandboxes.runCommand(
            sandboxId,
            "true",
            [],
            options.call === undefined ? {} : { recovery: { start: options.call } }
          )
        )
      )
      return { starts: vendor.count("start"), ok: exit._tag === "Success" }
    }).pipe(
      Effect.provide(service(vendor)),
      Effect.provideService(RecoveryPolicy.RecoveryPolicy, {
        ...RecoveryPolicy.defaults,
        ...(options.layer === undefined ? {} : { start: options.layer })
      })
    )
  }
  const times = (count: number): RecoveryPolicy.RecoverySchedule =>
    Schedule.recurs(count).pipe(Schedule.setInputType<SandboxError>())
  const five = Array.from({ length: 5 }, () => unavailable)

  it.effect("a start that was surely not accepted is tried again", () =>
    Effect.map(attempts([unavailable, unavailable], {}), (result) =>
      assert.deepStrictEqual(result, { starts: 3, ok: true })
    )
  )
  it.effect("the layer's schedule bounds it", () =>
    Effect.map(attempts(five, { layer: times(1) }), (result) =>
      assert.deepStrictEqual(result, { starts: 2, ok: false })
    )
  )
  it.effect("the provider's overrides the layer's", () =>
    Effect.map(attempts(five, { layer: times(1), provider: times(2) }), (result) =>
      assert.deepStrictEqual(result, { starts: 3, ok: false })
    )
  )
  it.effect("the call's overrides both", () =>
    Effect.map(attempts(five, { layer: times(1), provider: times(2), call: times(5) }), (result) =>
      assert.deepStrictEqual(result, { starts: 6, ok: true })
    )
  )
  it.effect("a start whose outcome is unknown is never repeated", () =>
    Effect.map(attempts([new Unavailable({ accepted: "unknown" })], {}), (result) =>
      assert.deepStrictEqual(result, { starts: 1, ok: false })
    )
  )
  it.effect("what is not transient fails at once", () =>
    Effect.map(attempts([new Authentication({})], {}), (result) =>
      assert.deepStrictEqual(result, { starts: 1, ok: false })
    )
  )

  it.effect("waits as long as the vendor asks, and not less", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.failNext("start", new RateLimited({ retryAfter: Duration.seconds(90) }))
      const fiber = yield* Effect.forkChild(sandboxes.runCommand(sandboxId, "true"), { startImmediately: true })
      yield* TestClock.adjust("89 seconds")
      assert.strictEqual(vendor.count("start"), 1)
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(vendor.count("start"), 2)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("the default backoff doubles within its jitter and ends", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.failNext("start", ...Array.from({ length: 10 }, () => unavailable))
      const fiber = yield* Effect.forkChild(Effect.exit(sandboxes.runCommand(sandboxId, "true")), {
        startImmediately: true
      })
      const at: Array<number> = [0]
      for (let now = 1; now <= 4_000; now++) {
        yield* TestClock.adjust(1)
        if (vendor.count("start") > at.length) at.push(now)
      }
      // 200 ms, 400, 800, 1600: each between 80 and 120 %.
      const delays = at.slice(1).map((time, index) => time - (at[index] ?? 0))
      assert.strictEqual(delays.length, 4)
      delays.forEach((delay, index) => {
        const base = 200 * 2 ** index
        assert.isAtLeast(delay, base * 0.8 - 1)
        assert.isAtMost(delay, base * 1.2 + 1)
      })
      const exit = yield* Fiber.join(fiber)
      assert.strictEqual(exit._tag, "Failure")
      assert.strictEqual(vendor.count("start"), 5)
    }).pipe(Effect.provide(service(vendor)))
  })
})

describe("create", () => {
  it.effect("that fails leaves an error record and no machine", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      vendor.failNext("create", new Authentication({ detail: "bad key" }))
      const sandboxId = "00000000-0000-4000-8000-000000000001"
      assert.strictEqual(yield* reasonOf(sandboxes.createSandbox({}, { sandboxId })), "Authentication")
      const record = yield* sandboxes.getSandbox(sandboxId)
      assert.strictEqual(record.status, "error")
      assert.include(record.error, "bad key")
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "true")), "NotActive")
      // The same call once more finishes it.
      assert.strictEqual((yield* sandboxes.createSandbox({}, { sandboxId })).outcome, "resumed")
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("whose answer is lost leaves no machine behind", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      vendor.loseAnswer("create", new Unavailable({ accepted: "unknown" }))
      assert.strictEqual(yield* reasonOf(sandboxes.createSandbox()), "Unavailable")
      assert.strictEqual(vendor.rows.size, 0)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("that was cut off is finished by its tag, without a second machine", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const sandboxId = "00000000-0000-4000-8000-000000000002"
      vendor.loseAnswer("create", new OutcomeUnknown({}))
      vendor.failNext("find", unavailable)
      yield* Effect.flip(sandboxes.createSandbox({}, { sandboxId }))
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).stopPending, "delete")
      assert.strictEqual(vendor.rows.size, 1)
      yield* sandboxes.reconnectToSandbox(sandboxId)
      assert.strictEqual(vendor.rows.size, 1)
      assert.strictEqual(vendor.count("create"), 1)
      assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "true")).exitCode, 0)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("with an id of the caller's happens once, however often it is called", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const sandboxId = "00000000-0000-4000-8000-000000000003"
      const config = { purpose: "test", ports: [3000] }
      const all = yield* withTime(
        Effect.all(
          Array.from({ length: 8 }, () => sandboxes.createSandbox(config, { sandboxId })),
          { concurrency: "unbounded" }
        )
      )
      assert.strictEqual(all.filter((one) => one.outcome === "created").length, 1)
      assert.strictEqual(vendor.count("create"), 1)
      const mismatch = yield* Effect.flip(sandboxes.createSandbox({ ...config, ports: [4000] }, { sandboxId }))
      assert.strictEqual(mismatch.reason._tag, "ConfigMismatch")
      assert.deepStrictEqual(mismatch.reason._tag === "ConfigMismatch" ? mismatch.reason.fields : [], ["ports"])
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("by a name returns the owner, also a stopped one, or says that it is in use", () => {
    const named = { externalId: "mine", reuse: true }
    const vendor = scripted({ persistent: true, named })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const first = yield* sandboxes.createSandbox({ purpose: "a" })
      const second = yield* sandboxes.createSandbox({ purpose: "a" })
      assert.strictEqual(second.sandboxId, first.sandboxId)
      assert.strictEqual(second.outcome, "resumed")
      yield* sandboxes.stopSandbox(first.sandboxId)
      assert.strictEqual((yield* sandboxes.createSandbox({ purpose: "a" })).sandboxId, first.sandboxId)
      assert.strictEqual((yield* sandboxes.getSandbox(first.sandboxId)).status, "active")
      assert.strictEqual(yield* reasonOf(sandboxes.createSandbox({ purpose: "b" })), "ConfigMismatch")
      assert.strictEqual(vendor.rows.size, 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("under the id of one whose disk is gone is refused, and that of one at rest is what it is", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const sandboxId = "00000000-0000-4000-8000-000000000001"
      yield* sandboxes.createSandbox({}, { sandboxId })
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual((yield* sandboxes.createSandbox({}, { sandboxId })).outcome, "resumed")
      assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "shutdown")
      yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      assert.strictEqual(yield* reasonOf(sandboxes.createSandbox({}, { sandboxId })), "Stopped")
      assert.strictEqual(vendor.count("create"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("by a name and an id once more is no second claim to the name", () => {
    const vendor = scripted({ named: { externalId: "mine", reuse: false } })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const sandboxId = "00000000-0000-4000-8000-000000000001"
      yield* sandboxes.createSandbox({}, { sandboxId })
      assert.strictEqual((yield* sandboxes.createSandbox({}, { sandboxId })).outcome, "resumed")
      assert.strictEqual(yield* reasonOf(sandboxes.createSandbox({ ports: [80] }, { sandboxId })), "ConfigMismatch")
      assert.strictEqual(yield* reasonOf(sandboxes.createSandbox()), "NameInUse")
      assert.strictEqual(vendor.count("create"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  for (const reuse of [true, false]) {
    it.effect(
      `by a name that failed is finished with the secrets of the next call, ${reuse ? "with" : "without"} reuse`,
      () => {
        const vendor = scripted({ persistent: true, named: { externalId: "mine", reuse } })
        vendor.failNext("create", new Unknown({}))
        vendor.failNext("find", new Unknown({}))
        return Effect.gen(function* () {
          const sandboxes = yield* SandboxService
          const sandboxId = "00000000-0000-4000-8000-000000000001"
          const create = sandboxes.createSandbox({ env: { TOKEN: Redacted.make("hush") } }, { sandboxId })
          assert.strictEqual(yield* reasonOf(create), "Unknown")
          if (!reuse) {
            const other = sandboxes.createSandbox({ env: { TOKEN: Redacted.make("hush") } })
            assert.strictEqual(yield* reasonOf(other), "NameInUse")
          }
          assert.strictEqual((yield* create).sandboxId, sandboxId)
          assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
        }).pipe(Effect.provide(service(vendor)))
      }
    )
  }

  it.effect("by the name of one that does not run fails as a reconnect does, which its reasons say", () => {
    const vendor = scripted({ persistent: true, named: { externalId: "mine", reuse: true } })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const create = sandboxes.createSandbox({ recovery: "none" })
      yield* create
      vendor.halt()
      const { reason } = yield* Effect.flip(create)
      assert.strictEqual(reason._tag, "NotRunning")
      assert.isTrue(methodReasons.createSandbox.some((tag) => tag === reason._tag))
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("selects by config, then setting, then default, and never guesses", () => {
    const a = scripted({ name: "a" })
    const b = scripted({ name: "b" })
    const layer = (values: Record<string, string>) =>
      SandboxService.layer.pipe(
        Layer.provide(Registry.layer([Effect.succeed(a.provider), Effect.succeed(b.provider)])),
        Layer.provide(store),
        Layer.provide(env(values))
      )
    return Effect.gen(function* () {
      const none = yield* Effect.flip(Effect.flatMap(SandboxService, (s) => s.createSandbox())).pipe(
        Effect.provide(layer({ SANDBOX_PROVIDER: "  " }))
      )
      assert.strictEqual(none.reason._tag, "ProviderNotSelected")
      assert.include(none.message, "registered: a, b")
      yield* Effect.flatMap(SandboxService, (s) => s.createSandbox()).pipe(
        Effect.provide(layer({ SANDBOX_PROVIDER: " b " }))
      )
      yield* Effect.flatMap(SandboxService, (s) => s.createSandbox({ provider: "a" })).pipe(
        Effect.provide(layer({ SANDBOX_PROVIDER: "b" }))
      )
      assert.deepStrictEqual([a.count("create"), b.count("create")], [1, 1])
      const unknown = yield* Effect.flip(
        Effect.flatMap(SandboxService, (s) => s.createSandbox({ provider: "c" }))
      ).pipe(Effect.provide(layer({})))
      assert.strictEqual(unknown.reason._tag, "ProviderNotSelected")
    })
  })
})

describe("stop", () => {
  it.effect("that the vendor refuses is kept as pending and finished by the next one", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.failNext("delete", new Authentication({}))
      assert.strictEqual(yield* reasonOf(sandboxes.stopSandbox(sandboxId)), "StopIncomplete")
      const record = yield* sandboxes.getSandbox(sandboxId)
      assert.strictEqual(record.status, "shutdown")
      assert.strictEqual(record.stopPending, "delete")
      assert.isDefined(record.externalSandboxId)
      assert.strictEqual(vendor.rows.size, 1)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual(vendor.rows.size, 0)
      assert.isUndefined((yield* sandboxes.getSandbox(sandboxId)).stopPending)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual(vendor.count("delete"), 2)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("ends the machine of a record of the original, which knew no incarnations", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const records = yield* SandboxStore
      for (const externalSandboxId of [undefined, "sbx_session"]) {
        const { sandboxId } = yield* sandboxes.createSandbox()
        const { version = 0, ...record } = yield* records.getSandbox(sandboxId)
        yield* records.updateSandbox(sandboxId, version, {
          incarnation: undefined,
          config: undefined,
          persistent: undefined,
          deleteOnStop: undefined,
          externalSandboxId: externalSandboxId ?? record.externalSandboxId
        })
        yield* sandboxes.stopSandbox(sandboxId)
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).stopPending, undefined)
      }
      // That of the session alone is left, as nobody can name it.
      assert.deepStrictEqual([vendor.count("delete"), vendor.rows.size], [1, 1])
    }).pipe(Effect.provide(service(vendor)))
  })

  /** Makes it what the original wrote, which said nothing of the disk. */
  const asOriginal = Effect.fnUntraced(function* (id: Ids.SandboxId, status: "active" | "shutdown") {
    const records = yield* SandboxStore
    const { version = 0 } = yield* records.getSandbox(id)
    yield* records.updateSandbox(id, version, {
      status,
      incarnation: undefined,
      config: undefined,
      persistent: undefined,
      deleteOnStop: undefined
    })
  })

  it.effect("of a record of the original keeps the disk where the provider's rules do", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* asOriginal(sandboxId, "active")
      yield* sandboxes.stopSandbox(sandboxId)
      assert.deepStrictEqual([vendor.count("stop"), vendor.count("delete")], [1, 0])
      assert.deepInclude(yield* sandboxes.getSandbox(sandboxId), { persistent: true, deleteOnStop: false })
      assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("of a record of the original asks what its params say", () => {
    const vendor = scripted()
    // The rule of a provider that looks at its own section.
    const provider: Scripted["provider"] = {
      ...vendor.provider,
      resolve: (config) =>
        vendor.provider.resolve({ ...config, ...(config.vercel?.persistent === true ? { persistent: true } : {}) })
    }
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const kept = yield* sandboxes.createSandbox({ params: { vercel: { persistent: true, cwd: "/app" } } })
      const other = yield* sandboxes.createSandbox()
      for (const { sandboxId } of [kept, other]) {
        yield* asOriginal(sandboxId, "active")
        yield* sandboxes.stopSandbox(sandboxId)
      }
      assert.deepStrictEqual([vendor.count("stop"), vendor.count("delete"), vendor.rows.size], [1, 1, 1])
    }).pipe(Effect.provide(service({ ...vendor, provider })))
  })

  it.effect("that the original made is undone by a reconnect, if there is a disk", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.halt()
      yield* asOriginal(sandboxId, "shutdown")
      const { reason } = yield* Effect.flip(
        Effect.catchTag(sandboxes.runCommand(sandboxId, "true"), "PlatformError", Effect.die)
      )
      assert.deepInclude(reason, { _tag: "Stopped" })
      assert.notProperty(reason, "diskKept", "nobody knows")
      assert.strictEqual((yield* sandboxes.reconnectToSandbox(sandboxId))._tag, "Resumed")
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("keeps the disk of a persistent one until it is asked to delete it", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* sandboxes.stopSandbox(sandboxId)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.deepStrictEqual([vendor.count("stop"), vendor.rows.size], [1, 1])
      yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      assert.strictEqual(vendor.rows.size, 0)
      yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      assert.strictEqual(vendor.count("delete"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })
})

describe("what a review found", () => {
  const recreating = (sandboxId: string) =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      const record = yield* store.getSandbox(yield* Schema.decodeEffect(Ids.SandboxId)(sandboxId))
      yield* store.updateSandbox(record.id, record.version ?? 0, { status: "recreating" })
    })

  it.effect("a plain stop of a cut-off restore keeps the disk of a persistent sandbox", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* recreating(sandboxId)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual(vendor.count("delete"), 0)
      assert.strictEqual(vendor.rows.size, 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("a cut-off recovery never replaces a persistent sandbox by an empty one", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      yield* recreating(sandboxId)
      vendor.vanish()
      assert.strictEqual(yield* reasonOf(sandboxes.runCommand(sandboxId, "true")), "Gone")
      assert.strictEqual(vendor.count("create"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("a stop that failed is finished by the next one, also of what was only being created", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const sandboxId = "00000000-0000-4000-8000-000000000004"
      vendor.loseAnswer("create", new OutcomeUnknown({}))
      vendor.failNext("find", new Authentication({}), new Authentication({}))
      yield* Effect.flip(sandboxes.createSandbox({}, { sandboxId }))
      assert.strictEqual(yield* reasonOf(sandboxes.stopSandbox(sandboxId)), "StopIncomplete")
      assert.strictEqual(vendor.rows.size, 1)
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual(vendor.rows.size, 0)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("a delete that failed is not forgotten by a plain stop", () => {
    const vendor = scripted({ persistent: true })
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      vendor.failNext("delete", new Authentication({}))
      yield* Effect.flip(sandboxes.stopSandbox(sandboxId, { delete: true }))
      yield* sandboxes.stopSandbox(sandboxId)
      assert.strictEqual(vendor.rows.size, 0)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("a creation that was cut off is finished with the secrets of the call that repeats it", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const sandboxId = "00000000-0000-4000-8000-000000000005"
      const config = { env: { TOKEN: Redacted.make("s3cret") } }
      vendor.failNext("create", new Authentication({}))
      yield* Effect.flip(sandboxes.createSandbox(config, { sandboxId }))
      assert.strictEqual((yield* sandboxes.createSandbox(config, { sandboxId })).outcome, "resumed")
      assert.strictEqual(vendor.rows.size, 1)
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("a replayed process id asks no machine", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const processId = "00000000-0000-4000-8000-000000000006"
      const run = sandboxes.runCommandProcess(sandboxId, "true", [], { processId, mode: "foreground" })
      yield* run
      yield* sandboxes.stopSandbox(sandboxId)
      vendor.calls.length = 0
      const replayed = yield* run
      assert.strictEqual((yield* replayed.snapshot).status, "exited")
      assert.deepStrictEqual(vendor.calls, [])
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("an observed process of another input under the same id is refused", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const { sandboxId } = yield* sandboxes.createSandbox()
      const processId = "00000000-0000-4000-8000-000000000007"
      yield* sandboxes.startObservedProcess(sandboxId, { command: "a", processId })
      yield* sandboxes.startObservedProcess(sandboxId, { command: "a", processId })
      const other = sandboxes.startObservedProcess(sandboxId, { command: "b", processId })
      assert.strictEqual(yield* reasonOf(other), "ConfigMismatch")
    }).pipe(Effect.provide(service(vendor)))
  })

  it.effect("waiting for somebody's lease ends with its release, and can be interrupted", () => {
    const vendor = scripted()
    return Effect.gen(function* () {
      const sandboxes = yield* SandboxService
      const store = yield* SandboxStore
      const { sandboxId } = yield* sandboxes.createSandbox()
      const held = yield* store.acquireSandboxLease(sandboxId, { owner: "somebody", ttl: "1 hour" })
      const interrupted = yield* Effect.forkChild(sandboxes.stopSandbox(sandboxId), { startImmediately: true })
      yield* TestClock.adjust("100 millis")
      yield* Fiber.interrupt(interrupted)
      const stopped = yield* Effect.forkChild(sandboxes.stopSandbox(sandboxId), { startImmediately: true })
      yield* TestClock.adjust("3 seconds")
      yield* store.releaseSandboxLease(sandboxId, held.lease ?? assert.fail("no lease"))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(stopped)
      assert.strictEqual(vendor.count("delete"), 1)
    }).pipe(Effect.provide(service(vendor)))
  })
})
