/** The launcher of one guest, over what its vendor can do: what a provider's `start`, `findProcess` and `resume` are made of. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import { SandboxError, Unknown, UnsupportedCapability } from "../../../errors.ts"
import type { ProcessId } from "../../../model/Ids.ts"
import type { OutputPosition } from "../../../model/Process.ts"
import type { ExternalProcess, MachineProcess, StartCommand } from "../../../services/SandboxProvider.ts"
import { call, cwdOf, encodeStart, nameOf } from "./invocation.ts"
import { ask, follow } from "./process.ts"
import { evaluate, include, probe, script } from "./script.ts"
import type { GuestOptions, GuestTransport, Program } from "./transport.ts"

/** The script travels with every command: nothing needs to be there before. */
export const inline: Program = { boot: evaluate, text: script }

/**
 * Checks that the guest has what the launcher needs, and writes the script to `<directory>/launcher.sh`: for guests whose commands
 * should be short. One command; a guest that lacks something is `UnsupportedCapability`, which names it.
 */
export const install = (
  transport: GuestTransport,
  options: { readonly provider: string; readonly directory: string }
): Effect.Effect<Program, SandboxError> =>
  Effect.flatMap(
    transport.exec(["sh", "-c", probe, "sh", options.directory, script]),
    ({ exitCode, stderr, stdout }) => {
      const answer = /^launcher:(.*)$/m.exec(stdout)?.[1]
      if (answer === "") return Effect.succeed({ boot: include, text: `${options.directory}/launcher.sh` })
      const reason =
        answer === undefined
          ? new Unknown({
              detail: `the guest could not be asked for its tools (exit ${exitCode}): ${stderr.slice(0, 200)}`
            })
          : new UnsupportedCapability({ capability: "processes", detail: `the guest lacks or denies${answer}` })
      return Effect.fail(
        new SandboxError({ operation: `${options.provider}.install`, provider: options.provider, reason })
      )
    }
  )

/** One guest's launcher. */
export interface Launcher {
  readonly start: (
    command: StartCommand
  ) => Effect.Effect<MachineProcess, SandboxError | PlatformError.PlatformError, Scope.Scope>
  readonly findProcess: (processId: ProcessId) => Effect.Effect<Option.Option<ExternalProcess>, SandboxError>
  readonly resume: (
    process: ExternalProcess,
    from: OutputPosition
  ) => Effect.Effect<MachineProcess, SandboxError, Scope.Scope>
  /** Moves the deadline (ms since the epoch) of a recorded process that was started with one. */
  readonly setDeadline: (processId: ProcessId, deadline: number) => Effect.Effect<void, SandboxError>
  /** Removes what ended scoped processes left in the guest and no later start has removed yet. */
  readonly cleanUp: Effect.Effect<void, SandboxError>
}

/** So many directories go with one start. */
const maxForget = 32

/** The launcher of a guest. Holds nothing but the names of directories that may go. */
export const make = Effect.fnUntraced(function* (
  transport: GuestTransport,
  options: GuestOptions
): Effect.fn.Return<Launcher> {
  const nonce = `n${(yield* Random.nextIntBetween(0, 2 ** 48)).toString(36)}`
  const done: Array<string> = []
  let followers = 0
  const nextReader = () => `${nonce}-${followers++}`
  const directoryOf = (lifetime: StartCommand["lifetime"], processId: ProcessId) =>
    `${options.directory}/${nameOf(lifetime, processId)}`
  const externalOf = (lifetime: StartCommand["lifetime"], processId: ProcessId): ExternalProcess => ({
    processId,
    externalId: options.externalId?.(processId) ?? directoryOf(lifetime, processId),
    incarnation: options.incarnation
  })

  return {
    start: Effect.fnUntraced(function* (command) {
      const forget = done.slice(0, maxForget)
      const { argv, files } = yield* encodeStart(options, nonce, command, forget)
      done.splice(0, forget.length)
      const name = nameOf(command.lifetime, command.processId)
      return yield* follow({
        transport,
        options,
        nonce,
        directory: `${options.directory}/${name}`,
        external: externalOf(command.lifetime, command.processId),
        from: { stdout: 0, stderr: 0 },
        reader: nextReader(),
        start: { argv, files, command: command.command, cwd: cwdOf(options, command) },
        scoped: command.lifetime === "scoped",
        forget: () => void done.push(name)
      })
    }),
    findProcess: (processId) =>
      Effect.map(
        ask(transport, options, nonce, call(options, nonce, "stat", directoryOf("recorded", processId))),
        (answer) => (answer === "none" ? Option.none() : Option.some(externalOf("recorded", processId)))
      ),
    resume: (process, from) =>
      follow({
        transport,
        options,
        nonce,
        directory: directoryOf("recorded", process.processId),
        external: process,
        from,
        reader: nextReader(),
        scoped: false,
        forget: () => {}
      }).pipe(
        // Only a start fails with it.
        Effect.catchTag("PlatformError", (error) => Effect.die(error))
      ),
    setDeadline: (processId, deadline) =>
      Effect.asVoid(
        ask(
          transport,
          options,
          nonce,
          call(options, nonce, "deadline", directoryOf("recorded", processId), String(Math.ceil(deadline)))
        )
      ),
    cleanUp: Effect.suspend(() => {
      const names = done.slice()
      if (names.length === 0) return Effect.void
      return Effect.map(
        ask(transport, options, nonce, call(options, nonce, "remove", options.directory, ...names)),
        () => void done.splice(0, names.length)
      )
    })
  }
})
