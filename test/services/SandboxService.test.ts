import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Option, Redacted, Schedule, Stream } from "effect"
import type { PlatformError } from "effect"
import * as ChildProcess from "effect/process/ChildProcess"
import type { SandboxError } from "../../src/errors.ts"
import * as ProcessEvent from "../../src/model/ProcessEvent.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { SandboxStore } from "../../src/services/SandboxStore.ts"
import { embedded } from "../support/embedded.ts"

type Failure = SandboxError | { readonly _tag: "PlatformError"; readonly reason: { readonly _tag: string } }

/** `SandboxError.Gone`, `PlatformError.NotFound`, … */
const tagOf = <A, R>(effect: Effect.Effect<A, Failure, R>) =>
  Effect.map(Effect.flip(effect), (error) => `${error._tag}.${error.reason._tag}`)

const fresh = Effect.gen(function* () {
  const sandboxes = yield* SandboxService
  const { sandboxId } = yield* sandboxes.createSandbox({ ports: [4173] })
  return { sandboxes, sandboxId }
})

/** As `@ekairos/sandbox` called it; a spread gets past the types, as data does. */
const renamed: object = { timeoutMs: 5 }
const unknownId = "00000000-0000-4000-8000-00000000dead"
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

/** The bytes of both streams of a log, checked for gaps in `seq` and `offset`. */
const contents = (events: ReadonlyArray<ProcessEvent.ProcessEvent>) => {
  const streams = { stdout: "", stderr: "" }
  const offsets = { stdout: 0, stderr: 0 }
  events.forEach((event, index) => {
    assert.strictEqual(event.seq, index + 1)
    if (event._tag !== "stdout" && event._tag !== "stderr") return
    assert.strictEqual(event.offset, offsets[event._tag])
    offsets[event._tag] += event.bytes.length
    streams[event._tag] += text(event.bytes)
  })
  return streams
}

