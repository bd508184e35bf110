/**
 * The provider `local`: sandboxes are private directories of this machine, their commands real processes of it.
 *
 * Without isolation (`isolation: "none"`) this is **no security boundary**: commands run as this user, see this host's files
 * and processes, and reach its network. What it gives is a private directory, a clean environment and processes that are
 * ended for sure.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../errors.ts"
import * as ProviderRegistry from "../../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../services/SandboxSettings.ts"
import * as Local from "./local/provider.ts"

/** Options of {@link make}. */
export type Options = Local.Options

/** {@link Options} with the root from `SANDBOX_LOCAL_ROOT` when it is not given. */
export type ConfigOptions = Omit<Options, "root"> & { readonly root?: string | undefined }

/**
 * A provider over one data directory. Several services, also of other processes, may use one at the same time. On Windows, and
 * for an isolation that this host does not have, it is `UnsupportedCapability`.
 */
export const make = (options: Options): Effect.Effect<SandboxProvider, SandboxError, Scope.Scope> => Local.make(options)

/** Registers the provider as the only one. */
export const layer = (options: Options): Layer.Layer<ProviderRegistry.ProviderRegistry, SandboxError> =>
  ProviderRegistry.layer([make(options)])

/** Like {@link layer}, with the root from `SANDBOX_LOCAL_ROOT` (default `.effect-sandbox/local`). */
export const layerConfig = (options: ConfigOptions): Layer.Layer<ProviderRegistry.ProviderRegistry, SandboxError> =>
  Layer.unwrap(
    Effect.map(
      options.root === undefined ? SandboxSettings.get(SandboxSettings.localRoot) : Effect.succeedSome(options.root),
      (root) => layer({ ...options, root: Option.getOrElse(root, () => ".effect-sandbox/local") })
    )
  )
