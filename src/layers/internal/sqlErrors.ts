/**
 * The one place that knows what a database's error means. Total: every failure of a SQL client, of SQLite, of Postgres and of
 * the file system underneath becomes one of the kinds of `Store`. Only codes decide; the text of a message never does.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import { isSandboxError, SandboxError, Store } from "../../errors.ts"
import type { StoreFailure } from "../../errors.ts"

export type StoreKind = typeof StoreFailure.Type

/** SQLite's primary result codes: the low byte of an extended one. */
const sqlitePrimary: { readonly [code: number]: StoreKind } = {
  3: "ReadOnly", // PERM
  5: "Locked", // BUSY
  6: "Locked", // LOCKED
  8: "ReadOnly", // READONLY
  10: "Unavailable", // IOERR
  11: "Corrupt", // CORRUPT
  13: "Full", // FULL
  14: "Unavailable", // CANTOPEN
  15: "Locked", // PROTOCOL: lost a race for the locks of the WAL
  26: "Corrupt" // NOTADB
}

/** Extended codes that say more than their primary one. */
const sqliteExtended: { readonly [code: number]: StoreKind } = {
  1555: "AlreadyExists", // CONSTRAINT_PRIMARYKEY
  2067: "AlreadyExists", // CONSTRAINT_UNIQUE
  2579: "AlreadyExists", // CONSTRAINT_ROWID
  4874: "Full" // IOERR_SHMSIZE: no room for the shared memory file of the WAL
}

/** The names that drivers other than `node:sqlite` give the same codes. */
const sqliteNames: { readonly [name: string]: number } = {
  SQLITE_PERM: 3,
  SQLITE_BUSY: 5,
  SQLITE_LOCKED: 6,
  SQLITE_READONLY: 8,
  SQLITE_IOERR: 10,
  SQLITE_CORRUPT: 11,
  SQLITE_FULL: 13,
  SQLITE_CANTOPEN: 14,
  SQLITE_PROTOCOL: 15,
  SQLITE_NOTADB: 26,
  SQLITE_CONSTRAINT_PRIMARYKEY: 1555,
  SQLITE_CONSTRAINT_UNIQUE: 2067,
  SQLITE_CONSTRAINT_ROWID: 2579,
  SQLITE_IOERR_SHMSIZE: 4874
}

/** SQLSTATEs of Postgres, whole or by class (the first two characters). */
const sqlStates: { readonly [state: string]: StoreKind } = {
  "08": "Unavailable", // connection exception
  "08007": "OutcomeUnknown", // transaction_resolution_unknown
  "28": "Misconfigured", // invalid authorization: the user, the password, or who may connect from where
  "3D000": "Misconfigured", // invalid_catalog_name: no such database
  "3F000": "Misconfigured", // invalid_schema_name: nothing on the search path to make tables in
  "57014": "Unavailable", // query_canceled: the statement timeout
  "57P": "Unavailable", // operator intervention: shutdown, crash, cannot connect now
  "57P04": "Misconfigured", // database_dropped
  "58": "Unavailable", // system error: the server's own files
  "25P03": "Unavailable", // idle_in_transaction_session_timeout
  "25P04": "Unavailable", // transaction_timeout
  "23505": "AlreadyExists", // unique_violation
  "25006": "ReadOnly", // read_only_sql_transaction
  "40001": "Locked", // serialization_failure
  "40003": "OutcomeUnknown", // statement_completion_unknown
  "40P01": "Locked", // deadlock_detected
  "42501": "ReadOnly", // insufficient_privilege
  "53100": "Full", // disk_full
  "53": "Unavailable", // insufficient resources: out of memory, too many connections
  "55P03": "Locked", // lock_not_available
  XX001: "Corrupt", // data_corrupted
  XX002: "Corrupt" // index_corrupted
}

