/** What only a database file can do: be opened again, be locked, full, read-only, damaged. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Fiber, Layer, Option, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { mkdir, readFile, stat, truncate, writeFile } from "node:fs/promises"
import { dirname } from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as Sql from "../../../src/layers/stores/Sql.ts"
import type { SandboxError } from "../../../src/errors.ts"
import { ProcessLog } from "../../../src/services/ProcessLog.ts"
import { SandboxStore } from "../../../src/services/SandboxStore.ts"
import { chunk, chunks, failure, leasedProcess, sandboxRecord } from "../../../src/testing/internal/stores.ts"
import { Backend, sqliteFile, temporaryDirectory, temporaryFile } from "./support.ts"

/** How building the layer fails. */
const openFailure = (layer: Layer.Layer<SandboxStore | ProcessLog, SandboxError>) =>
  failure(Effect.scoped(Layer.build(Layer.fresh(layer))))

/** Another connection, as another process would have it. */
const foreign = (file: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new DatabaseSync(file)),
    (database) =>
      Effect.sync(() => {
        if (database.isOpen) database.close()
      })
  )

/** A store with a sandbox and a process, closed again. */
const filled = (file: string) =>
  Effect.gen(function* () {
    const store = yield* SandboxStore
    const log = yield* ProcessLog
    const sandbox = yield* store.insertSandbox(sandboxRecord())
    const process = yield* store.insertProcess(leasedProcess())
    const bytes = Array.from({ length: 64 }, (_, index) => new Uint8Array(8192).fill(index))
    yield* log.append(process.id, 1, chunks(process, 1, bytes))
    return { sandbox, process, namespace: yield* store.namespace }
  }).pipe(Effect.provide(sqliteFile(file)))

