/**
 * Records and logs in a SQL database: SQLite in a file, or any `SqlClient` whose dialect is SQLite's or Postgres's. Tables are made
 * and brought up to date when the layer is built; several processes may use one database, and start on it, at once.
 *
 * **Gotchas**: SQLite needs a file system with working locks, so not a network share. A power cut may cost the last
 * transactions of a SQLite database, a crash of the process costs nothing.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { SandboxError, Store } from "../../errors.ts"
import * as Log from "../../services/ProcessLog.ts"
import * as SandboxSettings from "../../services/SandboxSettings.ts"
import * as Records from "../../services/SandboxStore.ts"
import * as NodeSqlite from "../internal/nodeSqlite.ts"
import { toSandboxError } from "../internal/sqlErrors.ts"
import * as SqlStore from "../internal/sqlStore.ts"

export interface Options {
  /** Keeps this store's machines apart from another's; default an id that the database keeps. */
  readonly namespace?: string | undefined
  /** How long an operation waits for a database that somebody else holds before it fails `Store(Locked)`; default 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
}

export interface SqliteOptions extends Options {
  /** The database file; its directory is made when it is missing. */
  readonly file: string
}

/** The primitives of a store and a log over the same tables. */
export interface Primitives {
  readonly store: Records.Primitives
  readonly log: Log.Primitives
}

/** Brings the tables up to date and yields the primitives over them. */
export const primitives = (options: Options = {}): Effect.Effect<Primitives, SandboxError, SqlClient.SqlClient> =>
  SqlStore.polled(options)

/** The store and the log of a database. */
export const make = (
  options: Options = {}
): Effect.Effect<Context.Context<Records.SandboxStore | Log.ProcessLog>, SandboxError, SqlClient.SqlClient> =>
  Effect.map(primitives(options), ({ log, store }) =>
    Context.make(Records.SandboxStore, Records.make(store)).pipe(Context.add(Log.ProcessLog, Log.make(log)))
  )

/** Provides the store and the log of a database; fails `Store` with the kind of what is wrong with it. */
export const layer = (
  options: Options = {}
): Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError, SqlClient.SqlClient> =>
  Layer.effectContext(make(options))

/** Which of this host's files cannot be used. */
const ofFile = (error: SandboxError, file: string): SandboxError =>
  error.reason._tag === "Store"
    ? new SandboxError({
        ...error,
        reason: new Store({ ...error.reason, detail: `${file}: ${error.reason.detail ?? error.reason.kind}` })
      })
    : error

/** The same in an SQLite file, with nothing else to install; one connection a layer. */
export const layerSqlite = (options: SqliteOptions): Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const sql = yield* Effect.mapError(NodeSqlite.make(options), toSandboxError("SandboxStore.open"))
      return yield* Effect.provideService(make(options), SqlClient.SqlClient, sql)
    }).pipe(Effect.mapError((error) => ofFile(error, options.file)))
  ).pipe(Layer.provide(Reactivity.layer))

/**
 * The `SqlClient` of an SQLite file, for {@link layer} and whatever else is to be in that file: the engine of `effect/cluster`, which
 * keeps workflows, say.
 */
export const layerSqliteClient = (
  options: Pick<SqliteOptions, "file" | "busyTimeout">
): Layer.Layer<SqlClient.SqlClient, SqlError> => NodeSqlite.layer(options)

/** The SQLite file of `SANDBOX_SQLITE_FILE` (default `.effect-sandbox/sandboxes.sqlite`) with `SANDBOX_NAMESPACE`. */
export const layerConfig: Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError> = Layer.unwrap(
  Effect.gen(function* () {
    const file = yield* SandboxSettings.get(SandboxSettings.sqliteFile)
    const namespace = yield* SandboxSettings.get(SandboxSettings.namespace)
    return layerSqlite({
      file: Option.getOrElse(file, () => ".effect-sandbox/sandboxes.sqlite"),
      namespace: Option.getOrUndefined(namespace)
    })
  })
)