/** Error codes of the operating system, from opening the file or reaching the server. */
const systemCodes: { readonly [code: string]: StoreKind } = {
  ENOSPC: "Full",
  EDQUOT: "Full",
  EROFS: "ReadOnly",
  EACCES: "ReadOnly",
  EPERM: "ReadOnly",
  EBUSY: "Locked",
  ENOENT: "Unavailable",
  ENOTDIR: "Unavailable",
  EISDIR: "Unavailable",
  EEXIST: "Unavailable",
  EIO: "Unavailable",
  EMFILE: "Unavailable",
  ENFILE: "Unavailable",
  ECONNREFUSED: "Unavailable",
  ECONNRESET: "Unavailable",
  EPIPE: "Unavailable",
  ENOTFOUND: "Unavailable",
  EAI_AGAIN: "Unavailable",
  ETIMEDOUT: "Unavailable",
  EHOSTUNREACH: "Unavailable",
  ENETUNREACH: "Unavailable"
}

/** Reasons of Effect's `SqlError`, for a driver whose cause has no code. */
const sqlReasons: { readonly [tag: string]: StoreKind } = {
  UniqueViolation: "AlreadyExists",
  LockTimeoutError: "Locked",
  DeadlockError: "Locked",
  SerializationError: "Locked",
  ConnectionError: "Unavailable",
  StatementTimeoutError: "Unavailable",
  AuthenticationError: "Misconfigured",
  AuthorizationError: "ReadOnly"
}

/** What a code means to whoever has to put it right, where its number alone would not tell. */
const explanations: { readonly [state: string]: string } = {
  "28": "the server refuses the user, the password or the host",
  "3D000": "there is no such database",
  "3F000": "there is no such schema",
  "53300": "the server has no connection left",
  "57P03": "the server is starting or stopping",
  "57P04": "the database was dropped",
  AuthenticationError: "the server's way to authenticate is not met"
}

/** Codes of a session that the server has ended, whatever it was doing: its open transaction is rolled back. */
const endsSession = /^(08|57P0[125]$|25P0[34]$)/

interface Verdict {
  readonly kind: StoreKind
  /** The code, fit to be shown: never the database's own words, which may quote a value. */
  readonly detail: string
}

const lookup = <A>(table: { readonly [key: string]: A }, key: string): A | undefined =>
  Object.hasOwn(table, key) ? table[key] : undefined

/** By the whole SQLSTATE, else by its first three or two characters. */
const lookupState = <A>(table: { readonly [key: string]: A }, state: string): A | undefined =>
  lookup(table, state) ?? lookup(table, state.slice(0, 3)) ?? lookup(table, state.slice(0, 2))

const explained = (code: string, name: string): string => {
  const explanation = lookupState(explanations, code)
  return explanation === undefined ? name : `${explanation} (${name})`
}

const fromSqliteCode = (code: number): Verdict | undefined => {
  const kind = sqliteExtended[code] ?? sqlitePrimary[code & 0xff]
  const name = Object.entries(sqliteNames).find(([, known]) => known === code || known === (code & 0xff))
  return kind === undefined ? undefined : { kind, detail: `${name?.[0] ?? "SQLite result code"} (${code})` }
}

const fromName = (code: string): Verdict | undefined => {
  if (code === "ERR_UNKNOWN_BUILTIN_MODULE") {
    return { kind: "Unknown", detail: "this Node has no node:sqlite: it takes 22.19 or newer" }
  }
  if (code.startsWith("SQLITE_")) {
    // SQLITE_BUSY_SNAPSHOT is a SQLITE_BUSY, and so on: cut words off the end until the name is known.
    for (let name = code; name !== "SQLITE"; name = name.slice(0, name.lastIndexOf("_"))) {
      if (Object.hasOwn(sqliteNames, name)) {
        const verdict = fromSqliteCode(sqliteNames[name] ?? 0)
        return verdict === undefined ? undefined : { ...verdict, detail: code }
      }
    }
    return undefined
  }
  const system = lookup(systemCodes, code)
  if (system !== undefined) return { kind: system, detail: code }
  if (!/^[0-9A-Z]{5}$/.test(code)) return undefined
  const state = lookupState(sqlStates, code)
  return state === undefined ? undefined : { kind: state, detail: explained(code, `SQLSTATE ${code}`) }
}

