/** From a {@link StartCommand} to the guest's command line, and to the files that must be there before. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import * as CommandLine from "effect/process/CommandLine"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type { ProcessId } from "../../../model/Ids.ts"
import type { StartCommand } from "../../../services/SandboxProvider.ts"
import * as Path from "node:path"
import { problemOf as problemOfCommand, problemOfEnv, unwrap } from "../commandChecks.ts"
import type { GuestFile, GuestOptions } from "./transport.ts"

/** A start: `argv` runs in the guest once `files` are there. */
export interface Invocation {
  readonly argv: ReadonlyArray<string>
  readonly files: ReadonlyArray<GuestFile>
}

type Value = string | Redacted.Redacted<string>

const spoolQuota = 4 * 1024 ** 3

/** The files of a spool; what is released is freed in such pieces. */
export const segmentBytes = (options: GuestOptions): number =>
  Math.max(64 * 1024, Math.floor((options.spoolQuota ?? spoolQuota) / 8))

export const killGraceMillis = (options: GuestOptions): number =>
  Duration.toMillis(Duration.fromInputUnsafe(options.killGrace ?? Duration.seconds(5)))

/** Scoped processes are told apart by name: what a dead service left of them is cleared away. */
export const nameOf = (lifetime: StartCommand["lifetime"], processId: ProcessId): string =>
  `${lifetime === "scoped" ? "s" : "r"}-${processId}`

/** One call of the launcher. */
export const call = (
  options: GuestOptions,
  nonce: string,
  mode: "read" | "signal" | "end" | "free" | "stat" | "deadline" | "remove" | "run",
  directory: string,
  ...args: ReadonlyArray<string>
): ReadonlyArray<string> => {
  const { boot, text } = options.program
  const turns = options.turns === true && (mode === "run" || mode === "read")
  return ["sh", "-c", boot, boot, text, turns ? `${mode}+` : mode, directory, nonce, ...args]
}

const badArgument = (description: string): PlatformError.PlatformError =>
  PlatformError.badArgument({ module: "ChildProcess", method: "spawn", description })

const isShellName = (name: string): boolean => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)

/** Names that some shell keeps for itself or refuses to set, and those of the launcher. */
const isReserved = (name: string): boolean =>
  /^(UID|EUID|PPID|GROUPS|BASHOPTS|SHELLOPTS|OPTIND|LINENO|RANDOM|SECONDS|FUNCNAME|DIRSTACK|_|_[a-zA-Z]|_[a-zA-Z]\d)$/.test(
    name
  )

/** What no program can be given, or not through this; the messages hold no value, which may be a secret. */
const problemOf = (
  command: StartCommand,
  env: ReadonlyMap<string, Value | undefined>,
  secretArguments: boolean
): string | undefined => {
  const general = problemOfCommand(command) ?? problemOfEnv(env)
  if (general !== undefined) return general
  if (command.command.includes("=")) return "The name of the command contains =, which env would take for a variable"
  if ((command.additionalFds ?? []).length > 0) return "This sandbox has no file descriptors above 2"
  for (const [name, value] of env) {
    if (value === undefined) continue
    if ((secretArguments || Redacted.isRedacted(value)) && (!isShellName(name) || isReserved(name))) {
      return `The environment variable ${name} cannot be kept out of a command line: its name is none that a shell can export`
    }
    if (name === "PATH" && Redacted.isRedacted(value)) return "The environment variable PATH cannot be redacted"
  }
  return undefined
}

const bytesOf = (text: string): number => Buffer.byteLength(text)

/** What the kernel of a guest cannot start, which its shell would tell as a program that failed: lengths in bytes. */
const tooLong = (
  command: StartCommand,
  env: ReadonlyMap<string, Value | undefined>
): PlatformError.PlatformError | undefined => {
  const failure = (code: string) =>
    PlatformError.systemError({
      _tag: "Unknown",
      module: "ChildProcess",
      method: "spawn",
      pathOrDescriptor: command.command.slice(0, 256),
      syscall: "spawn",
      cause: Object.assign(new Error(code), { code })
    })
  if (command.command.split("/").some((part) => bytesOf(part) > 255) || bytesOf(command.command) > 4095) {
    return failure("ENAMETOOLONG")
  }
  // Of one argument or variable, with the NUL behind it (Linux's MAX_ARG_STRLEN).
  const limit = 128 * 1024
  const long =
    command.args.some((argument) => bytesOf(unwrap(argument)) >= limit) ||
    [...env].some(([name, value]) => value !== undefined && bytesOf(`${name}=${unwrap(value)}`) >= limit)
  return long ? failure("E2BIG") : undefined
}

