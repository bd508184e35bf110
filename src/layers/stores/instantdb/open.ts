/** Puts the store together over a client of the vendor's. */
import type * as Admin from "@instantdb/admin"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { SandboxError } from "../../../errors.ts"
import * as errors from "../../../errors.ts"
import { Store } from "../../../errors.ts"
import type * as Log from "../../../services/ProcessLog.ts"
import * as SandboxSettings from "../../../services/SandboxSettings.ts"
import type * as Records from "../../../services/SandboxStore.ts"
import { optionalPackage } from "../../internal/optionalPackage.ts"
import * as Client from "./client.ts"
import { scrubOf } from "./errors.ts"
import * as InstantLog from "./log.ts"
import * as Mirror from "./mirror.ts"
import * as InstantRecords from "./records.ts"
import { inTurn } from "./sharing.ts"
import { headersOf, transact } from "./transact.ts"

/** The app's own client: what `init` of `@instantdb/admin` returns, whatever its schema. */
export interface AppClient {
  readonly config: {
    readonly appId: string
    readonly adminToken?: string | undefined
    readonly apiURI: string
  }
  readonly impersonationOpts?: Admin.ImpersonationOpts | undefined
}

export interface Options {
  readonly db: AppClient
  readonly namespace?: string | undefined
  readonly legacyRecords?: boolean | undefined
  readonly requestTimeout?: Duration.Input | undefined
  readonly poll?: Schedule.Schedule<unknown> | undefined
  readonly mirror?: boolean | undefined
}

/** The primitives of a store and a log over one app. */
export interface Primitives {
  readonly store: Records.Primitives
  readonly log: Log.Primitives
}

const kind = "instantdb"

export type AdminPackage = Pick<typeof Admin, "init" | "lookup" | "tx">

/** The SDK, loaded when the first store is made. */
export const loadAdmin: Effect.Effect<AdminPackage, SandboxError> = Effect.flatten(
  optionalPackage(kind, "@instantdb/admin", () => import("@instantdb/admin"))
)

/** What the SDK is built on, and what is built with the vendor's `i`. */
const loadCore = Effect.flatten(
  optionalPackage(kind, "@instantdb/core", async () => {
    const [core, schema, file] = await Promise.all([
      import("@instantdb/core"),
      import("./schema.ts"),
      import("./schemaFile.ts")
    ])
    return [core, { ...schema, ...file }] as const
  })
)

/** Kept by whoever comes first: the key is unique, so everybody else fails and reads it. */
const keptNamespace = Effect.fnUntraced(function* (client: Client.Client) {
  const operation = "SandboxStore.open"
  const read = client.query(operation, {}, { sandbox_meta: { $: { where: { key: "namespace" } } } }).pipe(
    Effect.map((answer) => {
      const value = answer("sandbox_meta")[0]?.["value"]
      return Predicate.isString(value) ? Option.some(value) : Option.none()
    })
  )
  const kept = yield* read
  if (Option.isSome(kept)) return kept.value
  const value = SecureRandom.uuidV4Unsafe()
  const written = yield* Effect.result(
    client.attempt([
      { op: "create", entity: "sandbox_meta", id: SecureRandom.uuidV4Unsafe(), attrs: { key: "namespace", value } }
    ])
  )
  if (written._tag === "Success") return value
  // Whatever happened to ours, what is there counts.
  const now = yield* read
  if (Option.isSome(now)) return now.value
  return yield* client.fail(operation, {}, written.failure)
})

/** Reads the namespace, unless it is given, and yields the primitives over the app. */
export const primitives = (options: Options): Effect.Effect<Primitives, SandboxError, Scope.Scope> =>
  Effect.gen(function* () {
    const scope = yield* Scope.Scope
    const [admin, [core, own]] = yield* Effect.all([loadAdmin, loadCore])
    const { adminToken, apiURI, appId } = options.db.config
    const impersonation = options.db.impersonationOpts
    const misconfigured = (detail: string) =>
      errors.fail("SandboxStore.open", new Store({ kind: "Misconfigured", detail }))
    if (adminToken === undefined && (impersonation === undefined || "email" in impersonation)) {
      return yield* misconfigured("the client has no admin token")
    }
    if (adminToken === undefined && options.mirror === true) {
      return yield* misconfigured("the mirror needs a client with an admin token")
    }
    // A client of our own over the app's configuration: one whose schema lacks ours would refuse every transaction, and one without a
    // schema would invent attributes of whatever is misspelt or not pushed.
    const typed = admin.init({
      appId,
      apiURI,
      schema: own.schema,
      ...(adminToken === undefined ? {} : { adminToken })
    })
    const setting = yield* SandboxSettings.get(SandboxSettings.requestTimeout)
    const requestTimeout =
      options.requestTimeout === undefined
        ? Option.getOrElse(setting, () => Duration.seconds(30))
        : Duration.fromInputUnsafe(options.requestTimeout)
    // Not `HttpClient`: the SDK's queries fail as `fetch` does, and are told apart by that.
    const fetch = yield* FetchHttpClient.Fetch
    const db = impersonation === undefined ? typed : typed.asUser(impersonation)
    const userToken = impersonation !== undefined && "token" in impersonation ? impersonation.token : undefined
    const scrub = scrubOf(adminToken, userToken)
    const client = yield* Client.make({
      sdk: { ...admin, ...own },
      db: { query: db.query, transact: transact(core, fetch, db, own.schema) },
      scrub,
      requestTimeout
    })
    const namespace = options.namespace ?? (yield* keptNamespace(client))
    const database = {
      client,
      namespace,
      legacyRecords: options.legacyRecords ?? options.namespace === undefined,
      scope,
      // A write has three requests' time (see `client.ts`), and so have those before it.
      inTurn: inTurn(Duration.times(requestTimeout, 6))
    }
    const processes = InstantRecords.processes(database)
    const poll = options.poll ?? InstantLog.defaultPoll
    const logOf = (listener: InstantLog.Listener | undefined) =>
      InstantLog.make({ database, processes, kind, poll, listener })
    // The mirror reads the log as everybody does.
    const { page } = logOf(undefined)
    const mirror =
      options.mirror === true && adminToken !== undefined
        ? yield* Mirror.make({
            transport: {
              apiURI,
              appId,
              headers: headersOf(db),
              scrub,
              requestTimeout
            },
            secret: adminToken,
            database,
            processes,
            page
          })
        : undefined
    return {
      store: {
        kind,
        namespace: Effect.succeed(namespace),
        sandboxes: InstantRecords.sandboxes(database),
        processes
      },
      log: logOf(mirror)
    }
  })
