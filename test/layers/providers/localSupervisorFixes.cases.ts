/** The supervisor and its clients under what goes wrong around them: full disks, stray files, frozen processes. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { supervisorPaths } from "../../../src/layers/providers/local/wire.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import { isOutput } from "../../../src/model/ProcessEvent.ts"
import { SandboxService } from "../../../src/services/SandboxService.ts"
import { inDirectory, tempDirectory } from "../../support/embedded.ts"
import { directoryOf, fresh, provider, supervisorPid } from "./support/local.ts"

describe("local: supervisor, hardened", () => {
  it.live("who follows a process goes on following it when another one stops", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      const processId = P.newProcessId()
      const script = "while read line; do echo $line; done; exit 3"
      const first = yield* P.startSh(machine, script, { processId, lifetime: "recorded", stdin: true })
      const seen = yield* P.observe(first)
      yield* first.write(Buffer.from("one\n"))
      yield* seen.until(() => seen.stdout() === "one\n")
      const external = yield* P.power(yield* machine.findProcess(processId))
      // Two more come and go, on the same connection.
      for (const text of ["two\n", "three\n"]) {
        yield* Effect.scoped(
          Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) =>
            process.write(Buffer.from(text))
          )
        )
      }
      yield* seen.until(() => seen.stdout() === "one\ntwo\nthree\n")
      yield* Effect.scoped(
        Effect.flatMap(machine.resume(external, { stdout: 0, stderr: 0 }), (process) => process.closeInput)
      )
      assert.deepStrictEqual(yield* first.exit, P.exited(3))
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live(
    "a start that is too large for the supervisor is refused as the system refuses it, and others notice nothing",
    () =>
      Effect.gen(function* () {
        const { machine } = yield* fresh
        const other = yield* P.startSh(machine, "read line; exit 4", { lifetime: "recorded", stdin: true })
        const error = yield* Effect.flip(
          P.sh(machine, "true", { lifetime: "recorded", env: { BIG: "x".repeat(9 << 20) } })
        )
        assert.strictEqual(error._tag, "PlatformError")
        assert.include(String(error.cause ?? error), "E2BIG")
        yield* other.closeInput
        assert.deepStrictEqual(yield* other.exit, P.exited(4))
      }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("a request that the supervisor does not understand is answered, and cuts no connection", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      const other = yield* P.startSh(machine, "read line", { lifetime: "recorded", stdin: true })
      const socket = yield* Effect.acquireRelease(
        Effect.sync(() => Net.connect(supervisorPaths(root).socket)),
        (connected) => Effect.sync(() => connected.destroy())
      )
      const answer = (line: string) =>
        Effect.callback<unknown>((resume) => {
          socket.once("data", (bytes) => resume(Effect.sync(() => JSON.parse(bytes.toString()))))
          socket.write(`${line}\n`)
        })
      assert.deepStrictEqual(yield* answer(`{"id":7,"op":"dance"}`), {
        id: 7,
        failure: { type: "bad request", message: "not understood: dance" }
      })
      assert.deepInclude(yield* answer(`{"id":8,"op":"hello","version":1}`), { id: 8 })
      yield* other.closeInput
      yield* other.exit
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("a signal refuses what is no time to wait", () =>
    Effect.gen(function* () {
      const { machine } = yield* fresh
      const process = yield* P.startSh(machine, "read line", { lifetime: "recorded", stdin: true })
      for (const forceAfter of [NaN, -1, Infinity, "-1 second", JSON.parse(`"soon"`)]) {
        assert.strictEqual(
          yield* P.reason(process.signal("SIGTERM", { forceAfter })),
          P.tag("InvalidArgument"),
          String(forceAfter)
        )
      }
      yield* process.signal("SIGTERM", { forceAfter: "10 seconds" })
      assert.strictEqual((yield* process.exit).code, 143)
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live(
    "a supervisor that stands still is not waited for without end",
    () =>
      Effect.gen(function* () {
        const { machine, root, sandboxId } = yield* fresh
        const running = yield* P.startSh(machine, "read line; exit 6", { lifetime: "recorded", stdin: true })
        const pid = supervisorPid(root) ?? NaN
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Effect.acquireRelease(
              Effect.sync(() => process.kill(pid, "SIGSTOP")),
              () => Effect.sync(() => process.kill(pid, "SIGCONT"))
            )
            const later = yield* provider(root)
            const connected = later.connect(machine.ref, { sandboxId, boot: false })
            const tried = Effect.flatMap(connected, (again) => P.sh(again, "true", { lifetime: "recorded" }))
            assert.strictEqual(yield* P.reason(tried), P.tag("Timeout"))
          })
        )
        // It goes on where it stood.
        yield* running.closeInput
        assert.deepStrictEqual(yield* running.exit, P.exited(6))
      }).pipe(Effect.timeout("20 seconds")),
    30_000
  )

  it.live(
    "a supervisor that cannot start is given up soon, with its last words",
    () =>
      Effect.gen(function* () {
        const { machine, root } = yield* fresh
        const { directory, log, socket } = supervisorPaths(root)
        // Where its socket has to be there is something else.
        Fs.mkdirSync(Path.join(socket, "occupied"), { recursive: true })
        const error = yield* Effect.flip(P.sh(machine, "true", { lifetime: "recorded" }))
        assert.include(error.message, "cannot start")
        assert.strictEqual(Fs.readFileSync(log, "utf8").trimEnd().split("\n").length, 5)
        // And it is there as soon as it can be.
        Fs.rmSync(directory, { recursive: true })
        assert.deepStrictEqual((yield* P.sh(machine, "exit 2", { lifetime: "recorded" })).exit, P.exited(2))
      }).pipe(Effect.timeout("20 seconds")),
    30_000
  )

  it.live("what a command leaves beside the records keeps no supervisor from starting and is not touched", () =>
    Effect.gen(function* () {
      const { machine, root, sandboxId } = yield* fresh
      const processes = Path.join(directoryOf(root, sandboxId), "processes")
      const foreign = [
        Path.join(processes, "stray"),
        Path.join(processes, "job1", "input.txt"),
        Path.join(root, "sandboxes", "my-project", "processes", "job1", "input.txt"),
        Path.join(root, "pipes", "2024.report", "data.txt")
      ]
      for (const path of foreign) {
        Fs.mkdirSync(Path.dirname(path), { recursive: true })
        Fs.writeFileSync(path, "precious")
      }
      assert.deepStrictEqual((yield* P.sh(machine, "exit 2", { lifetime: "recorded" })).exit, P.exited(2))
      for (const path of foreign) assert.isTrue(Fs.existsSync(path), path)
      // No end was written for what is no process.
      for (const path of foreign.slice(1)) assert.lengthOf(Fs.readdirSync(Path.dirname(path)), 1, path)
    }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("a service that goes away lets go of whoever kills a process when nobody waits for it any more", () =>
    Effect.gen(function* () {
      const directory = yield* tempDirectory
      const scope = yield* Scope.make()
      const sandboxes = Context.get(yield* Layer.buildWithScope(inDirectory(directory), scope), SandboxService)
      const { sandboxId } = yield* sandboxes.createSandbox()
      const process = yield* sandboxes.runCommandProcess(sandboxId, "sh", ["-c", "echo ready; sleep 600"])
      yield* Stream.runHead(Stream.filter(process.events, isOutput))
      const waiting = yield* process.exit.pipe(
        Effect.onInterrupt(() => Effect.ignore(process.signal("SIGKILL"))),
        Effect.forkChild({ startImmediately: true })
      )
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(waiting)))
      yield* Effect.provide(
        SandboxService.use((next) => next.stopSandbox(sandboxId, { delete: true })),
        inDirectory(directory)
      )
    }).pipe(Effect.scoped, Effect.timeout("15 seconds"))
  )
})