/** Shell text for a word; NUL, the only thing that it cannot hold, was refused before. */
const quote = (word: Value): string => Result.getOrThrow(CommandLine.quote(word))

const shellFile = (path: string, lines: ReadonlyArray<string>): GuestFile => ({
  path,
  bytes: new TextEncoder().encode(`${lines.join("\n")}\n`),
  mode: 0o600
})

/** What shells set for themselves, and the PATH of the runner: a clean environment has none of it. */
const ofShells = ["PATH", "PWD", "OLDPWD", "SHLVL", "_"]

/**
 * Encodes a start. Everything travels in `argv` but for secrets, and for what is larger than `inlineLimit`: that is shell text in
 * files that only their owner can read and that the runner removes before the command runs. `forget` names directories beside
 * this one that go when it is over.
 */
export const encodeStart = (
  options: GuestOptions,
  nonce: string,
  command: StartCommand,
  forget: ReadonlyArray<string>
): Effect.Effect<Invocation, PlatformError.PlatformError> => {
  const inherit = command.extendEnv !== false && options.inheritEnvironment !== false
  const env = new Map<string, Value | undefined>(
    command.extendEnv === false ? [] : Object.entries(options.environment ?? {})
  )
  for (const [name, value] of Object.entries(command.env ?? {})) env.set(name, value)
  const secretArguments = command.args.some((argument) => Redacted.isRedacted(argument))
  const problem = problemOf(command, env, secretArguments)
  if (problem !== undefined) return Effect.fail(badArgument(problem))
  const long = tooLong(command, env)
  if (long !== undefined) return Effect.fail(long)

  const directory = `${options.directory}/${nameOf(command.lifetime, command.processId)}`
  const set: Array<readonly [name: string, value: Value]> = []
  const removed: Array<string> = inherit ? [] : [...ofShells]
  for (const [name, value] of env) {
    if (value !== undefined) set.push([name, value])
    else if (inherit) removed.push(name)
  }
  const secrets = set.filter(([, value]) => secretArguments || Redacted.isRedacted(value))
  const plain = set.filter(([, value]) => !secretArguments && !Redacted.isRedacted(value))

  const files: Array<GuestFile> = []
  let secretFile = ""
  if (secretArguments || secrets.length > 0) {
    secretFile = `${directory}.secret`
    const lines = secretArguments
      ? removed.filter((name) => isShellName(name) && name !== "_").map((name) => `unset ${name}`)
      : []
    for (const [name, value] of secrets) lines.push(`export ${name}=${quote(value)}`)
    if (secretArguments) lines.push(`set -- ${command.args.map(quote).join(" ")}`)
    files.push(shellFile(secretFile, lines))
  }
  const rest = secretArguments
    ? []
    : [
        ...removed.flatMap((name) => ["-u", name]),
        "--",
        ...plain.map(([name, value]) => `${name}=${unwrap(value)}`),
        command.command,
        ...command.args.map(unwrap)
      ]
  let paramsFile = ""
  const size = rest.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0)
  if (size > (options.inlineLimit ?? 64 * 1024)) {
    paramsFile = `${directory}.params`
    files.push(shellFile(paramsFile, [`set -- ${rest.map(quote).join(" ")}`]))
  }
  const path = env.get("PATH")
  const search = path !== undefined ? `=${unwrap(path)}` : env.has("PATH") || !inherit ? "=/usr/bin:/bin" : ""
  const keepAwake = command.lifetime === "recorded" ? options.keepAwake : undefined
  return Effect.succeed({
    files,
    argv: call(
      options,
      nonce,
      "run",
      directory,
      forget.join(" "),
      inherit ? "1" : "0",
      command.deadline === undefined ? "" : String(Math.ceil(command.deadline)),
      String(killGraceMillis(options)),
      String(Math.max(1024 * 1024, options.spoolQuota ?? spoolQuota)),
      String(segmentBytes(options)),
      command.stdin ? "1" : "0",
      keepAwake === undefined ? "" : keepAwake.argv.map(quote).join(" "),
      keepAwake === undefined ? "" : String(keepAwake.everySeconds),
      cwdOf(options, command),
      command.command,
      search,
      paramsFile,
      secretFile,
      secretFile === "" ? "" : secretArguments ? "all" : "env",
      ...(paramsFile === "" ? rest : [])
    )
  })
}

/** The working directory of a command. */
export const cwdOf = (options: GuestOptions, command: StartCommand): string =>
  command.cwd === undefined ? options.workspaceRoot : Path.posix.resolve(options.workspaceRoot, command.cwd)
