/**
 * The provider `vercel`: Vercel Sandbox, by its own SDK, which is an optional peer (`@vercel/sandbox`) and loads at first use.
 *
 * A sandbox is a named record at the vendor, a machine one session of it. Only recovery and an explicit reconnect boot a session;
 * whatever else meets one that has ended says so. Commands run through a small shell script in the guest, so that their bytes are
 * exact, their input is live, and one whose connection broke is gone on with and never run again. That needs `sh`, coreutils
 * and `setsid` in the image.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as Path from "effect/Path"
import type { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import type * as Scope from "effect/Scope"
import type { SandboxError } from "../../errors.ts"
import * as ProviderRegistry from "../../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../../services/SandboxProvider.ts"
import type { Setting } from "../../services/SandboxSettings.ts"
import * as Credentials from "./vercel/credentials.ts"
import * as Vercel from "./vercel/provider.ts"
import * as own from "./vercel/settings.ts"
import * as Standalone from "./vercel/standalone.ts"

/** Options of {@link make}. */
export type Options = Vercel.Options

/** {@link Options} without the credentials, which the settings supply. */
export type ConfigOptions = Omit<Options, "token" | "teamId" | "projectId">

/** {@link ConfigOptions}, and where {@link layerLinked} looks for credentials. */
export type LinkedOptions = ConfigOptions & Credentials.LinkedOptions

/** The SDK's own objects, for what this library does not wrap. */
export const VercelClient = Vercel.VercelClient
export type VercelClient = Vercel.VercelClient

/** The settings of this provider, as the README lists them. */
export const settings: ReadonlyArray<Setting<unknown>> = own.all

/** A provider of one project. Reads the `SANDBOX_VERCEL_*` that say what new sandboxes are like. */
export const make = (options: Options): Effect.Effect<SandboxProvider, SandboxError, Scope.Scope> =>
  Effect.map(Vercel.make(options), ({ provider }) => provider)

const register = <R>(
  made: Effect.Effect<Vercel.Made, SandboxError, R>
): Layer.Layer<ProviderRegistry.ProviderRegistry | VercelClient, SandboxError, Exclude<R, Scope.Scope>> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { client, provider } = yield* made
      const registry = yield* Layer.build(ProviderRegistry.layer([Effect.succeed(provider)]))
      return Context.add(registry, VercelClient, client)
    })
  )

/** Registers the provider as the only one. */
export const layer = (options: Options): Layer.Layer<ProviderRegistry.ProviderRegistry | VercelClient, SandboxError> =>
  register(Vercel.make(options))

/** Like {@link layer}, with the credentials of `SANDBOX_VERCEL_TOKEN`, `_TEAM_ID` and `_PROJECT_ID`. Looks nowhere else. */
export const layerConfig = (
  options: ConfigOptions = {}
): Layer.Layer<ProviderRegistry.ProviderRegistry | VercelClient, SandboxError> =>
  register(Effect.flatMap(Credentials.required, (credentials) => Vercel.make({ ...options, ...credentials })))

/**
 * Like {@link layerConfig}, and looks further: `VERCEL_TOKEN` with `VERCEL_TEAM_ID` and `VERCEL_PROJECT_ID`, `VERCEL_OIDC_TOKEN`, the
 * project that the directory is linked to, and `vercel env pull` where that CLI is installed. For a developer's machine.
 *
 * An OIDC token lasts some hours: before it expires all of that is looked through again.
 */
export const layerLinked = (
  options: LinkedOptions = {}
): Layer.Layer<
  ProviderRegistry.ProviderRegistry | VercelClient,
  SandboxError,
  FileSystem.FileSystem | Path.Path | ChildProcessSpawner
> =>
  register(
    Effect.flatMap(Credentials.linkedSource(options), ({ credentials, token }) =>
      Vercel.make({ ...options, ...credentials }, token)
    )
  )

/** Options of {@link createVercelSandbox}. */
export type CreateVercelSandboxOptions = Standalone.CreateOptions

/** What {@link runCommandInSandbox} yields. */
export type CommandInSandboxResult = Standalone.Result

/**
 * A sandbox of Vercel's without any record, deleted with the Scope: the SDK's own object. The defaults are `node22` and 2 vCPUs.
 * Prefer `SandboxService`, which finds its sandboxes again after a crash.
 */
export const createVercelSandbox = Standalone.create

/**
 * Runs a program in a sandbox that the SDK gave, to its end: exact bytes, the failures of this library, and interrupting it kills
 * the program. Output is kept whole in memory.
 */
export const runCommandInSandbox = Standalone.run
