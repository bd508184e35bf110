/** Each schedule of the recovery policy: how often and when it tries, what it does not try again, and whose schedule counts. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Layer, Schedule } from "effect"
import { Authentication, RateLimited, SandboxError, type SandboxErrorReason, Unavailable } from "../../src/errors.ts"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as RecoveryPolicy from "../../src/services/RecoveryPolicy.ts"
import { type RecoveryOverrides, SandboxService } from "../../src/services/SandboxService.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as Testing from "../../src/testing/Testing.ts"

type Name = keyof RecoveryPolicy.RecoverySchedules

/** Fails with this reason whenever it is asked, and writes down when. */
type Failing = (reason: () => SandboxErrorReason) => Effect.Effect<void, never, Faults.Faults>

interface Policy {
  readonly name: Name
  readonly retries: number
  /** The first delay and the longest, in ms. */
  readonly base: number
  readonly cap: number
  /** Whose schedules can replace it. */
  readonly replacedBy: ReadonlyArray<"layer" | "provider" | "call">
  /** Makes what is tried fail, and tries. */
  readonly attempt: (
    reason: () => SandboxErrorReason,
    recovery: RecoveryOverrides
  ) => Effect.Effect<unknown, unknown, Testing.Services | Fake.Cloud>
}

const failing =
  (operation: "connect" | "create" | "start" | "getSandbox"): Failing =>
  (reason) =>
    Effect.flatMap(Faults.Faults, (faults) =>
      faults.add(Faults.on(operation, Faults.fail(reason), { times: Infinity }))
    )

const created = Effect.flatMap(SandboxService, (sandboxes) =>
  Effect.orDie(Effect.map(sandboxes.createSandbox({ persistent: false, ports: [8080] }), ({ sandboxId }) => sandboxId))
)

const policies: ReadonlyArray<Policy> = [
  {
    name: "connect",
    retries: 6,
    base: 200,
    cap: 5_000,
    replacedBy: ["layer", "provider", "call"],
    attempt: (reason, recovery) =>
      Effect.gen(function* () {
        const sandboxId = yield* created
        yield* failing("connect")(reason)
        yield* (yield* SandboxService).reconnectToSandbox(sandboxId, { recovery })
      })
  },
  {
    name: "recreate",
    retries: 3,
    base: 500,
    cap: 10_000,
    replacedBy: ["layer", "provider"],
    attempt: (reason, recovery) =>
      Effect.gen(function* () {
        const sandboxId = yield* created
        yield* (yield* Fake.Cloud).vanish(sandboxId)
        yield* failing("create")(reason)
        yield* (yield* SandboxService).runCommand(sandboxId, "true", [], { recovery })
      })
  },
  {
    name: "start",
    retries: 4,
    base: 200,
    cap: 5_000,
    replacedBy: ["layer", "provider", "call"],
    attempt: (reason, recovery) =>
      Effect.gen(function* () {
        const sandboxId = yield* created
        yield* failing("start")(reason)
        yield* (yield* SandboxService).runCommand(sandboxId, "true", [], { recovery })
      })
  },
  {
    name: "ready",
    retries: 60,
    base: 50,
    cap: 1_000,
    replacedBy: ["layer", "provider", "call"],
    attempt: (reason, recovery) =>
      Effect.gen(function* () {
        const sandboxId = yield* created
        const ready = () =>
          Effect.suspend(() => Effect.fail(new SandboxError({ operation: "ready", reason: reason() })))
        yield* (yield* SandboxService).getPortUrl(sandboxId, 8080, { ready, recovery })
      })
  },
  {
    name: "store",
    retries: 8,
    base: 20,
    cap: 1_000,
    replacedBy: ["layer"],
    attempt: (reason) =>
      Effect.gen(function* () {
        const sandboxId = yield* created
        yield* failing("getSandbox")(reason)
        yield* (yield* SandboxService).getSandbox(sandboxId)
      })
  }
]

