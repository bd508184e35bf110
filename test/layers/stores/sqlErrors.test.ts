import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { Migrator, SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import { DatabaseSync } from "node:sqlite"
import { NotFound, SandboxError } from "../../../src/errors.ts"
import {
  isSessionLost,
  retryLocked,
  type StoreKind,
  storeKind,
  toSandboxError
} from "../../../src/layers/internal/sqlErrors.ts"

const withCode = (fields: object, message = "database is locked") => Object.assign(new Error(message), fields)

/** As `node:sqlite` throws. */
const node = (errcode: number) => withCode({ code: "ERR_SQLITE_ERROR", errcode, errstr: "whatever" })

const wrapped = (cause: unknown) => new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause }) })

const table: ReadonlyArray<readonly [StoreKind, string, unknown]> = [
  ["AlreadyExists", "CONSTRAINT_PRIMARYKEY", node(1555)],
  ["AlreadyExists", "CONSTRAINT_UNIQUE", node(2067)],
  ["AlreadyExists", "CONSTRAINT_ROWID", node(2579)],
  ["Unknown", "CONSTRAINT_NOTNULL", node(1299)],
  ["Unknown", "CONSTRAINT_FOREIGNKEY", node(787)],
  ["Locked", "BUSY", node(5)],
  ["Locked", "BUSY_RECOVERY", node(261)],
  ["Locked", "BUSY_SNAPSHOT", node(517)],
  ["Locked", "LOCKED_SHAREDCACHE", node(262)],
  ["Locked", "PROTOCOL", node(15)],
  ["Full", "FULL", node(13)],
  ["Full", "IOERR_SHMSIZE", node(4874)],
  ["ReadOnly", "READONLY", node(8)],
  ["ReadOnly", "READONLY_DIRECTORY", node(1544)],
  ["ReadOnly", "PERM", node(3)],
  ["Corrupt", "CORRUPT", node(11)],
  ["Corrupt", "CORRUPT_INDEX", node(779)],
  ["Corrupt", "NOTADB", node(26)],
  ["Unavailable", "CANTOPEN", node(14)],
  ["Unavailable", "CANTOPEN_ISDIR", node(526)],
  ["Unavailable", "IOERR", node(10)],
  ["Unavailable", "IOERR_READ", node(266)],
  ["Unknown", "ERROR", node(1)],
  ["Unknown", "TOOBIG", node(18)],
  ["Unknown", "MISUSE", node(21)],
  ["Locked", "better-sqlite3", withCode({ code: "SQLITE_BUSY_SNAPSHOT" })],
  ["AlreadyExists", "better-sqlite3", withCode({ code: "SQLITE_CONSTRAINT_PRIMARYKEY" })],
  ["Unknown", "better-sqlite3", withCode({ code: "SQLITE_CONSTRAINT_CHECK" })],
  ["Unknown", "better-sqlite3", withCode({ code: "SQLITE_ERROR" })],
  ["Full", "libsql", withCode({ errno: 13 })],
  ["AlreadyExists", "Postgres unique_violation", withCode({ code: "23505" })],
  ["Unknown", "Postgres not_null_violation", withCode({ code: "23502" })],
  ["Full", "Postgres disk_full", withCode({ code: "53100" })],
  ["Unavailable", "Postgres too_many_connections", withCode({ code: "53300" })],
  ["ReadOnly", "Postgres read_only_sql_transaction", withCode({ code: "25006" })],
  ["ReadOnly", "Postgres insufficient_privilege", withCode({ code: "42501" })],
  ["Unknown", "a Node without node:sqlite", withCode({ code: "ERR_UNKNOWN_BUILTIN_MODULE" })],
  ["Unknown", "Postgres undefined_table", withCode({ code: "42P01" })],
  ["Locked", "Postgres serialization_failure", withCode({ code: "40001" })],
  ["Locked", "Postgres deadlock_detected", withCode({ code: "40P01" })],
  ["Locked", "Postgres lock_not_available", withCode({ code: "55P03" })],
  ["Unavailable", "Postgres connection_failure", withCode({ code: "08006" })],
  ["Unavailable", "Postgres admin_shutdown", withCode({ code: "57P01" })],
  ["Unavailable", "Postgres sqlclient_unable_to_establish_sqlconnection", withCode({ code: "08001" })],
  ["OutcomeUnknown", "Postgres transaction_resolution_unknown", withCode({ code: "08007" })],
  ["OutcomeUnknown", "Postgres statement_completion_unknown", withCode({ code: "40003" })],
  ["Unknown", "Postgres transaction_rollback", withCode({ code: "40000" })],
  ["Misconfigured", "Postgres invalid_authorization_specification", withCode({ code: "28000" })],
  ["Misconfigured", "Postgres invalid_password", withCode({ code: "28P01" })],
  ["Misconfigured", "Postgres invalid_catalog_name", withCode({ code: "3D000" })],
  ["Misconfigured", "Postgres invalid_schema_name", withCode({ code: "3F000" })],
  ["Misconfigured", "Postgres database_dropped", withCode({ code: "57P04" })],
  ["Unavailable", "Postgres crash_shutdown", withCode({ code: "57P02" })],
  ["Unavailable", "Postgres cannot_connect_now", withCode({ code: "57P03" })],
  ["Unavailable", "Postgres query_canceled", withCode({ code: "57014" })],
  ["Unavailable", "Postgres idle_in_transaction_session_timeout", withCode({ code: "25P03" })],
  ["Unknown", "Postgres in_failed_sql_transaction", withCode({ code: "25P02" })],
  ["Unavailable", "Postgres out_of_memory", withCode({ code: "53200" })],
  ["Unavailable", "Postgres io_error", withCode({ code: "58030" })],
  ["Unknown", "Postgres character_not_in_repertoire", withCode({ code: "22021" })],
  ["Unknown", "Postgres program_limit_exceeded", withCode({ code: "54000" })],
  ["Corrupt", "Postgres data_corrupted", withCode({ code: "XX001" })],
  ["Corrupt", "Postgres index_corrupted", withCode({ code: "XX002" })],
  ["Unknown", "Postgres internal_error", withCode({ code: "XX000" })],
  ["Full", "the system", withCode({ code: "ENOSPC", errno: -28 })],
  ["ReadOnly", "the system", withCode({ code: "EROFS", errno: -30 })],
  ["ReadOnly", "the system", withCode({ code: "EACCES", errno: -13 })],
  ["Unavailable", "the system", withCode({ code: "ENOTDIR", errno: -20 })],
  ["Unavailable", "the system", withCode({ code: "ECONNREFUSED", errno: -111 })],
  ["Unknown", "the system", withCode({ code: "EWHATEVER", errno: -999 })],
  [
    "Locked",
    "SqlError by its reason",
    new SqlError.SqlError({ reason: new SqlError.DeadlockError({ cause: new Error("x") }) })
  ],
  [
    "Unavailable",
    "SqlError by its reason",
    new SqlError.SqlError({ reason: new SqlError.ConnectionError({ cause: new Error("x") }) })
  ],
  [
    "Misconfigured",
    "SqlError by its reason",
    new SqlError.SqlError({ reason: new SqlError.AuthenticationError({ cause: new Error("x") }) })
  ],
  // The code decides, not the reason that a driver's classifier made of it.
  [
    "Full",
    "SqlError by its code",
    new SqlError.SqlError({ reason: new SqlError.ConnectionError({ cause: node(13) }) })
  ],
  [
    "Corrupt",
    "MigrationError",
    new Migrator.MigrationError({ kind: "Failed", message: "x", cause: wrapped(node(11)) })
  ],
  ["Unknown", "text that only looks like it", new Error("SQLITE_BUSY: database is locked")],
  ["Unknown", "a string", "SQLITE_BUSY"],
  ["Unknown", "nothing", undefined],
  ["Unknown", "null", null]
]

