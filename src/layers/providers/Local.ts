/**
 * The provider `local`: sandboxes are private directories of this machine, their commands real processes of it.
 *
 * Without isolation (`isolation: "none"`) this is **no security boundary**: commands run as this user, see this host's files
 * and processes, and reach its network. What it gives is a private directory, a clean environment and processes that are
 * ended for sure.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Path from "node:path"
import { SandboxError, UnsupportedCapability } from "../../errors.ts"
import * as ProviderRegistry from "../../services/ProviderRegistry.ts"
import type { RecoverySchedules } from "../../services/RecoveryPolicy.ts"
import type { SandboxProvider } from "../../services/SandboxProvider.ts"
import * as Provider from "../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../services/SandboxSettings.ts"
import * as Client from "./local/client.ts"
import * as Disk from "./local/disk.ts"
import { failWith, ioSync } from "./local/failures.ts"
import * as Machines from "./local/machines.ts"
import { substrate } from "./local/none.ts"
import { identity } from "./local/os.ts"
import * as Pipes from "./local/pipes.ts"
import { openRoot } from "./local/state.ts"

/** Options of {@link make}. */
export interface Options {
  /** The data directory; made when missing. Relative to the working directory of this process. */
  readonly root: string
  /**
   * `none` is no security boundary. `bubblewrap` refuses with `UnsupportedCapability` where it cannot. `auto` takes what is
   * there. There is no default: running untrusted code on a host must be somebody's decision.
   */
  readonly isolation: "none" | "bubblewrap" | "auto"
  /** The registered name; the default is `local`. */
  readonly name?: string | undefined
  /** Schedules that override the layer's `RecoveryPolicy` for this provider. */
  readonly recovery?: Partial<RecoverySchedules> | undefined
  /**
   * How many bytes each output stream of a recorded process may be ahead of its reader; beyond it the command waits. 4 GiB.
   */
  readonly spoolQuota?: number | undefined
  /** Between TERM and KILL; 2 seconds. */
  readonly killGrace?: Duration.Input | undefined
  /** Lets `Redacted` arguments through, although every process of this host can read them. The default is false. */
  readonly allowSecretArguments?: boolean | undefined
  /** How long the connection to the supervisor, and the supervisor itself, stay without work; 5 seconds. */
  readonly supervisorIdle?: Duration.Input | undefined
}

/** {@link Options} with the root from `SANDBOX_LOCAL_ROOT` when it is not given. */
export type ConfigOptions = Omit<Options, "root"> & { readonly root?: string | undefined }

/**
 * A provider over one data directory. Several services, also of other processes, may use one at the same time. On Windows, and
 * for an isolation that this host does not have, it is `UnsupportedCapability`.
 */
export const make = (options: Options): Effect.Effect<SandboxProvider, SandboxError, Scope.Scope> =>
  Effect.gen(function*() {
    const unsupported = (capability: string, detail: string) =>
      failWith("make", new UnsupportedCapability({ capability, detail }))
    if (process.platform === "win32") return yield* unsupported("local", "it needs Linux or macOS")
    if (options.isolation === "bubblewrap") {
      return yield* unsupported("isolation: bubblewrap", "only `none` is there yet")
    }
    const root = yield* openRoot(Path.resolve(options.root))
    yield* Disk.sweep(root)
    const { pid, startTime } = identity()
    const pipes = yield* Effect.acquireRelease(
      ioSync("make", () => Pipes.make(root.pipes, `${pid}.${startTime}.${crypto.randomUUID()}`)),
      (stock) => Effect.sync(() => stock.close())
    )
    const client = yield* Client.make(root, {
      idleMillis: Duration.toMillis(Duration.fromInputUnsafe(options.supervisorIdle ?? Duration.seconds(5)))
    })
    return Provider.make(
      Machines.primitives({
        root,
        pipes,
        client,
        substrate,
        name: options.name,
        recovery: options.recovery,
        killGrace: Duration.toMillis(Duration.fromInputUnsafe(options.killGrace ?? Duration.seconds(2))),
        spoolQuota: options.spoolQuota ?? 4 * 1024 ** 3,
        allowSecretArguments: options.allowSecretArguments ?? false
      })
    )
  })

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
