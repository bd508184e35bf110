/**
 * A service over an emulator and a database that may be in another process. Its imports are of single modules, and of what it needs
 * alone: each process that a test starts would load all of Effect and every SDK otherwise.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type { ProviderRegistry } from "../../src/services/ProviderRegistry.ts"
import * as LeaseOwner from "../../src/services/LeaseOwner.ts"
import type { ProcessLog } from "../../src/services/ProcessLog.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import type { SandboxStore } from "../../src/services/SandboxStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { settings } from "./embedded.ts"

/** The vendor and how it is reached; JSON. */
export type Vendor =
  | { readonly kind: "local"; readonly root: string }
  | {
      readonly kind: "vercel"
      readonly origin: string
      readonly credentials: { readonly token: string; readonly teamId: string; readonly projectId: string }
    }
  | { readonly kind: "daytona"; readonly apiUrl: string; readonly apiKey: string }
  | { readonly kind: "sprites"; readonly origin: string; readonly token: string }

/** The store and how it is reached; JSON. */
export type Database =
  | { readonly kind: "sqlite"; readonly file: string }
  | { readonly kind: "postgres"; readonly url: string }
  | {
      readonly kind: "instantdb"
      readonly config: { readonly apiURI: string; readonly appId: string; readonly adminToken: string }
    }

export interface Deployment {
  readonly vendor: Vendor
  readonly database: Database
}

const killGrace = "500 millis"

const registry = (vendor: Vendor): Effect.Effect<Layer.Layer<ProviderRegistry, unknown>> =>
  Effect.promise(async () => {
    switch (vendor.kind) {
      case "local": {
        const Local = await import("../../src/layers/providers/Local.ts")
        return Local.layer({ root: vendor.root, isolation: "none", killGrace, supervisorIdle: "200 millis" })
      }
      case "vercel": {
        const Vercel = await import("../../src/layers/providers/Vercel.ts")
        const { token, ...ids } = vendor.credentials
        return Vercel.layer({
          ...ids,
          token: Redacted.make(token),
          fetch: (input, init) => {
            const { pathname, search } = new URL(input instanceof Request ? input.url : input)
            const url = `${vendor.origin}${pathname}${search}`
            return fetch(input instanceof Request ? new Request(url, input) : url, init)
          },
          killGrace,
          guestDirectory: "../tmp/.effect-sandbox"
        })
      }
      case "daytona": {
        const Daytona = await import("../../src/layers/providers/Daytona.ts")
        return Daytona.layer({
          apiKey: Redacted.make(vendor.apiKey),
          apiUrl: vendor.apiUrl,
          killGrace,
          guestDirectory: "../tmp/.effect-sandbox",
          bootDirectory: "../shm"
        })
      }
      case "sprites": {
        const Sprites = await import("../../src/layers/providers/Sprites.ts")
        const FetchHttpClient = await import("effect/http/FetchHttpClient")
        const { optionsFor } = await import("./sprites.ts")
        return Sprites.layer(optionsFor(vendor)).pipe(Layer.provide(FetchHttpClient.layer))
      }
    }
  })

const records = (database: Database): Effect.Effect<Layer.Layer<SandboxStore | ProcessLog, unknown>> =>
  Effect.promise(async () => {
    switch (database.kind) {
      case "sqlite":
        return (await import("../../src/layers/stores/Sql.ts")).layerSqlite({ file: database.file })
      case "postgres":
        return (await import("../../src/layers/stores/Postgres.ts")).layer({ url: Redacted.make(database.url) })
      case "instantdb":
        return (await import("../../src/layers/stores/InstantDb.ts")).layer({ db: { config: database.config } })
    }
  })

/** Under this name a service holds leases that is killed; the others know that. */
export const mortal = "the first"

/** Two builds of it are two services. Faults, if any, are those that are around when it is built. */
export const over = (
  { database, vendor }: Deployment,
  owner: string = crypto.randomUUID()
): Layer.Layer<SandboxService | SandboxStore | ProcessLog, unknown, Faults.Faults> =>
  Layer.unwrap(
    Effect.map(Effect.all([registry(vendor), records(database)]), ([providers, stores]) =>
      SandboxService.layer.pipe(
        Layer.provide(Faults.layerRegistry(providers)),
        Layer.provideMerge(Faults.layerStore(stores)),
        Layer.provide(
          Layer.succeed(LeaseOwner.LeaseOwner, {
            name: Effect.succeed(owner),
            isDead: (other) => Effect.succeed(other === mortal && owner !== mortal)
          })
        ),
        Layer.provide(settings({ SANDBOX_REQUEST_TIMEOUT: "5 seconds" })),
        Layer.fresh
      )
    )
  )
