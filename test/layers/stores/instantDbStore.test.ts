/** What only the InstantDB store promises: requests, races between services, lost answers, older records, exact values, the schema. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Queue, Result, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { SandboxError } from "../../../src/errors.ts"
import type * as InstantDb from "../../../src/layers/stores/InstantDb.ts"
import { SandboxId } from "../../../src/model/Ids.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import {
  chunk,
  failure,
  leasedProcess,
  newProcessId,
  newSandboxId,
  processRecord,
  sandboxRecord,
  unique
} from "../../../src/testing/internal/stores.ts"
import * as Faults from "../../emulators/instantdb/faults.ts"
import * as Emulator from "../../emulators/instantdb/server.ts"
import { full } from "../../support/full.ts"
import { instance, Server, server, store } from "./instantDbSupport.ts"

/** Another service instance over the same app. */
const another = (options: InstantDb.ConfigOptions = {}) =>
  Effect.map(Layer.build(Layer.fresh(instance(options))), (context) => ({
    store: Context.get(context, SandboxStore),
    log: Context.get(context, ProcessLog)
  }))

/** The requests that an effect makes, by endpoint. */
const requests = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const { requests } = yield* Server
    const before = { query: requests.count("query"), transact: requests.count("transact") }
    yield* effect
    return {
      query: requests.count("query") - before.query,
      transact: requests.count("transact") - before.transact
    }
  })

/** A turn of the event loop: for what is waited for and tells nobody. */
const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

const isConflict = ({ reason }: SandboxError) => reason._tag === "Store" && reason.kind === "Conflict"

describe("requests", () => {
  it.effect("one where one is enough", () =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const one = { query: 0, transact: 1 }
      const read = { query: 1, transact: 0 }
      const sandbox = sandboxRecord({ externalSandboxId: unique("m") })
      assert.deepStrictEqual(yield* requests(store.insertSandbox(sandbox)), one)
      assert.deepStrictEqual(yield* requests(store.getSandbox(sandbox.id)), read)
      // Whoever has read, or written, the version that it expects writes at once.
      assert.deepStrictEqual(yield* requests(store.updateSandbox(sandbox.id, 1, { purpose: "a" })), one)
      assert.deepStrictEqual(yield* requests(store.updateSandbox(sandbox.id, 2, { purpose: "b" })), one)
      // A version that has passed is a conflict without a request.
      assert.deepStrictEqual(yield* requests(Effect.ignore(store.updateSandbox(sandbox.id, 1, {}))), {
        query: 0,
        transact: 0
      })
      const lease = store.acquireSandboxLease(sandbox.id, { owner: "me", ttl: "1 minute" })
      assert.deepStrictEqual(yield* requests(lease), { query: 1, transact: 1 })
      assert.deepStrictEqual(yield* requests(Stream.runDrain(store.listSandboxes())), read)

      const process = leasedProcess()
      assert.deepStrictEqual(yield* requests(store.insertProcess(process)), one)
      assert.deepStrictEqual(yield* requests(log.append(process.id, 1, [chunk(process, 1, "a")])), one)
      assert.deepStrictEqual(
        yield* requests(log.append(process.id, 1, [chunk(process, 2, "b", 1)], { status: "exited" })),
        one
      )
      assert.deepStrictEqual(yield* requests(log.lastPosition(process.id)), read)
      assert.deepStrictEqual(yield* requests(log.findKey(process.id, "none")), read)
      // A page with something, and one that says that this was all.
      assert.deepStrictEqual(yield* requests(Stream.runDrain(log.read(process.id))), { query: 2, transact: 0 })
    }).pipe(Effect.provide(store()))
  )

  it.effect("a compare-and-set of another service's is two, and two more for each conflict", () =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      const other = yield* another()
      const { id } = yield* store.insertSandbox(sandboxRecord())
      assert.deepStrictEqual(yield* requests(other.store.updateSandbox(id, 1, { purpose: "theirs" })), {
        query: 1,
        transact: 1
      })
      assert.deepStrictEqual(yield* requests(Effect.flip(store.updateSandbox(id, 1, { purpose: "ours" }))), {
        query: 1,
        transact: 1
      })
      // It knows now.
      assert.deepStrictEqual(yield* requests(store.updateSandbox(id, 2, { purpose: "ours" })), {
        query: 0,
        transact: 1
      })
    }).pipe(Effect.provide(store()))
  )

  it.effect("a list takes one for each 100 records, and those of one millisecond come once and in order", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      const store = yield* SandboxStore
      const namespace = yield* store.namespace
      const plant = (purpose: string, createdAt: (index: number) => number) => {
        const ids = Array.from({ length: 250 }, () => newSandboxId())
        const attrs = { namespace, provider: "x", status: "active", purpose }
        for (const [index, id] of ids.entries()) {
          emulator.transact([["create", "sandbox_sandboxes", id, { ...attrs, createdAt: createdAt(index) }]])
        }
        return ids
      }
      const list = (purpose: string) =>
        Effect.map(Stream.runCollect(store.listSandboxes({ purpose })), (records) => records.map(({ id }) => id))
      const apart = plant("apart", (index) => index)
      assert.deepStrictEqual(yield* list("apart"), apart.toReversed())
      assert.deepStrictEqual(yield* requests(list("apart")), { query: 3, transact: 0 })
      const together = plant("together", () => 5)
      assert.deepStrictEqual(yield* list("together"), together.sort().toReversed())
    }).pipe(Effect.provide(store()))
  )

  it.effect("many small appends are read by the hundreds, large ones by the MiB", () =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const process = yield* store.insertProcess(leasedProcess())
      for (let seq = 1; seq <= 120; seq++) yield* log.append(process.id, 1, [chunk(process, seq, "x", seq - 1)])
      const { query } = yield* requests(
        Effect.map(Stream.runCount(log.read(process.id)), (count) => assert.strictEqual(count, 120))
      )
      assert.strictEqual(query, 4)
    }).pipe(Effect.provide(store()))
  )

  it.effect("old claims are cleaned up, those of a day or of a thousand revisions stay", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      const store = yield* SandboxStore
      const { id } = yield* store.insertSandbox(sandboxRecord())
      // As if it had been written very often, long ago and lately.
      emulator.transact([
        ["update", "sandbox_sandboxes", id, { revision: 1535, versionKey: `${id}:1535`, version: 1535 }],
        ...Array.from({ length: 600 }, (_, index) => [
          "create",
          "sandbox_claims",
          crypto.randomUUID(),
          { key: `${id}:${index + 2}`, by: "x", record: id, revision: index + 2, at: index < 300 ? -1e10 : 1e10 }
        ])
      ])
      const other = yield* another()
      yield* other.store.updateSandbox(SandboxId.make(id), 1535, { purpose: "one more" })
      const claims = () => emulator.query({ sandbox_claims: { $: { where: { record: id } } } })["sandbox_claims"] ?? []
      while (claims().length > 400) yield* turn
      const revisions = claims().map((claim) => Number(claim["revision"]))
      assert.strictEqual(revisions.filter((revision) => revision > 1 && revision < 302).length, 0)
      assert.strictEqual(revisions.filter((revision) => revision >= 302 && revision < 1000).length, 300)
      assert.include(revisions, 1536)
    }).pipe(Effect.provide(store()))
  )
})

