/** Logs in SQL. The row of the process counts its log, so that an append checks and a reader asks for the end in one read. */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SandboxError } from "../../errors.ts"
import * as errors from "../../errors.ts"
import { NotFound, Store } from "../../errors.ts"
import type { ProcessId } from "../../model/Ids.ts"
import type { ProcessEvent } from "../../model/ProcessEvent.ts"
import { ProcessEventType } from "../../model/ProcessEvent.ts"
import type { LogPage, Primitives } from "../../services/ProcessLog.ts"
import type { ProcessPatch } from "../../services/SandboxStore.ts"
import { encodeProcessPatch } from "../../services/SandboxStore.ts"
import type { Dialect, Note } from "./sqlDialect.ts"
import { storeKind, toSandboxError } from "./sqlErrors.ts"
import { tables } from "./sqlMigrations.ts"
import type { News } from "./sqlNews.ts"
import type { Database } from "./sqlRecords.ts"
import { changedColumns, parseRow, processColumns } from "./sqlRecords.ts"
import * as Events from "./storedEvents.ts"
import { applyPatch } from "./storedRows.ts"

/** Numbers come as text from a database whose integers are larger than ours. */
type Num = number | string | bigint

interface EventRow {
  readonly seq: Num
  readonly type: string
  readonly at: Num
  readonly byte_offset: Num | null
  readonly event_key: string | null
  readonly data: string | null
  readonly bytes: Uint8Array | null
}

interface CountersRow {
  readonly last_seq: Num
  readonly stdout_bytes: Num
  readonly stderr_bytes: Num
}

const countersOf = (row: CountersRow): Events.Counters => ({
  seq: Number(row.last_seq),
  stdout: Number(row.stdout_bytes),
  stderr: Number(row.stderr_bytes)
})

const isEventType = Schema.is(ProcessEventType)

const storedOf = (row: EventRow, dialect: Dialect): Option.Option<Events.StoredEvent> =>
  isEventType(row.type)
    ? Option.some({
        seq: Number(row.seq),
        type: row.type,
        at: Number(row.at),
        offset: row.byte_offset === null ? null : Number(row.byte_offset),
        key: row.event_key === null ? null : dialect.fromText(row.event_key),
        data: row.data,
        bytes: row.bytes
      })
    : Option.none()

/**
 * How many events one INSERT carries: few different statements, so that they stay prepared, and far below any database's
 * limit of parameters.
 */
const insertSizes = [64, 16, 4, 1] as const

