import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Random, Stream } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import * as ProcessEvent from "../../src/model/ProcessEvent.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { inDirectory, tempDirectory } from "../support/embedded.ts"
import { some } from "../support/full.ts"

const fixture = fileURLToPath(new URL("../fixtures/service.ts", import.meta.url))

/** Runs a service in a child process; the child goes with the Scope. */
const startService = (directory: string, sandboxId: string, processId: string, script: string) =>
  Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, [fixture, directory, sandboxId, processId, script], { stdio: ["ignore", "pipe", "pipe"] })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

/** Waits until the child has said this word, or has ended. */
const said = (child: ChildProcess, word: string) =>
  Effect.callback<boolean>((resume) => {
    let all = ""
    const onData = (chunk: Buffer) => {
      all += chunk.toString()
      if (all.includes(word)) finish(true)
    }
    const finish = (value: boolean) => {
      child.stdout?.off("data", onData)
      child.off("exit", onExit)
      resume(Effect.succeed(value))
    }
    const onExit = () => finish(all.includes(word))
    child.stdout?.on("data", onData)
    child.on("exit", onExit)
  })

const kill = (child: ChildProcess, signal: NodeJS.Signals) =>
  Effect.promise(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, "exit")
    child.kill(signal)
    await ended
  })

const lines = 20_000
/** Writes half of its lines, waits for the file `go`, writes the other half, and exits with 7. */
const script = `
i=0; while [ $i -lt ${lines / 2} ]; do echo "line $i"; i=$((i+1)); done
until [ -e go ]; do sleep 0.05; done
while [ $i -lt ${lines} ]; do echo "line $i"; i=$((i+1)); done
echo done >&2; exit 7`
const expected = createHash("sha256")
  .update(Array.from({ length: lines }, (_, i) => `line ${i}\n`).join(""))
  .digest("hex")

const build = (directory: string) =>
  Effect.map(Layer.build(inDirectory(directory)), (context) => Context.get(context, SandboxService))

/** Reads the whole log and checks that it has no gap and no double. */
const verify = (sandboxes: SandboxService["Service"], processId: string) =>
  Effect.gen(function* () {
    const hash = createHash("sha256")
    const offsets = { stdout: 0, stderr: 0 }
    let seq = 0
    yield* Stream.runForEach(sandboxes.readProcessStream(processId, { follow: true }), (event) =>
      Effect.sync(() => {
        assert.strictEqual(event.seq, ++seq)
        if (!ProcessEvent.isOutput(event)) return
        assert.strictEqual(event.offset, offsets[event._tag])
        offsets[event._tag] += event.bytes.length
        if (event._tag === "stdout") hash.update(event.bytes)
      })
    )
    return { hash: hash.digest("hex"), ...offsets }
  })