describe("races between services", () => {
  /** So often each of them asks. */
  const each = full ? 25 : 8

  it.live(
    `${8 * each} compare-and-sets from 8 services lose no update and never have two winners`,
    () =>
      Effect.gen(function* () {
        const emulator = yield* Server
        const { store } = yield* another()
        const services = yield* Effect.forEach(Array.from({ length: 8 }), () => another())
        const { id } = yield* store.insertSandbox(sandboxRecord({ vcpus: 0 }))
        const winners: Array<number> = []
        let conflicts = 0
        emulator.requests.reset()
        // All eight at once.
        yield* Effect.forEach(
          services,
          (service) =>
            Effect.forEach(Array.from({ length: each }), () =>
              Effect.gen(function* () {
                const record = yield* service.store.getSandbox(id)
                const version = record.version ?? 0
                const result = yield* Effect.result(
                  service.store.updateSandbox(id, version, { vcpus: (record.vcpus ?? 0) + 1 })
                )
                if (Result.isSuccess(result)) {
                  winners.push(version)
                  return
                }
                conflicts++
                return yield* Effect.fail(result.failure)
              }).pipe(Effect.retry({ while: isConflict }))
            ),
          { concurrency: "unbounded", discard: true }
        )
        assert.deepInclude(yield* store.getSandbox(id), { vcpus: 8 * each, version: 8 * each + 1 })
        // No version was won twice, none was skipped.
        assert.deepStrictEqual(
          winners.sort((a, b) => a - b),
          Array.from({ length: 8 * each }, (_, index) => index + 1)
        )
        assert.isAbove(conflicts, 0, "they did race")
      }).pipe(Effect.provide(server)),
    60_000
  )

  it.live(
    "of transactions that overlap on one snapshot one wins, round after round of 8",
    () =>
      Effect.gen(function* () {
        const emulator = yield* Server
        const services = yield* Effect.forEach(Array.from({ length: 8 }), () => another())
        const [first] = services
        if (first === undefined) return assert.fail("no service")
        const { id } = yield* first.store.insertSandbox(sandboxRecord({ vcpus: 0 }))
        for (let version = 1; version <= (full ? 25 : 8); version++) {
          for (const service of services) yield* service.store.getSandbox(id)
          emulator.overlap(8)
          const results = yield* Effect.forEach(
            services,
            (service, index) =>
              Effect.result(service.store.updateSandbox(id, version, { purpose: `${version}/${index}` })),
            { concurrency: "unbounded" }
          )
          const won = results.flatMap((result) => (Result.isSuccess(result) ? [result.success] : []))
          assert.strictEqual(won.length, 1, `round ${version}`)
          assert.deepStrictEqual(yield* first.store.getSandbox(id), won[0])
        }
      }).pipe(Effect.provide(server)),
    60_000
  )

  it.live("of overlapping inserts of one id, or of one machine, one wins", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      const services = yield* Effect.forEach(Array.from({ length: 4 }), () => another())
      const id = newSandboxId()
      const externalSandboxId = unique("m")
      for (const make of [
        (index: number) => sandboxRecord({ id, purpose: `${index}` }),
        (index: number) => sandboxRecord({ externalSandboxId, purpose: `${index}` })
      ]) {
        emulator.overlap(4)
        const results = yield* Effect.forEach(
          services,
          ({ store }, index) => Effect.result(store.insertSandbox(make(index))),
          { concurrency: "unbounded" }
        )
        const won = results.flatMap((result) => (Result.isSuccess(result) ? [result.success] : []))
        assert.strictEqual(won.length, 1)
        const [record] = won
        if (record !== undefined) {
          assert.deepStrictEqual(yield* Effect.flatMap(another(), ({ store }) => store.getSandbox(record.id)), record)
        }
        for (const result of results) {
          if (Result.isFailure(result)) {
            assert.deepInclude(result.failure.reason, { _tag: "Store", kind: "AlreadyExists" })
          }
        }
      }
    }).pipe(Effect.provide(server))
  )

  it.live("an append that overlaps with a takeover of the lease is before it, or is not", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      const owner = yield* another()
      const successor = yield* another()
      for (let round = 0; round < (full ? 10 : 4); round++) {
        const process = yield* owner.store.insertProcess(leasedProcess())
        yield* owner.log.append(process.id, 1, [chunk(process, 1, "a")])
        yield* successor.store.getProcess(process.id)
        emulator.overlap(2)
        const [appended, taken] = yield* Effect.all(
          [
            Effect.result(owner.log.append(process.id, 1, [chunk(process, 2, "b", 1)])),
            successor.store.acquireProcessLease(process.id, { owner: "successor", ttl: "1 minute", steal: true })
          ],
          { concurrency: "unbounded" }
        )
        const { seq } = yield* successor.log.lastPosition(process.id)
        assert.strictEqual(seq, Result.isSuccess(appended) ? 2 : 1)
        yield* successor.log.append(process.id, taken.lease?.epoch ?? 0, [chunk(process, seq + 1, "c", seq)])
        assert.strictEqual(
          yield* failure(owner.log.append(process.id, 1, [chunk(process, seq + 2, "late", seq + 1)])),
          "Store(LeaseLost)"
        )
        assert.strictEqual(yield* Stream.runCount(successor.log.read(process.id)), seq + 1)
      }
    }).pipe(Effect.provide(server))
  )

  it.effect("what was deleted stays deleted", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const sandbox = yield* store.insertSandbox(sandboxRecord())
      const process = yield* store.insertProcess(leasedProcess({ sandboxId: sandbox.id }))
      yield* log.append(process.id, 1, [chunk(process, 1, "a")])
      emulator.transact([["delete", "sandbox_sandboxes", sandbox.id, null]])
      // The service still has what it read.
      assert.strictEqual(yield* failure(store.updateSandbox(sandbox.id, 1, { purpose: "back" })), "NotFound")
      assert.strictEqual(yield* failure(log.append(process.id, 1, [chunk(process, 2, "b", 1)])), "NotFound")
      assert.strictEqual(yield* failure(store.insertSandbox(sandbox)), "Store(AlreadyExists)")
      assert.strictEqual(yield* failure(store.insertProcess(process)), "Store(AlreadyExists)")
      const left = emulator.query({ sandbox_sandboxes: {}, sandbox_processes: {}, sandbox_log_chunks: {} })
      assert.deepStrictEqual(left, { sandbox_sandboxes: [], sandbox_processes: [], sandbox_log_chunks: [] })
    }).pipe(Effect.provide(store()))
  )

  it.live("also when its claims were cleaned up since", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      const sandbox = yield* Effect.flatMap(SandboxStore, (store) => store.insertSandbox(sandboxRecord()))
      const { id } = sandbox
      const claims = () => emulator.query({ sandbox_claims: { $: { where: { record: id } } } })["sandbox_claims"] ?? []
      // As if all of it were long ago.
      emulator.transact([
        ["update", "sandbox_claims", claims()[0]?.id, { at: 1 }],
        ["create", "sandbox_claims", crypto.randomUUID(), { key: `${id}:2`, by: "x", record: id, revision: 2, at: 1 }],
        ["update", "sandbox_sandboxes", id, { revision: 1535, versionKey: `${id}:1535`, version: 1535 }]
      ])
      const { store } = yield* another()
      yield* store.updateSandbox(id, 1535, { purpose: "one more" })
      while (claims().some(({ revision }) => revision === 2)) yield* turn
      emulator.transact([["delete", "sandbox_sandboxes", id, null]])
      assert.strictEqual(yield* failure(store.insertSandbox(sandbox)), "Store(AlreadyExists)")
    }).pipe(Effect.provide(store()))
  )

  it.live("services that start at once agree on the namespace", () =>
    Effect.gen(function* () {
      const emulator = yield* Server
      emulator.overlap(4)
      const services = yield* Effect.forEach(Array.from({ length: 4 }), () => another(), { concurrency: "unbounded" })
      const names = yield* Effect.forEach(services, ({ store }) => store.namespace)
      assert.strictEqual(new Set(names).size, 1)
      const later = yield* another()
      assert.strictEqual(yield* later.store.namespace, names[0])
    }).pipe(Effect.provide(server))
  )
})

