/** The providers by their registered names, and the rule by which one is selected. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { InvalidArgument, ProviderNotSelected, SandboxError } from "../errors.ts"
import type { SandboxProvider } from "./SandboxProvider.ts"

/** Options of {@link layer}. */
export interface Options {
  /** The name that is selected when neither the config nor `SANDBOX_PROVIDER` says one. */
  readonly default?: string | undefined
}

/** The providers that sandboxes can be made with. */
export class ProviderRegistry extends Context.Service<
  ProviderRegistry,
  {
    /** The registered names, in the order of registration. */
    readonly names: ReadonlyArray<string>
    /** `ProviderNotSelected` with the registered names for an unknown one. */
    readonly get: (name: string) => Effect.Effect<SandboxProvider, SandboxError>
    /**
     * The requested one, else the declared default, else the only one there is; otherwise `ProviderNotSelected`. Nothing is
     * ever guessed: a forgotten variable must not run untrusted code on a production host.
     */
    readonly select: (requested: string | undefined) => Effect.Effect<SandboxProvider, SandboxError>
  }
>()("effect-sandbox/services/ProviderRegistry") {}

/** A registry of providers that exist already. Two of one name, or a default that is not there, are `InvalidArgument`. */
export const make = (
  providers: ReadonlyArray<SandboxProvider>,
  options: Options = {}
): Effect.Effect<ProviderRegistry["Service"], SandboxError> =>
  Effect.gen(function* () {
    const byName = new Map(providers.map((provider) => [provider.name, provider]))
    const names = [...byName.keys()]
    const invalid = (problem: string) =>
      new SandboxError({
        operation: "ProviderRegistry.make",
        reason: new InvalidArgument({ argument: "providers", problem })
      })
    if (byName.size < providers.length) return yield* invalid("two providers have the same name")
    const fallback = options.default ?? (names.length === 1 ? names[0] : undefined)
    if (fallback !== undefined && !byName.has(fallback))
      return yield* invalid(`the default ${fallback} is not registered`)

    const notSelected = (requested?: string) =>
      Effect.fail(
        new SandboxError({
          operation: "ProviderRegistry.select",
          reason: new ProviderNotSelected({
            registered: names,
            ...(requested === undefined ? {} : { requested })
          })
        })
      )
    const get = (name: string) => {
      const provider = byName.get(name)
      return provider === undefined ? notSelected(name) : Effect.succeed(provider)
    }
    return ProviderRegistry.of({
      names,
      get,
      select: (requested) => {
        const name = requested ?? fallback
        return name === undefined ? notSelected() : get(name)
      }
    })
  })

/**
 * Registers what the providers' `make`s yield: `ProviderRegistry.layer([Vercel.make(…), Local.make(…)])`. A `make` calls
 * nobody and loads no SDK; both happen at the first use.
 */
export const layer = <E = never, R = never>(
  providers: ReadonlyArray<Effect.Effect<SandboxProvider, E, R>>,
  options?: Options
): Layer.Layer<ProviderRegistry, E | SandboxError, Exclude<R, Scope.Scope>> =>
  Layer.effect(
    ProviderRegistry,
    Effect.flatMap(Effect.all(providers), (all) => make(all, options))
  )
