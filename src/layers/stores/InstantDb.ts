/**
 * Records and logs in an app of InstantDB, by its own SDK, which is an optional peer (`@instantdb/admin`) and loads at first use. Push
 * the schema before: `InstantDbSchema`, or `npx effect-sandbox-instantdb-schema`.
 *
 * **Gotchas**: the vendor's cloud ends on 2027-08-31 and takes no new accounts; after that the server is one of your own
 * (`INSTANT_API_URI`). Nothing here has been run against the vendor's server, only against an emulator of it. What is edited past this
 * library, in the vendor's dashboard say, a service that has the record at hand sees when it reads it again.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../errors.ts"
import * as Log from "../../services/ProcessLog.ts"
import type { Setting } from "../../services/SandboxSettings.ts"
import * as SandboxSettings from "../../services/SandboxSettings.ts"
import * as Records from "../../services/SandboxStore.ts"
import * as Instant from "./instantdb/open.ts"
import * as own from "./instantdb/settings.ts"

/** The client of an app: what `init` of `@instantdb/admin` returns. Of it the address and the credentials are used. */
export type AppClient = Instant.AppClient

export interface ConfigOptions {
  /** Keeps this store's machines and records apart from another's; default an id that the app keeps. */
  readonly namespace?: string | undefined
  /**
   * Whether records without a namespace, those of `@ekairos/sandbox`, are this store's; default only where no namespace is given, so
   * that one of two deployments has them.
   */
  readonly legacyRecords?: boolean | undefined
  /** The deadline of one request; default `SANDBOX_REQUEST_TIMEOUT`, else 30 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /** The delays of a follower between two reads without news; default from 100 ms to 1 second. */
  readonly poll?: Schedule.Schedule<unknown> | undefined
  /**
   * Also writes each process's events into an Instant stream, which browsers read: client id `sandbox-process:<processId>`, a line of
   * JSON an event. It is a copy: what happens to it never touches the process. Default false.
   */
  readonly mirror?: boolean | undefined
}

export interface Options extends ConfigOptions {
  readonly db: AppClient
}

/** The primitives of a store and a log over one app. */
export type Primitives = Instant.Primitives

/** The settings of this store, as the README lists them. */
export const settings: ReadonlyArray<Setting<unknown>> = own.all

/** Reads the namespace of the app, unless one is given, and yields the primitives. */
export const primitives: (options: Options) => Effect.Effect<Primitives, SandboxError, Scope.Scope> = Instant.primitives

/** The store and the log of an app. */
export const make = (
  options: Options
): Effect.Effect<Context.Context<Records.SandboxStore | Log.ProcessLog>, SandboxError, Scope.Scope> =>
  Effect.map(primitives(options), ({ log, store }) =>
    Context.make(Records.SandboxStore, Records.make(store)).pipe(Context.add(Log.ProcessLog, Log.make(log)))
  )

/** Provides the store and the log of an app; fails `Store` with what is wrong with it. */
export const layer = (options: Options): Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError> =>
  Layer.effectContext(make(options))

/**
 * Like {@link layer}, for the app of `INSTANT_APP_ID` (or `NEXT_PUBLIC_INSTANT_APP_ID`), `INSTANT_APP_ADMIN_TOKEN` and
 * `INSTANT_API_URI`, with `SANDBOX_NAMESPACE`.
 */
export const layerConfig = (
  options: ConfigOptions = {}
): Layer.Layer<Records.SandboxStore | Log.ProcessLog, SandboxError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const appId = yield* SandboxSettings.required(own.appId)
      const adminToken = yield* SandboxSettings.required(own.adminToken)
      const apiURI = yield* SandboxSettings.get(own.apiUri)
      const namespace = yield* SandboxSettings.get(SandboxSettings.namespace)
      const config = {
        appId,
        adminToken: Redacted.value(adminToken),
        apiURI: Option.getOrElse(apiURI, () => "https://api.instantdb.com").replace(/\/+$/, "")
      }
      return yield* make({ namespace: Option.getOrUndefined(namespace), ...options, db: { config } })
    })
  )
