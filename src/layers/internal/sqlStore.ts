/** The primitives of a store and a log over one SQL client. */
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as SqlClient from "effect/sql/SqlClient"
import type { SandboxError } from "../../errors.ts"
import type * as Log from "../../services/ProcessLog.ts"
import type * as Records from "../../services/SandboxStore.ts"
import * as SqlDialect from "./sqlDialect.ts"
import { retryLocked, toSandboxError } from "./sqlErrors.ts"
import * as SqlLog from "./sqlLog.ts"
import * as SqlMigrations from "./sqlMigrations.ts"
import * as SqlNews from "./sqlNews.ts"
import * as SqlRecords from "./sqlRecords.ts"

export interface Options {
  readonly namespace?: string | undefined
  readonly busyTimeout?: Duration.Input | undefined
}

export interface Primitives {
  readonly store: Records.Primitives
  readonly log: Log.Primitives
}

export const defaultBusyTimeout = Duration.seconds(5)

/** Kept by whoever comes first; everybody else reads it. */
const keptNamespace = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const meta = sql(SqlMigrations.tables.meta)
    const read = sql<{ readonly value: string }>`SELECT value FROM ${meta} WHERE name = 'namespace'`
    const [kept] = yield* read
    if (kept !== undefined) return kept.value
    const proposed = SecureRandom.uuidV4Unsafe()
    yield* sql`INSERT INTO ${meta} (name, value) VALUES ('namespace', ${proposed}) ON CONFLICT DO NOTHING`
    const [now] = yield* read
    return now?.value ?? proposed
  })

/** Brings the tables up to date and yields the primitives over them. */
export const primitives = <R>(
  options: Options,
  news: Effect.Effect<SqlNews.News, never, R>
): Effect.Effect<Primitives, SandboxError, SqlClient.SqlClient | R> =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const busyTimeout = Duration.fromInputUnsafe(options.busyTimeout ?? defaultBusyTimeout)
    const retry = retryLocked(busyTimeout)
    const dialect = SqlDialect.make(sql, busyTimeout)
    const namespace = yield* Effect.andThen(
      retry(SqlMigrations.run),
      options.namespace === undefined ? retry(keptNamespace(sql)) : Effect.succeed(dialect.text(options.namespace))
    ).pipe(Effect.mapError(toSandboxError("SandboxStore.open")))
    const database = { sql, namespace, retry, dialect }
    return {
      store: {
        kind: dialect.kind,
        namespace: Effect.succeed(dialect.fromText(namespace)),
        sandboxes: SqlRecords.sandboxes(database),
        processes: SqlRecords.processes(database)
      },
      log: SqlLog.make(database, yield* news)
    }
  })

/** The same with followers that poll. */
export const polled = (options: Options): Effect.Effect<Primitives, SandboxError, SqlClient.SqlClient> =>
  primitives(options, SqlNews.polling)

/** The same with followers that are told by a session of their own. */
export const told = (
  options: Options,
  listen: SqlNews.Listen
): Effect.Effect<Primitives, SandboxError, SqlClient.SqlClient | Scope.Scope> =>
  primitives(options, SqlNews.listening(listen))
