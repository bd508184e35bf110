/** Records in SQL: one statement reads, one writes, and the version in its WHERE clause is the compare-and-set. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import type { SandboxError } from "../../errors.ts"
import * as errors from "../../errors.ts"
import { Store } from "../../errors.ts"
import type { ProcessFilter, RecordBackend, Row, SandboxFilter } from "../../services/SandboxStore.ts"
import type { Dialect } from "./sqlDialect.ts"
import { toSandboxError } from "./sqlErrors.ts"
import { tables } from "./sqlMigrations.ts"
import * as Rows from "./storedRows.ts"

/** What every part of a SQL store works with. */
export interface Database {
  readonly sql: SqlClient
  /** As the columns hold it. */
  readonly namespace: string
  /** Tries again while somebody else holds the database. */
  readonly retry: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
  readonly dialect: Dialect
}

type Columns = { readonly [column: string]: string | number | null }

interface Entity<Filter> {
  readonly name: "Sandbox" | "Process"
  readonly table: string
  /** The field behind `created_at`. */
  readonly created: string
  /** The columns that follow from the row, besides those that both entities have. */
  readonly columns: (row: Row, dialect: Dialect) => Columns
  /** Columns of a new row that do not follow from it. */
  readonly initial: Columns
  /** What else goes when a row is removed. */
  readonly removed: (database: Database, id: string) => Effect.Effect<unknown, SqlError>
  readonly conditions: (sql: SqlClient, filter: Filter, dialect: Dialect) => Array<Fragment>
  readonly statuses: (filter: Filter) => ReadonlyArray<string> | undefined
  /** True if the conditions leave so few rows that they are better sorted than met on a walk in the order of the list. */
  readonly isSelective: (filter: Filter) => boolean
}

// What this module wrote; the store above decodes it through the schema.
const isRow = (value: unknown): value is Row => Predicate.isObject(value) && !Array.isArray(value)

/** The row out of the text in `data`; `Store(Malformed)` for text that is none. */
export const parseRow = (operation: string, text: unknown): Effect.Effect<Row, SandboxError> =>
  Effect.try({
    try: (): unknown => JSON.parse(String(text)),
    catch: (cause) =>
      errors.fail(operation, new Store({ kind: "Malformed", detail: "a stored record is no JSON", cause }))
  }).pipe(
    Effect.filterOrFail(isRow, () =>
      errors.fail(operation, new Store({ kind: "Malformed", detail: "a stored record is no object" }))
    )
  )

/** The columns of a process's row that follow from it. */
export const processColumns = (row: Row, dialect: Dialect): Columns => ({
  ...shared(row, "startedAt"),
  sandbox_id: indexedField(row, "sandboxId", dialect),
  status: indexedField(row, "status", dialect),
  kind: indexedField(row, "kind", dialect),
  lease_epoch: Rows.leaseEpoch(row)
})

const indexedField = (row: Row, field: string, dialect: Dialect): string | null => {
  const text = Rows.textField(row, field)
  return text === null ? null : dialect.indexed(text)
}

const sandboxColumns = (row: Row, dialect: Dialect): Columns => ({
  ...shared(row, "createdAt"),
  provider: indexedField(row, "provider", dialect),
  external_id: indexedField(row, "externalSandboxId", dialect),
  status: indexedField(row, "status", dialect),
  purpose: indexedField(row, "purpose", dialect)
})

const shared = (row: Row, created: string): Columns => ({
  created_at: Rows.numberField(row, created),
  version: row.version,
  data: JSON.stringify(row)
})

/** Only what differs: a database rewrites the entry of every index whose column it is told to set. */
export const changedColumns = (before: Columns, after: Columns): { [column: string]: string | number | null } =>
  Object.fromEntries(Object.entries(after).filter(([column, value]) => before[column] !== value))