describe("the classifier of SQL errors", () => {
  it.each(table)("%s: %s", (kind, _name, error) => {
    assert.strictEqual(storeKind(error), kind)
    assert.strictEqual(storeKind(wrapped(error)), kind)
  })

  it("comes to an end with a cause that contains itself", () => {
    const error = new Error("x")
    error.cause = error
    assert.strictEqual(storeKind(error), "Unknown")
  })

  it("knows what node:sqlite really throws", () => {
    const database = new DatabaseSync(":memory:")
    database.exec("CREATE TABLE t (id TEXT PRIMARY KEY, u TEXT UNIQUE, n TEXT NOT NULL) STRICT")
    database.exec("INSERT INTO t VALUES ('a', 'b', 'c')")
    const thrown = (sql: string): unknown => {
      try {
        database.exec(sql)
        return assert.fail("it did not throw")
      } catch (error) {
        return error
      }
    }
    assert.strictEqual(storeKind(thrown("INSERT INTO t VALUES ('a', 'x', 'c')")), "AlreadyExists")
    assert.strictEqual(storeKind(thrown("INSERT INTO t VALUES ('x', 'b', 'c')")), "AlreadyExists")
    assert.strictEqual(storeKind(thrown("INSERT INTO t VALUES ('x', 'y', NULL)")), "Unknown")
    assert.strictEqual(storeKind(thrown("no sql")), "Unknown")
    database.exec("PRAGMA query_only = ON")
    assert.strictEqual(storeKind(thrown("DELETE FROM t")), "ReadOnly")
    database.close()
  })

  it("shows the code and not the database's words, which may quote a value", () => {
    const error = toSandboxError("SandboxStore.insertSandbox", { sandboxId: "id" })(
      wrapped(withCode({ code: "23505" }, "Key (purpose)=(s3cret) already exists"))
    )
    assert.strictEqual(error.message, "SandboxStore.insertSandbox (id): store: AlreadyExists: SQLSTATE 23505")
  })

  it("leaves an error of ours as it is", () => {
    const ours = new SandboxError({ operation: "x", reason: new NotFound({ kind: "process", id: "y" }) })
    assert.strictEqual(toSandboxError("other")(ours), ours)
  })
})

