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
import { toSandboxError } from "./sqlErrors.ts"
import { tables } from "./sqlMigrations.ts"
import * as Rows from "./storedRows.ts"

/** What every part of a SQL store works with. */
export interface Database {
  readonly sql: SqlClient
  readonly namespace: string
  /** Tries again while somebody else holds the database. */
  readonly retry: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
}

type Columns = { readonly [column: string]: string | number | null }

interface Entity<Filter> {
  readonly name: "Sandbox" | "Process"
  readonly table: string
  /** The field behind `created_at`. */
  readonly created: string
  /** The columns that follow from the row, besides those that both entities have. */
  readonly columns: (row: Row) => Columns
  /** Columns of a new row that do not follow from it. */
  readonly initial: Columns
  /** What else goes when a row is removed. */
  readonly removed: (sql: SqlClient, namespace: string, id: string) => Effect.Effect<unknown, SqlError>
  readonly conditions: (sql: SqlClient, filter: Filter) => Array<Fragment>
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
export const processColumns = (row: Row): Columns => ({
  ...shared(row, "startedAt"),
  sandbox_id: Rows.textField(row, "sandboxId"),
  status: Rows.textField(row, "status"),
  kind: Rows.textField(row, "kind"),
  lease_epoch: Rows.leaseEpoch(row)
})

const sandboxColumns = (row: Row): Columns => ({
  ...shared(row, "createdAt"),
  provider: Rows.textField(row, "provider"),
  external_id: Rows.textField(row, "externalSandboxId"),
  status: Rows.textField(row, "status"),
  purpose: Rows.textField(row, "purpose")
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
  const { namespace, retry, sql } = database
  const table = sql(entity.table)
  const operationOf = (method: string) => `SandboxStore.${method}${entity.name}`
  const whereOf = (id: string) => (entity.name === "Process" ? { processId: id } : { sandboxId: id })
  const run = <A>(method: string, id: string | undefined, effect: Effect.Effect<A, SqlError | SandboxError>) =>
    Effect.mapError(retry(effect), toSandboxError(operationOf(method), id === undefined ? {} : whereOf(id)))

  const insert = (row: Row) =>
    run(
      "insert",
      row.id,
      Effect.suspend(
        () =>
          sql`INSERT INTO ${table} ${sql.insert({ namespace, id: row.id, ...entity.columns(row), ...entity.initial })}`
      )
    ).pipe(Effect.asVoid)

  const read = (id: string) =>
    sql<{ data: unknown }>`SELECT data FROM ${table} WHERE namespace = ${namespace} AND id = ${id}`

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
        const changed = changedColumns(entity.columns(before), entity.columns(after))
        // The version decides once more, now in the same step as the write.
        const written = yield* sql`UPDATE ${table} SET ${sql.update(changed)}
          WHERE namespace = ${namespace} AND id = ${id} AND version = ${expectedVersion} RETURNING id`
        if (written.length === 0) return yield* conflict
        return Option.some(after)
      })
    )

  const remove: RecordBackend<Filter>["remove"] = (id, expectedVersion) =>
    run(
      "delete",
      id,
      sql.withTransaction(
        Effect.gen(function* () {
          const gone = yield* sql`DELETE FROM ${table}
            WHERE namespace = ${namespace} AND id = ${id} AND version = ${expectedVersion} RETURNING id`
          if (gone.length > 0) return yield* Effect.as(entity.removed(sql, namespace, id), true)
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
      const conditions = [sql`namespace = ${namespace}`, ...entity.conditions(sql, filter)]
      if (Option.isSome(after)) {
        const { id } = after.value
        conditions.push(sql`(${created}, id) < (${Rows.numberField(after.value, entity.created)}, ${id})`)
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
          ? one((statuses ?? []).map((status) => sql`status = ${status}`))
          : sql<{ data: unknown }>`${sql.join(
              " UNION ALL ",
              false
            )(
              [...new Set(statuses)].map(
                (status, index) => sql`SELECT * FROM (${one([sql`status = ${status}`])}) AS ${sql(`s${index}`)}`
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
    conditions: (sql, filter) => [
      ...(filter.provider === undefined ? [] : [sql`provider = ${filter.provider}`]),
      ...(filter.purpose === undefined ? [] : [sql`purpose = ${filter.purpose}`]),
      ...(filter.externalSandboxId === undefined ? [] : [sql`external_id = ${filter.externalSandboxId}`]),
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
    removed: (sql, namespace, id) =>
      sql`DELETE FROM ${sql(tables.events)} WHERE namespace = ${namespace} AND process_id = ${id}`,
    statuses: (filter) => filter.status,
    isSelective: () => false,
    conditions: (sql, filter) => [
      ...(filter.sandboxId === undefined ? [] : [sql`sandbox_id = ${filter.sandboxId}`]),
      ...(filter.kind === undefined ? [] : [sql`kind = ${filter.kind}`])
    ]
  })