/** `errcode` is `node:sqlite`'s, `errno` other SQLite drivers'; a negative `errno` is the operating system's and has a `code`. */
const fromCodes = (error: object): Verdict | undefined => {
  for (const property of ["errcode", "errno", "code"]) {
    const value = Predicate.hasProperty(error, property) ? error[property] : undefined
    const verdict =
      typeof value === "number" ? fromSqliteCode(value) : typeof value === "string" ? fromName(value) : undefined
    if (verdict !== undefined) return verdict
  }
  return undefined
}

/** Deep enough for a migration's error around a client's around a driver's, and an end for a cause that contains itself. */
const maxDepth = 8

/** The error inside of an error. */
const within = (error: object): unknown =>
  Predicate.hasProperty(error, "reason") && Predicate.isObject(error.reason)
    ? error.reason
    : Predicate.hasProperty(error, "cause")
      ? error.cause
      : undefined

const classify = (error: unknown): Verdict => {
  let byReason: Verdict | undefined
  let current = error
  for (let depth = 0; depth < maxDepth && Predicate.isObject(current); depth++) {
    const verdict = fromCodes(current)
    if (verdict !== undefined) return verdict
    const tag = Predicate.hasProperty(current, "_tag") && typeof current._tag === "string" ? current._tag : undefined
    const kind = tag === undefined ? undefined : lookup(sqlReasons, tag)
    if (kind !== undefined && tag !== undefined) byReason ??= { kind, detail: explained(tag, tag) }
    current = within(current)
  }
  return byReason ?? { kind: "Unknown", detail: "the database gave no code that is known here" }
}

/** What the failure of a SQL statement, a migration or an open means. */
export const storeKind = (error: unknown): StoreKind => classify(error).kind

/**
 * True if a session with a server ended while it was in use. What it had not committed is rolled back; a COMMIT that was under way
 * may have happened. A server that cannot be reached to begin with is no such case.
 */
export const isSessionLost = (error: unknown): boolean => {
  let current = error
  for (let depth = 0; depth < maxDepth && Predicate.isObject(current); depth++) {
    if (Predicate.hasProperty(current, "operation") && current.operation === "connect") return false
    if (Predicate.hasProperty(current, "code") && typeof current.code === "string") {
      return /^[0-9A-Z]{5}$/.test(current.code)
        ? endsSession.test(current.code)
        : ["ECONNRESET", "EPIPE", "ETIMEDOUT"].includes(current.code)
    }
    const inner = within(current)
    if (Predicate.isTagged(current, "ConnectionError") && !hasCode(inner)) return true
    current = inner
  }
  return false
}

const hasCode = (error: unknown): boolean => Predicate.hasProperty(error, "code") && typeof error.code === "string"

/** Where a failure happened, for the error. */
export interface Where {
  readonly sandboxId?: string
  readonly processId?: string
}

/** Makes the error of a store's operation; a `SandboxError` passes unchanged. */
export const toSandboxError =
  (operation: string, where: Where = {}) =>
  (error: unknown): SandboxError => {
    if (isSandboxError(error)) return error
    const { detail, kind } = classify(error)
    return new SandboxError({ operation, ...where, reason: new Store({ kind, detail, cause: error }) })
  }

/**
 * Tries again while somebody else holds the database or a server ends sessions, for as long as `busyTimeout`. Only for what leaves
 * nothing behind when it fails: one statement, or one whole transaction whose COMMIT is answered.
 */
export const retryLocked = (busyTimeout: Duration.Duration) => {
  const schedule = Schedule.exponential("2 millis", 1.5).pipe(
    Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.millis(50)))),
    Schedule.jittered,
    Schedule.upTo({ duration: busyTimeout })
  )
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.retry(self, {
      schedule,
      while: (error) => !isSandboxError(error) && (storeKind(error) === "Locked" || isSessionLost(error))
    })
}