export const make = (database: Database, news: News): Primitives => {
  const { dialect, namespace, retry, sql } = database
  const processes = sql(tables.processes)
  const events = sql(tables.events)
  const forUpdate = sql.onDialectOrElse({ pg: () => sql`FOR UPDATE`, orElse: () => sql`` })
  const eventColumns = sql`seq, type, at, byte_offset, event_key, data, bytes`

  const notFound = (operation: string, processId: ProcessId) =>
    errors.fail(`ProcessLog.${operation}`, new NotFound({ kind: "process", id: processId }), { processId })

  const run = <A>(operation: string, processId: ProcessId, effect: Effect.Effect<A, unknown>) =>
    Effect.mapError(retry(effect), toSandboxError(`ProcessLog.${operation}`, { processId }))

  const decode = (operation: string, owner: Events.Owner, row: EventRow): Effect.Effect<ProcessEvent, SandboxError> => {
    const stored = storedOf(row, dialect)
    return Option.isSome(stored)
      ? Events.fromStored(`ProcessLog.${operation}`, owner, stored.value)
      : Effect.fail(
          errors.fail(
            `ProcessLog.${operation}`,
            new Store({ kind: "Malformed", detail: `event ${row.seq} has an unknown type` }),
            { processId: owner.processId }
          )
        )
  }

  /** Fails unless each of these events is in the log as it is. */
  const checkKnown = Effect.fnUntraced(function* (processId: ProcessId, known: ReadonlyArray<Events.StoredEvent>) {
    for (const event of known) {
      const [row] = yield* sql<EventRow>`SELECT ${eventColumns} FROM ${events}
        WHERE namespace = ${namespace} AND process_id = ${processId} AND seq = ${event.seq}`
      const stored = row === undefined ? Option.none() : storedOf(row, dialect)
      if (Option.isNone(stored) || !Events.sameContent(stored.value, event)) {
        return yield* Events.logConflict(processId, `event ${event.seq} is there with other content`)
      }
    }
  })

  const insertEvents = Effect.fnUntraced(function* (processId: ProcessId, fresh: ReadonlyArray<Events.StoredEvent>) {
    const rows = fresh.map((event) => ({
      namespace,
      process_id: processId,
      seq: event.seq,
      type: event.type,
      at: event.at,
      size: Events.sizeOf(event),
      byte_offset: event.offset,
      event_key: event.key === null ? null : dialect.text(event.key),
      data: event.data,
      bytes: event.bytes
    }))
    let rest = rows
    while (Arr.isArrayNonEmpty(rest)) {
      const size = insertSizes.find((candidate) => candidate <= rest.length) ?? 1
      const [batch, after] = Arr.splitAtNonEmpty(rest, size)
      yield* sql`INSERT INTO ${events} ${sql.insert(batch)}`
      rest = after
    }
  })

  const appendOnce = Effect.fnUntraced(function* (
    note: Note,
    processId: ProcessId,
    epoch: number,
    added: ReadonlyArray<ProcessEvent>,
    patch: ProcessPatch | undefined
  ) {
    const data = patch === undefined ? sql`` : sql`, data`
    const [row] = yield* sql<
      CountersRow & { readonly sandbox_id: unknown; readonly lease_epoch: Num; readonly data?: unknown }
    >`SELECT sandbox_id, lease_epoch, last_seq, stdout_bytes, stderr_bytes${data} FROM ${processes}
      WHERE namespace = ${namespace} AND id = ${processId} ${forUpdate}`
    if (row === undefined) return yield* notFound("append", processId)
    if (Number(row.lease_epoch) !== epoch) {
      return yield* errors.fail("ProcessLog.append", new Store({ kind: "LeaseLost" }), { processId })
    }
    const owner = yield* Effect.fromResult(Events.ownerOf("ProcessLog.append", processId, row.sandbox_id))
    const counters = countersOf(row)
    const split = Events.split(owner, counters.seq, added)
    if (Result.isFailure(split)) return yield* Events.logConflict(processId, split.failure)
    yield* checkKnown(processId, split.success.known)
    yield* insertEvents(processId, split.success.fresh).pipe(
      Effect.catchIf(
        (error) => storeKind(error) === "AlreadyExists",
        () => Effect.fail(Events.logConflict(processId, "the key of an event is taken"))
      )
    )
    const next = Events.advance(counters, split.success.fresh)
    const changes: { [column: string]: string | number | null } =
      split.success.fresh.length === 0
        ? {}
        : { last_seq: next.seq, stdout_bytes: next.stdout, stderr_bytes: next.stderr }
    if (patch !== undefined) {
      const before = yield* parseRow("ProcessLog.append", row.data)
      const after = applyPatch(before, encodeProcessPatch(patch, before.version + 1))
      Object.assign(changes, changedColumns(processColumns(before, dialect), processColumns(after, dialect)))
    }
    if (Object.keys(changes).length === 0) return
    note.take(
      yield* sql<object>`UPDATE ${processes} SET ${sql.update(changes)} WHERE namespace = ${namespace} AND id = ${processId}
        ${note.announced(processId)}`
    )
    yield* sql.afterCommit(news.notify(processId))
  })

  const page = Effect.fnUntraced(function* (processId: ProcessId, after: number) {
    // One statement: the status and what there is to read are of the same moment. Sizes come first, because a row is only as
    // bounded as what somebody appended.
    const rows = yield* sql<{
      readonly status: string | null
      readonly sandbox_id: unknown
      readonly seq: Num | null
      readonly size: Num | null
    }>`SELECT p.status, p.sandbox_id, e.seq, e.size FROM ${processes} AS p
      LEFT JOIN ${events} AS e ON e.namespace = p.namespace AND e.process_id = p.id AND e.seq > ${after}
      WHERE p.namespace = ${namespace} AND p.id = ${processId}
      ORDER BY e.seq LIMIT ${Events.pageEvents}`
    const [first] = rows
    if (first === undefined) return yield* notFound("read", processId)
    const terminal = Events.isTerminal(first.status)
    if (first.seq === null) return { events: [], terminal } satisfies LogPage
    const last = rows[Events.pageLength(rows.map((row) => Number(row.size))) - 1] ?? first
    const owner = yield* Effect.fromResult(Events.ownerOf("ProcessLog.read", processId, first.sandbox_id))
    const found = yield* sql<EventRow>`SELECT ${eventColumns} FROM ${events}
      WHERE namespace = ${namespace} AND process_id = ${processId} AND seq > ${after} AND seq <= ${last.seq}
      ORDER BY seq`
    return { events: yield* Effect.forEach(found, (row) => decode("read", owner, row)), terminal } satisfies LogPage
  })

  return {
    kind: dialect.kind,
    append: (processId, epoch, added, patch) =>
      run(
        "append",
        processId,
        dialect.transaction((note) => appendOnce(note, processId, epoch, added, patch))
      ),
    page: (processId, after) => run("read", processId, page(processId, after)),
    lastPosition: (processId) =>
      run(
        "lastPosition",
        processId,
        sql<CountersRow>`SELECT last_seq, stdout_bytes, stderr_bytes FROM ${processes}
          WHERE namespace = ${namespace} AND id = ${processId}`
      ).pipe(
        Effect.flatMap(([row]) =>
          row === undefined ? Effect.fail(notFound("lastPosition", processId)) : Effect.succeed(countersOf(row))
        )
      ),
    findKey: (processId, key) =>
      run(
        "findKey",
        processId,
        Effect.gen(function* () {
          const [process] = yield* sql<{ readonly sandbox_id: unknown }>`SELECT sandbox_id FROM ${processes}
            WHERE namespace = ${namespace} AND id = ${processId}`
          if (process === undefined) return yield* notFound("findKey", processId)
          const [row] = yield* sql<EventRow>`SELECT ${eventColumns} FROM ${events}
            WHERE namespace = ${namespace} AND process_id = ${processId} AND event_key = ${dialect.text(key)}`
          if (row === undefined) return Option.none()
          const owner = yield* Effect.fromResult(Events.ownerOf("ProcessLog.findKey", processId, process.sandbox_id))
          return Option.some(yield* decode("findKey", owner, row))
        })
      ),
    changed: news.changed,
    poll: news.poll
  }
}
