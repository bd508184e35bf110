/** Logs of Vercel that fall silent, on a Clock of the test: what is noticed, and what it costs. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Stream } from "effect"
import type { Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Machine } from "../../../../src/services/SandboxProvider.ts"
import { newProcessId, newSandboxId } from "../../../../src/testing/internal/stores.ts"
import * as Fault from "../../../emulators/vercel/faults.ts"
import type { VercelEmulator } from "../../../emulators/vercel/server.ts"
import { spin } from "../../../emulators/vercelSupport.ts"
import { provider } from "./support.ts"

interface World {
  readonly vendor: VercelEmulator
  readonly machine: Machine
  /** How many of our readers are in the guest. */
  readonly readers: () => number
  readonly root: string
}

/** Starts a shell and collects what it prints, and how it ends. */
const run = (machine: Machine, script: string, seen = { bytes: 0 }) =>
  Effect.scoped(
    Effect.gen(function* () {
      const process = yield* machine.start({
        processId: newProcessId(),
        command: "sh",
        args: ["-c", script],
        lifetime: "scoped",
        stdin: false
      })
      yield* Stream.runForEach(process.output, (chunk) => Effect.sync(() => (seen.bytes += chunk.bytes.length)))
      return { bytes: seen.bytes, exit: yield* process.exit }
    })
  )

const world = Effect.gen(function* () {
  const made = yield* provider()
  const sandboxId = newSandboxId()
  const config = { vercel: { name: "box", timeout: Duration.hours(5) } }
  const resolved = yield* made.provider.resolve(config)
  const machine = yield* made.provider.create({ sandboxId, version: 1, namespace: "tests", config, resolved })
  const { root } = made.emulator.sandbox("box").machine
  const readers = () => Fs.globSync("*/b.*", { cwd: Path.join(root, "tmp", ".effect-sandbox") }).length
  made.emulator.requests.reset()
  return { vendor: made.emulator, machine, readers, root }
})

type Body = (world: World) => Effect.Effect<void, unknown, Scope.Scope>

const test = (name: string, body: Body) => it.effect(name, () => Effect.scoped(Effect.flatMap(world, body)), 60_000)

const commandsOf = (vendor: VercelEmulator) => [...(vendor.sandbox("box").sessions.at(-1)?.commands.values() ?? [])]

/** Lets the Clock of the test go on in steps in which no request comes to its deadline, and what was due then happen. */
const pass = (vendor: VercelEmulator, seconds: number) =>
  Effect.gen(function* () {
    for (let passed = 0; passed < seconds; passed += 10) {
      yield* TestClock.adjust("10 seconds")
      yield* spin(() => vendor.requests.all.every(({ status }) => status !== undefined))
      // The answers are with the client, too.
      for (let turn = 0; turn < 20; turn++) yield* Effect.promise(() => new Promise(setImmediate))
    }
  })

describe("Vercel: a log that falls silent", () => {
  test("of a process that has ended is found out by its exit, with one question", ({ machine, vendor }) =>
    Effect.gen(function* () {
      vendor.faults.inject("command.logs", Fault.silent)
      const fiber = yield* Effect.forkChild(run(machine, "echo out; exit 3"))
      yield* spin(() => commandsOf(vendor).some(({ finishedAt }) => finishedAt !== undefined))
      yield* spin(() => vendor.requests.count("command.logs") === 1)
      assert.strictEqual(
        vendor.requests.count("command.get"),
        0,
        "nothing is asked while it may be that nothing is said"
      )
      yield* pass(vendor, 30)
      assert.deepStrictEqual(yield* Fiber.join(fiber), { bytes: 4, exit: { _tag: "Exited", code: 3 } })
      assert.deepStrictEqual(
        vendor.requests.all.map(({ endpoint }) => endpoint),
        ["command.start", "command.logs", "command.get", "command.logs"]
      )
    }))

  test("of a session that has ended has an unknown outcome, and does not read as if it had never been started", (world) =>
    Effect.gen(function* () {
      const { machine, vendor } = world
      vendor.faults.inject("command.logs", Fault.silent)
      const fiber = yield* Effect.forkChild(Effect.flip(run(machine, "echo out; sleep 300")))
      yield* spin(() => vendor.requests.count("command.logs") === 1)
      yield* vendor.expire("box")
      // The launcher asks the session again on a schedule; nothing is started on another one.
      while (fiber.pollUnsafe() === undefined) yield* pass(vendor, 30)
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason._tag, "OutcomeUnknown")
      assert.isFalse("provesNotAccepted" in error && error.provesNotAccepted)
      assert.strictEqual(vendor.sandbox("box").sessions.length, 1)
    }))

  test("and stays silent is asked for less and less often", ({ machine, vendor }) =>
    Effect.gen(function* () {
      vendor.faults.inject("command.logs", Fault.silent, { times: 1_000 })
      const fiber = yield* Effect.forkChild(run(machine, "echo out; exit 3"))
      yield* spin(() => vendor.requests.count("command.logs") === 1)
      // Each question is a step of the schedule: half an hour is about ten of them.
      yield* pass(vendor, 1_800)
      assert.isAtMost(vendor.requests.count("command.get"), 10)
      assert.isAtMost(vendor.requests.count("command.logs"), 11)
      assert.strictEqual(vendor.requests.count("command.start"), 1)
      vendor.faults.clear()
      while (fiber.pollUnsafe() === undefined) yield* pass(vendor, 60)
      assert.deepStrictEqual((yield* Fiber.join(fiber)).exit, { _tag: "Exited", code: 3 })
    }))

  test("long ago, of a process that goes on, costs neither readers in the guest nor requests without bound", (world) =>
    Effect.gen(function* () {
      const { machine, readers, root, vendor } = world
      const seen = { bytes: 0 }
      const fiber = yield* Effect.forkChild(
        run(machine, "head -c 2500000 /dev/zero; while [ ! -e go ]; do sleep 0.1; done; exit 5", seen)
      )
      // More than a log that is replayed.
      yield* spin(() => seen.bytes === 2_500_000)
      yield* pass(vendor, 3_600)
      assert.isAtMost(vendor.requests.count("command.start"), 2)
      assert.isAtMost(readers(), 2)
      assert.isAtMost(vendor.requests.count(), 40)
      Fs.writeFileSync(Path.join(root, "vercel", "go"), "")
      assert.deepStrictEqual(yield* Fiber.join(fiber), { bytes: 2_500_000, exit: { _tag: "Exited", code: 5 } })
    }))

  it.live(
    "because its connection was cut goes on in the same log, or with a new reader for the one before",
    () =>
      Effect.gen(function* () {
        const { machine, readers, root, vendor } = yield* world
        vendor.faults.inject("command.logs", Fault.torn(40_000))
        vendor.faults.inject("command.logs", Fault.torn(2_000_000), { times: 4 })
        const fiber = yield* Effect.forkChild(
          run(machine, "head -c 8000000 /dev/zero; while [ ! -e go ]; do sleep 0.1; done; exit 6")
        )
        // The first was short enough to be had again, the others have a new reader each.
        yield* spin(() => vendor.requests.count("command.start") >= 5)
        yield* spin(() => readers() <= 2)
        Fs.writeFileSync(Path.join(root, "vercel", "go"), "")
        assert.deepStrictEqual(yield* Fiber.join(fiber), { bytes: 8_000_000, exit: { _tag: "Exited", code: 6 } })
      }).pipe(Effect.scoped),
    60_000
  )
})
