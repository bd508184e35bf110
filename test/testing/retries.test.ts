/** What the README says is tried again by itself, and what is not. */
import { assert, describe, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect, FileSystem, Schedule, Stream } from "effect"
import * as Fake from "../../src/layers/providers/Fake.ts"
import * as Sandbox from "../../src/services/Sandbox.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import type { SandboxProcess } from "../../src/services/SandboxService.ts"
import { Faults, Testing } from "../../src/testing/index.ts"

type Use = (sandbox: Sandbox.Sandbox) => Effect.Effect<unknown, unknown, Testing.Services | Scope.Scope>

const commands = {
  build: Fake.constant({ stdout: "built\n" }),
  cat: ({ stdin }: Fake.CommandCall) => Stream.map(stdin, Fake.stdout)
}

const plain: Use = (sandbox) => sandbox.runCommand("build")
const recorded: Use = (sandbox) => sandbox.runCommandWithProcessStream("build")
const read: Use = (sandbox) => Effect.andThen(sandbox.writeFiles([{ path: "a", content: "a" }]), sandbox.readFile("a"))
const onPlatform: Use = (sandbox) =>
  Effect.provide(
    Effect.flatMap(FileSystem.FileSystem, (fs) => fs.writeFileString("a", "a")),
    sandbox.platform
  )
const withCheckpoint =
  (use: (sandbox: Sandbox.Sandbox, checkpointId: string) => Effect.Effect<unknown, unknown>): Use =>
  (sandbox) =>
    Effect.flatMap(sandbox.createCheckpoint(), ({ id }) => use(sandbox, id))
const withProcess =
  (use: (process: SandboxProcess) => Effect.Effect<unknown, unknown>): Use =>
  (sandbox) =>
    Effect.flatMap(sandbox.runCommandProcess("cat", [], { stdin: "open" }), use)
/** A second service takes over from one that has died. */
const attached: Use = (sandbox) =>
  Effect.gen(function* () {
    const { processId } = yield* sandbox.runCommandProcess("cat", [], { stdin: "open" })
    const faults = yield* Faults.Faults
    yield* faults.kill
    const next = yield* Testing.another()
    yield* Effect.delay(next.attachProcess(processId), "1 minute")
  })
const elsewhere: Use = (sandbox) =>
  Effect.flatMap(Testing.another(), (service) => service.runCommand(sandbox.id, "build"))

const again: ReadonlyArray<readonly [Faults.Rule, Use]> = [
  [Faults.on("connect", Faults.loseAnswer()), elsewhere],
  [Faults.on("boot", Faults.loseAnswer()), (sandbox) => Effect.andThen(sandbox.stop(), sandbox.reconnect())],
  [Faults.on("stop", Faults.loseAnswer()), (sandbox) => sandbox.stop()],
  [Faults.on("delete", Faults.loseAnswer()), (sandbox) => sandbox.stop({ delete: true })],
  [Faults.on("start", Faults.fail()), plain],
  [Faults.on("readFile", Faults.fail()), read],
  [Faults.on("writeFiles", Faults.fail()), read],
  [Faults.on("fileSystem", Faults.fail()), onPlatform],
  [Faults.on("portUrl", Faults.fail()), (sandbox) => sandbox.getPortUrl(80)],
  [Faults.on("extendTimeout", Faults.fail()), (sandbox) => sandbox.extendTimeout("1 hour")],
  [Faults.on("output", Faults.cut({ atByte: 2 })), recorded],
  [Faults.on("exit", Faults.fail()), recorded],
  [Faults.on("insertProcess", Faults.loseAnswer()), recorded],
  [Faults.on("append", Faults.fail()), recorded],
  [Faults.on("acquireProcessLease", Faults.fail()), attached]
]

const once: ReadonlyArray<readonly [Faults.Rule, Use]> = [
  [Faults.on("start", Faults.loseAnswer()), plain],
  [Faults.on("output", Faults.cut({ atByte: 2 })), plain],
  [Faults.on("exit", Faults.fail()), plain],
  [Faults.on("readFile", Faults.cut({ atByte: 0 })), read],
  [Faults.on("signal", Faults.fail()), withProcess((process) => process.signal("SIGTERM"))],
  [Faults.on("write", Faults.fail()), withProcess((process) => process.write("a"))],
  [Faults.on("closeInput", Faults.fail()), withProcess((process) => process.closeInput)],
  [Faults.on("findProcess", Faults.fail()), attached],
  [Faults.on("resume", Faults.fail()), attached],
  [Faults.on("createCheckpoint", Faults.fail()), (sandbox) => sandbox.createCheckpoint()],
  [Faults.on("listCheckpoints", Faults.fail()), (sandbox) => Stream.runDrain(sandbox.listCheckpoints)],
  [Faults.on("restoreCheckpoint", Faults.fail()), withCheckpoint((sandbox, id) => sandbox.restoreCheckpoint(id))],
  [Faults.on("deleteCheckpoint", Faults.fail()), withCheckpoint((sandbox, id) => sandbox.deleteCheckpoint(id))]
]

/** Whether the use came through although its one fault happened. */
const survives = (rule: Faults.Rule, use: Use) =>
  Effect.gen(function* () {
    const sandbox = yield* Sandbox.create({ ports: [80], timeout: "30 minutes" })
    const faults = yield* Faults.Faults
    yield* faults.add(rule)
    const exit = yield* Effect.exit(Testing.passing(Effect.scoped(use(sandbox))))
    assert.deepStrictEqual(faults.unused, [])
    return exit._tag === "Success"
  }).pipe(Effect.provide(Testing.layer({ commands })))

const nameOf = ({ fault, operations }: Faults.Rule) => `${operations.join()} (${fault._tag})`

describe("tried again by itself", () => {
  for (const [rule, use] of again) {
    it.effect(`${nameOf(rule)} is`, () => Effect.map(survives(rule, use), (came) => assert.isTrue(came)))
  }
  for (const [rule, use] of once) {
    it.effect(`${nameOf(rule)} is not`, () => Effect.map(survives(rule, use), (came) => assert.isFalse(came)))
  }

  it.effect("create is, when the failure proves that it was not accepted; find is, for a stop", () =>
    Effect.gen(function* () {
      const faults = yield* Faults.Faults
      yield* Testing.passing(Sandbox.create())
      yield* faults.add(Faults.on("create", Faults.loseAnswer()))
      const { sandboxId = "" } = yield* Effect.flip(Testing.passing(Sandbox.create()))
      yield* faults.add(Faults.on("find", Faults.fail()))
      yield* Testing.passing(SandboxService.use((service) => service.stopSandbox(sandboxId)))
      assert.deepStrictEqual(faults.unused, [])
    }).pipe(Effect.provide(Testing.layer({ faults: [Faults.on("create", Faults.fail())] })))
  )

  it.effect("a port that is not ready is, on the schedule of its provider", () =>
    Effect.gen(function* () {
      const sandbox = yield* Sandbox.create({ ports: [80] })
      let checks = 0
      const ready = () =>
        Effect.andThen(
          Effect.sync(() => checks++),
          Effect.fail("not yet")
        )
      yield* Effect.flip(Testing.passing(sandbox.getPortUrl(80, { ready })))
      assert.strictEqual(checks, 3)
    }).pipe(Effect.provide(Testing.layer({ recovery: { ready: Schedule.recurs(2) } })))
  )
})
