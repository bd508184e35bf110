/** Recorded processes whose environment has secrets that pass through no record, log, command line or environment of ours. */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as CommandLine from "effect/process/CommandLine"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { MissingSetting, SandboxError } from "../../errors.ts"
import type { JsonObject } from "../../model/Common.ts"
import type { ProcessRecord, ProcessRunResult } from "../../model/Process.ts"
import * as core from "../../services/internal/core.ts"
import { SandboxService } from "../../services/SandboxService.ts"
import * as Settings from "../../services/SandboxSettings.ts"

export type Failure = SandboxError | PlatformError.PlatformError

/** Package managers that the generator and the programs know. */
export const packageManagers = ["pnpm", "npm", "yarn", "bun"] as const
export type PackageManager = (typeof packageManagers)[number]

/** What a caller may say of each process of a program. */
export interface ProcessOptions {
  /** The deadline of each process; the default is `SANDBOX_COMMAND_TIMEOUT`. */
  readonly timeout?: Duration.Input | undefined
  /** How many bytes of each stream a result keeps; the log keeps all. */
  readonly maxOutputBytes?: number | undefined
}

/** Checks a package manager of a caller without types. */
export const checkedPackageManager = (
  operation: string,
  given: PackageManager = "pnpm"
): Effect.Effect<PackageManager, SandboxError> =>
  packageManagers.includes(given)
    ? Effect.succeed(given)
    : Effect.fail(core.invalid(operation, "packageManager", `expected one of ${packageManagers.join(", ")}`))

/** The value of a setting of this machine that is a secret, by a name of the caller's. */
export const secretSetting = Effect.fnUntraced(function* (operation: string, argument: string, name: string) {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
    return yield* core.invalid(operation, argument, "expected the name of an environment variable")
  }
  const value = yield* Settings.get(Settings.secret({ name, fallback: "none", description: "" }))
  if (Option.isSome(value) && Redacted.value(value.value).includes("\0")) {
    return yield* core.invalid(operation, argument, `the value of ${name} has a NUL`)
  }
  return value
})

/** The same of one that must be there. */
export const requiredSecret = (operation: string, argument: string, name: string) =>
  Effect.flatMap(
    secretSetting(operation, argument, name),
    Option.match({
      onNone: () => Effect.fail(new SandboxError({ operation, reason: new MissingSetting({ names: [name] }) })),
      onSome: Effect.succeed
    })
  )

/** A process to be recorded. */
export interface Wanted extends ProcessOptions {
  /** The same id once more is the same process. */
  readonly processId?: string | undefined
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly cwd?: string | undefined
  /** Not secret. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Variables that come by a file. */
  readonly secrets: Readonly<Record<string, Redacted.Redacted<string>>>
  /** Absolute: where that file is while it is. */
  readonly directory: string
  readonly metadata: JsonObject
}

/** A word of a shell script. Throws for a NUL: {@link secretSetting} has refused it. */
export const quoted = (word: CommandLine.Word): string => Result.getOrThrow(CommandLine.quote(word))

/**
 * A script that sets the environment, removes itself and becomes the program of its arguments. Which file it is stands in a command
 * line; what is in it in nobody's.
 */
const scriptOf = (file: string, secrets: Wanted["secrets"]): string =>
  [
    ...Object.entries(secrets).map(([name, value]) => `export ${name}=${quoted(value)}`),
    `rm -f ${quoted(file)}`,
    `[ ! -e ${quoted(file)} ] || { echo "the file with the secrets of this process cannot be removed" >&2; exit 1; }`,
    'exec "$@"',
    ""
  ].join("\n")

/** The process that an earlier call with this id has recorded, once that has come to its start. */
export const startedBefore = Effect.fnUntraced(function* (processId: string | undefined) {
  if (processId === undefined) return Option.none<ProcessRecord>()
  const sandboxes = yield* SandboxService
  const found = yield* Effect.catchReason(
    Effect.asSome(sandboxes.getProcessSnapshot(processId)),
    "SandboxError",
    "NotFound",
    () => Effect.succeedNone
  )
  return Option.filter(found, ({ status }) => status !== "starting")
})

/**
 * Runs a recorded process to its end. The file with its secrets is for its owner only, and gone before the program starts; if it
 * does not come to that, or the caller is interrupted, it is removed by the end of this.
 */
export const run = Effect.fnUntraced(function* (
  sandboxId: string,
  wanted: Wanted
): Effect.fn.Return<ProcessRunResult, Failure, SandboxService> {
  const sandboxes = yield* SandboxService
  const { args, command, cwd, env, maxOutputBytes, metadata, secrets, timeout } = wanted
  const processId = wanted.processId ?? (yield* core.newUuid)
  const options = { processId, cwd, env, maxOutputBytes, metadata, timeout, mode: "foreground" } as const
  if (Object.keys(secrets).length === 0) {
    return yield* sandboxes.runCommandWithProcessStream(sandboxId, command, args, options)
  }
  // By the id, so that a repetition asks for the same process.
  const file = `${wanted.directory}/.effect-sandbox-env-${processId}`
  const start = sandboxes.runCommandWithProcessStream(sandboxId, "sh", [file, command, ...args], options)
  const write = sandboxes.writeFiles(sandboxId, [{ path: file, content: scriptOf(file, secrets), mode: 0o600 }])
  return yield* Effect.onExit(Effect.andThen(write, start), (exit) =>
    // Under an id of the caller's somebody else may have started it, with a file of the same name.
    Exit.isSuccess(exit) && wanted.processId === undefined
      ? Effect.void
      : Effect.ignore(sandboxes.runCommand(sandboxId, "rm", ["-f", file], { timeout: "30 seconds" }))
  )
})

/** Says the temporary directory of the guest, on a line of its own. */
export const sayTempDirectory = `t=\${TMPDIR:-/tmp}
case $t in /*) ;; *) t=$PWD/$t ;; esac
printf '%s\\n' "\${t%/}"`

/** Makes a path of a script's own, `$1`, absolute, in `d`. */
export const absoluteFirst = `d=$1
case $d in /*) ;; *) d=$PWD/$d ;; esac`

/** Splits off the first line. */
export const firstLine = (text: string): readonly [string, string] => {
  const end = text.indexOf("\n")
  return end < 0 ? [text, ""] : [text.slice(0, end), text.slice(end + 1)]
}
