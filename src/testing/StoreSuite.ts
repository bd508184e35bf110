/**
 * What every `SandboxStore` promises, as tests: call {@link suite} in a test file of yours with the layer of your store. Peers:
 * `vitest` and `@effect/vitest`.
 *
 * Nothing is deleted afterwards: give it a store of its own.
 */
import { assert, layer as sharedLayer } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import type { SandboxError } from "../errors.ts"
import { ProcessId, SandboxId } from "../model/Ids.ts"
import type { Lease } from "../model/Lease.ts"
import type { ProcessRecord } from "../model/Process.ts"
import type { SandboxRecord } from "../model/SandboxRecord.ts"
import { schemaVersion } from "../model/SandboxRecord.ts"
import type { ProcessLog } from "../services/ProcessLog.ts"
import type { Row } from "../services/SandboxStore.ts"
import { SandboxStore } from "../services/SandboxStore.ts"
import { failure, newProcessId, newSandboxId, processRecord, sandboxRecord, unique } from "./internal/stores.ts"

/** What the suite can check only with help of the backend; cases whose help is not given are not there. */
export interface Options<R> {
  /** Inserts a row as it is: how an older or a newer version of this library left it, or a broken one. */
  readonly plant?: ((entity: "sandbox" | "process", row: Row) => Effect.Effect<void, SandboxError, R>) | undefined
  /** A store on the same database with another namespace. */
  readonly otherNamespace?: Layer.Layer<SandboxStore | ProcessLog, SandboxError, R> | undefined
  /** How many increments race; default 200. Their conflicts grow with the square, and each may be a request over a network. */
  readonly increments?: number | undefined
}

const isConflict = (error: SandboxError) => error.reason._tag === "Store" && error.reason.kind === "Conflict"

/** The order of every list. */
const newestFirst = (a: SandboxRecord, b: SandboxRecord): number =>
  b.createdAt - a.createdAt || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0)

const ids = <E, R>(stream: Stream.Stream<{ readonly id: string }, E, R>): Effect.Effect<Array<string>, E, R> =>
  Effect.map(Stream.runCollect(stream), (records) => records.map((record) => record.id))

const noLease: Lease = { owner: "", epoch: -1, expiresAt: -1 }

const leaseOf = <E, R>(effect: Effect.Effect<{ readonly lease?: Lease }, E, R>): Effect.Effect<Lease, E, R> =>
  Effect.map(effect, (record) => record.lease ?? noLease)

/** A record as rows hold it, before a store has versioned it. */
const rowOf = (record: SandboxRecord | ProcessRecord): Row => ({ ...JSON.parse(JSON.stringify(record)), version: 1 })