describe("a SQLite file", () => {
  it.live("holds everything when it is opened again, its namespace too", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { namespace, process, sandbox } = yield* filled(file)
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        assert.strictEqual(store.kind, "sqlite")
        assert.strictEqual(yield* store.namespace, namespace)
        assert.deepStrictEqual(yield* store.getSandbox(sandbox.id), sandbox)
        assert.deepStrictEqual(yield* store.getProcess(process.id), process)
        const log = yield* ProcessLog
        assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 64)
        yield* log.append(process.id, 1, [chunk(process, 65, "more", 64 * 8192)])
      }).pipe(Effect.provide(Sql.layerSqlite({ file })))
    })
  )

  it.live("keeps output as it is, not as text that is a third larger", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const marker = new Uint8Array([0, 255, 1, 254, 2, 253, 66, 0, 200])
      const process = leasedProcess()
      yield* Effect.gen(function* () {
        yield* (yield* SandboxStore).insertProcess(process)
        yield* (yield* ProcessLog).append(process.id, 1, chunks(process, 1, [marker]))
      }).pipe(Effect.provide(sqliteFile(file)))
      assert.isTrue((yield* Effect.promise(() => readFile(file))).includes(Buffer.from(marker)))
    })
  )

  it.live("of SANDBOX_SQLITE_FILE, with SANDBOX_NAMESPACE, is what layerConfig opens", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const env = (values: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromUnknown(values))
      const opened = (values: Record<string, string>) =>
        Effect.flatMap(SandboxStore, (store) => store.namespace).pipe(
          Effect.provide(Layer.fresh(Sql.layerConfig).pipe(Layer.provide(env(values))))
        )
      assert.strictEqual(yield* opened({ SANDBOX_SQLITE_FILE: ` ${file} `, SANDBOX_NAMESPACE: " staging " }), "staging")
      assert.isAbove((yield* Effect.promise(() => stat(file))).size, 0)
      const kept = yield* opened({ SANDBOX_SQLITE_FILE: file, SANDBOX_NAMESPACE: "  " })
      assert.match(kept, /^[0-9a-f-]{36}$/, "a blank setting is unset")
    })
  )

  it.live("that another connection holds is Locked after the timeout, and works again afterwards", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { process, sandbox } = yield* filled(file)
      const layer = sqliteFile(file, { busyTimeout: "300 millis" })
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        const holder = yield* foreign(file)
        holder.exec("BEGIN IMMEDIATE")
        const began = performance.now()
        const append = log.append(process.id, 1, [chunk(process, 65, "a", 64 * 8192)], { status: "detached" })
        const writes: ReadonlyArray<Effect.Effect<unknown, SandboxError>> = [
          store.insertSandbox(sandboxRecord()),
          store.updateSandbox(sandbox.id, 1, { purpose: "x" }),
          append
        ]
        const errors = yield* Effect.all(writes.map(failure), { concurrency: "unbounded" })
        assert.deepStrictEqual(errors, ["Store(Locked)", "Store(Locked)", "Store(Locked)"])
        assert.isAtLeast(performance.now() - began, 250)
        assert.isTrue((yield* Effect.flip(append)).isRetryable)
        // Who only reads does not wait.
        assert.deepStrictEqual(yield* store.getSandbox(sandbox.id), sandbox)
        assert.strictEqual((yield* log.lastPosition(process.id)).seq, 64)
        assert.strictEqual(yield* openFailure(Sql.layerSqlite({ file, busyTimeout: "50 millis" })), "Store(Locked)")
        const waiting = yield* Effect.forkChild(append, { startImmediately: true })
        holder.exec("ROLLBACK")
        yield* Fiber.join(waiting)
        assert.deepInclude(yield* store.updateSandbox(sandbox.id, 1, { purpose: "x" }), { version: 2, purpose: "x" })
        assert.strictEqual((yield* log.lastPosition(process.id)).seq, 65)
      }).pipe(Effect.provide(layer))
    })
  )

  it.live("that is locked does not stop the other fibers of this process", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { sandbox } = yield* filled(file)
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        const holder = yield* foreign(file)
        holder.exec("BEGIN IMMEDIATE")
        const blocked = yield* Effect.forkChild(Effect.result(store.updateSandbox(sandbox.id, 1, { purpose: "x" })), {
          startImmediately: true
        })
        let turns = 0
        while (blocked.pollUnsafe() === undefined) {
          turns++
          yield* Effect.sleep(1)
        }
        assert.isAbove(turns, 20)
        assert.strictEqual((yield* Fiber.join(blocked))._tag, "Failure")
      }).pipe(Effect.provide(sqliteFile(file, { busyTimeout: "500 millis" })))
    })
  )

  it.live("that is no database is Corrupt, and stays as it is", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const garbage = new Uint8Array(20_000).fill(0x5a)
      yield* Effect.promise(() => mkdir(dirname(file), { recursive: true }))
      yield* Effect.promise(() => writeFile(file, garbage))
      assert.strictEqual(yield* openFailure(Sql.layerSqlite({ file })), "Store(Corrupt)")
      const { message } = yield* Effect.flip(Effect.scoped(Layer.build(Sql.layerSqlite({ file }))))
      assert.include(message, `${file}: SQLITE_NOTADB (26)`)
      assert.isTrue((yield* Effect.promise(() => readFile(file))).equals(garbage))
    })
  )

  it.live("that is damaged or cut short is Corrupt where the damage is met", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { process } = yield* filled(file)
      const { size } = yield* Effect.promise(() => stat(file))
      yield* Effect.promise(() => truncate(file, Math.floor(size / 2 / 8192) * 8192))
      const readAll = Effect.gen(function* () {
        yield* Stream.runDrain((yield* ProcessLog).read(process.id))
      }).pipe(Effect.provide(Layer.fresh(Sql.layerSqlite({ file }))))
      assert.strictEqual(yield* failure(readAll), "Store(Corrupt)")
      const scribbled = yield* temporaryFile
      yield* filled(scribbled)
      const bytes = yield* Effect.promise(() => readFile(scribbled))
      bytes.fill(0xee, 100, 8192)
      yield* Effect.promise(() => writeFile(scribbled, bytes))
      assert.strictEqual(yield* openFailure(Sql.layerSqlite({ file: scribbled })), "Store(Corrupt)")
    })
  )

  it.live("whose rows are no records any more is Malformed there", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { process, sandbox } = yield* filled(file)
      const database = yield* foreign(file)
      for (const data of ["null", "7", "[]", `"text"`, "{"]) {
        for (const table of ["sandbox_sandboxes", "sandbox_processes"]) {
          database.prepare(`UPDATE ${table} SET data = ?`).run(data)
        }
        yield* Effect.gen(function* () {
          const store = yield* SandboxStore
          const log = yield* ProcessLog
          const tried: ReadonlyArray<Effect.Effect<unknown, SandboxError>> = [
            store.getSandbox(sandbox.id),
            Stream.runCollect(store.listSandboxes()),
            store.updateSandbox(sandbox.id, sandbox.version ?? 0, { status: "shutdown" }),
            store.updateProcess(process.id, process.version ?? 0, { status: "exited" }),
            log.append(process.id, 1, [], { status: "exited" })
          ]
          for (const [index, one] of tried.entries()) {
            assert.strictEqual(yield* failure(one), "Store(Malformed)", `${data}, ${index}`)
          }
        }).pipe(Effect.provide(sqliteFile(file)))
      }
    })
  )

  it.live("that cannot be opened is Unavailable", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const notADirectory = `${directory}/file`
      yield* Effect.promise(() => writeFile(notADirectory, "x"))
      for (const file of [directory, `${notADirectory}/store.sqlite`, "/proc/nowhere/store.sqlite"]) {
        assert.strictEqual(yield* openFailure(Sql.layerSqlite({ file })), "Store(Unavailable)", file)
      }
    })
  )

  it.live("that is read-only can be read, and a write is ReadOnly", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { process, sandbox } = yield* filled(file)
      // Root writes whatever the mode says, so that the connection itself is made to refuse.
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        const sql = yield* SqlClient.SqlClient
        yield* sql`PRAGMA query_only = ON`
        assert.deepStrictEqual(yield* store.getSandbox(sandbox.id), sandbox)
        assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 64)
        assert.strictEqual(yield* failure(store.insertSandbox(sandboxRecord())), "Store(ReadOnly)")
        assert.strictEqual(yield* failure(store.updateSandbox(sandbox.id, 1, { purpose: "x" })), "Store(ReadOnly)")
        const more = [chunk(process, 65, "a", 64 * 8192)]
        assert.strictEqual(yield* failure(log.append(process.id, 1, more)), "Store(ReadOnly)")
        yield* sql`PRAGMA query_only = OFF`
        yield* log.append(process.id, 1, more)
        assert.deepInclude(yield* store.updateSandbox(sandbox.id, 1, { purpose: "x" }), { version: 2 })
      }).pipe(Effect.provide(sqliteFile(file)))
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        assert.strictEqual((yield* store.getSandbox(sandbox.id)).version, 2)
        assert.strictEqual(yield* failure(store.insertSandbox(sandboxRecord())), "Store(ReadOnly)")
        const append = (yield* ProcessLog).append(process.id, 1, [], { status: "lost" })
        assert.strictEqual(yield* failure(append), "Store(ReadOnly)")
      }).pipe(Effect.provide(Layer.fresh(Sql.layerSqlite({ file: `file:${file}?mode=ro` }))))
      const empty = yield* temporaryDirectory
      yield* Effect.promise(() => writeFile(`${empty}/store.sqlite`, ""))
      const unmade = Sql.layerSqlite({ file: `file:${empty}/store.sqlite?mode=ro` })
      assert.strictEqual(yield* openFailure(unmade), "Store(ReadOnly)")
    })
  )

  it.live("on a full disk is Full, loses nothing and goes on when there is room", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const { process, sandbox } = yield* filled(file)
      yield* Effect.gen(function* () {
        const store = yield* SandboxStore
        const log = yield* ProcessLog
        const sql = yield* SqlClient.SqlClient
        const [pages] = yield* sql<{ page_count: number }>`PRAGMA page_count`
        yield* sql`PRAGMA max_page_count = ${sql.literal(String((pages?.page_count ?? 0) + 4))}`
        const large = chunks(process, 65, [new Uint8Array(10), new Uint8Array(1 << 20).fill(7)], 64 * 8192)
        assert.strictEqual(yield* failure(log.append(process.id, 1, large, { status: "exited" })), "Store(Full)")
        const record = yield* store.getProcess(process.id)
        assert.deepInclude(record, { status: "running", version: 1 })
        assert.strictEqual((yield* log.lastPosition(process.id)).seq, 64)
        assert.strictEqual(
          yield* failure(store.updateSandbox(sandbox.id, 1, { params: { large: "x".repeat(1 << 20) } })),
          "Store(Full)"
        )
        assert.deepStrictEqual(yield* store.getSandbox(sandbox.id), sandbox)
        yield* sql`PRAGMA max_page_count = 1073741823`
        yield* log.append(process.id, 1, large, { status: "exited" })
        assert.strictEqual(yield* Stream.runCount(log.read(process.id)), 66)
        assert.deepEqual(yield* sql`PRAGMA integrity_check`, [{ integrity_check: "ok" }])
      }).pipe(Effect.provide(sqliteFile(file)))
      assert.strictEqual(yield* openFailure(Sql.layerSqlite({ file: "/dev/full" })), "Store(Full)")
    })
  )

  it.live("is closed with its scope, and leaves no log beside it", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      const context = yield* Effect.scoped(Layer.build(Layer.fresh(Sql.layerSqlite({ file }))))
      const used = Context.get(context, SandboxStore).insertSandbox(sandboxRecord())
      assert.strictEqual(yield* failure(used), "Store(Unknown)")
      assert.isTrue(Option.isNone(yield* Effect.option(Effect.tryPromise(() => stat(`${file}-wal`)))))
    })
  )

  it.effect("rolls back an append that is interrupted, and waits for a lock on the clock", () =>
    Effect.gen(function* () {
      const file = yield* temporaryFile
      yield* Effect.gen(function* () {
        const { sandboxes } = (yield* Backend).store
        const log = yield* ProcessLog
        const process = yield* (yield* SandboxStore).insertProcess(leasedProcess())
        const holder = yield* foreign(file)
        holder.exec("BEGIN IMMEDIATE")
        const waiting = yield* Effect.forkChild(log.append(process.id, 1, [chunk(process, 1, "a")]), {
          startImmediately: true
        })
        yield* Fiber.interrupt(waiting)
        const timing = yield* Effect.forkChild(Effect.flip(sandboxes.insert({ id: "a", version: 1 })), {
          startImmediately: true
        })
        while (timing.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
        assert.deepInclude((yield* Fiber.join(timing)).reason, { _tag: "Store", kind: "Locked" })
        holder.exec("ROLLBACK")
        assert.strictEqual((yield* log.lastPosition(process.id)).seq, 0)
        yield* log.append(process.id, 1, [chunk(process, 1, "a")])
      }).pipe(Effect.provide(sqliteFile(file)))
    })
  )
})

