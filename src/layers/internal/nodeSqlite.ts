/**
 * A `SqlClient` over `node:sqlite`, in the shape of Effect's own SQLite drivers. It stands in for `@effect/sql-sqlite-node`, of which
 * no release loads with Effect 4.1, and is to be replaced by that package once one does.
 *
 * One connection a scope, lent to one fiber at a time. `node:sqlite` is loaded at the first `make`; Node 22 then prints an
 * `ExperimentalWarning`, which only a switch of the whole process could silence, Node 24 prints none.
 */
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Reactivity from "effect/reactivity/Reactivity"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type * as SqlConnection from "effect/sql/SqlConnection"
import { classifySqliteError, SqlError, UnknownError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"
import { retryLocked } from "./sqlErrors.ts"

export interface Options {
  /** A path, `:memory:`, or a `file:` URI. The directory of a path is made when it is missing. */
  readonly file: string
  /** How long opening waits for a database that somebody else holds; default 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
}

/**
 * How long SQLite itself waits for a lock. It blocks the whole event loop meanwhile, so it only covers what a short transaction
 * of another process takes; whoever wants to wait longer retries.
 */
const blockingTimeoutMillis = 5

const maxCachedStatements = 128

/**
 * Larger pages than SQLite's default of 4 KiB carry the output of processes faster (measured: 520 instead of 350 MiB/s in
 * chunks of 1 MiB) and cost small writes nothing. Only a new database takes it.
 */
const pageSize = 8192

/** 4 MiB of write-ahead log: a longer one makes the checkpoint that ends it stall the event loop for longer. */
const checkpointPages = (4 << 20) / pageSize

const pragmas = [
  `PRAGMA page_size = ${pageSize}`,
  "PRAGMA journal_mode = WAL",
  // In WAL mode a crash of the process loses nothing and a power cut the last transactions at most, without damage.
  "PRAGMA synchronous = NORMAL",
  `PRAGMA wal_autocheckpoint = ${checkpointPages}`,
  // What a long reader made the log grow to is given back.
  "PRAGMA journal_size_limit = 67108864",
  "PRAGMA foreign_keys = ON"
]

/** Gives the code of `node:sqlite` the name under which Effect's classifier looks for it. */
class SqliteCause extends Error {
  readonly errno: number
  constructor(cause: Error, errno: number) {
    super(cause.message, { cause })
    this.name = "SqliteError"
    this.errno = errno
  }
}

const toSqlError = (cause: unknown, operation: string): SqlError =>
  new SqlError({
    reason:
      cause instanceof Error && Predicate.hasProperty(cause, "errcode") && typeof cause.errcode === "number"
        ? classifySqliteError(new SqliteCause(cause, cause.errcode), { message: cause.message, operation })
        : new UnknownError({ cause, operation })
  })

const toInput = (value: unknown): SQLInputValue => {
  switch (typeof value) {
    case "string":
    case "number":
    case "bigint":
      return value
    case "boolean":
      return value ? 1 : 0
    case "undefined":
      return null
  }
  if (value === null || value instanceof Uint8Array) return value
  if (value instanceof Date) return value.toISOString()
  throw new TypeError("SQLite takes text, numbers, booleans, dates, bytes and null")
}

class Connection implements SqlConnection.Connection {
  readonly database: DatabaseSync
  readonly #prepared = new Map<string, StatementSync>()

  constructor(database: DatabaseSync) {
    this.database = database
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#prepared.get(sql)
    if (statement === undefined) {
      statement = this.database.prepare(sql)
      if (this.#prepared.size >= maxCachedStatements) {
        for (const oldest of this.#prepared.keys()) {
          this.#prepared.delete(oldest)
          break
        }
      }
    } else {
      this.#prepared.delete(sql)
    }
    // Taken out and put back: a Map remembers the order, so that its first key is the one unused for longest.
    this.#prepared.set(sql, statement)
    return statement
  }

  #run<A>(
    operation: string,
    prepare: () => StatementSync,
    f: (statement: StatementSync) => A
  ): Effect.Effect<A, SqlError> {
    return Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) => {
      try {
        const statement = prepare()
        statement.setReadBigInts(fiber.getRef(SqlClient.SafeIntegers))
        return Effect.succeed(f(statement))
      } catch (cause) {
        return Effect.fail(toSqlError(cause, operation))
      }
    })
  }

  execute(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: (<A extends object>(row: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined
  ) {
    return this.#run(
      "execute",
      () => this.#prepare(sql),
      (statement) => {
        const rows = statement.all(...params.map(toInput))
        return transformRows === undefined ? rows : transformRows(rows)
      }
    )
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>) {
    return this.#run(
      "executeRaw",
      () => this.#prepare(sql),
      (statement) => statement.run(...params.map(toInput))
    )
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.executeValuesUnprepared(sql, params)
  }

  executeValuesUnprepared(sql: string, params: ReadonlyArray<unknown>) {
    return this.#run(
      "executeValues",
      () => this.database.prepare(sql),
      (statement) => {
        statement.setReturnArrays(true)
        // The types do not know what `setReturnArrays` does to `all`.
        return statement.all(...params.map(toInput)) as unknown as ReadonlyArray<ReadonlyArray<unknown>>
      }
    )
  }

  executeUnprepared(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: (<A extends object>(row: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined
  ) {
    return this.#run(
      "executeUnprepared",
      () => this.database.prepare(sql),
      (statement) => {
        const rows = statement.all(...params.map(toInput))
        return transformRows === undefined ? rows : transformRows(rows)
      }
    )
  }

  /** As in Effect's own SQLite drivers: a cursor would hold the one connection for as long as its reader likes. */
  executeStream() {
    return Stream.die("executeStream is not implemented for SQLite")
  }
}

