/**
 * Where SQLite and Postgres differ beyond what `SqlClient` evens out: what text may hold, how a write is made certain, and how
 * other processes hear of it.
 */
import { createHash } from "node:crypto"
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import type { SqlClient } from "effect/sql/SqlClient"
import { SqlError, UnknownError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import type { ProcessId } from "../../model/Ids.ts"
import { storeKind } from "./sqlErrors.ts"

export interface Dialect {
  /** For spans and errors. */
  readonly kind: string
  /** A text as a column holds it: another one for each text. */
  readonly text: (value: string) => string
  /** The text that became this one. */
  readonly fromText: (stored: string) => string
  /** Text that is only compared, in a form that an index takes whatever its length. */
  readonly indexed: (value: string) => string
  /** One statement that writes. */
  readonly write: <A, E>(body: (note: Note) => Effect.Effect<A, E>) => Effect.Effect<A, E | SqlError>
  /** Several statements that write, all or none. */
  readonly transaction: <A, E>(body: (note: Note) => Effect.Effect<A, E>) => Effect.Effect<A, E | SqlError>
}

/** What the last statement that writes says of its transaction. */
export interface Note {
  /** Behind `RETURNING` and a column. */
  readonly column: Fragment
  /** In place of `RETURNING`, for the row of a process: also tells other processes of it, once it is committed. */
  readonly announced: (processId: ProcessId) => Fragment
  /** Takes the rows of that statement, and yields them. */
  readonly take: <Rows extends ReadonlyArray<object>>(rows: Rows) => Rows
}

/** The channel on which appends are announced; the payload is the process's id. */
export const channel = "effect_sandbox_process_log"

/** A private character: no text that anybody means begins with it. */
const mark = "\uE000"

/** Postgres refuses NUL, and UTF-8 has no lone surrogates: such a text is kept as JSON behind a mark. */
export const toPostgresText = (value: string): string =>
  value.startsWith(mark) || value.includes("\0") || !value.isWellFormed() ? mark + JSON.stringify(value) : value

export const fromPostgresText = (stored: string): string =>
  // What was written above.
  stored.startsWith(mark) ? (JSON.parse(stored.slice(1)) as string) : stored

/** An entry of a Postgres index has 2,704 bytes at most. */
const maxIndexed = 500

const toPostgresIndexed = (value: string): string => {
  const text = toPostgresText(value)
  return text.length <= maxIndexed ? text : `${mark}#${createHash("sha256").update(text).digest("hex")}`
}

/** The failure of a COMMIT whose outcome nobody can tell, by the SQLSTATE for just that. */
const completionUnknown = (cause: unknown): SqlError =>
  new SqlError({
    reason: new UnknownError({
      cause: Object.assign(new Error("whether the transaction was committed is not known", { cause }), {
        code: "40003"
      }),
      operation: "commit"
    })
  })

/**
 * A transaction that says whether it happened although the answer to its COMMIT was lost: Postgres remembers how each transaction
 * ended, and it is asked by its id. Only when that cannot be known either it fails with SQLSTATE 40003.
 */
const certain =
  (sql: SqlClient, patience: Duration.Duration) =>
  <A, E>(body: (note: Note) => Effect.Effect<A, E>): Effect.Effect<A, E | SqlError> =>
    Effect.suspend(() => {
      const soon = Schedule.spaced("20 millis").pipe(Schedule.upTo({ duration: patience }))
      let xid: string | undefined
      let reached: { readonly value: A } | undefined

      const note: Note = {
        column: sql`, pg_current_xact_id()::text AS xid`,
        announced: (processId) =>
          sql`RETURNING pg_notify(${channel}, ${processId})::text AS announced, pg_current_xact_id()::text AS xid`,
        take: (rows) => {
          const [row] = rows
          if (Predicate.hasProperty(row, "xid") && typeof row.xid === "string") xid = row.xid
          return rows
        }
      }
      const whole = Effect.tap(body(note), (value) =>
        Effect.sync(() => {
          reached = { value }
        })
      )

      const settle = ({ value }: { readonly value: A }, cause: Cause.Cause<E | SqlError>) => {
        // Nothing was written.
        if (xid === undefined) return Effect.succeed(value)
        return sql<{ status: string | null }>`SELECT pg_xact_status(${xid}::text::xid8) AS status`.pipe(
          // The server may not have noticed yet that the session is gone, or is on its way back.
          Effect.repeat({ schedule: soon, while: ([row]) => row?.status === "in progress" }),
          Effect.retry({ schedule: soon, while: (error) => storeKind(error) === "Unavailable" }),
          Effect.exit,
          Effect.flatMap((exit): Effect.Effect<A, E | SqlError> => {
            const status = Exit.isSuccess(exit) ? exit.value[0]?.status : undefined
            if (status === "committed") return Effect.succeed(value)
            if (status === "aborted") return Effect.failCause(cause)
            return Effect.fail(completionUnknown(Cause.squash(cause)))
          })
        )
      }

      return Effect.catchCause(sql.withTransaction(whole), (cause) =>
        reached === undefined || Option.isNone(Cause.findErrorOption(cause))
          ? Effect.failCause(sessionGone(cause))
          : settle(reached, cause)
      )
    })

/** The ROLLBACK of a session that is gone fails as a defect; what it means is that the session is gone. */
const sessionGone = <E>(cause: Cause.Cause<E>): Cause.Cause<E | SqlError> => {
  const defect = Cause.squash(cause)
  return defect instanceof SqlError ? Cause.fail(defect) : cause
}

/** The dialect of a client; `patience` is how long a lost answer is looked for. */
export const make = (sql: SqlClient, patience: Duration.Duration): Dialect => {
  const plain = (value: string) => value
  const silent: Note = { column: sql``, announced: () => sql``, take: (rows) => rows }
  const transaction = certain(sql, patience)
  return sql.onDialectOrElse({
    pg: (): Dialect => ({
      kind: "postgres",
      text: toPostgresText,
      fromText: fromPostgresText,
      indexed: toPostgresIndexed,
      write: transaction,
      transaction
    }),
    orElse: (): Dialect => ({
      kind: sql.onDialectOrElse({ sqlite: () => "sqlite", orElse: () => "sql" }),
      text: plain,
      fromText: plain,
      indexed: plain,
      write: (body) => Effect.suspend(() => body(silent)),
      transaction: (body) => sql.withTransaction(body(silent))
    })
  })
}