describe("a service that dies", () => {
  for (const signal of some<NodeJS.Signals>(["SIGKILL", "SIGTERM"], ["SIGINT"])) {
    it.live(
      `by ${signal} in mid-output loses and doubles nothing`,
      () =>
        Effect.gen(function* () {
          const directory = yield* tempDirectory
          const sandboxId = crypto.randomUUID()
          const processId = crypto.randomUUID()
          yield* Effect.scoped(Effect.flatMap(build(directory), (first) => first.createSandbox({}, { sandboxId })))
          const child = yield* startService(directory, sandboxId, processId, script)
          assert.isTrue(yield* said(child, "logged"))
          yield* kill(child, signal)

          const sandboxes = yield* build(directory)
          const before = yield* sandboxes.getProcessSnapshot(processId)
          // A service that had time to say goodbye has given its lease back.
          assert.strictEqual(before.status, signal === "SIGKILL" ? "running" : "detached")
          const attached = yield* sandboxes.attachProcess(processId)
          yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
          assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 7 })
          const { hash, stderr } = yield* verify(sandboxes, processId)
          assert.strictEqual(hash, expected)
          assert.strictEqual(stderr, "done\n".length)
          yield* sandboxes.stopSandbox(sandboxId, { delete: true })
        }).pipe(Effect.scoped),
      60_000
    )
  }

  it.live(
    "or is closed at once gives its lease back, and the next one goes on without a wait",
    () =>
      Effect.gen(function* () {
        const directory = yield* tempDirectory
        const { process, sandboxId } = yield* Effect.scoped(
          Effect.gen(function* () {
            const first = yield* build(directory)
            const { sandboxId } = yield* first.createSandbox()
            const process = yield* first.runCommandProcess(sandboxId, "sh", [
              "-c",
              "echo a; until [ -e go ]; do sleep 0.05; done"
            ])
            return { process, sandboxId }
          })
        )
        const sandboxes = yield* build(directory)
        const before = yield* sandboxes.getProcessSnapshot(process.processId)
        assert.deepInclude(before, { status: "detached" })
        assert.strictEqual(before.lease?.expiresAt, 0)
        const attached = yield* sandboxes.attachProcess(process.processId)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
        assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 0 })
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped),
    10_000
  )

  it.live(
    "and whose process is written to while it is attached hears its end",
    () =>
      Effect.gen(function* () {
        const directory = yield* tempDirectory
        const { process, sandboxId } = yield* Effect.scoped(
          Effect.gen(function* () {
            const first = yield* build(directory)
            const { sandboxId } = yield* first.createSandbox()
            const process = yield* first.runCommandProcess(sandboxId, "sh", ["-c", "wc -c; exit 3"], { stdin: "open" })
            return { process, sandboxId }
          })
        )
        const sandboxes = yield* build(directory)
        const [attached] = yield* Effect.all(
          [
            sandboxes.attachProcess(process.processId),
            Effect.andThen(
              sandboxes.writeProcessInput(process.processId, new Uint8Array(1 << 20)),
              sandboxes.closeProcessInput(process.processId)
            )
          ],
          { concurrency: 2 }
        )
        assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 3 })
        const { stdout } = yield* verify(sandboxes, process.processId)
        assert.strictEqual(stdout, `${1 << 20}\n`.length)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped),
    20_000
  )

  it.live(
    "finds the end of a process that nobody watched",
    () =>
      Effect.gen(function* () {
        const directory = yield* tempDirectory
        const sandboxId = crypto.randomUUID()
        const processId = crypto.randomUUID()
        yield* Effect.scoped(Effect.flatMap(build(directory), (first) => first.createSandbox({}, { sandboxId })))
        const child = yield* startService(
          directory,
          sandboxId,
          processId,
          script.replace("exit 7", ">finished; exit 7")
        )
        assert.isTrue(yield* said(child, "logged"))
        yield* kill(child, "SIGTERM")
        const sandboxes = yield* build(directory)
        yield* sandboxes.writeFiles(sandboxId, [{ path: "go", content: "" }])
        // It ends with no service attached: its last act is to leave a file.
        yield* sandboxes.runCommand(sandboxId, "sh", ["-c", "until [ -e finished ]; do sleep 0.05; done"])
        const attached = yield* sandboxes.attachProcess(processId)
        assert.deepStrictEqual(yield* attached.exit, { _tag: "Exited", code: 7 })
        assert.strictEqual((yield* verify(sandboxes, processId)).hash, expected)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "at any moment leaves a record that is true",
    () =>
      Effect.gen(function* () {
        const directory = yield* tempDirectory
        const sandboxId = crypto.randomUUID()
        yield* Effect.scoped(Effect.flatMap(build(directory), (first) => first.createSandbox({}, { sandboxId })))
        const outcomes: Array<string> = []
        for (let round = 0; round < 8; round++) {
          const processId = crypto.randomUUID()
          const child = yield* startService(directory, sandboxId, processId, "echo a; echo b >> ran; echo c")
          // The moment of the crash, not a wait for something.
          yield* Effect.sleep(yield* Random.nextIntBetween(150, 700))
          yield* kill(child, "SIGKILL")
          const sandboxes = yield* build(directory)
          const attached = yield* Effect.option(sandboxes.attachProcess(processId))
          if (attached._tag === "None") {
            outcomes.push("never recorded")
            continue
          }
          const exit = yield* Effect.result(attached.value.exit)
          if (exit._tag === "Success") {
            assert.deepStrictEqual(exit.success, { _tag: "Exited", code: 0 })
            assert.strictEqual((yield* verify(sandboxes, processId)).stdout, 4)
          } else assert.strictEqual(exit.failure.reason._tag, "OutcomeUnknown")
          outcomes.push((yield* sandboxes.getProcessSnapshot(processId)).status)
        }
        const sandboxes = yield* build(directory)
        const ran = yield* sandboxes.readFile(sandboxId, "ran").pipe(
          Effect.map((bytes) => new TextDecoder().decode(bytes).trim().split("\n").length),
          Effect.catchReason("PlatformError", "NotFound", () => Effect.succeed(0))
        )
        // What is recorded as exited ran exactly once; a lost one ran at most once.
        const exited = outcomes.filter((outcome) => outcome === "exited").length
        assert.isAtLeast(ran, exited)
        assert.isAtMost(ran, outcomes.filter((outcome) => outcome !== "never recorded").length)
        yield* sandboxes.stopSandbox(sandboxId, { delete: true })
      }).pipe(Effect.scoped, Random.withSeed("crash")),
    120_000
  )
})
