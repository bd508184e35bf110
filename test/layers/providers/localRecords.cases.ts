/** Records of processes: written before anything runs, and true whatever breaks between the request and the program. */
import { assert, describe, it } from "@effect/vitest"
import type { PlatformError } from "effect/PlatformError"
import { Effect, Fiber, FileSystem, Stream } from "effect"
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import type { SandboxError } from "../../../src/errors.ts"
import { isSandboxError } from "../../../src/errors.ts"
import { bootId, identity, wallClock } from "../../../src/layers/providers/local/os.ts"
import type { Pipe, Pipes } from "../../../src/layers/providers/local/pipes.ts"
import { make as makePipes } from "../../../src/layers/providers/local/pipes.ts"
import { make as makeSpool } from "../../../src/layers/providers/local/spool.ts"
import type { StartRequest } from "../../../src/layers/providers/local/supervised.ts"
import { start } from "../../../src/layers/providers/local/supervised.ts"
import { processDirectory, supervisorPaths } from "../../../src/layers/providers/local/wire.ts"
import * as P from "../../../src/testing/internal/providers.ts"
import { create, fresh, localRoot, processesOf, provider } from "./support/local.ts"

const request = (): StartRequest => ({
  op: "start",
  sandboxId: Crypto.randomUUID(),
  processId: Crypto.randomUUID(),
  incarnation: Crypto.randomUUID(),
  command: "sleep",
  args: ["300"],
  cwd: "/",
  env: { PATH: "/usr/bin:/bin" },
  stdin: false,
  killGrace: 100,
  spoolQuota: 1 << 20
})

/** Pipes that are plain files: a program can write them, and nobody can watch them. */
const files = (directory: string): Pipes & { readonly opened: () => number } => {
  let opened = 0
  const open = (): Pipe => {
    const path = Path.join(directory, `pipe.${opened++}`)
    return { ours: Fs.openSync(path, "w+"), theirs: Fs.openSync(path, "r+") }
  }
  return { output: open, input: open, close: () => {}, opened: () => opened }
}

const descriptors = (): number => Fs.readdirSync("/dev/fd").length

const busy = (millis: number): void => {
  const end = performance.now() + millis
  while (performance.now() < end);
}

describe("local: the spool of a process", () => {
  it.live("has what lay in the pipe at the exit, however slow the disk and however busy the supervisor", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const pipes = yield* Effect.acquireRelease(
        Effect.sync(() => makePipes(Path.join(root, "pipes"), "test")),
        (stock) => Effect.sync(() => stock.close())
      )
      // As much as is read ahead, and what the socket and the pipe hold besides.
      const bytes = (1 << 20) + 2 * 65_536
      const pipe = pipes.output()
      const child = ChildProcess.spawn("head", ["-c", String(bytes), "/dev/zero"], {
        stdio: ["ignore", pipe.theirs, "ignore"]
      })
      Fs.closeSync(pipe.theirs)
      const directory = Path.join(root, "spool")
      // In the way of the file.
      const occupied = Path.join(directory, "out.0")
      Fs.mkdirSync(occupied, { recursive: true })
      const spool = makeSpool({
        socket: new Net.Socket({ fd: pipe.ours, readable: true, writable: false }),
        directory,
        stream: "out",
        quota: 1 << 30,
        grown: () => busy(60),
        log: () => {}
      })
      yield* Effect.callback<void>((resume) => {
        child.once("exit", () => resume(Effect.void))
      })
      const finished = yield* Effect.forkChild(Effect.promise(() => spool.finish(20)))
      yield* Effect.sleep("200 millis")
      Fs.rmdirSync(occupied)
      yield* Fiber.join(finished)
      assert.strictEqual(spool.length(), bytes)
    }).pipe(Effect.timeout("10 seconds"))
  )
})

