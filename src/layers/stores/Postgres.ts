/**
 * Records and logs in a Postgres database (13 or newer), by Effect's own client, which is an optional peer (`@effect/sql-pg`) and loads
 * at first use. Tables are made and brought up to date when the layer is built, on the search path of the user; any number of
 * backends may use one database, and start on it, at once. Who follows a log is told of appends (`LISTEN`, `NOTIFY`) by one session
 * a layer, and reads by itself every 5 seconds, should the news get lost.
 *
 * **Gotchas**: it speaks to the server itself: a pooler that lends a session for one transaction only (PgBouncer's default) refuses the
 * session's settings or loses the news. Through such a pooler take `Sql.layer` over a `PgClient` of yours, whose followers poll.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as SqlClient from "effect/sql/SqlClient"
import type { SandboxError } from "../../errors.ts"
import * as errors from "../../errors.ts"
import { Store } from "../../errors.ts"
import * as Log from "../../services/ProcessLog.ts"
import type { Setting } from "../../services/SandboxSettings.ts"
import * as SandboxSettings from "../../services/SandboxSettings.ts"
import * as Records from "../../services/SandboxStore.ts"
import { optionalPackage } from "../internal/optionalPackage.ts"
import * as SqlDialect from "../internal/sqlDialect.ts"
import { toSandboxError } from "../internal/sqlErrors.ts"
import * as SqlStore from "../internal/sqlStore.ts"

export interface ConfigOptions {
  /** Keeps this store's machines and records apart from another's; default an id that the database keeps. */
  readonly namespace?: string | undefined
  /**
   * How long an operation waits for what another session holds before it fails `Store(Locked)`, and a session of a service that
   * stands still may hold it; default 5 seconds.
   */
  readonly busyTimeout?: Duration.Input | undefined
  /** Connections besides the one that hears of appends; default 10. */
  readonly maxConnections?: number | undefined
  /** How long a connection may take to be made; default 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
}

export interface Options extends ConfigOptions {
  /** `postgres://user:password@host:5432/database?sslmode=require`, as `libpq` reads it. */
  readonly url: Redacted.Redacted
}

/** The primitives of a store and a log over one database. */
export interface Primitives {
  readonly store: Records.Primitives
  readonly log: Log.Primitives
}

const decodes = (text: string): boolean => {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

const partsOf = (url: URL): ReadonlyArray<string> => [url.hostname, url.username, url.password, url.pathname]

/** False for what the client would refuse with words that repeat the URL. */
const isUrl = (text: string): boolean =>
  /^postgres(ql)?:\/\//i.test(text) && URL.canParse(text) && partsOf(new URL(text)).every(decodes)

/** `SANDBOX_POSTGRES_URL`. */
const urlSetting: Setting<Redacted.Redacted> = {
  ...SandboxSettings.secret({
    name: "SANDBOX_POSTGRES_URL",
    fallback: "none",
    description: "The database of `Postgres.layerConfig`: `postgres://user:password@host:5432/database`"
  }),
  expected: "postgres://user:password@host:5432/database",
  parse: (text) => (isUrl(text) ? Option.some(Redacted.make(text, { label: "SANDBOX_POSTGRES_URL" })) : Option.none())
}

/** The settings of this store, as the README lists them. */
export const settings: ReadonlyArray<Setting<unknown>> = [urlSetting]

/** Milliseconds as a setting of Postgres's, where 0 would mean for ever. */
const millisOf = (duration: Duration.Duration): string =>
  String(Math.min(Math.max(Math.round(Duration.toMillis(duration)), 1), 0x7fffffff))

/** Brings the tables up to date and yields the primitives over them; the scope closes the connections. */
export const primitives: (options: Options) => Effect.Effect<Primitives, SandboxError, Scope.Scope> = Effect.fnUntraced(
  function* (options: Options) {
    if (!isUrl(Redacted.value(options.url))) {
      return yield* errors.fail(
        "SandboxStore.open",
        new Store({ kind: "Misconfigured", detail: `the URL is not ${urlSetting.expected}` })
      )
    }
    const load = yield* optionalPackage("postgres", "@effect/sql-pg", () =>
      Promise.all([import("@effect/sql-pg/PgClient"), import("@effect/sql-pg/PgConnection")])
    )
    const [PgClient, PgConnection] = yield* load
    const busyTimeout = Duration.fromInputUnsafe(options.busyTimeout ?? SqlStore.defaultBusyTimeout)
    const config = {
      url: options.url,
      connectTimeout: options.connectTimeout,
      keepAlive: "10 seconds",
      startupParameters: {
        application_name: "effect-sandbox",
        lock_timeout: millisOf(busyTimeout),
        // A service that stands still in the middle of an append holds its successor up no longer; its append is rolled back.
        idle_in_transaction_session_timeout: millisOf(busyTimeout)
      }
    } as const
    const sql = yield* PgClient.make({ ...config, maxConnections: options.maxConnections }).pipe(
      Effect.provide(Reactivity.layer),
      Effect.mapError(toSandboxError("SandboxStore.open"))
    )
    const listen = Effect.flatMap(PgConnection.make(config), (session) => session.listen(SqlDialect.channel))
    return yield* Effect.provideService(SqlStore.told({ ...options, busyTimeout }, listen), SqlClient.SqlClient, sql)
  }
)

/** The store and the log of a database. */
export const make = (
  options: Options
): Effect.Effect<Context.Context<Records.SandboxStore | Log.ProcessLog>, SandboxError, Scope.Scope> =>
  Effect.map(primitives(options), ({ log, store }) =>
    Context.make(Records.SandboxStore, Records.make(store)).pipe(Context.add(Log.ProcessLog, Log.make(log)))
  )

/**
 * Provides the store and the log of a database; fails `MissingPackage` without `@effect/sql-pg`, and `Store` with what is wrong:
 * `Misconfigured` (address, user, password, database), `Unavailable`, `ReadOnly`.
 */
export const layer = (options: Options): Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError> =>
  Layer.effectContext(make(options))

/** Like {@link layer}, for the database of `SANDBOX_POSTGRES_URL` with `SANDBOX_NAMESPACE`. */
export const layerConfig = (
  options: ConfigOptions = {}
): Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const url = yield* SandboxSettings.required(urlSetting)
      const namespace = yield* SandboxSettings.get(SandboxSettings.namespace)
      return yield* make({ namespace: Option.getOrUndefined(namespace), ...options, url })
    })
  )
