/** What no program can be given, on any machine; the messages hold no value, which may be a secret. */
import * as Redacted from "effect/Redacted"
import type { StartCommand } from "../../services/SandboxProvider.ts"

type Value = string | Redacted.Redacted<string>

/** The text itself: for the program, and nothing else. */
export const unwrap = (value: Value): string => (Redacted.isRedacted(value) ? Redacted.value(value) : value)

/** What is wrong with variables; names the variable and never shows the value. */
export const problemOfEnv = (env: Iterable<readonly [name: string, value: Value | undefined]>): string | undefined => {
  for (const [name, value] of env) {
    if (name === "" || name.includes("=") || name.includes("\0")) {
      return "The name of an environment variable is empty or contains = or NUL"
    }
    if (value !== undefined && unwrap(value).includes("\0")) {
      return `The environment variable ${name} contains a NUL character`
    }
  }
  return undefined
}

/** What is wrong with a command. */
export const problemOf = (command: StartCommand): string | undefined => {
  if (command.command === "") return "The command is empty"
  if (command.command.includes("\0")) return "The command contains a NUL character"
  const nul = command.args.findIndex((argument) => unwrap(argument).includes("\0"))
  if (nul >= 0) return `Argument ${nul + 1} contains a NUL character`
  if (command.cwd?.includes("\0") === true) return "The working directory contains a NUL character"
  return problemOfEnv(Object.entries(command.env ?? {}))
}
