/** A service over the emulator of Sprites, which may be in another process, and a database. */
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Sprites from "../../src/layers/providers/Sprites.ts"
import * as Sql from "../../src/layers/stores/Sql.ts"
import * as LeaseOwner from "../../src/services/LeaseOwner.ts"
import { SandboxService } from "../../src/services/SandboxService.ts"
import { settings } from "./embedded.ts"

/** Options of the provider for an emulator. */
export const optionsFor = (emulator: { readonly origin: string; readonly token: string }): Sprites.Options => ({
  token: Redacted.make(emulator.token),
  baseUrl: emulator.origin,
  killGrace: "500 millis",
  // The emulator's machines share the host's directories; these are what each has for itself.
  guestDirectory: "../../var/.effect-sandbox",
  taskSocket: "../../.sprite/api.sock"
})

/** Two builds of it are two services. */
export const over = (emulator: { readonly origin: string; readonly token: string }, database: string) =>
  Layer.fresh(
    SandboxService.layer.pipe(
      Layer.provideMerge(Sprites.layer(optionsFor(emulator))),
      Layer.provideMerge(Sql.layerSqlite({ file: database })),
      Layer.provide(FetchHttpClient.layer),
      // Nobody is there but the one before, which was killed.
      Layer.provide(
        Layer.succeed(LeaseOwner.LeaseOwner, {
          name: Effect.sync(() => crypto.randomUUID()),
          isDead: () => Effect.succeed(true)
        })
      ),
      Layer.provide(settings())
    )
  )