describe("followers", () => {
  it.live("of another service's process see each append by polling, and its end", () =>
    Effect.gen(function* () {
      const writer = yield* another()
      const reader = yield* another({ poll: Schedule.spaced("10 millis") })
      const process = yield* writer.store.insertProcess(leasedProcess())
      const seen = yield* Queue.unbounded<number>()
      const following = yield* reader.log.read(process.id, { follow: true }).pipe(
        Stream.runForEach((event) => Queue.offer(seen, event.seq)),
        Effect.forkChild
      )
      for (let seq = 1; seq <= 5; seq++) {
        yield* writer.log.append(process.id, 1, [chunk(process, seq, "x", seq - 1)])
        assert.strictEqual(yield* Queue.take(seen), seq)
      }
      yield* writer.log.append(process.id, 1, [chunk(process, 6, "x", 5)], { status: "exited" })
      yield* Fiber.join(following)
      assert.deepStrictEqual(yield* Queue.takeAll(seen), [6])
    }).pipe(Effect.provide(server))
  )

  it.effect("wait longer from read to read while there is no news, up to a second", () =>
    Effect.gen(function* () {
      const { requests } = yield* Server
      const log = yield* ProcessLog
      const process = yield* (yield* SandboxStore).insertProcess(leasedProcess())
      requests.reset()
      const following = yield* Effect.forkChild(Stream.runDrain(log.read(process.id, { follow: true })))
      // Each read happens in real time, so the clock waits for it: 100, 150, 225, 337.5, 506.25, 759.375 ms, then seconds.
      const asked = (count: number) =>
        Effect.gen(function* () {
          while (requests.all.filter(({ status }) => status === 200).length < count) {
            yield* turn
          }
          // The answer is on its way back.
          for (let turns = 0; turns < 50; turns++) yield* turn
        })
      yield* asked(1)
      for (const [index, wait] of [100, 150, 225, 337.5, 506.25, 759.375, 1000, 1000].entries()) {
        yield* TestClock.adjust(wait - 1)
        assert.strictEqual(requests.count(), index + 1)
        yield* TestClock.adjust(1)
        yield* asked(index + 2)
      }
      yield* Fiber.interrupt(following)
    }).pipe(Effect.provide(store()))
  )
})