/** When it was tried, in ms since the first attempt, and when it was given up. */
const tried = (
  policy: Policy,
  reason: SandboxErrorReason,
  schedules: {
    readonly layer?: RecoveryPolicy.RecoverySchedule
    readonly provider?: RecoveryPolicy.RecoverySchedule
    readonly call?: RecoveryPolicy.RecoverySchedule
  } = {}
) => {
  const only = (schedule: RecoveryPolicy.RecoverySchedule | undefined): RecoveryOverrides =>
    schedule === undefined ? {} : { [policy.name]: schedule }
  return Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const at: Array<number> = []
    const failed = () => {
      at.push(clock.currentTimeMillisUnsafe())
      return reason
    }
    const error = yield* Effect.flip(Testing.passing(policy.attempt(failed, only(schedules.call))))
    const first = at[0] ?? 0
    return { at: at.map((time) => time - first), ended: clock.currentTimeMillisUnsafe() - first, error }
  }).pipe(
    Effect.provide(
      Testing.layer(schedules.provider === undefined ? {} : { recovery: only(schedules.provider) }).pipe(
        Layer.provide(
          Layer.succeed(RecoveryPolicy.RecoveryPolicy, { ...RecoveryPolicy.defaults, ...only(schedules.layer) })
        )
      )
    )
  )
}

const times = (count: number): RecoveryPolicy.RecoverySchedule =>
  Schedule.recurs(count).pipe(Schedule.setInputType<SandboxError>())

// Proof that nothing was accepted, without which nothing that was sent is sent again.
const unavailable = new Unavailable({ accepted: "no" })

for (const policy of policies) {
  describe(`the schedule ${policy.name}`, () => {
    it.effect(`tries ${policy.retries} times more, with delays that double up to a cap, jittered`, () =>
      Effect.gen(function* () {
        const { at } = yield* tried(policy, unavailable)
        assert.lengthOf(at, policy.retries + 1)
        for (let retry = 1; retry < at.length; retry++) {
          const delay = (at[retry] ?? 0) - (at[retry - 1] ?? 0)
          const expected = Math.min(policy.base * 2 ** (retry - 1), policy.cap)
          assert.isAtLeast(delay, expected * 0.8 - 1)
          assert.isAtMost(delay, expected * 1.2 + 1)
        }
      })
    )

    it.effect("waits at least as long as it is asked to", () =>
      Effect.gen(function* () {
        const { at } = yield* tried(policy, new RateLimited({ retryAfter: Duration.seconds(90) }), {
          layer: RecoveryPolicy.respectRetryAfter(times(3))
        })
        assert.lengthOf(at, 4)
        assert.isAtLeast((at[1] ?? 0) - (at[0] ?? 0), 90_000)
      })
    )

    it.effect("does not try again what no waiting helps against", () =>
      Effect.gen(function* () {
        const { at, ended } = yield* tried(policy, new Authentication({}))
        assert.deepStrictEqual([at, ended], [[0], 0])
      })
    )

    it.effect("keeps a total deadline, also when it is asked to wait longer", () =>
      Effect.gen(function* () {
        const spaced = Schedule.spaced("1 second").pipe(Schedule.setInputType<SandboxError>())
        const layer = RecoveryPolicy.within("10 seconds")(RecoveryPolicy.respectRetryAfter(spaced))
        const { at, ended } = yield* tried(policy, unavailable, { layer })
        assert.deepStrictEqual(
          at,
          Array.from({ length: 11 }, (_, second) => second * 1000)
        )
        assert.strictEqual(ended, 10_000)
        const limited = yield* tried(policy, new RateLimited({ retryAfter: Duration.seconds(90) }), { layer })
        assert.deepStrictEqual([limited.at, limited.ended], [[0], 0])
      })
    )

    it.effect(`is replaced by ${policy.replacedBy.join(", then by ")}`, () =>
      Effect.gen(function* () {
        let schedules = {}
        for (const [index, who] of policy.replacedBy.entries()) {
          schedules = { ...schedules, [who]: times(index + 1) }
          const { at } = yield* tried(policy, unavailable, schedules)
          assert.lengthOf(at, index + 2, who)
        }
      })
    )
  })
}