const connection = (operation: string, cause: unknown) =>
  new SqlError.SqlError({ reason: new SqlError.ConnectionError({ cause, operation }) })

describe("a session is lost", () => {
  const lost: ReadonlyArray<readonly [boolean, string, unknown]> = [
    [true, "connection_failure", withCode({ code: "08006" })],
    [true, "admin_shutdown", withCode({ code: "57P01" })],
    [true, "crash_shutdown", withCode({ code: "57P02" })],
    [true, "idle_session_timeout", withCode({ code: "57P05" })],
    [true, "idle_in_transaction_session_timeout", withCode({ code: "25P03" })],
    [true, "a reset", withCode({ code: "ECONNRESET", errno: -104 })],
    [true, "a closed connection", connection("query", new Error("Connection closed"))],
    [false, "a server that cannot be reached", connection("connect", withCode({ code: "ECONNREFUSED" }))],
    [false, "a reset while connecting", connection("connect", withCode({ code: "ECONNRESET" }))],
    [false, "cannot_connect_now", withCode({ code: "57P03" })],
    [false, "database_dropped", withCode({ code: "57P04" })],
    [false, "query_canceled", withCode({ code: "57014" })],
    [false, "serialization_failure", withCode({ code: "40001" })],
    [false, "statement_completion_unknown", withCode({ code: "40003" })],
    [false, "SQLite's", node(10)],
    [false, "text that only looks like it", new Error("ECONNRESET")],
    [false, "nothing", undefined]
  ]
  it.each(lost)("%s: %s", (expected, _name, error) => {
    assert.strictEqual(isSessionLost(error), expected)
    assert.strictEqual(isSessionLost(wrapped(error)), expected)
    assert.strictEqual(
      isSessionLost(new Migrator.MigrationError({ kind: "Failed", message: "x", cause: error })),
      expected
    )
  })
})

describe("retrying while the database is locked", () => {
  const counted = (error: unknown) => {
    let tries = 0
    return { tries: () => tries, effect: Effect.suspend(() => (tries++, Effect.fail(error))) }
  }
  const retry = retryLocked(Duration.seconds(5))

  it.effect("goes on until the time is over, in steps of at most 60 ms", () =>
    Effect.gen(function* () {
      const { effect, tries } = counted(wrapped(node(5)))
      const fiber = yield* Effect.forkChild(Effect.exit(retry(effect)), { startImmediately: true })
      for (let elapsed = 0; elapsed < 4900; elapsed += 100) {
        const before = tries()
        yield* TestClock.adjust("100 millis")
        assert.isAbove(tries(), before)
      }
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("300 millis")
      assert.isDefined(fiber.pollUnsafe())
    })
  )

  it.effect("does not try anything else again", () =>
    Effect.gen(function* () {
      for (const error of [wrapped(node(13)), wrapped(node(2067)), new Error("x")]) {
        const { effect, tries } = counted(error)
        yield* Effect.exit(retry(effect))
        assert.strictEqual(tries(), 1)
      }
    })
  )
})
