/** The handle, and a sandbox as Effect's own platform where it differs from what the platform suite tests. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer, Path, type PlatformError, Schema, Scope, Sink, Stdio, Stream } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { isSandboxError } from "../../src/errors.ts"
import { SandboxRef } from "../../src/model/SandboxRef.ts"
import * as Sandbox from "../../src/services/Sandbox.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { embedded } from "../support/embedded.ts"

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

/** Knows nothing of sandboxes. */
const portable = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "portable-" })
  yield* fs.writeFileString(path.join(directory, "words"), "b\na\nb\n")
  const sorted = ChildProcess.make("sort", ["words"], { cwd: directory }).pipe(
    ChildProcess.pipeTo(ChildProcess.make("uniq", ["-c"]))
  )
  const lines = yield* spawner.lines(sorted)
  yield* fs.writeFileString(path.join(directory, "counts"), lines.map((line) => line.trim()).join("\n"))
  return yield* fs.readFileString(path.join(directory, "counts"))
}).pipe(Effect.scoped)

const pathOf = (pid: number) => `/proc/${pid}`

layer(embedded, { excludeTestServices: true, timeout: "60 seconds" })("Sandbox", (it) => {
  describe("a handle", () => {
    it.effect("has the service's methods, bound to its id", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create({ ports: [4173], purpose: "handle" })
        yield* sandbox.writeFiles([{ path: "a/b", content: "c" }])
        assert.strictEqual(text(yield* sandbox.readFile("a/b")), "c")
        assert.strictEqual((yield* sandbox.runCommand("cat", ["a/b"])).stdout, "c")
        const output = yield* sandbox.streamCommand("echo", ["streamed"]).pipe(
          Stream.filter((event) => event._tag === "stdout"),
          Stream.runCollect
        )
        assert.strictEqual(output.map((event) => text(event.bytes)).join(""), "streamed\n")
        const run = yield* sandbox.runCommandWithProcessStream("echo", ["recorded"])
        assert.strictEqual(run.result?.stdout, "recorded\n")
        assert.deepStrictEqual(
          (yield* Stream.runCollect(sandbox.listProcesses())).map((process) => process.id),
          [run.processId]
        )
        const checkpoint = yield* sandbox.createCheckpoint({ comment: "one" })
        yield* sandbox.runCommand("rm", ["-r", "a"])
        yield* sandbox.restoreCheckpoint(checkpoint.id)
        assert.strictEqual(text(yield* sandbox.readFile("a/b")), "c")
        assert.strictEqual((yield* Stream.runCollect(sandbox.listCheckpoints)).length, 1)
        yield* sandbox.deleteCheckpoint(checkpoint.id)
        assert.strictEqual((yield* sandbox.getPortUrl(4173)).url, "http://127.0.0.1:4173")
        assert.strictEqual((yield* sandbox.reconnect())._tag, "Connected")
        assert.strictEqual((yield* sandbox.record).status, "active")
        yield* sandbox.stop({ delete: true })
        assert.strictEqual((yield* sandbox.record).status, "shutdown")
      })
    )

    it.effect("crosses a wire as its ref", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create({ purpose: "wire" })
        const wire = JSON.stringify(yield* Schema.encodeEffect(SandboxRef)(sandbox.ref))
        const there = yield* Sandbox.from(JSON.parse(wire))
        assert.deepStrictEqual(there.ref, sandbox.ref)
        assert.strictEqual((yield* there.runCommand("echo", ["here"])).stdout, "here\n")
        assert.deepStrictEqual((yield* Sandbox.open(sandbox.id)).ref, sandbox.ref)
      })
    )

    it.effect("is made of a ref of the original, whose fields of its own are passed over", () =>
      Effect.gen(function* () {
        const { id } = yield* Sandbox.create()
        const sandbox = yield* Sandbox.from({ version: 1, sandboxId: id, externalSandboxId: "x", kind: "sandbox" })
        assert.strictEqual((yield* sandbox.runCommand("true")).exitCode, 0)
      })
    )

    it.effect("is not made of anything else", () =>
      Effect.gen(function* () {
        for (const ref of [
          undefined,
          {},
          "text",
          { version: 2, sandboxId: crypto.randomUUID() },
          { version: 1, sandboxId: "x" }
        ]) {
          const error = yield* Effect.flip(Sandbox.from(ref))
          assert.strictEqual(error.reason._tag, "InvalidArgument")
          assert.notInclude(error.message, "\n")
        }
        const missing = yield* Effect.flip(Sandbox.open("00000000-0000-4000-8000-00000000dead"))
        assert.strictEqual(missing.reason._tag, "NotFound")
      })
    )

    it.effect("of a scoped sandbox is stopped with its Scope, also when what used it failed", () =>
      Effect.gen(function* () {
        const kept: Array<Sandbox.Sandbox> = []
        const exit = yield* Sandbox.scoped({ persistent: false }).pipe(
          Effect.tap((sandbox) => Effect.sync(() => kept.push(sandbox))),
          Effect.andThen(Effect.fail("the user's own")),
          Effect.scoped,
          Effect.exit
        )
        assert.deepStrictEqual(exit, Exit.fail("the user's own"))
        const record = yield* (kept[0] ?? assert.fail("no sandbox was made")).record
        assert.strictEqual(record.status, "shutdown")
        assert.isUndefined(record.externalSandboxId)
      })
    )
  })

  describe("as a platform", () => {
    it.effect("runs a program that knows nothing of sandboxes, as the host does", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create()
        const inside = yield* Effect.provide(portable, sandbox.platform)
        const outside = yield* Effect.provide(portable, NodeServices.layer)
        assert.strictEqual(inside, "1 a\n2 b")
        assert.strictEqual(inside, outside)
        assert.strictEqual(yield* Effect.provide(portable, Sandbox.platform(sandbox.id)), inside)
      })
    )

    it.effect("has its own working directory", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create()
        const { workspaceRoot } = yield* sandbox.record
        yield* Effect.gen(function* () {
          const path = yield* Path.Path
          const fs = yield* FileSystem.FileSystem
          const spawner = yield* ChildProcessSpawner
          assert.strictEqual((yield* spawner.string(ChildProcess.make("pwd"))).trim(), workspaceRoot)
          assert.strictEqual(path.resolve("a/../b"), `${workspaceRoot}/b`)
          assert.strictEqual(path.relative(path.resolve("a"), "b/c"), "../b/c")
          assert.strictEqual((yield* path.toFileUrl("a b/")).pathname, `${workspaceRoot}/a%20b/`)
          yield* fs.writeFileString("relative", "here")
          assert.deepStrictEqual(yield* fs.readDirectory("."), ["relative"])
          assert.deepStrictEqual(yield* fs.glob("rel*"), ["relative"])
        }).pipe(Effect.provide(sandbox.platform))
      })
    )

    it.effect("names a process by its ids beside the number", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create()
        const handle = yield* sandbox.spawn(ChildProcess.make("true"))
        assert.strictEqual(handle.externalId, String(handle.pid))
        assert.match(handle.processId, /^[0-9a-f-]{36}$/)
      }).pipe(Effect.scoped)
    )

    it.effect("inherits what the program that spawns has for its standard streams", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create()
        const seen = { stdout: "", stderr: "" }
        const keep = (name: "stdout" | "stderr") => () =>
          Sink.forEach((chunk: string | Uint8Array) =>
            Effect.sync(() => {
              seen[name] += typeof chunk === "string" ? chunk : text(chunk)
            })
          )
        const stdio = Stdio.layerTest({
          stdin: Stream.make(new TextEncoder().encode("typed\n")),
          stdout: keep("stdout"),
          stderr: keep("stderr")
        })
        const command = ChildProcess.make("sh", ["-c", "cat; echo err >&2"], {
          stdin: "inherit",
          stdout: "inherit",
          stderr: "inherit"
        })
        const exitCode = ChildProcessSpawner.use((spawner) => spawner.exitCode(command))
        assert.strictEqual(yield* Effect.provide(exitCode, [sandbox.platform, stdio]), 0)
        assert.deepStrictEqual(seen, { stdout: "typed\n", stderr: "err\n" })
        const refused = yield* Effect.flip(Effect.provide(exitCode, sandbox.platform))
        assert.strictEqual(refused.reason._tag, "BadArgument")
        assert.include(refused.message, "Stdio")
      })
    )

    it.effect("leaves alone a process that was let go", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create()
        const fs = yield* FileSystem.FileSystem
        const pids = yield* Effect.gen(function* () {
          const kept = yield* sandbox.spawn(ChildProcess.make("sleep", ["60"]))
          const taken = yield* sandbox.spawn(ChildProcess.make("sleep", ["60"]))
          assert.isTrue(Effect.isEffect(yield* kept.unref))
          yield* Effect.flatten(taken.unref)
          return { kept: kept.pid, taken: taken.pid }
        }).pipe(Effect.scoped)
        assert.isTrue(yield* fs.exists(pathOf(pids.kept)))
        assert.isFalse(yield* fs.exists(pathOf(pids.taken)))
        // With the sandbox it ends all the same.
        yield* sandbox.stop({ delete: true })
        assert.isFalse(yield* fs.exists(pathOf(pids.kept)))
      }).pipe(Effect.provide(NodeServices.layer))
    )

    it.effect("gives a failure of the sandbox as the cause", () =>
      Effect.gen(function* () {
        const sandbox = yield* Sandbox.create()
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(sandbox.platform, scope)
        yield* sandbox.stop()
        const attempts: ReadonlyArray<Effect.Effect<void, PlatformError.PlatformError, Sandbox.PlatformServices>> = [
          Effect.flatMap(FileSystem.FileSystem, (fs) => Effect.asVoid(fs.stat("x"))),
          Effect.flatMap(FileSystem.FileSystem, (fs) => Stream.runDrain(fs.stream("x"))),
          Effect.asVoid(ChildProcessSpawner.use((spawner) => spawner.exitCode(ChildProcess.make("true"))))
        ]
        for (const attempt of attempts) {
          const error = yield* Effect.flip(Effect.provide(attempt, context))
          assert.isTrue(isSandboxError(error.reason.cause) && error.reason.cause.reason._tag === "Stopped")
        }
        yield* Scope.close(scope, Exit.void)
        const built = yield* Effect.flip(Layer.build(Sandbox.platform(sandbox.id)))
        assert.strictEqual(built.reason._tag, "Stopped")
      }).pipe(Effect.scoped)
    )

    it.effect("follows a sandbox that was made anew", () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const { sandboxId } = yield* sandboxes.createSandbox({ persistent: false })
        yield* Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          yield* fs.writeFileString("old", "")
          const { workspaceRoot } = yield* sandboxes.getSandbox(sandboxId)
          const host = yield* Effect.provide(FileSystem.FileSystem, NodeServices.layer)
          yield* host.remove(workspaceRoot ?? "", { recursive: true })
          // Its machine is gone: the next operation finds the new, empty one.
          assert.isFalse(yield* fs.exists("old"))
          yield* fs.writeFileString("new", "")
          assert.deepStrictEqual(yield* fs.readDirectory("."), ["new"])
        }).pipe(Effect.provide(Sandbox.platform(sandboxId)))
      })
    )
  })
})