describe("lists of a large SQLite store", () => {
  it.live("walk along an index, whatever they are filtered by", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { processes, sandboxes } = (yield* Backend).store
      const statements: Array<readonly [string, ReadonlyArray<unknown>]> = []
      const explained = (effect: Effect.Effect<unknown, SandboxError>) =>
        Effect.gen(function* () {
          statements.length = 0
          yield* effect
          const plans: Array<string> = []
          for (const [text, params] of statements) {
            const rows = yield* sql.unsafe<{ detail: string }>(`EXPLAIN QUERY PLAN ${text}`, params)
            plans.push(...rows.map((row) => row.detail))
          }
          return plans.join("\n")
        })
      const cursor = Option.some({ id: "m", version: 1, createdAt: 5, startedAt: 5 })
      const filters: ReadonlyArray<readonly [Effect.Effect<unknown, SandboxError>, RegExp]> = [
        [sandboxes.page({ filter: {}, after: cursor, limit: 100 }), /by_ \(namespace=\? AND/],
        [sandboxes.page({ filter: { status: ["active"] }, after: cursor, limit: 100 }), /by_status/],
        [sandboxes.page({ filter: { provider: "a" }, after: cursor, limit: 100 }), /by_provider /],
        [
          sandboxes.page({ filter: { provider: "a", status: ["active"] }, after: cursor, limit: 100 }),
          /by_provider_status/
        ],
        [sandboxes.page({ filter: { purpose: "a" }, after: cursor, limit: 100 }), /by_purpose/],
        [sandboxes.page({ filter: { externalSandboxId: "a" }, after: cursor, limit: 100 }), /_machine/],
        [sandboxes.page({ filter: { createdAfter: 1, createdBefore: 9 }, after: cursor, limit: 100 }), /by_ /],
        [processes.page({ filter: { kind: "service" }, after: cursor, limit: 100 }), /by_kind/],
        [processes.page({ filter: { status: ["running"] }, after: cursor, limit: 100 }), /by_status/]
      ]
      const { CurrentTransformer } = yield* Effect.promise(() => import("effect/sql/Statement"))
      for (const [effect, index] of filters) {
        const plan = yield* explained(
          Effect.provideService(effect, CurrentTransformer, (statement) =>
            Effect.sync(() => {
              statements.push(statement.compile())
              return statement
            })
          )
        )
        assert.match(plan, index)
        assert.notMatch(plan, /SCAN/)
        if (!/_machine/.test(plan)) assert.notMatch(plan, /TEMP B-TREE/)
      }
    }).pipe(Effect.provide(Layer.unwrap(Effect.map(temporaryFile, (file) => sqliteFile(file)))))
  )
})
