/**
 * The tables of the SQL stores. What is filtered, ordered or unique has a column; the whole record is in `data` as JSON text,
 * the output of processes in `bytes` as it is. Every key starts with the namespace, so that two of them share nothing.
 */
import * as Effect from "effect/Effect"
import * as Migrator from "effect/sql/Migrator"
import * as SqlClient from "effect/sql/SqlClient"

export const tables = {
  meta: "sandbox_meta",
  sandboxes: "sandbox_sandboxes",
  processes: "sandbox_processes",
  events: "sandbox_process_events"
} as const

/**
 * Every index ends in the order of the lists, so that a page is a walk along it, whatever the number of records. `DOUBLE
 * PRECISION` and `BIGINT` mean the same to SQLite and Postgres; the types of bytes and of text that is compared do not.
 */
const first = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const bytes = sql.literal(sql.onDialectOrElse({ pg: () => "BYTEA", orElse: () => "BLOB" }))
  // The order of lists, and which texts are the same, are SQLite's: by code, whatever the language of the database.
  const text = sql.literal(sql.onDialectOrElse({ pg: () => 'TEXT COLLATE "C"', orElse: () => "TEXT" }))
  const index = (table: string, columns: ReadonlyArray<string>) =>
    sql`CREATE INDEX ${sql(`${table}_by_${columns.join("_")}`)} ON ${sql(table)} (${sql.csv([
      "namespace",
      ...columns,
      "created_at",
      "id"
    ])})`

  yield* sql`CREATE TABLE ${sql(tables.meta)} (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)`
  yield* sql`CREATE TABLE ${sql(tables.sandboxes)} (
    namespace ${text} NOT NULL,
    id ${text} NOT NULL,
    provider ${text},
    external_id ${text},
    status ${text},
    purpose ${text},
    created_at DOUBLE PRECISION NOT NULL,
    version BIGINT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (namespace, id)
  )`
  // A machine belongs to one record at most; rows without a machine are all different.
  yield* sql`CREATE UNIQUE INDEX ${sql(`${tables.sandboxes}_machine`)} ON ${sql(tables.sandboxes)}
    (namespace, external_id, provider)`
  yield* index(tables.sandboxes, [])
  yield* index(tables.sandboxes, ["status"])
  yield* index(tables.sandboxes, ["provider"])
  yield* index(tables.sandboxes, ["provider", "status"])
  yield* index(tables.sandboxes, ["purpose"])

  yield* sql`CREATE TABLE ${sql(tables.processes)} (
    namespace ${text} NOT NULL,
    id ${text} NOT NULL,
    sandbox_id ${text},
    status ${text},
    kind ${text},
    created_at DOUBLE PRECISION NOT NULL,
    version BIGINT NOT NULL,
    lease_epoch BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    stdout_bytes BIGINT NOT NULL,
    stderr_bytes BIGINT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (namespace, id)
  )`
  yield* index(tables.processes, [])
  yield* index(tables.processes, ["status"])
  yield* index(tables.processes, ["kind"])
  yield* index(tables.processes, ["sandbox_id"])
  yield* index(tables.processes, ["sandbox_id", "status"])

  yield* sql`CREATE TABLE ${sql(tables.events)} (
    namespace ${text} NOT NULL,
    process_id ${text} NOT NULL,
    seq BIGINT NOT NULL,
    type ${text} NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    size BIGINT NOT NULL,
    byte_offset BIGINT,
    event_key ${text},
    data TEXT,
    bytes ${bytes},
    PRIMARY KEY (namespace, process_id, seq)
  )`
  yield* sql`CREATE UNIQUE INDEX ${sql(`${tables.events}_key`)} ON ${sql(tables.events)}
    (namespace, process_id, event_key) WHERE event_key IS NOT NULL`
})

/** Brings the tables up to date. Several processes may do so at once; one of them does it. */
export const run = Migrator.make({})({
  loader: Migrator.fromRecord({ "1_records_and_logs": first }),
  table: "sandbox_migrations"
})
