import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Latch, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import * as NodeSqlite from "../../../src/layers/internal/nodeSqlite.ts"
import { temporaryFile } from "./support.ts"

const withClient = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.provide(effect, Layer.unwrap(Effect.map(temporaryFile, (file) => NodeSqlite.layer({ file }))))

const sources = fileURLToPath(new URL("../../../src/layers/", import.meta.url))

describe("the SQL client over node:sqlite", () => {
  it.live("carries text, numbers, bytes, booleans, dates and nothing", () =>
    withClient(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const bytes = new Uint8Array([0, 1, 255])
        const date = new Date(0)
        const [row] =
          yield* sql`SELECT ${"a\u0000ü"} AS text, ${1.5} AS number, ${9007199254740991} AS whole, ${bytes} AS bytes,
        ${new Uint8Array(0)} AS empty, ${true} AS yes, ${date} AS date, ${null} AS none, ${undefined} AS missing`
        assert.deepEqual(row, {
          text: "a\u0000ü",
          number: 1.5,
          whole: 9007199254740991,
          bytes,
          empty: new Uint8Array(0),
          yes: 1,
          date: "1970-01-01T00:00:00.000Z",
          none: null,
          missing: null
        })
        assert.deepEqual(yield* sql`SELECT 1 AS a, 2 AS b`.values, [[1, 2]])
        assert.deepEqual(yield* sql`SELECT 1 AS a`.unprepared, [{ a: 1 }])
        const [big] = yield* Effect.provideService(sql`SELECT 9007199254740993 AS n`, SqlClient.SafeIntegers, true)
        assert.deepEqual(big, { n: 9007199254740993n })
        const error = yield* Effect.flip(sql`SELECT ${{ an: "object" }} AS x`)
        assert.strictEqual(error.reason._tag, "UnknownError")
      })
    )
  )

  it.live("is set up for several processes", () =>
    withClient(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const pragma = (name: string) =>
          Effect.map(sql.unsafe<object>(`PRAGMA ${name}`), ([row]) => Object.values(row ?? {})[0])
        assert.strictEqual(yield* pragma("journal_mode"), "wal")
        assert.strictEqual(yield* pragma("foreign_keys"), 1)
        assert.strictEqual(yield* pragma("synchronous"), 1)
        assert.strictEqual(yield* pragma("page_size"), 8192)
        assert.isAtMost(Number(yield* pragma("busy_timeout")), 50)
      })
    )
  )

  it.live("names the reason of a failure", () =>
    withClient(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE t (id TEXT UNIQUE)`
        yield* sql`INSERT INTO t (id) VALUES ('a')`
        const error = yield* Effect.flip(sql`INSERT INTO t (id) VALUES ('a')`)
        assert.deepInclude(error.reason, { _tag: "UniqueViolation", constraint: "t.id" })
        assert.strictEqual((yield* Effect.flip(sql`SELECT * FROM missing`)).reason._tag, "UnknownError")
        assert.strictEqual((yield* Effect.exit(Stream.runDrain(sql`SELECT 1`.stream)))._tag, "Failure")
      })
    )
  )

  it.live("keeps a transaction whole: failure and interruption roll back, others wait for its end", () =>
    withClient(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE t (id TEXT)`
        const count = Effect.map(sql<{ n: number }>`SELECT count(*) AS n FROM t`, ([row]) => row?.n)
        yield* Effect.flip(sql.withTransaction(Effect.andThen(sql`INSERT INTO t VALUES ('a')`, Effect.fail("no"))))
        assert.strictEqual(yield* count, 0)
        const begun = yield* Latch.make()
        const stuck = yield* Effect.forkChild(
          sql.withTransaction(Effect.andThen(sql`INSERT INTO t VALUES ('a')`, Effect.andThen(begun.open, Effect.never)))
        )
        yield* begun.await
        const reader = yield* Effect.forkChild(count, { startImmediately: true })
        assert.isUndefined(reader.pollUnsafe(), "the one connection is lent out")
        yield* Fiber.interrupt(stuck)
        assert.strictEqual(yield* Fiber.join(reader), 0)
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`INSERT INTO t VALUES ('kept')`
            yield* Effect.ignore(
              sql.withTransaction(Effect.andThen(sql`INSERT INTO t VALUES ('lost')`, Effect.fail("no")))
            )
          })
        )
        assert.deepEqual(yield* sql`SELECT id FROM t`, [{ id: "kept" }])
      })
    )
  )

  it.live("prepares more statements than it keeps", () =>
    withClient(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        for (let round = 0; round < 2; round++) {
          for (let index = 0; index < 300; index++) {
            assert.deepEqual(yield* sql.unsafe(`SELECT ${index} AS n`), [{ n: index }])
          }
        }
      })
    )
  )

  it.live("loads node:sqlite at the first use and not before", () =>
    Effect.gen(function* () {
      const script = `
        const loaded = () => process.moduleLoadList.some((name) => name === "NativeModule sqlite")
        const { layerSqlite } = await import(${JSON.stringify(`file://${sources}stores/Sql.ts`)})
        const { layer } = await import(${JSON.stringify(`file://${sources}internal/nodeSqlite.ts`)})
        layerSqlite({ file: "unused" }); layer({ file: "unused" })
        console.log(loaded())
        await import("node:sqlite")
        console.log(loaded())`
      const { stderr, stdout } = yield* Effect.promise(() =>
        promisify(execFile)(process.execPath, ["--input-type=module", "-e", script])
      )
      assert.strictEqual(stdout, "false\ntrue\n")
      assert.strictEqual(stderr, "")
    })
  )
})
