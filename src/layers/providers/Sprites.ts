/**
 * The provider `sprites`: Fly's Sprites, by their API. Requests go through the `HttpClient` that it is given, commands over
 * WebSockets of `ws`, which comes with `@effect/platform-node`.
 *
 * A sandbox is a sprite, which falls asleep when nothing happens in it and wakes for whoever asks; a recorded process holds it awake.
 * The vendor has no stop and no lease: both are ours, kept in the sprite's labels and by what runs in it. Commands run through a
 * small shell script in the sprite, so that one whose connection broke is gone on with and never run again.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../errors.ts"
import * as ProviderRegistry from "../../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../../services/SandboxProvider.ts"
import type { Setting } from "../../services/SandboxSettings.ts"
import * as SandboxSettings from "../../services/SandboxSettings.ts"
import * as Sprites from "./sprites/provider.ts"
import * as own from "./sprites/settings.ts"

/** Options of {@link make}. */
export type Options = Sprites.Options

/** {@link Options} without what the settings supply. */
export type ConfigOptions = Omit<Options, "token" | "baseUrl">

/** The API itself, for what this library does not wrap. */
export const SpritesClient = Sprites.SpritesClient
export type SpritesClient = Sprites.SpritesClient

/** The settings of this provider, as the README lists them. */
export const settings: ReadonlyArray<Setting<unknown>> = own.all

/** A provider of one organization. Reads `SANDBOX_SPRITES_DELETE_ON_STOP`. */
export const make = (options: Options): Effect.Effect<SandboxProvider, SandboxError, HttpClient.HttpClient> =>
  Effect.map(Sprites.make(options), ({ provider }) => provider)

const register = <R>(
  made: Effect.Effect<Sprites.Made, SandboxError, R>
): Layer.Layer<ProviderRegistry.ProviderRegistry | SpritesClient, SandboxError, Exclude<R, Scope.Scope>> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { client, provider } = yield* made
      const registry = yield* Layer.build(ProviderRegistry.layer([Effect.succeed(provider)]))
      return Context.add(registry, SpritesClient, client)
    })
  )

/** Registers the provider as the only one. */
export const layer = (
  options: Options
): Layer.Layer<ProviderRegistry.ProviderRegistry | SpritesClient, SandboxError, HttpClient.HttpClient> =>
  register(Sprites.make(options))

/** Like {@link layer}, with the token and the url of the settings: `SPRITES_API_TOKEN`, `SPRITES_API_BASE_URL` and their aliases. */
export const layerConfig = (
  options: ConfigOptions = {}
): Layer.Layer<ProviderRegistry.ProviderRegistry | SpritesClient, SandboxError, HttpClient.HttpClient> =>
  register(
    Effect.gen(function* () {
      const token = yield* SandboxSettings.required(own.token)
      const baseUrl = Option.getOrUndefined(yield* SandboxSettings.get(own.baseUrl))
      return yield* Sprites.make({ ...options, token, baseUrl })
    })
  )
