/** Several real processes on one SQLite file. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import { DatabaseSync } from "node:sqlite"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { full, some } from "../../support/full.ts"
import { chunk, leasedProcess, sandboxRecord } from "../../../src/testing/internal/stores.ts"
import { sqliteFile, temporaryFile } from "./support.ts"
import { finished, verifyPairs, worker } from "./workers.ts"

const integrity = (file: string) =>
  Effect.sync(() => {
    const database = new DatabaseSync(file)
    try {
      return database.prepare("PRAGMA integrity_check").all()
    } finally {
      database.close()
    }
  })

describe("several processes on one SQLite file", () => {
  it.live("that start on a new file at once make its tables once and agree on the namespace", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const workers = yield* Effect.forEach(Array.from({ length: full ? 5 : 3 }), () => worker("open", file))
      const names = yield* Effect.forEach(workers, (one) => Effect.andThen(finished(one), one.line))
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
        const jobs = some(["increment", "append", "increment", "append"], ["increment"])
        const increments = 100 * (jobs.length - 2)
        const workers = yield* Effect.forEach(jobs, (job) =>
          worker(job, file, job === "increment" ? sandbox.id : process.id, "100")
        )
        yield* Effect.forEach(workers, finished)
        assert.deepInclude(yield* store.getSandbox(sandbox.id), { vcpus: increments, version: increments + 1 })
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
        for (const pause of full ? [0, 3, 11, 27, 40, 61] : [0, 11, 40]) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const workers = yield* Effect.forEach([1, 2], () => worker("churn", file, process.id))
              yield* Effect.forEach(workers, ({ line }) => line)
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
        assert.strictEqual(yield* follower.line, "begun")
        const here = yield* Effect.forkChild(Stream.runCount(log.read(process.id, { follow: true })))
        yield* Effect.flatMap(worker("append", file, process.id, "20"), finished)
        const { seq } = yield* log.lastPosition(process.id)
        assert.strictEqual(seq, 41)
        yield* log.append(process.id, 1, [chunk(process, 42, "last")], { status: "exited" })
        yield* finished(follower)
        assert.strictEqual(yield* follower.line, "events 42")
        assert.strictEqual(yield* Fiber.join(here), 42)
      }).pipe(Effect.provide(Layer.fresh(sqliteFile(file))))
    })
  )
})