/** Registers the tests under `name`. */
export const suite = <E, R = never>(
  name: string,
  layer: Layer.Layer<SandboxStore | ProcessLog | R, E>,
  options: Options<R> = {}
): void => {
  const increments = options.increments ?? 200
  sharedLayer(layer)(`SandboxStore: ${name}`, (it) => {
    it.effect("a record comes back as it was, with version 1 and the schema version", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const record = sandboxRecord({
          externalSandboxId: unique("machine"),
          sandboxUrl: "https://example.test/ä?b=\u{1F600}",
          timeout: 300_000,
          vcpus: 0.5,
          ports: [3000, 65535],
          purpose: 'it\'s "quoted"; DROP TABLE sandboxes; --',
          params: { nested: { list: [1, null, "two\u0000three", true, 1e-7] }, "": "empty key", ключ: "значение" },
          createdAt: 1700000000000.5,
          lease: { owner: "me", epoch: 3, expiresAt: 12 },
          persistent: false,
          stopPending: "delete",
          config: { provider: "suite", ports: [3000], secretEnv: ["TOKEN"] }
        })
        const inserted = yield* store.insertSandbox(record)
        assert.deepStrictEqual(inserted, { ...record, version: 1, schemaVersion })
        assert.deepStrictEqual(yield* store.getSandbox(record.id), inserted)
        const process = processRecord({
          args: ["", " ", "-x", "a\nb"],
          env: { A: "1" },
          exitCode: -1,
          metadata: { deep: [[{}]] }
        })
        yield* store.insertProcess(process)
        assert.deepStrictEqual(yield* store.getProcess(process.id), { ...process, version: 1, schemaVersion })
      })
    )

    it.effect("a record is the store's own: what the caller does to its objects later changes nothing", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const params: Record<string, string> = { a: "1" }
        const { id } = yield* store.insertSandbox(sandboxRecord({ params }))
        params["a"] = "changed"
        const read = yield* store.getSandbox(id)
        assert.deepStrictEqual(read.params, { a: "1" })
        Object.assign(read.params ?? {}, { a: "changed too" })
        assert.deepStrictEqual((yield* store.getSandbox(id)).params, { a: "1" })
      })
    )

    it.effect("an unknown id is NotFound, with what was looked for", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const sandbox = newSandboxId()
        const process = newProcessId()
        const lease: Lease = { owner: "me", epoch: 1, expiresAt: 0 }
        const take = { owner: "me", ttl: "1 second" } as const
        const errors = yield* Effect.all(
          [
            store.getSandbox(sandbox),
            store.updateSandbox(sandbox, 1, { status: "error" }),
            store.acquireSandboxLease(sandbox, take),
            store.renewSandboxLease(sandbox, lease, "1 second"),
            store.releaseSandboxLease(sandbox, lease)
          ].map((effect) => Effect.flip(Effect.asVoid(effect)))
        )
        for (const { reason } of errors) {
          assert.deepInclude(reason, { _tag: "NotFound", kind: "sandbox", id: sandbox })
        }
        for (const effect of [
          store.getProcess(process),
          store.updateProcess(process, 1, { status: "exited" }),
          store.acquireProcessLease(process, take)
        ]) {
          assert.deepInclude((yield* Effect.flip(effect)).reason, { _tag: "NotFound", kind: "process", id: process })
        }
      })
    )

    it.effect("an id is taken once", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const record = yield* store.insertSandbox(sandboxRecord({ purpose: "first" }))
        const process = yield* store.insertProcess(processRecord())
        assert.strictEqual(
          yield* failure(store.insertSandbox({ ...record, purpose: "second" })),
          "Store(AlreadyExists)"
        )
        assert.strictEqual(yield* failure(store.insertProcess(process)), "Store(AlreadyExists)")
        assert.strictEqual((yield* store.getSandbox(record.id)).purpose, "first")
        const racing = sandboxRecord()
        const results = yield* Effect.forEach(
          Array.from({ length: 20 }),
          () => Effect.result(store.insertSandbox(racing)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(results.filter((result) => result._tag === "Success").length, 1)
      })
    )

    it.effect("a machine belongs to one record of its provider", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const externalSandboxId = unique("machine")
        const owner = yield* store.insertSandbox(sandboxRecord({ externalSandboxId }))
        const other = yield* store.insertSandbox(sandboxRecord())
        yield* store.insertSandbox(sandboxRecord({ externalSandboxId, provider: "another account" }))
        yield* store.insertSandbox(sandboxRecord())
        assert.strictEqual(
          yield* failure(store.insertSandbox(sandboxRecord({ externalSandboxId }))),
          "Store(AlreadyExists)"
        )
        assert.strictEqual(
          yield* failure(store.updateSandbox(other.id, 1, { externalSandboxId, purpose: "half" })),
          "Store(AlreadyExists)"
        )
        assert.deepStrictEqual(yield* store.getSandbox(other.id), other, "a failed update changes nothing")
        // A write of the owner's own is no clash, and what it gives up can be taken.
        yield* store.updateSandbox(owner.id, 1, { externalSandboxId, purpose: "mine" })
        yield* store.updateSandbox(owner.id, 2, { externalSandboxId: undefined })
        assert.strictEqual(
          (yield* store.updateSandbox(other.id, 1, { externalSandboxId })).externalSandboxId,
          externalSandboxId
        )
      })
    )

    it.effect("an update writes its fields, removes those given as undefined, and keeps the rest", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        yield* TestClock.adjust("1 second")
        const { id } = yield* store.insertSandbox(
          sandboxRecord({ purpose: "keep", sandboxUrl: "http://old", error: "gone soon", params: { a: 1 } })
        )
        const updated = yield* store.updateSandbox(id, 1, { status: "shutdown", error: undefined, params: { b: 2 } })
        assert.strictEqual(updated.version, 2)
        assert.strictEqual(updated.status, "shutdown")
        assert.strictEqual(updated.purpose, "keep")
        assert.strictEqual(updated.sandboxUrl, "http://old")
        assert.deepStrictEqual(updated.params, { b: 2 })
        assert.isFalse("error" in updated)
        assert.isAtLeast(updated.updatedAt ?? 0, 1000)
        assert.deepStrictEqual(yield* store.getSandbox(id), updated)
      })
    )

    it.effect("an update of another version is a Conflict and changes nothing", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const { id } = yield* store.insertSandbox(sandboxRecord())
        const second = yield* store.updateSandbox(id, 1, { purpose: "second" })
        for (const version of [0, 1, 3, -1]) {
          assert.strictEqual(yield* failure(store.updateSandbox(id, version, { purpose: "lost" })), "Store(Conflict)")
        }
        assert.deepStrictEqual(yield* store.getSandbox(id), second)
      })
    )

    it.effect("a deletion of another version is a Conflict, of this one takes the record out of everything", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const purpose = unique("deleted")
        const externalSandboxId = unique("machine")
        const { id, provider } = yield* store.insertSandbox(sandboxRecord({ purpose, externalSandboxId }))
        const kept = yield* store.insertSandbox(sandboxRecord({ purpose }))
        const { id: processId, sandboxId } = yield* store.insertProcess(processRecord())
        yield* store.updateSandbox(id, 1, { status: "shutdown" })
        for (const version of [0, 1, 3]) {
          assert.strictEqual(yield* failure(store.deleteSandbox(id, version)), "Store(Conflict)")
        }
        assert.strictEqual(yield* failure(store.deleteProcess(processId, 2)), "Store(Conflict)")
        yield* store.deleteSandbox(id, 2)
        yield* store.deleteProcess(processId, 1)
        assert.strictEqual(yield* failure(store.getSandbox(id)), "NotFound")
        assert.strictEqual(yield* failure(store.getProcess(processId)), "NotFound")
        assert.strictEqual(yield* failure(store.updateSandbox(id, 2, { status: "active" })), "NotFound")
        assert.deepStrictEqual(yield* ids(store.listSandboxes({ purpose })), [kept.id])
        assert.deepStrictEqual(yield* ids(store.listProcesses({ sandboxId })), [])
        // Once more, and what was never there: nothing to do.
        yield* store.deleteSandbox(id, 2)
        yield* store.deleteProcess(newProcessId(), 1)
        // The machine may have another record.
        yield* store.insertSandbox(sandboxRecord({ provider, externalSandboxId }))
      })
    )

    it.effect("of an update and a deletion that race one wins", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        for (let round = 0; round < 10; round++) {
          const { id } = yield* store.insertSandbox(sandboxRecord())
          const [updated, deleted] = yield* Effect.all(
            [Effect.exit(store.updateSandbox(id, 1, { purpose: "kept" })), Effect.exit(store.deleteSandbox(id, 1))],
            { concurrency: "unbounded" }
          )
          assert.strictEqual(Exit.isSuccess(updated), Exit.isFailure(deleted))
          const found = yield* Effect.exit(store.getSandbox(id))
          assert.strictEqual(Exit.isSuccess(found), Exit.isSuccess(updated))
        }
      })
    )

    it.effect("of 200 racing updates of one version exactly one wins", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const { id } = yield* store.insertSandbox(sandboxRecord())
        const results = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, index) => index),
          (index) => Effect.result(store.updateSandbox(id, 1, { purpose: `${index}` })),
          { concurrency: "unbounded" }
        )
        const winners = results.flatMap((result) => (result._tag === "Success" ? [result.success] : []))
        assert.strictEqual(winners.length, 1)
        for (const result of results) {
          if (result._tag === "Failure") assert.isTrue(isConflict(result.failure))
        }
        assert.deepStrictEqual([yield* store.getSandbox(id)], winners)
      })
    )

    it.effect(
      `${increments} racing increments lose nothing`,
      () =>
        Effect.gen(function* () {
          const store = yield* SandboxStore
          const { id } = yield* store.insertSandbox(sandboxRecord({ vcpus: 0 }))
          const increment = Effect.gen(function* () {
            const record = yield* store.getSandbox(id)
            // Lets the others read the same version.
            yield* Effect.yieldNow
            return yield* store.updateSandbox(id, record.version ?? 0, { vcpus: (record.vcpus ?? 0) + 1 })
          }).pipe(Effect.retry({ while: isConflict }))
          yield* Effect.forEach(Array.from({ length: increments }), () => increment, { concurrency: 20, discard: true })
          assert.deepInclude(yield* store.getSandbox(id), { vcpus: increments, version: increments + 1 })
        }),
      // Over a network each conflict is two more requests.
      120_000
    )

    it.effect("lists newest first, every record once, over many pages and equal times", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const purpose = unique("pages")
        const records = yield* Effect.forEach(
          Array.from({ length: 333 }, (_, index) => index),
          (index) => store.insertSandbox(sandboxRecord({ purpose, createdAt: 1000 + ((index * 7) % 40) }))
        )
        const expected = [...records].sort(newestFirst).map((record) => record.id)
        const listed = yield* ids(store.listSandboxes({ purpose }))
        assert.deepStrictEqual(listed, expected)
        assert.deepStrictEqual(yield* ids(Stream.take(store.listSandboxes({ purpose }), 5)), expected.slice(0, 5))
        assert.deepStrictEqual(yield* ids(store.listSandboxes({ purpose: unique("nobody") })), [])
      })
    )

    it.effect("filters by status, provider, purpose, machine and age, and by all of them", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const purpose = unique("filters")
        const [a, b] = [unique("a"), unique("b")]
        const make = (fields: Partial<SandboxRecord>) => store.insertSandbox(sandboxRecord({ purpose, ...fields }))
        const one = yield* make({ provider: a, status: "active", createdAt: 10, externalSandboxId: unique("m") })
        const two = yield* make({ provider: a, status: "shutdown", createdAt: 20 })
        const three = yield* make({ provider: b, status: "active", createdAt: 30 })
        const four = yield* make({ provider: b, status: "error", createdAt: 40 })
        const list = (filter: Parameters<typeof store.listSandboxes>[0]) =>
          ids(store.listSandboxes({ purpose, ...filter }))
        assert.deepStrictEqual(yield* list({ status: ["active"] }), [three.id, one.id])
        assert.deepStrictEqual(yield* list({ status: ["error", "shutdown"] }), [four.id, two.id])
        assert.deepStrictEqual(yield* list({ status: ["active", "active", "shutdown"] }), [three.id, two.id, one.id])
        assert.deepStrictEqual(yield* list({ status: [] }), [])
        assert.deepStrictEqual(yield* list({ provider: a }), [two.id, one.id])
        assert.deepStrictEqual(yield* ids(store.listSandboxes({ provider: b })), [four.id, three.id])
        assert.deepStrictEqual(yield* list({ createdBefore: 30 }), [two.id, one.id])
        assert.deepStrictEqual(yield* list({ createdAfter: 20 }), [four.id, three.id])
        assert.deepStrictEqual(yield* list({ createdAfter: 10, createdBefore: 40, status: ["active", "error"] }), [
          three.id
        ])
        assert.deepStrictEqual(yield* list({ provider: b, status: ["error", "active"] }), [four.id, three.id])
        const { externalSandboxId } = one
        assert.deepStrictEqual(yield* list({ externalSandboxId }), [one.id])
        assert.deepStrictEqual(yield* list({ externalSandboxId, provider: b }), [])
        assert.deepStrictEqual(yield* list({ externalSandboxId, status: ["active", "error"] }), [one.id])
        // A list follows its records.
        yield* store.updateSandbox(one.id, 1, { status: "error", provider: b, createdAt: 50 })
        assert.deepStrictEqual(yield* list({ provider: b, status: ["error"] }), [one.id, four.id])
        assert.deepStrictEqual(yield* list({ provider: a, status: ["active"] }), [])
      })
    )

    it.effect("a list that is read while records come and go yields the others once each", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const purpose = unique("moving")
        const records = yield* Effect.forEach(
          Array.from({ length: 250 }, (_, index) => index),
          (index) => store.insertSandbox(sandboxRecord({ purpose, createdAt: 1000 + index }))
        )
        const leaving = new Set(records.filter((_, index) => index % 5 === 0).map((record) => record.id))
        let seen = 0
        const listed = yield* store.listSandboxes({ purpose, status: ["active"] }).pipe(
          Stream.tap((record) =>
            Effect.gen(function* () {
              seen++
              // In front of the reader, behind it, and records that it has still to reach.
              if (seen % 10 === 0) yield* store.insertSandbox(sandboxRecord({ purpose, createdAt: 5000 + seen }))
              if (seen === 150) {
                for (const id of leaving) yield* store.updateSandbox(id, 1, { status: "shutdown" })
              }
              return record
            })
          ),
          Stream.map((record) => record.id),
          Stream.runCollect
        )
        assert.strictEqual(new Set(listed).size, listed.length, "nothing comes twice")
        const staying = records
          .filter((record) => !leaving.has(record.id))
          .sort(newestFirst)
          .map((record) => record.id)
        assert.deepStrictEqual(
          listed.filter((id) => !leaving.has(id)),
          staying
        )
      })
    )

    it.effect("processes are listed by sandbox, status and kind", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const sandboxId = newSandboxId()
        const make = (fields: Parameters<typeof processRecord>[0]) =>
          store.insertProcess(processRecord({ sandboxId, ...fields }))
        const one = yield* make({ startedAt: 10, kind: "command", status: "exited" })
        const two = yield* make({ startedAt: 20, kind: "dev-server", status: "running" })
        const three = yield* make({ startedAt: 30, kind: "command", status: "running" })
        yield* make({ sandboxId: newSandboxId(), startedAt: 40 })
        assert.deepStrictEqual(yield* ids(store.listProcesses({ sandboxId })), [three.id, two.id, one.id])
        assert.deepStrictEqual(yield* ids(store.listProcesses({ sandboxId, kind: "command" })), [three.id, one.id])
        assert.deepStrictEqual(
          yield* ids(store.listProcesses({ sandboxId, status: ["exited", "detached", "running"], kind: "command" })),
          [three.id, one.id]
        )
        const ended = yield* store.updateProcess(two.id, 1, { status: "killed", signal: "SIGKILL", exitCode: 137 })
        assert.deepInclude(ended, { version: 2, status: "killed", signal: "SIGKILL", exitCode: 137 })
        assert.deepStrictEqual(yield* ids(store.listProcesses({ sandboxId, status: ["running"] })), [three.id])
        assert.deepStrictEqual(yield* ids(store.listProcesses({ sandboxId, status: ["killed"] })), [two.id])
      })
    )

    for (const kind of ["sandbox", "process"] as const) {
      const leases = Effect.gen(function* () {
        const store = yield* SandboxStore
        if (kind === "sandbox") {
          const { id } = yield* store.insertSandbox(sandboxRecord())
          return {
            acquire: (owner: string, steal?: boolean) =>
              leaseOf(store.acquireSandboxLease(id, { owner, ttl: "30 seconds", steal })),
            renew: (lease: Lease) => leaseOf(store.renewSandboxLease(id, lease, "30 seconds")),
            release: (lease: Lease) => store.releaseSandboxLease(id, lease),
            read: leaseOf(store.getSandbox(id))
          }
        }
        const { id } = yield* store.insertProcess(processRecord())
        return {
          acquire: (owner: string, steal?: boolean) =>
            leaseOf(store.acquireProcessLease(id, { owner, ttl: "30 seconds", steal })),
          renew: (lease: Lease) => leaseOf(store.renewProcessLease(id, lease, "30 seconds")),
          release: (lease: Lease) => store.releaseProcessLease(id, lease),
          read: leaseOf(store.getProcess(id))
        }
      })

      it.effect(`the lease of a ${kind} has one holder until it expires, and every holder a higher epoch`, () =>
        Effect.gen(function* () {
          const lease = yield* leases
          const now = yield* Clock.currentTimeMillis
          const first = yield* lease.acquire("one")
          assert.deepStrictEqual(first, { owner: "one", epoch: 1, expiresAt: now + 30_000 })
          const { reason } = yield* Effect.flip(lease.acquire("two"))
          if (reason._tag !== "Busy") assert.fail(`expected Busy, got ${reason._tag}`)
          assert.strictEqual(reason.owner, "one")
          assert.deepStrictEqual(reason.retryAfter, Duration.seconds(30))
          assert.strictEqual((yield* lease.acquire("one")).epoch, 2, "its own owner takes it anew")
          yield* TestClock.adjust("29999 millis")
          assert.strictEqual(yield* failure(lease.acquire("two")), "Busy")
          yield* TestClock.adjust("1 millis")
          assert.strictEqual((yield* lease.acquire("two")).epoch, 3)
        })
      )

      it.effect(`the lease of a ${kind} can be renewed by its holder, and by nobody after a steal`, () =>
        Effect.gen(function* () {
          const lease = yield* leases
          const first = yield* lease.acquire("one")
          yield* TestClock.adjust("20 seconds")
          const renewed = yield* lease.renew(first)
          assert.strictEqual(renewed.epoch, first.epoch)
          assert.strictEqual(renewed.expiresAt, first.expiresAt + 20_000)
          yield* TestClock.adjust("29 seconds")
          const stolen = yield* lease.acquire("two", true)
          assert.strictEqual(stolen.epoch, 2)
          assert.strictEqual(yield* failure(lease.renew(first)), "Store(LeaseLost)")
          yield* lease.release(first)
          assert.deepStrictEqual(yield* lease.read, stolen, "who lost it can give nothing back")
        })
      )

      it.effect(`an expired lease of a ${kind} that nobody took can be renewed`, () =>
        Effect.gen(function* () {
          const lease = yield* leases
          const first = yield* lease.acquire("one")
          yield* TestClock.adjust("1 hour")
          assert.strictEqual((yield* lease.renew(first)).epoch, 1)
          assert.strictEqual(yield* failure(lease.acquire("two")), "Busy")
        })
      )

      it.effect(`a released lease of a ${kind} is free at once and keeps its epoch`, () =>
        Effect.gen(function* () {
          const lease = yield* leases
          const first = yield* lease.acquire("one")
          yield* lease.release(first)
          assert.deepStrictEqual(yield* lease.read, { ...first, expiresAt: 0 })
          assert.strictEqual((yield* lease.acquire("two")).epoch, 2)
        })
      )

      it.effect(`of 50 that race for the lease of a ${kind} one gets it`, () =>
        Effect.gen(function* () {
          const lease = yield* leases
          const results = yield* Effect.forEach(
            Array.from({ length: 50 }, (_, index) => `owner ${index}`),
            (owner) => Effect.result(lease.acquire(owner)),
            { concurrency: "unbounded" }
          )
          const winners = results.flatMap((result) => (result._tag === "Success" ? [result.success] : []))
          assert.deepStrictEqual(winners, [yield* lease.read])
          for (const result of results) {
            if (result._tag === "Failure") assert.strictEqual(result.failure.reason._tag, "Busy")
          }
        })
      )
    }

    it.effect("the namespace is an id that stays", () =>
      Effect.gen(function* () {
        const store = yield* SandboxStore
        const namespace = yield* store.namespace
        assert.isNotEmpty(namespace)
        assert.strictEqual(yield* store.namespace, namespace)
      })
    )

    const { otherNamespace, plant } = options

    if (plant !== undefined) {
      it.effect("a record of a newer version is RecordTooNew, whatever else it holds", () =>
        Effect.gen(function* () {
          const store = yield* SandboxStore
          const purpose = unique("newer")
          const sandbox: Row = {
            ...rowOf(sandboxRecord({ purpose })),
            schemaVersion: schemaVersion + 1,
            status: "melted"
          }
          const process: Row = { ...rowOf(processRecord()), schemaVersion: schemaVersion + 1 }
          yield* plant("sandbox", sandbox)
          yield* plant("process", process)
          assert.strictEqual(yield* failure(store.getSandbox(SandboxId.make(sandbox.id))), "RecordTooNew")
          assert.strictEqual(yield* failure(Stream.runDrain(store.listSandboxes({ purpose }))), "RecordTooNew")
          assert.strictEqual(
            yield* failure(store.acquireSandboxLease(SandboxId.make(sandbox.id), { owner: "me", ttl: "1 second" })),
            "RecordTooNew"
          )
          const { reason } = yield* Effect.flip(store.getProcess(ProcessId.make(process.id)))
          assert.deepInclude(reason, {
            _tag: "RecordTooNew",
            schemaVersion: schemaVersion + 1,
            supported: schemaVersion
          })
        })
      )

      it.effect("a list leaves out what this version cannot read if somebody wants to be told of it, and goes on", () =>
        Effect.gen(function* () {
          const store = yield* SandboxStore
          const purpose = unique("unreadable")
          const good = yield* store.insertSandbox(sandboxRecord({ purpose, createdAt: 1000 }))
          const newer: Row = { ...rowOf(sandboxRecord({ purpose, createdAt: 3000 })), schemaVersion: schemaVersion + 1 }
          const odd: Row = { ...rowOf(sandboxRecord({ purpose, createdAt: 2000 })), status: "melted" }
          yield* plant("sandbox", newer)
          yield* plant("sandbox", odd)
          const { sandboxId } = processRecord()
          const process: Row = { ...rowOf(processRecord({ sandboxId })), status: "melted" }
          yield* plant("process", process)
          const told: Array<unknown> = []
          const onUnreadable = ({ processId, reason, sandboxId }: SandboxError) =>
            Effect.sync(() => void told.push([sandboxId ?? processId, reason._tag]))
          assert.deepStrictEqual(yield* ids(store.listSandboxes({ purpose }, { onUnreadable })), [good.id])
          assert.deepStrictEqual(yield* ids(store.listProcesses({ sandboxId }, { onUnreadable })), [])
          assert.deepStrictEqual(told, [
            [newer.id, "RecordTooNew"],
            [odd.id, "Store"],
            [process.id, "Store"]
          ])
        })
      )

      it.effect("a record of @ekairos/sandbox, without version and config, is read and written", () =>
        Effect.gen(function* () {
          const store = yield* SandboxStore
          const row: Row = {
            id: newSandboxId(),
            version: 0,
            provider: "vercel",
            status: "active",
            externalSandboxId: unique("sbx_"),
            timeout: 600000,
            runtime: "node22",
            params: { vercel: { profile: "ephemeral" } },
            createdAt: 1700000000000
          }
          yield* plant("sandbox", row)
          const record = yield* store.getSandbox(SandboxId.make(row.id))
          assert.strictEqual(record.config, undefined)
          assert.strictEqual(record.schemaVersion, undefined)
          const updated = yield* store.updateSandbox(record.id, record.version ?? 0, { status: "shutdown" })
          assert.deepInclude(updated, { version: 1, status: "shutdown", runtime: "node22" })
          assert.strictEqual((yield* leaseOf(store.acquireSandboxLease(record.id, { owner: "me", ttl: 1 }))).epoch, 1)
        })
      )

      it.effect("a record that does not decode is Store(Malformed)", () =>
        Effect.gen(function* () {
          const store = yield* SandboxStore
          const row: Row = { ...rowOf(sandboxRecord()), status: "melted" }
          yield* plant("sandbox", row)
          assert.strictEqual(yield* failure(store.getSandbox(SandboxId.make(row.id))), "Store(Malformed)")
        })
      )
    }

    if (otherNamespace !== undefined) {
      it.effect("namespaces of one database share nothing", () =>
        Effect.gen(function* () {
          const store = yield* SandboxStore
          const purpose = unique("namespaces")
          const record = yield* store.insertSandbox(sandboxRecord({ purpose, externalSandboxId: unique("m") }))
          const process = yield* store.insertProcess(processRecord({ sandboxId: record.id }))
          yield* Effect.gen(function* () {
            const other = yield* SandboxStore
            assert.notStrictEqual(yield* other.namespace, yield* store.namespace)
            assert.strictEqual(yield* failure(other.getSandbox(record.id)), "NotFound")
            assert.strictEqual(yield* failure(other.updateSandbox(record.id, 1, { purpose: "stolen" })), "NotFound")
            assert.strictEqual(yield* failure(other.getProcess(process.id)), "NotFound")
            assert.deepStrictEqual(yield* ids(other.listSandboxes({ purpose })), [])
            assert.deepStrictEqual(yield* ids(other.listProcesses({ sandboxId: record.id })), [])
            // The same ids and the same machine: another namespace's are none of its business.
            yield* other.insertSandbox({ ...record, purpose: "theirs" })
            yield* other.insertProcess({ ...process, command: "theirs" })
          }).pipe(Effect.provide(otherNamespace))
          assert.deepStrictEqual(yield* store.getSandbox(record.id), record)
          assert.deepStrictEqual(yield* store.getProcess(process.id), process)
        })
      )
    }
  })
}