const make = <Filter>(database: Database, entity: Entity<Filter>): RecordBackend<Filter> => {
  const { dialect, namespace, retry, sql } = database
  const table = sql(entity.table)
  const operationOf = (method: string) => `SandboxStore.${method}${entity.name}`
  const whereOf = (id: string) => (entity.name === "Process" ? { processId: id } : { sandboxId: id })
  const run = <A>(method: string, id: string | undefined, effect: Effect.Effect<A, SqlError | SandboxError>) =>
    Effect.mapError(retry(effect), toSandboxError(operationOf(method), id === undefined ? {} : whereOf(id)))

  const insert = (row: Row) =>
    run(
      "insert",
      row.id,
      dialect.write((note) =>
        Effect.map(
          sql<object>`INSERT INTO ${table} ${sql.insert({
            namespace,
            id: dialect.text(row.id),
            ...entity.columns(row, dialect),
            ...entity.initial
          })} RETURNING id${note.column}`,
          note.take
        )
      )
    ).pipe(Effect.asVoid)

  const read = (id: string) =>
    sql<{ data: unknown }>`SELECT data FROM ${table} WHERE namespace = ${namespace} AND id = ${dialect.text(id)}`

  const get = (id: string) =>
    run("get", id, read(id)).pipe(
      Effect.flatMap(([found]) =>
        found === undefined ? Effect.succeedNone : Effect.asSome(parseRow(operationOf("get"), found.data))
      )
    )

  const update: RecordBackend<Filter>["update"] = (id, expectedVersion, patch) =>
    run(
      "update",
      id,
      Effect.gen(function* () {
        const conflict = errors.fail(operationOf("update"), new Store({ kind: "Conflict" }), whereOf(id))
        const [found] = yield* read(id)
        if (found === undefined) return Option.none<Row>()
        const before = yield* parseRow(operationOf("update"), found.data)
        if (before.version !== expectedVersion) return yield* conflict
        const after = Rows.applyPatch(before, patch)
        const changed = changedColumns(entity.columns(before, dialect), entity.columns(after, dialect))
        // The version decides once more, now in the same step as the write.
        const written = yield* dialect.write((note) =>
          Effect.map(
            sql<object>`UPDATE ${table} SET ${sql.update(changed)}
              WHERE namespace = ${namespace} AND id = ${dialect.text(id)} AND version = ${expectedVersion}
              RETURNING id${note.column}`,
            note.take
          )
        )
        if (written.length === 0) return yield* conflict
        return Option.some(after)
      })
    )

  const remove: RecordBackend<Filter>["remove"] = (id, expectedVersion) =>
    run(
      "delete",
      id,
      dialect.transaction((note) =>
        Effect.gen(function* () {
          const gone = note.take(
            yield* sql<object>`DELETE FROM ${table}
              WHERE namespace = ${namespace} AND id = ${dialect.text(id)} AND version = ${expectedVersion}
              RETURNING id${note.column}`
          )
          if (gone.length > 0) return yield* Effect.as(entity.removed(database, id), true)
          const [found] = yield* read(id)
          if (found === undefined) return false
          return yield* errors.fail(operationOf("delete"), new Store({ kind: "Conflict" }), whereOf(id))
        })
      )
    )

  const page: RecordBackend<Filter>["page"] = ({ after, filter, limit }) =>
    Effect.suspend(() => {
      // The plus means nothing but that no index on this column fits.
      const created = sql.literal(entity.isSelective(filter) ? "+created_at" : "created_at")
      const conditions = [sql`namespace = ${namespace}`, ...entity.conditions(sql, filter, dialect)]
      if (Option.isSome(after)) {
        const { id } = after.value
        conditions.push(sql`(${created}, id) < (${Rows.numberField(after.value, entity.created)}, ${dialect.text(id)})`)
      }
      const order = (created: Fragment) => sql`ORDER BY ${created} DESC, id DESC LIMIT ${limit}`
      const one = (more: ReadonlyArray<Fragment>) =>
        sql<{ data: unknown }>`SELECT created_at, id, data FROM ${table} WHERE ${sql.and([
          ...conditions,
          ...more
        ])} ${order(created)}`
      const statuses = entity.statuses(filter)
      if (statuses !== undefined && statuses.length === 0) return Effect.succeed([])
      // `status IN (…)` would sort all of them: each status is walked along its own index, and the heads are merged.
      const rows =
        statuses === undefined || statuses.length === 1
          ? one((statuses ?? []).map((status) => sql`status = ${dialect.indexed(status)}`))
          : sql<{ data: unknown }>`${sql.join(
              " UNION ALL ",
              false
            )(
              [...new Set(statuses)].map(
                (status, index) =>
                  sql`SELECT * FROM (${one([sql`status = ${dialect.indexed(status)}`])}) AS ${sql(`s${index}`)}`
              )
            )} ${order(sql.literal("created_at"))}`
      return run("list", undefined, rows).pipe(
        Effect.flatMap(Effect.forEach((row) => parseRow(operationOf("list"), row.data)))
      )
    })

  return { insert, get, update, remove, page }
}

/** The sandboxes of a namespace. */
export const sandboxes = (database: Database): RecordBackend<SandboxFilter> =>
  make(database, {
    name: "Sandbox",
    table: tables.sandboxes,
    created: "createdAt",
    columns: sandboxColumns,
    initial: {},
    removed: () => Effect.void,
    statuses: (filter) => filter.status,
    isSelective: (filter) => filter.externalSandboxId !== undefined,
    conditions: (sql, filter, dialect) => [
      ...(filter.provider === undefined ? [] : [sql`provider = ${dialect.indexed(filter.provider)}`]),
      ...(filter.purpose === undefined ? [] : [sql`purpose = ${dialect.indexed(filter.purpose)}`]),
      ...(filter.externalSandboxId === undefined
        ? []
        : [sql`external_id = ${dialect.indexed(filter.externalSandboxId)}`]),
      ...(filter.createdBefore === undefined ? [] : [sql`created_at < ${filter.createdBefore}`]),
      ...(filter.createdAfter === undefined ? [] : [sql`created_at > ${filter.createdAfter}`])
    ]
  })

/** The processes of a namespace; their logs are counted in the same rows. */
export const processes = (database: Database): RecordBackend<ProcessFilter> =>
  make(database, {
    name: "Process",
    table: tables.processes,
    created: "startedAt",
    columns: processColumns,
    initial: { last_seq: 0, stdout_bytes: 0, stderr_bytes: 0 },
    removed: ({ namespace, sql }, id) =>
      sql`DELETE FROM ${sql(tables.events)} WHERE namespace = ${namespace} AND process_id = ${id}`,
    statuses: (filter) => filter.status,
    isSelective: () => false,
    conditions: (sql, filter, dialect) => [
      ...(filter.sandboxId === undefined ? [] : [sql`sandbox_id = ${dialect.indexed(filter.sandboxId)}`]),
      ...(filter.kind === undefined ? [] : [sql`kind = ${dialect.indexed(filter.kind)}`])
    ]
  })
