/** From a {@link StartCommand} to what is started: argument checks, the clean environment, why a start failed; and signals. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as PlatformError from "effect/PlatformError"
import * as Redacted from "effect/Redacted"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { SandboxError } from "../../../errors.ts"
import { InvalidArgument } from "../../../errors.ts"
import type { SignalOptions, StartCommand } from "../../../services/SandboxProvider.ts"
import * as Checks from "../../internal/commandChecks.ts"
import { unwrap } from "../../internal/commandChecks.ts"
import { failWith, platformError } from "./failures.ts"
import { cookieName, toSignal } from "./os.ts"
import type { Launch, Place } from "./substrate.ts"

const badArgument = (description: string): PlatformError.PlatformError =>
  PlatformError.badArgument({ module: "ChildProcess", method: "spawn", description })

const problemOf = (command: StartCommand, allowSecretArguments: boolean): string | undefined => {
  const redacted = allowSecretArguments ? -1 : command.args.findIndex((argument) => Redacted.isRedacted(argument))
  return redacted < 0
    ? Checks.problemOf(command)
    : `Argument ${redacted + 1} is redacted, and the arguments of a process that is not isolated can be read by every ` +
        "process of this host: pass it in the environment, or make the provider with allowSecretArguments"
}

/** The program that a command is in this place, or `BadArgument`. */
export const toLaunch = (
  command: StartCommand,
  place: Place,
  environment: Readonly<Record<string, string>>,
  cookie: string,
  allowSecretArguments: boolean
): Effect.Effect<Launch, PlatformError.PlatformError> => {
  const problem = problemOf(command, allowSecretArguments)
  if (problem !== undefined) return Effect.fail(badArgument(problem))
  const env: Record<string, string> = command.extendEnv === false ? {} : { ...environment }
  for (const [name, value] of Object.entries(command.env ?? {})) {
    if (value === undefined) delete env[name]
    else env[name] = unwrap(value)
  }
  // The sandbox's own, which an older version may have let through.
  const inherited = Checks.problemOfEnv(Object.entries(env))
  if (inherited !== undefined) return Effect.fail(badArgument(inherited))
  // Last, so that no command takes itself out of reach by accident.
  env[cookieName] = cookie
  return Effect.succeed(
    place.enter({
      command: command.command,
      args: command.args.map(unwrap),
      cwd: command.cwd === undefined ? place.workspaceRoot : Path.resolve(place.workspaceRoot, command.cwd),
      env
    })
  )
}

/** A signal that can be sent, and how many ms later what is left is killed. */
export const checkSignal = (
  name: string,
  options: SignalOptions | undefined
): Effect.Effect<{ readonly signal: NodeJS.Signals; readonly forceAfter: number | undefined }, SandboxError> => {
  const signal = toSignal(name)
  if (signal === undefined) {
    return Effect.fail(failWith("signal", new InvalidArgument({ argument: "signal", problem: `${name} is no signal` })))
  }
  const forceAfter = options?.forceAfter
  return Effect.succeed({
    signal,
    forceAfter: forceAfter === undefined ? undefined : Duration.toMillis(Duration.fromInputUnsafe(forceAfter))
  })
}

/** The failure of a start, with the reason that Effect's Node spawner gives, naming the cwd when that is what is missing. */
export const startFailure = (launch: Launch, error: unknown): PlatformError.PlatformError => {
  if (error instanceof Error && "spawnargs" in error) {
    // Node copies the arguments, which may be secret, into its error.
    Object.assign(error, { spawnargs: [] })
  }
  try {
    // `stat` as the child's chdir does it: a missing cwd must not read as a missing program.
    Fs.statSync(launch.cwd)
  } catch (cause) {
    return platformError("FileSystem", "access", launch.cwd, cause)
  }
  return platformError("ChildProcess", "spawn", launch.command, error)
}