describe("a page and the record of its process", () => {
  it.live("may be of different moments, but no end is seen before what it ends", () =>
    Effect.gen(function* () {
      const { faults, query } = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const process = yield* store.insertProcess(leasedProcess())
      yield* log.append(process.id, 1, [chunk(process, 1, "last")], { status: "exited" })
      // The rows were read before the append, the record after it.
      const { sandbox_processes } = query({ sandbox_processes: { $: { where: { id: process.id } }, sandbox: {} } })
      faults.inject("query", Faults.raw(200, JSON.stringify({ sandbox_processes, sandbox_log_chunks: [] })), {
        times: 3
      })
      assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id, { follow: true })), [
        chunk(process, 1, "last")
      ])
      assert.strictEqual(faults.pending, 0)
    }).pipe(Effect.provide(store()))
  )
})

describe("answers that get lost", () => {
  const lost: ReadonlyArray<readonly [string, Faults.Fault]> = [
    ["the connection is cut before it is executed", Faults.resetBefore],
    ["the connection is cut after it", Faults.resetAfter],
    ["a proxy delivers it twice", Faults.duplicated],
    ["a deadlock", Faults.deadlock],
    ["500 after it", Faults.serverError(500, { executed: true })],
    ["502 before it", Faults.serverError(502)],
    ["a proxy's page", Faults.html(502, { executed: true })],
    ["a success that is no JSON", Faults.invalidJson],
    ["a success of another status", Faults.otherSuccess],
    ["null", Faults.nullBody()],
    ["no answer in time, though it is executed", Faults.silent({ executed: true })],
    ["no answer in time, and it is executed later", Faults.late]
  ]

  it.live.each(lost)("%s: every write happens once", ([, fault]) =>
    Effect.gen(function* () {
      const { faults, query, requests } = yield* Server
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const sandbox = sandboxRecord({ externalSandboxId: unique("m") })
      faults.inject("transact", fault)
      assert.deepInclude(yield* store.insertSandbox(sandbox), { id: sandbox.id, version: 1 })
      faults.inject("transact", fault)
      assert.deepInclude(yield* store.updateSandbox(sandbox.id, 1, { vcpus: 2 }), { version: 2, vcpus: 2 })
      const process = yield* store.insertProcess(leasedProcess())
      faults.inject("transact", fault)
      yield* log.append(process.id, 1, [chunk(process, 1, "a")], { status: "detached" })
      assert.strictEqual(faults.pending, 0)
      assert.deepInclude(yield* store.getSandbox(sandbox.id), { version: 2, vcpus: 2 })
      assert.deepInclude(yield* store.getProcess(process.id), { version: 2, status: "detached" })
      assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), [chunk(process, 1, "a")])
      const claims = query({ sandbox_claims: {} })["sandbox_claims"] ?? []
      assert.strictEqual(claims.length, 5 - 1)
      // Never sent again without having looked.
      const order = requests.all.map(({ endpoint }) => endpoint).join(" ")
      assert.notInclude(order, "transact transact transact transact transact")
      for (const [index, { endpoint, executed, status }] of requests.all.entries()) {
        if (endpoint === "transact" && status !== 200 && executed) {
          assert.strictEqual(requests.all[index + 1]?.endpoint, "query")
        }
      }
    }).pipe(Effect.provide(store({ requestTimeout: "400 millis" })))
  )

  it.live("when nothing answers any more the outcome is unknown, and is said to be", () =>
    Effect.gen(function* () {
      const { faults } = yield* Server
      const store = yield* SandboxStore
      const { id } = yield* store.insertSandbox(sandboxRecord())
      faults.inject("transact", Faults.resetAfter)
      faults.choose(() => Faults.serverError(503))
      const error = yield* Effect.flip(store.updateSandbox(id, 1, { purpose: "perhaps" }))
      assert.deepInclude(error.reason, { _tag: "Store", kind: "OutcomeUnknown" })
      assert.isTrue(error.isRetryable)
      faults.clear()
      // Whoever tries again is told by the version.
      assert.strictEqual(yield* failure(store.updateSandbox(id, 1, { purpose: "perhaps" })), "Store(Conflict)")
      assert.deepInclude(yield* store.getSandbox(id), { version: 2, purpose: "perhaps" })
    }).pipe(Effect.provide(store()))
  )

  it.live("a deadlock after a try that is still under way says nothing of that one", () =>
    Effect.gen(function* () {
      const { faults } = yield* Server
      const store = yield* SandboxStore
      const { id } = yield* store.insertSandbox(sandboxRecord())
      const gate = Promise.withResolvers<void>()
      faults.inject("transact", Faults.gate({ before: gate.promise }))
      faults.inject("transact", Faults.deadlock, { times: 10 })
      assert.strictEqual(yield* failure(store.updateSandbox(id, 1, { purpose: "late" })), "Store(OutcomeUnknown)")
      gate.resolve()
      while ((yield* store.getSandbox(id)).purpose !== "late") yield* turn
    }).pipe(Effect.provide(store({ requestTimeout: "2 seconds" })))
  )

  it.live("a write that is refused as its own repetition happened, and is not Unavailable when the look fails", () =>
    Effect.gen(function* () {
      const { faults } = yield* Server
      const store = yield* SandboxStore
      const hint = { "record-type": "triple", etype: "sandbox_claims", label: "key" }
      const repeated = Faults.status(400, "record-not-unique", { executed: true, hint })
      faults.inject("transact", repeated)
      faults.inject("query", Faults.serverError(503))
      const { id } = yield* store.insertSandbox(sandboxRecord())
      faults.inject("transact", repeated)
      faults.choose((endpoint) => (endpoint === "query" ? Faults.serverError(503) : undefined))
      assert.strictEqual(yield* failure(store.updateSandbox(id, 1, { purpose: "a" })), "Store(OutcomeUnknown)")
      faults.clear()
      assert.deepInclude(yield* store.getSandbox(id), { version: 2, purpose: "a" })
    }).pipe(Effect.provide(store()))
  )

  it.live("what was not sent, or refused, is not tried again here", () =>
    Effect.gen(function* () {
      const { faults, requests, setState } = yield* Server
      const store = yield* SandboxStore
      const { id } = yield* store.insertSandbox(sandboxRecord())
      requests.reset()
      faults.inject("transact", Faults.rateLimited(7))
      const limited = yield* Effect.flip(store.updateSandbox(id, 1, { purpose: "a" }))
      assert.deepInclude(limited.reason, { _tag: "Store", kind: "Unavailable" })
      assert.deepStrictEqual(limited.retryAfter, Duration.seconds(7))
      faults.inject("transact", Faults.timeout)
      assert.strictEqual(yield* failure(store.updateSandbox(id, 1, { purpose: "a" })), "Store(Unavailable)")
      setState("read-only")
      assert.strictEqual(yield* failure(store.updateSandbox(id, 1, { purpose: "a" })), "Store(ReadOnly)")
      assert.deepInclude(yield* store.getSandbox(id), { version: 1 }, "what is there can be read")
      setState("disabled")
      assert.strictEqual(yield* failure(store.getSandbox(id)), "Store(ReadOnly)")
      setState("open")
      assert.strictEqual(requests.count("transact"), 3)
    }).pipe(Effect.provide(store()))
  )

  it.live("a request is cut off with the fiber that asked, at its deadline, and when the store is closed", () =>
    Effect.gen(function* () {
      const { faults, requests } = yield* Server
      const store = yield* SandboxStore
      const { id } = yield* store.insertSandbox(sandboxRecord())
      const hangs = (endpoint: "query" | "transact") => {
        requests.reset()
        // Executed once its client has gone.
        faults.inject(endpoint, Faults.late)
      }
      const asked = Effect.gen(function* () {
        while (requests.count() === 0) yield* turn
      })
      const left = Effect.gen(function* () {
        while (requests.all[0]?.executed !== true) yield* turn
      })
      let version = 1
      for (const endpoint of ["query", "transact"] as const) {
        const ask = (store: SandboxStore["Service"]) =>
          endpoint === "query"
            ? Effect.asVoid(store.getSandbox(id))
            : Effect.asVoid(store.updateSandbox(id, version, { purpose: endpoint }))
        hangs(endpoint)
        const asking = yield* Effect.forkChild(ask(store), { startImmediately: true })
        yield* asked
        yield* Fiber.interrupt(asking)
        yield* left
        if (endpoint === "transact") assert.strictEqual((yield* store.getSandbox(id)).version, ++version)

        hangs(endpoint)
        const quick = yield* another({ requestTimeout: "1 second", namespace: yield* store.namespace })
        if (endpoint === "query") assert.strictEqual(yield* failure(ask(quick.store)), "Store(Unavailable)")
        // What it finds then is its own.
        else yield* ask(quick.store)
        yield* left
        if (endpoint === "transact") version++

        const scope = yield* Scope.make()
        const closed = yield* another({ namespace: yield* store.namespace }).pipe(Scope.provide(scope))
        yield* closed.store.getSandbox(id)
        hangs(endpoint)
        const late = yield* Effect.forkChild(Effect.flip(ask(closed.store)), { startImmediately: true })
        yield* asked
        yield* Scope.close(scope, Exit.void)
        const { reason } = yield* Fiber.join(late)
        const kind = endpoint === "query" ? "Unavailable" : "OutcomeUnknown"
        assert.deepInclude(reason, { _tag: "Store", kind })
        yield* left
        requests.reset()
        // Without a request.
        assert.strictEqual(yield* failure(ask(closed.store)), "Store(Unavailable)")
        assert.strictEqual(requests.count(), 0)
      }
    }).pipe(Effect.provide(store()))
  )

  it.live("a request has a deadline, and a write three", () =>
    Effect.gen(function* () {
      const { faults } = yield* Server
      const store = yield* SandboxStore
      const { id } = yield* store.insertSandbox(sandboxRecord())
      faults.choose(() => Faults.silent({ executed: false }))
      const began = performance.now()
      assert.strictEqual(yield* failure(store.getSandbox(id)), "Store(Unavailable)")
      assert.strictEqual(yield* failure(store.updateSandbox(id, 1, { purpose: "a" })), "Store(OutcomeUnknown)")
      // Three requests' time for a write, one for a read.
      assert.isBelow(performance.now() - began, 6000)
      faults.clear()
    }).pipe(Effect.provide(store({ requestTimeout: "200 millis" })))
  )
})

