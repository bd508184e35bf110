/** The provider put together: its data directory, its stock of pipes, its way to the supervisor. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Crypto from "node:crypto"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import { InvalidArgument, UnsupportedCapability } from "../../../errors.ts"
import type { RecoverySchedules } from "../../../services/RecoveryPolicy.ts"
import type { SandboxProvider } from "../../../services/SandboxProvider.ts"
import * as Provider from "../../../services/SandboxProvider.ts"
import * as SandboxSettings from "../../../services/SandboxSettings.ts"
import type { OnStep } from "./checkpoints.ts"
import * as Client from "./client.ts"
import * as Disk from "./disk.ts"
import { failWith, ioSync } from "./failures.ts"
import * as LocalFileSystem from "./fileSystem.ts"
import * as Machines from "./machines.ts"
import { substrate } from "./none.ts"
import { identity } from "./os.ts"
import * as Pipes from "./pipes.ts"
import { openRoot } from "./state.ts"

/** Options of {@link make}. */
export interface Options {
  /** The data directory; made when missing. Relative to the working directory of this process. */
  readonly root: string
  /**
   * `none` is no security boundary. `bubblewrap` refuses with `UnsupportedCapability` where it cannot. `auto` takes what is
   * there, which is `none` as yet; a machine's metadata say which. There is no default: running untrusted code on a host must be somebody's decision.
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

const millis = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))

/** `onStep` is where tests kill this process; everybody else leaves it out. */
export const make = (
  options: Options,
  onStep: OnStep = () => Effect.void
): Effect.Effect<SandboxProvider, SandboxError, Scope.Scope> =>
  Effect.gen(function* () {
    const unsupported = (capability: string, detail: string) =>
      failWith("make", new UnsupportedCapability({ capability, detail }))
    if (process.platform === "win32") return yield* unsupported("local", "it needs Linux or macOS")
    if (options.isolation === "bubblewrap") {
      return yield* unsupported("isolation: bubblewrap", "only `none` is there yet")
    }
    // Also where no types are: running untrusted code on a host must be somebody's decision.
    if (options.isolation !== "none" && options.isolation !== "auto") {
      return yield* failWith(
        "make",
        new InvalidArgument({ argument: "isolation", problem: "expected none, bubblewrap or auto" })
      )
    }
    const root = yield* openRoot(Path.resolve(options.root))
    yield* Disk.sweep(root)
    const { pid, startTime } = identity()
    const pipes = yield* Effect.acquireRelease(
      ioSync("make", () => Pipes.make(root.pipes, `${pid}.${startTime}.${Crypto.randomUUID()}`)),
      (stock) => Effect.sync(() => stock.close())
    )
    const client = yield* Client.make(root, { idleMillis: millis(options.supervisorIdle ?? Duration.seconds(5)) })
    const fileSystem = yield* LocalFileSystem.make
    const requestTimeout = yield* SandboxSettings.get(SandboxSettings.requestTimeout)
    return Provider.make({
      ...Machines.primitives({
        root,
        pipes,
        client,
        substrate,
        fileSystem,
        onStep,
        name: options.name,
        recovery: options.recovery,
        killGrace: millis(options.killGrace ?? Duration.seconds(2)),
        spoolQuota: options.spoolQuota ?? 4 * 1024 ** 3,
        allowSecretArguments: options.allowSecretArguments ?? false
      }),
      requestTimeout: Option.getOrUndefined(requestTimeout)
    })
  })
