/**
 * Several real processes on one Instant app. Each loads all of the store, so most of it is for `npm run test:full`; the same races
 * between services of one process are in `instantDbStore.test.ts`.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { chunk, leasedProcess, sandboxRecord } from "../../../src/testing/internal/stores.ts"
import { full } from "../../support/full.ts"
import { Server, server, store } from "./instantDbSupport.ts"
import { finished, verifyPairs, worker } from "./workers.ts"

const place = Effect.map(Server, ({ config }) => JSON.stringify(config))

describe("several processes on one Instant app", () => {
  it.live.runIf(full)(
    "that start on a new app at once agree on the namespace",
    () =>
      Effect.gen(function* () {
        const app = yield* place
        const workers = yield* Effect.forEach(Array.from({ length: 3 }), () => worker("open", app))
        const names = yield* Effect.forEach(workers, (one) => Effect.andThen(finished(one), one.line))
        assert.strictEqual(new Set(names).size, 1)
        for (const one of workers) assert.strictEqual(one.stderr(), "")
      }).pipe(Effect.provide(server)),
    90_000
  )

  it.live.runIf(full)(
    "lose none of 200 updates, and no append",
    () =>
      Effect.gen(function* () {
        const app = yield* place
        const store = yield* SandboxStore
        const sandbox = yield* store.insertSandbox(sandboxRecord({ vcpus: 0 }))
        const process = yield* store.insertProcess(leasedProcess())
        const workers = yield* Effect.forEach(["increment", "append", "increment", "increment", "increment"], (job) =>
          worker(job, app, job === "increment" ? sandbox.id : process.id, job === "increment" ? "50" : "30")
        )
        yield* Effect.forEach(workers, finished)
        assert.deepInclude(yield* store.getSandbox(sandbox.id), { vcpus: 200, version: 201 })
        assert.strictEqual(yield* verifyPairs(process), 60)
      }).pipe(Effect.provide(store())),
    90_000
  )

  it.live(
    "that are killed at any moment leave a whole log, which others go on with",
    () =>
      Effect.gen(function* () {
        const app = yield* place
        const process = yield* Effect.flatMap(SandboxStore, (store) => store.insertProcess(leasedProcess()))
        let last = 0
        for (const pause of full ? [0, 7, 23] : [7]) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const workers = yield* Effect.forEach([1, 2], () => worker("churn", app, process.id))
              yield* Effect.forEach(workers, ({ line }) => line)
              // Not to wait for anything: to hit the requests at another place each time.
              yield* Effect.sleep(pause)
              for (const { child } of workers) child.kill("SIGKILL")
              for (const { exit } of workers) yield* Effect.promise(() => exit)
            })
          )
          const seq = yield* verifyPairs(process)
          assert.isAbove(seq, last)
          last = seq
        }
      }).pipe(Effect.provide(store())),
    90_000
  )

  it.live.runIf(full)(
    "a follower sees what another process appends, and its end",
    () =>
      Effect.gen(function* () {
        const app = yield* place
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        const process = yield* store.insertProcess(leasedProcess())
        yield* log.append(process.id, 1, [chunk(process, 1, "first")])
        const follower = yield* worker("follow", app, process.id)
        assert.strictEqual(yield* follower.line, "begun")
        const here = yield* Effect.forkChild(Stream.runCount(log.read(process.id, { follow: true })))
        yield* Effect.flatMap(worker("append", app, process.id, "20"), finished)
        yield* log.append(process.id, 1, [chunk(process, 42, "last")], { status: "exited" })
        yield* finished(follower)
        assert.strictEqual(yield* follower.line, "events 42")
        assert.strictEqual(yield* Fiber.join(here), 42)
      }).pipe(Effect.provide(store())),
    90_000
  )

  it.live.runIf(full)("one that dies before it has said anything is told with what it said of that", () =>
    Effect.gen(function* () {
      const one = yield* worker("nothing", yield* place)
      const { message } = yield* Effect.flip(one.line)
      assert.include(message, "ended with 1")
      assert.include(message, "no job nothing")
    }).pipe(Effect.provide(server))
  )
})