describe("records of @ekairos/sandbox", () => {
  const user = "aaaaaaaa-0000-4000-8000-000000000001"

  const planted = Effect.gen(function* () {
    const { transact } = yield* Server
    const sandbox = newSandboxId()
    const process = newProcessId()
    transact([
      ["create", "$users", user, { email: "a@example.test" }],
      [
        "create",
        "sandbox_sandboxes",
        sandbox,
        {
          externalSandboxId: "sbx_1",
          provider: "vercel",
          status: "active",
          timeout: 600_000,
          runtime: "node22",
          vcpus: 2,
          ports: [3000],
          purpose: "agent",
          params: { vercel: { profile: "ephemeral" } },
          createdAt: 1_700_000_000_000,
          updatedAt: 1_700_000_000_001
        }
      ],
      ["link", "sandbox_sandboxes", sandbox, { user }],
      [
        "create",
        "sandbox_processes",
        process,
        {
          kind: "command",
          mode: "foreground",
          status: "running",
          provider: "vercel",
          command: "npm",
          args: ["test"],
          env: {},
          streamId: "bbbbbbbb-0000-4000-8000-000000000001",
          streamClientId: `sandbox-process:${process}`,
          streamStartedAt: 5,
          startedAt: 5
        }
      ],
      ["link", "sandbox_processes", process, { sandbox }]
    ])
    return { sandbox, process }
  })

  it.effect("are read, listed and written, with the links that they have", () =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const { process, sandbox } = yield* planted
      const record = yield* store.getSandbox(sandbox)
      assert.deepStrictEqual(record, {
        id: sandbox,
        version: 0,
        externalSandboxId: "sbx_1",
        sandboxUserId: user,
        provider: "vercel",
        status: "active",
        timeout: 600_000,
        runtime: "node22",
        vcpus: 2,
        ports: [3000],
        purpose: "agent",
        params: { vercel: { profile: "ephemeral" } },
        createdAt: 1_700_000_000_000,
        updatedAt: 1_700_000_000_001
      })
      const newer = yield* store.insertSandbox(sandboxRecord({ createdAt: 1_700_000_000_005, purpose: "agent" }))
      const listed = yield* Stream.runCollect(store.listSandboxes({ purpose: "agent" }))
      assert.deepStrictEqual(listed, [newer, record])
      const other = yield* another()
      const results = yield* Effect.forEach(
        [store, other.store],
        (one) => Effect.result(one.updateSandbox(sandbox, 0, { status: "shutdown" })),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(results.filter(Result.isSuccess).length, 1, "the first write of it is a compare-and-set too")
      assert.deepInclude(yield* store.getSandbox(sandbox), { version: 1, status: "shutdown", runtime: "node22" })
      assert.strictEqual(
        yield* failure(store.insertSandbox(sandboxRecord({ provider: "vercel", externalSandboxId: "sbx_1" }))),
        "Store(AlreadyExists)"
      )

      assert.deepInclude(yield* store.getProcess(process), { sandboxId: sandbox, command: "npm", version: 0 })
      const processes = yield* Stream.runCollect(store.listProcesses({ sandboxId: sandbox }))
      assert.deepStrictEqual(
        processes.map(({ id }) => id),
        [process]
      )
      const { lease } = yield* store.acquireProcessLease(process, { owner: "me", ttl: "1 minute" })
      const event = chunk(processRecord({ id: process, sandboxId: sandbox }), 1, "out")
      yield* log.append(process, lease?.epoch ?? 0, [event])
      assert.deepStrictEqual(yield* Stream.runCollect(log.read(process)), [event])
    }).pipe(Effect.provide(store()))
  )

  it.effect("of which several have one machine are written all the same, but the machine is not given away", () =>
    Effect.gen(function* () {
      const { transact } = yield* Server
      const store = yield* SandboxStore
      const [one, two] = [newSandboxId(), newSandboxId()]
      for (const id of [one, two]) {
        const attrs = { externalSandboxId: "name", provider: "vercel", status: "active", createdAt: 1 }
        transact([["create", "sandbox_sandboxes", id, attrs]])
      }
      for (const id of [one, two]) {
        assert.deepInclude(yield* store.updateSandbox(id, 0, { status: "shutdown" }), { version: 1 })
        assert.deepInclude(yield* store.updateSandbox(id, 1, { purpose: "later" }), { version: 2 })
      }
      const other = yield* store.insertSandbox(sandboxRecord({ provider: "vercel" }))
      assert.strictEqual(
        yield* failure(store.updateSandbox(other.id, 1, { externalSandboxId: "name" })),
        "Store(AlreadyExists)"
      )
    }).pipe(Effect.provide(store()))
  )

  it.effect("belong to the store whose namespace is the app's own, or that asks for them", () =>
    Effect.gen(function* () {
      const { sandbox } = yield* planted
      const named = yield* another({ namespace: "staging" })
      assert.strictEqual(yield* failure(named.store.getSandbox(sandbox)), "NotFound")
      const asks = yield* another({ namespace: "production", legacyRecords: true })
      assert.strictEqual((yield* asks.store.getSandbox(sandbox)).id, sandbox)
    }).pipe(Effect.provide(server))
  )

  it.effect("records of this library have the links of the original's", () =>
    Effect.gen(function* () {
      const { query, transact } = yield* Server
      const store = yield* SandboxStore
      transact([["create", "$users", user, { email: "a@example.test" }]])
      const sandbox = yield* store.insertSandbox(sandboxRecord({ sandboxUserId: user }))
      const process = yield* store.insertProcess(processRecord({ sandboxId: sandbox.id }))
      const [found] = query({ $users: { sandboxes: { processes: {} } } })["$users"] ?? []
      assert.deepInclude(JSON.parse(JSON.stringify(found)), { id: user })
      assert.include(JSON.stringify(found), sandbox.id)
      assert.include(JSON.stringify(found), process.id)
    }).pipe(Effect.provide(store()))
  )
})

