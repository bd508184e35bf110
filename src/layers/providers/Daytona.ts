/**
 * The provider `daytona`: Daytona, by its own SDK, which is an optional peer (`@daytonaio/sdk`) and loads at first use. The vendor's
 * cloud or a deployment of one's own: the URL has no default.
 *
 * A machine is one boot of a sandbox. Only recovery and an explicit reconnect boot one; whatever else meets one that has stopped says
 * so. Commands run through a small shell script in the guest, so that their bytes are exact, their input is live, and one whose
 * connection broke is gone on with and never run again. That needs `sh`, coreutils and `setsid` in the image.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../errors.ts"
import * as ProviderRegistry from "../../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../../services/SandboxProvider.ts"
import type { Setting } from "../../services/SandboxSettings.ts"
import { SandboxVolumes } from "../../services/SandboxVolumes.ts"
import * as Daytona from "./daytona/provider.ts"
import * as own from "./daytona/settings.ts"

/** Options of {@link make}. */
export type Options = Daytona.Options

/** {@link Options} without where and who, which the settings supply. */
export type ConfigOptions = Daytona.CommonOptions

/** The SDK's own objects, and what the vendor can do that no other provider does. */
export const DaytonaClient = Daytona.DaytonaClient
export type DaytonaClient = Daytona.DaytonaClient

/** The settings of this provider, as the README lists them. */
export const settings: ReadonlyArray<Setting<unknown>> = own.all

/** A provider of one account. Reads the `SANDBOX_DAYTONA_*` that say what new sandboxes are like. */
export const make = (options: Options): Effect.Effect<SandboxProvider, SandboxError, Scope.Scope> =>
  Effect.map(Daytona.make(options), ({ provider }) => provider)

/** What the layers provide. */
type Provided = ProviderRegistry.ProviderRegistry | DaytonaClient | SandboxVolumes

const register = (made: Effect.Effect<Daytona.Made, SandboxError, Scope.Scope>): Layer.Layer<Provided, SandboxError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { client, provider, volumes } = yield* made
      const registry = yield* Layer.build(ProviderRegistry.layer([Effect.succeed(provider)]))
      return registry.pipe(Context.add(DaytonaClient, client), Context.add(SandboxVolumes, volumes))
    })
  )

/** Registers the provider as the only one. */
export const layer = (options: Options): Layer.Layer<Provided, SandboxError> => register(Daytona.make(options))

/**
 * Like {@link layer}, with `DAYTONA_API_URL` (or `DAYTONA_SERVER_URL`), and `DAYTONA_API_KEY`, or `DAYTONA_JWT_TOKEN` with
 * `DAYTONA_ORGANIZATION_ID`; and `DAYTONA_TARGET`. Looks nowhere else.
 */
export const layerConfig = (options: ConfigOptions = {}): Layer.Layer<Provided, SandboxError> =>
  register(Effect.flatMap(own.access, (access) => Daytona.make({ ...options, ...access })))