const isPath = (file: string): boolean => file !== "" && !file.startsWith(":memory:") && !file.startsWith("file:")

/** Node's own `recursive` never comes back where a directory cannot be made although its parent exists, as in `/proc`. */
const makeDirectory = async (
  mkdir: (path: string) => Promise<void>,
  parentOf: (path: string) => string,
  directory: string
): Promise<void> => {
  const make = (): Promise<void> =>
    mkdir(directory).catch((cause: unknown) => {
      if (!hasCode(cause, "EEXIST")) throw cause
    })
  try {
    await make()
  } catch (cause) {
    const parent = parentOf(directory)
    if (!hasCode(cause, "ENOENT") || parent === directory) throw cause
    await makeDirectory(mkdir, parentOf, parent)
    await make()
  }
}

const hasCode = (cause: unknown, code: string): boolean => Predicate.hasProperty(cause, "code") && cause.code === code

/** Opens the database; the scope closes it. Files and statements that fail are `SqlError`s with SQLite's code as `errno`. */
export const make = (
  options: Options
): Effect.Effect<SqlClient.SqlClient, SqlError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const load = <A>(name: string, f: () => Promise<A>) =>
      Effect.tryPromise({ try: f, catch: (cause) => toSqlError(cause, name) })
    const sqlite = yield* load("import", () => import("node:sqlite"))
    if (isPath(options.file)) {
      const [fs, path] = yield* load("import", () => Promise.all([import("node:fs/promises"), import("node:path")]))
      yield* load("mkdir", () => makeDirectory(fs.mkdir, path.dirname, path.dirname(path.resolve(options.file))))
    }
    const connection = yield* Effect.acquireRelease(
      Effect.try({
        try: () => new Connection(new sqlite.DatabaseSync(options.file, { timeout: blockingTimeoutMillis })),
        catch: (cause) => toSqlError(cause, "open")
      }),
      (connection) => Effect.sync(() => connection.database.close())
    )
    // Several processes that open a new file at once get in each other's way until one of them has made it a WAL database.
    yield* Effect.try({
      try: () => {
        for (const pragma of pragmas) connection.database.exec(pragma)
      },
      catch: (cause) => toSqlError(cause, "open")
    }).pipe(retryLocked(Duration.fromInputUnsafe(options.busyTimeout ?? "5 seconds")))
    const acquirers = SqlClient.makeSqliteAcquirers({
      connection: Effect.succeed(connection),
      semaphore: yield* Semaphore.make(1),
      isTransaction: (connection) => connection.database.isTransaction
    })
    return yield* SqlClient.make({
      ...acquirers,
      driver: "sqlite-node",
      compiler: Statement.makeCompilerSqlite(),
      // A deferred transaction that reads first and writes later cannot wait for another writer; this one waits at its start.
      beginTransaction: "BEGIN IMMEDIATE",
      prepareTransactionControls: true,
      spanAttributes: [["db.system.name", "sqlite"]]
    })
  })

/** Provides the client of one file. */
export const layer = (options: Options): Layer.Layer<SqlClient.SqlClient, SqlError> =>
  Layer.effect(SqlClient.SqlClient, make(options)).pipe(Layer.provide(Reactivity.layer))
