/** Several real processes on one SQLite file. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Queue, Stream } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { isOutput } from "../../../src/model/ProcessEvent.ts"
import type { ProcessRecord } from "../../../src/model/Process.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { chunk, leasedProcess, sandboxRecord } from "../../../src/testing/internal/stores.ts"
import { sqliteFile, temporaryFile } from "./support.ts"

const fixture = fileURLToPath(new URL("../../fixtures/storeWorker.ts", import.meta.url))

interface Worker {
  readonly child: ChildProcess
  readonly lines: Queue.Queue<string>
  /** Everything that it printed on stderr. */
  readonly stderr: () => string
  readonly exit: Promise<unknown>
}

const worker = (...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const lines = yield* Queue.unbounded<string>()
      const child = spawn(process.execPath, [fixture, ...args], { stdio: ["ignore", "pipe", "pipe"] })
      let rest = ""
      let stderr = ""
      child.stdout.on("data", (data: Buffer) => {
        const parts = (rest + data.toString()).split("\n")
        rest = parts.pop() ?? ""
        for (const part of parts) Queue.offerUnsafe(lines, part)
      })
      child.stderr.on("data", (data: Buffer) => (stderr += data.toString()))
      return { child, lines, stderr: () => stderr, exit: once(child, "exit") } satisfies Worker
    }),
    ({ child, exit }) =>
      Effect.promise(async () => {
        if (child.exitCode === null && child.signalCode === null) {
          child.kill("SIGKILL")
          await exit
        }
      })
  )

const finished = (one: Worker) =>
  Effect.gen(function* () {
    yield* Effect.promise(() => one.exit)
    assert.strictEqual(one.child.exitCode, 0, one.stderr())
  })

const integrity = (file: string) =>
  Effect.sync(() => {
    const database = new DatabaseSync(file)
    try {
      return database.prepare("PRAGMA integrity_check").all()
    } finally {
      database.close()
    }
  })

/** The log has pairs of events without a gap, and the record counts as many pairs. */
const verifyPairs = (process: ProcessRecord) =>
  Effect.gen(function* () {
    const log = yield* ProcessLog
    const record = yield* (yield* SandboxStore).getProcess(process.id)
    let seq = 0
    let offset = 0
    yield* Stream.runForEach(log.read(process.id), (event) =>
      Effect.sync(() => {
        assert.strictEqual(event.seq, ++seq)
        if (!isOutput(event)) return assert.fail("only output was written")
        assert.strictEqual(event.offset, offset)
        offset += event.bytes.length
      })
    )
    assert.strictEqual(seq % 2, 0, "both of a pair or none")
    assert.strictEqual(record.metadata?.["pairs"], seq / 2)
    assert.strictEqual(record.version, 1 + seq / 2)
    assert.deepStrictEqual(yield* log.lastPosition(process.id), { seq, stdout: offset, stderr: 0 })
    return seq
  })

describe("several processes on one SQLite file", () => {
  it.live("that start on a new file at once make its tables once and agree on the namespace", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const workers = yield* Effect.forEach(Array.from({ length: 5 }), () => worker("open", file))
      const names = yield* Effect.forEach(workers, (one) => Effect.andThen(finished(one), Queue.take(one.lines)))
      assert.strictEqual(new Set(names).size, 1)
      assert.match(names[0] ?? "", /^namespace [0-9a-f-]{36}$/)
      for (const one of workers) assert.strictEqual(one.stderr(), "")
    })
  )

  it.live("lose no update and no append", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        const sandbox = yield* store.insertSandbox(sandboxRecord({ vcpus: 0 }))
        const process = yield* store.insertProcess(leasedProcess())
        const workers = yield* Effect.forEach(["increment", "append", "increment", "append", "increment"], (job) =>
          worker(job, file, job === "increment" ? sandbox.id : process.id, "100")
        )
        yield* Effect.forEach(workers, finished)
        assert.deepInclude(yield* store.getSandbox(sandbox.id), { vcpus: 300, version: 301 })
        assert.strictEqual(yield* verifyPairs(process), 400)
      }).pipe(Effect.provide(sqliteFile(file)))
      assert.deepEqual(yield* integrity(file), [{ integrity_check: "ok" }])
    })
  )

  it.live(
    "that are killed in mid-transaction leave a sound file, a whole log and no lock",
    () =>
      Effect.gen(function* () {
        const file = yield* temporaryFile
        const process = leasedProcess()
        yield* Effect.provide(
          Effect.flatMap(SandboxStore, (store) => store.insertProcess(process)),
          sqliteFile(file)
        )
        let last = 0
        for (const pause of [0, 3, 11, 27, 40, 61]) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const workers = yield* Effect.forEach([1, 2], () => worker("churn", file, process.id))
              yield* Effect.forEach(workers, ({ lines }) => Queue.take(lines))
              // Not to wait for anything: to hit the transactions at another place each time.
              yield* Effect.sleep(pause)
              for (const { child } of workers) child.kill("SIGKILL")
              for (const { exit } of workers) yield* Effect.promise(() => exit)
            })
          )
          const seq = yield* Effect.provide(verifyPairs(process), sqliteFile(file))
          assert.isAbove(seq, last)
          last = seq
        }
        assert.deepEqual(yield* integrity(file), [{ integrity_check: "ok" }])
      }),
    60_000
  )

  it.live("a follower sees what another process appends, and its end", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        const process = yield* store.insertProcess(leasedProcess())
        yield* log.append(process.id, 1, [chunk(process, 1, "first")])
        const follower = yield* worker("follow", file, process.id)
        assert.strictEqual(yield* Queue.take(follower.lines), "begun")
        const here = yield* Effect.forkChild(Stream.runCount(log.read(process.id, { follow: true })))
        yield* Effect.flatMap(worker("append", file, process.id, "20"), finished)
        const { seq } = yield* log.lastPosition(process.id)
        assert.strictEqual(seq, 41)
        yield* log.append(process.id, 1, [chunk(process, 42, "last")], { status: "exited" })
        yield* finished(follower)
        assert.strictEqual(yield* Queue.take(follower.lines), "events 42")
        assert.strictEqual(yield* Fiber.join(here), 42)
      }).pipe(Effect.provide(Layer.fresh(sqliteFile(file))))
    })
  )
})