describe("local: the record of a process", () => {
  it.live(
    "that is taken away while it runs leaves an outcome that is unknown, and no supervisor that waits for it",
    () =>
      Effect.gen(function* () {
        const { machine } = yield* fresh
        const processId = P.newProcessId()
        const script = `rm -rf ../processes/${processId}; echo out; exit 0`
        const started = yield* P.startSh(machine, script, { processId, lifetime: "recorded" })
        assert.strictEqual(yield* P.reason(started.exit), P.tag("OutcomeUnknown"))
        yield* machine.stop("delete")
      }).pipe(Effect.timeout("15 seconds"))
  )

  it.live("nothing is started when it cannot be written", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      const wanted = request()
      const directory = processDirectory(root, wanted)
      // In the way of the file.
      Fs.mkdirSync(Path.join(directory, "process.json.tmp"), { recursive: true })
      const pipes = files(root)
      const failed = yield* Effect.flip(Effect.tryPromise(() => start(root, pipes, wanted, () => {})))
      assert.include(String(failed.cause), "EISDIR")
      assert.strictEqual(pipes.opened(), 0)
      assert.deepStrictEqual(processesOf(root), [])
    })
  )

  it.live("a program that cannot be watched is ended before its start fails", () =>
    Effect.gen(function* () {
      const root = yield* localRoot
      for (const stdin of [false, true]) {
        const wanted = { ...request(), stdin }
        Fs.mkdirSync(processDirectory(root, wanted), { recursive: true })
        const before = descriptors()
        yield* Effect.flip(Effect.tryPromise(() => start(root, files(root), wanted, () => {})))
        assert.deepStrictEqual(processesOf(root), [])
        assert.strictEqual(descriptors(), before)
      }
    })
  )

  it.live("on a full disk a program does not run, not even for a moment", (context) =>
    Effect.gen(function* () {
      const outside = yield* localRoot
      const root = Path.join(outside, "disk")
      Fs.mkdirSync(root)
      const mounted = ChildProcess.spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", root])
      if (mounted.status !== 0) return context.skip(`tmpfs cannot be mounted here: ${String(mounted.stderr)}`)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => ChildProcess.spawnSync("umount", ["-l", root], { stdio: "ignore" }))
      )
      yield* Effect.gen(function* () {
        const { machine } = yield* create(yield* provider(root))
        // The supervisor is up while there is room.
        yield* P.run(machine, "true", [], { lifetime: "recorded" })
        const filler = Path.join(root, "filler")
        const fill = ChildProcess.spawnSync("dd", ["if=/dev/zero", `of=${filler}`, "bs=4096"], { stdio: "ignore" })
        assert.notStrictEqual(fill.status, 0)
        const marker = Path.join(outside, "ran")
        const processId = P.newProcessId()
        const script = { processId, lifetime: "recorded" } as const
        assert.strictEqual(yield* P.reason(P.sh(machine, `: > "$1"`, script, [marker])), P.tag("Quota"))
        assert.isFalse(Fs.existsSync(marker))
        // The id is free again.
        Fs.rmSync(filler)
        assert.strictEqual((yield* P.sh(machine, `: > "$1"`, script, [marker])).exit.code, 0)
        assert.isTrue(Fs.existsSync(marker))
      }).pipe(Effect.scoped)
    }).pipe(Effect.scoped)
  )

  it.live("a supervisor that dies between record and program leaves one that is lost and is not started again", () =>
    Effect.gen(function* () {
      const { machine, root, sandboxId } = yield* fresh
      const processId = P.newProcessId()
      const directory = processDirectory(root, { sandboxId, processId })
      Fs.mkdirSync(directory, { recursive: true })
      const startedAt = wallClock() - 1_000
      const record = { version: 1, sandboxId, processId, incarnation: machine.ref.incarnation, startedAt }
      Fs.writeFileSync(
        Path.join(directory, "process.json"),
        JSON.stringify({ ...record, supervisor: { pid: 4194999, startTime: "1" }, bootId: bootId() })
      )
      const external = yield* P.power(yield* machine.findProcess(processId))
      const marker = Path.join(root, "ran")
      for (const following of [
        machine.resume(external, { stdout: 0, stderr: 0 }),
        P.startSh(machine, `: > "$1"`, { processId, lifetime: "recorded" }, [marker])
      ]) {
        const process = yield* following
        assert.deepStrictEqual(yield* Stream.runCollect(process.output), [])
        const error = yield* Effect.flip(process.exit)
        if (error.reason._tag !== "OutcomeUnknown") return assert.fail(error.message)
        assert.strictEqual(error.reason.startedAt, startedAt)
      }
      assert.isFalse(Fs.existsSync(marker))
    })
  )
})