layer(embedded, { excludeTestServices: true, timeout: "60 seconds" })("SandboxService on this machine", (it) => {
  describe("plain commands", () => {
    it.effect("yield both streams, the code and the time", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const result = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "echo out; echo err >&2; exit 3"])
        assert.deepInclude(result, {
          exitCode: 3,
          stdout: "out\n",
          stderr: "err\n",
          truncated: { stdout: 0, stderr: 0 }
        })
        assert.strictEqual(result.command, "sh -c 'echo out; echo err >&2; exit 3'")
      })
    )

    it.effect("cap the result and say how much is missing", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const result = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "head -c 100000 /dev/zero | tr '\\0' x"], {
          maxOutputBytes: 1000
        })
        assert.strictEqual(result.stdout, "x".repeat(1000))
        assert.strictEqual(result.truncated.stdout, 99_000)
      })
    )

    it.effect("take input, environment and a working directory", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        yield* sandboxes.writeFiles(sandboxId, [{ path: "sub/x", content: "" }])
        const result = yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "cat; echo $GREETING; ls"], {
          cwd: "sub",
          env: { GREETING: "hello", TOKEN: Redacted.make("s3cret") },
          stdin: "input\n"
        })
        assert.strictEqual(result.stdout, "input\nhello\nx\n")
      })
    )

    it.effect("end at their deadline, and their descendants with them", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const error = yield* Effect.flip(
          sandboxes.runCommand(sandboxId, "sh", ["-c", "sleep 1000 & sleep 1000"], { timeout: "300 millis" })
        )
        assert.strictEqual(error.reason._tag, "Timeout")
        assert.include(error.message, "command timed out")
      })
    )

    it.effect("stream live and end with the exit", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const events = yield* Stream.runCollect(
          sandboxes.streamCommand(sandboxId, "sh", ["-c", "echo a; echo b >&2; exit 2"])
        )
        assert.deepStrictEqual(events.at(-1), { _tag: "exit", exit: { _tag: "Exited", code: 2 } })
        assert.deepStrictEqual(
          events
            .slice(0, -1)
            .map((event) => event._tag)
            .sort(),
          ["stderr", "stdout"]
        )
      })
    )

    it.effect("files are found as the system finds them, behind symlinks too", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        yield* sandboxes.runCommand(sandboxId, "sh", [
          "-c",
          "mkdir -p a/b; ln -s a/b link; echo wrong > x; echo right > a/x"
        ])
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "link/../x")), "right\n")
        yield* sandboxes.writeFiles(sandboxId, [{ path: "link/../y", content: "y" }])
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "cat", ["a/y"])).stdout, "y")
      })
    )

    it.effect("that their sandbox takes with it have no end of their own", () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const begun = (sandboxId: string) =>
          Effect.gen(function* () {
            const first = yield* Deferred.make<void>()
            const fiber = yield* sandboxes.streamCommand(sandboxId, "sh", ["-c", "echo begun; exec sleep 300"]).pipe(
              Stream.tap(() => Deferred.succeed(first, undefined)),
              Stream.runDrain,
              Effect.flip,
              Effect.forkChild
            )
            yield* Deferred.await(first)
            return fiber
          })
        const { sandboxId: stopped } = yield* sandboxes.createSandbox()
        const ofStop = yield* begun(stopped)
        yield* sandboxes.stopSandbox(stopped)
        assert.strictEqual((yield* Fiber.join(ofStop)).reason._tag, "OutcomeUnknown")

        const { sandboxId: leased } = yield* sandboxes.createSandbox({ timeout: "5 seconds" })
        const { reason } = yield* Fiber.join(yield* begun(leased))
        assert.isTrue(reason._tag === "Timeout" && reason.clock === "sandbox")
      })
    )

    it.effect("take Effect's own commands, with pipelines", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const handle = yield* sandboxes.spawn(
          sandboxId,
          ChildProcess.make("printf", ["b\na\n"]).pipe(ChildProcess.pipeTo(ChildProcess.make("sort", [])))
        )
        assert.strictEqual(yield* Stream.mkString(Stream.decodeText(handle.stdout)), "a\nb\n")
        assert.strictEqual(yield* handle.exitCode, 0)
        const refused = yield* Effect.flip(
          sandboxes.spawn(sandboxId, ChildProcess.make("cat", [], { stdin: "inherit" }))
        )
        assert.strictEqual(refused.reason._tag, "BadArgument")
      })
    )

    it.effect("are not held up by a stream that nobody reads", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const script = "i=0; while [ $i -lt 200 ]; do echo noise >&2; i=$((i+1)); done; echo done"
        const handle = yield* sandboxes.spawn(sandboxId, ChildProcess.make("sh", ["-c", script]))
        assert.strictEqual(yield* Stream.mkString(Stream.decodeText(handle.stdout)), "done\n")
      })
    )
  })

  describe("recorded processes", () => {
    it.effect("keep every byte in order, and their end", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const run = yield* sandboxes.runCommandWithProcessStream(sandboxId, "sh", [
          "-c",
          "echo out; echo err >&2; exit 4"
        ])
        assert.strictEqual(run.streamClientId, `sandbox-process:${run.processId}`)
        assert.deepInclude(run.result, { exitCode: 4, stdout: "out\n", stderr: "err\n" })
        const record = yield* sandboxes.getProcessSnapshot(run.processId)
        assert.deepInclude(record, { status: "failed", exitCode: 4, mode: "foreground", kind: "command" })
        assert.strictEqual(record.lease?.expiresAt, 0)
        const events = yield* Stream.runCollect(sandboxes.readProcessStream(run.processId, { follow: true }))
        assert.deepStrictEqual(contents(events), { stdout: "out\n", stderr: "err\n" })
        assert.deepStrictEqual(
          events.slice(-2).map((event) => event._tag),
          ["exit", "status"]
        )
      })
    )

    it.effect("return in the background once accepted, and are followed live", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const process = yield* sandboxes.runCommandProcess(
          sandboxId,
          "sh",
          ["-c", "while read l; do echo got $l; done"],
          {
            stdin: "open",
            kind: "service"
          }
        )
        assert.strictEqual((yield* process.snapshot).status, "running")
        const lines = yield* Effect.forkChild(
          ProcessEvent.lines(process.events).pipe(Stream.take(2), Stream.runCollect),
          { startImmediately: true }
        )
        yield* process.write(new TextEncoder().encode("one\n"))
        yield* sandboxes.writeProcessInput(process.processId, "two\n")
        assert.deepStrictEqual(yield* Fiber.join(lines), ["got one", "got two"])
        yield* sandboxes.closeProcessInput(process.processId)
        assert.deepStrictEqual(yield* process.exit, { _tag: "Exited", code: 0 })
        assert.strictEqual((yield* process.snapshot).status, "exited")
        const ended = yield* Effect.flip(process.signal("SIGTERM"))
        assert.strictEqual(ended.reason._tag, "ProcessEnded")
      })
    )

    it.effect("are the same one under the same id, and another command under it is refused", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const processId = crypto.randomUUID()
        const script = ["-c", "echo once >> log; cat log"]
        for (let i = 0; i < 3; i++) {
          const run = yield* sandboxes.runCommandWithProcessStream(sandboxId, "sh", script, { processId })
          assert.strictEqual(run.result?.stdout, "once\n")
        }
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "log")), "once\n")
        const other = yield* Effect.flip(sandboxes.runCommandProcess(sandboxId, "true", [], { processId }))
        assert.strictEqual(other.reason._tag, "ConfigMismatch")
      })
    )

    it.effect("killed by a signal say so, and by their deadline too", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const process = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"])
        yield* sandboxes.signalProcess(process.processId, "SIGTERM", { forceAfter: "2 seconds" })
        assert.deepStrictEqual(yield* process.exit, { _tag: "Signalled", signal: "SIGTERM", code: 143 })
        assert.deepInclude(yield* process.snapshot, { status: "killed", signal: "SIGTERM" })
        const late = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"], { timeout: "300 millis" })
        assert.strictEqual((yield* late.exit).reason, "deadline")
        assert.deepInclude(yield* late.snapshot, { status: "killed", streamAbortReason: "deadline" })
        const failed = yield* Effect.flip(
          sandboxes.runCommandWithProcessStream(sandboxId, "sleep", ["1000"], { timeout: "300 millis" })
        )
        assert.strictEqual(failed.reason._tag, "Timeout")
      })
    )

    it.effect("that cannot start are failed records", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const processId = crypto.randomUUID()
        assert.strictEqual(
          yield* tagOf(sandboxes.runCommandProcess(sandboxId, "no-such-program", [], { processId })),
          "PlatformError.NotFound"
        )
        assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, "failed")
      })
    )

    it.effect("run on when their caller is interrupted, unless it asked for their death", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        for (const [onInterrupt, status] of [
          ["detach", "running"],
          ["kill", "killed"]
        ] as const) {
          const processId = crypto.randomUUID()
          const fiber = yield* Effect.forkChild(
            sandboxes.runCommandProcess(sandboxId, "sh", ["-c", "echo up; exec sleep 1000"], {
              processId,
              mode: "foreground",
              onInterrupt
            }),
            { startImmediately: true }
          )
          // The first line says that it runs.
          yield* Effect.retry(
            sandboxes
              .readProcessStream(processId, { follow: true })
              .pipe(Stream.filter(ProcessEvent.isOutput), Stream.runHead),
            { while: (error) => error.reason._tag === "NotFound" }
          )
          yield* Fiber.interrupt(fiber)
          if (status === "killed") {
            yield* Stream.runDrain(sandboxes.readProcessStream(processId, { follow: true }))
          }
          assert.strictEqual((yield* sandboxes.getProcessSnapshot(processId)).status, status)
        }
      })
    )

    it.effect("are lost when their sandbox is stopped, with all they had said", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const process = yield* sandboxes.runCommandProcess(sandboxId, "sh", ["-c", "echo up; exec sleep 1000"])
        yield* process.events.pipe(Stream.filter(ProcessEvent.isOutput), Stream.runHead)
        yield* sandboxes.stopSandbox(sandboxId)
        assert.deepInclude(yield* process.snapshot, { status: "lost", streamAbortReason: "stop" })
        assert.strictEqual(contents(yield* Stream.runCollect(process.events)).stdout, "up\n")
        assert.strictEqual(yield* tagOf(process.exit), "SandboxError.OutcomeUnknown")
        const all = yield* Stream.runCollect(sandboxes.listProcesses(sandboxId, { status: ["lost"] }))
        assert.deepStrictEqual(
          all.map((record) => record.id),
          [process.processId]
        )
      })
    )

    it.effect("keep secrets out of record and log", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const run = yield* sandboxes.runCommandWithProcessStream(sandboxId, "sh", ["-c", 'test "$TOKEN" = pl4""nted'], {
          env: { TOKEN: Redacted.make("pl4nted"), PLAIN: "p" }
        })
        assert.strictEqual(run.result?.exitCode, 0)
        const record = yield* sandboxes.getProcessSnapshot(run.processId)
        assert.deepInclude(record, { env: { PLAIN: "p" }, secretEnv: ["TOKEN"] })
        assert.notInclude(JSON.stringify(record), "pl4nted")
      })
    )
  })

  describe("observed processes", () => {
    it.effect("are numbered by us, take a key once and end once", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const { id } = yield* sandboxes.startObservedProcess(sandboxId, { command: "codex", kind: "codex-app-server" })
        yield* Effect.forEach(
          Array.from({ length: 20 }, (_, i) => i),
          (i) => sandboxes.appendObservedProcessChunk(id, { type: "stdout", data: `${i % 10}`, key: `k${i % 10}` }),
          {
            concurrency: 5
          }
        )
        yield* sandboxes.appendObservedProcessChunk(id, { type: "metadata", data: { turn: 1 } })
        const bad = yield* Effect.flip(sandboxes.appendObservedProcessChunk(id, { type: "stdout" }))
        assert.strictEqual(bad.reason._tag, "InvalidArgument")
        const finished = yield* sandboxes.finishObservedProcess(id, { exitCode: 1, errorText: "broke" })
        assert.deepInclude(finished, { status: "failed", exitCode: 1, streamAbortReason: "broke" })
        yield* sandboxes.finishObservedProcess(id, { exitCode: 1, errorText: "broke" })
        const other = yield* Effect.flip(sandboxes.finishObservedProcess(id, { exitCode: 0 }))
        assert.strictEqual(other.reason._tag, "ProcessEnded")
        const late = yield* Effect.flip(sandboxes.appendObservedProcessChunk(id, { type: "stdout", data: "x" }))
        assert.strictEqual(late.reason._tag, "ProcessEnded")
        const events = yield* Stream.runCollect(sandboxes.readProcessStream(id, { follow: true }))
        assert.strictEqual(contents(events).stdout.split("").sort().join(""), "0123456789")
      })
    )
  })

  describe("files, ports, checkpoints", () => {
    it.effect("files are written with parents and modes, and read back byte for byte", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
        yield* sandboxes.writeFiles(sandboxId, [
          { path: "a/b/run.sh", content: "#!/bin/sh\necho ran\n", mode: 0o755 },
          { path: "-odd\nname ü", content: bytes },
          { path: "streamed", content: Stream.make(bytes, bytes) }
        ])
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "./a/b/run.sh")).stdout, "ran\n")
        assert.deepStrictEqual(Uint8Array.from(yield* sandboxes.readFile(sandboxId, "-odd\nname ü")), bytes)
        assert.strictEqual((yield* sandboxes.readFile(sandboxId, "streamed")).length, 512)
      })
    )

    it.effect("several that fail are listed by path, the rest is written", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        yield* sandboxes.writeFiles(sandboxId, [{ path: "file", content: "x" }])
        const error = yield* Effect.flip(
          sandboxes.writeFiles(sandboxId, [
            { path: "good", content: "g" },
            { path: "file/below", content: "b" }
          ])
        )
        assert.strictEqual(error.reason._tag, "WriteFailed")
        assert.include(error.message, "file/below")
        assert.strictEqual(text(yield* sandboxes.readFile(sandboxId, "good")), "g")
      })
    )

    it.effect("a port is known only if the config lists it, and ready means that it answers", () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const port = yield* freePort
        const { sandboxId } = yield* sandboxes.createSandbox({ ports: [port] })
        const server = `require("http").createServer((q, s) => s.end("hi")).listen(${port}, "127.0.0.1")`
        yield* sandboxes.runCommandProcess(sandboxId, process.execPath, ["-e", server])
        const { url } = yield* sandboxes.getPortUrl(sandboxId, port, { ready: true })
        assert.strictEqual(url, `http://127.0.0.1:${port}`)
        assert.strictEqual(yield* Effect.promise(() => fetch(url).then((answer) => answer.text())), "hi")
        assert.strictEqual(yield* tagOf(sandboxes.getPortUrl(sandboxId, 1)), "SandboxError.PortNotExposed")
        yield* sandboxes.stopSandbox(sandboxId)
      })
    )

    it.effect("a checkpoint brings files back, also into a stopped sandbox", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        yield* sandboxes.writeFiles(sandboxId, [{ path: "kept", content: "1" }])
        const checkpoint = yield* sandboxes.createCheckpoint(sandboxId, { comment: "before" })
        yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "rm kept; echo new > other"])
        const process = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"])
        yield* sandboxes.restoreCheckpoint(sandboxId, checkpoint.id)
        assert.deepInclude(yield* process.snapshot, { status: "lost" })
        assert.strictEqual((yield* sandboxes.runCommand(sandboxId, "ls")).stdout, "kept\n")
        yield* sandboxes.stopSandbox(sandboxId)
        yield* sandboxes.restoreCheckpoint(sandboxId, checkpoint.id)
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
        const list = yield* Stream.runCollect(sandboxes.listCheckpoints(sandboxId))
        assert.deepStrictEqual(
          list.map(({ comment, id }) => [id, comment]),
          [[checkpoint.id, "before"]]
        )
        yield* sandboxes.deleteCheckpoint(sandboxId, checkpoint.id)
        assert.strictEqual(yield* tagOf(sandboxes.restoreCheckpoint(sandboxId, checkpoint.id)), "SandboxError.NotFound")
        assert.strictEqual((yield* sandboxes.getSandbox(sandboxId)).status, "active")
      })
    )
  })

  describe("messages", () => {
    const messageOf = <A, R>(effect: Effect.Effect<A, SandboxError | PlatformError.PlatformError, R>) =>
      Effect.map(Effect.flip(effect), ({ message }) => message)

    it.effect("of a sandbox that was stopped say whether there is a way back", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        yield* sandboxes.stopSandbox(sandboxId)
        assert.include(yield* messageOf(sandboxes.runCommand(sandboxId, "true")), "reconnectToSandbox starts it again")
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        const spent = yield* sandboxes.createSandbox({ persistent: false })
        yield* sandboxes.stopSandbox(spent.sandboxId)
        for (const id of [sandboxId, spent.sandboxId]) {
          for (const use of [
            Effect.asVoid(sandboxes.runCommand(id, "true")),
            Effect.asVoid(sandboxes.reconnectToSandbox(id))
          ]) {
            assert.include(yield* messageOf(use), "its disk was not kept: make another one")
          }
        }
      })
    )

    it.effect("of a port that is not ready say what its check, or the system, has said", () =>
      Effect.gen(function* () {
        const sandboxes = yield* SandboxService
        const port = yield* freePort
        const { sandboxId } = yield* sandboxes.createSandbox({ ports: [port] })
        const recovery = { ready: Schedule.recurs(0) }
        const checks = [
          [true, "ECONNREFUSED"],
          [() => Effect.fail("not yet"), "not yet"],
          [() => Effect.fail({ _tag: "Warming" }), "Warming"],
          [() => Effect.fail({ message: "migrating" }), "migrating"],
          [() => Effect.fail(undefined), "the check failed"]
        ] as const
        for (const [ready, said] of checks) {
          const message = yield* messageOf(sandboxes.getPortUrl(sandboxId, port, { ready, recovery }))
          assert.include(message, `port ${port} does not answer: ${said}`)
        }
      })
    )

    it.effect("name the path that was given, and what an input has never been", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const path = "/proc/no-such-file"
        assert.include(yield* messageOf(sandboxes.writeFiles(sandboxId, [{ path, content: "" }])), path)
        const process = yield* sandboxes.runCommandProcess(sandboxId, "sleep", ["1000"])
        assert.include(yield* messageOf(process.write("x")), "it was started without")
        yield* process.signal("SIGKILL")
      })
    )
  })

  describe("bad input", () => {
    it.effect("ends in a typed error, and nothing is lost", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes: s } = yield* fresh
        yield* s.writeFiles(sandboxId, [
          { path: "file", content: "x" },
          { path: "plain", content: "#!/bin/sh\n", mode: 0o644 },
          { path: "dir/x", content: "" }
        ])
        const run = (...args: Parameters<typeof s.runCommand> extends [string, ...infer Rest] ? Rest : never) =>
          tagOf(s.runCommand(sandboxId, ...args))
        const table: ReadonlyArray<readonly [string, Effect.Effect<string, unknown>, string]> = [
          ["unknown provider", tagOf(s.createSandbox({ provider: "nope" })), "SandboxError.ProviderNotSelected"],
          ["empty command", run(""), "PlatformError.BadArgument"],
          ["NUL in the command", run("a\0b"), "PlatformError.BadArgument"],
          ["NUL in an argument", run("echo", ["a\0b"]), "PlatformError.BadArgument"],
          ["NUL in env", run("echo", [], { env: { A: "a\0b" } }), "PlatformError.BadArgument"],
          ["= in an env name", run("echo", [], { env: { "A=B": "c" } }), "PlatformError.BadArgument"],
          ["NUL in cwd", run("echo", [], { cwd: "a\0b" }), "PlatformError.BadArgument"],
          ["missing cwd", run("echo", [], { cwd: "nowhere" }), "PlatformError.NotFound"],
          ["cwd is a file", run("echo", [], { cwd: "file" }), "PlatformError.BadResource"],
          ["missing program", run("no-such-program"), "PlatformError.NotFound"],
          ["program is not executable", run("./plain"), "PlatformError.PermissionDenied"],
          ["program is a directory", run("./dir"), "PlatformError.PermissionDenied"],
          ["zero timeout", run("true", [], { timeout: 0 }), "SandboxError.InvalidArgument"],
          ["negative timeout", run("true", [], { timeout: -5 }), "SandboxError.InvalidArgument"],
          ["absurd timeout", run("true", [], { timeout: Duration.infinity }), "SandboxError.InvalidArgument"],
          ["fractional cap", run("true", [], { maxOutputBytes: 0.5 }), "SandboxError.InvalidArgument"],
          ["negative cap", run("true", [], { maxOutputBytes: -1 }), "SandboxError.InvalidArgument"],
          ["absurd lease", tagOf(s.createSandbox({ timeout: -1 })), "SandboxError.InvalidConfig"],
          ["reading a directory", tagOf(s.readFile(sandboxId, "dir")), "PlatformError.BadResource"],
          ["reading what is not there", tagOf(s.readFile(sandboxId, "nope")), "PlatformError.NotFound"],
          ["NUL in a path", tagOf(s.readFile(sandboxId, "a\0b")), "PlatformError.BadArgument"],
          ["empty path", tagOf(s.readFile(sandboxId, "")), "PlatformError.BadArgument"],
          [
            "writing onto a directory",
            tagOf(s.writeFiles(sandboxId, [{ path: "dir", content: "" }])),
            "PlatformError.BadResource"
          ],
          [
            "writing below a file",
            tagOf(s.writeFiles(sandboxId, [{ path: "file/x", content: "" }])),
            "PlatformError.BadResource"
          ],
          ["port 0", tagOf(s.getPortUrl(sandboxId, 0)), "SandboxError.InvalidArgument"],
          ["port 65536", tagOf(s.getPortUrl(sandboxId, 65_536)), "SandboxError.InvalidArgument"],
          ["port not exposed", tagOf(s.getPortUrl(sandboxId, 9999)), "SandboxError.PortNotExposed"],
          ["renamed field", tagOf(s.createSandbox({ ...{}, ...renamed })), "SandboxError.InvalidConfig"],
          ["an id that is no UUID", tagOf(s.runCommand("sandbox-1", "true")), "SandboxError.InvalidArgument"],
          ["an id in upper case", tagOf(s.getSandbox(unknownId.toUpperCase())), "SandboxError.InvalidArgument"],
          ["an unknown id", tagOf(s.runCommand(unknownId, "true")), "SandboxError.NotFound"],
          ["an unknown process", tagOf(s.attachProcess(unknownId)), "SandboxError.NotFound"],
          ["a process id that is no UUID", tagOf(s.getProcessSnapshot("1")), "SandboxError.InvalidArgument"],
          ["a signal that is none", tagOf(s.signalProcess(unknownId, "TERM")), "SandboxError.InvalidArgument"],
          ["an unknown checkpoint", tagOf(s.restoreCheckpoint(sandboxId, "nope")), "SandboxError.NotFound"],
          [
            "an isolation that is not there",
            tagOf(s.createSandbox({ local: { isolation: "bubblewrap" } })),
            "SandboxError.UnsupportedCapability"
          ]
        ]
        for (const [name, effect, expected] of table) assert.strictEqual(yield* effect, expected, name)
        // After all of that the sandbox is as it was.
        assert.strictEqual((yield* s.runCommand(sandboxId, "cat", ["file"])).stdout, "x")
        assert.strictEqual((yield* Stream.runCollect(s.listProcesses(sandboxId))).length, 0)
      })
    )

    it.effect("of callers without types ends in a typed error too", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes: s } = yield* fresh
        // What JavaScript and a model's tool call can pass.
        const untyped = <A>(value: unknown): A => value as A
        const table: ReadonlyArray<readonly [string, Effect.Effect<string, unknown>]> = [
          ["args is text", tagOf(s.runCommand(sandboxId, "echo", untyped("hi")))],
          ["an argument is a number", tagOf(s.runCommand(sandboxId, "echo", untyped([1])))],
          ["a misspelt option", tagOf(s.runCommand(sandboxId, "echo", [], untyped({ timeOut: 1 })))],
          ["the command is a number", tagOf(s.runCommand(sandboxId, untyped(1)))],
          ["an unknown kind", tagOf(s.runCommandProcess(sandboxId, "true", [], untyped({ kind: "daemon" })))],
          ["metadata that is no JSON", tagOf(s.runCommandProcess(sandboxId, "true", [], { metadata: { a: NaN } }))],
          [
            "an unknown kind observed",
            tagOf(s.startObservedProcess(sandboxId, untyped({ command: "x", kind: "daemon" })))
          ],
          ["an observed command that is none", tagOf(s.startObservedProcess(sandboxId, untyped({ args: ["x"] })))],
          ["observed args as text", tagOf(s.startObservedProcess(sandboxId, untyped({ command: "x", args: "hi" })))],
          ["an observed cwd that is none", tagOf(s.startObservedProcess(sandboxId, untyped({ command: "x", cwd: 1 })))],
          ["an argument's cwd that is none", tagOf(s.runCommand(sandboxId, "true", [], untyped({ cwd: 1 })))],
          ["a variable that is a number", tagOf(s.runCommand(sandboxId, "true", [], untyped({ env: { A: 1 } })))],
          ["input that is a number", tagOf(s.runCommand(sandboxId, "true", [], untyped({ stdin: 1 })))],
          [
            "input that is a number, recorded",
            tagOf(s.runCommandProcess(sandboxId, "true", [], untyped({ stdin: 1 })))
          ],
          ["bytes that are a number", tagOf(s.writeProcessInput(unknownId, untyped(1)))],
          ["files is no list", tagOf(s.writeFiles(sandboxId, untyped({ path: "x", content: "" })))],
          ["a file without content", tagOf(s.writeFiles(sandboxId, untyped([{ path: "x" }])))],
          ["a file that is none", tagOf(s.writeFiles(sandboxId, untyped([null])))],
          ["a status that is none", tagOf(Stream.runDrain(s.listSandboxes({ status: untyped(["runing"]) })))],
          ["a condition that there is not", tagOf(Stream.runDrain(s.listSandboxes(untyped({ state: "active" }))))],
          [
            "the same of processes",
            tagOf(Stream.runDrain(s.listProcesses(sandboxId, untyped({ state: ["running"] }))))
          ],
          ["a status that is no list", tagOf(Stream.runDrain(s.listSandboxes({ status: untyped("active") })))],
          ["a negative seq", tagOf(s.attachProcess(unknownId, { after: -1 }))],
          ["a grace that is none", tagOf(s.signalProcess(unknownId, "SIGTERM", { forceAfter: untyped("soon") }))],
          ["a negative grace", tagOf(s.signalProcess(unknownId, "SIGTERM", { forceAfter: -5 }))]
        ]
        for (const [name, effect] of table) assert.strictEqual(yield* effect, "SandboxError.InvalidArgument", name)

        const misspelt = yield* Effect.flip(
          s.writeFiles(
            sandboxId,
            untyped([
              { path: "a", content: "" },
              { path: "x", contents: "5" }
            ])
          )
        )
        assert.include(misspelt.message, "files[1].contents: there is no such field")
        assert.include(misspelt.message, '"x"')
        assert.strictEqual(yield* tagOf(s.readFile(sandboxId, "a")), "PlatformError.NotFound")
      })
    )

    it.effect("a record of a newer version is left alone", () =>
      Effect.gen(function* () {
        const { sandboxId, sandboxes } = yield* fresh
        const store = yield* SandboxStore
        const record = yield* store.getSandbox(sandboxId)
        assert.strictEqual(record.schemaVersion, 2)
        assert.isTrue(Option.isSome(Option.fromUndefinedOr(record.version)))
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      })
    )
  })
})

const freePort = Effect.promise(async () => {
  const { createServer } = await import("node:net")
  return await new Promise<number>((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address()
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0))
    })
  })
})