describe("values that InstantDB would change", () => {
  const strange: ReadonlyArray<string> = [
    "nul\u0000l",
    "lone \ud800 surrogate",
    "\udc00",
    "ABCDEF00-1234-4ABC-8DEF-ABCDEF012345",
    "x".repeat(5000),
    "\u{1F600}".repeat(300),
    "$in",
    "lookup__key__1"
  ]

  it.effect("come back as they were, and are found", () =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      for (const text of strange) {
        const record = sandboxRecord({
          purpose: text,
          error: text,
          externalSandboxId: unique(text),
          params: { [text]: [text, { deep: text }], plain: 1 }
        })
        yield* store.insertSandbox(record)
        assert.deepInclude(yield* store.getSandbox(record.id), record)
        const found = yield* Stream.runCollect(store.listSandboxes({ purpose: text }))
        assert.deepStrictEqual(
          found.map(({ id }) => id),
          [record.id]
        )
        const plain = yield* store.updateSandbox(record.id, 1, { error: "plain" })
        assert.deepInclude(plain, { ...record, error: "plain" })
        assert.deepStrictEqual(yield* store.getSandbox(record.id), plain)
      }
    }).pipe(Effect.provide(store()))
  )

  it.effect("also in the log: events, their keys, and what is there already", () =>
    Effect.gen(function* () {
      const store = yield* SandboxStore
      const log = yield* ProcessLog
      const process = yield* store.insertProcess(leasedProcess())
      const base = { sandboxId: process.sandboxId, processId: process.id, at: 1 }
      const events = strange.map((text, index) => ({
        ...base,
        _tag: "metadata" as const,
        seq: index + 1,
        metadata: { [text]: text },
        key: text
      }))
      yield* log.append(process.id, 1, events)
      assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id)), events)
      yield* log.append(process.id, 1, events)
      for (const event of events) {
        const found = yield* log.findKey(process.id, event.key)
        assert.deepStrictEqual(found._tag === "Some" ? found.value : undefined, event)
      }
      const upper = chunk(process, events.length + 1, "ABCDEF00-1234-4ABC-8DEF-ABCDEF012345")
      yield* log.append(process.id, 1, [upper])
      assert.deepStrictEqual(yield* Stream.runCollect(log.read(process.id, { after: events.length })), [upper])
      // As JSON it would be six times as long, and too long.
      const { seq, stdout } = yield* log.lastPosition(process.id)
      const control = "\u0001".repeat(3_000_000)
      yield* log.append(process.id, 1, [chunk(process, seq + 1, control, stdout)])
      const [large] = yield* Stream.runCollect(log.read(process.id, { after: seq }))
      assert.strictEqual(large?._tag === "stdout" ? Buffer.from(large.bytes).toString() === control : large, true)
    }).pipe(Effect.provide(store()))
  )
})