describe("local: a start whose answer was cut off", () => {
  it.live("is not said to be refused when the next supervisor refuses it", () =>
    Effect.gen(function* () {
      const { machine, root } = yield* fresh
      const { directory, info, socket } = supervisorPaths(root)
      Fs.mkdirSync(directory, { recursive: true })
      let starts = 0
      // It takes the first start up and is cut off; by the second the machine has been stopped.
      const server = Net.createServer((client) => {
        client.on("error", () => {})
        client.on("data", (bytes) => {
          for (const line of bytes.toString().trim().split("\n")) {
            const { id, op }: { id: number; op: string } = JSON.parse(line)
            if (op === "hello") client.write(`${JSON.stringify({ id, ok: { version: 1 } })}\n`)
            else if (op === "start" && ++starts === 1) client.destroy()
            else if (op === "start") client.write(`${JSON.stringify({ id, failure: { type: "refused" } })}\n`)
          }
        })
      })
      yield* Effect.acquireRelease(
        Effect.callback<void>((resume) => {
          server.listen(socket, () => resume(Effect.void))
        }),
        () => Effect.sync(() => server.close())
      )
      Fs.writeFileSync(info, JSON.stringify({ version: 1, ...identity(), bootId: bootId(), socket }))
      yield* Effect.addFinalizer(() => Effect.sync(() => Fs.rmSync(info, { force: true })))
      const error = yield* Effect.flip(P.run(machine, "true", [], { lifetime: "recorded" }))
      assert.strictEqual(starts, 2)
      if (error._tag !== "SandboxError" || error.reason._tag !== "Unavailable") return assert.fail(String(error))
      assert.strictEqual(error.reason.accepted, "unknown")
      assert.isFalse(error.provesNotAccepted)
    })
  )
})

describe("local: files of a machine whose disk is gone", () => {
  it.live("the machine is what is missing, not the file, and nothing brings it back", () =>
    Effect.gen(function* () {
      const { local, machine, root, sandboxId } = yield* fresh
      const fs = FileSystem.makeNoop(machine.fileSystem)
      const absolute = (name: string) => Path.join(machine.workspaceRoot, name)
      const bytes = new TextEncoder().encode("x")
      const operations = {
        read: Stream.runDrain(machine.readFile("a")),
        write: machine.writeFiles([{ path: "d/a", content: bytes }]),
        stat: fs.stat(absolute("a")),
        exists: fs.exists(absolute("a")),
        write2: fs.writeFile(absolute("a"), bytes),
        mkdir: fs.makeDirectory(absolute("d/e"), { recursive: true }),
        copy: fs.copy("/etc/hostname", absolute("d/b")),
        stream: Stream.runDrain(fs.stream(absolute("a"))),
        sink: Stream.run(Stream.succeed(bytes), fs.sink(absolute("a")))
      }
      // While it is there a missing file is a missing file.
      assert.strictEqual(yield* P.reason(operations.read), "NotFound")
      assert.strictEqual(yield* P.reason(operations.stat), "NotFound")
      assert.isFalse(yield* operations.exists)
      const all = Effect.fnUntraced(function* (tag: string) {
        for (const [name, operation] of Object.entries(operations)) {
          const error = yield* Effect.flip(Effect.asVoid<unknown, PlatformError | SandboxError, never>(operation))
          const refusal = error._tag === "PlatformError" ? error.cause : error
          if (!isSandboxError(refusal)) return assert.fail(`${name}: ${error.message}`)
          assert.strictEqual(refusal.reason._tag, tag, name)
          assert.strictEqual(error._tag, name === "read" || name === "write" ? "SandboxError" : "PlatformError", name)
        }
      })
      const moved = `${root}.moved`
      Fs.renameSync(root, moved)
      yield* all("Unavailable")
      Fs.rmSync(root, { recursive: true, force: true })
      Fs.renameSync(moved, root)
      assert.isFalse(yield* operations.exists)
      Fs.rmSync(machine.workspaceRoot, { recursive: true })
      yield* all("Gone")
      assert.isFalse(Fs.existsSync(machine.workspaceRoot))
      assert.strictEqual(yield* P.reason(local.connect(machine.ref, { sandboxId, boot: true })), P.tag("Gone"))
    })
  )
})
