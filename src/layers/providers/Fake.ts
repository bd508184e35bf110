/**
 * The provider `fake`, for tests: machines in memory whose programs are functions of the test. What is not registered is
 * interpreted by `just-bash` (an optional peer), so `sh -c` with pipes and redirections works without any process.
 *
 * All time is the Effect `Clock`: under a `TestClock`, boots, leases, deadlines, `sleep` and `date` are the test's to move. A
 * script gets to its `sleep` in its own time, so wait for something that it prints before you adjust the clock.
 *
 * Registered commands stream both ways, hear signals and are held back by a slow reader. An interpreted script is written
 * out as each of its commands ends, in exact bytes, and its own commands read the input when they ask for it, but to its end.
 * It is not a shell in these respects:
 *
 * - there is no `&` and no `trap`, and `umask` only shows; `$!` is 0, and what ends by a signal ends at once
 * - `read` and `mapfile` see nothing of the input before its end, also in a script that other commands would feed;
 *   `cat` as the program itself is the one that passes it on as it comes
 * - what a function, or a compound command with a redirection or in a pipe, writes as a whole is text: bytes that are no UTF-8
 *   arrive changed unless all of it is so; `$'\377'`, `$(…)` and the standard error of a command hold text only
 * - the errors of a command in a pipe but the last, what `time` says, and the output of a script that has an `exec >file` come
 *   at the end; with `2>` in the middle of a pipe a command that writes both bytes and errors fails with code 126
 * - loops end after 100,000 rounds, `/dev/zero` is not there, and `$SECONDS`, `$RANDOM` and `find -mmin` are real
 *
 * This is no security boundary: a registered command is code of this program.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { SandboxError } from "../../errors.ts"
import * as ProviderRegistry from "../../services/ProviderRegistry.ts"
import type { SandboxProvider } from "../../services/SandboxProvider.ts"
import type * as CloudParts from "./fake/cloud.ts"
import * as Build from "./fake/build.ts"
import * as Commands from "./fake/command.ts"
import * as Fake from "./fake/provider.ts"

/** Options of {@link make} and {@link layer}. */
export type Options = Fake.Options

/**
 * The vendor, which outlives every service: providers over one cloud see the same machines and the same recorded processes.
 * It shows what happened, and does what vendors do by themselves.
 */
export const Cloud = Fake.Cloud
export type Cloud = Fake.Cloud

/** A call that reached the vendor. */
export type Call = CloudParts.Call

/** A command that was started. Redacted values are `<redacted>` wherever they would be. */
export type CommandRecord = CloudParts.CommandRecord

/** A machine as the vendor shows it. */
export type MachineView = CloudParts.MachineView

/**
 * A program of the guest's: from its call to a stream of its output and its end. Without an end it ends with code 0. A failure or
 * a defect is a line on its standard error and code 1.
 */
export type Command = Commands.Command

/** One call of a {@link Command}. */
export type CommandCall = Commands.CommandCall

/** What a {@link Command} can say. */
export type CommandEvent = Commands.CommandEvent

/** Bytes, or text as UTF-8, for the standard output. */
export const stdout: (content: string | Uint8Array) => CommandEvent = Commands.stdout

/** Bytes, or text as UTF-8, for the standard error. */
export const stderr: (content: string | Uint8Array) => CommandEvent = Commands.stderr

/** The end with this code. */
export const exit: (code: number) => CommandEvent = Commands.exit

/** The end by this signal. */
export const signalled: (signal: string) => CommandEvent = Commands.signalled

/** A command that always does the same. */
export const constant: (output: {
  readonly stdout?: string | Uint8Array
  readonly stderr?: string | Uint8Array
  readonly code?: number
}) => Command = Commands.constant

/** A cloud without machines: pass it to several providers to let it outlive a service. */
export const makeCloud: Effect.Effect<Cloud["Service"]> = Fake.makeCloud

/** A provider over a cloud. A missing `just-bash` shows at the first command that needs it, as `MissingPackage`. */
export const make = (options?: Options): Effect.Effect<SandboxProvider, SandboxError> => Build.make(options)

/** Registers the provider as the only one, and provides its cloud. */
export const layer = (options: Options = {}): Layer.Layer<ProviderRegistry.ProviderRegistry | Cloud, SandboxError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const cloud = options.cloud ?? (yield* makeCloud)
      const registry = yield* ProviderRegistry.make([yield* make({ ...options, cloud })])
      return Context.make(ProviderRegistry.ProviderRegistry, registry).pipe(Context.add(Cloud, cloud))
    })
  )