describe("a schema that was not pushed", () => {
  const emptyServer = Layer.effect(Server, Emulator.make())

  it.effect("is told with everything that is to be pushed", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(another())
      const { reason } = error
      if (reason._tag !== "Store") return assert.fail(reason._tag)
      assert.strictEqual(reason.kind, "SchemaMissing")
      assert.include(error.message, "npx effect-sandbox-instantdb-schema")
      const missing = reason.missing ?? []
      assert.include(missing, "sandbox_meta.key")
      assert.include(missing, "sandbox_sandboxes.versionKey")
      assert.include(missing, "sandbox_processes.sandbox")
      assert.include(missing, "sandbox_log_chunks.data")
    }).pipe(Effect.provide(emptyServer))
  )

  it.effect("with the schema of the original it is exactly what this library adds", () =>
    Effect.gen(function* () {
      const { schema } = yield* Effect.promise(() => import("../../../src/layers/stores/InstantDbSchema.ts"))
      const emulator = yield* Emulator.make()
      const { sandbox_claims: _claims, ...entities } = schema.entities
      const { machineKey: _machine, exact: _exact, ...attrs } = entities.sandbox_sandboxes.attrs
      const partial = {
        ...schema,
        entities: { ...entities, sandbox_sandboxes: { ...entities.sandbox_sandboxes, attrs } }
      }
      emulator.push(partial)
      yield* Effect.gen(function* () {
        const { store } = yield* another({ namespace: "given" })
        const { reason } = yield* Effect.flip(store.insertSandbox(sandboxRecord()))
        if (reason._tag !== "Store") return assert.fail(reason._tag)
        assert.deepStrictEqual(reason.missing, [
          "sandbox_claims.at",
          "sandbox_claims.by",
          "sandbox_claims.key",
          "sandbox_claims.record",
          "sandbox_claims.revision",
          "sandbox_sandboxes.exact",
          "sandbox_sandboxes.machineKey"
        ])
        assert.include(reason.detail, "sandbox_claims.key: i.string().unique().indexed()")
        emulator.push(schema)
        const record = yield* store.insertSandbox(sandboxRecord())
        assert.strictEqual(record.version, 1)
      }).pipe(Effect.provide(Layer.succeed(Server, emulator)))
    })
  )
})
